//! What decodes bytes of Slurm and of its jobs, as the fuzzer and the replay of its corpus call it.

use crate::command::{is_refusal, parse_listed_job};
use crate::job_dir::{ReadJob, report, whole_line};

/// The name of a corpus, and what decodes it.
type Decoder = (&'static str, fn(&[u8]));

/// All of this crate.
pub const DECODERS: &[Decoder] =
    &[("slurm-output", output), ("slurm-job-files", job_files), ("slurm-record", record)];

/// What `squeue` and `sbatch` print.
fn output(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let Some(listed) = parse_listed_job(line, "stint-") else { continue };
        if let crate::state::JobState::Ended(end) = &listed.state {
            let _ = (end.is_refusal(), end.verdict(None), end.verdict(end.code.map(|(code, _)| code)));
        }
    }
    let _ = is_refusal(&text);
}

/// The lines that a job writes: what it asks, and how it ended.
fn job_files(bytes: &[u8]) {
    let (ask, exit) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    let _ = report(whole_line(ask), whole_line(exit));
}

fn record(bytes: &[u8]) {
    let Ok(job) = minicbor::decode::<ReadJob>(bytes) else { return };
    let written = minicbor::to_vec(&job).expect("encoding to memory");
    let again: ReadJob = minicbor::decode(&written).expect("what was written is read");
    assert_eq!(minicbor::to_vec(&again).expect("encoding to memory"), written);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn every_kept_input_is_decoded_or_refused() {
    replay::replay(DECODERS);
}
