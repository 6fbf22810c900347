//! Archives into trees: a plain tar, or one in layers.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use stint_executor::ImageConfig;
use tar::EntryType;

use super::UnpackError;
use super::bounded_tar::{BoundedEntry, BoundedTar};
use super::compression::{Compression, TOLD_BY};
use super::layers::{Layered, Member};
use super::rootfs_writer::{BoundedReader, RootfsWriter, Whiteout, whiteout};

/// Unpacks an image into `folder/root`; `folder` is empty. Answers what the image says of how it runs.
pub fn unpack(image: &Path, folder: &Path, max_bytes: u64) -> Result<ImageConfig, UnpackError> {
    let mut file = open(image)?;
    if whole_packing(&mut file)? != Compression::Plain && Layered::is_one(plain(&mut file, max_bytes)?)? {
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
    let mut writer = RootfsWriter::new(folder.join("root"), max_bytes)?;
    let layered = match whole_packing(file)? {
        Compression::Plain => Layered::find(file)?,
        Compression::Gzip | Compression::Zstd => None,
    };
    let Some(layered) = layered else {
        extract(plain(file, max_bytes)?, &mut writer, false)?;
        return Ok(ImageConfig::default());
    };
    for layer in &layered.layers {
        // What a layer takes away is of those below it, wherever it stands among its own files.
        take_away(plain_part(file, *layer, max_bytes)?, &mut writer)?;
        extract(plain_part(file, *layer, max_bytes)?, &mut writer, true)?;
    }
    Ok(layered.config)
}

fn whole(file: &File) -> Result<Member, UnpackError> {
    let size = file.metadata().map_err(UnpackError::unreadable)?.len();
    Ok(Member { offset: 0, size })
}

/// How the whole file is packed; it is read from its begin afterwards.
fn whole_packing(file: &mut File) -> Result<Compression, UnpackError> {
    let whole = whole(file)?;
    compression(file, whole)
}

fn compression(file: &mut File, member: Member) -> Result<Compression, UnpackError> {
    let mut first = Vec::new();
    file.seek(SeekFrom::Start(member.offset)).map_err(UnpackError::unreadable)?;
    let magic = file.by_ref().take(member.size.min(TOLD_BY)).read_to_end(&mut first);
    magic.map_err(UnpackError::unreadable)?;
    file.seek(SeekFrom::Start(member.offset)).map_err(UnpackError::unreadable)?;
    Ok(Compression::detect(&first))
}

/// The whole file, decompressed.
fn plain(file: &mut File, max_bytes: u64) -> Result<Box<dyn Read + '_>, UnpackError> {
    let whole = whole(file)?;
    plain_part(file, whole, max_bytes)
}

/// A part of the file, decompressed.
fn plain_part(file: &mut File, member: Member, max_bytes: u64) -> Result<Box<dyn Read + '_>, UnpackError> {
    let compression = compression(file, member)?;
    let whole = BufReader::with_capacity(1 << 17, file.take(member.size));
    compression.decompress(whole, max_bytes).map_err(UnpackError::unreadable)
}

fn inflate(file: &mut File, to: &Path, max_bytes: u64) -> Result<(), UnpackError> {
    let mut out = File::create_new(to).map_err(UnpackError::io(format!("making {}", to.display())))?;
    let mut archive = plain(file, max_bytes)?;
    let mut limited = BoundedReader::new(&mut archive, max_bytes.saturating_add(1));
    let copied = limited.copy_to(&mut out, to)?;
    if copied > max_bytes {
        let message = format!("it unpacks to more than {max_bytes} bytes (blobs.max_unpacked)");
        return Err(UnpackError::Wrong(message));
    }
    Ok(())
}

fn take_away(layer: Box<dyn Read + '_>, writer: &mut RootfsWriter) -> Result<(), UnpackError> {
    for entry in BoundedTar::new(layer).entries()? {
        let entry = entry?;
        let path = entry.path().map_err(UnpackError::unreadable)?;
        match whiteout(&path) {
            Some(Whiteout::One(gone)) => writer.remove(&gone)?,
            Some(Whiteout::Everything(folder)) => writer.empty(&folder)?,
            Some(Whiteout::Nothing) | None => {}
        }
    }
    Ok(())
}

fn extract(
    content: Box<dyn Read + '_>,
    writer: &mut RootfsWriter,
    is_layer: bool,
) -> Result<(), UnpackError> {
    let mut count = 0;
    let mut archive = BoundedTar::new(content);
    for entry in archive.entries()? {
        let mut entry = entry?;
        count += 1;
        let path = entry.path().map_err(UnpackError::unreadable)?.into_owned();
        if !(is_layer && whiteout(&path).is_some()) {
            extract_one(&mut entry, &path, writer)?;
        }
    }
    if count == 0 && !is_layer {
        return Err(UnpackError::Wrong("it is no tar archive, or an empty one".into()));
    }
    // An archive ends before what it is packed in does, and the checksum stands at that end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(UnpackError::unreadable)?;
    Ok(())
}

/// Devices, pipes and sockets are left out: an attempt gets its own from its runtime.
fn extract_one(
    entry: &mut BoundedEntry<'_, Box<dyn Read + '_>>,
    path: &Path,
    writer: &mut RootfsWriter,
) -> Result<(), UnpackError> {
    let mode = entry.header().mode().map_err(UnpackError::unreadable)?;
    let linked = |entry: &BoundedEntry<'_, _>| {
        let name = entry.link_name().map_err(UnpackError::unreadable)?;
        let nowhere = || UnpackError::Wrong(format!("{path:?} in it links to nothing"));
        Ok(name.ok_or_else(nowhere)?.into_owned())
    };
    match entry.header().entry_type() {
        EntryType::Directory => writer.put_folder(path, mode),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            writer.put_file(path, mode, entry)
        }
        EntryType::Symlink => writer.put_symlink(path, &linked(entry)?),
        EntryType::Link => writer.put_link(path, &linked(entry)?),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
