//! Folders in which attempts run, handed on from attempts that left nothing to the next.
//!
//! A sandbox folder is handed on only after the end was acknowledged: by then the node knows that the former attempt is over, so
//! nobody can read the next one's output as the former's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stint_protocol::LeaseId;

use crate::shim_api::layout::Layout;

/// The sandbox folders of one data folder.
#[derive(Debug, Default)]
pub struct SandboxDirs {
    free: Vec<u32>,
    next: u32,
    /// Of ended attempts that left nothing, until their end is acknowledged.
    waiting: BTreeMap<LeaseId, u32>,
}

impl SandboxDirs {
    /// Finds the sandbox folders that are there; `taken` belong to attempts that may still run.
    pub fn find(layout: &Layout, taken: &BTreeSet<u32>) -> Self {
        let mut sandbox_dirs = Self::default();
        let entries = fs::read_dir(layout.sandbox_dirs()).into_iter().flatten().flatten();
        for number in entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
            sandbox_dirs.next = sandbox_dirs.next.max(number.saturating_add(1));
            if taken.contains(&number) {
                continue;
            }
            let sandbox_dir = layout.sandbox_dir(number);
            if is_unused(&sandbox_dir) || fs::remove_dir_all(&sandbox_dir).is_ok() {
                sandbox_dirs.free.push(number);
            }
        }
        sandbox_dirs
    }

    /// A sandbox folder for a new attempt; whoever runs in it makes what is missing.
    pub fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let number = self.next;
            self.next += 1;
            number
        })
    }

    /// The attempt has ended: what it left moves to its own folder.
    pub fn leave(&mut self, layout: &Layout, lease: LeaseId, number: u32) {
        if is_unused(&layout.sandbox_dir(number)) {
            self.waiting.insert(lease, number);
        } else {
            self.move_to_own(layout, lease, number);
        }
    }

    /// The same, where something may still be written into it.
    pub fn move_to_own(&mut self, layout: &Layout, lease: LeaseId, number: u32) {
        if fs::rename(layout.sandbox_dir(number), layout.attempt(lease)).is_ok() {
            self.free.push(number);
        }
        // A sandbox folder that can be neither handed on nor moved is not used again by this watchdog.
    }

    /// The attempt's end was acknowledged.
    pub fn hand_on(&mut self, lease: LeaseId) {
        self.free.extend(self.waiting.remove(&lease));
    }
}

/// Whether an attempt left its sandbox folder as it found it: three entries of the right kind and mode, all empty. A program
/// could have put a link in the place of an output file.
fn is_unused(sandbox_dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(sandbox_dir) else { return !sandbox_dir.exists() };
    let mut all = entries.map(|entry| entry.and_then(|e| Ok((e.file_name(), e.metadata()?))));
    let plain = all.all(|entry| match entry {
        Ok((name, meta)) if name == "stdout" || name == "stderr" => {
            meta.is_file() && meta.len() == 0 && meta.nlink() == 1 && meta.mode() & 0o7777 == 0o600
        }
        Ok((name, meta)) if name == "work" => meta.is_dir() && meta.mode() & 0o7777 == 0o700,
        _ => false,
    });
    let private = fs::metadata(sandbox_dir).is_ok_and(|meta| meta.mode() & 0o7777 == 0o700);
    let no_files =
        fs::read_dir(sandbox_dir.join("work")).map_or(true, |mut entries| entries.next().is_none());
    plain && private && no_files
}
