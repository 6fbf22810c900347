//! A disk in memory that outlives its peer and, when the power goes, keeps only parts of what was not synced, out of
//! order. Files remember what is durable and what was written since. What goes wrong meanwhile is its user's [`DiskFaults`].
//!
//! For simulators and tests: behind a feature that no release has.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use stint_raft::{Disk, DiskFile, OpenMode};

/// Draws that decide what survives.
pub trait Rng {
    /// A number below `bound`, which is above zero.
    fn below(&mut self, bound: u64) -> u64;

    /// True once in `n` draws.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What is wrong with a disk. Each is asked before the operation and may refuse it.
pub trait DiskFaults: Default + std::fmt::Debug + Send + 'static {
    /// A file is about to become longer, or to be made.
    fn on_grow(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn on_write(&mut self, _bytes: usize) -> io::Result<()> {
        Ok(())
    }

    fn on_read(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn on_sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether syncs say that they worked and do nothing.
    fn lies(&self) -> bool {
        false
    }
}

/// Bytes that reach the disk together or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Put(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Inner<T> {
    next_file: u64,
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    holder: Weak<()>,
    generation: u64,
    syncs: u64,
    trouble: T,
}

/// The disk as the world sees it; `session` gives what a peer gets.
#[derive(Debug, Default)]
pub struct MemoryDisk<T>(Arc<Mutex<Inner<T>>>);

impl<T> Clone for MemoryDisk<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The disk as one life of a machine sees it: dead after a crash, so that a task of the old life can do nothing more.
#[derive(Debug)]
pub struct Session<T> {
    disk: MemoryDisk<T>,
    generation: u64,
}

#[derive(Debug)]
struct MemoryFile<T> {
    disk: MemoryDisk<T>,
    id: u64,
    generation: u64,
    path: PathBuf,
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::SetLen(len) => content.resize(*len, 0),
        Change::Write { offset, bytes } => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Put(path, id) => {
            names.insert(path.clone(), *id);
        }
        NameChange::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

impl<T: DiskFaults> MemoryDisk<T> {
    /// The disk for a machine that starts now.
    pub fn session(&self) -> Session<T> {
        Session { disk: self.clone(), generation: self.state().generation }
    }

    fn state(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what is wrong with the disk.
    pub fn faults<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.state().trouble)
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// A file's bytes as they are now, if there is one of this name.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.state();
        let id = inner.names.get(path)?;
        inner.files.get(id).map(|content| content.now.clone())
    }

    /// Changes a stored byte, as a bad disk does.
    pub fn corrupt(&self, path: &Path, offset: usize) {
        let mut inner = self.state();
        let id = inner.names.get(path).copied();
        let Some(content) = id.and_then(|id| inner.files.get_mut(&id)) else {
            panic!("{} is not there to be damaged", path.display());
        };
        content.now[offset] ^= 0x40;
        content.durable = content.now.clone();
    }

    /// Bytes of all files that have a name.
    pub fn bytes(&self) -> usize {
        let inner = self.state();
        inner.names.values().filter_map(|id| inner.files.get(id)).map(|content| content.now.len()).sum()
    }

    /// The process dies: its handles are dead, what it wrote is in the kernel's cache and stays.
    pub fn process_died(&self) {
        let mut inner = self.state();
        inner.generation += 1;
        inner.holder = Weak::new();
    }

