//! Who changed which settings and when, and how long leases ever were.

use std::collections::VecDeque;

use minicbor::{Decode, Encode};
use stint_protocol::{Class, NodeId, TimeMs, limits};

use super::{Setting, Settings};

/// Who asked for a change: there are no names of users yet, so it is told as what it was let in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangedBy {
    #[n(0)]
    pub role: String,
    /// How it proved that.
    #[n(1)]
    pub proof: String,
    /// The peer that took the request.
    #[n(2)]
    pub peer: NodeId,
}

/// One setting, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangedSetting {
    #[n(0)]
    pub from: Setting,
    #[n(1)]
    pub to: Setting,
}

/// What one command changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SettingsChange {
    /// Of the settings since this change.
    #[n(0)]
    pub revision: u64,
    #[n(1)]
    pub at: TimeMs,
    #[n(2)]
    pub by: ChangedBy,
    #[n(3)]
    pub settings: Vec<ChangedSetting>,
}

/// What is remembered of changes. Nothing is until the first one, as in states of earlier versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SettingsAudit {
    /// Of the settings: 0 as the cluster was founded, one more with each change.
    #[n(0)]
    pub revision: u64,
    /// The longest lease that each class ever had, in milliseconds, in the order of `Class::ALL`.
    #[n(1)]
    pub(crate) longest_leases_ms: Vec<u64>,
    /// The last changes, oldest first.
    #[n(2)]
    pub changes: VecDeque<SettingsChange>,
}

impl SettingsAudit {
    /// The longest lease that any attempt of a class may still have: granted under these settings, or earlier ones.
    pub(crate) fn longest_lease_ms(&self, settings: &Settings, class: Class) -> u64 {
        let ever = self.longest_leases_ms.get(class as usize).copied().unwrap_or(0);
        ever.max(settings.class(class).lease_ttl_ms)
    }

    /// Whether the last change is this caller's, made on that revision.
    pub(crate) fn last_was(&self, on: u64, by: &ChangedBy) -> bool {
        self.changes.back().is_some_and(|last| on.checked_add(1) == Some(last.revision) && last.by == *by)
    }

    /// Notes a change; the oldest is forgotten for it when there are too many.
    pub(crate) fn note(&mut self, at: TimeMs, by: ChangedBy, settings: Vec<ChangedSetting>) {
        self.revision += 1;
        if self.changes.len() >= limits::SETTINGS_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(SettingsChange { revision: self.revision, at, by, settings });
    }
}
