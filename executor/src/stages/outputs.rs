//! Finds what a program left of the outputs that its task names. Nothing runs any more that could change them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stint_protocol::{NotKept, OutputPath, limits};

use crate::settings::OutputLimits;
use crate::shim_api::inside;

/// Links on the way to one file, at most, as the kernel has it.
const LINKS: usize = 40;
/// Files and folders looked at, at most: a program may leave any number.
const VISITED: usize = 2 * limits::PACKED_FILES;

/// A file among the outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainFile {
    /// Below the work folder, as the task names it.
    pub path: String,
    /// Where its bytes are: no link is on the way.
    pub file: PathBuf,
    pub size: u64,
    pub executable: bool,
}

/// What is kept under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    File(PlainFile),
    /// The files of a folder, in one archive.
    Packed {
        path: String,
        files: Vec<PlainFile>,
    },
}

impl Found {
    /// The name under which it is kept.
    pub fn path(&self) -> &str {
        match self {
            Found::File(file) => &file.path,
            Found::Packed { path, .. } => path,
        }
    }
}

/// What there is of the outputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Sorted by name.
    pub found: Vec<Found>,
    pub refused: Refused,
    /// An output that is not optional is not there, or cannot be kept.
    pub is_incomplete: bool,
}

/// What cannot be kept, and why: the first ones by name, the others in number.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refused {
    pub named: Vec<NotKept>,
    pub more: usize,
}

impl Refused {
    pub fn add(&mut self, path: &str, reason: impl Into<String>) {
        if self.named.len() < limits::NOT_KEPT {
            self.named.push(NotKept::new(path, reason));
        } else {
            self.more += 1;
        }
    }
}

/// Looks for the outputs of an attempt.
pub struct Search<'a> {
    pub work: &'a Path,
    pub outputs: &'a [OutputPath],
    pub limits: OutputLimits,
    pub is_stopped: &'a dyn Fn() -> bool,
}

impl Search<'_> {
    /// The files of all outputs, and what of them cannot be kept. Folders give the files below them; a link that stays in
    /// the work folder gives what it leads to. Without an end when it is stopped.
    pub fn find(&self) -> Findings {
        let mut walk = Walk {
            search: self,
            files: Vec::new(),
            refused: Refused::default(),
            visited: 0,
            above: Vec::new(),
        };
        let mut is_incomplete = false;
        let mut bounds = Vec::with_capacity(self.outputs.len());
        for output in self.outputs {
            let begin = walk.files.len();
            let is_there = walk.declared(output);
            is_incomplete |= !is_there && !output.optional;
            bounds.push((output, begin..walk.files.len()));
        }
        let folders: Vec<(String, Vec<PlainFile>)> = bounds
            .into_iter()
            .map(|(output, range)| (output.path.clone(), walk.files[range].to_vec()))
            .collect();
        let mut refused = walk.refused;
        let mut all_bytes = 0;
        let mut taken = Vec::with_capacity(folders.len());
        for (output, files) in folders {
            let whole = files.first().is_some_and(|file| file.path == output);
            let fitting = self.within_limits(files, &mut all_bytes, &mut refused);
            let optional = self.outputs.iter().any(|named| named.path == output && named.optional);
            is_incomplete |= whole && fitting.is_empty() && !optional;
            taken.push((output, fitting));
        }
        Findings { found: named(taken), refused, is_incomplete }
    }

    /// Those that are not too large, alone and together.
    fn within_limits(&self, files: Vec<PlainFile>, all: &mut u64, refused: &mut Refused) -> Vec<PlainFile> {
        let OutputLimits { file_bytes, all_bytes, .. } = self.limits;
        let mut fitting = Vec::with_capacity(files.len());
        for file in files {
            let size = file.size;
            if size > file_bytes {
                let most = format!("has {size} bytes, {file_bytes} at most (executor.max_output_file_bytes)");
                refused.add(&file.path, most);
            } else if all.saturating_add(size) > all_bytes {
                let most = format!("all outputs have {all_bytes} bytes at most (executor.max_output_bytes)");
                refused.add(&file.path, most);
            } else {
                *all += size;
                fitting.push(file);
            }
        }
        fitting
    }
}

/// Under which names they are kept: their own, or when those are too many, one archive for each folder.
fn named(outputs: Vec<(String, Vec<PlainFile>)>) -> Vec<Found> {
    let files = || outputs.iter().flat_map(|(_, files)| files);
    let name_bytes: usize = files().map(|file| file.path.len()).sum();
    let are_too_many = files().count() > limits::KEPT_FILES || name_bytes > limits::KEPT_PATH_BYTES;
    let own: HashSet<String> = outputs.iter().map(|(path, _)| path.clone()).collect();
    let mut found = Vec::new();
    for (path, files) in outputs {
        let is_folder = files.first().is_some_and(|file| file.path != path);
        if are_too_many && is_folder {
            let mut name = format!("{path}.tar");
            while own.contains(&name) {
                name.push_str(".tar");
            }
            found.push(Found::Packed { path: name, files });
        } else {
            found.extend(files.into_iter().map(Found::File));
        }
    }
    found.sort_by(|a, b| a.path().cmp(b.path()));
    found
}

/// A piece of a kept file, and whether it is the last. `packed` has the archives.
pub fn read(work: &Path, packed: &Path, path: &str, offset: u64, max: usize) -> io::Result<(Vec<u8>, bool)> {
    let archive = packed.join(path);
    let file = match fs::symlink_metadata(&archive) {
        Ok(meta) if meta.is_file() => archive,
        _ => work.join(resolve(work, Path::new(path)).map_err(io::Error::other)?),
    };
    let file = fs::File::open(file)?;
    let size = file.metadata()?.len();
    let left = size.saturating_sub(offset).min(max as u64) as usize;
    let mut bytes = vec![0; left];
    file.read_exact_at(&mut bytes, offset)?;
    Ok((bytes, offset + left as u64 >= size))
}

