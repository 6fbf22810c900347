//! Options of one peer, and every bound of this crate with its unit and reason.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::log::disk::{Disk, RealDisk};

/// Bytes of records that may wait for the log's writer before an append waits: several syncs' worth on a slow disk.
pub(crate) const QUEUED_LOG_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of entries proposed here and not yet applied, beyond which a proposal waits: bounds memory on the leader.
pub(crate) const PROPOSALS_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// How long a proposal waits for room and for its reply. After this its outcome is unknown.
pub(crate) const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a change of the membership may take to be committed, in both its steps.
pub(crate) const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a promotion waits for the learner to catch up.
pub(crate) const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);
/// Entries that a learner may be behind when it becomes a voter: a few batches, so that commits do not stall on it.
pub(crate) const CATCH_UP_LAG: u64 = 1_000;
/// Bytes of entries in one append request, beside the first entry: keeps a request well under a transport's frame.
pub(crate) const APPEND_BYTES: usize = 1024 * 1024;
/// Entries in one append request.
pub(crate) const APPEND_ENTRIES: u64 = 256;
/// Bytes of entries read at a time when committed entries are applied.
pub(crate) const APPLY_BYTES: usize = 4 * 1024 * 1024;
/// Entries applied before `batch_done` is called and replies go out.
pub(crate) const APPLY_ENTRIES: usize = 1024;
/// Bytes of a snapshot that are read from its file, or written to it, at once: few calls, and little memory.
pub(crate) const SNAPSHOT_PIECE_BYTES: usize = 256 * 1024;
/// Bytes of a snapshot in one request.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// How long one request of a snapshot may take.
pub(crate) const SNAPSHOT_CHUNK_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last request may take: the receiver stores and restores the snapshot in it.
pub(crate) const SNAPSHOT_INSTALL_DEADLINE: Duration = Duration::from_secs(60);
/// Times in a row that a request of a snapshot may fail before the transfer is given up (openraft begins it anew).
pub(crate) const SNAPSHOT_RETRIES: u32 = 3;
/// Bytes of the largest snapshot that is taken from a leader: the state that it holds has to fit into memory.
pub(crate) const MAX_SNAPSHOT_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Shortest time an append request may take before it is sent again: a slow sync must not cause resends.
pub(crate) const APPEND_DEADLINE_MIN: Duration = Duration::from_millis(1_000);
/// Unused segment files that are kept for the next rotations.
pub(crate) const SPARE_SEGMENTS: usize = 2;
/// Smallest usable segment: its header, state and one small entry.
const MIN_SEGMENT_BYTES: u64 = 1024;
/// Largest usable segment: offsets in it are 32-bit, and recovery reads it whole.
const MAX_SEGMENT_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest entry that can be allowed: an append request with it must fit a transport's frame.
const MAX_ENTRY_BYTES: usize = 64 * 1024 * 1024;

/// Heartbeat and election timing. A failover takes about `election max + min .. 2 * max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// 50 / 125–225 ms: a network of one site and disks whose syncs stay under 100 ms.
    #[default]
    Fast,
    /// 100 / 300–600 ms: where syncs stall now and then.
    Lan,
    /// 30 / 100–150 ms: good disks and a quiet network only.
    Tight,
    /// 250 / 1000–2000 ms: across sites.
    Wan,
}

/// The three times of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    /// Also the length of the leader's quorum lease.
    pub election_max: Duration,
}

impl Profile {
    pub fn timing(self) -> Timing {
        let (heartbeat, min, max) = match self {
            Self::Fast => (50, 125, 225),
            Self::Lan => (100, 300, 600),
            Self::Tight => (30, 100, 150),
            Self::Wan => (250, 1000, 2000),
        };
        let ms = Duration::from_millis;
        Timing { heartbeat: ms(heartbeat), election_min: ms(min), election_max: ms(max) }
    }
}

/// Time added to each sync of the log: none on a real disk, a model of one in simulation.
#[derive(Clone, Default)]
pub struct SyncDelay(Option<Arc<dyn Fn() -> Duration + Send + Sync>>);

impl SyncDelay {
    /// No delay.
    pub fn none() -> Self {
        Self(None)
    }

    /// The same delay for each sync.
    pub fn fixed(delay: Duration) -> Self {
        Self::model(move || delay)
    }

    /// Asked once for each sync, in order.
    pub fn model(next: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(next)))
    }

    pub(crate) fn next(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |next| next())
    }
}

