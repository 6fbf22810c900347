//! A shared folder that hangs, as a hard mount does whose server is away: pipes that nobody reads or writes stand for it.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use stint_executor::{
    Host, HostHealth, KeepEnded, Launch, LogChunk, LogFuture, LogStream, RunningAttempt, StopReason,
};
use stint_protocol::{AttemptEnd, BootMs, LeaseId, TaskId};
use stint_slurm_bridge::command::{CommandSettings, CommandSlurm};
use stint_slurm_bridge::controller::Timing;
use stint_slurm_bridge::doors::{JobDir, JobRecord};
use stint_slurm_bridge::job_dir::{JobDirOptions, SharedJobDir};
use stint_slurm_bridge::{Bridge, Doors, limits};
use tokio::time::timeout;

const LEASE: LeaseId = LeaseId { task: TaskId(7 << 16), attempt: 1 };
const SHORT: Duration = Duration::from_millis(300);

fn settings(folder: &Path) -> JobDirOptions {
    JobDirOptions {
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

fn record(revision: u64) -> JobRecord {
    JobRecord {
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
    let (job_dir, _) = SharedJobDir::open(settings(folder.path())).unwrap();
    hang(&job_dir.folder(LEASE).join("record"));
    let refused = SharedJobDir::open_within(settings(folder.path()), SHORT).err().unwrap();
    assert!(
        refused.contains("does not answer") && refused.contains(folder.path().to_str().unwrap()),
        "{refused}"
    );
    // And one that is not there says what to do.
    let missing = SharedJobDir::open_within(settings(&folder.path().join("no")), SHORT).err().unwrap();
    assert!(missing.contains("make it"), "{missing}");
}

#[tokio::test]
async fn what_waits_for_the_folder_takes_few_threads_and_goes_on_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (job_dir, _) = SharedJobDir::open(settings(folder.path())).unwrap();
    let pipe = job_dir.folder(LEASE).join("record.new");
    hang(&pipe);
    let before = threads();
    let all = 4 * limits::FILES;
    let waits = (0..all).map(|n| {
        let store = job_dir.store(record(n as u64 + 1));
        tokio::spawn(async move { timeout(SHORT, store).await.is_err() })
    });
    let waits: Vec<_> = waits.collect();
    for wait in waits {
        assert!(wait.await.unwrap(), "it should hang");
    }
    assert!(threads() < before + 2 * limits::FILES, "{} of {all}", threads() - before);
    assert!(timeout(SHORT, job_dir.read_report(LEASE)).await.is_err(), "there is no thread for it");
    // The server is back: a reader lets the writers go on, with whatever comes of it.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(&pipe).unwrap();
    let files = timeout(Duration::from_secs(20), job_dir.read_report(LEASE)).await.unwrap().unwrap();
    assert!(files.ask.is_none() && files.exit.is_none());
    // The others go on after this test ends.
    std::mem::forget(reader);
}

/// A local host that keeps the output of every attempt.
struct Local;

impl Host for Local {
    fn start(&self, _: Launch) {}
    fn renew(&self, _: Vec<(LeaseId, BootMs)>) {}
    fn stop(&self, _: LeaseId, _: StopReason) {}
    fn acknowledge(&self, _: Vec<LeaseId>) {}
    fn running(&self) -> Vec<RunningAttempt> {
        Vec::new()
    }
    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        Vec::new()
    }
    fn read_log(&self, _: LeaseId, _: LogStream, _: u64, _: usize) -> LogFuture {
        Box::pin(async { Ok(LogChunk { bytes: b"local".to_vec(), next_offset: 5, complete: true }) })
    }
    fn health(&self) -> HostHealth {
        unreachable!("nobody asks for it")
    }
}

#[tokio::test]
async fn output_of_other_tasks_does_not_wait_for_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (job_dir, _) = SharedJobDir::open(settings(folder.path())).unwrap();
    let pipe = job_dir.folder(LEASE).join("record.new");
    hang(&pipe);
    let stores =
        (0..limits::FILES).map(|n| tokio::spawn(timeout(SHORT, job_dir.store(record(n as u64 + 1)))));
    for store in stores.collect::<Vec<_>>() {
        assert!(store.await.unwrap().is_err(), "it should hang");
    }
    let doors = Doors {
        slurm: Arc::new(CommandSlurm::new(CommandSettings::default(), job_dir.clone())),
        job_dir: Arc::new(job_dir),
        now: Arc::new(|| BootMs(0)),
        timing: Timing::default(),
    };
    let (events, _heard) = tokio::sync::mpsc::channel(1);
    let bridge = Bridge::new(Arc::new(Local), doors, Vec::new(), events);
    let other = LeaseId { task: TaskId(8 << 16), attempt: 1 };
    let read = timeout(SHORT, bridge.read_log(other, LogStream::Stdout, 0, 100)).await.unwrap();
    assert_eq!(read.unwrap().bytes, b"local");
    let flags = OFlags::NONBLOCK.bits() as i32;
    std::mem::forget(OpenOptions::new().read(true).custom_flags(flags).open(&pipe).unwrap());
}
