//! An ordered list cut into chunks, each with a summary of what it holds: a search passes over whole chunks in which
//! nothing can be meant.

/// What holds for a chunk when it holds for any of its values.
pub(super) trait Summary<V>: Clone {
    fn from_value(value: &V) -> Self;
    fn widen(&mut self, value: &V);
    fn join(&mut self, other: &Self);
}

/// A chunk is cut in two when it grows beyond this.
const MOST: usize = 96;
/// Chunks in a row that have a summary together.
const ROW: usize = 16;

struct Chunk<K, V, S> {
    items: Vec<(K, V)>,
    summary: S,
}

/// Values by key. Finding, adding and taking out cost about the third root of what is held.
pub(super) struct Chunks<K, V, S> {
    chunks: Vec<Chunk<K, V, S>>,
    /// Of each row of chunks.
    rows: Vec<S>,
}

impl<K, V, S> Default for Chunks<K, V, S> {
    fn default() -> Self {
        Self { chunks: Vec::new(), rows: Vec::new() }
    }
}

impl<K: Ord + Copy, V, S: Summary<V>> Chunk<K, V, S> {
    fn new(items: Vec<(K, V)>) -> Option<Self> {
        let summary = summarize(&items)?;
        Some(Self { items, summary })
    }
}

fn summarize<K, V, S: Summary<V>>(items: &[(K, V)]) -> Option<S> {
    let ((_, first), rest) = items.split_first()?;
    let mut summary = S::from_value(first);
    rest.iter().for_each(|(_, value)| summary.widen(value));
    Some(summary)
}

/// What holds for any value of the first of these chunks, which are not none.
fn join<K, V, S: Summary<V>>(chunks: &[Chunk<K, V, S>], most: usize) -> S {
    let mut summary = chunks[0].summary.clone();
    chunks[1..].iter().take(most - 1).for_each(|chunk| summary.join(&chunk.summary));
    summary
}

impl<K: Ord + Copy, V, S: Summary<V>> Chunks<K, V, S> {
    /// Puts a value at a key, in place of what was there.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let place = self.chunks.partition_point(|chunk| chunk.items.last().is_some_and(|(k, _)| *k < key));
        let place = place.min(self.chunks.len().saturating_sub(1));
        let Some(chunk) = self.chunks.get_mut(place) else {
            self.chunks.extend(Chunk::new(vec![(key, value)]));
            self.join_rows(0);
            return;
        };
        chunk.summary.widen(&value);
        self.rows[place / ROW].widen(&value);
        match chunk.items.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => {
                chunk.items[at].1 = value;
                self.summarize(place);
            }
            Err(at) => chunk.items.insert(at, (key, value)),
        }
        self.cut(place);
    }

    fn cut(&mut self, place: usize) {
        let chunk = &mut self.chunks[place];
        if chunk.items.len() > MOST {
            let rest = chunk.items.split_off(MOST / 2);
            self.summarize(place);
            if let Some(rest) = Chunk::new(rest) {
                self.chunks.insert(place + 1, rest);
                self.join_rows(place / ROW);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.chunks.partition_point(|chunk| chunk.items.last().is_some_and(|(k, _)| k < key));
        let chunk = self.chunks.get_mut(place)?;
        let at = chunk.items.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
        let (_, value) = chunk.items.remove(at);
        self.summarize(place);
        Some(value)
    }

    /// After a value of a chunk was taken out.
    fn summarize(&mut self, place: usize) {
        match summarize(&self.chunks[place].items) {
            Some(summary) => {
                self.chunks[place].summary = summary;
                self.rows[place / ROW] = join(&self.chunks[place / ROW * ROW..], ROW);
            }
            None => {
                self.chunks.remove(place);
                self.join_rows(place / ROW);
            }
        }
    }

    /// From this row on, other chunks stand in them.
    fn join_rows(&mut self, first: usize) {
        self.rows.truncate(first);
        self.rows.extend(self.chunks[first * ROW..].chunks(ROW).map(|row| join(row, ROW)));
    }

    /// The first item, by key, for which `item` holds, among the chunks for which `chunk` does.
    pub(super) fn find(
        &self,
        chunk: impl Fn(&S) -> bool,
        mut item: impl FnMut(&K, &V) -> bool,
    ) -> Option<(&K, &V)> {
        let rows = self.chunks.chunks(ROW).zip(&self.rows).filter(|(_, summary)| chunk(summary));
        let meant = rows.flat_map(|(row, _)| row).filter(|c| chunk(&c.summary));
        meant.flat_map(|c| &c.items).find(|(k, v)| item(k, v)).map(|(k, v)| (k, v))
    }

    /// What holds for any value; none without one.
    pub(super) fn summary(&self) -> Option<S> {
        let (first, rest) = self.rows.split_first()?;
        let mut summary = first.clone();
        rest.iter().for_each(|row| summary.join(row));
        Some(summary)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| &chunk.items).map(|(k, v)| (k, v))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Most(u32);

    impl Summary<u32> for Most {
        fn from_value(value: &u32) -> Self {
            Self(*value)
        }
        fn widen(&mut self, value: &u32) {
            self.0 = self.0.max(*value);
        }
        fn join(&mut self, other: &Self) {
            self.0 = self.0.max(other.0);
        }
    }

    proptest! {
        /// It holds what an ordered map holds, and finds what a walk over that map finds.
        #[test]
        fn it_is_an_ordered_map(steps in proptest::collection::vec((0..3u32, 0..3_000u32, 0..50u32), 0..3_500)) {
            let (mut chunks, mut map) = (Chunks::<u32, u32, Most>::default(), BTreeMap::new());
            for (adds, key, value) in steps {
                if adds > 0 {
                    chunks.insert(key, value);
                    map.insert(key, value);
                } else {
                    prop_assert_eq!(chunks.remove(&key), map.remove(&key));
                }
            }
            prop_assert!(chunks.iter().eq(map.iter()));
            prop_assert_eq!(chunks.summary(), map.values().max().map(|most| Most(*most)));
            for least in 0..50 {
                let found = chunks.find(|most| most.0 >= least, |_, value| *value >= least);
                prop_assert_eq!(found, map.iter().find(|(_, value)| **value >= least));
            }
        }
    }
}
