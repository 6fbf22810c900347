//! Secrets of an attempt: files in memory, private to the attempt, gone at its end.
//!
//! Under the node's folder in `/dev/shm` every attempt with secrets has a folder: `files/` is what the program sees
//! (its user's, mode 0400), `values/` is what its output is masked with (the node's, also for those that are handed
//! over in a variable).

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use stint_protocol::{EndKind, LeaseId, SecretUse, Tenant};

use super::Owner;
use super::mask::Masks;
use crate::refusal::Refusal;
use crate::shim_api::layout::{Layout, folder_name, parse_folder_name};
use crate::shim_api::request::GivenSecrets;
use crate::{limits, sys};

/// The folders of all attempts of one node.
#[derive(Clone, Debug)]
pub struct Secrets {
    root: PathBuf,
}

/// What an attempt gets.
pub struct Given {
    /// Files that the program may read.
    pub files: GivenSecrets,
    /// Of those that are variables.
    pub environment: Vec<(String, String)>,
    pub masks: Masks,
}

impl Secrets {
    /// Those of the node that keeps its files at `layout`.
    pub fn for_layout(layout: &Layout) -> Self {
        let name = crc32c::crc32c(layout.root().as_os_str().as_bytes());
        Self { root: PathBuf::from(format!("/dev/shm/stint-{name:08x}")) }
    }

    fn folder(&self, lease: LeaseId) -> PathBuf {
        self.root.join(folder_name(lease))
    }

    /// Reads the secrets of a tenant from `provider` and lays them out for an attempt.
    pub fn give(
        &self,
        provider: Option<&Path>,
        tenant: &Tenant,
        lease: LeaseId,
        uses: &[SecretUse],
        owner: Owner,
    ) -> Result<Given, Refusal> {
        let failed = |e: io::Error| Refusal::start_failed(format!("laying out secrets: {e}"));
        let provider = provider.ok_or_else(|| {
            let advice = "the operator sets secrets.dir, a folder with TENANT/NAME files";
            Refusal::files_missing(format!("this node has no secrets: {advice}"))
        })?;
        self.make_root().map_err(failed)?;
        let (files, values) = (self.folder(lease).join("files"), self.folder(lease).join("values"));
        private_folder(&files, owner).map_err(failed)?;
        private_folder(&values, None).map_err(failed)?;
        let (mut environment, mut variables, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for used in uses {
            let value = read(provider, tenant, &used.name)?;
            private_file(&values.join(&used.name), &value, None).map_err(failed)?;
            match &used.variable {
                Some(variable) => environment.push((variable.clone(), as_text(&used.name, &value)?)),
                None => {
                    private_file(&files.join(&used.name), &value, owner).map_err(failed)?;
                    variables.push((used.file_variable(), used.name.clone()));
                }
            }
            all.push(value);
        }
        let files = GivenSecrets { folder: files.display().to_string(), variables };
        Ok(Given { files, environment, masks: Masks::for_values(&all) })
    }

    /// What the output of an attempt is masked with. What cannot be known any more is withheld.
    pub fn masks(&self, lease: LeaseId) -> Masks {
        let entries = std::fs::read_dir(self.folder(lease).join("values"));
        let values: io::Result<Vec<Vec<u8>>> =
            entries.and_then(|entries| entries.map(|e| std::fs::read(e?.path())).collect());
        values.map_or(Masks::Unknown, |values| Masks::for_values(&values))
    }

    /// The attempt has ended.
    pub fn clear(&self, lease: LeaseId) {
        let _ = std::fs::remove_dir_all(self.folder(lease));
        // Only when it was the last.
        let _ = std::fs::remove_dir(&self.root);
    }

    /// Clears what belongs to none of these.
    pub fn sweep(&self, is_known: impl Fn(LeaseId) -> bool) {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let leases = entries.filter_map(|entry| parse_folder_name(entry.file_name().to_str()?));
        leases.filter(|lease| !is_known(*lease)).for_each(|lease| self.clear(lease));
    }

    /// The node's folder: in memory, and nobody else's.
    fn make_root(&self) -> io::Result<()> {
        let shared_memory = self.root.parent().unwrap_or(Path::new("/"));
        if !sys::is_in_memory(shared_memory) {
            let message = format!("{} is not in memory: mount a tmpfs there", shared_memory.display());
            return Err(io::Error::other(message));
        }
        match DirBuilder::new().mode(0o711).create(&self.root) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let meta = std::fs::symlink_metadata(&self.root)?;
        if !meta.is_dir() || meta.uid() != sys::effective_ids().0 || meta.mode() & 0o022 != 0 {
            let message = format!("{} is not this node's own folder: remove it", self.root.display());
            return Err(io::Error::other(message));
        }
        Ok(())
    }
}

/// One value: the file `TENANT/NAME`, without the line break at its end.
fn read(provider: &Path, tenant: &Tenant, name: &str) -> Result<Vec<u8>, Refusal> {
    let path = provider.join(tenant.as_str()).join(name);
    let refuse =
        |kind, message: String| Refusal::new(kind, format!("secret {name:?} of tenant {tenant}: {message}"));
    let failed = |message| refuse(EndKind::StartFailed, message);
    let missing = |message| refuse(EndKind::FilesMissing, message);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    let file = file.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => missing("this node has none of this name in secrets.dir".into()),
        // The disk reads: what was put there is no file that could be a secret.
        _ if [libc::ENOTDIR, libc::ELOOP].contains(&e.raw_os_error().unwrap_or(0)) => {
            missing(format!("it is no file in secrets.dir: {e}"))
        }
        _ => failed(format!("reading it: {e}")),
    })?;
    let mut value = Vec::new();
    let most = limits::SECRET_BYTES as u64;
    file.take(most + 1).read_to_end(&mut value).map_err(|e| match e.kind() {
        io::ErrorKind::IsADirectory => missing("it is a folder in secrets.dir, not a file".into()),
        _ => failed(format!("reading it: {e}")),
    })?;
    // Also as editors of other systems end a line.
    for end in *b"\n\r" {
        if value.last() == Some(&end) {
            value.pop();
        }
    }
    if value.len() < limits::SECRET_LEAST_BYTES || value.len() > limits::SECRET_BYTES {
        let (least, most) = (limits::SECRET_LEAST_BYTES, limits::SECRET_BYTES);
        return Err(missing(format!("has {} bytes: {least} to {most} can be kept secret", value.len())));
    }
    Ok(value)
}

