//! The document of the replicated settings.

use std::collections::BTreeSet;

use stint_protocol::{Class, Runtime, Tenant, api};
use stint_scheduler::{ChangedSetting, Setting, Settings, SettingsChange, State, TenantRules};

use super::node_name;
use crate::config::replicated;
use crate::service::Principal;

/// The settings as the state has them. Of tenants, those that the caller may act for: the default one, its own, those that have
/// rules of their own, and `asked`.
pub fn settings(state: &State, caller: &Principal, asked: Option<&Tenant>) -> api::Settings {
    let (settings, audit) = (state.settings(), state.audit());
    api::Settings {
        revision: audit.revision,
        cluster: cluster(state),
        classes: Class::ALL.into_iter().map(|of| class(settings, of)).collect(),
        tenants: tenants(state, caller, asked),
        changes: audit.changes.iter().map(|made| change(state, caller, made)).collect(),
    }
}

fn cluster(state: &State) -> api::ClusterSettings {
    let settings = state.settings();
    api::ClusterSettings {
        name: settings.cluster.clone(),
        placement: settings.placement.as_str().into(),
        keep_finished: settings.keep_finished,
        keep_finished_ms: settings.keep_finished_ms,
        max_live_tasks: settings.max_live_tasks,
        lease_margin_ms: state.margin_beside_drift_ms(),
        kill_margin_ms: settings.kill_margin_ms,
        crash_loop_losses: settings.rules.crash_loop_losses,
        keep_for_gpus: settings.rules.keep_for_gpus,
        tenant_uids: settings.rules.tenant_uids.to_string(),
    }
}

fn class(settings: &Settings, class: Class) -> api::ClassSettings {
    let rules = settings.class(class);
    api::ClassSettings {
        class: class.as_str().into(),
        runtimes: rules.runtimes.iter().copied().map(Runtime::as_str).map(String::from).collect(),
        default_timeout_ms: rules.default_timeout_ms,
        max_timeout_ms: rules.max_timeout_ms,
        default_cpu_milli: rules.default_cpu_milli.into(),
        default_memory_bytes: rules.default_memory_bytes,
        default_gpus: rules.default_gpus,
        max_gpus: rules.max_gpus,
        lease_ttl_ms: rules.lease_ttl_ms,
    }
}

fn tenants(state: &State, caller: &Principal, asked: Option<&Tenant>) -> Vec<api::TenantSettings> {
    let settings = state.settings();
    let own = settings.tenants.iter().map(|(tenant, _)| tenant.clone());
    let shown: BTreeSet<Tenant> = own
        .chain([Tenant::default_tenant(), caller.tenant.clone()])
        .chain(asked.cloned())
        .filter(|of| caller.sees(of))
        .collect();
    let rules = |of: Tenant| {
        let TenantRules { max_priority, weight, images, dedicated } = settings.tenants.rules(&of);
        let (tenant, uid, max_priority) = (of.to_string(), state.tenant_uid(&of), max_priority.into());
        let allowed_images = images.patterns().to_vec();
        api::TenantSettings { tenant, max_priority, weight, uid, allowed_images, dedicated }
    };
    shown.into_iter().map(rules).collect()
}

fn change(state: &State, caller: &Principal, change: &SettingsChange) -> api::SettingsChange {
    let seen = |changed: &&ChangedSetting| match &changed.to {
        Setting::Tenant(tenant, _) => caller.sees(tenant),
        _ => true,
    };
    api::SettingsChange {
        revision: change.revision,
        at_ms: change.at.0,
        role: change.by.role.clone(),
        proof: change.by.proof.clone(),
        peer: node_name(state, change.by.peer),
        settings: change.settings.iter().filter(seen).map(changed).collect(),
    }
}

fn changed(setting: &ChangedSetting) -> api::ChangedSetting {
    let (from, to) = (replicated::value(&setting.from), replicated::value(&setting.to));
    api::ChangedSetting { key: replicated::key(&setting.to), from, to }
}
