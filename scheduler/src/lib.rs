//! The replicated state machine of Stint and its decisions. Pure: it knows no clock, thread, file, socket,
//! async runtime, random source or hash-map order. `apply` is the one way the state changes; `plan` and
//! `explain` only read.

mod access_token;
mod apply;
mod authority;
mod check;
mod command;
mod demand;
mod explain;
mod history;
mod image;
mod instance;
mod join_token;
pub mod mutations;
mod node;
mod plan;
mod retention;
mod settings;
mod snapshot;
mod state;
mod task;

pub use access_token::AccessToken;
pub use apply::{StampedCommand, apply, begin_anew};
pub use authority::{AskedRotation, Authorities, Authority, NewAuthority, RotateAuthority};
pub use check::check;
pub use command::{
    AddAccessToken, Admit, Change, Command, InstanceAct, InstanceChange, InstanceCommand, InstanceRejection,
    KeepBlob, RegisterImage, RegisterNode, Rejection, Saved, StartInstance, Submit, UpdateSettings,
};
pub use explain::{Explanation, NodeReason, explain, never_fits};
pub use image::{BlobRecord, Image, Keep};
pub use instance::{
    Checkpoint, Counts, CustomSignal, FailedTry, Given, HourCounts, Instance, InstanceNo, InstanceState,
    Signal, Sleep, Why,
};
pub use join_token::{JoinToken, TokenLimit};
pub use node::{GpuRecord, Node, NodeMode, StartBackoff, StartHold};
pub use plan::{Assignment, Plan, PlanInput, Planner, overlooked, plan};
pub use settings::{
    ChangedBy, ChangedSetting, ClassSetting, ClusterRules, ImageNotAllowed, InvalidSettings, NoUidRange,
    Placement, Setting, Settings, SettingsAudit, SettingsChange, TenantRules, TenantSetting, TenantTable,
    UidRange,
};
pub use snapshot::{
    SnapshotError, decode_snapshot, digest, encode_snapshot, read_snapshot, same, write_snapshot,
};
pub use state::{FinishedTasks, State, TenantHoldings};
pub use task::{AttemptRecord, FinishedTask, Leased, StopReason, SuspendReason, Task, TaskState};
