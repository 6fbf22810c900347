//! Children and other processes: reaping, handles that cannot come to mean another process, and what one has used.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use super::{owned, wait_ready};

/// A child that has exited and is not reaped yet.
pub fn peek_exited() -> Option<i32> {
    // SAFETY: `info` is plain data the kernel fills; si_pid is valid for child events and 0 when there was none.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let found = libc::waitid(libc::P_ALL, 0, &mut info, options) == 0;
        (found && info.si_pid() != 0).then(|| info.si_pid())
    }
}

/// A child that is gone, and what it and the children that it waited for had used.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// Raw wait status.
    pub status: i32,
    pub cpu_ms: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// Reaps a child that has exited.
pub fn reap(pid: i32) -> Option<Reaped> {
    /// Bytes of one block, as `getrusage` counts.
    const BLOCK: u64 = 512;
    let mut status = 0;
    // SAFETY: rusage is plain data, which the kernel fills; `status` is a valid integer.
    let (reaped, used) = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &mut status, libc::WNOHANG, &mut used), used)
    };
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let micros = |time: libc::timeval| count(time.tv_sec) * 1_000_000 + count(time.tv_usec);
    (reaped == pid).then(|| Reaped {
        status,
        cpu_ms: (micros(used.ru_utime) + micros(used.ru_stime)) / 1000,
        read_bytes: count(used.ru_inblock) * BLOCK,
        written_bytes: count(used.ru_oublock) * BLOCK,
    })
}

/// CPU time that a process and the children that it waited for have used; none when it is gone.
pub fn cpu_ms(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 14th to the 17th field are in clock ticks: its own, user and system, and theirs.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: takes no pointers.
    let a_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(0);
    Some(ticks * 1000 / a_second.max(1))
}

/// A handle on a process that cannot come to mean another one.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; the result is a new descriptor (close-on-exec by definition).
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)
}

/// Sends a signal to exactly this process; one that is gone is no error.
pub fn pidfd_signal(fd: &impl AsRawFd, signal: i32) {
    // SAFETY: a null siginfo asks for the same as kill(2).
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, ptr::null::<libc::siginfo_t>(), 0)
    };
}

/// Whether the process has exited: for the init of a pid namespace that means the namespace is empty.
pub fn pidfd_exited(fd: &OwnedFd) -> bool {
    wait_ready(&[(fd.as_raw_fd(), false)], 0)[0]
}

/// When a process began, in clock ticks since boot: with its number, it is no other process.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses come the fields from the third on; the 22nd is the start time in ticks.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The raw wait status of a process that was reaped by whoever its parent is; none where the kernel cannot tell.
pub fn pidfd_wait_status(fd: &OwnedFd) -> Option<i32> {
    /// `struct pidfd_info` as the first kernel that has it knows it.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    const GET_INFO: libc::c_ulong =
        (3 << 30) | ((std::mem::size_of::<Info>() as libc::c_ulong) << 16) | (0xff << 8) | 11;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: `info` has the size that the request's number says, and lives through the call.
    let succeeded = unsafe { libc::ioctl(fd.as_raw_fd(), GET_INFO as _, &raw mut info) } == 0;
    (succeeded && info.mask & EXIT != 0).then_some(info.exit_code)
}
