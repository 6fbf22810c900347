//! Shuts a program that has no container into a view of the host: everything read-only but its work folder, a `/tmp` and
//! a `/dev/shm` of its own and what the operator named; as another user, without privileges, with a filter of system
//! calls. Runs in the child: nothing here allocates, locks or unwinds.

use std::ffi::CStr;
use std::ptr;

use libc::{c_char, c_int, c_uint};

use super::child::{errno, fail};
use super::{Access, Raw, RawJail, Step};

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const READ_ONLY: u64 = 1;
const NO_SET_USER_ID: u64 = 2;
const NO_DEVICES: u64 = 4;
const OPEN_TREE_CLONE: c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;

const WORK: &CStr = c"/tmp/work";
const BINARY: &CStr = c"/tmp/binary";
const SECRETS: &CStr = c"/tmp/secrets";

/// Changes the mounts and goes to the work folder's new place; ends the attempt when that fails.
pub(super) fn shut_in(raw: &Raw, jail: &RawJail) {
    let mut taken = Taken { work: take(raw.work), shown: [-1; super::SHOWN] };
    let [binary, secrets] = [jail.binary, jail.secrets].map(|path| (!path.is_null()).then(|| take(path)));
    for (tree, place) in taken.shown.iter_mut().zip(jail.shown()) {
        let (found, step) = match place.access {
            Access::Operators => (take(place.path), Step::Writable),
            access => (take_plain(place.path, access == Access::Write), Step::HostMount),
        };
        if found < 0 {
            fail(raw.slot, step, errno());
        }
        *tree = found;
    }
    let shut = close_host(jail)
        && open_work(&taken)
        && binary.is_none_or(show_binary)
        && secrets.is_none_or(show_secrets);
    if !(shut && show(jail, &taken) && each(jail.hidden, hide)) {
        fail(raw.slot, Step::Mounts, errno());
    }
    // SAFETY: a C string.
    if unsafe { libc::chdir(WORK.as_ptr()) } < 0 {
        fail(raw.slot, Step::Folder, errno());
    }
}

/// Mounts of what is shown as it is, taken before what they lie in is hidden or read-only.
struct Taken {
    work: c_int,
    shown: [c_int; super::SHOWN],
}

fn close_host(jail: &RawJail) -> bool {
    let flags = libc::AT_RECURSIVE as c_uint;
    attributes(libc::AT_FDCWD, c"/", flags, READ_ONLY | NO_SET_USER_ID)
        && tmpfs(c"/tmp", jail.tmp)
        && (tmpfs(c"/dev/shm", jail.shm) || errno() == libc::ENOENT)
}

fn open_work(taken: &Taken) -> bool {
    let flags = libc::AT_EMPTY_PATH as c_uint;
    taken.work >= 0
        && attributes(taken.work, c"", flags, NO_SET_USER_ID | NO_DEVICES)
        && make_folder(WORK)
        && put(taken.work, WORK)
}

fn show(jail: &RawJail, taken: &Taken) -> bool {
    taken.shown.iter().zip(jail.shown()).all(|(tree, place)| {
        each(place.above, |folder| make_folder(folder) || errno() == libc::EEXIST);
        // SAFETY: a C string.
        let path = unsafe { CStr::from_ptr(place.path) };
        if !place.folder && path.to_bytes().starts_with(b"/tmp/") {
            make_file(path);
        }
        if place.access == Access::Operators { put(*tree, path) } else { put_plainly(*tree, path) }
    })
}

fn make_file(path: &CStr) -> bool {
    // SAFETY: a C string; the new descriptor is closed.
    unsafe {
        libc::close(libc::open(path.as_ptr(), libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC, 0o755)) == 0
    }
}

