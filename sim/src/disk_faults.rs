//! What can be wrong with a disk for a while: it is full, slow, or fails. Says afterwards whether it made anybody fail.

use std::io;

use stint_raft::simulated_disk;

use crate::scenario::Range;

/// An operation that fails with an input/output error, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    Read,
    Write,
    Sync,
}

/// The state of one disk.
#[derive(Debug, Default)]
pub struct DiskFaults {
    /// Files cannot grow.
    pub full: bool,
    /// How long a sync takes, in milliseconds, instead of the usual.
    pub slow_ms: Option<Range>,
    /// What fails next.
    pub failing: Option<Failing>,
    /// The planted mutation: syncs say they worked and do nothing.
    pub lying_syncs: bool,
    /// An operation has failed since the process began: it may give up.
    failed: bool,
}

impl DiskFaults {
    /// Whether an operation has failed since this was asked last.
    pub fn take_failed(&mut self) -> bool {
        std::mem::take(&mut self.failed)
    }

    fn once(&mut self, operation: Failing) -> io::Result<()> {
        if self.failing != Some(operation) {
            return Ok(());
        }
        self.failing = None;
        self.failed = true;
        Err(io::Error::other("Input/output error (simulated)"))
    }
}

impl simulated_disk::DiskFaults for DiskFaults {
    fn on_grow(&mut self) -> io::Result<()> {
        if !self.full {
            return Ok(());
        }
        self.failed = true;
        Err(io::Error::new(io::ErrorKind::StorageFull, "No space left on device (simulated)"))
    }

    fn on_write(&mut self, _bytes: usize) -> io::Result<()> {
        self.once(Failing::Write)
    }

    fn on_sync(&mut self) -> io::Result<()> {
        self.once(Failing::Sync)
    }

    fn on_read(&mut self) -> io::Result<()> {
        self.once(Failing::Read)
    }

    fn lies(&self) -> bool {
        self.lying_syncs
    }
}
