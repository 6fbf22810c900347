//! What allocates in this process. A node allocates with mimalloc: its states are copied on write, entry by entry. A watchdog
//! stays with the C library, whose heap it keeps from the inits of attempts (`heap.rs`); mimalloc has none that could be told
//! from other memory. So does a client command: it lives for milliseconds, and mimalloc would touch a hundred pages more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use mimalloc::MiMalloc;

/// For `#[global_allocator]`: by the arguments of this process, chosen at its first allocation and for good.
pub struct Allocator;

static CHOSEN: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NODE: u8 = 1;
const OTHER: u8 = 2;

#[inline]
fn is_c_library() -> bool {
    match CHOSEN.load(Relaxed) {
        UNKNOWN => choose(),
        chosen => chosen == OTHER,
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
    let is_node = is_node(&arguments[..length]);
    CHOSEN.store(if is_node { NODE } else { OTHER }, Relaxed);
    !is_node
}

/// Flags may come before the subcommand, so every argument counts: a client command with such a word loses a millisecond.
fn is_node(arguments: &[u8]) -> bool {
    let mut arguments = arguments.split(|byte| *byte == 0).skip(1).peekable();
    arguments.peek() != Some(&b"shim".as_slice()) && arguments.any(|argument| argument == b"node")
}

// SAFETY: one of two allocators does everything in a process, from its first allocation on.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises is what these ask for; so with the following.
        unsafe { if is_c_library() { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            if is_c_library() { System.dealloc(block, layout) } else { MiMalloc.dealloc(block, layout) }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if is_c_library() { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) } }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if is_c_library() {
                System.realloc(block, layout, size)
            } else {
                MiMalloc.realloc(block, layout, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_from_watchdogs_and_client_commands() {
        assert!(is_node(b"stint\0node\0--bootstrap\0"));
        assert!(is_node(b"stint\0--output\0json\0node\0"));
        assert!(!is_node(b"stint\0shim\0/var/lib/stint/node\0node\0"));
        assert!(!is_node(b"stint\0submit\0--\0/bin/true\0"));
        assert!(!is_node(b""));
    }
}
