//! The log against crashes, full and failing disks, and damage. Seeded; no threads.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::segment::{segment_name, segment_number};
use super::*;
use crate::options::SyncDelay;
use crate::test_disk::{Faults, MemoryDisk, TestRng, seeds};
use crate::types::{CommittedLeaderId, EntryPayload, LeaderId, Payload};

const DIR: &str = "/data/log";

fn options(disk: &MemoryDisk) -> RaftOptions {
    RaftOptions {
        segment_bytes: 2048,
        entry_cache_bytes: 600,
        inline_io: true,
        sync_delay: SyncDelay::fixed(Duration::from_millis(1)),
        disk: Arc::new(disk.session()),
        ..RaftOptions::new("crash")
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

fn entry(id: LogId, bytes: usize) -> Entry {
    let payload = Payload(Bytes::from(vec![id.index as u8; bytes]));
    Entry { log_id: id, payload: EntryPayload::Normal(payload) }
}

fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, voted_for: 1 }, committed: false }
}

/// What the log must hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: VecDeque<Entry>,
}

#[derive(Debug, Clone)]
enum Step {
    Entry(Entry),
    Vote(Vote),
    Purge(LogId),
    Truncate(Option<LogId>),
}

impl Model {
    fn next_index(&self) -> u64 {
        let last = self.entries.back().map(|entry| entry.log_id.index).or(self.purged.map(|id| id.index));
        last.map_or(0, |last| last + 1)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Entry(entry) => self.entries.push_back(entry.clone()),
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Purge(upto) => {
                self.purged = Some(*upto);
                self.entries.retain(|entry| entry.log_id.index > upto.index);
            }
            Step::Truncate(after) => {
                let keep = after.map_or(0, |id| id.index + 1);
                self.entries.retain(|entry| entry.log_id.index < keep);
            }
        }
    }

    async fn read(log: &Log) -> Self {
        let marks = log.bookmarks();
        let end = marks.last.map_or(0, |last| last.index + 1);
        let entries = log.read(0..end, usize::MAX).await.expect("all entries can be read");
        Self { vote: marks.vote, purged: marks.purged, entries: entries.into() }
    }
}

/// One life of a log: steps taken, and how many of them were confirmed.
struct Life {
    start: Model,
    now: Model,
    steps: Vec<Step>,
    confirmed: Arc<Mutex<usize>>,
    term: u64,
}

impl Life {
    fn new(start: Model) -> Self {
        let term = start.entries.back().map_or(0, |entry| entry.log_id.leader_id.term).max(1);
        Self { now: start.clone(), start, steps: Vec::new(), confirmed: Arc::default(), term }
    }

    fn take(&mut self, step: Step) {
        self.now.step(&step);
        self.steps.push(step);
    }

    fn done(&self) -> Done {
        let (confirmed, count) = (self.confirmed.clone(), self.steps.len());
        Box::new(move |result| {
            if result.is_ok() {
                let mut confirmed = lock(&confirmed);
                assert!(*confirmed <= count, "confirmed out of order");
                *confirmed = count;
            }
        })
    }

    async fn act(&mut self, log: &Log, rng: &mut TestRng) {
        match rng.below(12) {
            0 => {
                self.term += 1;
                self.take(Step::Vote(vote(self.term)));
                let result = log.save_vote(vote(self.term)).await;
                if result.is_ok() {
                    *lock(&self.confirmed) = self.steps.len();
                }
            }
            1 if !self.now.entries.is_empty() => {
                let nth = rng.below(self.now.entries.len() as u64) as usize;
                let after = nth.checked_sub(1).map(|nth| self.now.entries[nth].log_id).or(self.now.purged);
                if after.map(|id| id.index) < log.bookmarks().committed.map(|id| id.index) {
                    return;
                }
                self.term += 1;
                self.take(Step::Truncate(after));
                log.truncate_after(after).expect("nothing of it is decided");
            }
            2 if !self.now.entries.is_empty() => {
                let nth = rng.below(self.now.entries.len() as u64) as usize;
                let upto = self.now.entries[nth].log_id;
                self.take(Step::Purge(upto));
                log.purge(upto);
            }
            3 => log.save_committed(self.now.entries.front().map(|entry| entry.log_id)),
            4 => tokio::time::sleep(Duration::from_micros(rng.below(2500))).await,
            _ => {
                let count = 1 + rng.below(5);
                let mut entries = Vec::new();
                for _ in 0..count {
                    let entry = entry(id(self.term, self.now.next_index()), rng.below(900) as usize);
                    self.take(Step::Entry(entry.clone()));
                    entries.push(entry);
                }
                log.append(entries, self.done()).await.expect("entries follow");
            }
        }
    }

