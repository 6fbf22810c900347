//! Errors by operation: each enum lists just the failures its operation can have.

use std::io;
use std::path::PathBuf;

use crate::types::{PeerId, PeerInfo};

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: another process has this data folder open; stop it, or give this peer a folder of its own", .path.display())]
    Locked { path: PathBuf },
    #[error("cannot {doing} {}: {source}{}", .path.display(), advice(.source))]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} is damaged at byte {offset}: {what}. Data that was reported as stored cannot be read, so this peer will not \
         start with part of it. Move the data folder aside and let the peer join anew, or restore the file",
        .path.display()
    )]
    Corrupt { path: PathBuf, offset: u64, what: String },
    #[error("{} was written by a newer version (format {found}, this version knows {known}); start that version", .path.display())]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{} holds snapshots but no log: its votes are lost. Move the folder aside and let the peer join anew", .path.display())]
    LogMissing { path: PathBuf },
    #[error(
        "this peer stopped because its leader contradicted it, and does not start over that by itself: {what}. See \
         docs/using/recovery.md. When the folders are right again, remove {} and start it",
        .path.display()
    )]
    Contradicted { path: PathBuf, what: String },
    #[error("the options are not usable: {0}")]
    Options(String),
    #[error("raft cannot start: {0}")]
    Start(String),
}

impl OpenError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { doing, path: path.into(), source }
    }
}

/// A storage failure while running. It ends this peer's part in the cluster: the log takes no more writes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StorageFailure(pub(crate) String);

impl StorageFailure {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self(OpenError::io(doing, path, source).to_string())
    }

    pub(crate) fn to_io(&self) -> io::Error {
        io::Error::other(self.0.clone())
    }
}

/// What to do about a failed file operation, as the end of a sentence that names it; empty where there is nothing to say.
pub fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". The disk is full: free space on it, then start this peer again; nothing it confirmed is lost"
        }
        io::ErrorKind::PermissionDenied => ". Give the user that runs this peer the right to write there",
        io::ErrorKind::ReadOnlyFilesystem => {
            ". The disk went read-only: look at the kernel's log before you start again"
        }
        _ => "",
    }
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Never proposed: this peer does not lead, or leads without a quorum.
    #[error("this peer does not lead{}", leader_hint(.leader))]
    NotLeader { leader: Option<(PeerId, PeerInfo)> },
    /// It may or may not have happened, now or later.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// Never proposed.
    #[error("an entry of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// Never proposed: the entries in flight already fill their limit, for as long as a proposal may wait.
    #[error("too many proposals are in flight; try again later")]
    Busy,
    /// Never proposed: this peer was stopped or its storage failed.
    #[error("this peer has stopped")]
    Stopped,
}

fn leader_hint(leader: &Option<(PeerId, PeerInfo)>) -> String {
    match leader {
        Some((id, info)) => format!("; peer {id} at {} does", info.addr),
        None => "; no leader is known".to_string(),
    }
}

/// Why a linearizable read cannot be served here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    #[error("this peer does not lead{}", leader_hint(.leader))]
    NotLeader { leader: Option<(PeerId, PeerInfo)> },
    #[error("no quorum confirmed this leader in time")]
    NoQuorum,
    #[error("this peer has not applied entry {index} in time")]
    NotApplied { index: u64 },
    #[error("this peer has stopped")]
    Stopped,
}

/// Why a change of the membership, or a transfer of the lead, did not happen (or is not known to have).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("this peer does not lead{}", leader_hint(.leader))]
    NotLeader { leader: Option<(PeerId, PeerInfo)> },
    #[error("this peer's log is not empty: it already belongs to a cluster")]
    AlreadyInitialized,
    #[error("another change of the membership is under way; try again when it is done")]
    InProgress,
    #[error("peer {0} is not a member")]
    UnknownPeer(PeerId),
    #[error("peer {0} is a voter already")]
    AlreadyVoter(PeerId),
    #[error("peer {0} is the last voter; a cluster without voters cannot go on")]
    LastVoter(PeerId),
    #[error(
        "peer {id} is a voter whose data folder is {known}, not {given}: remove it, then add it as a learner"
    )]
    OtherDisk { id: PeerId, known: String, given: String },
    #[error("peer {id} has not caught up in time: it is {lag} entries behind")]
    NotCaughtUp { id: PeerId, lag: u64 },
    #[error("not done in time")]
    TimedOut,
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("this peer has stopped")]
    Stopped,
}

/// Why a request of another peer was not served. The transport hands this back as its own failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    #[error("not a request of this version: {0}")]
    Malformed(String),
    #[error("from cluster {theirs:?}; this is {ours:?}")]
    OtherCluster { theirs: String, ours: String },
    #[error("meant for peer {meant}; this is peer {ours}")]
    OtherPeer { meant: PeerId, ours: PeerId },
    #[error("said to be from peer {said}; the caller is peer {is}")]
    OtherCaller { said: PeerId, is: PeerId },
    #[error(
        "meant for the data folder {meant}; this one is {ours}: this peer lost its data and must join anew"
    )]
    OtherDisk { meant: String, ours: String },
    #[error("this peer has stopped: {0}")]
    Stopped(String),
}

/// Why a call to another peer has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("no answer in time")]
    TimedOut,
}
