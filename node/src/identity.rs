//! The data folder: who this peer is, across restarts. A wiped folder is another peer.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stint_protocol::{DiskId, Incarnation, NodeId};

use crate::former_member::Mark;
use crate::pki::{
    Authority, CertificateRequest, KeyPair, PkiError, PkiFolder, Purpose, Root, Validity, disk_of_key,
    new_key, public_key,
};

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

/// With which keys a data folder asks to become a node.
pub struct JoinKeys {
    peer: KeyPair,
    admin: KeyPair,
    disk: [u8; 16],
}

impl JoinKeys {
    /// Requests for the certificates of both.
    pub fn requests(&self) -> Result<[CertificateRequest; 2], PkiError> {
        let disk = &self.disk;
        Ok([
            CertificateRequest::make(&self.peer, Purpose::Peer { disk })?,
            CertificateRequest::make(&self.admin, Purpose::Admin { disk })?,
        ])
    }
}

/// What a data folder gets that becomes a node.
pub struct Papers {
    pub root: Root,
    /// Of the node's key and the administrator's.
    pub certificate: String,
    pub admin: String,
}

impl Papers {
    /// Issued by who has the authority's key.
    pub fn issue(
        authority: &Authority,
        keys: &JoinKeys,
        node: NodeId,
        recovered: Option<&str>,
        address: &str,
        (validity, of_admin): (Validity, Validity),
    ) -> Result<Self, PkiError> {
        let (peer, admin) = (public_key(&keys.peer)?, public_key(&keys.admin)?);
        Ok(Self {
            root: authority.root(),
            certificate: authority.certify_peer(&peer, node, recovered, address, validity)?,
            admin: authority.certify_admin(&admin, node, of_admin)?,
        })
    }
}

/// How a survivor's folder begins anew.
pub struct NewBeginning<'a> {
    pub cluster_id: &'a str,
    /// The folder of its log, below it.
    pub log: &'a str,
    /// Where it is reached.
    pub address: &'a str,
    pub wait_ms: u64,
    /// Of its certificate and of the administrator's.
    pub validity: (Validity, Validity),
    /// Whether a new authority's key is sealed.
    pub sealed: bool,
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

    /// From now on it is the one peer of a cluster of this id, whose log is in this folder below it. Its authority stays if
    /// its key is here; else there is a new one, and nobody's certificate of before is good any more. Whether it stayed.
    pub fn recover(&mut self, new: &NewBeginning<'_>) -> Result<bool, IdentityError> {
        let node = self.node().ok_or_else(|| {
            IdentityError::Damaged(self.path.join("identity.toml"), "it belongs to no cluster".into())
        })?;
        let (pki, known) = (self.pki(), self.pki().readable_authority());
        let (authority, stays) = match known {
            Some(authority) => (authority, true),
            None => (Authority::make()?, false),
        };
        let (id, address) = (new.cluster_id, new.address);
        if stays {
            // The one of before is trusted no more.
            pki.write_root(&authority.root())?;
            let key = public_key(&pki.key()?)?;
            pki.write_certificate(&authority.certify_peer(&key, node, Some(id), address, new.validity.0)?)?;
        } else {
            let keys = self.keys(false)?;
            let papers = Papers::issue(&authority, &keys, node, Some(id), address, new.validity)?;
            self.write_papers(&papers, &keys)?;
            self.keep_key(&authority, new.sealed)?;
        }
        self.record.recovered = Some(id.into());
        self.record.log = Some(new.log.into());
        self.record.wait_ms = new.wait_ms;
        self.record.founding = false;
        self.record.joining.clear();
        self.save()?;
        Ok(stays)
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

    /// The keys with which this folder asks to become a node. From now on its id is of its key.
    pub fn join_keys(&mut self) -> Result<JoinKeys, IdentityError> {
        let keys = self.keys(true)?;
        self.record.disk = DiskId(u128::from_be_bytes(keys.disk)).to_string();
        self.save()?;
        Ok(keys)
    }

    fn keys(&self, of_key: bool) -> Result<JoinKeys, IdentityError> {
        let peer = self.pki().key()?;
        let admin = new_key()?;
        let disk = if of_key { disk_of_key(&public_key(&peer)?) } else { self.disk()?.0.to_be_bytes() };
        Ok(JoinKeys { peer, admin, disk })
    }

    /// Keeps the authority's key: sealed, or as programs before version 5 of the cluster read it.
    pub fn keep_key(&self, authority: &Authority, sealed: bool) -> Result<(), IdentityError> {
        let pki = self.pki();
        pki.write_root(&authority.root())?;
        if sealed { pki.seal(authority) } else { pki.keep_clear(authority) }
    }

    fn write_papers(&self, papers: &Papers, keys: &JoinKeys) -> Result<(), IdentityError> {
        let pki = self.pki();
        pki.write_root(&papers.root)?;
        pki.write_certificate(&papers.certificate)?;
        let credentials = self.credentials();
        make_dir(&credentials)?;
        write_secret(&credentials.join("ca.pem"), &papers.root.for_clients()?)?;
        write_secret(&credentials.join("admin.pem"), &papers.admin)?;
        write_secret(&credentials.join("admin-key.pem"), &keys.admin.serialize_pem())
    }

    /// Makes the folder that of `node`, which proves itself with these papers and keys. `joining` names the peers of
    /// an existing cluster; none = it founds one.
    pub fn become_node(
        &mut self,
        node: NodeId,
        cluster: &str,
        recovered: Option<&str>,
        (papers, keys): (&Papers, &JoinKeys),
        joining: &[String],
    ) -> Result<(), IdentityError> {
        self.write_papers(papers, keys)?;
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

    /// Certificates and keys.
    pub fn pki(&self) -> PkiFolder {
        PkiFolder::below(&self.path)
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

pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io { action, path, source }
}

pub(crate) fn make_dir(path: &Path) -> Result<(), IdentityError> {
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
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
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
