//! The records of durable workflow instances: what stands once for each, and what grows beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use stint_protocol::{
    Blob, CheckpointId, ImageId, ImageName, InstanceEvent, InstanceId, InstanceStatus, Payload, SignalKind,
    TaskId, Tenant, TimeMs, limits,
};

use crate::mutations::{Mutation, planted};

/// Requests that are remembered of an instance that sleeps or has ended: an operator's may still come again.
const REMEMBERED_ASLEEP: usize = 4;
/// Nobody waits longer, in milliseconds: a hundred years.
const LONGEST_SLEEP_MS: u64 = 100 * 365 * 24 * 3_600_000;

/// An instance inside the state: the small key of all that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct InstanceNo(#[n(0)] pub u64);

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum InstanceState {
    #[n(0)]
    Pending,
    #[n(1)]
    Running,
    #[n(2)]
    Suspended {
        #[n(0)]
        why: Why,
        /// The attempt in which it became so: what that attempt's end means is no failure. 0: none.
        #[n(1)]
        by: u32,
    },
    #[n(3)]
    Completed,
    #[n(4)]
    Failed,
    #[n(5)]
    Cancelled,
}

/// Why an instance is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Why {
    /// An operator paused it.
    #[n(0)]
    Paused,
    /// Until this time.
    #[n(1)]
    Asleep(#[n(0)] TimeMs),
    /// Its program said so, and nobody had asked for it.
    #[n(2)]
    Said,
}

impl InstanceState {
    /// The word for clients.
    pub fn status(self) -> InstanceStatus {
        match self {
            Self::Pending => InstanceStatus::Pending,
            Self::Running => InstanceStatus::Running,
            Self::Suspended { .. } => InstanceStatus::Suspended,
            Self::Completed => InstanceStatus::Completed,
            Self::Failed => InstanceStatus::Failed,
            Self::Cancelled => InstanceStatus::Cancelled,
        }
    }

    /// Whether it never changes again.
    pub fn is_ended(self) -> bool {
        self.status().is_ended()
    }
}

/// What an instance got when it was started. Every launch gets it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Given {
    #[n(0)]
    pub input: Option<Payload>,
    #[n(1)]
    pub env: BTreeMap<String, String>,
    /// The request that started it: one that comes again is told the same.
    #[n(2)]
    pub request: u64,
}

/// What an operator wants of an instance; a newer one replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Signal {
    #[n(0)]
    pub kind: SignalKind,
    #[n(1)]
    pub payload: Payload,
    #[n(2)]
    pub at: TimeMs,
    /// The program has seen it and says so: it is shown no more.
    #[n(3)]
    pub acknowledged: bool,
}

/// What grows beside an instance, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counts {
    #[n(0)]
    pub checkpoints: u32,
    #[n(1)]
    pub events_kept: u32,
    /// Those that are not kept any more included: the number of the next one.
    #[n(2)]
    pub events: u64,
    #[n(3)]
    pub custom_signals: u32,
    /// Of its payloads and events, as far as the state holds them itself.
    #[n(4)]
    pub bytes: u64,
}

/// An instance. It is copied with each write, so nothing that grows stands in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Instance {
    #[n(0)]
    pub id: InstanceId,
    #[n(1)]
    pub tenant: Tenant,
    /// Every launch is an attempt of this task. None: it runs outside the cluster.
    #[n(2)]
    pub task: Option<TaskId>,
    #[n(3)]
    pub image: Option<(ImageId, ImageName)>,
    #[n(4)]
    pub state: InstanceState,
    #[n(5)]
    pub created: TimeMs,
    /// When its latest launch said that it is at work.
    #[n(6)]
    pub started: Option<TimeMs>,
    #[n(7)]
    pub finished: Option<TimeMs>,
    /// The one that was saved last.
    #[n(8)]
    pub checkpoint: Option<CheckpointId>,
    #[n(9)]
    #[cbor(with = "shared_given")]
    pub given: Arc<Given>,
    #[n(10)]
    pub output: Option<Payload>,
    #[n(11)]
    pub error: Option<String>,
    #[n(12)]
    pub signal: Option<Box<Signal>>,
    /// Requests that were carried out lately, the oldest first.
    #[n(13)]
    pub recent: Vec<u64>,
    /// The attempt that wrote last; its writes are counted in `calls`.
    #[n(14)]
    pub launch: u32,
    #[n(15)]
    pub calls: u32,
    /// It was resumed while the program that it was suspended in had not ended.
    #[n(16)]
    pub resume_wanted: bool,
    /// The attempt that said how it ended; none: nobody did, or a program outside.
    #[n(17)]
    pub ended_by: Option<u32>,
    /// The last one that was kept as an event.
    #[n(18)]
    pub heartbeat: Option<TimeMs>,
    /// A launch of it said that it is at work: one that ends without another word has failed.
    #[n(19)]
    pub registered: bool,
    /// How long its program may take to stop, in milliseconds, when it was stopped with a time of its own.
    #[n(20)]
    pub stop_grace_ms: Option<u32>,
    #[n(21)]
    pub counts: Counts,
}

impl Instance {
    /// Stored bytes that the record itself refers to.
    pub(crate) fn blobs(&self) -> Vec<Blob> {
        let signal = self.signal.iter().map(|signal| &signal.payload);
        self.given.input.iter().chain(&self.output).chain(signal).filter_map(Payload::blob).collect()
    }

