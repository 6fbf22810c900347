//! Histograms for openraft, in the memory that their counts need.
//!
//! openraft keeps some twenty histograms for diagnostics. The published crate of this name builds tables of 25 MiB
//! for them at a peer's start, more than half of a fresh peer's memory; this one, patched in its place by the
//! workspace, has the part of the interface that openraft calls and no tables (decision 0005).

mod chart;

pub use chart::{AsciiChart, Detailed};

use std::fmt;
use std::marker::PhantomData;

/// Values are told apart by their highest bit and the three after it: within an eighth.
const FINE_BITS: u32 = 3;
const FINE: u64 = 1 << FINE_BITS;

/// Counts of values by size. `T` is there for the interface's sake: no data is kept with the counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// As long as the largest value so far needs: 496 at most.
    counts: Vec<u64>,
    total: u64,
    data: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { counts: Vec::new(), total: 0, data: PhantomData }
    }
}

impl<T> Histogram<T> {
    /// Nothing counted; takes no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value this many times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bucket = bucket_of(value);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
        self.total = self.total.saturating_add(times);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The value that this part (0 to 1) of all values does not exceed, rounded down to its bucket; 0 when empty.
    pub fn percentile(&self, part: f64) -> u64 {
        let wanted = ((self.total as f64 * part).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        reached.map_or(0, lowest_of)
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.10),
            p50: self.percentile(0.50),
            p90: self.percentile(0.90),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }

    /// The lowest value of each bucket that holds something, and its count.
    pub(crate) fn filled(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (lowest_of(bucket), *count))
    }
}

fn bucket_of(value: u64) -> usize {
    if value < FINE {
        return value as usize;
    }
    let octave = value.ilog2() - FINE_BITS;
    let fine = (value >> octave) & (FINE - 1);
    (FINE + u64::from(octave) * FINE + fine) as usize
}

fn lowest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < FINE {
        return bucket;
    }
    let (octave, fine) = ((bucket - FINE) / FINE, bucket % FINE);
    (FINE + fine) << octave
}

/// The usual percentiles of a histogram: `p99` is not exceeded by 99 values of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p1, p10, p50, p90, p99, p99_9, .. } = self;
        write!(f, "{samples} samples: 1% {p1}, 10% {p10}, 50% {p50}, 90% {p90}, 99% {p99}, 99.9% {p99_9}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_begins_at_or_below_it() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in edges.chain([0, u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(lowest_of(bucket) <= value, "{value}");
            assert!(value - lowest_of(bucket) <= value / FINE, "{value} is told apart within an eighth");
            assert!(bucket == 495 || lowest_of(bucket + 1) > value, "{value}");
        }
    }

    #[test]
    fn percentiles_are_of_what_was_counted() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99, 0);
        (1..=100).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p1, stats.p10, stats.p50, stats.p99), (100, 1, 10, 48, 96));
        histogram.record_n(7, 1_000_000);
        assert_eq!(histogram.percentile(0.999), 7);
    }

    #[test]
    fn a_fresh_histogram_takes_no_memory_and_a_full_one_four_kilobytes() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.counts.capacity(), 0);
        histogram.record(u64::MAX);
        assert_eq!(histogram.counts.len(), 496);
    }
}
