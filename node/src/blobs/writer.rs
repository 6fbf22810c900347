//! Bytes on their way to the disk: hashed and written by a thread of their own, under a name of their own until they
//! are whole, checked and durable.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use stint_protocol::{Blob, Digest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::disk::{BlobDisk, BlobError, failed};
use crate::limits;

/// What the sender says of the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    pub size: Option<u64>,
    pub digest: Option<Digest>,
}

impl From<Blob> for Expected {
    fn from(blob: Blob) -> Self {
        Self { size: Some(blob.size), digest: Some(blob.digest) }
    }
}

enum UploadPart {
    Bytes(Bytes),
    End(Expected),
}

/// Takes bytes in. Dropped before `finish`, it leaves nothing behind.
pub struct Incoming {
    parts: mpsc::Sender<UploadPart>,
    done: JoinHandle<Result<Blob, BlobError>>,
}

impl Incoming {
    /// Begins a new blob.
    pub fn begin(disk: Arc<BlobDisk>) -> Self {
        let (parts, receiver) = mpsc::channel(limits::PARTS_AHEAD);
        Self { parts, done: tokio::task::spawn_blocking(move || receive(&disk, receiver)) }
    }

    /// Hands more bytes over, as fast as the disk takes them. False: it failed, and `finish` says why.
    pub async fn write(&self, bytes: Bytes) -> bool {
        self.parts.send(UploadPart::Bytes(bytes)).await.is_ok()
    }

    /// The blob, once it is durable and what was expected.
    pub async fn finish(self, expected: Expected) -> Result<Blob, BlobError> {
        // A receiver that is gone has its reason, which comes next.
        let _ = self.parts.send(UploadPart::End(expected)).await;
        drop(self.parts);
        self.done.await.unwrap_or(Err(BlobError::Interrupted))
    }
}

fn receive(disk: &BlobDisk, mut parts: mpsc::Receiver<UploadPart>) -> Result<Blob, BlobError> {
    let mut writer = BlobWriter::begin(disk)?;
    loop {
        match parts.blocking_recv() {
            Some(UploadPart::Bytes(bytes)) => writer.write(&bytes)?,
            Some(UploadPart::End(expected)) => return writer.keep(expected),
            None => return Err(BlobError::Interrupted),
        }
    }
}

/// A file that is being written; dropped, it is gone.
struct BlobWriter<'a> {
    disk: &'a BlobDisk,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    /// Bytes that may be written before the disk is measured again.
    measured: u64,
    kept: bool,
}