/// Does something with each of a null-terminated array of strings, until that fails.
fn each(mut strings: *const *const c_char, act: impl Fn(&CStr) -> bool) -> bool {
    // SAFETY: the array ends with null, and lies with its strings in a region that was copied with the address space.
    unsafe {
        while !(*strings).is_null() {
            if !act(CStr::from_ptr(*strings)) {
                return false;
            }
            strings = strings.add(1);
        }
    }
    true
}

fn show_binary(binary: c_int) -> bool {
    let made = make_file(BINARY);
    let flags = READ_ONLY | NO_SET_USER_ID | NO_DEVICES;
    made && attributes(binary, c"", libc::AT_EMPTY_PATH as c_uint, flags) && put(binary, BINARY)
}

fn show_secrets(secrets: c_int) -> bool {
    let flags = READ_ONLY | NO_SET_USER_ID | NO_DEVICES;
    secrets >= 0
        && attributes(secrets, c"", libc::AT_EMPTY_PATH as c_uint, flags)
        && make_folder(SECRETS)
        && put(secrets, SECRETS)
}

/// A mount of its own of what lies at a path; nowhere yet.
fn take(path: *const c_char) -> c_int {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as c_uint;
    // SAFETY: `path` is a C string that was copied with the address space.
    unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path, flags) as c_int }
}

/// The same of a path that a user named, with all that is mounted below it, as it is laid for its programs. No part of
/// the path may be a link: whoever can write above it could send it anywhere after it was looked at.
pub(super) fn take_plain(path: *const c_char, writable: bool) -> c_int {
    let found = open_plain(path);
    if found < 0 {
        return -1;
    }
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as c_uint;
    // SAFETY: a C string; the descriptor is closed again.
    let tree = unsafe {
        let tree = libc::syscall(libc::SYS_open_tree, found, c"".as_ptr(), flags) as c_int;
        let number = errno();
        libc::close(found);
        *libc::__errno_location() = number;
        tree
    };
    let set = NO_SET_USER_ID | NO_DEVICES | if writable { 0 } else { READ_ONLY };
    let flags = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as c_uint;
    if tree >= 0 && attributes(tree, c"", flags, set) { tree } else { -1 }
}

/// What lies at a path of which no part is a link.
fn open_plain(path: *const c_char) -> c_int {
    // SAFETY: `path` is a C string, `how` a plain structure whose size is told.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
        how.resolve = libc::RESOLVE_NO_SYMLINKS;
        let size = std::mem::size_of_val(&how);
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path, &raw const how, size) as c_int
    }
}

/// The same as `put` at a place of which no part is a link.
fn put_plainly(tree: c_int, place: &CStr) -> bool {
    let found = open_plain(place.as_ptr());
    let (empty, flags) = (c"".as_ptr(), MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    // SAFETY: both are C strings; the descriptor is closed again when there is one.
    found >= 0
        && unsafe {
            let put = libc::syscall(libc::SYS_move_mount, tree, empty, found, empty, flags) == 0;
            let number = errno();
            libc::close(found);
            *libc::__errno_location() = number;
            put
        }
}

pub(super) fn put(tree: c_int, place: &CStr) -> bool {
    let (empty, flags) = (c"".as_ptr(), MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both are C strings.
    unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, libc::AT_FDCWD, place.as_ptr(), flags) == 0 }
}

fn attributes(at: c_int, path: &CStr, flags: c_uint, set: u64) -> bool {
    let wanted = MountAttributes { set, clear: 0, propagation: 0, user_namespace: 0 };
    let size = std::mem::size_of::<MountAttributes>();
    // SAFETY: `path` is a C string, and pointer and size describe `wanted`.
    unsafe { libc::syscall(libc::SYS_mount_setattr, at, path.as_ptr(), flags, &raw const wanted, size) == 0 }
}

fn tmpfs(place: &CStr, options: *const c_char) -> bool {
    let (kind, flags) = (c"tmpfs".as_ptr(), libc::MS_NOSUID | libc::MS_NODEV);
    // SAFETY: all are C strings.
    unsafe { libc::mount(kind, place.as_ptr(), kind, flags, options.cast()) == 0 }
}

