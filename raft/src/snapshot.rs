//! Snapshots on disk: written piece by piece, synced, named, and only then the older one goes. Checked when read.
//!
//! Never holds a snapshot in memory: one is as large as the state.

mod body;
#[cfg(test)]
mod files_test;
mod folder;
mod head;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

pub(crate) use body::{Body, Incoming};
use folder::Folder;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use head::{around as head_around, head};

use crate::error::{OpenError, StorageFailure};
use crate::log::disk::Disk;
use crate::log::driver::Queue;
use crate::log::lock;
use crate::machine::Capture;
use crate::types::{Snapshot, SnapshotMeta};

/// The snapshots of one peer. It keeps the newest, and the one before until that is on stable storage.
pub(crate) struct Snapshots {
    folder: Folder,
    /// The newest, or none. The lock is held while names change, never while a snapshot is written or read: that takes
    /// as long as the state is large, and openraft applies nothing while it waits for an answer from here.
    newest: Arc<Mutex<Option<SnapshotMeta>>>,
    /// Where failures go: a peer whose snapshots fail stops like one whose log fails.
    queue: Arc<Queue>,
}

impl Snapshots {
    /// Reads the folder, checks the newest snapshot, and removes what an earlier run left over.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        inline_io: bool,
        queue: Arc<Queue>,
    ) -> Result<Self, OpenError> {
        let folder = Folder::new(disk, dir, inline_io);
        let (disk, dir) = (folder.disk.as_ref(), &folder.dir);
        let mut names = folder::list(disk, dir)?;
        let newest = match names.pop() {
            Some(name) => Some(read(&folder, &dir.join(name))?.0),
            None => None,
        };
        for name in names {
            let path = dir.join(name);
            disk.remove(&path).map_err(|e| OpenError::io("remove", &path, e))?;
        }
        Ok(Self { folder, newest: Arc::new(Mutex::new(newest)), queue })
    }

    /// Whether the folder holds a snapshot at all. Makes the folder when it is missing.
    pub(crate) fn any(disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
        disk.create_dir_all(dir).map_err(|e| OpenError::io("make the folder", dir, e))?;
        Ok(!folder::list(disk, dir)?.is_empty())
    }

    /// The newest snapshot of a stopped peer's folder, checked; nothing is changed.
    pub(crate) fn read_newest(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
    ) -> Result<Option<(SnapshotMeta, Body)>, OpenError> {
        let folder = Folder::new(disk, dir, true);
        let names = folder::list(folder.disk.as_ref(), &folder.dir)?;
        names.last().map(|name| read(&folder, &folder.dir.join(name))).transpose()
    }

    /// Writes the one snapshot of a folder that is made for it.
    pub(crate) fn write_first(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        meta: SnapshotMeta,
        capture: Capture,
    ) -> Result<(), OpenError> {
        disk.create_dir_all(&dir).map_err(|e| OpenError::io("make the folder", &dir, e))?;
        let failed = |source| OpenError::io("write the snapshot in", &dir, source);
        let folder = Folder::new(disk, dir.clone(), true);
        let body = folder.write(&meta, capture).map_err(failed)?;
        let stored = folder.stored(&meta, &body).map_err(failed)?;
        folder.name(&stored, &meta).map_err(failed)
    }

    /// Writes a captured state; returns once it is on stable storage, or a newer one is.
    pub(crate) async fn write(&self, meta: SnapshotMeta, capture: Capture) -> io::Result<Body> {
        let (folder, newest) = (self.folder.clone(), self.newest.clone());
        self.blocking(move || {
            let body = folder.write(&meta, capture)?;
            keep(&folder, &newest, meta, &body)?;
            Ok(Body { unnamed: None, ..body })
        })
        .await
    }

    /// Returns once this snapshot is on stable storage, or a newer one is.
    pub(crate) async fn save(&self, meta: SnapshotMeta, body: Body) -> io::Result<()> {
        let (folder, newest) = (self.folder.clone(), self.newest.clone());
        self.blocking(move || keep(&folder, &newest, meta, &body)).await
    }

    /// Begins to take a snapshot of this length and checksum from a leader.
    pub(crate) async fn receive(&self, meta: SnapshotMeta, len: u64, crc: u32) -> io::Result<Incoming> {
        let folder = self.folder.clone();
        self.blocking(move || folder.receive(&meta, len, crc)).await
    }

    /// Writes a piece behind those that are there.
    pub(crate) async fn append(&self, incoming: &mut Incoming, piece: &Bytes) -> io::Result<()> {
        let (unnamed, at, bytes) = (incoming.unnamed.clone(), incoming.start + incoming.have, piece.clone());
        self.blocking(move || {
            let failed = |source| StorageFailure::io("write snapshot", &unnamed.path, source).to_io();
            unnamed.file.write_at(at, &bytes).map_err(failed)
        })
        .await?;
        incoming.took(piece);
        Ok(())
    }

    pub(crate) fn inline_io(&self) -> bool {
        self.folder.inline_io
    }

    /// The newest snapshot, checked. It stays readable when a newer one takes its place.
    pub(crate) async fn current(&self) -> io::Result<Option<Snapshot>> {
        let (folder, newest) = (self.folder.clone(), self.newest.clone());
        self.blocking(move || {
            let (path, opened) = {
                let newest = lock(&newest);
                let Some(meta) = newest.as_ref() else { return Ok(None) };
                let path = folder.path(meta.last_log_id);
                let opened = folder.open(&path).map_err(io::Error::other)?;
                (path, opened)
            };
            let (meta, snapshot) = opened;
            folder::check(&path, &snapshot).map_err(io::Error::other)?;
            Ok(Some(Snapshot { meta, snapshot }))
        })
        .await
    }

    /// Runs storage work where it may block. A failure is reported.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let result = if self.folder.inline_io {
            work()
        } else {
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
        };
        result.inspect_err(|error| self.report(error))
    }

    /// Reports a failure that ends this peer.
    pub(crate) fn report(&self, error: &io::Error) {
        self.queue.fail(StorageFailure(error.to_string()));
    }
}

/// Makes a body the newest snapshot, unless there is a newer one; it is still read then by who has it.
fn keep(
    folder: &Folder,
    newest: &Mutex<Option<SnapshotMeta>>,
    meta: SnapshotMeta,
    body: &Body,
) -> io::Result<()> {
    let is_old = |newest: &Option<SnapshotMeta>| {
        newest.as_ref().is_some_and(|newest| newest.last_log_id >= meta.last_log_id)
    };
    if is_old(&lock(newest)) {
        return Ok(());
    }
    let stored = folder.stored(&meta, body)?;
    let mut newest = lock(newest);
    // Another one may have come while this one was written.
    if is_old(&newest) {
        return Ok(());
    }
    folder.name(&stored, &meta)?;
    *newest = Some(meta);
    Ok(())
}

/// Opens a snapshot file and checks all of it.
fn read(folder: &Folder, path: &Path) -> Result<(SnapshotMeta, Body), OpenError> {
    let (meta, body) = folder.open(path)?;
    folder::check(path, &body)?;
    Ok((meta, body))
}

/// Reads one snapshot file, for tests of its form.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_file(disk: Arc<dyn Disk>, path: &Path) -> Result<(SnapshotMeta, Body), OpenError> {
    read(&Folder::new(disk, PathBuf::new(), true), path)
}
