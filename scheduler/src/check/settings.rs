//! The invariants of the settings and of what is remembered of their changes.

use stint_protocol::{Class, limits};

use crate::settings::TenantRules;
use crate::state::State;

/// Each class has its rules, changes stand in the order of their revisions up to the last, and no lease is longer than
/// the longest that a new leader waits for.
pub(super) fn check(state: &State) -> Result<(), String> {
    let (settings, audit) = (&state.settings, &state.audit);
    if settings.classes.len() != Class::ALL.len() {
        return Err(format!("rules of {} classes", settings.classes.len()));
    }
    if settings.tenants.iter().any(|(tenant, rules)| *rules == TenantRules::default_for(tenant)) {
        return Err("rules are kept that every tenant has".into());
    }
    if settings.tenants.iter().any(|(_, rules)| rules.images.check().is_err()) {
        return Err("a tenant has patterns of images that are none".into());
    }
    if settings.tenants.len() > limits::TENANTS_WITH_RULES {
        return Err(format!("rules of {} tenants", settings.tenants.len()));
    }
    let kept = audit.changes.len() as u64;
    if kept != audit.revision.min(limits::SETTINGS_CHANGES as u64) {
        return Err(format!("{kept} changes of settings are kept at revision {}", audit.revision));
    }
    let expected = audit.revision - kept + 1..=audit.revision;
    if !audit.changes.iter().map(|change| change.revision).eq(expected) {
        return Err(format!("the changes of settings do not lead to revision {}", audit.revision));
    }
    for (class, longest) in Class::ALL.into_iter().zip(&audit.longest_leases_ms) {
        let ttl = settings.class(class).lease_ttl_ms;
        if ttl > *longest {
            return Err(format!("leases of {class} last {ttl} ms, and the longest ever {longest} ms"));
        }
    }
    match audit.longest_leases_ms.len() {
        0 if audit.revision == 0 => Ok(()),
        known if audit.revision > 0 && known == Class::ALL.len() => Ok(()),
        known => Err(format!("longest leases of {known} classes at revision {}", audit.revision)),
    }
}
