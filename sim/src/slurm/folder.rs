//! The folder of one attempt, as the file system that all share keeps it. What is written is seen elsewhere a little later.

use stint_slurm_bridge::doors::{JobId, JobRecord, ProgramExit, TimeGrant};

/// A file of one line.
#[derive(Clone)]
pub struct Line<T> {
    seen: Option<T>,
    /// Written, and seen elsewhere from then on.
    later: Vec<(u64, T)>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { seen: None, later: Vec::new() }
    }
}

impl<T: Copy> Line<T> {
    /// Writes it over; seen at `at`.
    pub fn write(&mut self, at: u64, what: T) {
        // Never before what was written earlier.
        let at = self.later.last().map_or(at, |(last, _)| at.max(*last));
        self.later.push((at, what));
    }

    /// What is seen now.
    pub fn read(&mut self, now: u64) -> Option<T> {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            self.seen = Some(self.later.remove(0).1);
        }
        self.seen
    }
}

/// An attempt's folder.
#[derive(Clone, Default)]
pub struct Folder {
    /// Whose it is.
    pub node: u64,
    /// With the boot of the node that wrote it.
    pub record: Option<(u64, JobRecord)>,
    pub grant_revision: u64,
    pub go: Line<TimeGrant>,
    /// When its node gave it time for the first time: run times count from there.
    pub granted_ms: Option<u64>,
    /// Until when it was given time, by the world's time.
    pub granted_until_ms: u64,
    pub ask: Line<(u64, JobId)>,
    pub exit: Line<ProgramExit>,
    /// A script of it began: `mkdir` works once, at once for everybody.
    pub began: bool,
    pub began_program: bool,
    /// Its node said that it ended without having begun.
    pub given_up: bool,
    pub done: bool,
}
