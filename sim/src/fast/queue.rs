//! What will happen, by time; at one time in the order in which it was arranged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::event::Event;

struct Arranged {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Arranged {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Arranged {}

impl PartialOrd for Arranged {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Arranged {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The events to come.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Arranged>>,
    sequence: u64,
}

impl Queue {
    /// Arranges an event.
    pub fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Arranged { at, sequence: self.sequence, event }));
    }

    /// The next event and its time.
    pub fn next(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(arranged)| (arranged.at, arranged.event))
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }
}
