//! The leader's side of reports: news into the log, orders out of the applied state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{GpuInfo, LeaseId, NodeId};
use stint_scheduler::{Command, Leased, State, Task};
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::leader::{Leader, NotDone};
use crate::limits;
use crate::shared::Shared;
use crate::wire::{Grant, Launching, Orders, Report, ReportAnswer};

/// Answers nodes.
pub struct Reports {
    pub leader: Arc<Leader>,
    pub shared: Arc<Shared>,
    pub clock: Arc<dyn Clock>,
}

impl Reports {
    /// Answers one report. Held while there is no news, `report.hold_ms` at most.
    pub async fn on_report(&self, report: Report) -> ReportAnswer {
        let until = Instant::now() + Duration::from_millis(report.hold_ms).min(limits::REPORT_HOLD);
        let ticket = self.leader.ticket();
        if let Err(answer) = self.receive(&report).await {
            return answer;
        }
        let recorded: Vec<LeaseId> = report.ends.iter().map(|e| e.lease).collect();
        if !recorded.is_empty() {
            let command = Command::RecordEnds { node: report.node, ends: report.ends.clone() };
            if self.leader.propose(vec![command]).await.is_err() {
                return self.not_leader();
            }
        } else {
            self.wait_for_news(&report, until).await;
        }
        // The orders renew leases: a quorum must have confirmed this leader after the report arrived (rule 1).
        if !self.leader.confirm(ticket).await {
            return self.not_leader();
        }
        self.orders(&report, recorded).unwrap_or_else(|| self.not_leader())
    }

    fn not_leader(&self) -> ReportAnswer {
        let status = self.leader.raft.status();
        ReportAnswer::NotLeader(status.leader.map(NodeId))
    }

    /// Checks who reports, registers it if it asks, and notes the contact.
    async fn receive(&self, report: &Report) -> Result<(), ReportAnswer> {
        if !self.leader.leads() {
            return Err(self.not_leader());
        }
        let view = self.shared.view();
        let Some(node) = view.state.node(report.node) else {
            return Err(ReportAnswer::Stale("this node is not a member of the cluster any more".into()));
        };
        if report.incarnation < node.incarnation {
            return Err(ReportAnswer::Stale("a newer incarnation of this node is registered".into()));
        }
        match &report.register {
            Some(register) => {
                let command = Command::RegisterNode(register.clone());
                match self.leader.propose(vec![command]).await.map(|r| r.into_iter().next()) {
                    Ok(Some(Err(rejection))) => return Err(ReportAnswer::Stale(rejection.to_string())),
                    Ok(_) => {}
                    Err(NotDone::NotLeader | NotDone::Full | NotDone::Unknown(_)) => {
                        return Err(self.not_leader());
                    }
                }
            }
            None if node.nonce != report.nonce || node.incarnation != report.incarnation => {
                return Err(ReportAnswer::Register);
            }
            None => {}
        }
        let now = self.clock.boot();
        let heard = self.leader.in_office(|contacts| {
            let new = !contacts.reachable(now).contains(&report.node);
            contacts.heard(report.node, report.nonce, now);
            new
        });
        match heard {
            None => return Err(self.not_leader()),
            Some((_, true)) => self.shared.plan.notify_one(),
            Some((_, false)) => {}
        }
        Ok(())
    }

    async fn wait_for_news(&self, report: &Report, until: Instant) {
        let changed = self.shared.orders_changed(report.node);
        loop {
            let notified = changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if has_news(&self.shared.view().state, report) || timeout_at(until, notified).await.is_err() {
                return;
            }
        }
    }

    /// Orders from the applied state; none when this peer lost its office.
    fn orders(&self, report: &Report, recorded: Vec<LeaseId>) -> Option<ReportAnswer> {
        let view = self.shared.view();
        let state = &view.state;
        let now = self.clock.boot();
        let held: BTreeMap<LeaseId, bool> = report.held.iter().copied().collect();
        let ended: BTreeSet<LeaseId> = report.ends.iter().map(|e| e.lease).collect();
        let (mut grants, mut launches, mut more) = (Vec::new(), 0, false);
        let (term, ()) = self.leader.in_office(|contacts| {
            for lease in state.leases_of(report.node) {
                let Some(task) = state.task(lease.task) else { continue };
                let Some(leased) = task.leased().filter(|l| l.incarnation == report.incarnation) else {
                    continue;
                };
                let new = !held.contains_key(&lease);
                if ended.contains(&lease) {
                    continue;
                }
                if new && launches >= limits::LAUNCHES_PER_ORDERS {
                    more = true;
                    continue;
                }
                let ttl_ms = state.settings().class(task.spec.class).lease_ttl_ms;
                if contacts.renew(state.settings(), lease, ttl_ms, now) {
                    launches += usize::from(new);
                    grants.push(grant(state, lease, task, leased, ttl_ms, new));
                }
            }
        })?;
        let (incarnation, nonce, answers) = (report.incarnation, report.nonce, report.sequence);
        Some(ReportAnswer::Orders(Orders { term, incarnation, nonce, answers, grants, recorded, more }))
    }
}

fn grant(state: &State, lease: LeaseId, task: &Task, leased: &Leased, ttl_ms: u64, new: bool) -> Grant {
    let device = |id| {
        let record = state.gpu(id)?;
        let own = record.offered_by.iter().find(|(by, _)| *by == leased.node);
        own.map(|(_, info): &(NodeId, GpuInfo)| info.clone())
    };
    let launch = || Launching {
        tenant: task.fields.tenant.clone(),
        spec: task.spec.clone(),
        runtime: leased.runtime,
        gpus: leased.gpus.iter().filter_map(device).collect(),
        index: task.fields.index,
        name: task.fields.name.clone(),
    };
    Grant {
        lease,
        ttl_ms,
        kill_margin_ms: state.settings().kill_margin_ms,
        cancelled: leased.cancelled,
        launch: new.then(launch),
    }
}

/// Whether the node should hear from the leader at once.
fn has_news(state: &State, report: &Report) -> bool {
    let held: BTreeMap<LeaseId, bool> = report.held.iter().copied().collect();
    let leases: BTreeSet<LeaseId> = state.leases_of(report.node).collect();
    let must_stop = held.iter().any(|(lease, stopping)| !leases.contains(lease) && !stopping);
    let changed = leases.iter().any(|lease| {
        let leased = state.task(lease.task).and_then(|t| t.leased());
        let current = leased.filter(|l| l.incarnation == report.incarnation);
        current.is_some_and(|l| held.get(lease).is_none_or(|stopping| l.cancelled && !stopping))
    });
    must_stop || changed
}
