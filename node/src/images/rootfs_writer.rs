//! A root file system that is being written from an archive of anybody's making. Nothing is ever written, read or removed
//! outside of it: every path is resolved here, link by link, as if its folder were the root of the machine.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::UnpackError;
use crate::limits;

/// A folder that is filled.
pub struct RootfsWriter {
    root: PathBuf,
    bytes_left: u64,
    max_bytes: u64,
    entries: u64,
}

/// The folders of a path and its last name.
type Split = (Vec<OsString>, OsString);

impl RootfsWriter {
    /// Makes the folder. At most `max_bytes` of files go in.
    pub fn new(root: PathBuf, max_bytes: u64) -> Result<Self, UnpackError> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&root);
        made.map_err(UnpackError::io(format!("making {}", root.display())))?;
        Ok(Self { root, bytes_left: max_bytes, max_bytes, entries: 0 })
    }

    /// A folder; one that is there keeps what it holds.
    pub fn put_folder(&mut self, path: &Path, mode: u32) -> Result<(), UnpackError> {
        let Some((folders, name)) = split(path)? else { return Ok(()) };
        let target = self.folder(&folders)?.join(name);
        if !look(&target)?.is_some_and(|found| found.is_dir()) {
            self.clear(&target)?;
            self.make_folder(&target)?;
        }
        // Its owner, this node, must be able to remove it again.
        self.protect(&target, (mode & 0o1777) | 0o700)
    }

    /// A file.
    pub fn put_file(&mut self, path: &Path, mode: u32, content: &mut dyn Read) -> Result<(), UnpackError> {
        let target = self.place(path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
        let mut file = file.map_err(UnpackError::io(format!("making {}", target.display())))?;
        let copied =
            BoundedReader::new(content, self.bytes_left.saturating_add(1)).copy_to(&mut file, &target)?;
        if copied > self.bytes_left {
            let most = self.max_bytes;
            return Err(UnpackError::Wrong(format!(
                "it unpacks to more than {most} bytes (blobs.max_unpacked)"
            )));
        }
        self.bytes_left -= copied;
        // No set-user-id: an image gives nobody more rights.
        self.protect(&target, (mode & 0o777) | 0o400)
    }

    /// A symbolic link, wherever it points: it is followed inside only.
    pub fn put_symlink(&mut self, path: &Path, to: &Path) -> Result<(), UnpackError> {
        let target = self.place(path)?;
        symlink(to, &target).map_err(UnpackError::io(format!("linking {}", target.display())))
    }

    /// Another name of a file that is there.
    pub fn put_link(&mut self, path: &Path, to: &Path) -> Result<(), UnpackError> {
        let missing = || {
            UnpackError::Wrong(format!(
                "{} links to {}, which is no file in it",
                path.display(),
                to.display()
            ))
        };
        let (folders, name) = split(to)?.ok_or_else(missing)?;
        let original = self.folder(&folders)?.join(name);
        if look(&original)?.is_none_or(|found| found.is_dir()) {
            return Err(missing());
        }
        let target = self.place(path)?;
        if look(&original)?.is_none() {
            return Err(missing());
        }
        fs::hard_link(&original, &target).map_err(UnpackError::io(format!("linking {}", target.display())))
    }

    /// Removes what an earlier layer put there.
    pub fn remove(&mut self, path: &Path) -> Result<(), UnpackError> {
        let Some((folders, name)) = split(path)? else { return Ok(()) };
        let target = self.folder(&folders)?.join(name);
        self.clear(&target)
    }

    /// Removes what earlier layers put into a folder.
    pub fn empty(&mut self, path: &Path) -> Result<(), UnpackError> {
        let folders = parts(path)?;
        let folder = self.folder(&folders)?;
        let failed = || UnpackError::io(format!("reading {}", folder.display()));
        for entry in fs::read_dir(&folder).map_err(failed())? {
            self.clear(&entry.map_err(failed())?.path())?;
        }
        Ok(())
    }

    /// Where something new goes; what was there is gone.
    fn place(&mut self, path: &Path) -> Result<PathBuf, UnpackError> {
        let unnamed = || UnpackError::Wrong("something in it has no name".into());
        let (folders, name) = split(path)?.ok_or_else(unnamed)?;
        let target = self.folder(&folders)?.join(name);
        self.clear(&target)?;
        self.count()?;
        Ok(target)
    }

    /// The real folder of this path inside the tree; what is missing is made.
    fn folder(&mut self, folders: &[OsString]) -> Result<PathBuf, UnpackError> {
        let mut real = self.root.clone();
        let mut ahead: VecDeque<OsString> = folders.iter().cloned().collect();
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            if part == ".." {
                // The root's parent is the root.
                if real != self.root {
                    real.pop();
                }
                continue;
            }
            let here = real.join(&part);
            match look(&here)? {
                None => {
                    self.make_folder(&here)?;
                    real = here;
                }
                Some(found) if found.is_dir() => real = here,
                Some(found) if found.is_symlink() => {
                    links += 1;
                    if links > limits::LINKS_FOLLOWED {
                        return Err(UnpackError::Wrong(format!(
                            "too many links on the way to {}",
                            here.display()
                        )));
                    }
                    real = self.follow(&here, real, &mut ahead)?;
                }
                Some(_) => {
                    let message = format!("{:?} in it is a file and a folder", Path::new(&part));
                    return Err(UnpackError::Wrong(message));
                }
            }
        }
        Ok(real)
    }

    /// Puts a link's target before what is ahead; answers the folder that it starts from.
    fn follow(
        &self,
        link: &Path,
        from: PathBuf,
        ahead: &mut VecDeque<OsString>,
    ) -> Result<PathBuf, UnpackError> {
        let to = fs::read_link(link).map_err(UnpackError::io(format!("reading {}", link.display())))?;
        let steps = to.components().filter_map(|step| match step {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        for step in steps.collect::<Vec<_>>().into_iter().rev() {
            ahead.push_front(step);
        }
        Ok(if to.is_absolute() { self.root.clone() } else { from })
    }

    fn make_folder(&mut self, path: &Path) -> Result<(), UnpackError> {
        self.count()?;
        let made = DirBuilder::new().mode(0o755).create(path);
        made.map_err(UnpackError::io(format!("making {}", path.display())))
    }

    fn count(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > limits::IMAGE_ENTRIES {
            let most = limits::IMAGE_ENTRIES;
            return Err(UnpackError::Wrong(format!("it has more than {most} files and folders")));
        }
        Ok(())
    }

    fn clear(&self, path: &Path) -> Result<(), UnpackError> {
        let removed = match look(path)? {
            None => Ok(()),
            Some(found) if found.is_dir() => fs::remove_dir_all(path),
            Some(_) => fs::remove_file(path),
        };
        removed.map_err(UnpackError::io(format!("removing {}", path.display())))
    }

    fn protect(&self, path: &Path, mode: u32) -> Result<(), UnpackError> {
        let set = fs::set_permissions(path, Permissions::from_mode(mode));
        set.map_err(UnpackError::io(format!("protecting {}", path.display())))
    }
}

/// Tells a source that fails from a disk that does.
pub struct BoundedReader<'a> {
    content: io::Take<&'a mut dyn Read>,
    failed: Option<io::Error>,
}

