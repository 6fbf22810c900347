//! Settings of the cluster that came after it could be founded: as long as none is changed, nothing of them is written.

use minicbor::{Decode, Encode};
use stint_protocol::limits;

use super::UidRange;

/// How the cluster judges losses, and what its nodes keep.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClusterRules {
    /// Losses that end a task as `crash_loop`.
    #[n(0)]
    pub crash_loop_losses: u32,
    /// Nodes keep CPU and memory for their free GPUs.
    #[n(1)]
    pub keep_for_gpus: bool,
    /// User numbers for tenants; those that were given stay, whatever it becomes.
    #[n(2)]
    pub tenant_uids: UidRange,
}

impl Default for ClusterRules {
    fn default() -> Self {
        Self {
            crash_loop_losses: limits::CRASH_LOOP_LOSSES,
            keep_for_gpus: true,
            tenant_uids: UidRange::default(),
        }
    }
}

impl ClusterRules {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn when_absent() -> Option<Self> {
        Some(Self::default())
    }
}
