//! The replicated settings, and who changed them.

use serde::{Deserialize, Serialize};

/// The settings at one revision, and their last changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// 0 as the cluster was founded, one more with each change.
    pub revision: u64,
    pub cluster: ClusterSettings,
    pub classes: Vec<ClassSettings>,
    /// Tenant `default`, and those that have rules of their own, by name; of those that the caller may act for.
    #[serde(default)]
    pub tenants: Vec<TenantSettings>,
    /// Oldest first.
    pub changes: Vec<SettingsChange>,
}

/// The settings of the cluster as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterSettings {
    pub name: String,
    /// bin_pack, spread
    pub placement: String,
    pub keep_finished: u64,
    pub keep_finished_ms: u64,
    pub max_live_tasks: u64,
    /// Losses soon after the start, on different nodes, that end a task as crash_loop.
    pub crash_loop_losses: u32,
    /// Nodes keep CPU and memory for their free GPUs.
    pub keep_for_gpus: bool,
    /// User numbers that tenants are given: the first and the last, as `200000-265535`. Empty: the peer runs an earlier program.
    #[serde(default)]
    pub tenant_uids: String,
    pub lease_margin_ms: u64,
    pub kill_margin_ms: u64,
}

/// The rules of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassSettings {
    pub class: String,
    pub runtimes: Vec<String>,
    pub default_timeout_ms: u64,
    pub max_timeout_ms: u64,
    pub default_cpu_milli: u64,
    pub default_memory_bytes: u64,
    pub default_gpus: u32,
    pub max_gpus: u32,
    pub lease_ttl_ms: u64,
}

/// The rules of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantSettings {
    pub tenant: String,
    pub max_priority: u32,
    pub weight: u32,
    /// The user that its programs run as, where a node's operator named no other; none: it has had no task yet.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Patterns of images that its tasks may name; none: any image.
    #[serde(default)]
    pub allowed_images: Vec<String>,
    /// It shares its nodes with nobody.
    #[serde(default)]
    pub dedicated: bool,
}

/// What one request changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SettingsChange {
    /// The settings' since then.
    pub revision: u64,
    pub at_ms: u64,
    /// Of whoever asked, as a peer let it in.
    pub role: String,
    /// How it proved that: local_socket, local_user UID, admin_certificate, token ID
    pub proof: String,
    /// The peer that took the request.
    pub peer: String,
    pub settings: Vec<ChangedSetting>,
}

/// One setting before and after, as users write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangedSetting {
    pub key: String,
    pub from: String,
    pub to: String,
}