/// Its mode does not depend on the umask: programs walk through it as another user.
pub(super) fn make_folder(path: &CStr) -> bool {
    // SAFETY: a C string.
    unsafe { libc::mkdir(path.as_ptr(), 0o755) == 0 && libc::chmod(path.as_ptr(), 0o755) == 0 }
}

/// A device that is gone already needs no hiding.
fn hide(device: &CStr) -> bool {
    // SAFETY: all are C strings or null where mount(2) permits it.
    let hidden = unsafe {
        libc::mount(c"/dev/null".as_ptr(), device.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) == 0
    };
    hidden || errno() == libc::ENOENT
}

/// Limits, no capabilities and another user, for good. By system calls: the C library's functions would look for other
/// threads.
pub(super) fn give_up_privileges(raw: &Raw, jail: &RawJail) {
    let (first, most) = jail.open_files;
    let done = limit(libc::RLIMIT_CORE as c_int, 0, 0) && limit(libc::RLIMIT_NOFILE as c_int, first, most);
    // The user comes late: without root the others could not be changed any more.
    let changed = done
        && empty_bounding_set()
        && jail.user.is_none_or(|(user, group)| {
            // SAFETY: so many groups lie there, in a region that was copied with the address space.
            unsafe {
                libc::syscall(libc::SYS_setgroups, jail.all_groups, jail.groups) == 0
                    && libc::syscall(libc::SYS_setresgid, group, group, group) == 0
                    && libc::syscall(libc::SYS_setresuid, user, user, user) == 0
            }
        });
    if !(changed && drop_capabilities()) {
        fail(raw.slot, Step::Privileges, errno());
    }
}

/// No program that it executes can get a capability again, also not by what the program's file says.
fn empty_bounding_set() -> bool {
    let mut capability: libc::c_ulong = 0;
    // SAFETY: no pointers. Behind the last one that the kernel knows the answer is EINVAL.
    while unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == 0 {
        capability += 1;
    }
    capability > 0 && errno() == libc::EINVAL
}

/// `struct __user_cap_header_struct` of the kernel.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words a set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The other sets, also those that a node with capabilities but without root hands on.
fn drop_capabilities() -> bool {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    // Effective, permitted and inheritable, twice. The ambient ones are among the inheritable.
    let none = [0u32; 6];
    // SAFETY: both outlive the call, and are as long as this version says.
    unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) == 0 }
}

fn limit(what: c_int, first: u64, most: u64) -> bool {
    let wanted = libc::rlimit64 { rlim_cur: first, rlim_max: most };
    // SAFETY: `wanted` outlives the call, and nothing is asked back.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, what, &raw const wanted, ptr::null::<u8>()) == 0 }
}

pub(super) fn filter_calls(raw: &Raw) {
    // SAFETY: the filter was copied with the address space.
    let filtered =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const raw.filter) } == 0;
    if !filtered {
        fail(raw.slot, Step::Privileges, errno());
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn no_link_is_followed_to_what_a_user_named() {
        let root = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(root.path()).unwrap();
        std::fs::create_dir_all(root.join("real/below")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        let taken = |name: &str| {
            let path = CString::new(root.join(name).as_os_str().as_bytes()).unwrap();
            let tree = take_plain(path.as_ptr(), false);
            let number = errno();
            // SAFETY: closes what was just opened, or nothing.
            unsafe { libc::close(tree) };
            if tree < 0 { Err(number) } else { Ok(()) }
        };
        // As root only, but not by way of a link.
        let plain = taken("real/below");
        assert!(plain.is_ok() || plain == Err(libc::EPERM), "{plain:?}");
        assert_eq!(taken("link/below"), Err(libc::ELOOP));
        assert_eq!(taken("link"), Err(libc::ELOOP));
        assert_eq!(taken("absent"), Err(libc::ENOENT));
    }
}
