//! What allocates in this process. A node allocates with mimalloc: its states are copied on write, entry by entry. A watchdog
//! stays with the C library, whose heap it keeps from the inits of attempts (`heap.rs`); mimalloc has none that could be told
//! from other memory. So does a client command: it lives for milliseconds, and mimalloc would touch a hundred pages more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use libmimalloc_sys as mi;

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

/// mimalloc for all of a process.
pub struct MiMalloc;

/// Whether a plain block has this alignment: all have 16, and those of a word 8 (`MI_MAX_ALIGN_SIZE`, `mi_bin`). Asked for a
/// block with an alignment, mimalloc 3 takes a way of its own for most sizes, and a larger block.
#[inline]
fn is_plain(align: usize, size: usize) -> bool {
    align <= 8 || (align == 16 && size > 8)
}

// SAFETY: blocks are as large and as aligned as asked, and freed by who made them.
unsafe impl GlobalAlloc for MiMalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (align, size) = (layout.align(), layout.size());
        // SAFETY: takes any size and any power of two; so with the following, whose blocks are its own.
        unsafe {
            if is_plain(align, size) { mi::mi_malloc(size) } else { mi::mi_malloc_aligned(size, align) }
        }
        .cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: as above.
        unsafe { mi::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (align, size) = (layout.align(), layout.size());
        // SAFETY: as above.
        unsafe {
            if is_plain(align, size) { mi::mi_zalloc(size) } else { mi::mi_zalloc_aligned(size, align) }
        }
        .cast()
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (block, align) = (block.cast(), layout.align());
        // SAFETY: as above.
        unsafe {
            if is_plain(align, size) {
                mi::mi_realloc(block, size)
            } else {
                mi::mi_realloc_aligned(block, size, align)
            }
        }
        .cast()
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

    #[test]
    fn blocks_are_as_aligned_and_as_zero_as_asked() {
        let (mut blocks, mut number) = (Vec::new(), 0_usize);
        for align in [1, 2, 4, 8, 16, 32, 4_096] {
            for size in (1..300).chain([1_000, 1_025, 1_544, 4_097, 9_000, 70_001, 3_000_001]) {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: no size is 0, and each block is freed with the layout that it has then.
                unsafe {
                    let zeroed = MiMalloc.alloc_zeroed(layout);
                    assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                    let plain = MiMalloc.alloc(layout);
                    plain.write_bytes(number as u8, size);
                    let grown = MiMalloc.realloc(plain, layout, size * 2 + 1);
                    let kept = std::slice::from_raw_parts(grown, size);
                    assert!(kept.iter().all(|byte| *byte == number as u8));
                    for block in [zeroed, grown] {
                        assert_eq!(block.addr() % align, 0, "{size} bytes at {align}");
                    }
                    zeroed.write_bytes(0xff, size);
                    blocks.push((zeroed, layout));
                    blocks.push((grown, Layout::from_size_align(size * 2 + 1, align).unwrap()));
                }
                number += 1;
                // Some go at once: others are made in their places.
                if number % 3 == 0 {
                    let (block, layout) = blocks.swap_remove(number % blocks.len());
                    // SAFETY: it was made with this layout and is freed once.
                    unsafe { MiMalloc.dealloc(block, layout) };
                }
            }
        }
        for (block, layout) in blocks {
            // SAFETY: as above.
            unsafe { MiMalloc.dealloc(block, layout) };
        }
    }
}
