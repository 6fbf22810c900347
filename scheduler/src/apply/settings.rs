//! Changes of the replicated settings.

use std::sync::Arc;

use stint_protocol::Class;

use crate::command::{Change, Rejection, UpdateSettings};
use crate::settings::{ChangedSetting, Setting, Settings, drift_ms};
use crate::state::State;

/// Gives settings other values, all or none. What has its value already is no change; a command that changes nothing
/// makes no new revision.
pub(super) fn update(
    state: &mut State,
    update: UpdateSettings,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let UpdateSettings { to, if_revision, by } = update;
    let mut settings = Settings::clone(&state.settings);
    let mut changed = Vec::new();
    for to in to {
        let from = to.current(&settings);
        if from != to {
            to.put(&mut settings);
            changed.push(ChangedSetting { from, to });
        }
    }
    let found = state.audit.revision;
    // A repetition of the change that made this revision is not refused: its first answer may have been lost.
    let repeated = |expected| changed.is_empty() && state.audit.last_was(expected, &by);
    if let Some(expected) = if_revision.filter(|expected| *expected != found && !repeated(*expected)) {
        return Err(Rejection::SettingsMoved { expected, found });
    }
    if changed.is_empty() {
        return Ok(());
    }
    let before = longest_leases(state);
    let longest = before.iter().copied().max().unwrap_or(0);
    changed.iter().try_for_each(|change| settings.check(&change.to, longest))?;
    // Every peer that may lead knows the longer lease before anybody grants it (docs/internals/leases.md#changed-length).
    settings.lease_margin_ms += drift_ms(longest.max(settings.longest_lease_ms())) - drift_ms(longest);
    state.settings = Arc::new(settings);
    // So its operator can prepare folders for a tenant before it has tasks.
    for change in &changed {
        if let Setting::Tenant(tenant, _) = &change.to {
            state.give_uid(tenant);
        }
    }
    let after = longest_leases_with(state, &before);
    let audit = Arc::make_mut(&mut state.audit);
    audit.longest_leases_ms = after;
    audit.note(state.time, by, changed);
    changes.push(Change::SettingsChanged { revision: audit.revision });
    Ok(())
}

/// By class.
fn longest_leases(state: &State) -> Vec<u64> {
    Class::ALL.into_iter().map(|class| state.longest_lease_ms(class)).collect()
}

/// By class, with what they were before.
fn longest_leases_with(state: &State, before: &[u64]) -> Vec<u64> {
    longest_leases(state).into_iter().zip(before).map(|(now, before)| now.max(*before)).collect()
}
