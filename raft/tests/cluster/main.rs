//! Three peers in one process, in simulated time: what the crate promises to the node.
#![allow(clippy::unwrap_used, reason = "tests may stop at what they do not expect")]

mod entries;
mod lead;
mod membership;
mod power_loss;
mod real_time;
mod snapshots;
#[path = "../support/mod.rs"]
mod support;

use stint_raft::RaftOptions;

fn plain(_: &mut RaftOptions) {}

fn small_snapshots(options: &mut RaftOptions) {
    options.snapshot_every_entries = 50;
    options.keep_entries_after_snapshot = 10;
}
