//! Reads a log back: replays its segments in order, cuts a torn tail, and refuses damage. Loses nothing silently.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::EntryCache;
use super::disk::{Disk, DiskFile, OpenMode};
use super::record::{Bookmarks, FRAME_BYTES, Frame, Record};
use super::segment::{HEADER_BYTES, Header, Segment, Spares, check_header, segment_name, segment_number};
use super::{IndexSlot, RecordPlace};
use crate::error::OpenError;
use crate::mutations::{Mutation, planted};
use crate::types::{Entry, LogId};

/// The number of the first segment of all.
pub(crate) const FIRST_SEQ: u64 = 1;

/// A log as it was found.
pub(crate) struct Recovered {
    pub bookmarks: Bookmarks,
    /// The entries after `bookmarks.purged`, without gaps.
    pub slots: VecDeque<IndexSlot>,
    pub segments: BTreeMap<u64, Segment>,
    /// The number of the segment to begin.
    pub next_seq: u64,
    /// The newest entries.
    pub newest: EntryCache,
}

/// One segment's records, with their offsets and lengths.
struct Parsed {
    records: Vec<(u64, u32, Record)>,
    sealed: bool,
    /// Where the valid records end.
    end: usize,
}

/// Reads the log in `dir`. Spares are adopted, left-over temporary files removed.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    spares: &mut Spares,
    keep_bytes: usize,
) -> Result<Recovered, OpenError> {
    let seqs = sort_files(disk, dir, spares)?;
    check_numbers(dir, &seqs)?;
    let mut replay = Replay::new(keep_bytes);
    for (nth, &seq) in seqs.iter().enumerate() {
        let path = dir.join(segment_name(seq));
        let file = disk.open(&path, OpenMode::Existing).map_err(|e| OpenError::io("open", &path, e))?;
        let bytes = read_whole(file.as_ref(), &path)?;
        let parsed = parse(&path, seq, &bytes)?;
        if nth + 1 == seqs.len() {
            finish_last(&path, seq, file.as_ref(), &bytes, &parsed)?;
        } else if !parsed.sealed {
            return Err(corrupt(&path, parsed.end, "a record fails its checksum, and later segments exist"));
        }
        replay.segment(&path, seq, file, parsed)?;
    }
    replay.finish(dir, seqs.last().copied())
}

fn corrupt(path: &Path, offset: usize, what: impl Into<String>) -> OpenError {
    OpenError::Corrupt { path: path.to_path_buf(), offset: offset as u64, what: what.into() }
}

fn sort_files(disk: &dyn Disk, dir: &Path, spares: &mut Spares) -> Result<Vec<u64>, OpenError> {
    let mut seqs = Vec::new();
    for name in disk.list(dir).map_err(|e| OpenError::io("list", dir, e))? {
        let path = dir.join(&name);
        if let Some(seq) = segment_number(&name) {
            seqs.push(seq);
        } else if name.ends_with(".tmp") {
            disk.remove(&path).map_err(|e| OpenError::io("remove", &path, e))?;
        } else {
            spares.adopt(&name);
        }
    }
    seqs.sort_unstable();
    Ok(seqs)
}

fn check_numbers(dir: &Path, seqs: &[u64]) -> Result<(), OpenError> {
    for pair in seqs.windows(2) {
        if pair[0] + 1 != pair[1] {
            let missing: PathBuf = dir.join(segment_name(pair[0] + 1));
            return Err(corrupt(&missing, 0, "the segment is missing between two that exist"));
        }
    }
    Ok(())
}

/// Segments go only when a purge covers them: without one, the first must be there.
fn check_oldest(
    dir: &Path,
    bookmarks: &Bookmarks,
    slots: &VecDeque<IndexSlot>,
    first_seq: Option<u64>,
) -> Result<(), OpenError> {
    let Some(purged) = bookmarks.purged else {
        return match first_seq {
            None | Some(FIRST_SEQ) => Ok(()),
            Some(_) => Err(corrupt(&dir.join(segment_name(FIRST_SEQ)), 0, "the segment is missing")),
        };
    };
    match slots.front().map(|slot| slot.id.index) {
        Some(first) if purged.index.checked_add(1) != Some(first) => {
            let what =
                format!("the oldest entry is {first}, and {} was purged: a segment is missing", purged.index);
            Err(corrupt(dir, 0, what))
        }
        _ => Ok(()),
    }
}

