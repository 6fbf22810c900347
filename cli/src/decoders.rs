//! What decodes bytes that users were handed, as the fuzzer and the replay of its corpus call it.

use crate::task_file;

/// The name of a corpus, and what decodes it.
type Decoder = (&'static str, fn(&[u8]));

/// All of this crate.
pub const DECODERS: &[Decoder] = &[("task-file", task_file)];

/// A task file, TOML or JSON. It may name files of this machine, which are then read.
fn task_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match task_file::parse(text) {
        Ok(draft) => drop(draft.into_request()),
        Err(wrong) => {
            let line = wrong.line().unwrap_or(1);
            assert!((1..=text.matches('\n').count() + 1).contains(&line), "line {line} is not there");
            let _ = wrong.to_string();
        }
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn every_kept_input_is_decoded_or_refused() {
    replay::replay(DECODERS);
}
