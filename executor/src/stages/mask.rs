//! Hides the values of secrets in output: each byte of one becomes `*`, so that offsets stay as they are.
//!
//! While an attempt runs, what is read is masked and what may be the beginning of a secret is held back until more is
//! there; at its end the files themselves are masked, before the values go. Values are looked for as they are: a program
//! that encodes one (base64, a URL) shows it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;

use crate::host::LogChunk;
use crate::{limits, logs, sys};

/// What is said instead of output that could not be masked any more.
const WITHHELD: &[u8] =
    b"[stint: output withheld: the machine restarted before the task's secrets were masked in it]\n";
/// Bytes of a file masked at once.
const PIECE_BYTES: usize = 1024 * 1024;

/// What is hidden in the output of one attempt.
#[derive(Clone, PartialEq, Eq)]
pub enum Masks {
    /// Longest first.
    Values(Arc<[Vec<u8>]>),
    /// It had secrets that nobody knows any more: all of its output is withheld.
    Unknown,
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Masks::Values(values) => write!(f, "{} values", values.len()),
            Masks::Unknown => f.write_str("unknown"),
        }
    }
}

impl Masks {
    /// Hides these values, and the lines of those that have several: programs often print one alone, and without what
    /// is blank around it.
    pub fn for_values(values: &[Vec<u8>]) -> Self {
        let lines = values.iter().flat_map(|value| value.split(|byte| *byte == b'\n'));
        let lines = lines.map(|line| line.trim_ascii().to_vec());
        let mut all: Vec<Vec<u8>> = values.iter().cloned().chain(lines).collect();
        all.retain(|value| value.len() >= limits::SECRET_LEAST_BYTES);
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Masks::Values(all.into())
    }

    /// A text in which the values are hidden.
    pub fn hide(&self, text: String) -> String {
        let mut bytes = text.into_bytes();
        if self.cover(&mut bytes) { String::from_utf8_lossy(&bytes).into_owned() } else { lossless(bytes) }
    }

    /// Hides the values that are whole in these bytes; whether there was one.
    pub fn cover(&self, bytes: &mut [u8]) -> bool {
        let Masks::Values(values) = self else { return false };
        cover(values, bytes)
    }

    /// A piece of a log file, as `logs::read` gives it, with the values hidden.
    pub fn read(&self, path: &Path, offset: u64, max: usize, ended: bool) -> io::Result<LogChunk> {
        match self {
            Masks::Unknown => Ok(withheld(offset, ended)),
            Masks::Values(values) => read(values, path, offset, max, ended),
        }
    }

    /// Hides the values in a whole file that nobody writes to any more.
    pub fn rewrite(&self, path: &Path) -> io::Result<()> {
        match self {
            Masks::Unknown if std::fs::metadata(path)?.len() > 0 => std::fs::write(path, WITHHELD),
            Masks::Unknown => Ok(()),
            Masks::Values(values) => rewrite(values, path),
        }
    }
}

