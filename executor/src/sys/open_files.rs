//! How many files this process may have open, and what of that it hands on.

use std::io;
use std::sync::OnceLock;

/// The limit at first of this process before it was raised.
static BEFORE: OnceLock<u64> = OnceLock::new();

fn own() -> io::Result<libc::rlimit64> {
    let mut own = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `own` is a valid structure that the call fills.
    super::check(unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, &mut own) }).map(|_| own)
}

fn set_first(first: u64) -> io::Result<()> {
    let wanted = libc::rlimit64 { rlim_cur: first, ..own()? };
    // SAFETY: `wanted` outlives the call. Async-signal-safe, as is the call before.
    super::check(unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &wanted) }).map(drop)
}

/// Limits of open files that this process may give: no more than it has itself.
pub fn open_files(wanted: (u64, u64)) -> (u64, u64) {
    let most = own().map_or(wanted.1, |own| wanted.1.min(own.rlim_max));
    (wanted.0.min(most), most)
}

/// Lets this process open as many files as it may; answers how many. What it starts keeps the limit of before: `as_before`.
pub fn raise_open_files() -> u64 {
    let Ok(own) = own() else { return 0 };
    BEFORE.get_or_init(|| own.rlim_cur);
    if set_first(own.rlim_max).is_ok() { own.rlim_max } else { own.rlim_cur }
}

/// Gives a child that is about to become a program the limit that this process had at first. Async-signal-safe.
pub fn back_to_before() {
    if let Some(&before) = BEFORE.get() {
        let _ = set_first(before);
    }
}

/// Has a program start with the limit that this process had at first: one that uses select(2) breaks with a large one.
pub fn as_before(command: &mut tokio::process::Command) {
    let Some(&before) = BEFORE.get() else { return };
    // SAFETY: between fork and exec it makes two system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(move || set_first(before)) };
}
