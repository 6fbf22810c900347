//! What happened, in order. The same seed gives the same bytes.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::event::Event;

/// The story of one simulation: virtual milliseconds and what happened then.
#[derive(Clone, Debug, Default)]
pub struct Trace(pub Vec<(u64, Event)>);

impl Trace {
    /// Adds an event.
    pub fn add(&mut self, at_ms: u64, event: Event) {
        self.0.push((at_ms, event));
    }

    /// One line an event.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at_ms, event) in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:>4}.{:03} {event}", at_ms / 1000, at_ms % 1000);
        }
        text
    }

    /// SHA-256 of the text, the first 64 bits as hexadecimal digits.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.text().as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
