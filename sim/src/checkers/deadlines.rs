//! Nothing runs past its lease, or past its run time with grace and kill margin, by its machine's own clock.

use stint_protocol::{BootMs, LeaseId};

/// An attempt runs at `now`, and must have ended by `until`.
pub fn running(machine: u64, lease: LeaseId, now: BootMs, until: BootMs) -> Result<(), String> {
    if now <= until {
        return Ok(());
    }
    let late = now.since(until);
    Err(format!("attempt {lease} runs on machine {machine} {late} ms after it had to be gone"))
}
