//! Snapshot files: written whole, synced, renamed, and only then the older one goes. Checked when read.
//!
//! ```text
//! byte 0   "STINTSNP"
//!      8   format version, u32 LE
//!     12   length of the description, u32 LE
//!     16   CRC32C of bytes 0..16 and the description, u32 LE
//!     20   zero, u32
//!     24   description (CBOR): where it stands in the log, membership, length and CRC32C of the body
//!          body: the machine's bytes
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::codec::{self, LogIdCode, StoredMembershipCode};
use crate::error::{OpenError, StorageFailure};
use crate::log::disk::{Disk, OpenMode};
use crate::log::driver::Queue;
use crate::log::lock;
use crate::types::{LogId, Snapshot, SnapshotMeta};

const MAGIC: &[u8; 8] = b"STINTSNP";
const FORMAT_VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Description {
    #[n(0)]
    last: Option<LogIdCode>,
    #[n(1)]
    membership: StoredMembershipCode,
    #[n(2)]
    body_len: u64,
    #[n(3)]
    body_crc: u32,
}

/// The snapshots of one peer. It keeps the newest, and the one before until that is on stable storage.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    inline_io: bool,
    /// The newest, or none. The lock is held while files change.
    newest: Arc<Mutex<Option<SnapshotMeta>>>,
    /// Where failures go: a peer whose snapshots fail stops like one whose log fails.
    queue: Arc<Queue>,
}

impl Snapshots {
    /// Reads the folder, checks the newest snapshot, and removes what an earlier run left over.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        inline_io: bool,
        queue: Arc<Queue>,
    ) -> Result<Self, OpenError> {
        let mut names = list(disk.as_ref(), &dir)?;
        let newest = match names.pop() {
            Some(name) => Some(read(disk.as_ref(), &dir.join(name))?.0),
            None => None,
        };
        for name in names {
            let path = dir.join(name);
            disk.remove(&path).map_err(|e| OpenError::io("remove", &path, e))?;
        }
        Ok(Self { disk, dir, inline_io, newest: Arc::new(Mutex::new(newest)), queue })
    }

    /// Whether the folder holds a snapshot at all. Makes the folder when it is missing.
    pub(crate) fn any(disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
        disk.create_dir_all(dir).map_err(|e| OpenError::io("make the folder", dir, e))?;
        Ok(!list(disk, dir)?.is_empty())
    }

    /// Returns once this snapshot is on stable storage, unless a newer one is already. Only one save runs at a time.
    pub(crate) async fn save(&self, meta: SnapshotMeta, body: Bytes) -> io::Result<()> {
        let (disk, dir, newest) = (self.disk.clone(), self.dir.clone(), self.newest.clone());
        self.blocking(move || {
            let mut newest = lock(&newest);
            let known = newest.as_ref();
            if known.is_some_and(|known| known.last_log_id >= meta.last_log_id) {
                return Ok(());
            }
            let name = write(disk.as_ref(), &dir, &meta, &body)?;
            *newest = Some(meta);
            remove_others(disk.as_ref(), &dir, &name)
        })
        .await
    }

    /// The newest snapshot, read and checked.
    pub(crate) async fn current(&self) -> io::Result<Option<Snapshot>> {
        let (disk, dir, newest) = (self.disk.clone(), self.dir.clone(), self.newest.clone());
        self.blocking(move || {
            let newest = lock(&newest);
            let Some(meta) = newest.as_ref() else { return Ok(None) };
            let path = dir.join(name(meta.last_log_id));
            let (meta, snapshot) = read(disk.as_ref(), &path).map_err(io::Error::other)?;
            Ok(Some(Snapshot { meta, snapshot }))
        })
        .await
    }

    /// Runs storage work where it may block. A failure is reported.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let result = if self.inline_io {
            work()
        } else {
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
        };
        result.inspect_err(|error| self.report(error))
    }

    /// Reports a failure that ends this peer.
    pub(crate) fn report(&self, error: &io::Error) {
        self.queue.fail(StorageFailure(error.to_string()));
    }
}

