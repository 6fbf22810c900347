//! Output of attempts: read in chunks, kept small, removed with old work folders.
//!
//! The watchdog and its monitors write the files, which outlive the node, so no reader or restart of the node can slow or
//! lose anything. The cap is kept by giving disk space back in the middle of the file (a hole): offsets stay
//! as they are, the beginning (`LOG_HEAD_BYTES`) and the end stay readable, and reading says in one line how much was
//! dropped. Between two checks (`LOG_CHECK_MS`) a program may overshoot by what it writes in that time.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::host::LogChunk;
use crate::shim_api::layout::{Layout, parse_folder_name};
use crate::{limits, sys};
use stint_protocol::LeaseId;

/// Reads a piece of a log file; `ended` says that nothing more will be written.
pub fn read(path: &Path, offset: u64, max: usize, ended: bool) -> io::Result<LogChunk> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let max = max.clamp(1, limits::LOG_CHUNK_BYTES) as u64;
    if offset >= size {
        return Ok(LogChunk { bytes: Vec::new(), next_offset: offset, complete: ended });
    }
    let from = sys::next_data(&file, offset).unwrap_or(size);
    if from > offset {
        let bytes = format!("\n[stint: {} bytes dropped, max_log_bytes]\n", from - offset).into_bytes();
        return Ok(LogChunk { bytes, next_offset: from, complete: ended && from >= size });
    }
    let until = sys::next_hole(&file, offset).unwrap_or(size).min(offset + max).min(size);
    let mut bytes = vec![0; (until - offset) as usize];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    let next_offset = offset + read as u64;
    Ok(LogChunk { bytes, next_offset, complete: ended && next_offset >= size })
}

/// Gives the middle of a file's disk space back when it is over `cap` bytes.
pub fn keep_small(path: &Path, cap: u64) -> io::Result<()> {
    const BLOCK: u64 = 4096;
    let meta = std::fs::metadata(path)?;
    if cap == 0 || meta.len() <= cap || meta.blocks() * 512 <= cap {
        return Ok(());
    }
    let head = limits::LOG_HEAD_BYTES.min(cap / 2) / BLOCK * BLOCK;
    // Down to three quarters, so that a busy program does not need a new hole at every check.
    let keep_from = (meta.len() - (cap / 4 * 3).saturating_sub(head)) / BLOCK * BLOCK;
    let file = File::options().write(true).open(path)?;
    sys::punch_hole(&file, head, keep_from)
}

/// Ended attempts whose folders are there, oldest first.
pub fn ended_folders(layout: &Layout) -> Vec<(SystemTime, LeaseId)> {
    let entries = std::fs::read_dir(layout.attempts()).into_iter().flatten().flatten();
    let mut found: Vec<(SystemTime, LeaseId)> = entries
        .filter_map(|e| {
            Some((e.metadata().ok()?.modified().ok()?, parse_folder_name(e.file_name().to_str()?)?))
        })
        .collect();
    found.sort();
    found
}

/// The age of something that was last changed at `since`.
pub fn age(since: SystemTime) -> Duration {
    since.elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_capped_log_keeps_its_offsets_beginning_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout");
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        for n in 0..40_000u32 {
            writeln!(file, "line {n:>10}").unwrap();
        }
        let size = file.metadata().unwrap().len();
        keep_small(&path, 256 * 1024).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 <= 256 * 1024, "disk space was given back");
        writeln!(file, "line {:>10}", 40_000).unwrap();

        let (mut offset, mut text, mut notes) = (0, Vec::new(), 0);
        loop {
            let chunk = read(&path, offset, 10_000, true).unwrap();
            notes += usize::from(chunk.bytes.starts_with(b"\n[stint: "));
            text.extend_from_slice(&chunk.bytes);
            offset = chunk.next_offset;
            if chunk.complete {
                break;
            }
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("line          0\n") && text.ends_with("line      40000\n"));
        assert_eq!((notes, offset), (1, size + 16));
    }
}