fn as_text(name: &str, value: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
    let refused = || {
        let message = format!("secret {name:?} is not text and cannot be a variable: use its file");
        Refusal::not_runnable(message)
    };
    text.map(String::from).ok_or_else(refused)
}

fn private_folder(path: &Path, owner: Owner) -> io::Result<()> {
    // The one above is walked through by the program's user, who cannot list it.
    if let Some(above) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o711).create(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
}

fn private_file(path: &Path, value: &[u8], owner: Owner) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(value)?;
    owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stint_protocol::TaskId;

    fn uses(names: &[&str]) -> Vec<SecretUse> {
        names.iter().map(|name| SecretUse { name: (*name).into(), variable: None }).collect()
    }

    #[test]
    fn secrets_are_files_in_memory_of_one_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let provider = folder.path().join("secrets");
        std::fs::create_dir_all(provider.join("default")).unwrap();
        std::fs::write(provider.join("default/token"), "correct horse\n").unwrap();
        let secrets = Secrets::for_layout(&Layout::new(folder.path()));
        let lease = LeaseId { task: TaskId(1), attempt: 1 };
        let tenant = Tenant::default_tenant();
        let give = |names: &[&str]| secrets.give(Some(&provider), &tenant, lease, &uses(names), None);

        let given = give(&["token"]).unwrap();
        assert_eq!(given.files.variables, [("TOKEN_FILE".into(), "token".into())]);
        let folder = PathBuf::from(&given.files.folder);
        let meta = std::fs::metadata(folder.join("token")).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.len()), (0o400, 13));
        assert!(folder.starts_with("/dev/shm") && secrets.masks(lease) == given.masks);

        secrets.sweep(|known| known == lease);
        assert!(folder.exists());
        secrets.sweep(|_| false);
        assert!(!secrets.root.exists());
        assert_eq!(secrets.masks(lease), Masks::Unknown);
    }

    #[test]
    fn a_secret_that_is_not_there_or_cannot_be_hidden_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let provider = folder.path().join("secrets");
        std::fs::create_dir_all(provider.join("default")).unwrap();
        std::fs::write(provider.join("default/short"), "a\n").unwrap();
        std::fs::write(provider.join("default/bytes"), [0xff; 16]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", provider.join("default/link")).unwrap();
        std::fs::create_dir(provider.join("default/folder")).unwrap();
        let secrets = Secrets::for_layout(&Layout::new(folder.path()));
        let lease = LeaseId { task: TaskId(2), attempt: 1 };
        let give = |provider: Option<&Path>, tenant: &str, name: &str, variable: Option<&str>| {
            let uses = [SecretUse { name: name.into(), variable: variable.map(String::from) }];
            let tenant = Tenant::new(tenant).unwrap();
            let refusal = secrets.give(provider, &tenant, lease, &uses, None).map(|_| ()).unwrap_err();
            assert_ne!(refusal.kind, EndKind::StartFailed, "the node is not at fault: {refusal}");
            refusal.message
        };
        assert!(give(None, "default", "token", None).contains("secrets.dir"));
        assert!(give(Some(&provider), "default", "absent", None).contains("none of this name"));
        assert!(give(Some(&provider), "other", "short", None).contains("none of this name"));
        assert!(give(Some(&provider), "default", "short", None).contains("1 bytes"));
        assert!(give(Some(&provider), "default", "link", None).contains("it is no file"));
        assert!(give(Some(&provider), "default", "folder", None).contains("it is a folder"));
        assert!(give(Some(&provider), "default", "bytes", Some("B")).contains("not text"));
        secrets.clear(lease);
    }
}
