//! The folder of a peer's snapshots. A file has a snapshot's name only once all of it is on stable storage.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::body::{Body, BodyWriter, Incoming, UnnamedFile};
use super::head;
use crate::error::{OpenError, StorageFailure};
use crate::log::disk::{Disk, OpenMode};
use crate::machine::Capture;
use crate::types::{LogId, SnapshotMeta};

#[derive(Clone)]
pub(super) struct Folder {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub inline_io: bool,
    /// Numbers the files without a snapshot's name: each has its own, so that none is written by two.
    unnamed: Arc<AtomicU64>,
}

fn name(last: Option<LogId>) -> String {
    let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("snapshot-{index:020}-{term:020}.snap")
}

/// Names of complete snapshots, oldest first. Incomplete ones are removed.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, OpenError> {
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

impl Folder {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, inline_io: bool) -> Self {
        Self { disk, dir, inline_io, unnamed: Arc::default() }
    }

    /// A new file that is not a snapshot yet, with this head. It goes with the last who holds it, unless it is named.
    fn begin(&self, head: &[u8]) -> io::Result<Arc<UnnamedFile>> {
        let number = self.unnamed.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("unnamed-{number}.tmp"));
        let failed = |source| StorageFailure::io("write snapshot", &path, source).to_io();
        let file = self.disk.open(&path, OpenMode::Fresh).map_err(failed)?;
        let (disk, named) = (self.disk.clone(), AtomicBool::new(false));
        let unnamed = UnnamedFile { disk, path: path.clone(), file, named };
        unnamed.file.write_at(0, head).map_err(failed)?;
        Ok(Arc::new(unnamed))
    }

    /// Writes one whole, but for its name.
    pub fn write(&self, meta: &SnapshotMeta, capture: Capture) -> io::Result<Body> {
        let room = head::head(meta, 0, 0).len();
        let unnamed = self.begin(&vec![0; room])?;
        let failed = |source| StorageFailure::io("write snapshot", &unnamed.path, source).to_io();
        let mut writer = BodyWriter::new(unnamed.clone(), room as u64);
        capture(&mut writer).map_err(failed)?;
        let body = writer.finish(self.inline_io).map_err(failed)?;
        unnamed.file.write_at(0, &head::head(meta, body.len, body.crc)).map_err(failed)?;
        Ok(body)
    }

    /// The file of a snapshot that is received: its length and checksum are known.
    pub fn receive(&self, meta: &SnapshotMeta, len: u64, crc: u32) -> io::Result<Incoming> {
        let head = head::head(meta, len, crc);
        Ok(Incoming { unnamed: self.begin(&head)?, start: head.len() as u64, have: 0, crc: 0 })
    }

    /// The file, on stable storage, of a body that is to become a snapshot of this folder. Another folder's is copied.
    pub fn stored(&self, meta: &SnapshotMeta, body: &Body) -> io::Result<Arc<UnnamedFile>> {
        let Some(unnamed) = &body.unnamed else {
            let from = body.clone();
            let copy = move |to: &mut dyn Write| io::copy(&mut from.reader(), to).map(|_| ());
            return self.stored(meta, &self.write(meta, Box::new(copy))?);
        };
        let failed = |source| StorageFailure::io("sync snapshot", &unnamed.path, source).to_io();
        unnamed.file.sync_data().map_err(failed)?;
        Ok(unnamed.clone())
    }

    /// Gives a stored file a snapshot's name. The older ones go once the name is on stable storage too.
    pub fn name(&self, stored: &UnnamedFile, meta: &SnapshotMeta) -> io::Result<()> {
        let path = self.path(meta.last_log_id);
        let failed = |source| StorageFailure::io("rename snapshot", &path, source).to_io();
        self.disk.rename(&stored.path, &path).map_err(failed)?;
        stored.named.store(true, Ordering::Relaxed);
        self.disk.sync_dir(&self.dir).map_err(failed)?;
        let name = name(meta.last_log_id);
        for other in self.disk.list(&self.dir)? {
            if other.ends_with(".snap") && other != name {
                self.disk.remove(&self.dir.join(other))?;
            }
        }
        Ok(())
    }

    /// Where the snapshot that ends at this entry lies.
    pub fn path(&self, last: Option<LogId>) -> PathBuf {
        self.dir.join(name(last))
    }

    /// Opens a snapshot. Its head is checked, its body not yet: `check` does that.
    pub fn open(&self, path: &Path) -> Result<(SnapshotMeta, Body), OpenError> {
        let failed = |source| OpenError::io("read snapshot", path, source);
        let file = self.disk.open(path, OpenMode::Existing).map_err(failed)?;
        let head = head::read(path, file.as_ref())?;
        let (start, len, crc, inline_io) = (head.start, head.body_len, head.body_crc, self.inline_io);
        Ok((head.meta, Body { file, start, len, crc, inline_io, unnamed: None }))
    }
}

/// Reads a whole body, piece by piece, and holds it against its checksum.
pub(super) fn check(path: &Path, body: &Body) -> Result<(), OpenError> {
    let crc = body.crc_of_file().map_err(|source| OpenError::io("read snapshot", path, source))?;
    if crc == body.crc { Ok(()) } else { Err(head::corrupt(path, "its body fails its checksum")) }
}
