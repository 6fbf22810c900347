//! What is told about attempts: a line for each change of state, all with the same fields, and counts.

use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{EndKind, LeaseId};
use tracing::Level;

use super::state::{ClientState, LabelledEvent};
use crate::host::{AttemptLabels, HostEvent, Launch, StopReason};
use crate::observer::Observer;

/// Target of the lines that tell what becomes of each task. There may be thousands a second.
pub const TARGET: &str = "stint::task";

/// A line about trouble with an attempt, which it names as those of `TARGET` do.
macro_rules! trouble {
    ($level:ident, $shared:expr, $lease:expr, $($rest:tt)+) => {{
        let labels = $shared.labels($lease);
        let tenant = labels.as_ref().map(|labels| labels.tenant.as_str());
        let class = labels.as_ref().map(|labels| labels.class.as_str());
        tracing::$level!(task = %$lease.task, attempt = $lease.attempt, tenant, class, $($rest)+)
    }};
}
pub(crate) use trouble;

/// One of many lines about an attempt.
macro_rules! step {
    ($labels:expr, $lease:expr, $($rest:tt)+) => {{
        let labels: Option<&AttemptLabels> = $labels;
        let tenant = labels.map(|labels| labels.tenant.as_str());
        let class = labels.map(|labels| labels.class.as_str());
        tracing::debug!(target: TARGET, task = %$lease.task, attempt = $lease.attempt, tenant, class, $($rest)+)
    }};
}

fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// The node was told to run it.
pub fn leased(launch: &Launch) {
    if is_on() {
        let (runtime, image) = (launch.runtime.as_str(), launch.spec.image.as_deref());
        let labels = launch.labels();
        step!(Some(&labels), launch.lease, runtime, image, gpus = launch.gpus.len(), "leased to this node");
    }
}

/// Its image, files and secrets are fetched, its devices looked at.
pub fn preparing(launch: &Launch) {
    if is_on() {
        let image = launch.spec.image.as_deref();
        let inputs = launch.spec.files.as_ref().map_or(0, |files| files.inputs.len());
        let labels = launch.labels();
        step!(Some(&labels), launch.lease, image, inputs, "preparing");
    }
}

/// All of that is there.
pub fn prepared(launch: &Launch, took: Duration) {
    if is_on() {
        let labels = launch.labels();
        step!(Some(&labels), launch.lease, took_ms = took.as_millis() as u64, "prepared");
    }
}

/// Who looks on, and what is told of an attempt that is known by its lease alone.
impl ClientState {
    /// Tells whoever looks on.
    pub fn observe(&self, tell: impl FnOnce(&dyn Observer)) {
        self.settings.observe(tell);
    }

    /// Whose an attempt is that has not ended; none: nobody remembers.
    pub fn labels(&self, lease: LeaseId) -> Option<Arc<AttemptLabels>> {
        self.lock().running.get(&lease)?.labels.clone()
    }

    /// It is asked to end.
    pub fn log_stop(&self, lease: LeaseId, reason: StopReason) {
        if is_on() {
            let labels = self.labels(lease);
            step!(labels.as_deref(), lease, ?reason, "stopping");
        }
    }

    /// What happened, and what it took to pull the image.
    pub fn log_event(&self, LabelledEvent { event, labels }: &LabelledEvent) {
        // A pull is over when the program starts, or when the attempt ends without that: it is counted once.
        let (lease, pull_is_over) = match event {
            HostEvent::Started { lease, .. } => (*lease, true),
            HostEvent::Ended(end) => (end.lease, end.run_ms == 0),
            HostEvent::DevicesChanged | HostEvent::RuntimesChanged => return,
        };
        let pull = || self.runtimes.values().find_map(|runtime| runtime.image_pull(lease));
        if let Some((end, took)) = pull_is_over.then(pull).flatten() {
            self.observe(|observer| observer.pulled(end, took));
        }
        if is_on() {
            log_step(lease, event, labels.as_deref());
        }
    }
}

fn log_step(lease: LeaseId, event: &HostEvent, labels: Option<&AttemptLabels>) {
    match event {
        HostEvent::Ended(end) => {
            let (exit_code, signal) = match end.kind {
                EndKind::Exited(code) => (Some(code), None),
                EndKind::Signalled(signal) => (None, Some(signal)),
                _ => (None, None),
            };
            let (kind, run_ms) = (end.kind.as_str(), end.run_ms);
            step!(labels, lease, kind, exit_code, signal, run_ms, reason = end.message, "ended");
        }
        _ => {
            let runtime = labels.map(|labels| labels.runtime.as_str());
            let image = labels.and_then(|labels| labels.image.as_deref());
            step!(labels, lease, runtime, image, "started");
        }
    }
}
