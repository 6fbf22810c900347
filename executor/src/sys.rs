//! The system calls the executor needs, wrapped so that the rest of the crate is safe code. The only module of the
//! crate, with its children `process` and `spawn`, that contains `unsafe`.
#![allow(unsafe_code)] // libc has no safe interface for pidfds, signalfd, clone and prctl; each call says why it is sound

mod allocator;
mod as_user;
mod heap;
mod open_files;
mod process;
pub mod spawn;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};

use stint_protocol::BootMs;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use allocator::{Allocator, MiMalloc};
pub use as_user::as_user;
pub use heap::keep_one as keep_one_heap;
pub use open_files::{as_before, back_to_before, open_files, raise_open_files};
pub use process::{
    Reaped, cpu_ms, peek_exited, pidfd_exited, pidfd_open, pidfd_signal, pidfd_wait_status, reap, start_ticks,
};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// CLOCK_BOOTTIME in milliseconds.
pub fn boot_now() -> BootMs {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec; the call writes it and nothing else. Async-signal-safe.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    BootMs(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
}

/// Keeps this process's pages in memory once they were touched, so that it never waits for a disk to kill in time.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
}

/// Orphans of this process's descendants become its children.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Every signal back to its default; what a parent ignored must not reach the programs.
pub fn reset_signals() {
    // The kernel's own structure, all zero: default action, no flags, nothing masked. Not through libc, which refuses
    // the two signals it uses itself, although a parent may have let them be ignored.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: `default` is at least as large as the kernel's sigaction; signals that cannot be set give an error that
        // does not matter.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8usize)
        };
    }
}

/// Files this process makes are its own.
pub fn set_umask(mask: u32) {
    // SAFETY: cannot fail, takes no pointers.
    unsafe { libc::umask(mask) };
}

/// The user this process acts for.
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: cannot fail, take no pointers.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Whether what lies in a folder is never on a disk.
pub fn is_in_memory(folder: &Path) -> bool {
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: `path` is a C string, and `found` is written before it is read.
    unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &mut found) == 0
            && [libc::TMPFS_MAGIC, RAMFS_MAGIC].contains(&(found.f_type as _))
    }
}

const RAMFS_MAGIC: libc::c_long = 0x8584_58f6_u32 as libc::c_long;

/// In which process `fork` returned.
pub enum Fork {
    Parent(i32),
    Child,
}

/// Forks a process that has one thread, but for one that neither allocates nor locks.
pub fn fork() -> io::Result<Fork> {
    heap::show();
    // SAFETY: the watchdog's second thread (`shim/outputs.rs`) may be anywhere, but never in the middle of changing anything that
    // the child uses: it holds no lock but those of its own, and the C library sees to the heap's. So the child may do anything its
    // parent may.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Starts a session of its own, away from the terminal and the node's process group.
pub fn new_session() {
    // SAFETY: takes no pointers; fails only for a group leader, which a fresh fork is not.
    unsafe { libc::setsid() };
}

/// Makes `fd` the process's descriptor `target`.
pub fn replace_fd(fd: &impl AsRawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: both are plain numbers; `target` is a standard stream here.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// Ends this process without running destructors or exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Blocks the signals and gives a descriptor that becomes readable when one arrives.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before use and lives through the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut()))?;
        owned(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// The signals that arrived since the last call.
pub fn take_signals(fd: &OwnedFd) -> Vec<i32> {
    let mut signals = Vec::new();
    loop {
        // SAFETY: the kernel fills whole `signalfd_siginfo` records, for which all bit patterns are valid.
        let (read, info) = unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = std::mem::size_of_val(&info);
            (libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size), info)
        };
        if read <= 0 {
            return signals;
        }
        signals.push(info.ssi_signo as i32);
    }
}

/// A timer on CLOCK_BOOTTIME: it also fires for time that passed while the machine slept.
pub fn boot_timer() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })
}

/// Sets the timer to an absolute time; none stops it.
pub fn set_timer(fd: &OwnedFd, at: Option<BootMs>) -> io::Result<()> {
    // SAFETY: `spec` is a plain structure of integers that lives through the call.
    unsafe {
        let mut spec: libc::itimerspec = std::mem::zeroed();
        if let Some(at) = at {
            spec.it_value.tv_sec = (at.0 / 1000) as libc::time_t;
            // A time of zero would stop the timer, so a due one is one nanosecond after the start of the clock.
            spec.it_value.tv_nsec = (at.0 % 1000 * 1_000_000).max(1) as libc::c_long;
        }
        check(libc::timerfd_settime(fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, ptr::null_mut()))
            .map(drop)
    }
}

/// Empties a timer, an eventfd or a pipe; gives what was read.
pub fn drain(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut part = [0u8; 4096];
    loop {
        // SAFETY: `part` is valid for the length that is passed.
        let read = unsafe { libc::read(fd.as_raw_fd(), part.as_mut_ptr().cast(), part.len()) };
        if read <= 0 {
            return bytes;
        }
        bytes.extend_from_slice(&part[..read as usize]);
        if (read as usize) < part.len() {
            return bytes;
        }
    }
}

/// A pipe that does not block and is not inherited by programs.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

