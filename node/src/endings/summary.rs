//! The form of what an attempt wrote last: compressed, and the same on every peer.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use stint_executor::{LastOutput, LogChunk};
use stint_protocol::Ending;

/// Fast, and as small as higher ones for so few bytes.
const LEVEL: i32 = 3;
/// Bytes of the longest that is written or read, uncompressed: two tails and a line of progress, and room.
const MOST_BYTES: usize = 64 * 1024;

/// The ends of an attempt's streams and its last progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct EndingSummary {
    #[n(0)]
    pub stdout: OutputTail,
    #[n(1)]
    pub stderr: OutputTail,
    /// JSON, as `Host::progress` answers; empty: it said nothing.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub progress: Vec<u8>,
}

/// The end of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct OutputTail {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
    /// Bytes that were written in all.
    #[n(1)]
    pub total: u64,
}

impl OutputTail {
    /// Whether these are all that was written.
    pub fn is_whole(&self) -> bool {
        self.total <= self.bytes.len() as u64
    }

    /// Where in the stream they begin.
    pub fn offset(&self) -> u64 {
        self.total.saturating_sub(self.bytes.len() as u64)
    }
}

impl From<&LogChunk> for OutputTail {
    fn from(chunk: &LogChunk) -> Self {
        Self { bytes: chunk.bytes.clone(), total: chunk.next_offset }
    }
}

/// What is reported of an attempt that has ended; none when it wrote nothing.
pub fn pack(last: &LastOutput) -> Option<ByteVec> {
    let LastOutput { stdout, stderr, progress } = last;
    let summary = EndingSummary { stdout: stdout.into(), stderr: stderr.into(), progress: progress.clone() };
    if summary == EndingSummary::default() {
        return None;
    }
    let bytes = minicbor::to_vec(&summary).ok().filter(|bytes| bytes.len() <= MOST_BYTES)?;
    zstd::bulk::compress(&bytes, LEVEL).ok().map(ByteVec::from)
}

/// What another peer, or this one, packed; none when there is nothing, or nothing that this version reads.
pub fn unpack(ending: &Ending) -> Option<EndingSummary> {
    let bytes = zstd::bulk::decompress(ending.summary.as_ref()?, MOST_BYTES).ok()?;
    minicbor::decode(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(bytes: &[u8], next_offset: u64) -> LogChunk {
        LogChunk { bytes: bytes.to_vec(), next_offset, complete: true }
    }

    #[test]
    fn who_wrote_nothing_costs_nothing() {
        assert_eq!(pack(&LastOutput::default()), None);
        assert!(pack(&LastOutput { stderr: chunk(b"x", 1), ..LastOutput::default() }).is_some());
        assert!(pack(&LastOutput { progress: b"{}".to_vec(), ..LastOutput::default() }).is_some());
    }

    #[test]
    fn what_is_packed_is_unpacked_and_is_small() {
        let line = b"2026-11-21T17:00:00 step 17 of 900, loss 0.113\n".repeat(90);
        let last = LastOutput {
            stdout: chunk(&line[..4_096], 10 << 20),
            stderr: chunk(b"a warning\n", 10),
            progress: br#"{"percent":40}"#.to_vec(),
        };
        let summary = pack(&last).unwrap();
        assert!(summary.len() < 256, "{}", summary.len());
        let read = unpack(&Ending { summary: Some(summary), ..Ending::default() }).unwrap();
        assert_eq!((&read.stdout.bytes[..], read.stdout.offset()), (&line[..4_096], (10 << 20) - 4_096));
        assert!(!read.stdout.is_whole() && read.stderr.is_whole());
        assert_eq!(&read.progress[..], br#"{"percent":40}"#);
    }

    #[test]
    fn what_would_take_much_memory_is_not_read() {
        let bomb = zstd::bulk::compress(&vec![0; 16 << 20], LEVEL).unwrap();
        assert_eq!(unpack(&Ending { summary: Some(bomb.into()), ..Ending::default() }), None);
        assert_eq!(unpack(&Ending { summary: Some(b"no zstd".to_vec().into()), ..Ending::default() }), None);
    }
}
