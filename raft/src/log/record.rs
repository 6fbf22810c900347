//! One record of the log: a framed, checked, versioned piece of a segment.
//!
//! ```text
//! byte 0   payload length, u32 LE
//!      4   synced_to: everything before this offset of the segment was on stable storage when this was written, u32 LE
//!      8   kind, u8
//!      9   version of the record, u8
//!     10   zero, u16
//!     12   CRC32C, u32 LE, of: segment number u64 LE, offset in the segment u64 LE, bytes 0..12, payload
//!     16   payload (CBOR), padded with zeros to a multiple of 8
//! ```
//!
//! The checksum covers where the record lies, so what an earlier life of a recycled segment left is never taken for a
//! record of this one. `synced_to` tells damage from a torn tail: a good record that names an offset beyond a bad one
//! proves that the bad one had been stored.

use crate::codec::{self, EncodedEntry, EncodedLogId, EncodedVote};
use crate::types::{Entry, LogId, Vote};
use minicbor::{Decode, Encode};

/// Bytes before the payload.
pub(crate) const FRAME_BYTES: usize = 16;
/// The record layout written by this version.
pub(crate) const RECORD_VERSION: u8 = 1;
const ALIGN: usize = 8;

/// What the log remembers besides entries. Repeated at the start of each segment, so that older ones can go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedState {
    #[n(0)]
    vote: Option<EncodedVote>,
    #[n(1)]
    purged: Option<EncodedLogId>,
    #[n(2)]
    committed: Option<EncodedLogId>,
    #[n(3)]
    last: Option<EncodedLogId>,
}

/// The log's state beside its entries.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Bookmarks {
    pub vote: Option<Vote>,
    /// Entries up to this one are gone (a snapshot holds them).
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogId>,
}

impl Bookmarks {
    /// Entries up to `id` are gone.
    pub(crate) fn purge(&mut self, id: LogId) {
        self.purged = Some(id);
        if self.last.is_none_or(|last| last.index <= id.index) {
            self.last = Some(id);
        }
    }

    /// Entries after this one are gone (all, when `None`).
    pub(crate) fn truncate(&mut self, after: Option<LogId>) {
        let keep = after.or(self.purged);
        if self.last.map(|last| last.index) > keep.map(|keep| keep.index) {
            self.last = keep;
        }
    }
}

impl From<&Bookmarks> for EncodedState {
    fn from(b: &Bookmarks) -> Self {
        Self {
            vote: b.vote.map(Into::into),
            purged: b.purged.map(Into::into),
            committed: b.committed.map(Into::into),
            last: b.last.map(Into::into),
        }
    }
}

impl From<EncodedState> for Bookmarks {
    fn from(code: EncodedState) -> Self {
        Self {
            vote: code.vote.map(Into::into),
            purged: code.purged.map(Into::into),
            committed: code.committed.map(Into::into),
            last: code.last.map(Into::into),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct OptionalId {
    #[n(0)]
    id: Option<EncodedLogId>,
}

/// One step of the log's history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// First in each segment: all that came before.
    State(Bookmarks),
    Entry(Entry),
    Vote(Vote),
    Committed(Option<LogId>),
    /// Entries up to this one are gone.
    Purged(LogId),
    /// Entries after this one are gone (all, when `None`).
    Truncated(Option<LogId>),
    /// Last in a segment: the next one goes on.
    Sealed,
}

/// A record's kind and content, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    kind: u8,
    payload: Vec<u8>,
}

impl Encoded {
    /// Bytes it takes in a segment.
    pub(crate) fn framed_len(&self) -> usize {
        framed_len(self.payload.len())
    }

    /// Appends the frame for this place: `buffer` is what goes to `base` of segment `seq`.
    pub(crate) fn frame(&self, seq: u64, base: u64, synced_to: u32, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let offset = base + start as u64;
        buffer.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&synced_to.to_le_bytes());
        buffer.extend_from_slice(&[self.kind, RECORD_VERSION, 0, 0]);
        let crc = checksum(seq, offset, &buffer[start..start + 12], &self.payload);
        buffer.extend_from_slice(&crc.to_le_bytes());
        buffer.extend_from_slice(&self.payload);
        buffer.resize(start + self.framed_len(), 0);
    }
}

