//! Memory of its own for what a child reads between clone and exec: the heap is not there.

use std::alloc::Layout;
use std::ffi::{CStr, CString};
use std::io;
use std::ptr::{self, NonNull};

use libc::{c_char, c_void};

/// Values laid one after the other, in pages that children get. All of them go at once.
pub(super) struct Region {
    /// What is in use lies in the last one.
    parts: Vec<Part>,
    used: usize,
}

/// One mapping.
struct Part {
    start: NonNull<u8>,
    bytes: usize,
}

/// Bytes of the first part: many times what is usual, and only what is used is there.
const PART_BYTES: usize = 64 * 1024;

impl Region {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { parts: vec![Part::new(PART_BYTES)?], used: 0 })
    }

    /// Forgets what is in it.
    pub(super) fn clear(&mut self) {
        self.parts.truncate(1);
        self.used = 0;
    }

    /// Copies values in. They stay where they are until the region is cleared or dropped.
    pub(super) fn put<T: Copy>(&mut self, values: &[T]) -> io::Result<*mut T> {
        let layout = Layout::for_value(values);
        let mut at = self.used.next_multiple_of(layout.align());
        if self.parts.last().is_none_or(|part| at + layout.size() > part.bytes) {
            self.parts.push(Part::new(layout.size().max(PART_BYTES))?);
            at = 0;
        }
        self.used = at + layout.size();
        let start = self.parts.last().map_or(NonNull::dangling(), |part| part.start);
        // SAFETY: the last part has room at `at`, its start is aligned to a page and `at` for `T`, and nothing that was
        // put in before reaches there.
        unsafe {
            let place = start.as_ptr().add(at).cast::<T>();
            ptr::copy_nonoverlapping(values.as_ptr(), place, values.len());
            Ok(place)
        }
    }

    pub(super) fn string(&mut self, string: &CStr) -> io::Result<*const c_char> {
        Ok(self.put(string.to_bytes_with_nul())?.cast_const().cast())
    }

    /// Null for none.
    pub(super) fn maybe(&mut self, string: Option<&CString>) -> io::Result<*const c_char> {
        string.map_or(Ok(ptr::null()), |string| self.string(string))
    }

    /// A null-terminated array of pointers to strings.
    pub(super) fn strings(&mut self, strings: &[CString]) -> io::Result<*const *const c_char> {
        let mut places = Vec::with_capacity(strings.len() + 1);
        for string in strings {
            places.push(self.string(string)?);
        }
        places.push(ptr::null());
        Ok(self.put(&places)?)
    }
}

impl Part {
    fn new(bytes: usize) -> io::Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping, which this value alone knows of and unmaps.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
        match NonNull::new(start.cast()) {
            Some(pointer) if start != libc::MAP_FAILED => Ok(Self { start: pointer, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; nobody keeps pointers into it beyond the launch that they were made for.
        unsafe { libc::munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_stays_also_when_a_part_is_full() {
        let mut region = Region::new().unwrap();
        for _ in 0..2 {
            let large = CString::new(vec![b'x'; 3 * PART_BYTES]).unwrap();
            let strings = [c"first".to_owned(), large.clone(), c"last".to_owned()];
            let number = region.put(&[7u64]).unwrap();
            let byte = region.put(&[1u8]).unwrap();
            let places = region.strings(&strings).unwrap();
            let many = region.put(&[3u64; PART_BYTES / 8]).unwrap();
            // SAFETY: all were just put in.
            unsafe {
                assert_eq!((*number, *byte, *many.add(PART_BYTES / 8 - 1)), (7, 1, 3));
                for (index, string) in strings.iter().enumerate() {
                    assert_eq!(CStr::from_ptr(*places.add(index)), string.as_c_str());
                }
                assert!((*places.add(3)).is_null());
            }
            assert!(region.parts.len() > 2);
            region.clear();
            assert_eq!(region.parts.len(), 1);
        }
    }
}
