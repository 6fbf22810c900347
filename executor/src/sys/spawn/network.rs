//! Networks with nothing but a loopback.
//!
//! One is made for each slot when it is first needed and used again by the next attempt of that slot: by then the kernel
//! has closed every socket in it, and no program has the capability to change anything else about it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::c_int;

use super::child::{errno, fail, write_file};
use super::{Raw, Step};
use crate::sys;

/// How long making one may take, in milliseconds: the kernel makes them one after the other.
const PATIENCE_MS: i32 = 5_000;

/// Makes a network namespace. A child makes it, so that this process never leaves its own.
pub(super) fn make() -> io::Result<OwnedFd> {
    let (ready, ready_writer) = sys::pipe()?;
    let parent = std::process::id() as c_int;
    match sys::fork()? {
        sys::Fork::Parent(pid) => {
            drop(ready_writer);
            let answered = sys::wait_ready(&[(ready.as_raw_fd(), false)], PATIENCE_MS)[0];
            let made = if answered && sys::drain(&ready) == [0] {
                File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from)
            } else {
                Err(io::Error::other("making a network namespace failed"))
            };
            sys::kill_child(pid, libc::SIGKILL);
            // SAFETY: a null status is permitted; the child is ours and was killed, so this ends.
            while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0 && errno() == libc::EINTR {}
            made
        }
        sys::Fork::Child => {
            // SAFETY: no pointers but the byte, which outlives the call.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                // It may have died before the kernel was asked.
                if libc::getppid() != parent {
                    libc::_exit(1);
                }
                let answer = [u8::from(libc::unshare(libc::CLONE_NEWNET) < 0 || !raise_loopback())];
                libc::write(ready_writer.as_raw_fd(), answer.as_ptr().cast(), 1);
                loop {
                    libc::pause();
                }
            }
        }
    }
}

/// Enters the network of the attempt.
pub(super) fn enter(raw: &Raw) {
    // SAFETY: no pointers.
    if raw.network >= 0 && unsafe { libc::setns(raw.network, libc::CLONE_NEWNET) } < 0 {
        fail(raw.slot, Step::Network, errno());
    }
}

/// Readies the network that the attempt was made with.
pub(super) fn ready(raw: &Raw) {
    if !raise_loopback() {
        fail(raw.slot, Step::Network, errno());
    }
}

/// Brings `lo` up. Ports below 1024 belong to nobody in particular here, and ended connections leave nothing behind.
fn raise_loopback() -> bool {
    write_file(c"/proc/sys/net/ipv4/ip_unprivileged_port_start".as_ptr(), b"0");
    write_file(c"/proc/sys/net/ipv4/tcp_max_tw_buckets".as_ptr(), b"0");
    // SAFETY: `request` is a plain structure with a C string for a name; the descriptor is closed again.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let socket: c_int = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let raised = socket >= 0 && libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request) == 0;
        libc::close(socket);
        raised
    }
}
