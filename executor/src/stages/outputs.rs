//! Finds what a program left of the outputs that its task names. Nothing runs any more that could change them.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use stint_protocol::{OutputPath, limits};

/// A file to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Below the work folder.
    pub path: String,
    pub file: PathBuf,
}

/// The files of all outputs, sorted; or why they are not what the task promised. Folders give the files below them. A
/// link is refused wherever it stands: it could lead out of the work folder.
pub fn find(work: &Path, outputs: &[OutputPath]) -> Result<Vec<Found>, String> {
    let mut walk = Walk::default();
    for output in outputs {
        match real(work, &output.path)? {
            Some(file) => walk.visit(&file, &output.path)?,
            None if output.optional => {}
            None => return Err(format!("output {:?} is not there", output.path)),
        }
    }
    let mut found = walk.found;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let bytes: usize = found.iter().map(|found| found.path.len()).sum();
    if bytes > limits::KEPT_PATH_BYTES {
        let most = limits::KEPT_PATH_BYTES;
        return Err(format!("the paths of its outputs have {bytes} bytes, {most} at most: leave an archive"));
    }
    Ok(found)
}

/// A piece of a kept file, and whether it is the last.
pub fn read(work: &Path, path: &str, offset: u64, max: usize) -> io::Result<(Vec<u8>, bool)> {
    let file = real(work, path).map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
    let file = fs::File::open(file)?;
    let size = file.metadata()?.len();
    let left = size.saturating_sub(offset).min(max as u64) as usize;
    let mut bytes = vec![0; left];
    file.read_exact_at(&mut bytes, offset)?;
    Ok((bytes, offset + left as u64 >= size))
}

/// The path in the work folder without a link on the way; none: it is not there.
fn real(work: &Path, path: &str) -> Result<Option<PathBuf>, String> {
    let mut at = work.to_owned();
    for part in path.split('/') {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_symlink() => return Err(link(path)),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(format!("output {path:?}: {e}")),
        }
    }
    Ok(Some(at))
}

fn link(path: &str) -> String {
    format!("output {path:?} is a link, or lies behind one: leave the file itself")
}

/// Files and folders looked at, at most: a program may leave any number.
const VISITED: usize = 10_000;

#[derive(Default)]
struct Walk {
    found: Vec<Found>,
    visited: usize,
}

impl Walk {
    fn visit(&mut self, file: &Path, path: &str) -> Result<(), String> {
        let failed = |e: io::Error| format!("output {path:?}: {e}");
        self.visited += 1;
        if self.visited > VISITED || self.found.len() >= limits::KEPT_FILES {
            let most = limits::KEPT_FILES;
            return Err(format!("its outputs are over {most} files: leave them in an archive"));
        }
        if path.len() > limits::PATH_BYTES {
            let most = limits::PATH_BYTES;
            return Err(format!("a path of an output has {} bytes, {most} at most", path.len()));
        }
        let meta = fs::symlink_metadata(file).map_err(failed)?;
        if meta.is_dir() {
            return self.folder(file, path);
        }
        if meta.is_symlink() {
            return Err(link(path));
        }
        if !meta.is_file() {
            return Err(format!("output {path:?} is neither a file nor a folder"));
        }
        self.found.push(Found { path: path.into(), file: file.to_owned() });
        Ok(())
    }

    fn folder(&mut self, folder: &Path, path: &str) -> Result<(), String> {
        let failed = |e: io::Error| format!("output {path:?}: {e}");
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| format!("a name below output {path:?} is not UTF-8"))?;
            self.visit(&entry.path(), &format!("{path}/{name}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn output(path: &str, optional: bool) -> OutputPath {
        OutputPath { path: path.into(), optional }
    }

    fn names(work: &Path, outputs: &[OutputPath]) -> Result<Vec<String>, String> {
        find(work, outputs).map(|found| found.into_iter().map(|found| found.path).collect())
    }

    #[test]
    fn folders_give_their_files_and_what_is_optional_may_be_missing() {
        let work = tempfile::tempdir().unwrap();
        fs::create_dir_all(work.path().join("model/deep/empty")).unwrap();
        for name in ["model/b", "model/deep/a", "log"] {
            fs::write(work.path().join(name), name).unwrap();
        }
        let wanted = [output("model", false), output("log", false), output("absent/x", true)];
        assert_eq!(names(work.path(), &wanted).unwrap(), ["log", "model/b", "model/deep/a"]);
        assert!(names(work.path(), &[output("log/x", false)]).unwrap_err().contains("is not there"));
    }

    #[test]
    fn links_and_devices_are_refused_wherever_they_stand() {
        let work = tempfile::tempdir().unwrap();
        fs::create_dir_all(work.path().join("folder")).unwrap();
        symlink("/etc/passwd", work.path().join("folder/link")).unwrap();
        symlink("/etc", work.path().join("etc")).unwrap();
        symlink("nowhere", work.path().join("broken")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(work.path().join("socket")).unwrap();
        for (path, why) in [
            ("folder", "is a link"),
            ("folder/link", "is a link"),
            ("etc/passwd", "is a link"),
            ("broken", "is a link"),
            ("socket", "neither a file"),
        ] {
            let refused = names(work.path(), &[output(path, true)]).unwrap_err();
            assert!(refused.contains(why), "{path}: {refused}");
        }
    }

    #[test]
    fn too_many_files_are_refused() {
        let work = tempfile::tempdir().unwrap();
        fs::create_dir(work.path().join("many")).unwrap();
        for n in 0..=limits::KEPT_FILES {
            fs::write(work.path().join(format!("many/{n}")), "").unwrap();
        }
        assert!(names(work.path(), &[output("many", false)]).unwrap_err().contains("archive"));
    }
}
