//! What attempts wrote last, on the disk of every peer: kept with the entry of the log that records the end, so that the
//! node which ran one need not be asked. The replicated state has only its number.

mod disk;
pub mod fill;
pub mod summary;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stint_protocol::{Ending, LeaseId};
use tokio::sync::Notify;

use crate::limits;
use crate::wire::{EndingsAnswer, KeptEnding, ReadEndings};

pub use disk::{EndingDisk, Numbered};

/// An ending, as an applied entry names it.
pub type AppliedEnding = (u64, LeaseId, Arc<Ending>);

/// Where a peer keeps endings, and how many bytes stay free on that disk: its log must never be without room.
pub struct EndingsFolder {
    pub path: PathBuf,
    pub reserve: u64,
}

/// The endings of this peer.
pub struct Endings {
    disk: EndingDisk,
    folder: EndingsFolder,
    /// Some are lacking, which other peers have.
    lacking: Notify,
    has_failed: AtomicBool,
}

impl Endings {
    /// Opens their folder.
    pub fn open(folder: EndingsFolder) -> io::Result<Arc<Self>> {
        let disk = EndingDisk::open(folder.path.clone())?;
        Ok(Arc::new(Self { disk, folder, lacking: Notify::new(), has_failed: AtomicBool::new(false) }))
    }

    /// Keeps what was applied. A disk that takes no more, or has no more than its reserve, loses some, which the other peers
    /// have; nothing else stops for it.
    pub fn keep(&self, applied: &[AppliedEnding]) {
        if let Err(error) = self.check_free() {
            return self.note(Err(error), "no endings are kept on this peer's disk");
        }
        for (number, lease, ending) in applied {
            let kept = self.disk.put(*number, *lease, ending);
            self.note(kept, "an ending could not be kept on this peer's disk");
        }
    }

    fn check_free(&self) -> io::Result<()> {
        let found = rustix::fs::statvfs(&self.folder.path)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        match free >= self.folder.reserve {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{free} bytes are free, {} are reserved (blobs.reserve)", self.folder.reserve),
            )),
        }
    }

    /// Makes durable what was kept, before the log that had it may go.
    pub fn sync(&self) {
        self.note(self.disk.sync(), "endings could not be made durable");
    }

    /// The state came from another peer: endings below this number did not come with it.
    pub fn lacks(&self, up_to: u64) {
        self.note(self.disk.set_lacks(Some(up_to)), "which endings are lacking could not be noted");
        self.lacking.notify_one();
    }

    /// The one of this number and attempt, if this peer has it.
    pub fn get(&self, number: u64, lease: LeaseId) -> Option<Ending> {
        let read = self.disk.get(number, lease);
        read.unwrap_or_else(|error| {
            self.note(Err(error), "an ending could not be read");
            None
        })
    }

    /// For another peer: the one that it asks for, or those from a number on, some at a time, and where to go on.
    pub fn answer(&self, read: &ReadEndings) -> Result<EndingsAnswer, String> {
        let whole = self.disk.lacks().is_none();
        let (found, next) = match read.lease {
            Some(lease) => (
                self.get(read.from, lease).map(|ending| (read.from, lease, ending)).into_iter().collect(),
                None,
            ),
            None => self
                .disk
                .from(read.from, limits::ENDINGS_CHUNK_BYTES)
                .map_err(|e| format!("reading endings: {e}"))?,
        };
        let endings = found.into_iter().map(|(number, lease, ending)| KeptEnding { number, lease, ending });
        Ok(EndingsAnswer { endings: endings.collect(), next, whole })
    }

    /// The log has it the first time; it would be the same line for each ending.
    fn note(&self, result: io::Result<()>, what: &'static str) {
        match result {
            Ok(()) => {}
            Err(error) if !self.has_failed.swap(true, Ordering::Relaxed) => tracing::warn!(%error, "{what}"),
            Err(error) => tracing::debug!(%error, "{what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use minicbor::bytes::ByteVec;
    use stint_protocol::TaskId;

    use super::*;

    #[test]
    fn a_disk_without_its_reserve_takes_no_endings() {
        let root = tempfile::tempdir().unwrap();
        let lease = LeaseId { task: TaskId(1 << 16), attempt: 1 };
        let ending = Ending { summary: Some(ByteVec::from(b"words".to_vec())), ..Ending::default() };
        for (reserve, kept) in [(u64::MAX, false), (0, true)] {
            let path = root.path().join("endings");
            let endings = Endings::open(EndingsFolder { path, reserve }).unwrap();
            endings.keep(&[(7, lease, Arc::new(ending.clone()))]);
            assert_eq!(endings.get(7, lease).is_some(), kept, "{reserve}");
        }
    }
}
