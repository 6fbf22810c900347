//! Looking at files as another user sees them.

use std::io;
use std::thread;

/// What a user may do is only known to the file system. So this is done in a thread of its own that counts as the user for files alone
/// (`setfsuid`), with the groups of that user: to everybody else it stays this process, which no user may signal or look into.
pub fn as_user<T: Send>(
    (user, group): (u32, u32),
    groups: &[u32],
    look: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let change_and_look = || {
        become_for_files(user, group, groups)?;
        look()
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, change_and_look)?.join() {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("looking at files as a user failed")),
    })
}

/// Of this thread alone, by system calls: the C library's functions would change all threads. The kernel takes the capabilities that
/// see through modes from who stops being root for files.
fn become_for_files(user: u32, group: u32, groups: &[u32]) -> io::Result<()> {
    const NOBODY_AT_ALL: u32 = u32::MAX;
    // SAFETY: the pointer and the length are those of `groups`, which outlives the call; the others take numbers alone.
    let changed = unsafe {
        let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0;
        libc::syscall(libc::SYS_setfsgid, group);
        libc::syscall(libc::SYS_setfsuid, user);
        // They never say that they failed: asked for what cannot be, they answer what is.
        let ids =
            [libc::SYS_setfsgid, libc::SYS_setfsuid].map(|call| libc::syscall(call, NOBODY_AT_ALL) as u32);
        set && ids == [group, user]
    };
    if changed { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::sys::effective_ids;

    /// As root only.
    #[test]
    fn a_user_sees_what_its_groups_let_it_see_and_this_process_goes_on_as_before() {
        if effective_ids().0 != 0 {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = |name: &str, group: u32, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            chown(&path, Some(70_001), Some(group)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (own, of_group) = (file("own", 70_001, 0o600), file("group", 70_009, 0o640));
        let read =
            |user: u32, groups: &[u32], path| as_user((user, user), groups, || fs::read_to_string(path));
        assert_eq!(read(70_001, &[], &own).unwrap(), "own");
        assert_eq!(read(70_002, &[70_009], &of_group).unwrap(), "group");
        for (path, groups) in [(&own, vec![70_009]), (&of_group, vec![])] {
            let refused = read(70_002, &groups, path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        }
        assert_eq!(fs::read_to_string(&own).unwrap(), "own");
        assert!(as_user((70_002, 70_002), &[], || fs::write(folder.path().join("new"), "")).is_err());
    }
}
