//! Segment files: their names, their header, and making one ready for use.
//!
//! ```text
//! byte 0   "STINTLOG"
//!      8   format version, u32 LE
//!     12   zero, u32
//!     16   segment number, u64 LE
//!     24   CRC32C of bytes 0..24, u32 LE
//!     28   zero, u32
//!     32   records; the first is a `State`
//! ```
//!
//! A file gets its segment name only after its header and `State` are on stable storage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, OpenMode};
use super::record::{Bookmarks, FRAME_BYTES, Record};
use crate::error::StorageFailure;
use crate::options::SPARE_SEGMENTS;

pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const FORMAT_VERSION: u32 = 1;
/// A `Sealed` record and the zero frame that ends what was written.
pub(crate) const RESERVED_BYTES: u64 = 2 * FRAME_BYTES as u64;
const MAGIC: &[u8; 8] = b"STINTLOG";

/// A segment's file and the highest entry it ever held.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub file: Arc<dyn DiskFile>,
    pub max_index: Option<u64>,
}

/// What a segment's first bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Valid,
    Newer(u32),
    Bad(&'static str),
}

pub(crate) fn header(seq: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&seq.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) fn check_header(bytes: &[u8], seq: u64) -> Header {
    if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
        return Header::Bad("it does not start as a log segment");
    }
    if bytes[24..28] != crc32c::crc32c(&bytes[..24]).to_le_bytes() {
        return Header::Bad("its header fails its checksum");
    }
    let mut version = [0; 4];
    version.copy_from_slice(&bytes[8..12]);
    let version = u32::from_le_bytes(version);
    if version > FORMAT_VERSION {
        return Header::Newer(version);
    }
    if bytes[16..24] != seq.to_le_bytes() {
        return Header::Bad("its header names another segment");
    }
    Header::Valid
}

pub(crate) fn segment_name(seq: u64) -> String {
    format!("segment-{seq:016}.log")
}

pub(crate) fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok()
}

/// Files that once were segments, or were made ahead, and wait to become one.
#[derive(Debug)]
pub(crate) struct Spares {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes: u64,
    ready: Vec<PathBuf>,
    next: u64,
}

impl Spares {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, bytes: u64) -> Self {
        Self { disk, dir, bytes, ready: Vec::new(), next: 0 }
    }

    /// Spares left by an earlier run. Only complete ones carry the name.
    pub(crate) fn adopt(&mut self, name: &str) -> bool {
        let Some(number) = name.strip_prefix("spare-").and_then(|n| n.strip_suffix(".log")) else {
            return false;
        };
        let Ok(number) = number.parse::<u64>() else { return false };
        self.next = self.next.max(number + 1);
        self.ready.push(self.dir.join(name));
        true
    }

    pub(crate) fn wants_more(&self) -> bool {
        self.ready.is_empty()
    }

    fn take(&mut self) -> Option<PathBuf> {
        self.ready.pop()
    }

    fn next_name(&mut self) -> String {
        self.next += 1;
        format!("spare-{}.log", self.next - 1)
    }

    /// Where a new spare is made: under a name that is ignored after a crash, then under its own.
    pub(crate) fn plan(&mut self) -> (PathBuf, PathBuf) {
        let name = self.next_name();
        (self.dir.join(format!("{name}.tmp")), self.dir.join(name))
    }

    pub(crate) fn add(&mut self, path: PathBuf) {
        self.ready.push(path);
    }

    /// Keeps a file that no segment needs any more, when it has full size and there is room for it.
    pub(crate) fn recycle(&mut self, path: &Path, len: u64) -> io::Result<()> {
        if self.ready.len() >= SPARE_SEGMENTS || len != self.bytes {
            return self.disk.remove(path);
        }
        let spare = self.next_name();
        let spare = self.dir.join(spare);
        self.disk.rename(path, &spare)?;
        self.ready.push(spare);
        Ok(())
    }
}

/// Fills a spare: full size, on stable storage, under its final name.
pub(crate) fn make_spare(disk: &dyn Disk, bytes: u64, temporary: &Path, spare: &Path) -> io::Result<()> {
    let file = disk.open(temporary, OpenMode::Fresh)?;
    file.preallocate(bytes)?;
    file.sync_data()?;
    disk.rename(temporary, spare)
}

/// A segment that was just begun.
pub(crate) struct Begun {
    pub file: Arc<dyn DiskFile>,
    /// Where the next record goes; everything before is on stable storage.
    pub offset: u64,
    /// Length of the file in bytes.
    pub capacity: u64,
}

/// Begins segment `seq` with room for a record of `needed` bytes.
pub(crate) fn begin(
    disk: &dyn Disk,
    dir: &Path,
    seq: u64,
    state: Bookmarks,
    capacity: u64,
    needed: u64,
    spare: Option<PathBuf>,
) -> Result<Begun, StorageFailure> {
    let path = dir.join(segment_name(seq));
    let failed = |source| StorageFailure::io("begin log segment", &path, source);
    let mut head = header(seq).to_vec();
    let state = Record::State(state).encode();
    state.frame(seq, 0, HEADER_BYTES as u32, &mut head);
    let offset = head.len() as u64;
    head.resize(head.len() + FRAME_BYTES, 0);

    let from = spare.clone().unwrap_or_else(|| dir.join("next-segment.tmp"));
    let mode = if spare.is_some() { OpenMode::Existing } else { OpenMode::Fresh };
    let file = disk.open(&from, mode).map_err(failed)?;
    let capacity = capacity.max(offset + needed + RESERVED_BYTES).max(file.len().map_err(failed)?);
    file.preallocate(capacity).map_err(failed)?;
    file.write_at(0, &head).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    disk.rename(&from, &path).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)?;
    Ok(Begun { file, offset, capacity })
}

/// The spare to begin the next segment with, if one is ready.
pub(crate) fn take_spare(spares: &mut Spares) -> Option<PathBuf> {
    spares.take()
}