impl<'a> BlobWriter<'a> {
    fn begin(disk: &'a BlobDisk) -> Result<Self, BlobError> {
        disk.check_free(0)?;
        let path = disk.temporary_path();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed("making", &path))?;
        let (hash, measured) = (Sha256::new(), limits::MEASURE_DISK_BYTES);
        Ok(Self { disk, path, file, hash, size: 0, measured, kept: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let size = self.size + bytes.len() as u64;
        if size > self.disk.bounds.max_size {
            return Err(BlobError::TooLarge(self.disk.bounds.max_size));
        }
        if size > self.measured {
            self.disk.check_free(bytes.len() as u64)?;
            self.measured = size + limits::MEASURE_DISK_BYTES;
        }
        self.hash.update(bytes);
        // Zeros take no room on the disk: a file that was mostly holes stays so.
        let written = match bytes.iter().all(|byte| *byte == 0) {
            true => self.file.seek(SeekFrom::Current(bytes.len() as i64)).map(drop),
            false => self.file.write_all(bytes),
        };
        written.map_err(failed("writing", &self.path))?;
        self.size = size;
        Ok(())
    }

    fn keep(mut self, expected: Expected) -> Result<Blob, BlobError> {
        let (found, digest) = (self.size, Digest::from_bytes(self.hash.finalize_reset().into()));
        if let Some(expected) = expected.size.filter(|expected| *expected != found) {
            return Err(BlobError::WrongSize { expected, found });
        }
        if let Some(expected) = expected.digest.filter(|expected| *expected != digest) {
            return Err(BlobError::WrongDigest { expected, found: digest });
        }
        let blob = Blob { digest, size: found };
        if self.disk.keep_a_while(blob) {
            return Ok(blob);
        }
        let read_only = fs::set_permissions(&self.path, Permissions::from_mode(0o444));
        read_only.map_err(failed("protecting", &self.path))?;
        self.file.set_len(self.size).map_err(failed("writing", &self.path))?;
        self.file.sync_all().map_err(failed("syncing", &self.path))?;
        fs::rename(&self.path, self.disk.path(&digest)).map_err(failed("renaming", &self.path))?;
        self.kept = true;
        self.disk.note_asked(digest);
        self.disk.sync()?;
        Ok(blob)
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::DiskBounds;

    const BOUNDS: DiskBounds = DiskBounds { max_size: 1_000, reserve: 0 };

    fn disk(bounds: DiskBounds) -> (tempfile::TempDir, Arc<BlobDisk>) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(BlobDisk::open(&folder.path().join("blobs"), bounds).unwrap());
        (folder, disk)
    }

    fn names(disk: &BlobDisk) -> Vec<String> {
        let folder = disk.temporary_path().parent().unwrap().to_path_buf();
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn store(
        disk: &Arc<BlobDisk>,
        parts: &[&'static [u8]],
        expected: Expected,
    ) -> Result<Blob, BlobError> {
        let incoming = Incoming::begin(disk.clone());
        for part in parts {
            incoming.write(Bytes::from_static(part)).await;
        }
        incoming.finish(expected).await
    }

    #[tokio::test]
    async fn bytes_are_stored_under_their_digest_and_read_back() {
        let (_folder, disk) = disk(BOUNDS);
        let blob = store(&disk, &[b"hello ", b"world"], Expected::default()).await.unwrap();
        assert_eq!(blob.digest.hex(), "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9");
        assert_eq!(names(&disk), [blob.digest.hex()]);
        assert_eq!(disk.read(&blob.digest, 6, 100).unwrap(), b"world");
        assert!(disk.read(&blob.digest, 100, 10).unwrap().is_empty());
        assert!(disk.has(blob) && !disk.has(Blob { size: 12, ..blob }));
        let again = store(&disk, &[b"hello world"], blob.into()).await.unwrap();
        assert_eq!((again, names(&disk).len(), disk.list().unwrap().len()), (blob, 1, 1));
        disk.remove(&blob.digest).unwrap();
        disk.remove(&blob.digest).unwrap();
        assert!(names(&disk).is_empty() && !disk.keep_a_while(blob));
    }

    #[tokio::test]
    async fn zeros_take_no_room_and_are_read_back() {
        const ZEROS: &[u8] = &[0; 1 << 20];
        let (_folder, disk) = disk(DiskBounds { max_size: 1 << 30, ..BOUNDS });
        let blob = store(&disk, &[ZEROS, b"middle", ZEROS], Expected::default()).await.unwrap();
        let meta = fs::metadata(disk.path(&blob.digest)).unwrap();
        assert_eq!((blob.size, meta.len()), ((2 << 20) + 6, (2 << 20) + 6));
        assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 < 1 << 20, "{meta:?}");
        assert_eq!(disk.read(&blob.digest, (1 << 20) - 1, 8).unwrap(), b"\0middle\0");
        assert_eq!(disk.read(&blob.digest, (2 << 20) + 5, 8).unwrap(), b"\0");
    }

    #[tokio::test]
    async fn what_was_asked_for_since_it_was_found_old_is_not_removed() {
        let (_folder, disk) = disk(BOUNDS);
        let blob = store(&disk, &[b"old"], Expected::default()).await.unwrap();
        let hour = std::time::Duration::from_secs(3_600);
        let aged = fs::File::options().write(true).open(disk.path(&blob.digest)).unwrap();
        aged.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        disk.forget_asked(std::time::Duration::ZERO);
        let found = || disk.list().unwrap()[0].touched;
        assert!(disk.list().unwrap()[0].age > hour);
        let before = found();
        assert!(disk.keep_a_while(blob), "it is there, so it may be counted on");
        assert!(!disk.remove_old(&blob.digest, found(), hour).unwrap() && disk.has(blob));
        // And when that is long ago too: whoever asked may still wait for a majority.
        disk.forget_asked(std::time::Duration::ZERO);
        let later = std::time::SystemTime::UNIX_EPOCH + hour;
        aged.set_modified(later).unwrap();
        assert!(!disk.remove_old(&blob.digest, before, hour).unwrap() && disk.has(blob));
        let now = found();
        assert!(disk.remove_old(&blob.digest, now, hour).unwrap() && !disk.has(blob));
        assert!(!disk.remove_old(&blob.digest, now, hour).unwrap(), "nothing is there");
    }

    #[tokio::test]
    async fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
        let (_folder, disk) = disk(BOUNDS);
        let digest = Some(Digest::from_bytes([1; 32]));
        let large: &'static [u8] = &[7; 600];
        let cases: [(&[&'static [u8]], Expected, &str); 4] = [
            (&[b"abc"], Expected { size: Some(4), digest: None }, "3 bytes came, 4 were announced"),
            (&[b"abc"], Expected { size: Some(3), digest }, "not sha256:0101"),
            (&[], Expected { size: Some(1), digest: None }, "0 bytes came, 1 were announced"),
            (&[large, large], Expected::default(), "more than 1000 bytes (blobs.max_size)"),
        ];
        for (parts, expected, text) in cases {
            let refused = store(&disk, parts, expected).await.unwrap_err().to_string();
            assert!(refused.contains(text), "{refused}");
            assert!(names(&disk).is_empty(), "{:?}", names(&disk));
        }
    }

    #[tokio::test]
    async fn who_goes_away_and_a_crash_leave_nothing() {
        let (_folder, disk) = disk(BOUNDS);
        let incoming = Incoming::begin(disk.clone());
        incoming.write(Bytes::from_static(b"half")).await;
        let Incoming { parts, done } = incoming;
        drop(parts);
        assert!(matches!(done.await.unwrap(), Err(BlobError::Interrupted)));
        assert!(names(&disk).is_empty());
        // As a crash leaves it.
        let left = disk.temporary_path();
        fs::write(&left, b"half").unwrap();
        BlobDisk::open(left.parent().unwrap(), BOUNDS).unwrap();
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn a_disk_without_its_reserve_takes_nothing() {
        let (_folder, disk) = disk(DiskBounds { reserve: u64::MAX, ..BOUNDS });
        let refused = store(&disk, &[b"abc"], Expected::default()).await.unwrap_err().to_string();
        assert!(refused.contains("is full") && refused.contains("blobs.reserve"), "{refused}");
    }
}
