//! What the node learns from a watchdog's greeting: at its own start, and when the connection was made anew.

use std::collections::VecDeque;
use std::sync::Arc;

use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId};

use super::attempt::AttemptState;
use super::state::ClientState;
use crate::clock::boot_now;
use crate::host::{AttemptStage, Executing, HostEvent};
use crate::logs;
use crate::shim_api::wire::{Hello, ToShim, WatchedAttempt};
use crate::stages::{self, StageRecord};

impl ClientState {
    /// Takes over what the watchdog of an earlier node holds. No events: the node asks.
    pub fn adopt(&self, hello: &Hello, accounted: bool) {
        let folders = logs::ended_folders(&self.layout);
        let mut state = self.lock();
        state.accounted = accounted;
        for found in &hello.running {
            let lease = found.running.lease;
            let record = self.what_is_left(lease);
            let mut attempt = AttemptState::adopted(found, record.is_some());
            if attempt.labels.is_none() {
                attempt.labels = record.and_then(|record| record.labels).map(Arc::new);
            }
            state.running.insert(lease, attempt);
        }
        for end in &hello.ended {
            if let Some(record) = self.what_is_left(end.lease) {
                let labels = record.labels.map(Arc::new);
                let attempt = AttemptState::new(BootMs::default(), AttemptStage::Finishing, labels);
                state.running.insert(end.lease, AttemptState { finishes: true, ..attempt });
                let _ = self.finisher.send(end.clone());
            } else {
                let written = stages::finished(&self.layout, end.lease);
                state.ended.insert(end.lease, written.unwrap_or_else(|| end.clone()));
            }
        }
        self.secrets.sweep(|lease| state.running.contains_key(&lease));
        let kept: VecDeque<_> = folders
            .into_iter()
            .filter(|(_, l)| !state.running.contains_key(l) && !state.ended.contains_key(l))
            .collect();
        // Where something may still run that nobody knows of, its files are not taken from under it.
        state.to_clear = kept.iter().filter(|_| accounted).map(|(_, lease)| *lease).collect();
        state.kept = kept;
        state.hello = Some(hello.clone());
    }

    /// What is left to do after the end of an attempt of an earlier node; what its output is masked with is found again.
    fn what_is_left(&self, lease: LeaseId) -> Option<StageRecord> {
        let record = StageRecord::open(&self.layout, lease)?;
        if record.secrets {
            self.set_masks(lease, self.secrets.masks(lease));
        }
        Some(record)
    }

    /// Compares what is known with what a newly connected watchdog says; gives what has happened meanwhile.
    pub fn reconcile(&self, hello: &Hello) -> Vec<HostEvent> {
        let (mut state, mut events) = (self.lock(), Vec::new());
        for WatchedAttempt { running, sandbox_dir, .. } in &hello.running {
            if let Some(attempt) = state.running.get_mut(&running.lease) {
                attempt.sandbox_dir = *sandbox_dir;
                if running.stopping {
                    attempt.note_stopping();
                }
                if running.started && !attempt.stage.has_started() && !running.stopping {
                    events.push(HostEvent::Started { lease: running.lease, at: boot_now() });
                }
            }
        }
        for end in &hello.ended {
            if state.running.contains_key(&end.lease) {
                events.push(HostEvent::Ended(end.clone()));
            } else if !state.ended.contains_key(&end.lease) {
                // Acknowledged before, but the watchdog did not hear it.
                state.outbox.push(ToShim::Acknowledge(end.lease));
            }
        }
        let known = |lease: &LeaseId| {
            hello.running.iter().any(|found| found.running.lease == *lease)
                || hello.ended.iter().any(|e| e.lease == *lease)
        };
        let sent = state.running.iter().filter(|(_, attempt)| attempt.stage.is_with(Executing::Watchdog));
        for (lease, _) in sent.filter(|(lease, _)| !known(lease)) {
            // The watchdog writes its journal before it clones, so an attempt it does not know never ran.
            let message = "the watchdog ended before it could start it".to_owned();
            events.push(HostEvent::Ended(AttemptEnd::new(*lease, EndKind::Lost, message, 0)));
        }
        state.hello = Some(hello.clone());
        state.link_problem = None;
        events
    }
}