fn read_whole(file: &dyn DiskFile, path: &Path) -> Result<Vec<u8>, OpenError> {
    let len = file.len().map_err(|e| OpenError::io("read", path, e))?;
    let len = usize::try_from(len).map_err(|_| corrupt(path, 0, "the file is too large for this machine"))?;
    file.read_at(0, len).map_err(|e| OpenError::io("read", path, e))
}

fn parse(path: &Path, seq: u64, bytes: &[u8]) -> Result<Parsed, OpenError> {
    match check_header(bytes, seq) {
        Header::Valid => {}
        Header::Newer(found) => {
            let known = super::segment::FORMAT_VERSION;
            return Err(OpenError::NewerFormat { path: path.to_path_buf(), found, known });
        }
        Header::Bad(what) => return Err(corrupt(path, 0, what)),
    }
    let mut parsed = Parsed { records: Vec::new(), sealed: false, end: HEADER_BYTES };
    while let Some(frame) = Frame::parse(seq, bytes, parsed.end) {
        let record = frame.record().map_err(|what| corrupt(path, parsed.end, what))?;
        let offset = parsed.end;
        parsed.end += frame.len;
        if record == Record::Sealed {
            parsed.sealed = true;
            break;
        }
        parsed.records.push((offset as u64, frame.len as u32, record));
    }
    if !matches!(parsed.records.first(), Some((_, _, Record::State(_)))) {
        return Err(corrupt(path, HEADER_BYTES, "its first record fails its checksum"));
    }
    Ok(parsed)
}

/// Makes the last segment final: nothing is ever appended to it again. A torn tail is cut, damage is refused.
///
/// Cutting matters: bytes of a write that was never confirmed could otherwise line up behind later records.
fn finish_last(
    path: &Path,
    seq: u64,
    file: &dyn DiskFile,
    bytes: &[u8],
    parsed: &Parsed,
) -> Result<(), OpenError> {
    if parsed.sealed {
        return write_again(path, file, bytes, parsed.end);
    }
    let mut torn = bytes[parsed.end..].iter().take(FRAME_BYTES).any(|byte| *byte != 0);
    for offset in (parsed.end + 8..bytes.len().saturating_sub(FRAME_BYTES)).step_by(8) {
        let Some(frame) = Frame::parse(seq, bytes, offset) else { continue };
        torn = true;
        if frame.synced_to as usize > parsed.end {
            let what =
                format!("a record fails its checksum, but the one at byte {offset} was stored after it");
            return Err(corrupt(path, parsed.end, what));
        }
    }
    if torn {
        tracing::warn!(file = %path.display(), offset = parsed.end, "torn tail of the log cut: unconfirmed writes of the last run");
    }
    write_again(path, file, bytes, parsed.end)?;
    seal(path, seq, file, parsed.end as u64)
}

/// A sync of the last run may have failed. What was read then stands in the kernel's memory only, and no later sync
/// writes it by itself: without this, a power cut would take entries that this run is about to build on.
fn write_again(path: &Path, file: &dyn DiskFile, bytes: &[u8], end: usize) -> Result<(), OpenError> {
    if planted(Mutation::TrustWhatIsRead) {
        return Ok(());
    }
    let failed = |source| OpenError::io("write again what was read from", path, source);
    file.write_at(0, &bytes[..end]).map_err(failed)?;
    file.sync_data().map_err(failed)
}

fn seal(path: &Path, seq: u64, file: &dyn DiskFile, end: u64) -> Result<(), OpenError> {
    let failed = |source| OpenError::io("cut the torn tail of", path, source);
    // The cut must be stable before the seal: a seal that survives alone would hide it.
    file.set_len(end).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    let mut bytes = Vec::new();
    Record::Sealed.encode().frame(seq, end, end as u32, &mut bytes);
    // `frame` counts from the buffer's start, so the base is the offset itself.
    file.write_at(end, &bytes).map_err(failed)?;
    file.sync_data().map_err(failed)
}

/// The log's history, applied record by record.
struct Replay {
    bookmarks: Option<Bookmarks>,
    slots: VecDeque<IndexSlot>,
    segments: BTreeMap<u64, Segment>,
    newest: EntryCache,
}

