//! The replicated state machine: the trait to implement, and the adapter that openraft drives.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::log::lock;
use crate::options::APPLY_ENTRIES;
use crate::snapshot::{Body, Snapshots};
use crate::types::{
    BoxedReply, Entry, EntryPayload, LogId, Position, Snapshot, SnapshotMeta, StoredMembership, Types,
    position,
};

/// Writes a captured state, piece by piece; pieces may be as small as it likes. Runs off the apply path.
pub type Capture = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The replicated state machine. All calls come in log order from one task.
pub trait StateMachine: Send + 'static {
    /// What the proposer of an entry gets back.
    type Reply: Send + 'static;

    /// Applies one proposed entry. Equal on every peer: it depends on the state and the arguments alone. An error, for an
    /// entry that this peer does not understand, stops this peer before anything of it is applied.
    fn apply(&mut self, at: Position, data: &[u8]) -> Result<Self::Reply, String>;

    /// An entry without content for the machine went by: a leader's first entry, or a change of the membership.
    fn advance(&mut self, at: Position);

    /// Ends a batch of `apply` and `advance` calls. Replies go out after it, so what it publishes is there by then.
    fn batch_done(&mut self);

    /// A cheap capture of the state as it is now; the closure writes it later, beside further `apply` calls.
    fn capture(&self) -> Capture;

    /// Replaces the state by the one that is read, which held everything up to `at`. An error stops this peer.
    fn restore(&mut self, at: Position, from: &mut dyn Read) -> Result<(), String>;
}

/// Counts bytes applied since the last snapshot, so that one is taken in time.
#[derive(Debug)]
pub(crate) struct SnapshotTrigger {
    bytes: AtomicU64,
    limit: u64,
    reached: tokio::sync::Notify,
}

impl SnapshotTrigger {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), limit, reached: tokio::sync::Notify::new() })
    }

    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < self.limit && before + bytes >= self.limit {
            self.reached.notify_one();
        }
    }

    fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Resolves each time the limit is reached.
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }
}

/// What openraft drives: the machine, and where it stands in the log.
pub(crate) struct Applier<M> {
    // Only `get_mut` is ever used: the lock is there because openraft asks for `Sync`, which a machine need not be.
    machine: Mutex<M>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    growth: Arc<SnapshotTrigger>,
}

/// A batch of replies that wait for `batch_done`.
type Replies = Vec<(ApplyResponder<Types>, BoxedReply)>;

impl<M: StateMachine> Applier<M> {
    pub(crate) fn new(machine: M, snapshots: Arc<Snapshots>, growth: Arc<SnapshotTrigger>) -> Self {
        let membership = StoredMembership::default();
        Self { machine: Mutex::new(machine), applied: None, membership, snapshots, growth }
    }

    fn machine(&mut self) -> &mut M {
        self.machine.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<BoxedReply, io::Error> {
        let at = position(&entry.log_id);
        let outcome = match entry.payload {
            EntryPayload::Normal(payload) => {
                self.growth.add(payload.0.len() as u64);
                let applied = self.machine().apply(at, &payload.0);
                BoxedReply::boxed(applied.map_err(|what| {
                    let what = format!("log entry {} cannot be applied: {what}", at.index);
                    io::Error::new(io::ErrorKind::InvalidData, what)
                })?)
            }
            EntryPayload::Blank => {
                self.machine().advance(at);
                BoxedReply::none()
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.machine().advance(at);
                BoxedReply::none()
            }
        };
        self.applied = Some(entry.log_id);
        Ok(outcome)
    }

    fn finish_batch(&mut self, replies: &mut Replies) {
        self.machine().batch_done();
        for (responder, outcome) in replies.drain(..) {
            responder.send(outcome);
        }
    }
}

impl<M: StateMachine> RaftStateMachine<Types> for Applier<M> {
    type SnapshotData = Body;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut replies = Replies::new();
        let mut in_batch = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next.inspect_err(|error| self.snapshots.report(error))?;
            let outcome = match self.apply_entry(entry) {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.finish_batch(&mut replies);
                    self.snapshots.report(&error);
                    return Err(error);
                }
            };
            replies.extend(responder.map(|responder| (responder, outcome)));
            in_batch += 1;
            if in_batch == APPLY_ENTRIES {
                self.finish_batch(&mut replies);
                in_batch = 0;
            }
        }
        if in_batch > 0 {
            self.finish_batch(&mut replies);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.growth.reset();
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let capture = Mutex::new(Some(self.machine().capture()));
        Builder { meta, capture, snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Body) -> Result<(), io::Error> {
        // Durable first: the log that it replaces is purged as soon as this returns.
        self.snapshots.save(meta.clone(), snapshot.clone()).await?;
        let at = meta.last_log_id.as_ref().map(position).unwrap_or_default();
        let restored = self.machine().restore(at, &mut snapshot.reader());
        restored.map_err(|what| {
            let what = format!("the snapshot at entry {} cannot be restored: {what}", at.index);
            let error = io::Error::new(io::ErrorKind::InvalidData, what);
            self.snapshots.report(&error);
            error
        })?;
        self.machine().batch_done();
        self.growth.reset();
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.snapshots.current().await
    }
}

/// A captured state on its way to a snapshot file.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    capture: Mutex<Option<Capture>>,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Body;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let capture =
            lock(&self.capture).take().ok_or_else(|| io::Error::other("a capture is encoded once"))?;
        let snapshot = self.snapshots.write(self.meta.clone(), capture).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
