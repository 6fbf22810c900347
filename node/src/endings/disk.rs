//! The folder of endings: a file for each thousand numbers, with a table of places at its front.
//!
//! ```text
//! byte 0      for each number of the file: offset, u32 LE; length, u32 LE; both 0: there is none
//!      8192   endings, one behind the other: CRC-32C of the rest, u32 LE; task, 16 bytes; attempt, u32 LE; ending (CBOR)
//! ```
//!
//! What is written is durable after `sync`, which comes before each snapshot: the log that is purged with it had them. A torn one is
//! told by its checksum, and written again when the log is read again.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use stint_protocol::{Ending, LeaseId, TaskId};

/// Numbers of a file.
const NUMBERS: u64 = 1_024;
const TABLE_BYTES: u64 = NUMBERS * 8;
/// Bytes before the ending itself.
const HEAD_BYTES: usize = 24;
/// Bytes of the longest that is read: many times what is written.
const MOST_BYTES: usize = 256 * 1024;

/// One ending, and under which number of which attempt.
pub type Numbered = (u64, LeaseId, Ending);

/// The endings of one peer.
pub struct EndingDisk {
    folder: PathBuf,
    writing: Mutex<Writing>,
}

#[derive(Default)]
struct Writing {
    /// The file that was written last.
    open: Option<(u64, File)>,
    /// Files that are not durable yet.
    unsynced: BTreeSet<u64>,
}

