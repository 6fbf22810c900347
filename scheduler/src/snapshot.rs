//! The state as bytes: our own versioned encoding, written and read in pieces. A spec shared by many tasks is stored
//! once.

mod instances;
mod items;
mod read;
mod write;

use std::convert::Infallible;

use minicbor::encode::Write;

use crate::check;
use crate::state::State;

pub use read::read_snapshot;
pub use write::write_snapshot;

/// The format this version writes. Older ones stay readable; a newer one is refused.
const FORMAT: u32 = 1;

/// Bytes that are no snapshot this version can read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot has format {found}; this version reads up to {FORMAT}: upgrade stint")]
    Newer { found: u32 },
    #[error("the snapshot cannot be read: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    #[error("the snapshot contradicts itself: {0}")]
    Broken(String),
    #[error("the snapshot's bytes could not be got: {0}")]
    Input(#[from] std::io::Error),
}

/// Encodes the whole state into memory, for tests and simulators: `write_snapshot` needs none for it.
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_snapshot(state, &mut bytes).unwrap_or_else(|never| panic!("encoding to memory: {never}"));
    bytes
}

/// Decodes a snapshot and checks every invariant of what it holds, for tests and simulators: the check costs as much as
/// reading. `read_snapshot` looks only at what it meets.
pub fn decode_snapshot(bytes: &[u8]) -> Result<State, SnapshotError> {
    let state = read_snapshot(bytes)?;
    check::check(&state).map_err(SnapshotError::Broken)?;
    Ok(state)
}

/// A number that is equal for equal states and, but for chance, only for them: FNV-1a over the encoding.
pub fn digest(state: &State) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    write::write(state, false, &mut hash)
        .unwrap_or_else(|never: minicbor::encode::Error<_>| panic!("hashing: {never}"));
    hash.0
}

/// FNV-1a of what is written to it.
struct Fnv(u64);

impl Write for Fnv {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
        Ok(())
    }
}

/// Whether two states are the same: all that a snapshot keeps, and the indexes that follow from it. Which tasks share
/// a spec does not count, nor whether a retry that is due stands in the queue already.
pub fn same(one: &State, other: &State) -> bool {
    let numbers = |s: &State| {
        (s.configured, s.version, s.time, s.next_sequence, s.next_node, s.finished_total, s.spec_bytes)
    };
    numbers(one) == numbers(other)
        && one.settings == other.settings
        && one.audit == other.audit
        && one.tasks.iter().eq(other.tasks.iter())
        && one.history.iter().eq(other.history.iter())
        && one.nodes.iter().eq(other.nodes.iter())
        && one.keys.iter().eq(other.keys.iter())
        && one.key_order.iter().eq(other.key_order.iter())
        && one.join_tokens.iter().eq(other.join_tokens.iter())
        && one.access_tokens.iter().eq(other.access_tokens.iter())
        && one.uids == other.uids
        && one.authorities == other.authorities
        && one.waiting() == other.waiting()
        && one.suspended.iter().eq(other.suspended.iter())
        && one.tenants.iter().eq(other.tenants.iter())
        && one.drains.iter().eq(other.drains.iter())
        && one.leases.iter().eq(other.leases.iter())
        && one.gpus.iter().eq(other.gpus.iter())
        && one.names.iter().eq(other.names.iter())
        && one.images.iter().eq(other.images.iter())
        && one.blobs.iter().eq(other.blobs.iter())
        && one.keeps.iter().eq(other.keeps.iter())
        && one.instances.same(&other.instances)
}