fn name(last: Option<LogId>) -> String {
    let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("snapshot-{index:020}-{term:020}.snap")
}

/// Names of complete snapshots, oldest first. Incomplete ones are removed.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, OpenError> {
    let mut names = Vec::new();
    for name in disk.list(dir).map_err(|e| OpenError::io("list", dir, e))? {
        if name.starts_with("snapshot-") && name.ends_with(".snap") {
            names.push(name);
        } else if name.ends_with(".tmp") {
            let path = dir.join(&name);
            disk.remove(&path).map_err(|e| OpenError::io("remove", &path, e))?;
        }
    }
    Ok(names)
}

fn remove_others(disk: &dyn Disk, dir: &Path, keep: &str) -> io::Result<()> {
    for name in disk.list(dir)? {
        if name.ends_with(".snap") && name != keep {
            disk.remove(&dir.join(name))?;
        }
    }
    Ok(())
}

pub(crate) fn head(meta: &SnapshotMeta, body: &[u8]) -> Vec<u8> {
    let description = codec::encode(&Description {
        last: meta.last_log_id.map(Into::into),
        membership: (&meta.last_membership).into(),
        body_len: body.len() as u64,
        body_crc: crc32c::crc32c(body),
    });
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    head.extend_from_slice(&(description.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &description);
    head.extend_from_slice(&crc.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&description);
    head
}

fn write(disk: &dyn Disk, dir: &Path, meta: &SnapshotMeta, body: &[u8]) -> io::Result<String> {
    let name = name(meta.last_log_id);
    let path = dir.join(&name);
    let failed = |source| StorageFailure::io("write snapshot", &path, source).to_io();
    let temporary = dir.join("snapshot.tmp");
    let head = head(meta, body);
    let file = disk.open(&temporary, OpenMode::Fresh).map_err(failed)?;
    file.write_at(0, &head).map_err(failed)?;
    file.write_at(head.len() as u64, body).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    disk.rename(&temporary, &path).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    Ok(name)
}

fn read(disk: &dyn Disk, path: &Path) -> Result<(SnapshotMeta, Bytes), OpenError> {
    let failed = |source| OpenError::io("read snapshot", path, source);
    let file = disk.open(path, OpenMode::Existing).map_err(failed)?;
    let len =
        usize::try_from(file.len().map_err(failed)?).map_err(|_| corrupt(path, "it is too large to read"))?;
    parse(path, Bytes::from(file.read_at(0, len).map_err(failed)?))
}

fn corrupt(path: &Path, what: &str) -> OpenError {
    OpenError::Corrupt { path: path.to_path_buf(), offset: 0, what: what.into() }
}

fn parse(path: &Path, bytes: Bytes) -> Result<(SnapshotMeta, Bytes), OpenError> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_le_bytes).ok_or_else(|| corrupt(path, "it ends within its header"))
    };
    if bytes.get(..8) != Some(MAGIC.as_slice()) {
        return Err(corrupt(path, "it does not start as a snapshot"));
    }
    let (version, len, crc) = (word(8)?, word(12)? as usize, word(16)?);
    if version > FORMAT_VERSION {
        return Err(OpenError::NewerFormat {
            path: path.to_path_buf(),
            found: version,
            known: FORMAT_VERSION,
        });
    }
    let description = bytes.get(HEAD_BYTES..HEAD_BYTES.saturating_add(len));
    let description = description.ok_or_else(|| corrupt(path, "it ends within its description"))?;
    if crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), description) != crc {
        return Err(corrupt(path, "its header fails its checksum"));
    }
    let description: Description =
        minicbor::decode(description).map_err(|e| corrupt(path, &e.to_string()))?;
    let body = bytes.slice(HEAD_BYTES + len..);
    if body.len() as u64 != description.body_len || crc32c::crc32c(&body) != description.body_crc {
        return Err(corrupt(path, "its body fails its checksum"));
    }
    let meta = SnapshotMeta {
        last_log_id: description.last.map(Into::into),
        last_membership: description.membership.into(),
    };
    Ok((meta, body))
}