/// Appends a frame with any kind and payload to a segment.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn frame_raw(kind: u8, payload: &[u8], seq: u64, segment: &mut Vec<u8>) {
    let synced_to = segment.len() as u32;
    Encoded { kind, payload: payload.to_vec() }.frame(seq, 0, synced_to, segment);
}

/// Bytes that a payload of this length takes in a segment.
pub(crate) fn framed_len(payload: usize) -> usize {
    (FRAME_BYTES + payload).next_multiple_of(ALIGN)
}

impl Record {
    pub(crate) fn encode(&self) -> Encoded {
        let (kind, payload) = match self {
            Self::Sealed => (1, Vec::new()),
            Self::State(state) => (2, codec::encode(&EncodedState::from(state))),
            Self::Entry(entry) => (3, codec::encode(&EncodedEntry::from(entry))),
            Self::Vote(vote) => (4, codec::encode(&EncodedVote::from(*vote))),
            Self::Committed(id) => (5, codec::encode(&OptionalId { id: id.map(Into::into) })),
            Self::Purged(id) => (6, codec::encode(&EncodedLogId::from(*id))),
            Self::Truncated(id) => (7, codec::encode(&OptionalId { id: id.map(Into::into) })),
        };
        Encoded { kind, payload }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, String> {
        let bad = |source: minicbor::decode::Error| source.to_string();
        Ok(match kind {
            1 => Self::Sealed,
            2 => Self::State(minicbor::decode::<EncodedState>(payload).map_err(bad)?.into()),
            3 => Self::Entry(minicbor::decode::<EncodedEntry>(payload).map_err(bad)?.into()),
            4 => Self::Vote(minicbor::decode::<EncodedVote>(payload).map_err(bad)?.into()),
            5 => Self::Committed(minicbor::decode::<OptionalId>(payload).map_err(bad)?.id.map(Into::into)),
            6 => Self::Purged(minicbor::decode::<EncodedLogId>(payload).map_err(bad)?.into()),
            7 => Self::Truncated(minicbor::decode::<OptionalId>(payload).map_err(bad)?.id.map(Into::into)),
            other => return Err(format!("record kind {other} is not known to this version")),
        })
    }
}

/// A frame that passed its checksum.
pub(crate) struct Frame<'a> {
    pub synced_to: u32,
    /// Bytes it takes, padding included.
    pub len: usize,
    kind: u8,
    version: u8,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at this offset of the segment, or `None` when no valid one starts there.
    pub(crate) fn parse(seq: u64, segment: &'a [u8], offset: usize) -> Option<Self> {
        let head = segment.get(offset..offset + FRAME_BYTES)?;
        let [kind, version, 0, 0] = head[8..12] else { return None };
        let (payload_len, synced_to, crc) = (word(head, 0), word(head, 4), word(head, 12));
        if kind == 0 || version == 0 {
            return None;
        }
        let start = offset + FRAME_BYTES;
        let payload = segment.get(start..start.checked_add(payload_len as usize)?)?;
        if checksum(seq, offset as u64, &head[..12], payload) != crc {
            return None;
        }
        Some(Self { synced_to, len: framed_len(payload.len()), kind, version, payload })
    }

    /// The record, or why this version cannot read it although it is undamaged.
    pub(crate) fn record(&self) -> Result<Record, String> {
        if self.version > RECORD_VERSION {
            return Err(format!("record version {} is newer than {RECORD_VERSION}", self.version));
        }
        Record::decode(self.kind, self.payload)
    }
}

/// Reads one record whose place is known.
pub(crate) fn parse_placed(seq: u64, offset: u64, bytes: &[u8]) -> Option<Record> {
    let head = bytes.get(..FRAME_BYTES)?;
    let payload = bytes.get(FRAME_BYTES..FRAME_BYTES + word(head, 0) as usize)?;
    if checksum(seq, offset, &head[..12], payload) != word(head, 12) {
        return None;
    }
    Record::decode(head[8], payload).ok()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn checksum(seq: u64, offset: u64, head: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&seq.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, head);
    crc32c::crc32c_append(crc, payload)
}
