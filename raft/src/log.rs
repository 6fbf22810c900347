//! The durable log: entries, vote and marks in one sequence of records, in segment files.
//!
//! Callers change the log in memory and queue the records; one writer drains the queue, so one sync covers all that
//! arrived during the last one, and confirms in order. The order of records on disk is the order of the calls.
//! A failed write ends it: every later call fails and `failed` resolves. It never tries again.

pub(crate) mod cache;
pub mod disk;
pub(crate) mod driver;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod writer;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod format_test;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use self::cache::{EntryCache, cost};
use self::disk::{Disk, DiskFile};
use self::driver::{Driver, Queue};
use self::record::{Bookmarks, Record, parse_placed};
use self::segment::{Segment, Spares};
use self::writer::{Effect, Pending, Writer};
use crate::contradiction::Mark;
use crate::error::{OpenError, StorageFailure};
use crate::mutations::{Mutation, planted};
use crate::options::RaftOptions;
use crate::types::{Entry, LogId, Vote};

/// Called once the records of one call are stable, or with the failure.
pub(crate) type Done = Box<dyn FnOnce(Result<(), StorageFailure>) + Send>;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub seq: u64,
    pub offset: u64,
    pub len: u32,
}

/// An entry of the log: its id, and where it lies once it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct IndexSlot {
    pub id: LogId,
    pub place: Option<RecordPlace>,
}

/// The log in memory. It runs ahead of the disk by what the queue holds.
#[derive(Debug)]
pub(crate) struct LogIndex {
    pub(crate) bookmarks: Bookmarks,
    pub(crate) slots: VecDeque<IndexSlot>,
    pub(crate) cache: EntryCache,
    pub(crate) segments: BTreeMap<u64, Segment>,
}

/// A lock that a panic elsewhere cannot take away: the data is only ever changed in whole steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// An open log. Dropping it stops the writer after what is queued.
pub(crate) struct Log {
    pub(crate) shared: Arc<Mutex<LogIndex>>,
    pub(crate) queue: Arc<Queue>,
    inline_io: bool,
    pub(crate) mark: Mark,
}

/// An entry that is read: from memory, or from its place in a segment.
pub(crate) enum Source {
    Memory(Entry),
    Disk(RecordPlace, Arc<dyn DiskFile>),
}

impl Log {
    /// Reads the log in `dir` (made when missing) and starts its writer. Must be called inside a tokio runtime.
    pub(crate) fn open(dir: &Path, options: &RaftOptions) -> Result<Self, OpenError> {
        let disk = options.disk.clone();
        disk.create_dir_all(dir).map_err(|e| OpenError::io("make the folder", dir, e))?;
        let guard = take_lock(disk.as_ref(), dir)?;
        let mark = Mark::look(disk.clone(), dir)?;
        let mut spares = Spares::new(disk.clone(), dir.to_path_buf(), options.segment_bytes);
        let found = recovery::recover(disk.as_ref(), dir, &mut spares, options.entry_cache_bytes)?;
        let bookmarks = found.bookmarks;
        let shared =
            LogIndex { bookmarks, slots: found.slots, cache: found.newest, segments: found.segments };
        let shared = Arc::new(Mutex::new(shared));
        let spares = Arc::new(Mutex::new(spares));
        let dir = dir.to_path_buf();
        let writer = Writer::new(
            disk.clone(),
            dir,
            options.segment_bytes,
            shared.clone(),
            spares.clone(),
            bookmarks,
            found.next_seq,
        );
        let queue = Driver::start(writer, spares, disk, options, guard)?;
        Ok(Self { shared, queue, inline_io: options.inline_io, mark })
    }

    pub(crate) fn bookmarks(&self) -> Bookmarks {
        lock(&self.shared).bookmarks
    }

    /// Adds entries, which must follow the last one, and tells `done` when they are stable. Waits while the queue is
    /// full. They can be read when this returns.
    pub(crate) async fn append(&self, entries: Vec<Entry>, done: Done) -> io::Result<()> {
        self.queue.room().await;
        let records = entries.iter().map(|entry| Pending {
            effect: Effect::Entry(entry.log_id),
            encoded: Record::Entry(entry.clone()).encode(),
        });
        let records: Vec<_> = records.collect();
        {
            let mut shared = lock(&self.shared);
            for entry in entries {
                shared.append(entry)?;
            }
            shared.shrink();
        }
        if planted(Mutation::AckBeforeSync) {
            self.queue.push(records, None);
            done(Ok(()));
            return Ok(());
        }
        self.queue.push(records, Some(done));
        Ok(())
    }