    /// The power goes: what was not synced survives in arbitrary parts.
    /// Open handles are dead. With `garbage` some of it survives with flipped bits.
    pub fn power_lost(&self, rng: &mut impl Rng, garbage: bool) {
        let mut inner = self.state();
        inner.generation += 1;
        inner.holder = Weak::new();
        // A journal keeps changes of names in order, and may have written any number of them.
        let changes = std::mem::take(&mut inner.unsynced_names);
        let kept = rng.below(changes.len() as u64 + 1) as usize;
        let mut names = inner.durable_names.clone();
        changes[..kept].iter().for_each(|change| apply_name(&mut names, change));
        inner.durable_names = names.clone();
        inner.names = names;
        for content in inner.files.values_mut() {
            let unsynced = std::mem::take(&mut content.unsynced);
            unsynced.iter().for_each(|change| keep_some(&mut content.durable, change, rng, garbage));
            content.now = content.durable.clone();
        }
    }
}

fn keep_some(durable: &mut Vec<u8>, change: &Change, rng: &mut impl Rng, garbage: bool) {
    match change {
        Change::SetLen(_) => {
            if rng.one_in(2) {
                apply(durable, change);
            }
        }
        Change::Write { offset, bytes } => {
            let mut at = 0;
            while at < bytes.len() {
                let step = (SECTOR - (offset + at) % SECTOR).min(bytes.len() - at);
                if rng.one_in(2) {
                    let mut piece = bytes[at..at + step].to_vec();
                    if garbage && rng.one_in(2) {
                        let flipped = rng.below(step as u64) as usize;
                        piece[flipped] ^= 1 << rng.below(8);
                    }
                    apply(durable, &Change::Write { offset: offset + at, bytes: piece });
                }
                at += step;
            }
        }
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl<T: DiskFaults> Session<T> {
    fn alive(&self) -> io::Result<MutexGuard<'_, Inner<T>>> {
        let inner = self.disk.state();
        if inner.generation == self.generation {
            Ok(inner)
        } else {
            Err(io::Error::other("the machine crashed"))
        }
    }
}

impl<T: DiskFaults> Disk for Session<T> {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.alive()?;
        if mode == OpenMode::Fresh {
            inner.trouble.on_grow()?;
        }
        let known = inner.names.get(path).copied();
        let id = match (mode, known) {
            (OpenMode::Existing, None) => return Err(missing(path)),
            (OpenMode::Existing, Some(id)) => id,
            (OpenMode::Fresh, Some(id)) => {
                let content = inner.files.entry(id).or_default();
                content.now.clear();
                content.unsynced.push(Change::SetLen(0));
                id
            }
            (OpenMode::Fresh, None) => {
                inner.next_file += 1;
                let id = inner.next_file;
                inner.files.insert(id, Content::default());
                inner.names.insert(path.to_path_buf(), id);
                inner.unsynced_names.push(NameChange::Put(path.to_path_buf(), id));
                id
            }
        };
        let (disk, generation) = (self.disk.clone(), inner.generation);
        Ok(Arc::new(MemoryFile { disk, id, generation, path: path.to_path_buf() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.alive()?;
        let names = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_string())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.alive()?;
        if !inner.names.contains_key(from) {
            return Err(missing(from));
        }
        let change = NameChange::Rename(from.to_path_buf(), to.to_path_buf());
        apply_name(&mut inner.names, &change);
        inner.unsynced_names.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.alive()?;
        let change = NameChange::Remove(path.to_path_buf());
        apply_name(&mut inner.names, &change);
        inner.unsynced_names.push(change);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut inner = self.alive()?;
        if !inner.trouble.lies() {
            inner.durable_names = inner.names.clone();
            inner.unsynced_names.clear();
        }
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut inner = self.alive()?;
        if inner.holder.upgrade().is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let guard = Arc::new(());
        inner.holder = Arc::downgrade(&guard);
        Ok(Box::new(guard))
    }
}

impl<T: DiskFaults> MemoryFile<T> {
    fn with<R>(&self, work: impl FnOnce(&mut Inner<T>, u64) -> io::Result<R>) -> io::Result<R> {
        let mut inner = self.disk.state();
        if inner.generation != self.generation {
            return Err(io::Error::other(format!("{}: the machine crashed", self.path.display())));
        }
        work(&mut inner, self.id)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.with(|inner, id| {
            let len = inner.files.get(&id).map_or(0, |content| content.now.len());
            match &change {
                Change::SetLen(to) if *to > len => inner.trouble.on_grow()?,
                Change::SetLen(_) => {}
                Change::Write { offset, bytes } => {
                    inner.trouble.on_write(bytes.len())?;
                    if offset + bytes.len() > len {
                        inner.trouble.on_grow()?;
                    }
                }
            }
            let content = inner.files.entry(id).or_default();
            apply(&mut content.now, &change);
            content.unsynced.push(change);
            Ok(())
        })
    }
}

impl<T: DiskFaults> DiskFile for MemoryFile<T> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset: offset as usize, bytes: bytes.to_vec() })
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.with(|inner, id| {
            inner.trouble.on_read()?;
            let now = &inner.files[&id].now;
            let start = (offset as usize).min(now.len());
            Ok(now[start..now.len().min(start + len)].to_vec())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|inner, id| Ok(inner.files[&id].now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len as usize))
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|inner, id| {
            inner.syncs += 1;
            let (lying, failed) = (inner.trouble.lies(), inner.trouble.on_sync());
            let content = inner.files.entry(id).or_default();
            if lying {
                return failed;
            }
            // A kernel forgets after a failed sync that the pages are not on the disk: later syncs leave them out.
            let unsynced = std::mem::take(&mut content.unsynced);
            if failed.is_ok() {
                unsynced.iter().for_each(|change| apply(&mut content.durable, change));
            }
            failed
        })
    }
}
