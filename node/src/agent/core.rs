//! The agent's decisions: what it reports, and what it does when it is answered. Pure: time and what the host holds
//! are handed in, what is to be done comes out. The agent's loop and the fast simulation run the same code.

use std::collections::BTreeMap;

use stint_executor::{DISK_PROBLEM, HostHealth, Launch, RunningAttempt, StopReason};
use stint_protocol::{AttemptEnd, BootMs, GpuInfo, LeaseId, QuarantinedGpu, Runtime};
use stint_scheduler::RegisterNode;

use crate::limits;
use crate::mutations::{Mutation, planted};
use crate::wire::{Grant, Launching, Orders, Report, ReportAnswer};

/// What the host is told, in this order.
#[derive(Debug)]
pub enum AgentAction {
    Acknowledge(Vec<LeaseId>),
    Renew(Vec<(LeaseId, BootMs)>),
    Stop(LeaseId, StopReason),
    Start(Launch),
}

/// How a problem of a runtime begins, in what a node says of itself.
const RUNTIME_PROBLEM: &str = "runtime ";

/// The runtimes that can be used, and what is wrong with the others.
pub fn usable_runtimes(runtimes: &BTreeMap<Runtime, Result<(), String>>) -> (Vec<Runtime>, Vec<String>) {
    let usable = runtimes.iter().filter(|(_, state)| state.is_ok()).map(|(runtime, _)| *runtime).collect();
    let problem = |(runtime, state): (&Runtime, &Result<(), String>)| {
        state.as_ref().err().map(|why| format!("{RUNTIME_PROBLEM}{runtime}: {why}"))
    };
    (usable, runtimes.iter().filter_map(problem).collect())
}

/// What is wrong with runtimes: with those that can be used but not for everything, and with those that cannot. So is a disk that
/// is nearly full.
pub fn runtime_problems(health: &HostHealth) -> Vec<String> {
    let (_, unusable) = usable_runtimes(&health.runtimes);
    health.problems.iter().filter(|problem| is_of_runtime(problem)).cloned().chain(unusable).collect()
}

fn is_of_runtime(problem: &str) -> bool {
    problem.starts_with(RUNTIME_PROBLEM) || problem.starts_with(DISK_PROBLEM)
}

/// How many of these go with one report: by number and by bytes, one at least.
fn fitting(ends: &[AttemptEnd]) -> usize {
    let mut bytes = 0;
    let fits = |end: &&AttemptEnd| {
        bytes += end.weight();
        bytes <= limits::END_BYTES_PER_REPORT
    };
    ends.iter().take(limits::ENDS_PER_REPORT).take_while(fits).count().max(ends.len().min(1))
}

/// What the agent does after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Report,
    /// Reports after a pause: there was nobody to answer, or the answer came at once and asked for nothing.
    Pause,
    /// This process may not execute any more.
    Leave,
}

/// The moment an answer came in.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The node's clock when the report that is answered was sent: leases are counted from here.
    pub sent: BootMs,
    pub now: BootMs,
    /// The node stops: nothing new starts.
    pub closing: bool,
}

/// One process of a node as an executor.
pub struct AgentCore {
    /// Who it is and what it offers, sent when the leader asks.
    offer: RegisterNode,
    /// Every device it has, those that are quarantined now as well.
    devices: Vec<GpuInfo>,
    register: bool,
    at_once: bool,
    sequence: u64,
    term: u64,
    answered: u64,
    /// How long the last report was to be held at most, in milliseconds.
    hold_ms: u64,
    windows: BTreeMap<LeaseId, Window>,
    /// Attempts whose programs have not begun, each with when a report named it first.
    unbegun: BTreeMap<LeaseId, BootMs>,
}

/// How long a lease leaves for the next report.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// What its task uses to stop, in milliseconds, where this process launched it.
    grace_ms: Option<u64>,
    /// How long after a report it runs before its watchdog begins to stop it, in milliseconds.
    open_ms: u64,
}

impl AgentCore {
    /// A process that has not reported yet.
    pub fn new(offer: RegisterNode) -> Self {
        Self {
            devices: offer.offer.gpus.clone(),
            offer,
            register: true,
            at_once: false,
            sequence: 0,
            term: 0,
            answered: 0,
            hold_ms: 0,
            windows: BTreeMap::new(),
            unbegun: BTreeMap::new(),
        }
    }

