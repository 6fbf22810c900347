//! What allocates in this process. A node allocates with mimalloc: its states are copied on write, entry by entry. A watchdog
//! stays with the C library, whose heap it keeps from the inits of attempts (`heap.rs`); mimalloc has none that could be told
//! from other memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use mimalloc::MiMalloc;

/// For `#[global_allocator]`: by the first argument of this process, chosen at its first allocation and for good.
pub struct Allocator;

static CHOSEN: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NODE: u8 = 1;
const WATCHDOG: u8 = 2;

#[inline]
fn is_watchdog() -> bool {
    match CHOSEN.load(Relaxed) {
        UNKNOWN => choose(),
        chosen => chosen == WATCHDOG,
    }
}

/// No other thread is there yet, as making one allocates. Allocates nothing itself.
#[cold]
fn choose() -> bool {
    let mut arguments = [0; 8_192];
    // SAFETY: the path ends with a zero byte, and the buffer is as long as is said.
    let length = unsafe {
        let file = libc::open(c"/proc/self/cmdline".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let length = libc::read(file, arguments.as_mut_ptr().cast(), arguments.len());
        libc::close(file);
        usize::try_from(length).unwrap_or(0)
    };
    let is_watchdog = arguments[..length].split(|byte| *byte == 0).nth(1) == Some(b"shim");
    CHOSEN.store(if is_watchdog { WATCHDOG } else { NODE }, Relaxed);
    is_watchdog
}

// SAFETY: one of two allocators does everything in a process, from its first allocation on.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises is what these ask for; so with the following.
        unsafe { if is_watchdog() { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { if is_watchdog() { System.dealloc(block, layout) } else { MiMalloc.dealloc(block, layout) } }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if is_watchdog() { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) } }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if is_watchdog() {
                System.realloc(block, layout, size)
            } else {
                MiMalloc.realloc(block, layout, size)
            }
        }
    }
}
