//! The entries of an archive, with bounds on what is read to find the next one: the tar crate reads long names and
//! attributes whole into memory, whatever size they say, and a few packed bytes may be endless ones.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use tar::{Archive, Entries as Found, Entry};

use super::UnpackError;
use crate::limits;

/// An archive that is read from its begin.
pub struct BoundedTar<R: Skip> {
    archive: Archive<Metered<R>>,
    left: Left,
}

/// One entry; what is not read of it is skipped.
pub type BoundedEntry<'a, R> = Entry<'a, Metered<R>>;

/// The entries of an archive, one after the other.
pub struct BoundedEntries<'a, R: Skip + 'a> {
    found: Found<'a, Metered<R>>,
    left: Left,
}

/// Bytes that may still be read before the next entry; none while an entry's own bytes are.
type Left = Rc<Cell<Option<u64>>>;

impl<R: Skip> BoundedTar<R> {
    pub fn new(content: R) -> Self {
        let left = Left::default();
        Self { archive: Archive::new(Metered { content, at: 0, left: Rc::clone(&left) }), left }
    }

    pub fn entries(&mut self) -> Result<BoundedEntries<'_, R>, UnpackError> {
        // Skipped bytes are no read ones, so that all that is read between two entries is headers and records.
        let found = self.archive.entries_with_seek().map_err(UnpackError::unreadable)?;
        Ok(BoundedEntries { found, left: Rc::clone(&self.left) })
    }

    /// What follows the last entry that was asked for.
    pub fn into_inner(self) -> R {
        self.archive.into_inner().content
    }
}

impl<'a, R: Skip + 'a> Iterator for BoundedEntries<'a, R> {
    type Item = Result<BoundedEntry<'a, R>, UnpackError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left.set(Some(limits::IMAGE_RECORDS_BYTES));
        let found = self.found.next();
        self.left.set(None);
        Some(found?.map_err(UnpackError::unreadable).and_then(named))
    }
}

/// No file system has longer names, and no message should.
fn named<R: Skip>(entry: BoundedEntry<'_, R>) -> Result<BoundedEntry<'_, R>, UnpackError> {
    let link = entry.link_name_bytes().map_or(0, |link| link.len());
    let longest = entry.path_bytes().len().max(link);
    if longest >= limits::IMAGE_PATH_BYTES {
        let most = limits::IMAGE_PATH_BYTES - 1;
        return Err(UnpackError::Wrong(format!("a name in it has {longest} bytes; {most} at most")));
    }
    Ok(entry)
}

/// Content of which bytes can be left out.
pub trait Skip: Read {
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

impl Skip for &mut File {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let count = i64::try_from(count).map_err(io::Error::other)?;
        self.seek(SeekFrom::Current(count)).map(drop)
    }
}

impl Skip for Box<dyn Read + '_> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.take(count), &mut io::sink())?;
        if skipped < count { Err(io::Error::other("it ends within a file")) } else { Ok(()) }
    }
}

/// Content that gives out no more than it may.
pub struct Metered<R> {
    content: R,
    at: u64,
    left: Left,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = match self.left.get() {
            Some(0) => {
                let most = limits::IMAGE_RECORDS_BYTES;
                let message = format!("a name or attributes in it of more than {most} bytes");
                return Err(io::Error::other(message));
            }
            Some(left) => buffer.len().min(left.try_into().unwrap_or(usize::MAX)),
            None => buffer.len(),
        };
        let count = self.content.read(&mut buffer[..most])?;
        self.at += count as u64;
        self.left.set(self.left.get().map(|left| left - count as u64));
        Ok(count)
    }
}

/// Forward only: the tar crate does no other.
impl<R: Skip> Seek for Metered<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Current(count @ 0..) = to else {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        };
        let count = count.unsigned_abs();
        self.content.skip(count)?;
        self.at += count;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use tar::{EntryType, Header};

    use super::*;

    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("short").unwrap();
        header.set_mode(0o644);
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// Counts what was read of it.
    struct Counting<'a>(Box<dyn Read + 'a>, Rc<Cell<u64>>);

    impl Read for Counting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1.set(self.1.get() + count as u64);
            Ok(count)
        }
    }

    #[test]
    fn a_record_without_end_is_read_up_to_its_bound() {
        let (name, link, attributes) = (EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader);
        for kind in [name, link, attributes] {
            let read = Rc::new(Cell::new(0));
            // A file with more bytes than a record may have comes first: its bytes are not counted.
            let size = 2 * limits::IMAGE_RECORDS_BYTES;
            let file = io::Cursor::new(header(EntryType::Regular, size)).chain(io::repeat(1).take(size));
            let record = io::Cursor::new(header(kind, 1 << 40)).chain(io::repeat(b'a').take(1 << 40));
            let content = Counting(Box::new(file.chain(record)), Rc::clone(&read));
            let mut tar = BoundedTar::new(Box::new(content) as Box<dyn Read>);
            let mut entries = tar.entries().unwrap();
            assert_eq!(io::copy(&mut entries.next().unwrap().unwrap(), &mut io::sink()).unwrap(), size);
            let before = read.get();
            let message = entries.next().unwrap().err().unwrap().to_string();
            assert!(message.contains("a name or attributes in it of more than 4194304 bytes"), "{message}");
            assert_eq!(read.get() - before, limits::IMAGE_RECORDS_BYTES);
            assert!(entries.next().is_none());
        }
    }

    #[test]
    fn what_is_not_read_is_skipped_and_costs_nothing() {
        let size = 2 * limits::IMAGE_RECORDS_BYTES + 100;
        let padded = size.next_multiple_of(512) as usize;
        let one = [header(EntryType::Regular, size), vec![7; padded]].concat();
        let device = header(EntryType::Char, 0);
        let whole = [one.as_slice(), &device, &one, &[0; 1024]].concat();
        let mut on_disk = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut on_disk, &whole).unwrap();
        on_disk.rewind().unwrap();
        let sizes = |entries: BoundedEntries<'_, Box<dyn Read + '_>>| {
            entries.map(|entry| entry.unwrap().size()).collect::<Vec<_>>()
        };
        let mut streamed = BoundedTar::new(Box::new(whole.as_slice()) as Box<dyn Read + '_>);
        assert_eq!(sizes(streamed.entries().unwrap()), [size, 0, size]);
        let mut file = BoundedTar::new(&mut on_disk);
        let found: Vec<_> = file.entries().unwrap().map(|entry| entry.unwrap().raw_file_position()).collect();
        assert_eq!(found, [512, 1_024 + padded as u64, 1_536 + padded as u64]);
        // Half of it is read, or it is cut.
        let mut half = BoundedTar::new(Box::new(whole.as_slice()) as Box<dyn Read + '_>);
        let mut entries = half.entries().unwrap();
        let mut first = entries.next().unwrap().unwrap();
        assert_eq!(io::copy(&mut first.by_ref().take(1_000), &mut io::sink()).unwrap(), 1_000);
        assert_eq!(entries.next().unwrap().unwrap().header().entry_type(), EntryType::Char);
        let mut cut = BoundedTar::new(Box::new(&whole[..1_000]) as Box<dyn Read + '_>);
        let mut entries = cut.entries().unwrap();
        entries.next().unwrap().unwrap();
        assert!(entries.next().unwrap().err().unwrap().to_string().contains("ends within a file"));
    }
}
