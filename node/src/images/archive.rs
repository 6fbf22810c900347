//! Archives into trees: a plain tar, or one in layers.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use stint_executor::ImageConfig;
use tar::{Archive, Entry, EntryType};

use super::UnpackError;
use super::layers::{Layered, Member};
use super::tree::{Tree, Whiteout, whiteout};

/// How gzip begins.
pub const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const NO_ZSTD: &str =
    "it is compressed with zstd, which is not read here: save it with gzip, or without compression";

/// Unpacks an image into `folder/root`; `folder` is empty. Answers what the image says of how it runs.
pub fn unpack(image: &Path, folder: &Path, max_bytes: u64) -> Result<ImageConfig, UnpackError> {
    let mut file = open(image)?;
    if begins_with(&mut file, ZSTD)? {
        return Err(UnpackError::Wrong(NO_ZSTD.into()));
    }
    if begins_with(&mut file, GZIP)? && Layered::is_one(plain(&mut file)?)? {
        let whole = folder.join("archive.tar");
        inflate(&mut file, &whole, max_bytes)?;
        let config = unpack_open(&mut open(&whole)?, folder, max_bytes)?;
        std::fs::remove_file(&whole).map_err(UnpackError::io("removing the inflated archive"))?;
        return Ok(config);
    }
    unpack_open(&mut file, folder, max_bytes)
}

fn open(path: &Path) -> Result<File, UnpackError> {
    File::open(path).map_err(UnpackError::io(format!("opening {}", path.display())))
}

fn unpack_open(file: &mut File, folder: &Path, max_bytes: u64) -> Result<ImageConfig, UnpackError> {
    let mut tree = Tree::new(folder.join("root"), max_bytes)?;
    let layered = match begins_with(file, GZIP)? {
        true => None,
        false => Layered::find(file)?,
    };
    let Some(layered) = layered else {
        extract(plain(file)?, &mut tree, false)?;
        return Ok(ImageConfig::default());
    };
    for layer in &layered.layers {
        // What a layer takes away is of those below it, wherever it stands among its own files.
        take_away(plain_part(file, *layer)?, &mut tree)?;
        extract(plain_part(file, *layer)?, &mut tree, true)?;
    }
    Ok(layered.config)
}

fn begins_with(file: &mut File, magic: &[u8]) -> Result<bool, UnpackError> {
    let mut first = Vec::new();
    file.rewind().map_err(UnpackError::unreadable)?;
    file.by_ref().take(magic.len() as u64).read_to_end(&mut first).map_err(UnpackError::unreadable)?;
    file.rewind().map_err(UnpackError::unreadable)?;
    Ok(first == magic)
}

/// The whole file, decompressed.
fn plain(file: &mut File) -> Result<Box<dyn Read + '_>, UnpackError> {
    let size = file.metadata().map_err(UnpackError::unreadable)?.len();
    plain_part(file, Member { offset: 0, size })
}

/// A part of the file, decompressed.
fn plain_part(file: &mut File, member: Member) -> Result<Box<dyn Read + '_>, UnpackError> {
    let mut first = Vec::new();
    let begin = file.seek(SeekFrom::Start(member.offset));
    begin.map_err(UnpackError::unreadable)?;
    let magic = file.by_ref().take(member.size.min(4)).read_to_end(&mut first);
    magic.map_err(UnpackError::unreadable)?;
    if first == ZSTD {
        return Err(UnpackError::Wrong(NO_ZSTD.into()));
    }
    file.seek(SeekFrom::Start(member.offset)).map_err(UnpackError::unreadable)?;
    let whole = BufReader::with_capacity(1 << 17, file.take(member.size));
    Ok(if first.starts_with(GZIP) { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

fn inflate(file: &mut File, to: &Path, max_bytes: u64) -> Result<(), UnpackError> {
    let mut out = File::create_new(to).map_err(UnpackError::io(format!("making {}", to.display())))?;
    let mut limited = plain(file)?.take(max_bytes.saturating_add(1));
    let copied = io::copy(&mut limited, &mut out);
    let copied = copied.map_err(UnpackError::io(format!("writing {}", to.display())))?;
    if copied > max_bytes {
        let words = format!("it unpacks to more than {max_bytes} bytes (blobs.max_unpacked)");
        return Err(UnpackError::Wrong(words));
    }
    Ok(())
}

fn take_away(layer: Box<dyn Read + '_>, tree: &mut Tree) -> Result<(), UnpackError> {
    for entry in Archive::new(layer).entries().map_err(UnpackError::unreadable)? {
        let entry = entry.map_err(UnpackError::unreadable)?;
        let path = entry.path().map_err(UnpackError::unreadable)?;
        match whiteout(&path) {
            Some(Whiteout::One(gone)) => tree.remove(&gone)?,
            Some(Whiteout::Everything(folder)) => tree.empty(&folder)?,
            Some(Whiteout::Nothing) | None => {}
        }
    }
    Ok(())
}

fn extract(archive: Box<dyn Read + '_>, tree: &mut Tree, is_layer: bool) -> Result<(), UnpackError> {
    let mut count = 0;
    for entry in Archive::new(archive).entries().map_err(UnpackError::unreadable)? {
        let mut entry = entry.map_err(UnpackError::unreadable)?;
        count += 1;
        let path = entry.path().map_err(UnpackError::unreadable)?.into_owned();
        if !(is_layer && whiteout(&path).is_some()) {
            extract_one(&mut entry, &path, tree)?;
        }
    }
    if count == 0 && !is_layer {
        return Err(UnpackError::Wrong("it is no tar archive, or an empty one".into()));
    }
    Ok(())
}

/// Devices, pipes and sockets are left out: an attempt gets its own from its runtime.
fn extract_one(
    entry: &mut Entry<'_, Box<dyn Read + '_>>,
    path: &Path,
    tree: &mut Tree,
) -> Result<(), UnpackError> {
    let mode = entry.header().mode().map_err(UnpackError::unreadable)?;
    let linked = |entry: &Entry<'_, _>| {
        let name = entry.link_name().map_err(UnpackError::unreadable)?;
        let nowhere = || UnpackError::Wrong(format!("{path:?} in it links to nothing"));
        Ok(name.ok_or_else(nowhere)?.into_owned())
    };
    match entry.header().entry_type() {
        EntryType::Directory => tree.put_folder(path, mode),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => tree.put_file(path, mode, entry),
        EntryType::Symlink => tree.put_symlink(path, &linked(entry)?),
        EntryType::Link => tree.put_link(path, &linked(entry)?),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
