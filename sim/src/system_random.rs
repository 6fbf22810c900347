//! Chance by the number of its system call: ring asks the kernel that way, past the function of the C library that
//! mad-turmoil stands in for. Without this, keys and nonces of TLS differ from run to run, and with them what a peer
//! makes of a datagram that was meant for an earlier connection.
#![allow(unsafe_code)] // A symbol of the C library is replaced.

use std::ffi::c_long;
use std::sync::OnceLock;

use mad_turmoil::rand::try_rng;
use rand::Rng as _;

type SystemCall = unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;

/// The C library's `syscall`, with as many arguments as any call takes: on Linux they are passed alike. Random bytes come
/// from the seed once one is set; everything else goes to the kernel.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    one: c_long,
    two: c_long,
    three: c_long,
    four: c_long,
    five: c_long,
    six: c_long,
) -> c_long {
    if number == libc::SYS_getrandom
        && let Some(mut rng) = try_rng()
    {
        if two > 0 {
            // SAFETY: the caller of getrandom gives a buffer of so many bytes.
            rng.fill_bytes(unsafe { std::slice::from_raw_parts_mut(one as *mut u8, two as usize) });
        }
        return two;
    }
    // SAFETY: as the caller called it.
    unsafe { kernel()(number, one, two, three, four, five, six) }
}

fn kernel() -> SystemCall {
    static KERNEL: OnceLock<SystemCall> = OnceLock::new();
    *KERNEL.get_or_init(|| {
        // SAFETY: the next definition of the symbol is the C library's, of the documented type.
        unsafe {
            let found = libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr());
            assert!(!found.is_null(), "the C library has no syscall");
            std::mem::transmute::<*mut libc::c_void, SystemCall>(found)
        }
    })
}
