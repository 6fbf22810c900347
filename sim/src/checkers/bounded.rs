//! What must stay small does: a peer's disk, the ends spooled on a machine.

/// Bytes of log and snapshots on one disk: a few segments, spares and snapshots, at the sizes of the simulation.
const DISK_BYTES: usize = 4 * 1024 * 1024;
/// Ends that wait to be acknowledged: what a machine can end while no leader takes its reports.
const SPOOLED: usize = 1_024;

/// A peer's disk holds so much.
pub fn disk(peer: u64, bytes: usize) -> Result<(), String> {
    if bytes <= DISK_BYTES {
        return Ok(());
    }
    Err(format!("the disk of peer {peer} holds {bytes} bytes, more than {DISK_BYTES}"))
}

/// So many ends are spooled.
pub fn spool(machine: u64, ends: usize) -> Result<(), String> {
    if ends <= SPOOLED {
        return Ok(());
    }
    Err(format!("machine {machine} has spooled {ends} ends, more than {SPOOLED}"))
}