    /// Something ended: a report that is held is out of date, and the next one is answered at once.
    pub fn on_news(&mut self) {
        self.at_once = true;
    }

    /// Devices that somebody else uses now: the offer is without them, and the leader is told when that changes.
    pub fn on_devices(&mut self, quarantined: Vec<QuarantinedGpu>) {
        if self.offer.offer.quarantined == quarantined {
            return;
        }
        let is_free = |gpu: &&GpuInfo| quarantined.iter().all(|other| other.info.id != gpu.id);
        self.offer.offer.gpus = self.devices.iter().filter(is_free).cloned().collect();
        self.offer.offer.quarantined = quarantined;
        self.register = true;
    }

    /// Runtimes that can or cannot be used now, with what to do: the leader is told when that changes.
    pub fn on_health(&mut self, health: &HostHealth) {
        let (usable, _) = usable_runtimes(&health.runtimes);
        let problems = runtime_problems(health);
        let known = self.offer.problems.iter().filter(|problem| is_of_runtime(problem));
        if self.offer.offer.runtimes == usable && known.eq(&problems) {
            return;
        }
        self.offer.offer.runtimes = usable;
        self.offer.problems.retain(|problem| !is_of_runtime(problem));
        self.offer.problems.extend(problems);
        self.register = true;
    }

    /// The next report. `sent` was read before `ends`, and `ends` before `running`: what is true of the lists is true
    /// of a later moment.
    pub fn report(&mut self, sent: BootMs, mut ends: Vec<AttemptEnd>, running: &[RunningAttempt]) -> Report {
        self.sequence += 1;
        let fitting = fitting(&ends);
        let unreported: Vec<LeaseId> = ends.iter().skip(fitting).map(|e| e.lease).collect();
        ends.truncate(fitting);
        let hold = !(self.at_once || self.register || !ends.is_empty());
        self.hold_ms = if hold { self.longest_hold_ms() } else { 0 };
        let not_begun = self.not_begun(sent, running);
        let mut running: Vec<(LeaseId, bool)> = running.iter().map(|h| (h.lease, h.stopping)).collect();
        // An end that does not fit counts as held: a lease that a report does not name is launched again.
        running.extend(unreported.into_iter().map(|lease| (lease, true)));
        Report {
            node: self.offer.node,
            incarnation: self.offer.incarnation,
            nonce: self.offer.nonce,
            sequence: self.sequence,
            sent,
            register: self.register.then(|| self.offer.clone()),
            running,
            ends,
            hold_ms: self.hold_ms,
            not_begun: Some(not_begun).filter(|leases| !leases.is_empty()),
        }
    }

    /// Those whose programs should have begun by now.
    fn not_begun(&mut self, now: BootMs, running: &[RunningAttempt]) -> Vec<LeaseId> {
        let unbegun = running.iter().filter(|attempt| !attempt.started && !attempt.stopping);
        let since =
            unbegun.map(|attempt| (attempt.lease, self.unbegun.get(&attempt.lease).copied().unwrap_or(now)));
        self.unbegun = since.collect();
        let late = self.unbegun.iter().filter(|(_, since)| now.since(**since) >= limits::BEGIN_SOON_MS);
        late.map(|(lease, _)| *lease).collect()
    }

    /// A report may be held for a third of the shortest window, so that one lost report loses no attempt.
    fn longest_hold_ms(&self) -> u64 {
        let longest = limits::REPORT_HOLD.as_millis() as u64;
        self.windows.values().map(|window| window.open_ms / 3).min().unwrap_or(longest).min(longest)
    }

