//! The heap of the watchdog, which the inits of attempts do not get.
//!
//! A clone would share its pages until one side writes: the watchdog would copy a hundred of them after each start, and
//! each init would hold what the watchdog knows of other attempts.

use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use libc::{c_int, c_void};

/// Up to where the heap is kept from clones; 0: it is copied.
static HIDDEN: AtomicUsize = AtomicUsize::new(0);
/// Where the heap begins; 0 when it was not looked for yet, 1 when it must be copied.
static START: AtomicUsize = AtomicUsize::new(0);
const UNKNOWN: usize = 0;
const COPIED: usize = 1;

/// Has all threads allocate from this one heap. The C library would give a second thread one that is not kept from inits, and whose
/// 64 MiB of addresses count as locked memory.
pub fn keep_one() {
    // SAFETY: takes no pointers.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Keeps it from the clones that follow. Where that cannot be done they get it.
pub(super) fn hide() {
    let start = match START.load(SeqCst) {
        UNKNOWN => find(),
        known => known,
    };
    // SAFETY: asks for the end only.
    let end = unsafe { libc::sbrk(0) } as usize;
    if start != COPIED && end > start && end != HIDDEN.load(SeqCst) && advise(start, end, libc::MADV_DONTFORK)
    {
        HIDDEN.store(end, SeqCst);
    }
}

/// Lets the clones that follow have it.
pub(super) fn show() {
    let end = HIDDEN.swap(0, SeqCst);
    if end != 0 {
        // The heap may have become smaller since. What of it is there is shown in any case.
        advise(START.load(SeqCst), end, libc::MADV_DOFORK);
    }
}

fn advise(start: usize, end: usize, advice: c_int) -> bool {
    // SAFETY: neither advice changes what this process sees, whatever lies in the range.
    unsafe { libc::madvise(ptr::without_provenance_mut::<c_void>(start), end - start, advice) == 0 }
}

/// Looks once. A C library that puts the thread's own variables there leaves us no choice: children need them.
fn find() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    // SAFETY: the address only is of interest.
    let needed = unsafe { libc::__errno_location() } as usize;
    let range = maps.lines().find(|line| line.ends_with("[heap]")).and_then(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    });
    let start =
        range.filter(|(start, end)| !(*start..*end).contains(&needed)).map_or(COPIED, |(start, _)| start);
    START.store(start, SeqCst);
    start
}