impl Replay {
    fn new(keep_bytes: usize) -> Self {
        let newest = EntryCache::new(keep_bytes);
        Self { bookmarks: None, slots: VecDeque::new(), segments: BTreeMap::new(), newest }
    }

    fn segment(
        &mut self,
        path: &Path,
        seq: u64,
        file: Arc<dyn DiskFile>,
        parsed: Parsed,
    ) -> Result<(), OpenError> {
        let mut max_index = None;
        for (offset, len, record) in parsed.records {
            if let Record::Entry(entry) = &record {
                max_index = max_index.max(Some(entry.log_id.index));
            }
            let place = RecordPlace { seq, offset, len };
            self.record(record, place).map_err(|what| corrupt(path, offset as usize, what))?;
        }
        self.segments.insert(seq, Segment { file, max_index });
        Ok(())
    }

    fn record(&mut self, record: Record, place: RecordPlace) -> Result<(), String> {
        if let Record::State(state) = record {
            return self.state(state);
        }
        let Some(bookmarks) = &mut self.bookmarks else {
            return Err("no state before the first record".into());
        };
        match record {
            Record::Entry(entry) => return self.entry(entry, place),
            Record::Vote(vote) => bookmarks.vote = Some(vote),
            Record::Committed(id) => bookmarks.committed = id,
            Record::Purged(id) => self.purge(id),
            Record::Truncated(after) => self.truncate(after),
            Record::State(_) | Record::Sealed => {}
        }
        Ok(())
    }

    fn state(&mut self, state: Bookmarks) -> Result<(), String> {
        match &self.bookmarks {
            None => self.bookmarks = Some(state),
            // `committed` is written lazily, so a new segment may know more of it.
            Some(known)
                if (known.vote, known.purged, known.last) == (state.vote, state.purged, state.last) =>
            {
                self.bookmarks = Some(state);
            }
            Some(known) => {
                return Err(format!("it goes on from {state:?}, but the log so far ends with {known:?}"));
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, place: RecordPlace) -> Result<(), String> {
        let Some(bookmarks) = &mut self.bookmarks else {
            return Err("no state before the first entry".into());
        };
        let id = entry.log_id;
        let after_last = |last: LogId| last.index.checked_add(1).ok_or("no number is left for an entry");
        let expected = bookmarks.last.map_or(Ok(id.index), after_last)?;
        if id.index != expected {
            return Err(format!("entry {} follows where {expected} was due", id.index));
        }
        bookmarks.last = Some(id);
        // The first segment left may begin with entries that are purged: only those after the mark are kept.
        if bookmarks.purged.is_none_or(|purged| id.index > purged.index) {
            self.slots.push_back(IndexSlot { id, place: Some(place) });
            self.newest.push(entry);
            self.newest.shrink(u64::MAX);
        }
        Ok(())
    }

    fn purge(&mut self, id: LogId) {
        while self.slots.front().is_some_and(|slot| slot.id.index <= id.index) {
            self.slots.pop_front();
        }
        self.newest.purge_to(id.index);
        if let Some(bookmarks) = &mut self.bookmarks {
            bookmarks.purge(id);
        }
    }

    fn truncate(&mut self, after: Option<LogId>) {
        // Behind the last possible one there is none.
        let Some(keep) = after.map_or(Some(0), |id| id.index.checked_add(1)) else { return };
        while self.slots.back().is_some_and(|slot| slot.id.index >= keep) {
            self.slots.pop_back();
        }
        self.newest.truncate_from(keep);
        if let Some(bookmarks) = &mut self.bookmarks {
            bookmarks.truncate(after);
        }
    }

    fn finish(self, dir: &Path, last_seq: Option<u64>) -> Result<Recovered, OpenError> {
        let bookmarks = self.bookmarks.unwrap_or_default();
        check_oldest(dir, &bookmarks, &self.slots, self.segments.keys().next().copied())?;
        Ok(Recovered {
            bookmarks,
            slots: self.slots,
            segments: self.segments,
            next_seq: last_seq.map_or(FIRST_SEQ, |seq| seq + 1),
            newest: self.newest,
        })
    }
}