    /// What follows from the answer to the last report; an error when nobody answered.
    pub fn on_answer(
        &mut self,
        answer: Result<ReportAnswer, String>,
        at: Moment,
        running: &[RunningAttempt],
    ) -> (Vec<AgentAction>, Next) {
        self.at_once = false;
        match answer {
            Ok(ReportAnswer::Orders(orders)) => {
                self.register = false;
                self.at_once = orders.more;
                let acts = self.obey(orders, at, running);
                let next = if self.is_idle(&acts, at) { Next::Pause } else { Next::Report };
                (acts, next)
            }
            Ok(ReportAnswer::Register) => {
                self.register = true;
                (Vec::new(), Next::Report)
            }
            Ok(ReportAnswer::NotLeader(_)) => (Vec::new(), Next::Pause),
            Ok(ReportAnswer::Stale(why)) => {
                tracing::error!(%why, "this node may not execute; stopping what it holds");
                let stop = |h: &RunningAttempt| AgentAction::Stop(h.lease, StopReason::LeaseOver);
                (running.iter().map(stop).collect(), Next::Leave)
            }
            Err(error) => {
                tracing::debug!(%error, "no leader took the report");
                (Vec::new(), Next::Pause)
            }
        }
    }

    /// Whether a report that the leader could hold was answered early and for nothing. To report again at once would
    /// let node and leader talk without a pause, as fast as the machine can.
    fn is_idle(&self, acts: &[AgentAction], at: Moment) -> bool {
        let does = |act: &AgentAction| matches!(act, AgentAction::Start(_) | AgentAction::Stop(..));
        !self.at_once && at.now.since(at.sent) < self.hold_ms && !acts.iter().any(does)
    }

    /// Does what fresh orders say; others are dropped (docs/internals/leases.md#fresh-orders).
    pub fn obey(&mut self, orders: Orders, at: Moment, running: &[RunningAttempt]) -> Vec<AgentAction> {
        if !self.is_fresh(&orders) {
            tracing::debug!(term = orders.term, answers = orders.answers, "orders dropped");
            return Vec::new();
        }
        self.term = orders.term;
        self.answered = orders.answers;
        let mut acts = vec![AgentAction::Acknowledge(orders.recorded)];
        let running: BTreeMap<LeaseId, bool> = running.iter().map(|h| (h.lease, h.stopping)).collect();
        let mut granted: Vec<LeaseId> = orders.grants.iter().map(|g| g.lease).collect();
        granted.sort_unstable();
        let granted = |lease: &LeaseId| granted.binary_search(lease).is_ok();
        self.windows.retain(|lease, _| granted(lease));
        orders.grants.iter().for_each(|grant| self.note_window(grant));
        let renewals = orders.grants.iter().filter(|g| running.contains_key(&g.lease));
        acts.push(AgentAction::Renew(renewals.map(|g| (g.lease, at.sent.plus(g.ttl_ms))).collect()));
        for (lease, stopping) in &running {
            if !granted(lease) && !stopping {
                acts.push(AgentAction::Stop(*lease, StopReason::LeaseOver));
            }
        }
        for grant in orders.grants {
            self.follow(grant, at, &running, &mut acts);
        }
        acts
    }

    fn is_fresh(&self, orders: &Orders) -> bool {
        let mine = orders.incarnation == self.offer.incarnation && orders.nonce == self.offer.nonce;
        let latest = orders.answers == self.sequence && orders.answers > self.answered;
        (mine && latest && orders.term >= self.term) || planted(Mutation::StaleOrders)
    }

    fn note_window(&mut self, grant: &Grant) {
        let launched = || grant.launch.as_ref().map(|launch| launch.spec.stop_grace_ms);
        let grace_ms = self.windows.get(&grant.lease).map_or_else(launched, |known| known.grace_ms);
        // A task may use half of its lease to stop; what was adopted after a restart counts as if it did. The length may
        // be another one than in the last grant.
        let stopping_ms = grace_ms.unwrap_or(grant.ttl_ms / 2) + grant.kill_margin_ms;
        let open_ms = grant.ttl_ms.saturating_sub(stopping_ms);
        self.windows.insert(grant.lease, Window { grace_ms, open_ms });
    }

