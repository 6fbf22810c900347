//! Commands and snapshots as released versions stored them (`tests/stored`). The number in the name of a command's
//! file is the command's; the one in a snapshot's name is the format.
#![allow(clippy::unwrap_used)]

mod commands;
mod described;
mod instances;
mod needs;
mod nodes;
mod rules;
mod samples;
mod snapshots;
#[path = "../support/stored.rs"]
mod stored;
mod tasks;
