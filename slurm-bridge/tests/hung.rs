//! A shared folder that hangs, as a hard mount does whose server is away: pipes that nobody reads or writes stand for it.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use stint_executor::KeepEnded;
use stint_protocol::{LeaseId, TaskId};
use stint_slurm_bridge::door::{Record, Shelf};
use stint_slurm_bridge::limits;
use stint_slurm_bridge::shelf::{FileShelf, ShelfSettings};
use tokio::time::timeout;

const LEASE: LeaseId = LeaseId { task: TaskId(7 << 16), attempt: 1 };
const SHORT: Duration = Duration::from_millis(300);

fn settings(folder: &Path) -> ShelfSettings {
    ShelfSettings {
        folder: folder.into(),
        owner: "test-1".into(),
        user: None,
        keep_ended: KeepEnded::default(),
    }
}

/// What reads or writes this waits.
fn hang(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

fn record(revision: u64) -> Record {
    Record {
        lease: LEASE,
        job: None,
        grace_ms: 1,
        timeout_ms: 1,
        began: None,
        granted_until: None,
        end: None,
        revision,
        killed: false,
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_start_does_not_wait_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let (shelf, _) = FileShelf::open(settings(folder.path())).unwrap();
    hang(&shelf.folder(LEASE).join("record"));
    let refused = FileShelf::open_within(settings(folder.path()), SHORT).err().unwrap();
    assert!(
        refused.contains("does not answer") && refused.contains(folder.path().to_str().unwrap()),
        "{refused}"
    );
    // And one that is not there says what to do.
    let missing = FileShelf::open_within(settings(&folder.path().join("no")), SHORT).err().unwrap();
    assert!(missing.contains("make it"), "{missing}");
}

#[tokio::test]
async fn what_waits_for_the_folder_takes_few_threads_and_goes_on_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (shelf, _) = FileShelf::open(settings(folder.path())).unwrap();
    let pipe = shelf.folder(LEASE).join("record.new");
    hang(&pipe);
    let before = threads();
    let all = 4 * limits::FILES;
    let waits = (0..all).map(|n| {
        let store = shelf.store(record(n as u64 + 1));
        tokio::spawn(async move { timeout(SHORT, store).await.is_err() })
    });
    let waits: Vec<_> = waits.collect();
    for wait in waits {
        assert!(wait.await.unwrap(), "it should hang");
    }
    assert!(threads() < before + 2 * limits::FILES, "{} of {all}", threads() - before);
    assert!(timeout(SHORT, shelf.look(LEASE)).await.is_err(), "there is no thread for it");
    // The server is back: a reader lets the writers go on, with whatever comes of it.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(&pipe).unwrap();
    let files = timeout(Duration::from_secs(20), shelf.look(LEASE)).await.unwrap().unwrap();
    assert!(files.ask.is_none() && files.exit.is_none());
    // The others go on after this test ends.
    std::mem::forget(reader);
}
