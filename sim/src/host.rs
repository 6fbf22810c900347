//! The node's side of a simulated machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use stint_executor::{
    Host, HostHealth, Launch, LogChunk, LogError, LogFuture, LogStream, RunningAttempt, Sandbox, StopReason,
};
use stint_node::clock::Clock;
use stint_protocol::{Allowance, AttemptEnd, BootMs, LeaseId, NodeRules, Runtime};
use stint_slurm_bridge::Bridge;

use crate::clock::MachineClock;
use crate::machine::{Attempt, Call, Machine, Phase};
use crate::oracle::Oracle;
use crate::slurm::SlurmWorld;

/// What a simulated program writes.
pub fn output(lease: LeaseId) -> Vec<u8> {
    format!("this is attempt {} of task {}\n", lease.attempt, lease.task).into_bytes()
}

impl Host for Machine {
    fn start(&self, launch: Launch) {
        self.inner().call(Call::Start(launch));
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        let mut inner = self.inner();
        for (lease, deadline) in renewals {
            inner.call(Call::Renew(lease, deadline));
        }
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        self.inner().call(Call::Stop(lease, reason));
    }

    fn acknowledge(&self, leases: Vec<LeaseId>) {
        let mut inner = self.inner();
        for lease in leases {
            inner.ends.remove(&lease);
        }
    }

    fn running(&self) -> Vec<RunningAttempt> {
        let inner = self.inner();
        let one = |(lease, attempt): (&LeaseId, &Attempt)| RunningAttempt {
            lease: *lease,
            started: !matches!(attempt.phase, Phase::Starting { .. }),
            stopping: inner.watchdog.stopping(*lease).is_some(),
            deadline: inner.watchdog.deadline(*lease).unwrap_or_default(),
        };
        let waits = |launch: &Launch| RunningAttempt {
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
        HostHealth {
            sandbox: Sandbox::PidNamespace,
            runtimes,
            allows,
            rules: NodeRules::open(),
            accounted,
            problems: vec![],
        }
    }
}

/// The real bridge with a machine beside it, watched: the oracle and the simulated Slurm are told what it is given and
/// what it says.
pub struct Watched {
    pub bridge: Bridge,
    pub slurm: SlurmWorld,
    pub clock: Arc<MachineClock>,
    pub oracle: Oracle,
}

impl Watched {
    /// Until when a lease was given, by the world's time.
    fn given(&self, lease: LeaseId, deadline: BootMs) {
        let now = self.clock.boot();
        let (left, over) =
            (self.clock.in_world_ms(deadline.since(now)), self.clock.in_world_ms(now.since(deadline)));
        let left_ms = left as i64 - over as i64;
        self.oracle.on_given(lease, left_ms);
        self.slurm.given(lease, left_ms);
    }

    fn is_slurms(&self, lease: LeaseId) -> bool {
        self.bridge.knows(lease)
    }
}

impl Host for Watched {
    fn start(&self, launch: Launch) {
        if launch.runtime == Runtime::Slurm {
            self.given(launch.lease, launch.deadline);
        }
        self.bridge.start(launch);
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        for (lease, deadline) in renewals.iter().filter(|(lease, _)| self.is_slurms(*lease)) {
            self.given(*lease, *deadline);
        }
        self.bridge.renew(renewals);
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        self.bridge.stop(lease, reason);
    }

    fn acknowledge(&self, leases: Vec<LeaseId>) {
        self.bridge.acknowledge(leases);
    }

    fn running(&self) -> Vec<RunningAttempt> {
        self.bridge.running()
    }

    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        let ends = self.bridge.unacknowledged();
        for end in ends.iter().filter(|end| self.is_slurms(end.lease)) {
            self.slurm.told_ended(end.lease, &end.kind);
        }
        ends
    }

    fn read_log(&self, lease: LeaseId, stream: LogStream, offset: u64, max: usize) -> LogFuture {
        self.bridge.read_log(lease, stream, offset, max)
    }

    fn health(&self) -> HostHealth {
        self.bridge.health()
    }
}
