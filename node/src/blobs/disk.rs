//! The folder of a peer's bytes: one file a blob, named by its digest. A file under that name is whole and durable.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use stint_protocol::{Blob, Digest};
use tokio::time::Instant;

/// Before the name of a file that is being written.
const DRAFT: &str = "incoming-";

/// What may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskBounds {
    /// Bytes of one blob.
    pub max_size: u64,
    /// Bytes that stay free on the disk: the log needs them, and stops its peer when it has none.
    pub reserve: u64,
}

/// Why bytes are not stored or not read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the disk of {folder} is full: {free} bytes are free, {reserve} of them are reserved (blobs.reserve)"
    )]
    Full { folder: PathBuf, free: u64, reserve: u64 },
    #[error("it has more than {0} bytes (blobs.max_size)")]
    TooLarge(u64),
    #[error("{found} bytes came, {expected} were announced")]
    WrongSize { expected: u64, found: u64 },
    #[error("the bytes that came are {found}, not {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("it is empty")]
    Empty,
    #[error("the bytes stopped before their end")]
    Interrupted,
}

/// The folder, opened.
#[derive(Debug)]
pub struct BlobDisk {
    folder: PathBuf,
    pub bounds: DiskBounds,
    drafts: AtomicU64,
    /// When each was stored or asked for in this process: a wall clock that jumps does not age it.
    last_asked: Mutex<BTreeMap<Digest, Instant>>,
}

/// A stored file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredFile {
    pub blob: Blob,
    /// Since it was stored, or last asked for.
    pub age: Duration,
    pub touched: Touched,
}

/// When a file was stored and last asked for. The same later: nobody has counted on it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    stored: Option<SystemTime>,
    asked: Option<Instant>,
}

impl Touched {
    fn from_file(file: &fs::Metadata, asked: Option<&Instant>) -> Self {
        Self { stored: file.modified().ok(), asked: asked.copied() }
    }
}

impl BlobDisk {
    /// Opens or makes the folder; what a crash left half-written goes.
    pub fn open(folder: &Path, bounds: DiskBounds) -> Result<Self, BlobError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("making", folder))?;
        let disk =
            Self { folder: folder.into(), bounds, drafts: AtomicU64::new(0), last_asked: Mutex::default() };
        for entry in fs::read_dir(folder).map_err(failed("reading", folder))? {
            let path = entry.map_err(failed("reading", folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with(DRAFT)) {
                fs::remove_file(&path).map_err(failed("removing", &path))?;
            }
        }
        Ok(disk)
    }

    /// Where bytes lie once they are stored.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Whether they are stored.
    pub fn has(&self, blob: Blob) -> bool {
        fs::metadata(self.path(&blob.digest)).is_ok_and(|found| found.len() == blob.size)
    }

    /// Whether they are stored; they then stay for a while, whatever refers to them.
    pub fn keep_a_while(&self, blob: Blob) -> bool {
        // Noted before the look: a sweep that is about to remove the file sees the note under its lock, and leaves
        // what is counted on.
        self.note_asked(blob.digest);
        let opened = File::open(self.path(&blob.digest));
        self.has(blob) && opened.is_ok_and(|file| touch(&file).is_ok())
    }

    /// Up to `length` bytes from `offset` on.
    pub fn read(&self, digest: &Digest, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(digest))?;
        let left = file.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; length.min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Everything that is stored; files of other names are none of ours.
    pub fn list(&self) -> Result<Vec<StoredFile>, BlobError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("reading", &self.folder))? {
            let entry = entry.map_err(failed("reading", &self.folder))?;
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            // Gone meanwhile: another look is soon.
            let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) else { continue };
            let asked = self.asked().get(&digest).copied();
            let (age, touched) =
                (age(&metadata, asked.as_ref()), Touched::from_file(&metadata, asked.as_ref()));
            found.push(StoredFile { blob: Blob { digest, size: metadata.len() }, age, touched });
        }
        Ok(found)
    }

    /// Removes bytes; whoever reads them now reads on.
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes bytes when they are older than `after` and as they were found: stored or asked for since, somebody may count
    /// on them, however old that is by now. Whether it did. Who asks for them at the same time either finds them gone, or
    /// keeps them.
    pub fn remove_old(&self, digest: &Digest, found: Touched, after: Duration) -> Result<bool, BlobError> {
        let asked = self.asked();
        let goes = fs::metadata(self.path(digest)).is_ok_and(|file| {
            let asked = asked.get(digest);
            age(&file, asked) > after && Touched::from_file(&file, asked) == found
        });
        if goes {
            self.remove(digest)?;
        }
        Ok(goes)
    }

    /// From now on it is young.
    pub(super) fn note_asked(&self, digest: Digest) {
        self.asked().insert(digest, Instant::now());
    }

    /// Forgets when it was asked for what was not for this long.
    pub fn forget_asked(&self, after: Duration) {
        self.asked().retain(|_, at| at.elapsed() <= after);
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<Digest, Instant>> {
        self.last_asked.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A name that no other draft of this process has.
    pub(super) fn temporary_path(&self) -> PathBuf {
        self.folder.join(format!("{DRAFT}{}", self.drafts.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes the names in the folder durable.
    pub(super) fn sync(&self) -> Result<(), BlobError> {
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("syncing", &self.folder))
    }

    /// Whether the reserve is there with `more` bytes stored.
    pub(super) fn check_free(&self, more: u64) -> Result<(), BlobError> {
        let found = rustix::fs::statvfs(&self.folder);
        let found = found.map_err(|e| failed("measuring", &self.folder)(e.into()))?;
        let (free, reserve) = (found.f_bavail.saturating_mul(found.f_frsize), self.bounds.reserve);
        let enough = free >= reserve.saturating_add(more);
        if enough { Ok(()) } else { Err(BlobError::Full { folder: self.folder.clone(), free, reserve }) }
    }
}

/// Since it was last written or touched by the wall clock, or asked for in this process, whichever is less.
fn age(file: &fs::Metadata, asked: Option<&Instant>) -> Duration {
    let by_wall = file.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
    asked.map_or(by_wall, |at| by_wall.min(at.elapsed()))
}

/// Its age begins anew.
fn touch(file: &File) -> io::Result<()> {
    let at = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: at(UTIME_OMIT), last_modification: at(UTIME_NOW) };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// What was attempted, with its cause; a full disk says so.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_path_buf();
    move |source| BlobError::Io { action, path, source }
}
