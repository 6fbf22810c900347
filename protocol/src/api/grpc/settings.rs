//! The settings as `stint.v1` carries them, both ways.

use super::all;
use crate::api::{ChangedSetting, ClassSettings, ClusterSettings, Settings, SettingsChange, TenantSettings};
use crate::v1;

impl From<v1::Settings> for Settings {
    fn from(message: v1::Settings) -> Self {
        let v1::Settings { revision, cluster, classes, changes, tenants } = message;
        let classes = all(classes);
        let changes = all(changes);
        let tenants = all(tenants);
        let cluster = cluster.unwrap_or_default().into();
        Self { revision, cluster, classes, tenants, changes }
    }
}

impl From<Settings> for v1::Settings {
    fn from(document: Settings) -> Self {
        let Settings { revision, cluster, classes, tenants, changes } = document;
        let classes = all(classes);
        let changes = all(changes);
        let tenants = all(tenants);
        Self { revision, cluster: Some(cluster.into()), classes, changes, tenants }
    }
}

impl From<v1::ClusterSettings> for ClusterSettings {
    fn from(message: v1::ClusterSettings) -> Self {
        let v1::ClusterSettings {
            name,
            placement,
            keep_finished,
            keep_finished_ms,
            max_live_tasks,
            lease_margin_ms,
            kill_margin_ms,
            crash_loop_losses,
            keep_for_gpus,
            tenant_uids,
        } = message;
        Self {
            name,
            placement,
            keep_finished,
            keep_finished_ms,
            max_live_tasks,
            lease_margin_ms,
            kill_margin_ms,
            crash_loop_losses,
            keep_for_gpus,
            tenant_uids,
        }
    }
}

impl From<ClusterSettings> for v1::ClusterSettings {
    fn from(document: ClusterSettings) -> Self {
        let ClusterSettings {
            name,
            placement,
            keep_finished,
            keep_finished_ms,
            max_live_tasks,
            lease_margin_ms,
            kill_margin_ms,
            crash_loop_losses,
            keep_for_gpus,
            tenant_uids,
        } = document;
        Self {
            name,
            placement,
            keep_finished,
            keep_finished_ms,
            max_live_tasks,
            lease_margin_ms,
            kill_margin_ms,
            crash_loop_losses,
            keep_for_gpus,
            tenant_uids,
        }
    }
}

impl From<v1::ClassSettings> for ClassSettings {
    fn from(message: v1::ClassSettings) -> Self {
        let v1::ClassSettings {
            class,
            runtimes,
            default_timeout_ms,
            max_timeout_ms,
            default_cpu_milli,
            default_memory_bytes,
            default_gpus,
            max_gpus,
            lease_ttl_ms,
        } = message;
        Self {
            class,
            runtimes,
            default_timeout_ms,
            max_timeout_ms,
            default_cpu_milli,
            default_memory_bytes,
            default_gpus,
            max_gpus,
            lease_ttl_ms,
        }
    }
}

impl From<ClassSettings> for v1::ClassSettings {
    fn from(document: ClassSettings) -> Self {
        let ClassSettings {
            class,
            runtimes,
            default_timeout_ms,
            max_timeout_ms,
            default_cpu_milli,
            default_memory_bytes,
            default_gpus,
            max_gpus,
            lease_ttl_ms,
        } = document;
        Self {
            class,
            runtimes,
            default_timeout_ms,
            max_timeout_ms,
            default_cpu_milli,
            default_memory_bytes,
            default_gpus,
            max_gpus,
            lease_ttl_ms,
        }
    }
}

impl From<v1::TenantSettings> for TenantSettings {
    fn from(message: v1::TenantSettings) -> Self {
        let v1::TenantSettings { tenant, max_priority, weight, uid, allowed_images, dedicated } = message;
        Self { tenant, max_priority, weight, uid, allowed_images, dedicated }
    }
}

impl From<TenantSettings> for v1::TenantSettings {
    fn from(document: TenantSettings) -> Self {
        let TenantSettings { tenant, max_priority, weight, uid, allowed_images, dedicated } = document;
        Self { tenant, max_priority, weight, uid, allowed_images, dedicated }
    }
}

impl From<v1::SettingsChange> for SettingsChange {
    fn from(message: v1::SettingsChange) -> Self {
        let v1::SettingsChange { revision, at_ms, role, proof, peer, settings } = message;
        let settings = all(settings);
        Self { revision, at_ms, role, proof, peer, settings }
    }
}

impl From<SettingsChange> for v1::SettingsChange {
    fn from(document: SettingsChange) -> Self {
        let SettingsChange { revision, at_ms, role, proof, peer, settings } = document;
        let settings = all(settings);
        Self { revision, at_ms, role, proof, peer, settings }
    }
}

impl From<v1::ChangedSetting> for ChangedSetting {
    fn from(message: v1::ChangedSetting) -> Self {
        let v1::ChangedSetting { key, from, to } = message;
        Self { key, from, to }
    }
}

impl From<ChangedSetting> for v1::ChangedSetting {
    fn from(document: ChangedSetting) -> Self {
        let ChangedSetting { key, from, to } = document;
        Self { key, from, to }
    }
}