impl EndingDisk {
    /// Opens the folder, which is made.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder, writing: Mutex::default() })
    }

    /// Writes one, unless it is there.
    pub fn put(&self, number: u64, lease: LeaseId, ending: &Ending) -> io::Result<()> {
        let (file_number, place) = (number / NUMBERS, number % NUMBERS);
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.open.as_ref().is_none_or(|(open, _)| *open != file_number) {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            writing.open = Some((file_number, options.open(self.path(file_number))?));
        }
        let Some((_, file)) = &writing.open else { return Ok(()) };
        if read_at(file, place)?.is_some_and(|(known, _)| known == lease) {
            return Ok(());
        }
        let bytes = record(lease, ending)?;
        let offset = file.metadata()?.len().max(TABLE_BYTES);
        let word = |number: u64| u32::try_from(number).map_err(io::Error::other);
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&word(offset)?.to_le_bytes());
        entry[4..].copy_from_slice(&word(bytes.len() as u64)?.to_le_bytes());
        file.write_all_at(&bytes, offset)?;
        file.write_all_at(&entry, place * 8)?;
        writing.unsynced.insert(file_number);
        Ok(())
    }

    /// The one of this number, if it is of this attempt.
    pub fn get(&self, number: u64, lease: LeaseId) -> io::Result<Option<Ending>> {
        let Some(file) = self.file(number / NUMBERS)? else { return Ok(None) };
        let found = read_at(&file, number % NUMBERS)?;
        Ok(found.filter(|(known, _)| *known == lease).map(|(_, ending)| ending))
    }

    /// Those from a number on, until they take so many bytes; and the number to go on from, unless there are no more.
    pub fn from(&self, mut number: u64, most_bytes: usize) -> io::Result<(Vec<Numbered>, Option<u64>)> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for file_number in self.file_numbers()?.range(number / NUMBERS..) {
            let Some(file) = self.file(*file_number)? else { continue };
            number = number.max(file_number * NUMBERS);
            while number < (file_number + 1) * NUMBERS {
                if bytes >= most_bytes {
                    return Ok((found, Some(number)));
                }
                if let Some((lease, ending)) = read_at(&file, number % NUMBERS)? {
                    bytes += HEAD_BYTES + ending.weight();
                    found.push((number, lease, ending));
                }
                number += 1;
            }
        }
        Ok((found, None))
    }

    /// Makes durable what was written.
    pub fn sync(&self) -> io::Result<()> {
        let unsynced =
            std::mem::take(&mut self.writing.lock().unwrap_or_else(PoisonError::into_inner).unsynced);
        for number in &unsynced {
            if let Some(file) = self.file(*number)? {
                file.sync_data()?;
            }
        }
        if unsynced.is_empty() { Ok(()) } else { File::open(&self.folder)?.sync_all() }
    }

    /// Removes the files below a number in which no ending is of an attempt that counts.
    pub fn sweep(&self, below: u64, mut counts: impl FnMut(LeaseId) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        let numbers = self.file_numbers()?;
        for number in numbers.into_iter().take_while(|number| (number + 1) * NUMBERS <= below) {
            let Some(file) = self.file(number)? else { continue };
            if !any_counts(&file, &mut counts)? {
                std::fs::remove_file(self.path(number))?;
                self.writing.lock().unwrap_or_else(PoisonError::into_inner).open = None;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// A mark in the folder: all up to a number are to be had from other peers.
    pub fn lacks(&self) -> Option<u64> {
        std::fs::read_to_string(self.folder.join("lacks")).ok()?.trim().parse().ok()
    }

    /// Sets the mark, or takes it away.
    pub fn set_lacks(&self, up_to: Option<u64>) -> io::Result<()> {
        let path = self.folder.join("lacks");
        match up_to {
            Some(up_to) => {
                std::fs::write(&path, format!("{up_to}\n"))?;
                File::open(path)?.sync_all()
            }
            None => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    fn path(&self, file_number: u64) -> PathBuf {
        self.folder.join(format!("{file_number:016x}"))
    }

    fn file(&self, file_number: u64) -> io::Result<Option<File>> {
        match File::open(self.path(file_number)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn file_numbers(&self) -> io::Result<BTreeSet<u64>> {
        let number = |path: &Path| u64::from_str_radix(path.file_name()?.to_str()?, 16).ok();
        Ok(std::fs::read_dir(&self.folder)?.flatten().filter_map(|entry| number(&entry.path())).collect())
    }
}

fn record(lease: LeaseId, ending: &Ending) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(&lease.task.0.to_le_bytes());
    bytes.extend_from_slice(&lease.attempt.to_le_bytes());
    minicbor::encode(ending, &mut bytes).map_err(io::Error::other)?;
    let sum = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// What lies at a place of a file; none: nothing, or it is not whole.
fn read_at(file: &File, place: u64) -> io::Result<Option<(LeaseId, Ending)>> {
    let Some((offset, length)) = entry_at(file, place)? else { return Ok(None) };
    let mut bytes = vec![0; length];
    match file.read_exact_at(&mut bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok(parse(&bytes))
}

fn entry_at(file: &File, place: u64) -> io::Result<Option<(u64, usize)>> {
    let mut entry = [0; 8];
    match file.read_exact_at(&mut entry, place * 8) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let (offset, length) = (u64::from(word(0)), word(4) as usize);
    Ok((HEAD_BYTES..=MOST_BYTES).contains(&length).then_some((offset, length)))
}

fn parse(bytes: &[u8]) -> Option<(LeaseId, Ending)> {
    let (head, ending) = bytes.split_at_checked(HEAD_BYTES)?;
    let sum = u32::from_le_bytes(head[..4].try_into().ok()?);
    if crc32c::crc32c(&bytes[4..]) != sum {
        return None;
    }
    Some((lease_of(head)?, minicbor::decode(ending).ok()?))
}

fn lease_of(head: &[u8]) -> Option<LeaseId> {
    let task = u128::from_le_bytes(head.get(4..20)?.try_into().ok()?);
    let attempt = u32::from_le_bytes(head.get(20..24)?.try_into().ok()?);
    Some(LeaseId { task: TaskId(task), attempt })
}

fn any_counts(file: &File, counts: &mut impl FnMut(LeaseId) -> bool) -> io::Result<bool> {
    for place in 0..NUMBERS {
        let Some((offset, _)) = entry_at(file, place)? else { continue };
        let mut head = [0; HEAD_BYTES];
        let read = file.read_exact_at(&mut head, offset);
        if read.is_ok() && lease_of(&head).is_some_and(&mut *counts) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use minicbor::bytes::ByteVec;

    use super::*;

    fn lease(number: u64) -> LeaseId {
        LeaseId { task: TaskId(u128::from(number) << 16), attempt: 1 }
    }

    fn ending(text: &str) -> Ending {
        Ending { summary: Some(ByteVec::from(text.as_bytes().to_vec())), ..Ending::default() }
    }

    fn disk() -> (tempfile::TempDir, EndingDisk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = EndingDisk::open(folder.path().join("endings")).unwrap();
        (folder, disk)
    }

    #[test]
    fn what_was_put_is_got_by_number_and_attempt() {
        let (_folder, disk) = disk();
        for number in [0, 1, 1_023, 1_024, 90_000] {
            disk.put(number, lease(number), &ending(&format!("of {number}"))).unwrap();
        }
        disk.sync().unwrap();
        assert_eq!(disk.get(1_023, lease(1_023)).unwrap(), Some(ending("of 1023")));
        assert_eq!(disk.get(90_000, lease(90_000)).unwrap(), Some(ending("of 90000")));
        assert_eq!(disk.get(2, lease(2)).unwrap(), None);
        assert_eq!(disk.get(50_000, lease(2)).unwrap(), None, "there is no such file");
        assert_eq!(disk.get(1, lease(2)).unwrap(), None, "another attempt's");
    }

    /// A log that is applied again names each once more; a state from a copy may give a number to another attempt.
    #[test]
    fn one_that_is_there_stays_and_another_attempts_takes_its_place() {
        let (folder, disk) = disk();
        disk.put(7, lease(7), &ending("first")).unwrap();
        let path = folder.path().join("endings").join("0000000000000000");
        let size = std::fs::metadata(&path).unwrap().len();
        disk.put(7, lease(7), &ending("first")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        disk.put(7, lease(8), &ending("second")).unwrap();
        assert_eq!(disk.get(7, lease(8)).unwrap(), Some(ending("second")));
        assert_eq!(disk.get(7, lease(7)).unwrap(), None);
    }

    #[test]
    fn a_torn_one_is_not_read_and_is_written_again() {
        let (folder, disk) = disk();
        disk.put(7, lease(7), &ending("whole")).unwrap();
        let path = folder.path().join("endings").join("0000000000000000");
        let size = std::fs::metadata(&path).unwrap().len();
        for cut in [size - 1, TABLE_BYTES + 3, 60] {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
            assert_eq!(disk.get(7, lease(7)).unwrap(), None, "{cut}");
            disk.put(7, lease(7), &ending("whole")).unwrap();
            assert_eq!(disk.get(7, lease(7)).unwrap(), Some(ending("whole")), "{cut}");
        }
    }

    #[test]
    fn they_are_listed_in_pieces() {
        let (_folder, disk) = disk();
        let numbers: Vec<u64> = (0..3_000).step_by(7).collect();
        for number in &numbers {
            disk.put(*number, lease(*number), &ending("some words that were written")).unwrap();
        }
        let (mut from, mut found) = (Some(0), Vec::new());
        while let Some(number) = from {
            let (some, next) = disk.from(number, 1_000).unwrap();
            assert!(some.len() < 30);
            found.extend(some.into_iter().map(|(number, of, _)| {
                assert_eq!(of, lease(number));
                number
            }));
            from = next;
        }
        assert_eq!(found, numbers);
    }

    #[test]
    fn files_go_when_nothing_in_them_counts() {
        let (_folder, disk) = disk();
        for number in [1, 2, 1_500, 2_500] {
            disk.put(number, lease(number), &ending("words")).unwrap();
        }
        assert_eq!(disk.sweep(2_048, |of| of == lease(2)).unwrap(), 1);
        assert!(disk.get(1, lease(1)).unwrap().is_some(), "one of its file counts");
        assert!(disk.get(1_500, lease(1_500)).unwrap().is_none());
        assert!(disk.get(2_500, lease(2_500)).unwrap().is_some(), "its number was not asked for");
        disk.put(1_500, lease(1_500), &ending("again")).unwrap();
        assert!(disk.get(1_500, lease(1_500)).unwrap().is_some());
    }

    #[test]
    fn what_is_lacking_is_remembered() {
        let (_folder, disk) = disk();
        assert_eq!(disk.lacks(), None);
        disk.set_lacks(Some(70)).unwrap();
        assert_eq!(disk.lacks(), Some(70));
        disk.set_lacks(None).unwrap();
        disk.set_lacks(None).unwrap();
        assert_eq!(disk.lacks(), None);
    }
}
