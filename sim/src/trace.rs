//! What happened, line by line. The same seed gives the same bytes.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The story of one simulation.
#[derive(Default)]
pub struct Trace {
    text: String,
}

impl Trace {
    /// Adds a line.
    pub fn line(&mut self, at_ms: u64, what: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{:>4}.{:03} {what}", at_ms / 1000, at_ms % 1000);
    }

    /// Everything so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the text, the first 64 bits as hexadecimal digits.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.text.as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