impl<'a> BoundedReader<'a> {
    pub fn new(content: &'a mut dyn Read, most: u64) -> Self {
        Self { content: content.take(most), failed: None }
    }

    /// Answers how many bytes there were, up to the most.
    pub fn copy_to(&mut self, file: &mut File, path: &Path) -> Result<u64, UnpackError> {
        let copied = io::copy(self, file);
        match self.failed.take() {
            Some(error) => Err(UnpackError::unreadable(error)),
            None => copied.map_err(UnpackError::io(format!("writing {}", path.display()))),
        }
    }
}

impl Read for BoundedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }
}

/// What is there itself, no link followed.
fn look(path: &Path) -> Result<Option<Metadata>, UnpackError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(UnpackError::io(format!("looking at {}", path.display()))(error)),
    }
}

/// The names of a path inside the tree; a leading `/` means its root.
fn parts(path: &Path) -> Result<Vec<OsString>, UnpackError> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => parts.push(name.to_os_string()),
            Component::CurDir | Component::RootDir => {}
            _ => return Err(UnpackError::Wrong(format!("{:?} in it leads out of it", path))),
        }
    }
    Ok(parts)
}

fn split(path: &Path) -> Result<Option<Split>, UnpackError> {
    let mut parts = parts(path)?;
    Ok(parts.pop().map(|name| (parts, name)))
}

/// The name under which a layer says that something of an earlier one is gone.
pub fn whiteout(path: &Path) -> Option<Whiteout> {
    let name = path.file_name()?.as_bytes();
    let gone = name.strip_prefix(b".wh.")?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Some(match gone {
        b".wh..opq" => Whiteout::Everything(folder.into()),
        // Notes of a file system to itself.
        _ if gone.starts_with(b".wh.") => Whiteout::Nothing,
        b"" | b"." | b".." => Whiteout::Nothing,
        name => Whiteout::One(folder.join(OsStr::from_bytes(name))),
    })
}

/// What of earlier layers is gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Whiteout {
    One(PathBuf),
    Everything(PathBuf),
    Nothing,
}