    /// Returns once the vote is stable.
    pub(crate) async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        let (confirm, confirmed) = tokio::sync::oneshot::channel();
        lock(&self.shared).bookmarks.vote = Some(vote);
        if planted(Mutation::ForgetVote) {
            return Ok(());
        }
        let record = Pending { effect: Effect::Vote(vote), encoded: Record::Vote(vote).encode() };
        let done: Done = Box::new(move |result| drop(confirm.send(result)));
        self.queue.push(vec![record], Some(done));
        let lost = |_| io::Error::other("the log's writer ended");
        confirmed.await.map_err(lost)?.map_err(|failure| failure.to_io())
    }

    /// Remembers the commit mark; it is written with the next other record.
    pub(crate) fn save_committed(&self, committed: Option<LogId>) {
        lock(&self.shared).bookmarks.committed = committed;
        let encoded = Record::Committed(committed).encode();
        self.queue.set_committed(Pending { effect: Effect::Committed(committed), encoded });
    }

    /// Drops the entries after this one (all, when `None`). Stable before anything appended later is. Never drops what is
    /// decided.
    pub(crate) fn truncate_after(&self, after: Option<LogId>) -> io::Result<()> {
        {
            let mut shared = lock(&self.shared);
            let decided = shared.bookmarks.committed.map_or(0, |id| id.index + 1);
            let keep = after.map_or(0, |id| id.index + 1);
            if keep < decided {
                let what = format!(
                    "told to drop entries from {keep} on, of which those below {decided} are decided"
                );
                self.queue.fail(StorageFailure(what.clone()));
                return Err(io::Error::other(what));
            }
            shared.truncate(after);
        }
        let encoded = Record::Truncated(after).encode();
        self.queue.push(vec![Pending { effect: Effect::Truncated(after), encoded }], None);
        Ok(())
    }

    /// Drops the entries up to this one. Their segments go once the mark is stable.
    pub(crate) fn purge(&self, upto: LogId) {
        lock(&self.shared).purge(upto);
        let encoded = Record::Purged(upto).encode();
        self.queue.push(vec![Pending { effect: Effect::Purged(upto), encoded }], None);
    }

    /// The entries of this range that the log holds: all of them, or the first ones that fit in `max_bytes` (at least
    /// one). Reads files when they are not in memory.
    pub(crate) async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let sources = lock(&self.shared).sources(range.clone(), max_bytes)?;
        let cold = sources.iter().any(|source| matches!(source, Source::Disk(..)));
        let load = move || sources.into_iter().map(load).collect::<io::Result<Vec<_>>>();
        let loaded = if !cold || self.inline_io {
            load()
        } else {
            tokio::task::spawn_blocking(load).await.map_err(io::Error::other)?
        };
        match loaded {
            // A purge may have recycled the segment meanwhile: then the entries are no longer part of the log.
            Err(_) if self.first_index().is_some_and(|first| first > range.start) => {
                let first = self.first_index().unwrap_or(range.end);
                Box::pin(self.read(first.max(range.start)..range.end.max(first), max_bytes)).await
            }
            loaded => loaded,
        }
    }

    fn first_index(&self) -> Option<u64> {
        lock(&self.shared).slots.front().map(|slot| slot.id.index)
    }

    /// Bytes of entries in memory.
    #[cfg(test)]
    pub(crate) fn cached_bytes(&self) -> usize {
        lock(&self.shared).cache.bytes()
    }

    #[cfg(test)]
    pub(crate) fn first_cached(&self) -> Option<u64> {
        lock(&self.shared).cache.first_index()
    }

    /// Resolves when the storage failed, with what to tell the operator.
    pub(crate) fn failures(&self) -> tokio::sync::watch::Receiver<Option<StorageFailure>> {
        self.queue.failures()
    }

    /// A handle that can report failures of other storage (snapshots) and stop the writer.
    pub(crate) fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
    }
}

pub(crate) fn take_lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>, OpenError> {
    let path: PathBuf = dir.join("lock");
    disk.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: dir.to_path_buf() },
        _ => OpenError::io("lock", &path, source),
    })
}

pub(crate) fn load(source: Source) -> io::Result<Entry> {
    match source {
        Source::Memory(entry) => Ok(entry),
        Source::Disk(place, file) => {
            let bytes = Bytes::from(file.read_at(place.offset, place.len as usize)?);
            match parse_placed(place.seq, place.offset, &bytes) {
                Some(Record::Entry(entry)) => Ok(entry),
                _ => Err(damaged(place)),
            }
        }
    }
}

