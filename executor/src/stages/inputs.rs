//! Puts a task's input files into the work folder, each checked before the program can see it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Component, Path, PathBuf};

use stint_protocol::{Blob, EndKind, InputFile, InputSource, TaskFiles};

use super::{Owner, copy};
use crate::host::LocalUser;
use crate::observer::Artifact;
use crate::refusal::Refusal;
use crate::users;

/// The blobs that the inputs name.
pub fn blobs(files: &TaskFiles) -> impl Iterator<Item = Blob> {
    files.inputs.iter().filter_map(|input| match &input.source {
        InputSource::Blob(blob) => Some(*blob),
        _ => None,
    })
}

/// Where inputs come from and go to.
pub struct Inputs<'a> {
    pub work: &'a Path,
    pub owner: Owner,
    /// Who must be able to read what comes from this host; none: whoever submits tasks may.
    pub user: Option<&'a LocalUser>,
    /// Folders of this host whose files tasks may have.
    pub roots: &'a [PathBuf],
    /// Files of the blobs, in the order of `blobs`.
    pub fetched: &'a [PathBuf],
    pub is_stopped: &'a dyn Fn() -> bool,
}

impl Inputs<'_> {
    /// Puts all of them there; where each came from, and its size.
    pub fn place(&self, files: &TaskFiles) -> Result<Vec<(Artifact, u64)>, Refusal> {
        let mut fetched = self.fetched.iter();
        let mut placed = Vec::with_capacity(files.inputs.len());
        for input in &files.inputs {
            let (artifact, source) = match &input.source {
                InputSource::Content(bytes) => {
                    let size = self.place_one(input, &mut bytes.as_slice())?;
                    placed.push((Artifact::Content, size));
                    continue;
                }
                InputSource::File(path) => (Artifact::File, self.allowed(input, Path::new(path))?),
                InputSource::Blob(_) => {
                    let source = fetched.next().ok_or_else(|| missing(input))?;
                    (Artifact::Blob, File::open(source).map_err(|e| unreadable(input, source, &e))?)
                }
            };
            let mut file = source;
            placed.push((artifact, self.place_one(input, &mut file)?));
        }
        Ok(placed)
    }

    /// A file of this host, when it lies below an open folder whatever links lead to it, and its user may read it.
    fn allowed(&self, input: &InputFile, path: &Path) -> Result<File, Refusal> {
        let below = |path: &Path| {
            let true_root = |root: &PathBuf| std::fs::canonicalize(root).unwrap_or_else(|_| root.clone());
            self.roots.iter().any(|root| path.starts_with(true_root(root)) || path.starts_with(root))
        };
        let denied = || {
            let advice = "the operator opens folders with artifacts.roots";
            Refusal::denied(format!(
                "input {:?}: {} is not open to tasks: {advice}",
                input.path,
                path.display()
            ))
        };
        // Before it is looked at: what lies outside must not be told apart from what is not there.
        if !below(path) {
            return Err(denied());
        }
        let opened =
            users::as_whom(self.user, || open_file(path)).map_err(|e| unreadable(input, path, &e))?;
        let Some((file, real)) = opened else { return Err(Refusal::not_runnable(not_a_file(input, path))) };
        let true_roots = self.roots.iter().filter_map(|root| std::fs::canonicalize(root).ok());
        if !true_roots.into_iter().any(|root| real.starts_with(root)) {
            return Err(denied());
        }
        // What was opened, and not what a link that changed since leads to.
        let is_same = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if is_same.is_ok_and(|opened| opened == real) { Ok(file) } else { Err(denied()) }
    }

    fn place_one(&self, input: &InputFile, from: &mut impl io::Read) -> Result<u64, Refusal> {
        let failed = |e: io::Error| {
            Refusal::start_failed(format!("input {:?}: writing it into the work folder: {e}", input.path))
        };
        self.make_folders(Path::new(&input.path)).map_err(failed)?;
        let mode = if input.executable { 0o755 } else { 0o644 };
        let target = self.work.join(&input.path);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&target).map_err(failed)?;
        let placed = copy::pump(from, &mut file, self.is_stopped).map_err(failed)?;
        std::fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .map_err(failed)?;
        self.own(&target).map_err(failed)?;
        let named = match &input.source {
            InputSource::Blob(blob) => Some(blob.digest),
            _ => None,
        };
        for wanted in [input.digest, named].into_iter().flatten() {
            if wanted != placed.digest {
                let message = format!("input {:?} is {} and not {wanted}", input.path, placed.digest);
                return Err(Refusal::not_runnable(message));
            }
        }
        Ok(placed.size)
    }

    /// The folders above a file, which the program may write into.
    fn make_folders(&self, file: &Path) -> io::Result<()> {
        let mut folder = self.work.to_owned();
        for part in file.parent().into_iter().flat_map(Path::components) {
            let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
            folder.push(name);
            match std::fs::DirBuilder::new().mode(0o755).create(&folder) {
                Ok(()) => self.own(&folder)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        self.owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
    }
}

/// A file and its true path; none: something else lies there.
fn open_file(path: &Path) -> io::Result<Option<(File, PathBuf)>> {
    let real = std::fs::canonicalize(path)?;
    if !std::fs::metadata(&real)?.is_file() {
        return Ok(None);
    }
    // Nothing that lies there by now keeps it waiting.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&real)?;
    Ok(file.metadata()?.is_file().then_some((file, real)))
}

fn missing(input: &InputFile) -> Refusal {
    Refusal::start_failed(format!("input {:?} was not fetched", input.path))
}

fn unreadable(input: &InputFile, path: &Path, e: &io::Error) -> Refusal {
    // Another node may have it.
    let kind = match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied => {
            EndKind::FilesMissing
        }
        _ => EndKind::StartFailed,
    };
    Refusal::new(kind, format!("input {:?}: reading {} on this node: {e}", input.path, path.display()))
}

