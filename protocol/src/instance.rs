//! Durable workflow instances: what programs and operators name and say of them, each checked once where it enters.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::ids::{InvalidName, LeaseId, name_type};
use crate::limits;
use crate::time::TimeMs;

name_type!(
    /// A workflow instance, chosen by who starts it and unique in the cluster: clients name no tenant beside it.
    InstanceId, "instance id", check_instance_id
);
name_type!(
    /// A step of an instance that is done, named by its program; unique inside the instance.
    CheckpointId, "checkpoint id", check_checkpoint_id
);

/// It names a folder and stands in log lines, so it can be no path.
fn check_instance_id(text: &str) -> Result<(), &'static str> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'@' | b'-');
    let length = (1..=limits::INSTANCE_ID_BYTES).contains(&text.len());
    if length && text.bytes().all(known) && !text.starts_with('.') && !text.contains("..") {
        Ok(())
    } else {
        Err(
            "an instance id has 1 to 128 letters, digits, '.', '_', ':', '@' and '-', no '.' in front and no '..'",
        )
    }
}

fn check_checkpoint_id(text: &str) -> Result<(), &'static str> {
    let most = limits::CHECKPOINT_ID_BYTES + RETRY.len() + 10;
    if text.is_empty() || text.contains('\0') {
        return Err("a checkpoint id has at least one character, and no NUL");
    }
    // Those of retries are longer by what is added to them; whoever takes a new one asks for less (`CheckpointId::given`).
    if text.len() > most { Err("a checkpoint id has 512 bytes at most") } else { Ok(()) }
}

/// Stands between the id of a checkpoint and the number of a try of its step.
const RETRY: &str = "::retry::";

impl CheckpointId {
    /// One that a program gives.
    pub fn given(text: &str) -> Result<Self, InvalidName> {
        if text.len() > limits::CHECKPOINT_ID_BYTES {
            return Err(InvalidName::new("checkpoint id", text, "a checkpoint id has 512 bytes at most"));
        }
        Self::new(text)
    }

    /// The id under which a try of this checkpoint's step is kept.
    pub fn of_try(&self, number: u32) -> Result<Self, InvalidName> {
        Self::new(&format!("{self}{RETRY}{number}"))
    }

    /// None sorts before it.
    pub fn first() -> Self {
        Self("\u{1}".into())
    }
}

/// Bytes that a program or an operator gives: small ones themselves, others by the name of stored bytes. Copies share them.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum Payload {
    #[n(0)]
    Inline(
        #[n(0)]
        #[cbor(with = "shared_bytes")]
        Arc<[u8]>,
    ),
    #[n(1)]
    Blob(#[n(0)] Blob),
}

impl Payload {
    /// Small bytes. None: they have to be stored as a blob first.
    pub fn inline(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= limits::INLINE_PAYLOAD_BYTES).then(|| Self::Inline(bytes.into()))
    }

    /// No bytes.
    pub fn empty() -> Self {
        Self::Inline(Arc::default())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes it stands for.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob(blob) => blob.size,
        }
    }

    /// How many of them it holds itself.
    pub fn inline_len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob(_) => 0,
        }
    }

    /// The stored bytes that it names.
    pub fn blob(&self) -> Option<Blob> {
        match self {
            Self::Inline(_) => None,
            Self::Blob(blob) => Some(*blob),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(64)])),
            Self::Blob(blob) => write!(f, "{blob}"),
        }
    }
}

mod shared_bytes {
    use std::sync::Arc;

    use minicbor::encode::{Error, Write};
    use minicbor::{Decoder, Encoder};

    pub fn encode<C, W: Write>(
        bytes: &Arc<[u8]>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), Error<W::Error>> {
        e.bytes(bytes)?.ok()
    }

    pub fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Arc<[u8]>, minicbor::decode::Error> {
        Ok(d.bytes()?.into())
    }
}

/// Where an instance stands, in the words that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceStatus {
    /// Its program has not said that it is at work.
    Pending,
    Running,
    /// Asleep until a time, or paused until somebody resumes it.
    Suspended,
    Completed,
    Failed,
    Cancelled,
}

impl InstanceStatus {
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Suspended, Self::Completed, Self::Failed, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it never changes again.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for InstanceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an operator wants of an instance. Its program sees it at its next checkpoint, or when it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum SignalKind {
    #[n(0)]
    Cancel,
    #[n(1)]
    Pause,
    #[n(2)]
    Resume,
}

impl SignalKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// What kind of event an instance has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum EventKind {
    #[n(0)]
    Heartbeat,
    /// The cluster notes it when a program says that it is at work.
    #[n(1)]
    Started,
    #[n(2)]
    Completed,
    #[n(3)]
    Failed,
    #[n(4)]
    Suspended,
    #[n(5)]
    Custom,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Suspended => "suspended",
            Self::Custom => "custom",
        }
    }

    /// Whether it says how the instance ended.
    pub fn ends(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// One event of an instance, as its program says it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InstanceEvent {
    #[n(0)]
    pub kind: EventKind,
    /// The program's own word for a custom event.
    #[n(1)]
    pub subtype: Option<String>,
    #[n(2)]
    pub checkpoint: Option<CheckpointId>,
    #[n(3)]
    pub payload: Payload,
    /// By the program's clock.
    #[n(4)]
    pub at: TimeMs,
}

