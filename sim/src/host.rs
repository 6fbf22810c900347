//! The node's side of a simulated machine.

use std::collections::BTreeMap;

use stint_executor::{
    Held, Host, HostHealth, Launch, LogChunk, LogError, LogFuture, LogStream, Sandbox, StopReason,
};
use stint_node::clock::Clock;
use stint_protocol::{Allowance, AttemptEnd, BootMs, LeaseId, Runtime};

use crate::machine::{Attempt, Machine, Phase};

/// What a simulated program writes.
pub fn output(lease: LeaseId) -> Vec<u8> {
    format!("this is attempt {} of task {}\n", lease.attempt, lease.task).into_bytes()
}

impl Host for Machine {
    fn start(&self, launch: Launch) {
        let mut inner = self.inner();
        let lease = launch.lease;
        let known = inner.attempts.contains_key(&lease) || inner.waiting.contains_key(&lease);
        if !known && !inner.ended.contains(&lease) {
            inner.launch(launch);
        }
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        let mut inner = self.inner();
        let now = inner.parts.clock.boot();
        for (lease, deadline) in renewals {
            inner.watchdog.renew(lease, deadline);
            if inner.watchdog.deadline(lease) == Some(deadline) {
                inner.given(lease, deadline, now);
            }
            if let Some(launch) = inner.waiting.get_mut(&lease) {
                launch.deadline = launch.deadline.max(deadline);
            }
        }
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        let mut inner = self.inner();
        inner.watchdog.stop(lease, reason.into());
        inner.forget_waiting(lease, reason);
    }

    fn acknowledge(&self, leases: Vec<LeaseId>) {
        let mut inner = self.inner();
        for lease in leases {
            inner.ends.remove(&lease);
        }
    }

    fn held(&self) -> Vec<Held> {
        let inner = self.inner();
        let one = |(lease, attempt): (&LeaseId, &Attempt)| Held {
            lease: *lease,
            started: !matches!(attempt.phase, Phase::Starting { .. }),
            stopping: inner.watchdog.stopping(*lease).is_some(),
            deadline: inner.watchdog.deadline(*lease).unwrap_or_default(),
        };
        let waits = |launch: &Launch| Held {
            lease: launch.lease,
            started: false,
            stopping: false,
            deadline: launch.deadline,
        };
        inner.attempts.iter().map(one).chain(inner.waiting.values().map(waits)).collect()
    }

    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        self.inner().ends.values().cloned().collect()
    }

    fn read_log(&self, lease: LeaseId, _: LogStream, offset: u64, max: usize) -> LogFuture {
        let inner = self.inner();
        let complete = inner.ended.contains(&lease);
        let known = complete || inner.attempts.contains_key(&lease);
        Box::pin(async move {
            if !known {
                return Err(LogError::NotFound(lease));
            }
            let all = output(lease);
            let start = all.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            let bytes = all[start..all.len().min(start.saturating_add(max))].to_vec();
            Ok(LogChunk { next_offset: (start + bytes.len()) as u64, bytes, complete })
        })
    }

    fn health(&self) -> HostHealth {
        let runtimes = BTreeMap::from([(Runtime::Mock, Ok(()))]);
        let accounted = self.inner().accounted;
        let allows = vec![Allowance::everything(Runtime::Mock)];
        HostHealth { sandbox: Sandbox::PidNamespace, runtimes, allows, accounted, problems: vec![] }
    }
}
