//! The versions of what peers say to each other and keep in the log, so that a cluster can be upgraded peer by peer.
//!
//! The cluster has one version, in its replicated state. It is the founder's at first, is raised once every member says
//! that it speaks more, and is never lowered. A leader proposes nothing that the cluster's version lacks; a peer that
//! meets more than it may speak stops instead of guessing.
//!
//! Version 1 is the first cluster. How versions are negotiated belongs to it: what a member speaks (in `Admit` and
//! `SetNodeVersion`) and `RaiseVersion` are understood by every peer.
//!
//! **To add version 6:** make `CURRENT` that version, and name here what comes with it (`pub const NEW_THING: Version = Version(6)`) if
//! more than one place asks for it; let `Command::needs` (for a field of a task `TaskSpec::needs`) answer it for the new command or field; numbers are new, fields have
//! `#[cbor(default)]`; keep the stored bytes of version 5 (`tests/stored`) and add those of 6. A client's request that
//! becomes such a command is then refused by the leader until every peer is upgraded: nothing else is to be done.

use std::fmt;

use minicbor::{Decode, Encode};

/// A version that a peer, or the whole cluster, speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Version(#[n(0)] pub u32);

/// The oldest that a cluster may speak.
pub const OLDEST: Version = Version(1);
/// The newest that this program speaks.
pub const CURRENT: Version = Version(5);

/// A drain with a deadline: `SetNodeMode.within_ms`, and attempts that end as `Drained`.
pub const DRAIN_DEADLINE: Version = Version(2);
/// Inputs, outputs and secrets of tasks: `TaskSpec.files`, `AttemptEnd.outputs`.
pub const TASK_FILES: Version = Version(3);
/// A member's address may change: `SetNodeAddress`.
pub const NODE_ADDRESS: Version = Version(2);

/// Registered images and stored bytes: tasks that name an image of the registry, and the commands about both.
pub const IMAGES: Version = Version(3);

/// Limits of a task, what nodes allow of them, and what attempts used: `TaskSpec.limits`, `NodeOffer.allows`,
/// `AttemptEnd.usage`.
pub const TASK_LIMITS: Version = Version(4);
/// Tasks that nodes hand to Slurm: nodes that offer `Runtime::Slurm`.
pub const SLURM: Version = Version(4);
/// Resuming a node also ends its being held after failed starts.
pub const RESUME_FREES: Version = Version(4);
/// Attempts whose files are not there are told from failed starts: `EndKind::FilesMissing`.
pub const FILES_MISSING: Version = Version(4);

/// A node is held for one runtime and tenant, not as a whole, when it fails to start tasks.
pub const HOLDS: Version = Version(5);
/// Losses that cannot be the task's doing do not count; files that no node has end a task early.
pub const FAIR_VERDICTS: Version = Version(5);
/// A name may be used again when its task has finished; it means the latest one.
pub const NAMES_AGAIN: Version = Version(5);

/// Settings that change while the cluster runs: `UpdateSettings`.
pub const SETTINGS: Version = Version(5);
/// Rules of tenants: `Setting::Tenant`, and submits of too high a priority are refused.
pub const TENANT_RULES: Version = Version(5);

/// Join tokens for so many nodes, which can be revoked: `AddJoinToken.uses`, `RemoveJoinToken`.
pub const JOIN_TOKENS: Version = Version(5);

/// Who joins keeps its key to itself, certificates of nodes are renewed, and voters alone keep the authority's key, sealed.
pub const CERTIFICATES: Version = Version(5);

/// Access tokens of tenants: `AddAccessToken`, `RemoveAccessToken`.
pub const ACCESS_TOKENS: Version = Version(5);

/// Another certificate authority for a running cluster: `RotateAuthority` and what follows it.
pub const CA_ROTATION: Version = Version(5);

/// Each tenant has a user number of its own, which its programs run as: given with its first submit, and to all that have tasks
/// when the cluster is raised.
pub const TENANT_UIDS: Version = Version(5);

/// Tasks that run as the user of a machine who submitted them: `TaskSpec.run_as`. A node of an earlier version would run them as
/// another user.
pub const RUN_AS: Version = Version(5);

/// What a node allows of images, inputs and secrets is a part of its offer (`NodeOffer.rules`), and what one node denies is tried on
/// others.
pub const NODE_RULES: Version = Version(5);

/// Starts that a runtime refuses without a reason of the node are told from the node's own: `EndKind::StartRefused`.
pub const START_REFUSED: Version = Version(5);

/// Attempts that are killed for the disk that their files take: `EndKind::DiskExceeded`.
pub const DISK_EXCEEDED: Version = Version(5);

/// What attempts wrote last is kept on every peer: `AttemptEnd.ending`, `TaskFiles.logs`, `TaskFiles.record`.
pub const ENDINGS: Version = Version(5);

/// What of an attempt's outputs was not kept, which of them are executable, and after which ends they are kept:
/// `AttemptEnd.not_kept`, `KeptFile.executable`, `TaskFiles.keep`.
pub const OUTPUTS_OF_ALL_ENDS: Version = Version(5);

/// What each attempt left is remembered with its task, and its bytes are kept as long as that: `AttemptRecord.outputs`,
/// `KeptFile.pinned`.
pub const OUTPUTS_OF_ATTEMPTS: Version = Version(5);

/// Durable workflow instances: `Command::Instance`, and the state of tasks whose instances are suspended.
pub const INSTANCES: Version = Version(5);

/// Tasks that users suspend: `Suspend` and `Wake`. No cluster speaks it yet: no request suspends a task by itself.
pub const SUSPEND: Version = Version(1_000);

impl Default for Version {
    /// Who never said what it speaks speaks the oldest.
    fn default() -> Self {
        OLDEST
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.0)
    }
}
