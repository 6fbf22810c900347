//! How one report is answered: who reports, what it brings goes into the log, it is held while there is no news, a
//! quorum confirms the leader, and the orders are made. Pure: events come in with the leader's core and what the peer
//! knows of itself; what is to be done next comes out. The leader's side of reports and the fast simulation drive it.

use stint_protocol::{BootMs, LeaseId};
use stint_scheduler::{Command, State};

use crate::leader::core::{LeaderCore, ProposalResult};
use crate::leader::quorum::{Confirmation, Ticket};
use crate::leadership::PeerView;
use crate::limits;
use crate::mutations::{Mutation, planted};
use crate::orders::{self, Reporter};
use crate::wire::{Report, ReportAnswer};

/// What is to be done next for a report.
#[derive(Debug)]
pub enum Step {
    /// Propose this, then `proposed`.
    Propose(Vec<Command>),
    /// The node can be given work again: have the leader look, then `go_on`.
    Plan,
    /// Listen for changes of the node's orders, then `look`, and again at each of them; `confirm` when it was held for
    /// long enough.
    Hold,
    /// Ask the quorum, then `confirm`.
    AskQuorum(Ticket),
    /// Somebody asks the quorum: wait for the answer, then `confirm`.
    AwaitQuorum(Ticket),
    Answer(ReportAnswer),
    /// Answer who leads, as far as this peer knows.
    NotLeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Registering,
    /// It counts as heard of.
    Heard,
    Ending,
    Holding,
    /// `waits_for`: the question to the quorum.
    Confirming {
        waits_for: Option<Ticket>,
    },
}

/// One report that is being answered.
pub struct ReportSession {
    report: Report,
    /// Drawn when the report arrived: orders renew leases only by a confirmation that was asked for later.
    ticket: Ticket,
    /// By the leader's clock: leases are renewed from here on.
    arrived: BootMs,
    hold_ms: u64,
    stage: Stage,
}