fn damaged(place: RecordPlace) -> io::Error {
    let name = segment::segment_name(place.seq);
    let what = format!("{name}: the entry at byte {} fails its checksum; the disk changed it", place.offset);
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl LogIndex {
    fn append(&mut self, entry: Entry) -> io::Result<()> {
        let due = self.bookmarks.last.map_or(entry.log_id.index, |last| last.index + 1);
        if entry.log_id.index != due {
            let what = format!("entry {} appended where {due} was due", entry.log_id.index);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.bookmarks.last = Some(entry.log_id);
        self.slots.push_back(IndexSlot { id: entry.log_id, place: None });
        self.cache.push(entry);
        Ok(())
    }

    fn truncate(&mut self, after: Option<LogId>) {
        let keep = after.map_or(0, |id| id.index + 1);
        while self.slots.back().is_some_and(|slot| slot.id.index >= keep) {
            self.slots.pop_back();
        }
        self.cache.truncate_from(keep);
        self.bookmarks.truncate(after);
    }

    fn purge(&mut self, upto: LogId) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
            self.slots.pop_front();
        }
        self.cache.purge_to(upto.index);
        self.bookmarks.purge(upto);
    }

    /// An entry that is in memory.
    pub(crate) fn cached(&self, id: LogId) -> Option<Entry> {
        self.cache.get(id.index).filter(|entry| entry.log_id == id).cloned()
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&IndexSlot> {
        let first = self.slots.front()?.id.index;
        self.slots.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// The writer put these entries in their places.
    pub(crate) fn placed(&mut self, placed: &[(LogId, RecordPlace)]) {
        let Some(first) = self.slots.front().map(|slot| slot.id.index) else {
            return self.raise(placed);
        };
        for (id, place) in placed {
            let nth = id.index.checked_sub(first).and_then(|nth| usize::try_from(nth).ok());
            // The entry may have been truncated, and another one taken its number, before it was written.
            if let Some(slot) = nth.and_then(|nth| self.slots.get_mut(nth)).filter(|slot| slot.id == *id) {
                slot.place = Some(*place);
            }
        }
        self.raise(placed);
        self.shrink();
    }

    fn raise(&mut self, placed: &[(LogId, RecordPlace)]) {
        for (id, place) in placed {
            if let Some(segment) = self.segments.get_mut(&place.seq) {
                segment.max_index = segment.max_index.max(Some(id.index));
            }
        }
    }

    fn shrink(&mut self) {
        // Entries are placed in order, so those without a place are at the end.
        let unplaced = self.slots.partition_point(|slot| slot.place.is_some());
        let unplaced = self.slots.get(unplaced).map_or(u64::MAX, |slot| slot.id.index);
        self.cache.shrink(unplaced);
    }

    /// Takes the oldest segment out, when all its entries are purged and it is not the current one.
    pub(crate) fn pop_purged(&mut self, purged: u64, current: Option<u64>) -> Option<(u64, Segment)> {
        let (seq, segment) = self.segments.first_key_value()?;
        let needed = segment.max_index.is_some_and(|max| max > purged);
        // Until a segment is begun, the newest one alone holds vote and marks: without it this peer could vote twice
        // in a term.
        if needed || current.is_none_or(|current| *seq >= current) {
            return None;
        }
        self.segments.pop_first()
    }

    pub(crate) fn sources(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Source>> {
        let mut sources = Vec::new();
        let mut bytes = 0;
        let first = self.slots.front().map_or(range.end, |slot| slot.id.index).max(range.start);
        for index in first..range.end {
            let Some(slot) = self.slot(index) else { break };
            let (source, size) = self.source(slot)?;
            bytes += size;
            if bytes > max_bytes && !sources.is_empty() {
                break;
            }
            sources.push(source);
        }
        Ok(sources)
    }

    fn source(&self, slot: &IndexSlot) -> io::Result<(Source, usize)> {
        if let Some(entry) = self.cache.get(slot.id.index) {
            return Ok((Source::Memory(entry.clone()), cost(entry)));
        }
        let place =
            slot.place.ok_or_else(|| io::Error::other("an entry is neither in memory nor on disk"))?;
        let segment = self.segments.get(&place.seq).ok_or_else(|| damaged(place))?;
        Ok((Source::Disk(place, segment.file.clone()), place.len as usize))
    }
}
