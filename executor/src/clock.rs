//! The clock of all lease time.

use stint_protocol::BootMs;

/// CLOCK_BOOTTIME now: goes on while the machine is suspended, is the same for every process of the host.
pub fn boot_now() -> BootMs {
    crate::sys::boot_now()
}
