//! Reads files without their holes: what was never written is zeros, and no disk is asked for it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A file that is read from its beginning to the size it had when it was opened.
pub struct HoleReader {
    file: File,
    at: u64,
    size: u64,
    /// Bytes before this are zeros.
    hole_until: u64,
    /// Bytes before this, and not before `hole_until`, are on the disk.
    data_until: u64,
}

impl HoleReader {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, at: 0, size, hole_until: 0, data_until: 0 })
    }

    /// Finds what stands at `at`, and how far it goes.
    fn look(&mut self) -> io::Result<()> {
        self.hole_until = match seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(data) => data.min(self.size),
            Err(Errno::NXIO) => self.size,
            // A file system that knows of no holes: everything is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => self.at,
            Err(e) => return Err(e.into()),
        };
        self.data_until = match seek(&self.file, SeekFrom::Hole(self.hole_until)) {
            Ok(hole) if hole > self.hole_until => hole.min(self.size),
            _ => self.size,
        };
        seek(&self.file, SeekFrom::Start(self.hole_until))?;
        Ok(())
    }
}

impl Read for HoleReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || into.is_empty() {
            return Ok(0);
        }
        if self.at >= self.hole_until.max(self.data_until) {
            self.look()?;
        }
        let is_hole = self.at < self.hole_until;
        let until = if is_hole { self.hole_until } else { self.data_until };
        let most = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(into.len());
        let into = &mut into[..most];
        let read = if is_hole {
            into.fill(0);
            most
        } else {
            self.file.read(into)?
        };
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn read_all(path: &Path) -> Vec<u8> {
        let mut all = Vec::new();
        HoleReader::open(path).unwrap().read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn data_and_holes_give_the_bytes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        assert!(read_all(&path).is_empty());
        for (at, bytes) in [(0, "begin"), (1 << 20, "middle"), ((3 << 20) + 17, "later")] {
            file.write_all_at(bytes.as_bytes(), at).unwrap();
            assert!(read_all(&path) == std::fs::read(&path).unwrap(), "with data at {at}");
        }
        file.set_len(5 << 20).unwrap();
        assert!(read_all(&path) == std::fs::read(&path).unwrap(), "with a hole at its end");
        let hole = folder.path().join("hole");
        File::create(&hole).unwrap().set_len(1 << 20).unwrap();
        assert!(read_all(&hole) == vec![0; 1 << 20], "with nothing but a hole");
    }
}