impl fmt::Debug for SyncDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "SyncDelay(model)" } else { "SyncDelay(none)" })
    }
}

/// How one peer runs. `RaftOptions::new` gives what a real peer uses.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// Peers of another cluster name are refused.
    pub cluster_name: String,
    /// The id of this data folder, as the membership knows it: requests meant for another one are refused, so that a
    /// peer which lost its data neither votes nor appends as if it had them. `None`: not checked.
    pub disk_id: Option<String>,
    pub profile: Profile,
    /// A snapshot is taken after this many entries.
    pub snapshot_every_entries: u64,
    /// ... or after this many bytes of entries, whichever comes first.
    pub snapshot_every_bytes: u64,
    /// Entries that stay in the log although a snapshot holds them, so that a slow peer needs no snapshot.
    pub keep_entries_after_snapshot: u64,
    /// Size of a log segment, in bytes. Small ones in simulation.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory for replication, beside those not yet on disk.
    pub entry_cache_bytes: usize,
    /// Largest entry that may be proposed, in bytes.
    pub max_entry_bytes: usize,
    /// Added to each sync of the log.
    pub sync_delay: SyncDelay,
    /// No threads: storage runs on the runtime's own tasks. For simulation.
    pub inline_io: bool,
    /// Seed of openraft's random choices (election times). `None`: from the system.
    pub rng_seed: Option<u64>,
    pub disk: Arc<dyn Disk>,
    /// A planted mutation for the simulator, never to be set otherwise: a restarted leader takes its term again without
    /// an election, which loses committed entries.
    #[doc(hidden)]
    pub mutation_leader_restore: bool,
}

impl RaftOptions {
    pub fn new(cluster_name: impl Into<String>) -> Self {
        Self {
            cluster_name: cluster_name.into(),
            disk_id: None,
            profile: Profile::default(),
            snapshot_every_entries: 50_000,
            snapshot_every_bytes: 256 * 1024 * 1024,
            keep_entries_after_snapshot: 10_000,
            segment_bytes: 16 * 1024 * 1024,
            entry_cache_bytes: 8 * 1024 * 1024,
            max_entry_bytes: 1024 * 1024,
            sync_delay: SyncDelay::none(),
            inline_io: false,
            rng_seed: None,
            disk: Arc::new(RealDisk),
            mutation_leader_restore: false,
        }
    }

    /// Why these options cannot be used, if so.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes) {
            return Err(format!("segment_bytes must be {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}"));
        }
        if !(1..=MAX_ENTRY_BYTES).contains(&self.max_entry_bytes) {
            return Err(format!("max_entry_bytes must be 1 to {MAX_ENTRY_BYTES}"));
        }
        if self.snapshot_every_entries == 0 || self.snapshot_every_bytes == 0 {
            return Err("snapshot_every_entries and snapshot_every_bytes must be above zero".into());
        }
        Ok(())
    }

    /// openraft's configuration for these options.
    pub(crate) fn openraft(&self) -> Result<openraft::Config, String> {
        let timing = self.profile.timing();
        let millis = |time: Duration| time.as_millis() as u64;
        let (heartbeat, election_max) = (millis(timing.heartbeat), millis(timing.election_max));
        let config = openraft::Config {
            cluster_name: self.cluster_name.clone(),
            heartbeat_interval: heartbeat,
            election_timeout_min: millis(timing.election_min),
            election_timeout_max: election_max,
            enable_pre_vote: Some(true),
            // Never true outside the mutation: an asynchronous log may be shorter than what its leader committed.
            enable_leader_restore: Some(self.mutation_leader_restore),
            max_payload_entries: APPEND_ENTRIES,
            api_batch_capacity: 1024,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            max_in_snapshot_log_to_keep: self.keep_entries_after_snapshot,
            replication_lag_threshold: self.keep_entries_after_snapshot + self.snapshot_every_entries,
            install_snapshot_timeout: millis(SNAPSHOT_INSTALL_DEADLINE),
            // An unreachable peer is tried again soon: it may be back before the next election would be due.
            backoff: format!("{heartbeat}ms {}ms ...{election_max}ms", heartbeat * 2),
            ..Default::default()
        };
        config.validate().map_err(|error| error.to_string())
    }

    /// How long an append request may take.
    pub(crate) fn append_deadline(&self) -> Duration {
        (self.profile.timing().election_max * 2).max(APPEND_DEADLINE_MIN)
    }
}
