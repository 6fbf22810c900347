//! The documents that programs read, typed once for the command line (`--output json`), the SDK and every front. Fields
//! are only added; times are milliseconds since 1970; what is not there is null. `tests/stored/api` has an example of
//! each. Words such as a state are text, so that a reader passes on those of a newer peer.

mod authority;
mod caller;
mod cluster;
mod explanation;
#[cfg(feature = "grpc")]
mod grpc;
mod image;
mod node;
mod outdated;
mod recovery;
mod result;
mod settings;
mod task;
mod tenant;
mod token;

pub use authority::Authority;
pub use caller::Caller;
pub use cluster::{Cluster, HeldBack, JoinToken, JoinTokenRevoked, LeaderTransferred, ListedJoinToken, Peer};
pub use explanation::{Explanation, NodeReason};
pub use image::Image;
pub use node::{Gpu, Node, NodeRemoved};
pub use outdated::{NO_LEADER, Outdated};
pub use recovery::{ClusterRecovered, ClusterRestored, ClusterSnapshot};
pub use result::{
    AttemptSummary, OutputFile, OutputsSummary, ResultEnd, ResultError, ResultLogs, ResultOutputs,
    ResultSpec, TaskResult,
};
pub use settings::{
    ChangedSetting, ClassSettings, ClusterSettings, Settings, SettingsChange, TenantSettings,
};
pub use task::{Attempt, Kept, Limits, NotKept, Outcome, Submitted, Task, Usage, Waited};
pub use tenant::ListedTenant;
pub use token::{ListedToken, Token, TokenRevoked};
