//! Feeds the kept inputs of each decoder to it, whole, cut at each of their bytes, and changed: what `make test` runs of
//! fuzzing, without the fuzzer. A part of the unit tests of each crate that has decoders.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Cuts of one input.
const CUTS: usize = 256;
/// Changes of one input.
const CHANGES: u64 = 200;
/// No small input keeps a decoder busy for as long, also on a loaded machine.
const LONGEST: Duration = Duration::from_secs(20);

/// The name of a corpus, and what decodes it.
type Decoder = (&'static str, fn(&[u8]));

/// The corpora of these decoders, each in a folder of its name.
pub fn replay(decoders: &[Decoder]) {
    for (name, decode) in decoders {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let found = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut files: Vec<_> = found.map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} holds nothing", folder.display());
        for file in files {
            let input = std::fs::read(&file).unwrap();
            let feed = |what: &dyn Fn() -> String, bytes: &[u8]| {
                // Of the machine: a decoder that is busy moves no simulated clock.
                #[allow(clippy::disallowed_methods)]
                let began = Instant::now();
                let done = catch_unwind(AssertUnwindSafe(|| decode(bytes)));
                let text = || format!("{name}: {} {}: {}", file.display(), what(), bytes.escape_ascii());
                assert!(done.is_ok(), "{}", text());
                assert!(began.elapsed() < LONGEST, "it took {:?}: {}", began.elapsed(), text());
            };
            feed(&|| "as it is".into(), &input);
            for length in (0..input.len()).step_by(input.len().div_ceil(CUTS).max(1)) {
                feed(&|| format!("cut to {length} bytes"), &input[..length]);
            }
            for seed in 0..CHANGES {
                feed(&|| format!("changed by seed {seed}"), &changed(&input, seed));
            }
        }
    }
}

/// The same changes in each run: bytes and bits that are others, pieces that are gone, doubled or elsewhere, and the
/// numbers at which lengths go wrong.
fn changed(input: &[u8], seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ input.len() as u64;
    let mut draw = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let mut bytes = input.to_vec();
    for _ in 0..=draw(4) {
        let at = draw(bytes.len());
        let until = (at + 1 + draw(16)).min(bytes.len());
        match draw(7) {
            _ if bytes.is_empty() => bytes.push(draw(256) as u8),
            0 => bytes[at] = draw(256) as u8,
            1 => bytes[at] ^= 1 << draw(8),
            2 => drop(bytes.drain(at..until)),
            3 => {
                let piece = bytes[at..until].to_vec();
                let to = draw(bytes.len() + 1);
                drop(bytes.splice(to..to, piece));
            }
            4 => bytes[at..until].fill(0xff),
            5 => bytes[at] = [0x1b, 0x3b, 0x5b, 0x7b, 0x9b, 0xbb, 0x9f, 0xbf, 0x7f, 0x00][draw(10)],
            _ => bytes.insert(at, draw(256) as u8),
        }
    }
    bytes
}
