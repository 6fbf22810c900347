//! What happened: always as a hash, as text only when somebody reads it.

use std::fmt::Write;

/// The story of one seed.
pub struct Trace {
    hash: u64,
    text: Option<String>,
}

impl Trace {
    pub fn new(keep_text: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, text: keep_text.then(String::new) }
    }

    /// Notes what happened: `kind` and two numbers for the hash, words for the reader.
    pub fn note(&mut self, at: u64, kind: &'static str, a: u64, b: u64, detail: impl FnOnce() -> String) {
        for number in [at, kind.len() as u64 ^ u64::from(kind.as_bytes()[0]) << 8, a, b] {
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:>4}.{:03} {kind} {}", at / 1000, at % 1000, detail());
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn into_text(self) -> String {
        self.text.unwrap_or_default()
    }
}
