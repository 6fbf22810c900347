//! The data folder: who this peer is, across restarts. A wiped folder is another peer.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stint_protocol::{DiskId, Incarnation, NodeId};

use crate::former_member::Mark;
use crate::pki::{Authority, Identity, PkiError};

/// The data folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{action} {path}: {source}{}", stint_raft::advice(source))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "the data folder {0} is open to others (mode {1:04o}) and cannot be closed: {2}; chmod 700 it as its owner, or set \
         another data_dir"
    )]
    OpenToOthers(PathBuf, u32, std::io::Error),
    #[error("the data folder {0} is in use by another stint process: stop that one, or set another data_dir")]
    InUse(PathBuf),
    #[error("{0} is damaged ({1}); restore it from a backup, or remove the data folder and join anew")]
    Damaged(PathBuf, String),
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// What `identity.toml` holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct IdentityFile {
    disk: String,
    #[serde(default)]
    node: Option<u64>,
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    incarnation: u64,
    /// The first peer of a new cluster, until that cluster is configured.
    #[serde(default)]
    founding: bool,
    /// Peers that were asked to join, until this one is a member.
    #[serde(default)]
    joining: Vec<String>,
    /// The id of its cluster, where that was recovered from a survivor's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovered: Option<String>,
    /// The folder of its log, where it is not `raft`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// How long its next start waits, in milliseconds: attempts of the cluster that it was made from may run until then.
    #[serde(default, skip_serializing_if = "is_zero")]
    wait_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An opened data folder, locked for this process.
pub struct DataDir {
    pub path: PathBuf,
    record: IdentityFile,
    _lock: File,
}

impl DataDir {
    /// Opens or makes the folder; `random` names a new one.
    pub fn open(path: &Path, random: u128) -> Result<Self, IdentityError> {
        make_dir(path)?;
        close_to_others(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(io("opening", &lock_path))?;
        if lock.try_lock().is_err() {
            return Err(IdentityError::InUse(path.into()));
        }
        let file = path.join("identity.toml");
        let record = match fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text).map_err(|e| IdentityError::Damaged(file, e.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                IdentityFile { disk: DiskId(random).to_string(), ..IdentityFile::default() }
            }
            Err(source) => return Err(IdentityError::Io { action: "reading", path: file, source }),
        };
        let dir = Self { path: path.into(), record, _lock: lock };
        dir.save()?;
        Ok(dir)
    }

    /// The folder's random identity.
    pub fn disk(&self) -> Result<DiskId, IdentityError> {
        let wrong = |e: std::num::ParseIntError| {
            IdentityError::Damaged(self.path.join("identity.toml"), e.to_string())
        };
        u128::from_str_radix(&self.record.disk, 16).map(DiskId).map_err(wrong)
    }

    /// Says which folder this node shares with Slurm, where it does.
    pub fn slurm_note(&self) -> PathBuf {
        self.path.join("slurm-folder")
    }

    /// The node it belongs to, once it belongs to one.
    pub fn node(&self) -> Option<NodeId> {
        self.record.node.map(NodeId)
    }

    /// The name of its cluster.
    pub fn cluster(&self) -> Option<&str> {
        self.record.cluster.as_deref()
    }

    /// The id of its cluster, where that was recovered.
    pub fn recovered(&self) -> Option<&str> {
        self.record.recovered.as_deref()
    }

    /// The folder of its log.
    pub fn log(&self) -> PathBuf {
        self.path.join(self.record.log.as_deref().unwrap_or("raft"))
    }

