//! The form of what an attempt wrote last: compressed, and the same on every peer.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use stint_executor::{LastOutput, LogChunk, SmallFile};
use stint_protocol::Ending;

/// Fast, and as small as higher ones for so few bytes.
const LEVEL: i32 = 3;
/// Bytes of the longest that is written or read, uncompressed: two tails, a line of progress, what the program says its result is, and
/// room.
const MOST_BYTES: usize = 64 * 1024;

/// The ends of an attempt's streams, its last progress, and its results that are small JSON.
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
    /// JSON: what the program says its result is.
    #[n(3)]
    #[cbor(default)]
    pub result: Option<ByteVec>,
    /// Its outputs that are small JSON.
    #[n(4)]
    #[cbor(default)]
    pub files: Option<Vec<SmallFile>>,
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
    let LastOutput { stdout, stderr, progress, said } = last;
    let summary = EndingSummary {
        stdout: stdout.into(),
        stderr: stderr.into(),
        progress: progress.clone(),
        result: Some(said.result.clone()).filter(|result| !result.is_empty()).map(ByteVec::from),
        files: Some(said.files.clone()).filter(|files| !files.is_empty()),
    };
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

    use stint_executor::Said;
    use stint_protocol::limits::ENDING_TAIL_BYTES;

    fn small(path: &str, json: &[u8]) -> SmallFile {
        SmallFile { path: path.into(), json: json.to_vec() }
    }

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
            said: Said { result: b"7".to_vec(), files: vec![small("metrics.json", b"{}")] },
        };
        let summary = pack(&last).unwrap();
        assert!(summary.len() < 256, "{}", summary.len());
        let read = unpack(&Ending { summary: Some(summary), ..Ending::default() }).unwrap();
        assert_eq!((&read.stdout.bytes[..], read.stdout.offset()), (&line[..4_096], (10 << 20) - 4_096));
        assert!(!read.stdout.is_whole() && read.stderr.is_whole());
        assert_eq!(&read.progress[..], br#"{"percent":40}"#);
        assert_eq!((read.result, read.files), (Some(b"7".to_vec().into()), Some(last.said.files)));
    }

    /// What hosts bound fits, when nothing of it can be compressed.
    #[test]
    fn the_longest_of_all_is_packed() {
        let noise = |bytes: usize| -> Vec<u8> {
            let mut state = 7u64;
            let next = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            };
            (0..bytes).map(next).collect()
        };
        let tail = chunk(&noise(ENDING_TAIL_BYTES), 1 << 40);
        let said = Said { result: noise(8 << 10), files: vec![small("a.json", &noise(12 << 10))] };
        let last = LastOutput { stdout: tail.clone(), stderr: tail, progress: noise(12 << 10), said };
        let summary = pack(&last).unwrap();
        let read = unpack(&Ending { summary: Some(summary), ..Ending::default() }).unwrap();
        assert_eq!(read.files, Some(last.said.files));
    }

    /// As peers wrote it before endings had results.
    #[test]
    fn what_has_no_results_reads_and_writes_as_it_did() {
        #[derive(Encode)]
        struct Before {
            #[n(0)]
            stdout: OutputTail,
            #[n(1)]
            stderr: OutputTail,
            #[n(2)]
            #[cbor(with = "minicbor::bytes")]
            progress: Vec<u8>,
        }
        let stdout = OutputTail { bytes: b"words\n".to_vec(), total: 6 };
        let (stderr, progress) = (OutputTail::default(), b"{}".to_vec());
        let before = minicbor::to_vec(Before { stdout: stdout.clone(), stderr, progress: progress.clone() });
        let now = EndingSummary { stdout, progress, ..EndingSummary::default() };
        assert_eq!(minicbor::to_vec(&now).unwrap(), before.unwrap());
    }

    #[test]
    fn what_would_take_much_memory_is_not_read() {
        let bomb = zstd::bulk::compress(&vec![0; 16 << 20], LEVEL).unwrap();
        assert_eq!(unpack(&Ending { summary: Some(bomb.into()), ..Ending::default() }), None);
        assert_eq!(unpack(&Ending { summary: Some(b"no zstd".to_vec().into()), ..Ending::default() }), None);
    }
}