    /// The state after a prefix of the steps that holds all confirmed ones, or what is wrong.
    fn check(&self, found: &Model) -> Result<(), String> {
        let confirmed = *lock(&self.confirmed);
        let mut model = self.start.clone();
        for taken in 0..=self.steps.len() {
            if taken >= confirmed && model == *found {
                return Ok(());
            }
            if let Some(step) = self.steps.get(taken) {
                model.step(step);
            }
        }
        Err(format!("{confirmed} of {} steps were confirmed, but the log holds {found:?}", self.steps.len()))
    }
}

/// Several lives with a crash at the end of each. Returns how many steps were confirmed in all.
async fn lives(seed: u64, faults: Faults) -> Result<usize, String> {
    let mut rng = TestRng::new(seed);
    let disk = MemoryDisk::default();
    disk.faults(|now| *now = faults);
    let (mut model, mut confirmed) = (Model::default(), 0);
    for _ in 0..6 {
        let log = Log::open(Path::new(DIR), &options(&disk)).map_err(|error| error.to_string())?;
        assert_eq!(Model::read(&log).await, model, "seed {seed}: a second reading differs");
        let mut life = Life::new(model);
        for _ in 0..rng.below(40) {
            life.act(&log, &mut rng).await;
        }
        // In the middle of a write or a sync, or long after it.
        tokio::time::sleep(Duration::from_micros(rng.below(3000))).await;
        disk.power_lost(&mut rng, false);
        confirmed += *lock(&life.confirmed);
        drop(log);
        let log = Log::open(Path::new(DIR), &options(&disk)).map_err(|error| error.to_string())?;
        let found = Model::read(&log).await;
        life.check(&found)?;
        if rng.one_in(2) {
            disk.power_lost(&mut rng, false);
        }
        model = found;
        close(log).await;
    }
    Ok(confirmed)
}