    /// How long it must wait before it starts.
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.record.wait_ms)
    }

    /// It has waited.
    pub fn waited(&mut self) -> Result<(), IdentityError> {
        self.record.wait_ms = 0;
        self.save()
    }

    /// The folder is to become that of a cluster's first peer, which waits so long before its first start.
    pub fn must_wait(&mut self, wait_ms: u64) {
        self.record.wait_ms = wait_ms;
    }

    /// From now on it is the one peer of a cluster of this id, whose log is in this folder below it.
    pub fn recover(&mut self, cluster_id: &str, log: &str, wait_ms: u64) -> Result<(), IdentityError> {
        let node = self.node().ok_or_else(|| {
            IdentityError::Damaged(self.path.join("identity.toml"), "it belongs to no cluster".into())
        })?;
        let own = self.certificates()?.0.issue_peer(node, Some(cluster_id))?;
        let pki = self.path.join("pki");
        write_secret(&pki.join("node.pem"), &own.certificate)?;
        write_secret(&pki.join("node-key.pem"), &own.key)?;
        self.record.recovered = Some(cluster_id.into());
        self.record.log = Some(log.into());
        self.record.wait_ms = wait_ms;
        self.record.founding = false;
        self.record.joining.clear();
        self.save()
    }

    /// Whether the cluster it founds is not configured yet.
    pub fn founding(&self) -> bool {
        self.record.founding
    }

    /// Peers to ask for membership; empty once it is a member.
    pub fn joining(&self) -> &[String] {
        &self.record.joining
    }

    /// It is a member of a configured cluster now.
    pub fn settled(&mut self) -> Result<(), IdentityError> {
        self.record.founding = false;
        self.record.joining.clear();
        self.save()
    }

    /// Makes the folder that of `node`; its certificates come from the authority. `joining` names the peers of
    /// an existing cluster; none = it founds one.
    pub fn become_node(
        &mut self,
        node: NodeId,
        cluster: &str,
        recovered: Option<&str>,
        authority: &Authority,
        joining: &[String],
    ) -> Result<(), IdentityError> {
        let pki = self.path.join("pki");
        make_dir(&pki)?;
        write_secret(&pki.join("ca.pem"), &authority.certificate)?;
        write_secret(&pki.join("ca-key.pem"), &authority.key)?;
        let own = authority.issue_peer(node, recovered)?;
        write_secret(&pki.join("node.pem"), &own.certificate)?;
        write_secret(&pki.join("node-key.pem"), &own.key)?;
        let credentials = self.credentials();
        make_dir(&credentials)?;
        let admin = authority.issue_admin(node)?;
        write_secret(&credentials.join("ca.pem"), &authority.certificate)?;
        write_secret(&credentials.join("admin.pem"), &admin.certificate)?;
        write_secret(&credentials.join("admin-key.pem"), &admin.key)?;
        self.record.node = Some(node.0);
        self.record.cluster = Some(cluster.into());
        self.record.recovered = recovered.map(str::to_owned);
        self.record.founding = joining.is_empty();
        self.record.joining = joining.to_vec();
        self.save()?;
        Mark::write(&self.path, node, cluster);
        Ok(())
    }

    /// Whether this folder, which has no node, was a member's before it was wiped.
    pub fn was_member(&self) -> Option<Mark> {
        Mark::read(&self.path)
    }

    /// Where the administrator's certificate lies.
    pub fn credentials(&self) -> PathBuf {
        self.path.join("credentials")
    }

    /// The authority and this node's certificate.
    pub fn certificates(&self) -> Result<(Authority, Identity), IdentityError> {
        let read = |name: &str| {
            let path = self.path.join("pki").join(name);
            fs::read_to_string(&path).map_err(io("reading", &path))
        };
        let authority = Authority { certificate: read("ca.pem")?, key: read("ca-key.pem")? };
        Ok((authority, Identity { certificate: read("node.pem")?, key: read("node-key.pem")? }))
    }

    /// The life of this node as an executor: the last one, or a new one, kept on disk before it is used.
    pub fn incarnation(&mut self, accounted: bool) -> Result<Incarnation, IdentityError> {
        if !accounted || self.record.incarnation == 0 {
            self.record.incarnation += 1;
            self.save()?;
        }
        Ok(Incarnation(self.record.incarnation))
    }

    fn save(&self) -> Result<(), IdentityError> {
        let path = self.path.join("identity.toml");
        let text =
            toml::to_string(&self.record).map_err(|e| IdentityError::Damaged(path.clone(), e.to_string()))?;
        write_secret(&path, &text)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io { action, path, source }
}

fn make_dir(path: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("making", path))
}

/// The environment of every task is in the log below it. No program of a task walks through it: what they see of it is
/// mounted for them.
fn close_to_others(path: &Path) -> Result<(), IdentityError> {
    let mode = fs::metadata(path).map_err(io("looking at", path))?.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if let Some(folder) = folder_of_others(path, mode)? {
        let shared = format!("{} is in it, which is not stint's", folder.display());
        return Err(IdentityError::OpenToOthers(path.into(), mode, std::io::Error::other(shared)));
    }
    let closed = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    closed.map_err(|source| IdentityError::OpenToOthers(path.into(), mode, source))?;
    let was = format!("{mode:04o}");
    tracing::warn!(path = %path.display(), was, "the data folder was open to others; its mode is 0700 now");
    Ok(())
}

/// A folder that says that the data folder, of this mode, is not stint's alone, as a home in `/home` does. To close `/home`
/// or `/tmp` would take it from everybody else. A file system that was made for the peer may be as open as `/tmp`; it has no
/// folder yet.
fn folder_of_others(path: &Path, mode: u32) -> Result<Option<PathBuf>, IdentityError> {
    let sticky = mode & 0o1000 != 0;
    if !sticky && path.join("identity.toml").exists() {
        return Ok(None);
    }
    // Made with the file system; copied for a peer that joins.
    let may_be_there = ["lost+found", "credentials"].map(|name| path.join(name));
    for entry in fs::read_dir(path).map_err(io("reading", path))? {
        let entry = entry.map_err(io("reading", path))?;
        let is_folder = entry.file_type().map_err(io("looking at", &entry.path()))?.is_dir();
        if is_folder && !may_be_there.contains(&entry.path()) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Replaces a file as a whole: write beside it, sync, rename, sync the folder.
fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .map_err(io("opening", &beside))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("writing", &beside))?;
    fs::rename(&beside, path).map_err(io("renaming", &beside))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|f| f.sync_all()).map_err(io("syncing", folder))
}