    fn follow(
        &self,
        grant: Grant,
        at: Moment,
        running: &BTreeMap<LeaseId, bool>,
        acts: &mut Vec<AgentAction>,
    ) {
        let (lease, deadline) = (grant.lease, at.sent.plus(grant.ttl_ms));
        // An attempt starts only while its lease has time left, and not on a node that stops.
        let may_start = !at.closing && at.now < deadline.minus(grant.kill_margin_ms);
        let stop = grant.stop.map(|reason| match reason {
            stint_scheduler::StopReason::Cancelled => AgentAction::Stop(lease, StopReason::Cancelled),
            // What the end is called does not matter: the state knows why its instance needs the program no more.
            stint_scheduler::StopReason::Drained
            | stint_scheduler::StopReason::Asleep
            | stint_scheduler::StopReason::Finished => AgentAction::Stop(lease, StopReason::Drained),
        });
        match (running.get(&lease), grant.launch) {
            (Some(false), _) => acts.extend(stop),
            // Started also when it is to stop: so its end is reported as that of every other.
            (None, Some(launch)) if may_start => {
                acts.push(AgentAction::Start(self.launch(lease, launch, deadline)));
                acts.extend(stop);
            }
            // It is being stopped, or has ended since the report was made: the next report says so.
            _ => {}
        }
    }