impl ReportSession {
    /// A report arrived.
    pub fn begin<W>(report: Report, core: &mut LeaderCore<W>, view: &PeerView<'_>) -> (Self, Step) {
        let hold_ms = report.hold_ms.min(longest_hold_ms(view.state));
        let (ticket, arrived) = (core.ticket(), view.now);
        let mut session = Self { report, ticket, arrived, hold_ms, stage: Stage::Registering };
        let step = session.receive(core, view);
        (session, step)
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    /// How long the report may be held, in milliseconds from when it arrived.
    pub fn hold_ms(&self) -> u64 {
        self.hold_ms
    }

    /// Whether it is held until there is news.
    pub fn is_parked(&self) -> bool {
        self.stage == Stage::Holding
    }

    /// Whether it waits for the quorum.
    pub fn awaits_quorum(&self) -> bool {
        matches!(self.stage, Stage::Confirming { .. })
    }

    /// Checks who reports, and registers it if it asks.
    fn receive<W>(&mut self, core: &mut LeaderCore<W>, view: &PeerView<'_>) -> Step {
        if core.leadership(view).is_none() {
            return Step::NotLeader;
        }
        match orders::reporter(view.state, &self.report) {
            Reporter::Known => self.heard(core, view),
            Reporter::Turned(answer) => Step::Answer(answer),
            Reporter::Registers(command) => {
                let mut commands = vec![command];
                if planted(Mutation::ReleaseOnNewIncarnation) {
                    commands.push(Command::ExpireLeases(of_earlier_lives(view.state, &self.report)));
                }
                Step::Propose(commands)
            }
        }
    }

    /// What became of what it proposed.
    pub fn proposed<W>(
        &mut self,
        fate: ProposalResult,
        core: &mut LeaderCore<W>,
        view: &PeerView<'_>,
    ) -> Step {
        match (self.stage, fate.map(|results| results.into_iter().next())) {
            // Also when its fate is not known: the node reports again, and to register or to record an end twice
            // changes nothing.
            (_, Err(_)) => Step::NotLeader,
            (Stage::Registering, Ok(Some(Err(rejection)))) => {
                Step::Answer(ReportAnswer::Stale(rejection.to_string()))
            }
            (Stage::Registering, Ok(_)) => self.heard(core, view),
            (_, Ok(_)) => self.confirm(core, view),
        }
    }

    /// Notes the contact: registering counts as one (docs/internals/leases.md#contact).
    fn heard<W>(&mut self, core: &mut LeaderCore<W>, view: &PeerView<'_>) -> Step {
        let Some(leadership) = core.leadership(view) else { return Step::NotLeader };
        let new = !leadership.lease_clock.reaches(self.report.node, view.now);
        leadership.lease_clock.heard(self.report.node, self.report.nonce, view.now);
        leadership.not_begun.note(self.report.node, self.report.not_begun.as_ref());
        self.stage = Stage::Heard;
        if new { Step::Plan } else { self.next_step(view) }
    }

    /// Records what ended, or waits for news.
    pub fn next_step(&mut self, view: &PeerView<'_>) -> Step {
        if self.report.ends.is_empty() {
            self.stage = Stage::Holding;
            return Step::Hold;
        }
        self.stage = Stage::Ending;
        let (node, ends) = (self.report.node, orders::ends(view.state, &self.report));
        Step::Propose(vec![Command::RecordEnds { node, ends }])
    }

    /// The node's orders may have changed: what to do if they have, and none while there is no news.
    pub fn check_news<W>(&mut self, core: &mut LeaderCore<W>, view: &PeerView<'_>) -> Option<Step> {
        let news = core.leadership(view).is_none_or(|leadership| {
            orders::has_news(view.state, &leadership.lease_clock, view.now, &self.report)
        });
        news.then(|| self.confirm(core, view))
    }

    /// Answers with orders once a quorum has confirmed this leader after the report arrived: they renew leases
    /// (docs/internals/leases.md#quorum-after-report).
    pub fn confirm<W>(&mut self, core: &mut LeaderCore<W>, view: &PeerView<'_>) -> Step {
        let waited_for = match self.stage {
            Stage::Confirming { waits_for } => waits_for,
            _ => None,
        };
        let (waits_for, step) = match core.confirm(self.ticket, waited_for) {
            Confirmation::Given => (None, self.orders(core, view)),
            Confirmation::Denied => (None, Step::NotLeader),
            Confirmation::Ask(question) => (Some(question), Step::AskQuorum(question)),
            Confirmation::Wait(question) => (Some(question), Step::AwaitQuorum(question)),
        };
        self.stage = Stage::Confirming { waits_for };
        step
    }

    /// Orders from the applied state, unless this peer leads no more.
    fn orders<W>(&self, core: &mut LeaderCore<W>, view: &PeerView<'_>) -> Step {
        let Some(leadership) = core.leadership(view) else { return Step::NotLeader };
        // All of them, also those that were stale and recorded nothing: the node would name them in every report for
        // ever. They went through the log before this stage.
        let recorded = self.report.ends.iter().map(|end| end.lease).collect();
        let orders = orders::make(view.state, leadership, (self.arrived, view.now), &self.report, recorded);
        Step::Answer(ReportAnswer::Orders(orders))
    }
}

/// A lease counts from when the report was sent whose answer grants it. A node that has none yet does not know how short they
/// are: what is held for too long would leave little of the first one. So it is a third of what the shortest has before its
/// watchdog begins to stop an attempt that uses half of it for that, as on the node.
fn longest_hold_ms(state: &State) -> u64 {
    let settings = state.settings();
    let open_ms = (settings.shortest_lease_of_a_class_ms() / 2).saturating_sub(settings.kill_margin_ms);
    (open_ms / 3).clamp(limits::LEAST_HOLD_MS, limits::REPORT_HOLD.as_millis() as u64)
}

/// Leases that another incarnation of the node holds.
fn of_earlier_lives(state: &State, report: &Report) -> Vec<LeaseId> {
    let earlier = |lease: &LeaseId| {
        let leased = state.task(lease.task).and_then(|task| task.leased());
        leased.is_some_and(|leased| leased.incarnation < report.incarnation)
    };
    state.leases_of(report.node).filter(earlier).collect()
}

#[cfg(test)]
mod tests;
