//! Why an operation was not done. Each front has one code for each of these (`front/errors.rs`).

use std::time::Duration;

use stint_protocol::{
    Class, ImageName, InvalidName, InvalidSpec, NodeId, Runtime, TaskId, Tenant, limits, python,
};

use super::Role;
use super::access::Operation;
use crate::blobs::BlobError;
use crate::config::replicated::InvalidChange;
use crate::limits as own;
use crate::pki::PkiError;
use crate::wire::Refusal;

/// Why an operation was refused or failed, for the user.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    // Who asks.
    #[error("{operation} takes the role {needs}, and yours is {role}: ask an administrator of the cluster")]
    RoleTooLow { operation: Operation, needs: Role, role: Role },
    #[error("you may not act for tenant {0}: name one of your own")]
    ForeignTenant(Tenant),

    #[error(
        "user {0} of this machine has a number that the cluster gives to tenants, so nothing runs as that user: an administrator gives \
         tenants others (`stint cluster set tenant_uids=FIRST-LAST`)"
    )]
    UserOfTenants(u32),
    #[error("tenant {tenant} cannot be removed: it has {has}")]
    TenantInUse { tenant: Tenant, has: String },
    #[error("no tenant {0}: `stint tenant ls` shows those that have anything")]
    TenantNotFound(Tenant),

    // What was asked for cannot be meant.
    #[error(transparent)]
    InvalidSpec(#[from] InvalidSpec),
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    #[error("unknown runtime {asked:?}, and no node offers one for class {class} now")]
    NoRuntimeOffered { asked: String, class: Class },
    #[error(
        "unknown runtime {asked:?}: use one of {} for class {class}, or {} for a module or a script",
        names(usable),
        python::WORD
    )]
    UnknownRuntime { asked: String, class: Class, usable: Vec<Runtime> },
    #[error(
        "runtime: image {0} is a single program, which has no place for {word}: leave the runtime out to run that \
         program with these words, or name an image with a root file system that has python3",
        word = python::WORD
    )]
    NoPlaceForPython(ImageName),
    #[error("{0}: ask for less, or leave out --must-fit to let it wait for a node that can")]
    NeverFits(String),
    #[error(transparent)]
    InvalidChange(#[from] InvalidChange),
    #[error("within_ms is for mode drain only")]
    DeadlineWithoutDrain,
    #[error("valid: one week at most")]
    TokenValidTooLong,
    #[error("uses: {most} at most", most = own::TOKEN_USES)]
    TokenUsesTooMany,
    #[error("overlap: 366 days at most")]
    OverlapTooLong,
    #[error("valid_ms: 366 days at most")]
    AccessValidTooLong,
    #[error("comment: {0} bytes; {most} at most", most = limits::TOKEN_COMMENT_BYTES)]
    TokenCommentTooLong(usize),
    #[error("tenant: is missing: a token of role {0} acts for one tenant; name it with --tenant")]
    TokenNeedsTenant(Role),
    #[error(
        "tenant: a token of role admin acts for all tenants: leave --tenant out, or give it another role"
    )]
    AdminOfOneTenant,
    #[error("description: {0} bytes; {most} at most", most = limits::IMAGE_DESCRIPTION_BYTES)]
    DescriptionTooLong(usize),
    #[error("reference: {most} bytes at most", most = limits::IMAGE_REFERENCE_BYTES)]
    ReferenceTooLong,
    #[error("reference: is for kind docker only")]
    ReferenceWithBytes,
    #[error("{0}")]
    InvalidReference(String),
    #[error(
        "kind: the bytes are neither a program (ELF or #!) nor a tar archive (plain, gzip or zstd): give the kind, \
         executable or rootfs"
    )]
    UnknownImageKind,

    // What was asked for is not there, or is another tenant's.
    #[error("no task {text:?} in tenant {tenant}: give the id that submit printed, or the task's name")]
    TaskNotFound { tenant: Tenant, text: String },
    #[error("the task is gone")]
    TaskGone,
    #[error("no node {0:?}: see `stint nodes`")]
    NodeNotFound(String),
    #[error("no join token {0:?}, or several that begin so: `stint cluster join-token ls` lists them")]
    JoinTokenNotFound(String),
    #[error("no token {0:?}, or several that begin so: `stint token ls` lists them")]
    AccessTokenNotFound(String),
    #[error("node {0} is gone")]
    NodeGone(NodeId),
    #[error("no image {text:?} in tenant {tenant}: `stint image ls` lists those that are")]
    ImageNotFound { tenant: Tenant, text: String },
    #[error("the image was replaced or deleted at once")]
    ImageGone,
    #[error("the task left no output {path:?}: see `stint outputs {task}`")]
    OutputNotFound { task: String, path: String },
    #[error(
        "attempt {attempt} of {task} is not known: the last {most} attempts of a task are, see `stint status {task}`",
        most = limits::ATTEMPT_RECORDS
    )]
    AttemptUnknown { task: String, attempt: u32 },
    #[error("what attempt {0} left is not remembered: tasks that are not finished remember {most} files of their attempts together", most = limits::EARLIER_OUTPUTS)]
    OutputsForgotten(u32),
    #[error("the bytes of {0:?} are gone: no peer has them any more")]
    OutputGone(String),
    #[error("which node ran the task is not known any more")]
    OutputNodeUnknown,
    /// In the words of the node that should keep it.
    #[error("{0}")]
    NotKept(String),

    // It cannot be done as things stand.
    #[error("task {0} has no attempt with output yet: see `stint explain {0}`")]
    NoOutputYet(TaskId),
    #[error("the task is not finished: its outputs are kept at its end")]
    NotFinished,
    #[error("attempt {0} has not ended: its outputs are kept at its end")]
    AttemptNotEnded(u32),

    #[error("{costs}; --force removes it all the same")]
    RemovalCosts { costs: String },

    // Bytes.
    #[error("{most} images are on their way to this peer: retry in a moment", most = own::UPLOADS)]
    UploadsFull,
    #[error("the client sent nothing for a minute")]
    UploadPaused,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("reading the output: {0}")]
    OutputUnreadable(std::io::Error),
    #[error("the output is shorter than it was when it was kept")]
    OutputShorter,

    // There is no leader.
    #[error(
        "no leader for {} s, so {}: {missing}; it goes on when a majority is back",
        silence.as_secs(),
        if *tried { "nobody can say whether it was done" } else { "nothing was done" }
    )]
    NoLeader { silence: Duration, missing: String, tried: bool },
    #[error("the node that keeps this output does not answer, and there is no leader: retry when it is back")]
    OutputAway,
    /// This peer's own copy, without a leader, does not have it; another peer's may.
    #[error("{what}; but there is no leader, and what came last may be missing here ({missing})")]
    NotInCopy { what: Box<ServiceError>, missing: String },

    // This peer, or the leader.
    #[error("this peer is stopping")]
    Stopping,
    #[error("{0}")]
    NotReady(NotReady),
    #[error(transparent)]
    Authority(#[from] PkiError),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// What the leader, or another peer, answered.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ServiceError {
    /// Whether it says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        use ServiceError as E;
        matches!(
            self,
            E::TaskNotFound { .. }
                | E::TaskGone
                | E::NodeNotFound(_)
                | E::NodeGone(_)
                | E::JoinTokenNotFound(_)
                | E::AccessTokenNotFound(_)
                | E::ImageNotFound { .. }
                | E::OutputNotFound { .. }
        )
    }

    /// Whether another try at this peer will have the same answer until a majority of the peers is back.
    pub fn is_leaderless(&self) -> bool {
        matches!(
            self,
            ServiceError::NoLeader { .. } | ServiceError::OutputAway | ServiceError::NotInCopy { .. }
        )
    }
}

/// Why a peer should not be sent requests now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error("no leader for {:.1} s: {missing}", silence.as_secs_f64())]
    NoLeader { silence: Duration, missing: String },
    #[error("this peer leads but no quorum answers it: {missing}")]
    NoQuorum { missing: String },
    #[error("{0} entries are stored but not applied")]
    Behind(u64),
}

fn names(runtimes: &[Runtime]) -> String {
    let names: Vec<&str> = runtimes.iter().map(|runtime| runtime.as_str()).collect();
    names.join(", ")
}
