//! What is done to the folder of a peer that is stopped: its whole log read into a machine, and a new folder made that
//! begins with a snapshot and one voter.
//!
//! Reading takes everything that is in the log, committed or not: of the entries at its end nobody can say, as the others
//! that would know are gone.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::error::{OpenError, StorageFailure};
use crate::log::cache::EntryCache;
use crate::log::disk::RealDisk;
use crate::log::record::{Bookmarks, Record};
use crate::log::recovery::recover;
use crate::log::segment::Spares;
use crate::log::writer::{Effect, Pending, Writer};
use crate::log::{LogIndex, load, take_lock};
use crate::machine::{Capture, StateMachine};
use crate::options::{APPLY_BYTES, RaftOptions};
use crate::snapshot::Snapshots;
use crate::types::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Membership, PeerId, PeerInfo, Position,
    SnapshotMeta, StoredMembership, Vote, position,
};

/// What a stopped peer's folder held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineLog {
    /// The last entry, which the machine has applied.
    pub last: Position,
    /// The last entry that is known to be committed. Those after it may be, or may not.
    pub committed: Position,
    /// The highest term that this peer ever met.
    pub term: u64,
    /// As the newest entry about it says, committed or not; both sets while it was changing.
    pub voters: BTreeMap<PeerId, PeerInfo>,
    pub learners: BTreeMap<PeerId, PeerInfo>,
}

/// Applies everything in the data folder `dir` of a stopped peer to a machine that has nothing yet. Changes nothing that a
/// start would not.
pub fn read_log<M: StateMachine>(dir: &Path, machine: &mut M) -> Result<OfflineLog, OpenError> {
    let (disk, log_dir, snapshot_dir) = (Arc::new(RealDisk), dir.join("log"), dir.join("snapshots"));
    let options = RaftOptions::new("");
    let _guard = take_lock(disk.as_ref(), &log_dir)?;
    let mut spares = Spares::new(disk.clone(), log_dir.clone(), options.segment_bytes);
    let found = recover(disk.as_ref(), &log_dir, &mut spares, options.entry_cache_bytes)?;
    let marks = found.bookmarks;
    let index =
        LogIndex { bookmarks: marks, slots: found.slots, cache: found.newest, segments: found.segments };
    let (mut last, mut membership) = (None, StoredMembership::default());
    if let Some((meta, body)) = Snapshots::read_newest(disk, snapshot_dir)? {
        let at = meta.last_log_id.as_ref().map(position).unwrap_or_default();
        let restored = machine.restore(at, &mut body.reader());
        restored.map_err(|what| OpenError::Start(format!("the snapshot at entry {}: {what}", at.index)))?;
        (last, membership) = (meta.last_log_id, meta.last_membership);
    }
    apply_rest(&index, machine, &mut last, &mut membership)?;
    machine.batch_done();
    let committed = marks.committed.max(marks.purged).as_ref().map(position).unwrap_or_default();
    let last = last.as_ref().map(position).unwrap_or_default();
    let vote = marks.vote.map_or(0, |vote| vote.leader_id.term);
    let of = membership.membership();
    let voting: Vec<PeerId> = of.voter_ids().collect();
    let peers = of.nodes().map(|(id, info)| (*id, info.clone()));
    let (voters, learners) = peers.partition(|(id, _)| voting.contains(id));
    Ok(OfflineLog { last, committed: committed.min(last), term: vote.max(last.term), voters, learners })
}

/// Applies what comes after the snapshot.
fn apply_rest<M: StateMachine>(
    index: &LogIndex,
    machine: &mut M,
    last: &mut Option<LogId>,
    membership: &mut StoredMembership,
) -> Result<(), OpenError> {
    let end = index.bookmarks.last.map_or(0, |id| id.index + 1);
    loop {
        let next = last.map_or(0, |id| id.index + 1);
        if next >= end {
            return Ok(());
        }
        let unreadable = |error: std::io::Error| OpenError::Start(format!("log entry {next}: {error}"));
        let entries = index.sources(next..end, APPLY_BYTES).map_err(unreadable)?;
        let entries: Vec<Entry> =
            entries.into_iter().map(load).collect::<Result<_, _>>().map_err(unreadable)?;
        if entries.first().is_none_or(|first| first.log_id.index != next) {
            return Err(OpenError::Start(format!("log entry {next} is not there")));
        }
        for entry in entries {
            let at = position(&entry.log_id);
            match entry.payload {
                EntryPayload::Normal(payload) => {
                    let applied = machine.apply(at, &payload.0).map(drop);
                    applied.map_err(|what| OpenError::Start(format!("log entry {}: {what}", at.index)))?;
                }
                EntryPayload::Blank => machine.advance(at),
                EntryPayload::Membership(new) => {
                    *membership = StoredMembership::new(Some(entry.log_id), new);
                    machine.advance(at);
                }
            }
            *last = Some(entry.log_id);
        }
    }
}

/// Makes the data folder `dir`, which must not be there, that of a cluster of this peer alone: its state is what `capture`
/// writes, and its log goes on after `at`. It is on stable storage when this returns.
pub fn write_folder(
    dir: &Path,
    id: PeerId,
    info: PeerInfo,
    at: Position,
    capture: Capture,
) -> Result<(), OpenError> {
    DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(|source| OpenError::io("make the folder", dir, source))?;
    let last = LogId { leader_id: CommittedLeaderId::new(at.term), index: at.index };
    let alone = Membership::new(vec![[id].into()], BTreeMap::from([(id, info)]));
    let alone = alone.map_err(|error| OpenError::Start(error.to_string()))?;
    let meta =
        SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), alone) };
    let disk = Arc::new(RealDisk);
    Snapshots::write_first(disk.clone(), dir.join("snapshots"), meta, capture)?;
    write_marks(&dir.join("log"), id, last).map_err(|failure| OpenError::Start(failure.to_string()))?;
    crate::log::disk::Disk::sync_dir(disk.as_ref(), dir).map_err(|source| OpenError::io("sync", dir, source))
}

/// A log without entries, all before which are in the snapshot.
fn write_marks(dir: &Path, id: PeerId, last: LogId) -> Result<(), StorageFailure> {
    let (disk, options) = (Arc::new(RealDisk), RaftOptions::new(""));
    DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(|source| StorageFailure::io("make the folder", dir, source))?;
    let spares = Arc::new(Mutex::new(Spares::new(disk.clone(), dir.to_owned(), options.segment_bytes)));
    let index = LogIndex {
        bookmarks: Bookmarks::default(),
        slots: Default::default(),
        cache: EntryCache::new(0),
        segments: BTreeMap::new(),
    };
    let vote = Vote { leader_id: LeaderId { term: last.leader_id.term, voted_for: id }, committed: false };
    let shared = Arc::new(Mutex::new(index));
    let marks = Bookmarks::default();
    let mut writer = Writer::new(
        disk,
        dir.to_owned(),
        options.segment_bytes,
        shared,
        spares,
        marks,
        crate::log::recovery::FIRST_SEQ,
    );
    writer.write(&[
        Pending { effect: Effect::Vote(vote), encoded: Record::Vote(vote).encode() },
        Pending { effect: Effect::Purged(last), encoded: Record::Purged(last).encode() },
        Pending { effect: Effect::Committed(Some(last)), encoded: Record::Committed(Some(last)).encode() },
    ])?;
    writer.sync()
}
