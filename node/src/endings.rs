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

/// The endings of this peer.
pub struct Endings {
    disk: EndingDisk,
    /// Some are lacking, which other peers have.
    lacking: Notify,
    has_failed: AtomicBool,
}

impl Endings {
    /// Opens their folder.
    pub fn open(folder: PathBuf) -> io::Result<Arc<Self>> {
        let disk = EndingDisk::open(folder)?;
        Ok(Arc::new(Self { disk, lacking: Notify::new(), has_failed: AtomicBool::new(false) }))
    }

    /// Keeps what was applied. A disk that takes no more loses some, which the other peers have; nothing else stops for it.
    pub fn keep(&self, applied: &[AppliedEnding]) {
        for (number, lease, ending) in applied {
            let kept = self.disk.put(*number, *lease, ending);
            self.note(kept, "an ending could not be kept on this peer's disk");
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