/// Gives a kept file a second name beside the archives: `read` finds it there when the work folder is gone.
pub fn hold(work: &Path, packed: &Path, path: &str) -> io::Result<()> {
    let target = packed.join(path);
    if fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_file()) {
        return Ok(());
    }
    let file = work.join(resolve(work, Path::new(path)).map_err(io::Error::other)?);
    if let Some(parent) = target.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::hard_link(file, target)
}

/// Where a path below the work folder leads, without a link on the way; or why it leads nowhere. Links are followed here
/// and never by the kernel: only so they cannot lead out.
fn resolve(work: &Path, path: &Path) -> Result<PathBuf, String> {
    let outside = || "is a link that leads out of the work folder".to_owned();
    let (mut real, mut links) = (PathBuf::new(), 0);
    let mut todo = parts_reversed(path);
    while let Some(part) = todo.pop() {
        if part == ".." {
            if !real.pop() {
                return Err(outside());
            }
            continue;
        }
        real.push(&part);
        let at = work.join(&real);
        let meta = fs::symlink_metadata(&at).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if links > 0 => {
                "is a link to what is not there".into()
            }
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "is not there".into(),
            _ => format!("cannot be looked at: {e}"),
        })?;
        if !meta.is_symlink() {
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err("is a link that leads to more links than anybody follows".into());
        }
        let target = fs::read_link(&at).map_err(|e| format!("cannot be looked at: {e}"))?;
        real.pop();
        if target.is_absolute() {
            // As the program sees its work folder.
            let below =
                [work, Path::new(inside::WORK)].iter().find_map(|root| target.strip_prefix(root).ok());
            todo.extend(parts_reversed(below.ok_or_else(outside)?));
            real.clear();
        } else {
            todo.extend(parts_reversed(&target));
        }
    }
    Ok(real)
}

/// The parts of a path, the last one first.
fn parts_reversed(path: &Path) -> Vec<OsString> {
    use std::path::Component;
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(part).collect()
}

struct Walk<'a> {
    search: &'a Search<'a>,
    files: Vec<PlainFile>,
    refused: Refused,
    visited: usize,
    /// The folders that it is in, by their places below the work folder.
    above: Vec<PathBuf>,
}

impl Walk<'_> {
    /// Takes an output that the task names. False: it cannot be kept.
    fn declared(&mut self, output: &OutputPath) -> bool {
        let path = Path::new(&output.path);
        match resolve(self.search.work, path) {
            Ok(real) => self.visit(&real, &output.path),
            Err(_) if output.optional && fs::symlink_metadata(self.search.work.join(path)).is_err() => true,
            Err(reason) => {
                self.refused.add(&output.path, reason);
                false
            }
        }
    }

    /// Takes what is at a place below the work folder, in a folder that no link leads to. False: it is refused.
    fn visit(&mut self, at: &Path, path: &str) -> bool {
        match self.take(at, path) {
            Ok(()) => true,
            Err(reason) => {
                self.refused.add(path, reason);
                false
            }
        }
    }

    fn take(&mut self, at: &Path, path: &str) -> Result<(), String> {
        self.visited += 1;
        if self.visited > VISITED || self.files.len() >= limits::PACKED_FILES {
            return Err(format!(
                "is over the {} files of an attempt: leave an archive",
                limits::PACKED_FILES
            ));
        }
        if path.len() > limits::PATH_BYTES {
            return Err(format!("its path has {} bytes, {} at most", path.len(), limits::PATH_BYTES));
        }
        let failed = |e: io::Error| format!("cannot be looked at: {e}");
        let (mut real, mut file) = (at.to_owned(), self.search.work.join(at));
        let mut meta = fs::symlink_metadata(&file).map_err(failed)?;
        if meta.is_symlink() {
            real = resolve(self.search.work, at)?;
            file = self.search.work.join(&real);
            meta = fs::symlink_metadata(&file).map_err(failed)?;
        }
        if meta.is_dir() {
            return self.folder(real, path);
        }
        if !meta.is_file() {
            return Err(kind_of(&meta).into());
        }
        let executable = meta.permissions().mode() & 0o111 != 0;
        self.files.push(PlainFile { path: path.into(), file, size: meta.len(), executable });
        Ok(())
    }

    fn folder(&mut self, real: PathBuf, path: &str) -> Result<(), String> {
        let failed = |e: io::Error| format!("cannot be looked at: {e}");
        if self.above.contains(&real) {
            return Err("is a link to a folder that it lies in".into());
        }
        let mut names: Vec<OsString> = Vec::new();
        for entry in fs::read_dir(self.search.work.join(&real)).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
            if names.len() > VISITED || (self.search.is_stopped)() {
                break;
            }
        }
        names.sort_unstable();
        self.above.push(real.clone());
        for name in names {
            if (self.search.is_stopped)() {
                break;
            }
            self.entry(&real, path, &name);
        }
        self.above.pop();
        Ok(())
    }

    fn entry(&mut self, folder: &Path, path: &str, name: &OsStr) {
        match name.to_str() {
            Some(plain) => drop(self.visit(&folder.join(name), &format!("{path}/{plain}"))),
            None => {
                self.visited += 1;
                self.refused.add(&format!("{path}/{}", name.to_string_lossy()), "its name is not UTF-8");
            }
        }
    }
}

/// What something is that is no file, no folder and no link.
fn kind_of(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_socket() => "is a socket",
        () if kind.is_fifo() => "is a pipe",
        () => "is a device",
    }
}

#[cfg(test)]
mod tests;
