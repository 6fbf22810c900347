//! What runs in a child between clone and exec. Nothing here allocates, locks or unwinds.

use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use libc::{c_char, c_int, c_void};

use super::{Raw, StatusSlot, Step, jail};
use crate::sys::back_to_before;

pub(super) fn errno() -> c_int {
    // SAFETY: reads this thread's error number.
    unsafe { *libc::__errno_location() }
}

pub(super) fn fail(slot: &StatusSlot, step: Step, number: c_int) -> ! {
    slot.step.store(step as u32, SeqCst);
    slot.errno.store(number, SeqCst);
    slot.phase.store(3, SeqCst);
    // SAFETY: never returns.
    unsafe { libc::_exit(127) }
}

/// Dies with the watchdog; gives up when that has happened before the kernel was told so.
pub(super) fn die_with_watchdog(raw: &Raw, contained: bool) {
    // SAFETY: no pointers but `polled`, which is valid.
    let orphaned = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if contained {
            // The parent lies outside of this pid namespace, where getppid says 0 whether it lives or not.
            let mut polled = libc::pollfd { fd: raw.watchdog_pidfd, events: libc::POLLIN, revents: 0 };
            libc::poll(&mut polled, 1, 0) != 0
        } else {
            libc::getppid() != raw.watchdog_pid
        }
    };
    if orphaned {
        fail(raw.slot, Step::ParentDied, 0);
    }
}

/// Writes a short string into a file that exists.
pub(super) fn write_file(path: *const c_char, text: &[u8]) -> bool {
    // SAFETY: `path` is a C string; pointer and length describe `text`.
    unsafe {
        let fd = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        let written = fd >= 0 && libc::write(fd, text.as_ptr().cast(), text.len()) == text.len() as isize;
        let number = errno();
        if fd >= 0 {
            libc::close(fd);
        }
        *libc::__errno_location() = number;
        written
    }
}

/// Cgroup and folders.
pub(super) fn prepare(raw: &Raw) {
    if raw.reset_oom_score {
        write_file(c"/proc/self/oom_score_adj".as_ptr(), b"0");
    }
    // SAFETY: all pointers are C strings prepared by the parent.
    unsafe {
        let mut cgroup = raw.cgroups;
        while !(*cgroup).is_null() {
            if !write_file(*cgroup, b"0") {
                fail(raw.slot, Step::Cgroup, errno());
            }
            cgroup = cgroup.add(1);
        }
        for folder in [raw.folder, raw.work] {
            if libc::mkdir(folder, 0o700) < 0 && errno() != libc::EEXIST {
                fail(raw.slot, Step::Folder, errno());
            }
        }
        if raw.owner.is_some_and(|(user, group)| libc::chown(raw.work, user, group) < 0) {
            fail(raw.slot, Step::Folder, errno());
        }
        let mut made = raw.made;
        while !(*made).is_null() {
            make_own(raw, *made);
            made = made.add(1);
        }
    }
}

fn is_folder(path: *const c_char) -> bool {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a C string prepared by the parent; the descriptor is closed again.
    unsafe {
        let fd = libc::open(path, flags);
        fd >= 0 && libc::close(fd) == 0
    }
}

/// A folder of the program's, unless there is one already.
fn make_own(raw: &Raw, folder: *const c_char) {
    // SAFETY: a C string prepared by the parent.
    let made = unsafe {
        match libc::mkdir(folder, 0o700) {
            0 => raw.owner.is_none_or(|(user, group)| libc::lchown(folder, user, group) == 0),
            _ => errno() == libc::EEXIST && is_folder(folder),
        }
    };
    if !made {
        fail(raw.slot, Step::WorkingDir, errno());
    }
}

/// Output files, standard streams, working directory. The program gets pipes, and never a descriptor of the files: what it has
/// written is not its own any more. The pipes are its user's, who could not open `/dev/stdout` otherwise.
pub(super) fn open_streams(raw: &Raw) {
    // SAFETY: all pointers are C strings; descriptors are plain numbers.
    unsafe {
        for (path, end, target) in [(raw.stdout, raw.outputs[0], 1), (raw.stderr, raw.outputs[1], 2)] {
            // The watchdog opens it with the first byte; until then it is there, and empty.
            let made = libc::mknod(path, libc::S_IFREG | 0o600, 0) == 0 || errno() == libc::EEXIST;
            if !made || libc::dup2(end, target) < 0 {
                fail(raw.slot, Step::Logs, errno());
            }
            if raw.owner.is_some_and(|(user, group)| libc::fchown(target, user, group) < 0) {
                fail(raw.slot, Step::Logs, errno());
            }
        }
        if libc::dup2(raw.null, 0) < 0 {
            fail(raw.slot, Step::Logs, errno());
        }
        if libc::chdir(raw.work) < 0 {
            fail(raw.slot, Step::Folder, errno());
        }
    }
}

pub(super) fn close_from(first: c_int, last: u32) {
    if first as u32 <= last {
        // SAFETY: closes descriptors of this process only; the child's table is its own.
        unsafe { libc::syscall(libc::SYS_close_range, first as u32, last, 0) };
    }
}

pub(super) fn unblock_signals() {
    // SAFETY: `none` is initialised before use.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// Tries the candidates as a search in PATH does; returns only on failure, with the error number that says most.
fn execute(
    mut candidate: *const *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    let mut best = libc::ENOENT;
    // SAFETY: all three are null-terminated arrays of C strings.
    unsafe {
        while !(*candidate).is_null() {
            libc::execve(*candidate, arguments, environment);
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => best = libc::EACCES,
                other => return other,
            }
            candidate = candidate.add(1);
        }
    }
    best
}

/// A fork that goes on in our own code: told by USR1 when the watchdog dies, away from its session, its name and its
/// descriptors.
pub(super) fn become_monitor(watchdog: c_int, notice: c_int) {
    // SAFETY: no pointers but a C string; closes descriptors whose owners in this copy of memory are never used again.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1, 0, 0, 0);
        if libc::getppid() != watchdog {
            libc::_exit(71);
        }
        // Not the node's name: who kills that by name must not leave containers without anybody.
        libc::prctl(libc::PR_SET_NAME, c"docker-monitor".as_ptr(), 0, 0, 0);
        libc::setsid();
    }
    close_from(3, (notice - 1) as u32);
    close_from(notice + 1, u32::MAX);
}

pub(super) extern "C" fn direct_child(argument: *mut c_void) -> c_int {
    // SAFETY: the parent passes its `Raw` and sleeps until this child has executed or exited.
    let raw = unsafe { &*argument.cast::<Raw>() };
    die_with_watchdog(raw, false);
    // SAFETY: no pointers.
    unsafe { libc::setsid() };
    prepare(raw);
    open_streams(raw);
    close_from(3, u32::MAX);
    become_program(raw)
}

pub(super) fn become_program(raw: &Raw) -> ! {
    match raw.jail {
        Some(jail) => jail::give_up_privileges(raw, jail),
        None => back_to_before(),
    }
    // As the program's user: it could not look around there otherwise.
    // SAFETY: null or a C string prepared by the parent.
    if !raw.starts_in.is_null() && unsafe { libc::chdir(raw.starts_in) } < 0 {
        fail(raw.slot, Step::WorkingDir, errno());
    }
    // SAFETY: no pointers. Set-user-id programs must not get out of their attempt's limits.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if raw.jail.is_some() {
        jail::filter_calls(raw);
    }
    unblock_signals();
    fail(raw.slot, Step::Exec, execute(raw.candidates, raw.arguments, raw.environment))
}
