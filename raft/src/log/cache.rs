//! The newest entries in memory, bounded in bytes. Entries that are not in a segment yet are never dropped.

use std::collections::VecDeque;

use crate::types::{Entry, EntryPayload};

/// What an entry costs beside its payload, in bytes (its struct, roughly).
const ENTRY_OVERHEAD_BYTES: usize = 128;
/// What one member costs in a membership entry, in bytes (address, ids, tree nodes, roughly).
const MEMBER_BYTES: usize = 160;

#[derive(Debug)]
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
}

/// What one entry counts for, in bytes.
pub(crate) fn cost(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(payload) => payload.0.len(),
        EntryPayload::Membership(membership) => membership.nodes().count() * MEMBER_BYTES,
    };
    payload + ENTRY_OVERHEAD_BYTES
}

impl EntryCache {
    /// A cache that keeps at most `limit` bytes of entries that are stored in segments too.
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, limit }
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    /// The entry must follow the last one.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let first = self.first_index()?;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Drops entries from `index` on.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= cost(&entry);
            }
        }
    }

    /// Drops entries up to `index`.
    pub(crate) fn purge_to(&mut self, index: u64) {
        while self.first_index().is_some_and(|first| first <= index) {
            self.drop_first();
        }
    }

    /// Drops the oldest entries until the limit holds, but none from `unplaced` on (the first not in a segment).
    pub(crate) fn shrink(&mut self, unplaced: u64) {
        while self.bytes > self.limit && self.first_index().is_some_and(|first| first < unplaced) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= cost(&entry);
        }
    }
}
