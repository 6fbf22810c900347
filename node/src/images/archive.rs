//! Archives into trees: a plain tar, or one in layers.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use stint_executor::ImageConfig;
use tar::EntryType;

use super::UnpackError;
use super::entries::{One, Tar};
use super::layers::{Layered, Member};
use super::packing::{Packing, TOLD_BY};
use super::tree::{Reading, Tree, Whiteout, whiteout};

/// Unpacks an image into `folder/root`; `folder` is empty. Answers what the image says of how it runs.
pub fn unpack(image: &Path, folder: &Path, max_bytes: u64) -> Result<ImageConfig, UnpackError> {
    let mut file = open(image)?;
    if whole_packing(&mut file)? != Packing::Plain && Layered::is_one(plain(&mut file, max_bytes)?)? {
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
    let layered = match whole_packing(file)? {
        Packing::Plain => Layered::find(file)?,
        Packing::Gzip | Packing::Zstd => None,
    };
    let Some(layered) = layered else {
        extract(plain(file, max_bytes)?, &mut tree, false)?;
        return Ok(ImageConfig::default());
    };
    for layer in &layered.layers {
        // What a layer takes away is of those below it, wherever it stands among its own files.
        take_away(plain_part(file, *layer, max_bytes)?, &mut tree)?;
        extract(plain_part(file, *layer, max_bytes)?, &mut tree, true)?;
    }
    Ok(layered.config)
}

fn whole(file: &File) -> Result<Member, UnpackError> {
    let size = file.metadata().map_err(UnpackError::unreadable)?.len();
    Ok(Member { offset: 0, size })
}

/// How the whole file is packed; it is read from its begin afterwards.
fn whole_packing(file: &mut File) -> Result<Packing, UnpackError> {
    let whole = whole(file)?;
    packing(file, whole)
}

fn packing(file: &mut File, member: Member) -> Result<Packing, UnpackError> {
    let mut first = Vec::new();
    file.seek(SeekFrom::Start(member.offset)).map_err(UnpackError::unreadable)?;
    let magic = file.by_ref().take(member.size.min(TOLD_BY)).read_to_end(&mut first);
    magic.map_err(UnpackError::unreadable)?;
    file.seek(SeekFrom::Start(member.offset)).map_err(UnpackError::unreadable)?;
    Ok(Packing::of(&first))
}

/// The whole file, decompressed.
fn plain(file: &mut File, max_bytes: u64) -> Result<Box<dyn Read + '_>, UnpackError> {
    let whole = whole(file)?;
    plain_part(file, whole, max_bytes)
}

/// A part of the file, decompressed.
fn plain_part(file: &mut File, member: Member, max_bytes: u64) -> Result<Box<dyn Read + '_>, UnpackError> {
    let packing = packing(file, member)?;
    let whole = BufReader::with_capacity(1 << 17, file.take(member.size));
    packing.unpack(whole, max_bytes).map_err(UnpackError::unreadable)
}

fn inflate(file: &mut File, to: &Path, max_bytes: u64) -> Result<(), UnpackError> {
    let mut out = File::create_new(to).map_err(UnpackError::io(format!("making {}", to.display())))?;
    let mut archive = plain(file, max_bytes)?;
    let mut limited = Reading::of(&mut archive, max_bytes.saturating_add(1));
    let copied = limited.copy_to(&mut out, to)?;
    if copied > max_bytes {
        let words = format!("it unpacks to more than {max_bytes} bytes (blobs.max_unpacked)");
        return Err(UnpackError::Wrong(words));
    }
    Ok(())
}

fn take_away(layer: Box<dyn Read + '_>, tree: &mut Tree) -> Result<(), UnpackError> {
    for entry in Tar::of(layer).entries()? {
        let entry = entry?;
        let path = entry.path().map_err(UnpackError::unreadable)?;
        match whiteout(&path) {
            Some(Whiteout::One(gone)) => tree.remove(&gone)?,
            Some(Whiteout::Everything(folder)) => tree.empty(&folder)?,
            Some(Whiteout::Nothing) | None => {}
        }
    }
    Ok(())
}

fn extract(content: Box<dyn Read + '_>, tree: &mut Tree, is_layer: bool) -> Result<(), UnpackError> {
    let mut count = 0;
    let mut archive = Tar::of(content);
    for entry in archive.entries()? {
        let mut entry = entry?;
        count += 1;
        let path = entry.path().map_err(UnpackError::unreadable)?.into_owned();
        if !(is_layer && whiteout(&path).is_some()) {
            extract_one(&mut entry, &path, tree)?;
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
    entry: &mut One<'_, Box<dyn Read + '_>>,
    path: &Path,
    tree: &mut Tree,
) -> Result<(), UnpackError> {
    let mode = entry.header().mode().map_err(UnpackError::unreadable)?;
    let linked = |entry: &One<'_, _>| {
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
