//! Writes records to segments and syncs them. Plain calls, no thread and no clock: a driver decides when.
//!
//! A failed write or sync is final. Nothing is tried again on the same file: what the kernel dropped would be missing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::record::{Bookmarks, Encoded, FRAME_BYTES, Record};
use super::segment::{self, RESERVED_BYTES, Segment, Spares, segment_name};
use super::{LogIndex, RecordPlace, lock};
use crate::error::StorageFailure;
use crate::types::LogId;

/// What a record changes beside being written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Effect {
    Entry(LogId),
    Vote(crate::types::Vote),
    Committed(Option<LogId>),
    Purged(LogId),
    Truncated(Option<LogId>),
}

/// A record on its way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    pub effect: Effect,
    pub encoded: Encoded,
}

pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    shared: Arc<std::sync::Mutex<LogIndex>>,
    spares: Arc<std::sync::Mutex<Spares>>,
    /// What the records written so far add up to.
    bookmarks: Bookmarks,
    current: Option<Current>,
    next_seq: u64,
    purged: bool,
}

/// The segment that is written to.
struct Current {
    seq: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    capacity: u64,
    /// Where the buffer goes.
    offset: u64,
    /// Everything before is on stable storage.
    synced: u64,
    buffer: Vec<u8>,
    /// Entries in the buffer, and where they will be.
    placed: Vec<(LogId, RecordPlace)>,
}

impl Writer {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u64,
        shared: Arc<std::sync::Mutex<LogIndex>>,
        spares: Arc<std::sync::Mutex<Spares>>,
        bookmarks: Bookmarks,
        next_seq: u64,
    ) -> Self {
        Self { disk, dir, segment_bytes, shared, spares, bookmarks, current: None, next_seq, purged: false }
    }

    /// Writes records. They are on stable storage only after `sync`.
    pub(crate) fn write(&mut self, records: &[Pending]) -> Result<(), StorageFailure> {
        for record in records {
            self.place(record)?;
        }
        self.flush()
    }

    /// Makes everything written so far stable, then lets go of segments that a purge made needless.
    pub(crate) fn sync(&mut self) -> Result<(), StorageFailure> {
        if let Some(current) = &mut self.current
            && current.synced < current.offset
        {
            let synced = current.file.sync_data();
            synced.map_err(|e| StorageFailure::io("sync", &current.path, e))?;
            current.synced = current.offset;
        }
        if std::mem::take(&mut self.purged) {
            self.release_segments()?;
        }
        Ok(())
    }

    /// True when a spare should be made, so that the next segment begins without filling one.
    pub(crate) fn wants_spare(&self) -> bool {
        lock(&self.spares).wants_more()
    }

    fn place(&mut self, record: &Pending) -> Result<(), StorageFailure> {
        let len = record.encoded.framed_len() as u64;
        if !self.current.as_ref().is_some_and(|current| current.has_room(len)) {
            self.next_segment(len)?;
        }
        let Some(current) = &mut self.current else { return Err(StorageFailure("no log segment".into())) };
        let offset = current.offset + current.buffer.len() as u64;
        record.encoded.frame(current.seq, current.offset, current.synced as u32, &mut current.buffer);
        if let Effect::Entry(id) = record.effect {
            current.placed.push((id, RecordPlace { seq: current.seq, offset, len: len as u32 }));
        }
        self.note(record.effect);
        Ok(())
    }

    fn note(&mut self, effect: Effect) {
        match effect {
            Effect::Entry(id) => self.bookmarks.last = Some(id),
            Effect::Vote(vote) => self.bookmarks.vote = Some(vote),
            Effect::Committed(id) => self.bookmarks.committed = id,
            Effect::Purged(id) => {
                self.bookmarks.purge(id);
                self.purged = true;
            }
            Effect::Truncated(after) => self.bookmarks.truncate(after),
        }
    }

    /// Writes the buffer, with a zero frame behind it that ends the log until the next write.
    fn flush(&mut self) -> Result<(), StorageFailure> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.buffer.is_empty() {
            return Ok(());
        }
        let len = current.buffer.len();
        current.buffer.resize(len + FRAME_BYTES, 0);
        let written = current.file.write_at(current.offset, &current.buffer);
        written.map_err(|e| StorageFailure::io("write", &current.path, e))?;
        current.buffer.clear();
        current.offset += len as u64;
        lock(&self.shared).placed(&current.placed);
        current.placed.clear();
        Ok(())
    }

    /// Seals the current segment, makes it stable, and begins the next with room for `needed` bytes.
    fn next_segment(&mut self, needed: u64) -> Result<(), StorageFailure> {
        if let Some(current) = &mut self.current {
            let sealed = Record::Sealed.encode();
            sealed.frame(current.seq, current.offset, current.synced as u32, &mut current.buffer);
        }
        // The seal is stable before the next segment has its name: one without a seal and with a successor passes for
        // damaged.
        self.flush()?;
        self.sync()?;
        let seq = self.next_seq;
        let spare = segment::take_spare(&mut lock(&self.spares));
        let begun = segment::begin(
            self.disk.as_ref(),
            &self.dir,
            seq,
            self.bookmarks,
            self.segment_bytes,
            needed,
            spare,
        )?;
        let path = self.dir.join(segment_name(seq));
        let (file, offset, capacity) = (begun.file, begun.offset, begun.capacity);
        lock(&self.shared).segments.insert(seq, Segment { file: file.clone(), max_index: None });
        self.current = Some(Current {
            seq,
            path,
            file,
            capacity,
            offset,
            synced: offset,
            buffer: Vec::new(),
            placed: Vec::new(),
        });
        self.next_seq += 1;
        Ok(())
    }

    /// Recycles or removes the oldest segments, as long as all they hold is purged. Never the current one.
    fn release_segments(&mut self) -> Result<(), StorageFailure> {
        let Some(purged) = self.bookmarks.purged else { return Ok(()) };
        let current = self.current.as_ref().map(|current| current.seq);
        loop {
            let Some((seq, segment)) = lock(&self.shared).pop_purged(purged.index, current) else {
                return Ok(());
            };
            let path = self.dir.join(segment_name(seq));
            self.release(&path, segment).map_err(|e| StorageFailure::io("recycle", &path, e))?;
        }
    }

    fn release(&self, path: &Path, segment: Segment) -> std::io::Result<()> {
        let len = segment.file.len()?;
        // A reader may still hold the file: its content must not change under it.
        if Arc::strong_count(&segment.file) > 1 {
            return self.disk.remove(path);
        }
        drop(segment);
        lock(&self.spares).recycle(path, len)
    }
}

impl Current {
    fn has_room(&self, len: u64) -> bool {
        self.offset + self.buffer.len() as u64 + len + RESERVED_BYTES <= self.capacity
    }
}