impl InstanceEvent {
    /// Bytes of its own that it brings, about.
    pub fn weight(&self) -> usize {
        let subtype = self.subtype.as_ref().map_or(0, |subtype| subtype.len());
        let checkpoint = self.checkpoint.as_ref().map_or(0, |id| id.as_str().len());
        32 + subtype + checkpoint + self.payload.inline_len() as usize
    }
}

/// Who writes for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Writer {
    /// A program that the cluster did not start, or a client that says it is one.
    #[n(0)]
    Outside,
    /// The program of this attempt, over the connection that only it has.
    #[n(1)]
    Launch(#[n(0)] LeaseId),
}

/// What a program left in its file of results, for clients that send no events.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeftResult {
    #[n(0)]
    Completed(#[n(0)] Option<Payload>),
    #[n(1)]
    Failed(#[n(0)] String),
    #[n(2)]
    Suspended,
    /// It wants to be started again after so long.
    #[n(3)]
    Sleeping {
        #[n(0)]
        checkpoint: CheckpointId,
        #[n(1)]
        wake_after_ms: u64,
    },
    #[n(4)]
    Cancelled,
}

impl LeftResult {
    /// Bytes of its own that it brings, about.
    pub fn weight(&self) -> usize {
        match self {
            Self::Completed(output) => output.as_ref().map_or(0, |output| output.inline_len() as usize),
            Self::Failed(error) => error.len(),
            Self::Sleeping { checkpoint, .. } => checkpoint.as_str().len(),
            Self::Suspended | Self::Cancelled => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_ids_are_no_paths() {
        let long = "x".repeat(129);
        for bad in ["", ".", "..", ".a", "a..b", "a/b", "a\\b", "a b", "a\0", "é", "a\n", "../../etc", &long]
        {
            assert!(InstanceId::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["0", "-", "a.b_c:d@e-f", "0192f3a4-5b6c-7d8e-9fa0-b1c2d3e4f5a6", &"x".repeat(128)] {
            assert!(InstanceId::new(good).is_ok(), "{good:?} was refused");
        }
        assert!(InstanceId::new(&"x".repeat(10 << 10)).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn checkpoint_ids_are_any_text_that_is_not_long() {
        for bad in ["", "a\0b", &"x".repeat(513)] {
            assert!(CheckpointId::given(bad).is_err(), "{bad:?} was taken");
        }
        let longest = CheckpointId::given(&"x".repeat(512)).unwrap();
        for good in ["../..", "durable::charge::order 7", "ü\n", "\u{1}"] {
            assert!(CheckpointId::given(good).unwrap() >= CheckpointId::first());
        }
        let tried = longest.of_try(u32::MAX).unwrap();
        assert!(tried.as_str().ends_with("x::retry::4294967295"), "{tried}");
        let bytes = minicbor::to_vec(&tried).unwrap();
        assert_eq!(minicbor::decode::<CheckpointId>(&bytes).unwrap(), tried);
    }

    #[test]
    fn a_payload_is_small_or_names_stored_bytes() {
        let most = vec![7; limits::INLINE_PAYLOAD_BYTES];
        let small = Payload::inline(&most).unwrap();
        assert_eq!((small.len(), small.inline_len(), small.blob()), (16_384, 16_384, None));
        assert_eq!(Payload::inline(&[most, vec![7]].concat()), None);
        let blob = Blob { digest: crate::Digest::from_bytes([3; 32]), size: 1 << 20 };
        let large = Payload::Blob(blob);
        assert_eq!((large.len(), large.inline_len(), large.blob()), (1 << 20, 0, Some(blob)));
        assert!(Payload::empty().is_empty() && !large.is_empty());
        for payload in [small, large, Payload::empty()] {
            let bytes = minicbor::to_vec(&payload).unwrap();
            assert_eq!(minicbor::decode::<Payload>(&bytes).unwrap(), payload);
        }
    }

    #[test]
    fn words_are_those_of_the_clients() {
        let statuses = InstanceStatus::ALL.map(InstanceStatus::as_str);
        assert_eq!(statuses, ["pending", "running", "suspended", "completed", "failed", "cancelled"]);
        let ended: Vec<_> = InstanceStatus::ALL.into_iter().filter(|status| status.is_ended()).collect();
        assert_eq!(ended, [InstanceStatus::Completed, InstanceStatus::Failed, InstanceStatus::Cancelled]);
        let events =
            ["heartbeat", "started", "completed", "failed", "suspended", "custom"].into_iter().zip(0..);
        for (word, number) in events {
            let kind: EventKind = minicbor::decode(&[number]).unwrap();
            assert_eq!(kind.as_str(), word);
        }
    }
}
