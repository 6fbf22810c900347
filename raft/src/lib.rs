//! openraft made ours: a durable log, snapshots and membership for one replicated state machine.
//!
//! It knows nothing of tasks: a [`StateMachine`] applies opaque entries. No openraft type is part of its interface. What
//! differs between a real peer and a simulated one comes in from outside: [`Disk`], [`Transport`] and the seed.
//!
//! What holds: an entry whose proposal was answered survives any crash of any minority, and of all peers at once if
//! their disks keep what they synced; a restarted leader never takes its term again without an election; a storage
//! failure ends the peer and is never retried; damage of stored data is an error that names the file, never silent loss;
//! a peer that is told to unlearn what is decided stops.

mod codec;
mod contradiction;
#[cfg(any(test, feature = "fuzzing"))]
pub mod decoders;
mod error;
mod log;
mod machine;
mod membership;
pub mod mutations;
mod offline;
mod options;
mod raft;
mod reachability;
#[cfg(any(test, feature = "simulated-disk"))]
pub mod simulated_disk;
mod snapshot;
mod status;
mod store;
mod transfer;
mod transport;
mod types;
mod wire;

#[cfg(any(test, feature = "simulated-disk"))]
extern crate self as stint_raft;
#[cfg(test)]
mod suite_test;
#[cfg(test)]
#[path = "../tests/support/memory_disk.rs"]
mod test_disk;

pub use error::{
    BarrierError, HandleError, MembershipError, OpenError, ProposeError, TransportError, advice,
};
pub use log::disk::{Disk, DiskFile, OpenMode, RealDisk};
pub use machine::{Capture, StateMachine};
pub use offline::{OfflineLog, read_log, write_folder};
pub use options::{Profile, RaftOptions, SyncDelay, Timing};
pub use raft::Raft;
pub use status::{Role, Status, StatusWatch};
pub use transport::{CallClass, CallFuture, Transport};
pub use types::{PeerId, PeerInfo, Position};
