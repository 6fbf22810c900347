//! What began, what ended, what the cluster has recorded: one append-only file that outlives node and watchdog.
//!
//! Records are written at once (so they survive the death of every process) and synced by a forked helper within
//! `JOURNAL_SYNC_MS`: the watchdog itself never waits for a disk. Only a crash of the whole machine can lose the last
//! records, and then the node starts a new incarnation anyway.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use stint_protocol::{AttemptEnd, BootMs, LeaseId};

use crate::limits;
use crate::sys;

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
enum JournalRecord {
    /// The boot of the machine during which the following records were written.
    #[n(0)]
    Boot(#[n(0)] String),
    /// About to be cloned, in this sandbox folder.
    #[n(1)]
    Begun(#[n(0)] LeaseId, #[n(1)] Option<u32>),
    /// Cloned as this process at this time.
    #[n(2)]
    Running(#[n(0)] LeaseId, #[n(1)] ProcessIdentity),
    #[n(3)]
    Ended(#[n(0)] AttemptEnd),
    #[n(4)]
    Acknowledged(#[n(0)] LeaseId),
}

/// How to find the process of an attempt again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProcessIdentity {
    #[n(0)]
    pub pid: i32,
    /// Clock before and after the clone.
    #[n(1)]
    pub before: BootMs,
    #[n(2)]
    pub after: BootMs,
}

/// What is known about an attempt that has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenAttempt {
    pub sandbox_dir: Option<u32>,
    /// None: it may never have been cloned.
    pub trace: Option<ProcessIdentity>,
}

/// What a journal says when it is read.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Begun and not ended.
    pub open: BTreeMap<LeaseId, OpenAttempt>,
    /// Ended and not acknowledged.
    pub ended: BTreeMap<LeaseId, AttemptEnd>,
    /// The machine was restarted since: nothing of it runs.
    pub other_boot: bool,
    /// The file does not end where a record ends.
    pub torn: bool,
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    size: u64,
    boot: String,
    /// Since when written records wait for a sync.
    dirty_since: Option<BootMs>,
    syncing: Option<i32>,
    /// Records could not be written: when to write everything anew.
    again_at: Option<BootMs>,
    /// The file ends in the middle of a record: nothing after that would be read.
    torn: bool,
}

impl Journal {
    /// Reads what is there and goes on in a fresh file that holds only what still matters.
    pub fn open(path: &Path) -> io::Result<(Self, Replayed)> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.trim().to_owned();
        let past = match std::fs::read(path) {
            Ok(bytes) => replay(&bytes, &boot),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Replayed::default(),
            Err(e) => return Err(e),
        };
        let mut journal = Self {
            path: path.to_owned(),
            file: OpenOptions::new().create(true).append(true).open(path)?,
            buffer: Vec::new(),
            size: 0,
            boot,
            dirty_since: None,
            syncing: None,
            again_at: None,
            torn: false,
        };
        journal.rewrite(&past.open, past.ended.values())?;
        Ok((journal, past))
    }

    pub fn begun(&mut self, lease: LeaseId, sandbox_dir: Option<u32>) {
        self.put(&JournalRecord::Begun(lease, sandbox_dir));
    }

    pub fn running(&mut self, lease: LeaseId, trace: ProcessIdentity) {
        self.put(&JournalRecord::Running(lease, trace));
    }

    pub fn ended(&mut self, end: &AttemptEnd, now: BootMs) {
        self.put(&JournalRecord::Ended(end.clone()));
        self.dirty_since.get_or_insert(now);
    }

    pub fn acknowledged(&mut self, lease: LeaseId) {
        self.put(&JournalRecord::Acknowledged(lease));
    }

    /// Hands the buffered records to the kernel. When that fails they are gone from here, and all is to be written anew.
    pub fn flush(&mut self, now: BootMs) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let result = match self.torn {
            true => Err(io::Error::other("it was not written whole the last time, as on a full disk")),
            false => self.file.write_all(&self.buffer),
        };
        match &result {
            Ok(()) => self.size += self.buffer.len() as u64,
            Err(_) => {
                // A part of a record would hide all that come after it.
                self.torn = self.file.set_len(self.size).is_err();
                self.again_at.get_or_insert(now.plus(limits::JOURNAL_AGAIN_MS));
            }
        }
        self.buffer.clear();
        result
    }

    /// It could not be: tries again later.
    pub fn put_off(&mut self, now: BootMs) {
        self.again_at = Some(now.plus(limits::JOURNAL_AGAIN_MS));
    }

    /// When everything is to be written anew, because some of it could not be written.
    pub fn again_at(&self) -> Option<BootMs> {
        self.again_at
    }

    /// When `sync` wants to be called.
    pub fn sync_at(&self) -> Option<BootMs> {
        if self.syncing.is_some() {
            None
        } else {
            self.dirty_since.map(|since| since.plus(limits::JOURNAL_SYNC_MS))
        }
    }

    /// Lets a forked helper sync the file.
    pub fn sync(&mut self) {
        if self.syncing.is_some() || self.dirty_since.is_none() {
            return;
        }
        match sys::fork() {
            Ok(sys::Fork::Child) => {
                let _ = self.file.sync_data();
                sys::exit_now(0)
            }
            Ok(sys::Fork::Parent(pid)) => {
                self.syncing = Some(pid);
                self.dirty_since = None;
            }
            Err(_) => {}
        }
    }

