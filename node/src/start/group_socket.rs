//! The socket of a group: its folder, its place, and who may open it.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::config::BESIDE_SOCKET;

/// Why there is no socket for the group.
#[derive(Debug, thiserror::Error)]
pub enum GroupSocketError {
    #[error(
        "api.group: this machine has no group {0:?}: make it (groupadd --system {0}), or name another one"
    )]
    UnknownGroup(String),
    #[error("api.group: looking up {0:?}: {1}")]
    LookUp(String, io::Error),
    #[error(
        "api.group_socket: others than the node's user may change {} (mode {mode:04o}, user {owner}), and put a socket of their own \
         there: chmod 755 it, or name another folder",
        folder.display()
    )]
    OpenFolder { folder: PathBuf, mode: u32, owner: u32 },
    #[error("api.group_socket: {} is there and is no socket: name another path", .0.display())]
    NoSocket(PathBuf),
    #[error("api.group_socket: {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GroupSocketError {
    move |source| GroupSocketError::Io { action, path: path.into(), source }
}

/// Listens at `path` for members of the group alone. The socket comes to its place, where that of an earlier process may lie,
/// when it has its group and mode: nobody else opens it before.
pub fn bind(path: &Path, gid: u32) -> Result<UnixListener, GroupSocketError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(failed("making", folder))?;
    check_folder(folder)?;
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(GroupSocketError::NoSocket(path.into())),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("looking at", path)(error)),
    }
    let made = PathBuf::from(format!("{}{BESIDE_SOCKET}", path.display()));
    let closed = made.parent().unwrap_or(folder).to_path_buf();
    // Of a process that was killed in between.
    let _ = std::fs::remove_dir_all(&closed);
    std::fs::DirBuilder::new().mode(0o700).create(&closed).map_err(failed("making", &closed))?;
    let listener = UnixListener::bind(&made).map_err(failed("listening on", &made))?;
    chown(&made, None, Some(gid)).map_err(failed("giving the group", &made))?;
    std::fs::set_permissions(&made, PermissionsExt::from_mode(0o660)).map_err(failed("opening", &made))?;
    std::fs::rename(&made, path).map_err(failed("placing", path))?;
    let _ = std::fs::remove_dir(&closed);
    Ok(listener)
}

fn check_folder(folder: &Path) -> Result<(), GroupSocketError> {
    let there = std::fs::metadata(folder).map_err(failed("looking at", folder))?;
    let (mode, owner) = (there.mode() & 0o7777, there.uid());
    let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    match is_ours && mode & 0o022 == 0 {
        true => Ok(()),
        false => Err(GroupSocketError::OpenFolder { folder: folder.into(), mode, owner }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_the_groups_and_takes_the_place_of_an_earlier_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/stint/stint.sock");
        let gid = rustix::process::getegid().as_raw();
        let first = bind(&path, gid).unwrap();
        drop(first);
        let _second = bind(&path, gid).unwrap();
        UnixStream::connect(&path).unwrap();
        let there = std::fs::metadata(&path).unwrap();
        assert_eq!((there.mode() & 0o777, there.gid()), (0o660, gid));
        let folder = path.parent().unwrap();
        assert_eq!(std::fs::metadata(folder).unwrap().mode() & 0o022, 0);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "nothing lies beside it");
    }

    #[tokio::test]
    async fn a_folder_that_others_change_and_a_file_in_its_place_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let (path, gid) = (root.path().join("open/stint.sock"), rustix::process::getegid().as_raw());
        std::fs::create_dir(root.path().join("open")).unwrap();
        for mode in [0o777, 0o1777, 0o775] {
            std::fs::set_permissions(root.path().join("open"), PermissionsExt::from_mode(mode)).unwrap();
            assert!(matches!(bind(&path, gid), Err(GroupSocketError::OpenFolder { .. })), "{mode:o}");
        }
        std::fs::set_permissions(root.path().join("open"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(&path, "kept").unwrap();
        assert!(matches!(bind(&path, gid), Err(GroupSocketError::NoSocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
    }
}
