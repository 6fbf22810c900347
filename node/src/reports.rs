//! The leader's side of reports: drives a `ReportSession` for each from this peer's log, clock and quorum.

use std::sync::Arc;
use std::time::Duration;

use stint_protocol::NodeId;
use tokio::time::{Instant, timeout_at};

pub mod session;

use self::session::{ReportSession, Step};
use crate::applied_state::AppliedState;
use crate::leader::Leader;
use crate::wire::{Report, ReportAnswer};

/// Answers nodes.
pub struct Reports {
    pub leader: Arc<Leader>,
    pub shared: Arc<AppliedState>,
}

impl Reports {
    /// Answers one report. Held while there is no news, `report.hold_ms` at most.
    pub async fn on_report(&self, report: Report) -> ReportAnswer {
        let leader = &self.leader;
        let (mut session, mut step) = leader.with(|core, view| ReportSession::begin(report, core, view));
        let until = Instant::now() + Duration::from_millis(session.hold_ms());
        loop {
            step = match step {
                Step::Propose(commands) => {
                    let fate = leader.propose(commands).await;
                    leader.with(|core, view| session.proposed(fate, core, view))
                }
                Step::Plan => {
                    self.shared.plan.notify_one();
                    leader.with(|_, view| session.next_step(view))
                }
                Step::Hold => self.news(&mut session, until).await,
                Step::AskQuorum(question) => {
                    leader.ask_quorum(question).await;
                    leader.with(|core, view| session.confirm(core, view))
                }
                Step::AwaitQuorum(question) => {
                    leader.quorum_answered(question).await;
                    leader.with(|core, view| session.confirm(core, view))
                }
                Step::Answer(answer) => return answer,
                Step::NotLeader => return self.not_leader(),
            };
        }
    }

    /// Waits until there is news for the node, or the report was held for long enough.
    async fn news(&self, session: &mut ReportSession, until: Instant) -> Step {
        let changed = self.shared.orders_changed(session.report().node);
        loop {
            // Before the look: what changes after it is heard of.
            let notified = changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(step) = self.leader.with(|core, view| session.check_news(core, view)) {
                return step;
            }
            if timeout_at(until, notified).await.is_err() {
                return self.leader.with(|core, view| session.confirm(core, view));
            }
        }
    }

    fn not_leader(&self) -> ReportAnswer {
        let status = self.leader.raft.status();
        ReportAnswer::NotLeader(status.leader.map(NodeId))
    }
}