    /// A child was reaped; true when it was the helper that syncs.
    pub fn on_reaped(&mut self, pid: i32) -> bool {
        let mine = self.syncing == Some(pid);
        if mine {
            self.syncing = None;
        }
        mine
    }

    /// Whether this child is the helper that syncs.
    pub fn is_syncing(&self, pid: i32) -> bool {
        self.syncing == Some(pid)
    }

    /// Whether most of the file can go, given how many ends still wait.
    pub fn is_long(&self, waiting: usize) -> bool {
        self.size > limits::JOURNAL_BYTES && (waiting as u64) < self.size / 1024
    }

    /// Replaces the file by one that holds only these.
    pub fn rewrite<'a>(
        &mut self,
        open: &BTreeMap<LeaseId, OpenAttempt>,
        ended: impl Iterator<Item = &'a AttemptEnd>,
    ) -> io::Result<()> {
        self.buffer.clear();
        self.put(&JournalRecord::Boot(self.boot.clone()));
        for (lease, open) in open {
            self.put(&JournalRecord::Begun(*lease, open.sandbox_dir));
            if let Some(trace) = open.trace {
                self.put(&JournalRecord::Running(*lease, trace));
            }
        }
        for end in ended {
            self.put(&JournalRecord::Ended(end.clone()));
        }
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&fresh)?;
        let written = file.write_all(&self.buffer).and_then(|()| std::fs::rename(&fresh, &self.path));
        if let Err(e) = written {
            let _ = std::fs::remove_file(&fresh);
            self.buffer.clear();
            return Err(e);
        }
        self.size = self.buffer.len() as u64;
        self.buffer.clear();
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        (self.again_at, self.torn) = (None, false);
        Ok(())
    }

    fn put(&mut self, record: &JournalRecord) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 8]);
        let _ = minicbor::encode(record, &mut self.buffer);
        let body = &self.buffer[start + 8..];
        let (length, sum) = (body.len() as u32, crc32c::crc32c(body));
        self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
        self.buffer[start + 4..start + 8].copy_from_slice(&sum.to_be_bytes());
    }
}

pub fn replay(bytes: &[u8], boot: &str) -> Replayed {
    // Each journal begins with a record. A power cut can leave a file that was renamed and whose bytes never reached the
    // disk: what it named may have run, so it does not account for it.
    let mut past = Replayed { torn: bytes.is_empty(), ..Replayed::default() };
    let mut at = 0;
    while at < bytes.len() {
        let Some((record, next)) = read_record(bytes, at) else {
            past.torn = true;
            break;
        };
        at = next;
        match record {
            JournalRecord::Boot(written) => past.other_boot = written != boot,
            JournalRecord::Begun(lease, sandbox_dir) => {
                past.open.insert(lease, OpenAttempt { sandbox_dir, trace: None });
            }
            JournalRecord::Running(lease, trace) => past.open.entry(lease).or_default().trace = Some(trace),
            JournalRecord::Ended(end) => {
                past.open.remove(&end.lease);
                past.ended.insert(end.lease, end);
            }
            JournalRecord::Acknowledged(lease) => drop(past.ended.remove(&lease)),
        }
    }
    past
}

fn read_record(bytes: &[u8], at: usize) -> Option<(JournalRecord, usize)> {
    let number = |from: usize| Some(u32::from_be_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
    let (length, sum) = (number(at)? as usize, number(at + 4)?);
    let body = bytes.get(at + 8..at + 8 + length)?;
    if crc32c::crc32c(body) != sum {
        return None;
    }
    Some((minicbor::decode(body).ok()?, at + 8 + length))
}

#[cfg(test)]
mod tests {
    use stint_protocol::{EndKind, TaskId};

    use super::*;

    fn lease(n: u128) -> LeaseId {
        LeaseId { task: TaskId(n), attempt: 1 }
    }

    fn end(n: u128) -> AttemptEnd {
        AttemptEnd::new(lease(n), EndKind::Exited(0), String::new(), 1)
    }

    #[test]
    fn an_empty_journal_accounts_for_nothing_and_a_missing_one_is_a_first_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert!(!Journal::open(&path).unwrap().1.torn);
        assert!(!Journal::open(&path).unwrap().1.torn, "an opened journal is whole");
        std::fs::write(&path, b"").unwrap();
        assert!(Journal::open(&path).unwrap().1.torn);
    }

    #[test]
    fn a_journal_reads_back_also_with_a_torn_tail() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, past) = Journal::open(&path).unwrap();
        assert!(past.open.is_empty() && !past.other_boot && !past.torn);
        let trace = ProcessIdentity { pid: 7, before: BootMs(1), after: BootMs(2) };
        for n in 1..=3 {
            journal.begun(lease(n), Some(4));
        }
        journal.running(lease(1), trace);
        journal.ended(&end(2), BootMs(5));
        journal.ended(&end(3), BootMs(5));
        journal.acknowledged(lease(3));
        journal.flush(BootMs(1)).unwrap();
        let (_, past) = Journal::open(&path).unwrap();
        assert_eq!(
            past.open,
            BTreeMap::from([(lease(1), OpenAttempt { sandbox_dir: Some(4), trace: Some(trace) })])
        );
        assert_eq!(past.ended, BTreeMap::from([(lease(2), end(2))]));

        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let (_, past) = Journal::open(&path).unwrap();
        assert!(past.torn && past.open.len() == 1 && past.ended.is_empty());
    }
}
