//! Writes many small files into one: a tar archive that every `tar` reads, with modes and times, and no links.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::copy;
use super::holes::HoleReader;
use super::outputs::PlainFile;

const BLOCK_BYTES: usize = 512;
const NAME_BYTES: usize = 100;

/// Writes the files under their paths. `Interrupted`: it was stopped.
pub fn write(target: &Path, files: &[PlainFile], is_stopped: &dyn Fn() -> bool) -> io::Result<()> {
    if let Some(above) = target.parent() {
        fs::create_dir_all(above)?;
    }
    let mut tar = BufWriter::new(File::create(target)?);
    for file in files {
        let mut from = HoleReader::open(&file.file)?;
        let modified = u64::try_from(fs::metadata(&file.file)?.mtime()).unwrap_or(0);
        if file.path.len() > NAME_BYTES {
            // GNU's way: the name is the content of an entry before.
            let mut name = file.path.clone().into_bytes();
            name.push(0);
            tar.write_all(&header(b"././@LongLink", b'L', 0o644, name.len() as u64, 0))?;
            tar.write_all(&name)?;
            fill(&mut tar, name.len() as u64)?;
        }
        let mode = if file.executable { 0o755 } else { 0o644 };
        tar.write_all(&header(file.path.as_bytes(), b'0', mode, file.size, modified))?;
        let written = copy::pump(&mut from, &mut tar, is_stopped)?.size;
        if written != file.size {
            return Err(io::Error::other(format!("{:?} changed while it was read", file.path)));
        }
        fill(&mut tar, written)?;
    }
    tar.write_all(&[0; 2 * BLOCK_BYTES])?;
    tar.into_inner().map(drop).map_err(io::IntoInnerError::into_error)
}

/// Zeros up to the next block.
fn fill(tar: &mut impl Write, written: u64) -> io::Result<()> {
    let over = (written % BLOCK_BYTES as u64) as usize;
    if over == 0 { Ok(()) } else { tar.write_all(&[0; BLOCK_BYTES][over..]) }
}

fn header(name: &[u8], kind: u8, mode: u64, size: u64, modified: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let name = &name[..name.len().min(NAME_BYTES)];
    block[..name.len()].copy_from_slice(name);
    number(&mut block[100..108], mode);
    number(&mut block[108..116], 0);
    number(&mut block[116..124], 0);
    number(&mut block[124..136], size);
    number(&mut block[136..148], modified);
    block[148..156].fill(b' ');
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    number(&mut block[148..155], sum);
    block
}

/// In octal digits; where those do not fit, as GNU has it: in bytes, with the first bit set.
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let octal = format!("{value:0digits$o}");
    if octal.len() == digits {
        field[..digits].copy_from_slice(octal.as_bytes());
        field[digits] = 0;
        return;
    }
    field.fill(0);
    let bytes = value.to_be_bytes();
    let begin = field.len() - bytes.len();
    field[begin..].copy_from_slice(&bytes);
    field[0] = 0x80;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn every_tar_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("out/{}/{}", "a".repeat(90), "b".repeat(90));
        let mut files = Vec::new();
        for (at, (path, text)) in
            [("out/run", "#!/bin/sh\n"), ("out/empty", ""), (long.as_str(), "far away\n")]
                .into_iter()
                .enumerate()
        {
            let file = folder.path().join(at.to_string());
            fs::write(&file, text).unwrap();
            let size = text.len() as u64;
            files.push(PlainFile { path: path.into(), file, size, executable: at == 0 });
        }
        let tar = folder.path().join("packed/out.tar");
        write(&tar, &files, &|| false).unwrap();
        let into = folder.path().join("into");
        fs::create_dir(&into).unwrap();
        let done = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&into).status().unwrap();
        assert!(done.success());
        let read = |path: &str| fs::read_to_string(into.join(path)).unwrap();
        assert_eq!((read("out/run").as_str(), read("out/empty").as_str()), ("#!/bin/sh\n", ""));
        assert_eq!(read(&long), "far away\n");
        let mode = |path: &str| fs::metadata(into.join(path)).unwrap().permissions().mode() & 0o100;
        assert_eq!((mode("out/run"), mode("out/empty")), (0o100, 0));
        let stopped = write(&tar, &files, &|| true).unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_size_beyond_octal_digits_is_written_in_bytes() {
        let block = header(b"large", b'0', 0o644, 9 << 30, 0);
        assert_eq!((block[124], &block[128..136]), (0x80, (9_u64 << 30).to_be_bytes().as_slice()));
    }
}