fn not_a_file(input: &InputFile, path: &Path) -> String {
    format!("input {:?}: {} is not a file: name one, or an archive", input.path, path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn input(path: &str, source: InputSource) -> InputFile {
        InputFile { path: path.into(), source, digest: None, executable: false }
    }

    fn place(work: &Path, roots: &[PathBuf], input: InputFile) -> Result<Vec<(Artifact, u64)>, Refusal> {
        let files = TaskFiles { inputs: vec![input], ..TaskFiles::default() };
        Inputs { work, owner: None, user: None, roots, fetched: &[], is_stopped: &|| false }.place(&files)
    }

    #[test]
    fn inputs_lie_where_they_were_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let mut script = input("bin/deep/run.sh", InputSource::Content(b"#!/bin/sh\n".to_vec()));
        script.executable = true;
        assert_eq!(place(&work, &[], script).unwrap(), [(Artifact::Content, 10)]);
        let meta = std::fs::metadata(work.join("bin/deep/run.sh")).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (10, 0o755));
    }

    #[test]
    fn files_of_the_host_come_from_open_folders_only_whatever_links_say() {
        let folder = tempfile::tempdir().unwrap();
        let (work, open) = (folder.path().join("work"), folder.path().join("open"));
        std::fs::create_dir(&work).unwrap();
        std::fs::create_dir_all(open.join("sub")).unwrap();
        std::fs::write(open.join("data"), "data").unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        symlink("../secret", open.join("link")).unwrap();
        symlink("data", open.join("fine")).unwrap();
        let roots = [open.clone()];
        let file = |name: &str| {
            let path = open.join(name).to_str().unwrap().to_owned();
            place(&work, &roots, input(name, InputSource::File(path)))
        };
        assert_eq!(file("data").unwrap(), [(Artifact::File, 4)]);
        file("fine").unwrap();
        assert_eq!(std::fs::read_to_string(work.join("fine")).unwrap(), "data");
        assert_eq!(file("link").unwrap_err().kind, EndKind::Denied);
        assert_eq!(file("sub").unwrap_err().kind, EndKind::NotRunnable);
        assert_eq!(file("absent").unwrap_err().kind, EndKind::FilesMissing, "another node may have it");
        let Refusal { kind, message } =
            place(&work, &roots, input("x", InputSource::File("/etc/passwd".into()))).unwrap_err();
        assert!(kind == EndKind::Denied && message.contains("artifacts.roots"), "{message}");
        assert!(!work.join("x").exists() && !work.join("link").exists());
    }

    #[test]
    fn other_bytes_than_those_named_do_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut wrong = input("a", InputSource::Content(b"abc".to_vec()));
        wrong.digest = Some(stint_protocol::Digest::from_bytes([7; 32]));
        let Refusal { kind, message } = place(folder.path(), &[], wrong).unwrap_err();
        assert_eq!(kind, EndKind::NotRunnable);
        // The digest of "abc" as FIPS 180-2 gives it.
        assert!(
            message.contains("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            "{message}"
        );
    }

    #[test]
    fn a_stop_is_heeded_in_the_middle_of_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let files =
            TaskFiles { inputs: vec![input("a", InputSource::Content(vec![0; 8]))], ..TaskFiles::default() };
        let inputs = Inputs {
            work: folder.path(),
            owner: None,
            user: None,
            roots: &[],
            fetched: &[],
            is_stopped: &|| true,
        };
        assert!(inputs.place(&files).is_err());
    }
}
