//! The body of a snapshot in its file: written and read in pieces, so that no peer ever holds a whole one in memory.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::log::disk::{Disk, DiskFile};
use crate::options::SNAPSHOT_PIECE_BYTES;

/// A body that is complete. Its file stays readable while this is kept, also after the file's name is gone.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub file: Arc<dyn DiskFile>,
    /// Where in the file it begins.
    pub start: u64,
    pub len: u64,
    pub crc: u32,
    pub inline_io: bool,
    /// Its file, while that is not a snapshot of this peer.
    pub unnamed: Option<Arc<UnnamedFile>>,
}

impl Body {
    /// Reads it from its beginning, and checks it once more on the way.
    pub(crate) fn reader(&self) -> BodyReader<'_> {
        BodyReader { body: self, at: 0, crc: 0, piece: Vec::new(), used: 0 }
    }

    /// Up to `len` bytes from this offset; fewer only at its end.
    pub(crate) async fn piece(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.inline_io {
            return self.read_at(offset, len).map(Bytes::from);
        }
        let body = self.clone();
        let read = tokio::task::spawn_blocking(move || body.read_at(offset, len));
        read.await.map_err(io::Error::other)?.map(Bytes::from)
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let rest = self.len.saturating_sub(offset);
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(len);
        let bytes = self.file.read_at(self.start + offset, len)?;
        if bytes.len() < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the snapshot's file ends within its body",
            ));
        }
        Ok(bytes)
    }

    /// The checksum of the bytes as they are in the file.
    pub(crate) fn crc_of_file(&self) -> io::Result<u32> {
        let (mut crc, mut at) = (0, 0);
        while at < self.len {
            let piece = self.read_at(at, SNAPSHOT_PIECE_BYTES)?;
            crc = crc32c::crc32c_append(crc, &piece);
            at += piece.len() as u64;
        }
        Ok(crc)
    }
}

/// Reads a body; holds one piece of it. Of a damaged one the last piece is never handed out: whoever needs all of it
/// takes none of it for whole.
pub(crate) struct BodyReader<'a> {
    body: &'a Body,
    at: u64,
    /// The checksum of what was read.
    crc: u32,
    piece: Vec<u8>,
    used: usize,
}

impl BodyReader<'_> {
    fn next_piece(&mut self) -> io::Result<()> {
        (self.piece, self.used) = (Vec::new(), 0);
        let piece = self.body.read_at(self.at, SNAPSHOT_PIECE_BYTES)?;
        self.crc = crc32c::crc32c_append(self.crc, &piece);
        self.at += piece.len() as u64;
        if self.at == self.body.len && self.crc != self.body.crc {
            let what = "the snapshot's body fails its checksum";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.piece = piece;
        Ok(())
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            self.next_piece()?;
        }
        let rest = &self.piece[self.used..];
        let len = rest.len().min(to.len());
        to[..len].copy_from_slice(&rest[..len]);
        self.used += len;
        Ok(len)
    }
}

/// Writes a body; gathers what it is given into pieces.
pub(crate) struct BodyWriter {
    unnamed: Arc<UnnamedFile>,
    start: u64,
    len: u64,
    crc: u32,
    gathered: Vec<u8>,
}

impl BodyWriter {
    /// `start`: where in the file the body begins.
    pub(crate) fn new(unnamed: Arc<UnnamedFile>, start: u64) -> Self {
        Self { unnamed, start, len: 0, crc: 0, gathered: Vec::with_capacity(SNAPSHOT_PIECE_BYTES) }
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.unnamed.file.write_at(self.start + self.len, &self.gathered)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.gathered);
        self.len += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    /// The body, once all of it is in the file.
    pub(crate) fn finish(mut self, inline_io: bool) -> io::Result<Body> {
        self.write_gathered()?;
        let Self { unnamed, start, len, crc, .. } = self;
        Ok(Body { file: unnamed.file.clone(), start, len, crc, inline_io, unnamed: Some(unnamed) })
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() == SNAPSHOT_PIECE_BYTES {
            self.write_gathered()?;
        }
        let len = bytes.len().min(SNAPSHOT_PIECE_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_gathered()
    }
}

/// A file that is not a snapshot of this peer yet. It goes when nobody needs it, unless it got a snapshot's name.
#[derive(Debug)]
pub(crate) struct UnnamedFile {
    pub disk: Arc<dyn Disk>,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub named: AtomicBool,
}

impl Drop for UnnamedFile {
    fn drop(&mut self) {
        if !self.named.load(Ordering::Relaxed) {
            // What cannot be removed now is removed when the folder is opened next.
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// A body on its way from a leader.
pub(crate) struct Incoming {
    pub unnamed: Arc<UnnamedFile>,
    /// Where in the file the body begins.
    pub start: u64,
    /// Bytes that are there.
    pub have: u64,
    pub crc: u32,
}

impl Incoming {
    /// Notes a piece that is in the file.
    pub(crate) fn took(&mut self, piece: &[u8]) {
        self.have += piece.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, piece);
    }

    /// The whole body.
    pub(crate) fn finish(self, inline_io: bool) -> Body {
        let Self { unnamed, start, have, crc } = self;
        Body { file: unnamed.file.clone(), start, len: have, crc, inline_io, unnamed: Some(unnamed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::{OpenMode, RealDisk};

    /// However large the body is, no write and no read is larger than a piece.
    #[test]
    fn a_body_is_written_and_read_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (Arc::new(RealDisk), dir.path().join("body"));
        let file = disk.open(&path, OpenMode::Fresh).unwrap();
        let unnamed = Arc::new(UnnamedFile { disk, path, file, named: AtomicBool::new(false) });
        let bytes: Vec<u8> = (0..3 * SNAPSHOT_PIECE_BYTES + 17).map(|at| (at % 251) as u8).collect();
        let mut writer = BodyWriter::new(unnamed, 5);
        for part in bytes.chunks(1_000) {
            writer.write_all(part).unwrap();
            assert!(writer.gathered.capacity() == SNAPSHOT_PIECE_BYTES);
        }
        let body = writer.finish(true).unwrap();
        assert_eq!((body.len, body.crc), (bytes.len() as u64, crc32c::crc32c(&bytes)));
        assert_eq!(body.crc_of_file().unwrap(), body.crc);
        let (mut reader, mut read) = (body.reader(), Vec::new());
        let mut part = [0; 1_000];
        loop {
            let len = reader.read(&mut part).unwrap();
            if len == 0 {
                break;
            }
            assert!(reader.piece.capacity() <= SNAPSHOT_PIECE_BYTES);
            read.extend_from_slice(&part[..len]);
        }
        assert!(read == bytes);
    }
}