    fn launch(&self, lease: LeaseId, launching: Launching, deadline: BootMs) -> Launch {
        let mut env = BTreeMap::from([
            ("STINT_TASK_ID".to_string(), lease.task.to_string()),
            ("STINT_ATTEMPT".to_string(), lease.attempt.to_string()),
            ("STINT_INDEX".to_string(), launching.index.to_string()),
            ("STINT_TENANT".to_string(), launching.tenant.to_string()),
            ("STINT_CLASS".to_string(), launching.spec.class.to_string()),
            ("STINT_NODE_ID".to_string(), self.offer.node.to_string()),
        ]);
        if let Some(name) = &launching.name {
            env.insert("STINT_TASK_NAME".to_string(), name.to_string());
        }
        let Launching { tenant, tenant_uid, name, spec, runtime, gpus, .. } = launching;
        Launch { lease, tenant, tenant_uid, run_as: None, name, spec, runtime, gpus, deadline, env }
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::{EndKind, Incarnation, NodeId, NodeOffer, NodeRules, Nonce, TaskId};

    use super::*;

    fn core() -> AgentCore {
        let (node, incarnation, nonce) = (NodeId(1), Incarnation(1), Nonce(1));
        AgentCore::new(RegisterNode {
            node,
            incarnation,
            nonce,
            offer: NodeOffer::default(),
            problems: vec![],
        })
    }

    /// Answers the last report, which was sent at 0, without a word.
    fn nothing(core: &mut AgentCore, answers: u64, now: u64) -> Next {
        let (grants, recorded) = (Vec::new(), Vec::new());
        let (incarnation, nonce) = (Incarnation(1), Nonce(1));
        let orders = Orders { term: 1, incarnation, nonce, answers, grants, recorded, more: false };
        let at = Moment { sent: BootMs(0), now: BootMs(now), closing: false };
        core.on_answer(Ok(ReportAnswer::Orders(orders)), at, &[]).1
    }

    #[test]
    fn ends_with_much_to_say_go_with_several_reports() {
        let lease = |task| LeaseId { task: TaskId(task), attempt: 1 };
        let end = |task| AttemptEnd::new(lease(task), EndKind::StartFailed, "x".repeat(4_000), 0);
        let ends: Vec<AttemptEnd> = (0..500).map(end).collect();
        let report = core().report(BootMs(0), ends, &[]);
        let bytes: usize = report.ends.iter().map(AttemptEnd::weight).sum();
        assert!(report.ends.len() > 10 && bytes <= limits::END_BYTES_PER_REPORT);
        assert_eq!(report.running.len(), 500 - report.ends.len(), "the others are still held");
        let mut huge = end(1);
        huge.message = "x".repeat(2 * limits::END_BYTES_PER_REPORT);
        assert_eq!(core().report(BootMs(0), vec![huge], &[]).ends.len(), 1);
    }

    /// Most begin within milliseconds: only those are named that people can see waiting.
    #[test]
    fn a_program_that_does_not_begin_is_told_and_taken_back() {
        let attempt = |task, started, stopping| {
            let lease = LeaseId { task: TaskId(task), attempt: 1 };
            RunningAttempt { lease, started, stopping, deadline: BootMs(60_000) }
        };
        let mut core = core();
        let mut named = |now, running: &[RunningAttempt]| -> Option<Vec<u128>> {
            let leases = core.report(BootMs(now), vec![], running).not_begun;
            leases.map(|leases| leases.iter().map(|lease| lease.task.0).collect())
        };
        let (late, stopped) = (attempt(1, false, false), attempt(2, false, true));
        assert_eq!(named(1_000, &[late, stopped]), None, "nobody could see it yet");
        assert_eq!(named(999 + limits::BEGIN_SOON_MS, &[late, stopped]), None);
        let another = attempt(3, false, false);
        assert_eq!(named(1_000 + limits::BEGIN_SOON_MS, &[late, stopped, another]), Some(vec![1]));
        assert_eq!(named(9_000, &[attempt(1, true, false), another]), Some(vec![3]));
        assert_eq!(named(9_001, &[attempt(1, true, false)]), None);
    }

    #[test]
    fn a_node_that_is_answered_early_for_nothing_waits_before_it_reports_again() {
        let mut core = core();
        assert_eq!(core.report(BootMs(0), vec![], &[]).hold_ms, 0, "the first one registers");
        assert_eq!(nothing(&mut core, 1, 1), Next::Report);
        let hold_ms = core.report(BootMs(0), vec![], &[]).hold_ms;
        assert_eq!(nothing(&mut core, 2, hold_ms), Next::Report, "it was held as long as it asked for");
        core.report(BootMs(0), vec![], &[]);
        assert_eq!(nothing(&mut core, 3, hold_ms - 1), Next::Pause);
    }

    /// A shorter length is met by reports that come more often, as soon as it is granted.
    #[test]
    fn how_long_a_report_is_held_follows_the_length_of_the_last_grant() {
        let lease = LeaseId { task: TaskId(1 << 16), attempt: 1 };
        let mut core = core();
        let mut holds = |ttl_ms: u64, answers: u64| {
            core.report(BootMs(0), vec![], &[]);
            let grants = vec![Grant { lease, ttl_ms, kill_margin_ms: 500, stop: None, launch: None }];
            let (incarnation, nonce, recorded) = (Incarnation(1), Nonce(1), vec![]);
            let orders = Orders { term: 1, incarnation, nonce, answers, grants, recorded, more: false };
            let at = Moment { sent: BootMs(0), now: BootMs(1), closing: false };
            core.on_answer(Ok(ReportAnswer::Orders(orders)), at, &[]);
            core.longest_hold_ms()
        };
        let long = holds(60_000, 1);
        assert_eq!(holds(2_500, 2), (1_250 - 500) / 3);
        assert_eq!(holds(60_000, 3), long);
    }

    #[test]
    fn what_becomes_of_runtimes_is_told_and_taken_back() {
        let health = |usable: Result<(), String>, problems: &[&str]| HostHealth {
            sandbox: stint_executor::Sandbox::None,
            runtimes: BTreeMap::from([(Runtime::Docker, usable)]),
            allows: vec![],
            rules: NodeRules::default(),
            accounted: true,
            problems: problems.iter().map(|message| (*message).to_owned()).collect(),
        };
        let mut core = core();
        core.offer.problems = vec!["a GPU is elsewhere".into()];
        let mut said = |health: HostHealth| {
            core.register = false;
            core.on_health(&health);
            let report = core.report(BootMs(0), vec![], &[]);
            report.register.map(|offer| (offer.offer.runtimes, offer.problems.join("; ")))
        };
        let (usable, other) = (vec![Runtime::Docker], "a GPU is elsewhere");
        assert_eq!(said(health(Ok(()), &[])), Some((usable.clone(), other.into())));
        let unread = "runtime docker: no credentials";
        let limited = Some((usable.clone(), format!("{other}; {unread}")));
        assert_eq!(said(health(Ok(()), &["the sandbox is off", unread])), limited);
        assert_eq!(said(health(Ok(()), &["the sandbox is off", unread])), None, "said once");
        let gone = Some((vec![], format!("{other}; runtime docker: no daemon")));
        assert_eq!(said(health(Err("no daemon".into()), &[])), gone);
        assert_eq!(said(health(Ok(()), &[])), Some((usable, other.into())));
    }
}
