//! The door to the disk: the few file operations the log and the snapshots need. Synchronous; never retries.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// What must be true of a file before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It exists; it is read and written.
    Existing,
    /// It may exist; it is made, or cut to length zero.
    Fresh,
}

/// A directory tree on one disk. Paths are below the data folder given to `Raft::open`.
///
/// A simulated disk keeps, for each file, what was written and what was synced, and drops the difference at a crash
/// (in whole or in part: the log copes with torn writes, also when later blocks survive and earlier ones do not).
/// Names made by `open(Fresh)` and changed by `rename` and `remove` survive a crash once `sync_dir` returned.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a folder and those above it. Existing ones are no error.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of the files (not folders) in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames in one step; an existing target is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name. Handles that are open stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in this folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the folder for this process until the guard is dropped; `WouldBlock` when another holder has it.
    /// A crash frees it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file. Shared by one writer and any readers.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Writes all bytes at this offset; the file grows when needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads up to `len` bytes from this offset; fewer only at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True when the length is zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or grows (with zeros) to this length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file this long with its blocks taken from the disk, so that later writes need no new blocks.
    /// A disk without blocks may do what `set_len` does.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Returns once every write (and the length) is on stable storage.
    fn sync_data(&self) -> io::Result<()>;
}

/// The real disk, through `std::fs`. What it makes is its owner's alone, whatever the umask: there are secrets in a log.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let fresh = mode == OpenMode::Fresh;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(fresh).truncate(fresh).mode(0o600).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(source)) => Err(source),
        }
    }
}

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let available = self.0.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize::try_from(available).unwrap_or(usize::MAX))];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// Writes zeros: blocks that were only reserved cost a journal commit at each later sync.
    fn preallocate(&self, len: u64) -> io::Result<()> {
        const CHUNK: usize = 256 * 1024;
        let zeros = vec![0; CHUNK];
        let mut offset = self.len()?;
        while offset < len {
            let step = (len - offset).min(CHUNK as u64);
            self.0.write_all_at(&zeros[..step as usize], offset)?;
            offset += step;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