    /// The signal that its program has not acknowledged.
    pub fn pending_signal(&self) -> Option<&Signal> {
        self.signal.as_deref().filter(|signal| !signal.acknowledged)
    }

    /// Whether this request was carried out lately.
    pub(crate) fn has_seen(&self, request: u64) -> bool {
        self.recent.contains(&request)
    }

    /// Keeps in mind that a request was carried out.
    pub(crate) fn remember(&mut self, request: u64) {
        if self.recent.len() >= limits::INSTANCE_REQUESTS {
            self.recent.remove(0);
        }
        self.recent.push(request);
    }

    /// Its program writes nothing for now: only what was asked last may still come again.
    pub(crate) fn forget_requests(&mut self) {
        let first = self.recent.len().saturating_sub(REMEMBERED_ASLEEP);
        self.recent = self.recent[first..].to_vec();
    }
}

/// A step that is done.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Checkpoint {
    #[n(0)]
    pub state: Payload,
    #[n(1)]
    pub at: TimeMs,
    /// The attempt (0: a program outside) and the request that saved it.
    #[n(2)]
    pub by: (u32, u64),
    /// Its place among all that was ever saved.
    #[n(3)]
    pub sequence: u64,
    /// Set for a try of a step that failed, which is no step that is done.
    #[n(4)]
    pub failed_try: Option<Box<FailedTry>>,
}

/// A try of a step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FailedTry {
    #[n(0)]
    pub number: u32,
    #[n(1)]
    pub error: Option<String>,
}

/// The sleeps of an instance on one checkpoint id. A program may sleep on one again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Sleep {
    /// Sleeps that are over.
    #[n(0)]
    pub done: u32,
    /// When the one behind those is over, once it was asked for.
    #[n(1)]
    pub until: Option<TimeMs>,
    /// How many a launch has asked for: its attempt, and the number.
    #[n(2)]
    pub asked: (u32, u32),
}

impl Sleep {
    /// One more sleep of a launch: when it is over. The n-th one of a launch is the n-th one of the instance, so a launch that
    /// does again what an earlier one did waits only for what is left.
    pub(crate) fn ask(&mut self, launch: u32, now: TimeMs, duration_ms: u64) -> TimeMs {
        if self.asked.0 != launch {
            self.asked = (launch, 0);
        }
        self.asked.1 += 1;
        let number = self.asked.1;
        if number <= self.done {
            return now;
        }
        match self.until {
            Some(until) if number == self.done + 1 => until,
            Some(_) if planted(Mutation::SleepIgnoresOrdinal) => now,
            // Whoever asks for the next one is done with the one before, also where the log's time lags behind.
            _ => {
                let until = now.plus(duration_ms.min(LONGEST_SLEEP_MS));
                (self.done, self.until) = (number - 1, Some(until));
                until
            }
        }
    }
}

/// What somebody sends to one step of an instance; a newer one replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CustomSignal {
    #[n(0)]
    pub payload: Payload,
    #[n(1)]
    pub at: TimeMs,
    /// The attempt and the request that got it last. The same launch gets it never again, a later one once more.
    #[n(2)]
    pub taken_by: Option<(u32, u64)>,
}

/// How the instances of a tenant ended in one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HourCounts {
    #[n(0)]
    pub completed: u64,
    #[n(1)]
    pub failed: u64,
    #[n(2)]
    pub cancelled: u64,
    /// From start to end, in milliseconds, of those that had started.
    #[n(3)]
    pub started: u64,
    #[n(4)]
    pub duration_ms: u64,
    #[n(5)]
    pub shortest_ms: u64,
    #[n(6)]
    pub longest_ms: u64,
}

impl HourCounts {
    pub(crate) fn count(&mut self, instance: &Instance) {
        match instance.state.status() {
            InstanceStatus::Completed => self.completed += 1,
            InstanceStatus::Failed => self.failed += 1,
            _ => self.cancelled += 1,
        }
        let (Some(started), Some(finished)) = (instance.started, instance.finished) else { return };
        let took = finished.since(started);
        self.shortest_ms = if self.started == 0 { took } else { self.shortest_ms.min(took) };
        self.longest_ms = self.longest_ms.max(took);
        self.duration_ms = self.duration_ms.saturating_add(took);
        self.started += 1;
    }
}

/// An event as it is kept.
pub(crate) fn encode_event(event: &InstanceEvent) -> Arc<[u8]> {
    minicbor::to_vec(event).unwrap_or_else(|never| panic!("encoding to memory: {never}")).into()
}

pub(crate) fn decode_event(bytes: &[u8]) -> InstanceEvent {
    minicbor::decode(bytes).unwrap_or_else(|error| panic!("what was kept is read: {error}"))
}

mod shared_given {
    use std::sync::Arc;

    use minicbor::encode::{Error, Write};
    use minicbor::{Decode, Decoder, Encode, Encoder};

    use super::Given;

    pub fn encode<C, W: Write>(
        given: &Arc<Given>,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), Error<W::Error>> {
        Given::encode(given, e, context)
    }

    pub fn decode<'b, C>(
        d: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Arc<Given>, minicbor::decode::Error> {
        Given::decode(d, context).map(Arc::new)
    }
}
