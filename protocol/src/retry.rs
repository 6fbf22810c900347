//! When and how often a failed attempt is repeated.

use minicbor::{Decode, Encode};

/// When and how often a failed attempt is repeated. Lost and drained attempts do not count.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RetryPolicy {
    /// Attempts that may fail before the task does.
    #[n(0)]
    pub max_attempts: u32,
    /// First wait between two attempts, in milliseconds.
    #[n(1)]
    pub backoff_ms: u64,
    /// Longest wait, in milliseconds; the wait doubles up to it.
    #[n(2)]
    pub max_backoff_ms: u64,
    /// Also repeat when the program itself fails (exit code, signal, memory, timeout).
    #[n(3)]
    pub retry_failures: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, backoff_ms: 500, max_backoff_ms: 30_000, retry_failures: false }
    }
}

impl RetryPolicy {
    /// The wait before the next attempt after `failures` counted failures (from 1), in milliseconds.
    pub fn backoff_after(&self, failures: u32) -> u64 {
        let doubled = 1u64.checked_shl(failures.saturating_sub(1).min(32)).unwrap_or(u64::MAX);
        self.backoff_ms.saturating_mul(doubled).min(self.max_backoff_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        let policy = RetryPolicy::default();
        let waits: Vec<u64> = [1, 2, 3, 7, 8, 60].iter().map(|n| policy.backoff_after(*n)).collect();
        assert_eq!(waits, [500, 1000, 2000, 30_000, 30_000, 30_000]);
    }
}