async fn close(log: Log) {
    let queue = log.queue();
    drop(log);
    queue.ended().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_was_confirmed_survives_crashes() {
    let mut confirmed = 0;
    for seed in 0..seeds(300) {
        match lives(seed, Faults::default()).await {
            Ok(count) => confirmed += count,
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    assert!(confirmed > 20_000, "too little was confirmed to mean anything: {confirmed}");
}

#[tokio::test(start_paused = true)]
async fn the_crash_test_notices_a_disk_that_lies() {
    let mut caught = 0;
    for seed in 0..20 {
        let lying = Faults { lying_syncs: true, ..Faults::default() };
        caught += usize::from(lives(seed, lying).await.is_err());
    }
    assert!(caught >= 15, "only {caught} of 20 seeds noticed");
}

fn open(disk: &MemoryDisk) -> Result<Log, OpenError> {
    Log::open(Path::new(DIR), &options(disk))
}

async fn append(log: &Log, ids: std::ops::Range<u64>, bytes: usize) -> Result<(), StorageFailure> {
    let (sender, result) = tokio::sync::oneshot::channel();
    let entries = ids.map(|index| entry(id(1, index), bytes)).collect();
    log.append(entries, Box::new(move |result| drop(sender.send(result)))).await.unwrap();
    result.await.unwrap()
}

fn segments(disk: &MemoryDisk) -> Vec<PathBuf> {
    let names = disk.session().list(Path::new(DIR)).unwrap();
    let names = names.iter().filter(|name| segment_number(name).is_some());
    names.map(|name| Path::new(DIR).join(name)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_fatal_and_says_what_to_do() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..3, 100).await.unwrap();
    disk.faults(|now| *now = Faults { space: Some(200), ..Faults::default() });
    let failure = append(&log, 3..4, 900).await.unwrap_err().to_string();
    assert!(failure.contains("segment-0000000000000001.log"), "{failure}");
    assert!(failure.contains("The disk is full: free space"), "{failure}");
    assert!(log.failures().borrow().is_some());

    // Space is back, but this log took its last write; what was confirmed is there after a restart.
    disk.faults(|now| *now = Faults::default());
    assert!(append(&log, 4..5, 10).await.is_err());
    assert!(log.save_vote(vote(9)).await.is_err());
    close(log).await;
    let found = Model::read(&open(&disk).unwrap()).await;
    assert!(found.entries.len() >= 3, "{found:?}");
    assert_eq!(found.vote, None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_fatal_and_not_tried_again() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..3, 100).await.unwrap();
    disk.faults(|now| *now = Faults { good_syncs: Some(0), ..Faults::default() });
    let failure = append(&log, 3..4, 100).await.unwrap_err().to_string();
    assert!(failure.contains("cannot sync"), "{failure}");
    let syncs = disk.syncs();
    assert!(append(&log, 4..5, 10).await.is_err());
    assert_eq!(disk.syncs(), syncs, "the failed file was synced again");
}

#[tokio::test(start_paused = true)]
async fn damage_in_an_older_segment_is_refused() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..20, 300).await.unwrap();
    close(log).await;
    let files = segments(&disk);
    assert!(files.len() > 2, "{files:?}");
    disk.corrupt(&files[1], 900);
    let error = open(&disk).err().unwrap();
    assert!(matches!(&error, OpenError::Corrupt { path, .. } if *path == files[1]), "{error}");
    assert!(error.to_string().contains("Move the data folder aside"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn damage_before_synced_records_of_the_last_segment_is_refused() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    for index in 0..4 {
        append(&log, index..index + 1, 200).await.unwrap();
    }
    disk.power_lost(&mut TestRng::new(1), false);
    let file = segments(&disk).pop().unwrap();
    let second = disk.content(&file).unwrap().len().min(500);
    disk.corrupt(&file, second);
    let error = open(&disk).err().unwrap();
    assert!(error.to_string().contains("was stored after it"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_torn_tail_of_the_last_segment_is_cut() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..1, 200).await.unwrap();
    append(&log, 1..2, 200).await.unwrap();
    let end = log.shared.lock().unwrap().slot(1).unwrap().place.unwrap();
    disk.power_lost(&mut TestRng::new(1), false);
    disk.corrupt(&segments(&disk)[0], end.offset as usize + 100);
    let found = Model::read(&open(&disk).unwrap()).await;
    assert_eq!(found.entries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_segment_is_refused() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..30, 300).await.unwrap();
    close(log).await;
    let files = segments(&disk);
    disk.session().remove(&files[1]).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(matches!(&error, OpenError::Corrupt { path, .. } if *path == files[1]), "{error}");
    disk.session().remove(&files[0]).unwrap();
    assert!(open(&disk).is_err(), "the oldest entries are missing");
}

#[tokio::test(start_paused = true)]
async fn purged_segments_go_and_are_used_again() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..40, 300).await.unwrap();
    let before = segments(&disk);
    log.purge(id(1, 35));
    append(&log, 40..41, 10).await.unwrap();
    let after = segments(&disk);
    assert!(after.len() <= 3 && after[0] > before[0], "{after:?}");
    let spares = |disk: &MemoryDisk| {
        disk.session()
            .list(Path::new(DIR))
            .unwrap()
            .into_iter()
            .filter(|name| name.starts_with("spare-"))
            .count()
    };
    assert_eq!(spares(&disk), crate::options::SPARE_SEGMENTS);
    append(&log, 41..55, 300).await.unwrap();
    assert!(spares(&disk) < crate::options::SPARE_SEGMENTS, "no spare was used");
    close(log).await;
    let found = Model::read(&open(&disk).unwrap()).await;
    assert_eq!(
        found.entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(),
        (36..55).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn the_entry_cache_is_bounded_in_bytes_and_older_entries_are_read_from_segments() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    for index in 0..50 {
        append(&log, index..index + 1, 150).await.unwrap();
        assert!(log.cached_bytes() <= 600, "{} bytes", log.cached_bytes());
    }
    assert!(log.first_cached() > Some(40));
    let all = log.read(0..50, usize::MAX).await.unwrap();
    assert_eq!(all, (0..50).map(|index| entry(id(1, index), 150)).collect::<Vec<_>>());
    let some = log.read(3..50, 500).await.unwrap();
    assert!(!some.is_empty() && some.len() < 5 && some[0].log_id.index == 3, "{some:?}");
    assert_eq!(log.read(7..8, 0).await.unwrap().len(), 1, "at least one");
}

#[tokio::test(start_paused = true)]
async fn entries_that_wait_for_the_disk_can_be_read() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    let entries = (0..20).map(|index| entry(id(1, index), 200)).collect::<Vec<_>>();
    log.append(entries.clone(), Box::new(drop)).await.unwrap();
    assert_eq!(log.read(0..20, usize::MAX).await.unwrap(), entries);
}

#[tokio::test(start_paused = true)]
async fn one_sync_covers_what_arrived_during_the_last() {
    let disk = MemoryDisk::default();
    let log = Log::open(Path::new(DIR), &RaftOptions { segment_bytes: 1 << 20, ..options(&disk) }).unwrap();
    append(&log, 0..1, 10).await.unwrap();
    let before = disk.syncs();
    let confirmed = Arc::new(Mutex::new(Vec::new()));
    for index in 1..101 {
        let confirmed = confirmed.clone();
        let done: Done = Box::new(move |result| {
            result.unwrap();
            lock(&confirmed).push(index);
        });
        log.append(vec![entry(id(1, index), 10)], done).await.unwrap();
    }
    append(&log, 101..102, 10).await.unwrap();
    assert_eq!(*lock(&confirmed), (1..101).collect::<Vec<_>>(), "confirmed in order");
    assert!(disk.syncs() - before <= 3, "{} syncs", disk.syncs() - before);
}

#[tokio::test(start_paused = true)]
async fn the_folder_is_open_once() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Locked { .. })));
    close(log).await;
    open(&disk).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_entry_larger_than_a_segment_gets_its_own() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..1, 10_000).await.unwrap();
    append(&log, 1..2, 10).await.unwrap();
    close(log).await;
    let found = Model::read(&open(&disk).unwrap()).await;
    assert_eq!(found.entries.len(), 2);
    assert_eq!(segment_name(7), "segment-0000000000000007.log");
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_is_never_cut() {
    let disk = MemoryDisk::default();
    let log = open(&disk).unwrap();
    append(&log, 0..10, 10).await.unwrap();
    log.save_committed(Some(id(1, 5)));
    log.truncate_after(Some(id(1, 5))).unwrap();
    append(&log, 6..8, 10).await.unwrap();
    let refused = log.truncate_after(Some(id(1, 4))).unwrap_err();
    assert!(refused.to_string().contains("those below 6 are decided"), "{refused}");
    assert!(append(&log, 8..9, 10).await.is_err(), "the log goes on");
    close(log).await;
    let log = open(&disk).unwrap();
    assert_eq!(log.bookmarks().last, Some(id(1, 7)), "all is there");
    close(log).await;
}
