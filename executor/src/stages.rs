//! What surrounds the run of a program: its files, secrets and image before it starts, its outputs after it ended.
//!
//! Each stage can be undone, and is when a later one fails or the attempt is stopped meanwhile. What must happen after
//! the end is written down in the attempt's folder before the program starts (`Record`), so that a node that was killed
//! in between goes on where it stopped: outputs are kept and secrets cleared away whatever happened.

pub mod archive;
mod copy;
pub mod holes;
pub mod inputs;
pub mod mask;
pub mod outputs;
pub mod secrets;

use std::io;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use stint_protocol::{AttemptEnd, KeepLogs, KeepOutputs, LeaseId, OutputPath, Tenant};

use crate::host::Said;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{AttemptLabels, GivenSecrets, ResolvedMount};
use crate::store::ImageFiles;

pub use copy::blob_of;

/// Folder of an attempt with archives of its outputs.
pub const PACKED: &str = "packed";

/// What was prepared for an attempt.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    pub image: Option<ImageFiles>,
    /// Secrets that are variables.
    pub environment: Vec<(String, String)>,
    pub secrets: Option<GivenSecrets>,
    /// It runs in a folder of its own, which is there already.
    pub own_folder: bool,
    /// What of this host it sees.
    pub mounts: Vec<ResolvedMount>,
}

/// User and group that a program runs as, when that is not the node's own.
pub type Owner = Option<(u32, u32)>;

/// What is to be done after the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StageRecord {
    #[n(0)]
    pub tenant: Tenant,
    #[n(1)]
    pub outputs: Vec<OutputPath>,
    /// It has secrets: its output is to be masked.
    #[n(2)]
    pub secrets: bool,
    /// The registered image that it holds.
    #[n(3)]
    pub image: Option<String>,
    /// None: an earlier version wrote it.
    #[n(4)]
    pub labels: Option<AttemptLabels>,
    /// After which ends its outputs are kept. None: after all.
    #[n(5)]
    #[cbor(default)]
    pub keep: Option<KeepOutputs>,
    /// How long its program may run. None: an earlier version wrote it.
    #[n(6)]
    #[cbor(default)]
    pub timeout_ms: Option<u64>,
    /// Who keeps all of its output. None: this node.
    #[n(7)]
    #[cbor(default)]
    pub logs: Option<KeepLogs>,
    /// Whether other peers keep the end of its output. None: they do.
    #[n(8)]
    #[cbor(default)]
    pub record: Option<bool>,
}

fn record_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("staged")
}

fn end_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("end")
}

impl StageRecord {
    /// Writes it down; on disk before the program starts.
    pub fn write(&self, layout: &Layout, lease: LeaseId) -> io::Result<()> {
        write_whole(&record_file(layout, lease), &minicbor::to_vec(self).map_err(io::Error::other)?)
    }

    /// What an attempt left to be done; none: nothing, or it is done.
    pub fn open(layout: &Layout, lease: LeaseId) -> Option<Self> {
        if finished(layout, lease).is_some() {
            return None;
        }
        Self::of_attempt(layout, lease)
    }

    /// What was written down of an attempt, also once everything is done.
    pub fn of_attempt(layout: &Layout, lease: LeaseId) -> Option<Self> {
        minicbor::decode(&std::fs::read(record_file(layout, lease)).ok()?).ok()
    }
}

/// Notes how an attempt ended once everything after its end was done.
pub fn finish(layout: &Layout, end: &AttemptEnd) -> io::Result<()> {
    write_whole(&end_file(layout, end.lease), &minicbor::to_vec(end).map_err(io::Error::other)?)
}

/// How an attempt ended whose outputs were kept.
pub fn finished(layout: &Layout, lease: LeaseId) -> Option<AttemptEnd> {
    minicbor::decode(&std::fs::read(end_file(layout, lease)).ok()?).ok()
}

fn said_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("said")
}

/// Notes what the program of an attempt said, with its secrets hidden.
pub fn keep_said(layout: &Layout, lease: LeaseId, said: &Said) -> io::Result<()> {
    write_whole(&said_file(layout, lease), &minicbor::to_vec(said).map_err(io::Error::other)?)
}

/// What was noted.
pub fn said(layout: &Layout, lease: LeaseId) -> Option<Said> {
    minicbor::decode(&std::fs::read(said_file(layout, lease)).ok()?).ok()
}

/// Writes a file that is there as a whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("part");
    std::fs::write(&partial, bytes)?;
    std::fs::rename(&partial, path)
}
