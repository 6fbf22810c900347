//! The leader's side of reports: news into the log, orders out of the applied state.

use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{LeaseId, NodeId};
use stint_scheduler::Command;
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::leader::{Leader, NotDone};
use crate::limits;
use crate::mutations::{Mutation, planted};
use crate::orders::{self, Reporter};
use crate::shared::Shared;
use crate::wire::{Report, ReportAnswer};

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
            let ends = orders::ends(&self.shared.view().state, &report);
            let command = Command::RecordEnds { node: report.node, ends };
            if self.leader.propose(vec![command]).await.is_err() {
                return self.not_leader();
            }
        } else {
            self.wait_for_news(&report, until).await;
        }
        // The orders renew leases: a quorum must have confirmed this leader after the report arrived
        // (docs/internals/leases.md#quorum-after-report).
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
        match orders::reporter(&self.shared.view().state, report) {
            Reporter::Known => {}
            Reporter::Turned(answer) => return Err(answer),
            Reporter::Registers(command) => {
                let mut commands = vec![command];
                if planted(Mutation::ReleaseOnNewIncarnation) {
                    commands.push(Command::ExpireLeases(self.of_earlier_lives(report)));
                }
                match self.leader.propose(commands).await.map(|r| r.into_iter().next()) {
                    Ok(Some(Err(rejection))) => return Err(ReportAnswer::Stale(rejection.to_string())),
                    Ok(_) => {}
                    Err(NotDone::NotLeader | NotDone::Full | NotDone::Refused(_) | NotDone::Unknown(_)) => {
                        return Err(self.not_leader());
                    }
                }
            }
        }
        let now = self.clock.boot();
        let heard = self.leader.in_office(|contacts| {
            let new = !contacts.reaches(report.node, now);
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

    /// Leases that another incarnation of the node holds.
    fn of_earlier_lives(&self, report: &Report) -> Vec<LeaseId> {
        let state = self.shared.view().state;
        let earlier = |lease: &LeaseId| {
            let leased = state.task(lease.task).and_then(|task| task.leased());
            leased.is_some_and(|leased| leased.incarnation < report.incarnation)
        };
        state.leases_of(report.node).filter(earlier).collect()
    }

    async fn wait_for_news(&self, report: &Report, until: Instant) {
        let changed = self.shared.orders_changed(report.node);
        loop {
            let notified = changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let (state, now) = (self.shared.view().state, self.clock.boot());
            let news = self.leader.in_office(|contacts| orders::has_news(&state, contacts, now, report));
            if news.is_none_or(|(_, news)| news) || timeout_at(until, notified).await.is_err() {
                return;
            }
        }
    }

    /// Orders from the applied state; none when this peer lost its office.
    fn orders(&self, report: &Report, recorded: Vec<LeaseId>) -> Option<ReportAnswer> {
        let view = self.shared.view();
        let now = self.clock.boot();
        let made = self.leader.hold(|office| orders::make(&view.state, office, now, report, recorded));
        made.map(ReportAnswer::Orders)
    }
}