fn lossless(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn withheld(offset: u64, ended: bool) -> LogChunk {
    // While it runs there may be none yet.
    let rest = if ended { WITHHELD.get(offset as usize..).unwrap_or_default() } else { &[] };
    LogChunk { bytes: rest.to_vec(), next_offset: offset + rest.len() as u64, complete: ended }
}

/// Hides the values, also where they overlap; whether there was one.
fn cover(values: &[Vec<u8>], bytes: &mut [u8]) -> bool {
    let mut found = Vec::new();
    for value in values {
        let finder = memmem::Finder::new(value);
        let mut from = 0;
        while let Some(at) = finder.find(&bytes[from..]) {
            found.push(from + at..from + at + value.len());
            from += at + 1;
        }
    }
    for range in &found {
        bytes[range.clone()].fill(b'*');
    }
    !found.is_empty()
}

/// How many bytes at the end may be the beginning of a value.
fn open_tail(values: &[Vec<u8>], bytes: &[u8]) -> usize {
    let longest = |value: &Vec<u8>| {
        let most = (value.len() - 1).min(bytes.len());
        (1..=most).rev().find(|n| bytes.ends_with(&value[..*n])).unwrap_or(0)
    };
    values.iter().map(longest).max().unwrap_or(0)
}

/// How many bytes at the beginning may be the end of a value.
fn open_head(values: &[Vec<u8>], bytes: &[u8]) -> usize {
    let longest = |value: &Vec<u8>| {
        let most = (value.len() - 1).min(bytes.len());
        (1..=most).rev().find(|n| bytes.starts_with(&value[value.len() - n..])).unwrap_or(0)
    };
    values.iter().map(longest).max().unwrap_or(0)
}

/// Hides what may be a part of a value whose rest was dropped or never written.
fn cover_ends(values: &[Vec<u8>], bytes: &mut [u8], head: bool, tail: bool) -> bool {
    let long_enough = |n: usize| if n >= limits::SECRET_LEAST_BYTES { n } else { 0 };
    let head = if head { long_enough(open_head(values, bytes)) } else { 0 };
    let tail = if tail { long_enough(open_tail(values, bytes)) } else { 0 };
    let from = bytes.len() - tail;
    bytes[..head].fill(b'*');
    bytes[from..].fill(b'*');
    head + tail > 0
}

fn margin(values: &[Vec<u8>]) -> usize {
    values.first().map_or(0, |longest| longest.len() - 1)
}

fn read(values: &[Vec<u8>], path: &Path, offset: u64, max: usize, ended: bool) -> io::Result<LogChunk> {
    let margin = margin(values);
    let want = max.clamp(1, limits::LOG_CHUNK_BYTES - limits::SECRET_BYTES);
    let chunk = logs::read(path, offset, want + margin, ended)?;
    let end = offset + chunk.bytes.len() as u64;
    if chunk.bytes.is_empty() || end != chunk.next_offset {
        // Nothing, or a line about bytes that were dropped.
        return Ok(chunk);
    }
    let file = File::open(path)?;
    let back = margin.min(offset as usize);
    let mut bytes = vec![0; back];
    file.read_exact_at(&mut bytes, offset - back as u64)?;
    bytes.extend_from_slice(&chunk.bytes);
    let mut deliver = chunk.bytes.len().min(want);
    let is_cut = chunk.bytes.len() == want + margin;
    if !is_cut {
        let at_end = file.metadata()?.len() <= end;
        if at_end && !ended {
            deliver = deliver.min(chunk.bytes.len() - open_tail(values, &bytes).min(chunk.bytes.len()));
        } else {
            cover_ends(values, &mut bytes, false, true);
        }
    }
    cover(values, &mut bytes);
    let complete = chunk.complete && deliver == chunk.bytes.len();
    let bytes = bytes[back..back + deliver].to_vec();
    Ok(LogChunk { bytes, next_offset: offset + deliver as u64, complete })
}

fn rewrite(values: &[Vec<u8>], path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut at = 0;
    while let Some(from) = sys::next_data(&file, at) {
        let until = sys::next_hole(&file, from).unwrap_or(file.metadata()?.len());
        if until <= from {
            break;
        }
        rewrite_part(values, &file, from, until)?;
        at = until;
    }
    Ok(())
}

/// Hides the values in a part of a file that has no holes.
fn rewrite_part(values: &[Vec<u8>], file: &File, from: u64, until: u64) -> io::Result<()> {
    let margin = margin(values);
    let mut at = from;
    loop {
        let piece = ((until - at) as usize).min(PIECE_BYTES + margin);
        let mut bytes = vec![0; piece];
        file.read_exact_at(&mut bytes, at)?;
        let is_last = at + piece as u64 >= until;
        let ends = cover_ends(values, &mut bytes, at == from && from > 0, is_last);
        if cover(values, &mut bytes) || ends {
            file.write_all_at(&bytes, at)?;
        }
        if is_last {
            return Ok(());
        }
        at += PIECE_BYTES as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn masks(values: &[&str]) -> Masks {
        Masks::for_values(&values.iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    fn read_all(masks: &Masks, path: &Path, max: usize) -> Vec<u8> {
        let (mut all, mut offset) = (Vec::new(), 0);
        for _ in 0..100_000 {
            let chunk = masks.read(path, offset, max, true).unwrap();
            all.extend(chunk.bytes);
            offset = chunk.next_offset;
            if chunk.complete {
                return all;
            }
        }
        panic!("reading does not end");
    }

    proptest! {
        /// However it is cut into chunks, nothing of a secret is read, and nothing else is hidden.
        #[test]
        fn nothing_is_read_of_a_secret_and_all_of_the_rest(
            parts in prop::collection::vec(prop_oneof![Just("hunter22"), Just("hunter2"), Just("hunt"), Just("r22"), Just("\u{e9}x")], 0..60),
            max in 1usize..40,
        ) {
            let text = parts.concat().into_bytes();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &text).unwrap();
            let masks = masks(&["hunter22"]);
            let mut expected = text.clone();
            let Masks::Values(values) = &masks else { unreachable!() };
            cover(values, &mut expected);
            cover_ends(values, &mut expected, false, true);
            let read = read_all(&masks, file.path(), max);
            prop_assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(&expected));
            prop_assert!(memmem::find(&read, b"hunter22").is_none());
            masks.rewrite(file.path()).unwrap();
            prop_assert_eq!(std::fs::read(file.path()).unwrap(), read);
        }
    }

    #[test]
    fn the_beginning_of_a_secret_is_held_back_until_more_is_there() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let masks = masks(&["correct-horse"]);
        file.write_all(b"token: corr").unwrap();
        let first = masks.read(file.path(), 0, 100, false).unwrap();
        assert_eq!((first.bytes.as_slice(), first.next_offset), (b"token: ".as_slice(), 7));
        assert!(masks.read(file.path(), 7, 100, false).unwrap().bytes.is_empty());
        file.write_all(b"ect-horse!").unwrap();
        let second = masks.read(file.path(), 7, 100, false).unwrap();
        assert_eq!(second.bytes, b"*************!");
        file.write_all(b" corner").unwrap();
        let third = masks.read(file.path(), second.next_offset, 100, false).unwrap();
        assert_eq!(third.bytes, b" corner", "what turned out to be something else is shown");
    }

    #[test]
    fn lines_of_a_secret_and_secrets_that_overlap_are_hidden() {
        let masks = masks(&["-----BEGIN-----\r\n  abcdefgh\r\n-----END-----\n", "abab"]);
        assert_eq!(masks.hide("key abcdefgh and ababab".into()), "key ******** and ******");
        assert_eq!(masks.hide("fine é".into()), "fine é");
        assert!(!format!("{masks:?}").contains("abcdefgh"));
    }

    #[test]
    fn a_secret_across_two_pieces_of_a_file_is_hidden() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let masks = masks(&["correct-horse"]);
        for shift in 0..14 {
            let mut text = vec![b'.'; PIECE_BYTES - shift];
            text.extend_from_slice(b"correct-horse");
            text.extend_from_slice(&vec![b'.'; 3 * PIECE_BYTES]);
            std::fs::write(file.path(), &text).unwrap();
            masks.rewrite(file.path()).unwrap();
            let after = std::fs::read(file.path()).unwrap();
            assert_eq!(after.iter().filter(|byte| **byte == b'*').count(), 13, "shift {shift}");
            assert_eq!(after.len(), text.len());
        }
    }

    #[test]
    fn what_cannot_be_masked_any_more_is_withheld() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2").unwrap();
        assert_eq!(read_all(&Masks::Unknown, file.path(), 100), WITHHELD);
        Masks::Unknown.rewrite(file.path()).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), WITHHELD);
    }
}