/// Waits until one of the descriptors can be read (or written, where asked for); says which.
pub fn wait_ready(fds: &[(RawFd, bool)], timeout_ms: i32) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|(fd, write)| libc::pollfd {
            fd: *fd,
            events: if *write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN },
            revents: 0,
        })
        .collect();
    // SAFETY: the pointer and the length describe `polled`.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
    polled.iter().map(|p| p.revents != 0).collect()
}

/// Sends without raising SIGPIPE; `Ok(0)` when the socket is full.
pub fn send(fd: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `bytes`.
    let sent = unsafe {
        libc::send(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    if sent >= 0 {
        return Ok(sent as usize);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
}

/// The process and the user at the other end of a unix socket.
pub fn peer_credentials(fd: &impl AsRawFd) -> io::Result<(i32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = std::mem::size_of_val(&peer) as libc::socklen_t;
    // SAFETY: `peer` has room for the `size` bytes the option gives.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut size,
        )
    })?;
    Ok((peer.pid, peer.uid))
}

/// A descriptor whose readiness an asynchronous loop waits for.
pub fn awaitable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its descriptor open, and the same, for as long as the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Tells by a pipe that the program of a slot runs.
pub fn write_notice(fd: &impl AsRawFd, index: u32) {
    let bytes = index.to_ne_bytes();
    // SAFETY: the pointer and the length describe `bytes`.
    unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
}

/// Sends a signal to a process group whose leader is an unreaped child of the caller.
pub fn kill_group(leader: i32, signal: i32) {
    assert!(leader > 1, "a process group of our own");
    // SAFETY: takes no pointers.
    unsafe { libc::kill(-leader, signal) };
}

/// Sends a signal to a child that this process has not reaped yet.
pub fn kill_child(pid: i32, signal: i32) {
    assert!(pid > 1, "a child of our own");
    // SAFETY: takes no pointers.
    unsafe { libc::kill(pid, signal) };
}

/// Locks a file for this process alone (not for its children); false when another process has it.
pub fn lock_for_process(file: &File) -> io::Result<bool> {
    let lock = whole_file_lock();
    // SAFETY: `lock` is a valid flock structure.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) }) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The process that holds the lock of `lock_for_process`.
pub fn lock_holder(file: &File) -> io::Result<Option<i32>> {
    let mut lock = whole_file_lock();
    // SAFETY: `lock` is a valid flock structure that the kernel fills.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) })?;
    Ok((lock.l_type != libc::F_UNLCK as libc::c_short).then_some(lock.l_pid))
}

fn whole_file_lock() -> libc::flock {
    // SAFETY: a plain structure of integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Locks a file for everyone who shares this open file; false when another has it.
pub fn lock_exclusive(file: &File) -> io::Result<bool> {
    // SAFETY: takes no pointers.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives the disk space of `[start, end)` back; offsets of what follows stay as they are.
pub fn punch_hole(file: &File, start: u64, end: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start as i64, end.saturating_sub(start) as i64) })
        .map(drop)
}

/// The first offset at or after `offset` that holds data; none when only a hole follows.
pub fn next_data(file: &File, offset: u64) -> Option<u64> {
    seek(file, offset, libc::SEEK_DATA)
}

/// The first offset at or after `offset` that lies in a hole (the end of the file counts as one).
pub fn next_hole(file: &File, offset: u64) -> Option<u64> {
    seek(file, offset, libc::SEEK_HOLE)
}

fn seek(file: &File, offset: u64, whence: libc::c_int) -> Option<u64> {
    // SAFETY: takes no pointers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
    u64::try_from(found).ok()
}

/// How a program ended, written by its init into memory it shares with the watchdog.
#[repr(C)]
#[derive(Debug, Default)]
pub struct StatusSlot {
    /// 0 until something is known, then a `spawn::Phase`.
    pub phase: AtomicU32,
    /// Raw wait status of the program.
    pub status: AtomicI32,
    /// Where starting failed (`spawn::Step`) and with which error number.
    pub step: AtomicU32,
    pub errno: AtomicI32,
    /// CLOCK_BOOTTIME in milliseconds.
    pub started: AtomicU64,
    pub ended: AtomicU64,
    /// First process of a Docker container, and when it began (`start_ticks`).
    pub container: AtomicI32,
    pub container_since: AtomicU64,
    /// Not 0 once its init has a table of descriptors of its own.
    pub has_own_descriptors: AtomicU32,
    /// When the attempt ends itself, CLOCK_BOOTTIME in milliseconds; 0: never. The watchdog moves it with each renewal. It is set
    /// before the start, and starts do not empty it.
    pub dead_by: AtomicU64,
}

/// Slots shared with all children: telling how a program ended costs no system call and loses nothing of its status.
pub struct StatusPage {
    slots: &'static [StatusSlot],
}

impl StatusPage {
    /// Maps `count` empty slots.
    pub fn new(count: usize) -> io::Result<Self> {
        let size = count * std::mem::size_of::<StatusSlot>();
        // SAFETY: a new anonymous mapping, zeroed by the kernel, which is a valid state of `StatusSlot` (atomics only); it is
        // never unmapped, so the static lifetime holds.
        unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            let memory = libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if memory == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { slots: std::slice::from_raw_parts(memory.cast(), count) })
        }
    }

    /// One slot.
    pub fn slot(&self, index: u32) -> &'static StatusSlot {
        &self.slots[index as usize]
    }
}
