//! Door: execution. A machine that runs attempts under the real watchdog's core. It outlives the node's process; only
//! the loss of its power ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use stint_executor::watchdog::{Action, AttemptTimes, StopCause, Watchdog};
use stint_executor::{HostEvent, Launch, StopReason};
use stint_node::clock::Clock;
use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId, NodeOffer};
use tokio::sync::mpsc;

use crate::clock::MachineClock;
use crate::oracle::{Oracle, Start};
use crate::plant::Plant;
use crate::program::{Program, spawn_failure};
use crate::rng::SeededRng;
use crate::scenario::{Range, Workload};

/// Usual time between KILL and the end of a lease, in milliseconds; as in `stint_scheduler::Settings`.
pub const KILL_MARGIN_MS: u64 = 500;
/// Time between KILL and the reaped attempt, in milliseconds: a loaded machine, inside the margin.
const REAP_MS: Range = Range(1, 300);
/// The same while the watchdog is slow: all but the whole margin.
const SLOW_REAP_MS: Range = Range(300, 470);
/// Longest time a start takes, in milliseconds.
const START_MS: u64 = 400;
/// Longest time until the end of an attempt is told, in milliseconds, where it is told late.
const LATE_MS: u64 = 1_500;

/// One machine as its node sees it.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<Inner>>);

/// What a machine is made of.
pub struct Parts {
    pub id: u64,
    pub clock: Arc<MachineClock>,
    pub oracle: Oracle,
    pub rng: SeededRng,
    pub plant: Option<Plant>,
    pub offer: NodeOffer,
    pub rules: Workload,
    /// How much of a lease's end is kept for the kill.
    pub kill_margin_ms: u64,
}

pub struct Inner {
    pub(crate) parts: Parts,
    pub(crate) watchdog: Watchdog,
    pub(crate) attempts: BTreeMap<LeaseId, Attempt>,
    /// Spooled until acknowledged.
    pub(crate) ends: BTreeMap<LeaseId, AttemptEnd>,
    pub(crate) ended: BTreeSet<LeaseId>,
    /// Launches that wait for a new watchdog.
    pub(crate) waiting: BTreeMap<LeaseId, Launch>,
    /// The watchdog is dead until then.
    dead_until: Option<BootMs>,
    slow: bool,
    /// The watchdog is stopped (as by SIGSTOP): what its node says waits, and attempts end themselves.
    stopped: bool,
    inbox: Vec<Call>,
    /// When it went on last.
    went_on_at: Option<BootMs>,
    /// The machine is suspended: nothing on it acts.
    asleep: bool,
    /// When it woke last.
    woke_at: Option<BootMs>,
    /// The node's ear, while its process lives.
    events: Option<mpsc::Sender<HostEvent>>,
    pub(crate) accounted: bool,
}

/// What a node says to its watchdog.
pub enum Call {
    Start(Launch),
    Renew(LeaseId, BootMs),
    Stop(LeaseId, StopReason),
}

/// An attempt that has not been reported as ended.
pub struct Attempt {
    pub launch: Launch,
    pub phase: Phase,
}

pub enum Phase {
    Starting {
        at: BootMs,
    },
    Running(Program),
    /// Gone, and told at this time.
    Gone {
        end: AttemptEnd,
        at: BootMs,
    },
}

impl Machine {
    /// A machine that runs nothing.
    pub fn new(parts: Parts) -> Self {
        let inner = Inner {
            parts,
            watchdog: Watchdog::default(),
            attempts: BTreeMap::new(),
            ends: BTreeMap::new(),
            ended: BTreeSet::new(),
            waiting: BTreeMap::new(),
            dead_until: None,
            slow: false,
            stopped: false,
            inbox: Vec::new(),
            went_on_at: None,
            asleep: false,
            woke_at: None,
            events: None,
            accounted: true,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A node's process begins and hears of events. Answers whether everything from before is accounted for.
    pub fn open(&self, events: mpsc::Sender<HostEvent>) -> bool {
        let mut inner = self.inner();
        inner.events = Some(events);
        std::mem::replace(&mut inner.accounted, true)
    }

    /// What it offers.
    pub fn offer(&self) -> NodeOffer {
        self.inner().parts.offer.clone()
    }

    /// The node's process is gone; the watchdog goes on.
    pub fn node_died(&self) {
        let mut inner = self.inner();
        inner.events = None;
        // These were with the node only.
        inner.waiting.clear();
    }

    /// Everything on the machine is gone at once.
    pub fn power_lost(&self) {
        let mut inner = self.inner();
        let nothing_lost = inner.attempts.is_empty() && inner.ends.is_empty();
        let planted = inner.parts.plant == Some(Plant::FalseAccount);
        inner.accounted = inner.accounted && nothing_lost || planted;
        inner.all_die(None);
        inner.attempts.clear();
        inner.waiting.clear();
        inner.watchdog = Watchdog::default();
        inner.ends.clear();
        inner.ended.clear();
        (inner.events, inner.dead_until, inner.asleep, inner.woke_at) = (None, None, false, None);
        inner.forget_stop();
    }

    /// The watchdog is killed: all it ran dies with it. A new one is there after `away_ms`.
    pub fn watchdog_dies(&self, away_ms: u64) {
        let mut inner = self.inner();
        let back = inner.parts.clock.boot().plus(away_ms);
        inner.dead_until = Some(back);
        inner.all_die(Some(back));
        inner.watchdog = Watchdog::default();
        inner.forget_stop();
    }

    /// The watchdog stands still. What runs goes on, each attempt with its own last stop.
    pub fn watchdog_stops(&self) {
        self.inner().stopped = true;
    }

    /// It goes on: hears what was said to it meanwhile, and tells what has ended.
    pub fn watchdog_goes_on(&self) {
        let mut inner = self.inner();
        if !std::mem::take(&mut inner.stopped) {
            return;
        }
        let now = inner.parts.clock.boot();
        inner.went_on_at = Some(now);
        for attempt in inner.attempts.values_mut() {
            if let Phase::Gone { at, .. } = &mut attempt.phase {
                *at = now.min(*at);
            }
        }
        for call in std::mem::take(&mut inner.inbox) {
            inner.hear(call);
        }
    }

    /// Kills take nearly the whole margin, or what is usual.
    pub fn slow_kills(&self, slow: bool) {
        self.inner().slow = slow;
    }

    /// The machine is suspended: boot time goes on, nothing else does.
    pub fn suspend(&self) {
        let mut inner = self.inner();
        inner.asleep = true;
        inner.parts.oracle.on_suspend(inner.parts.id);
    }

    /// It wakes. What a lease that ran out meanwhile left running is killed now: the documented gap of a suspended
    /// machine, which the oracle does not hold against it.
    pub fn wake(&self) {
        let mut inner = self.inner();
        if !std::mem::take(&mut inner.asleep) {
            return;
        }
        let now = inner.parts.clock.boot();
        inner.woke_at = Some(now);
        let in_time =
            |lease: &LeaseId| inner.watchdog.deadline(*lease).is_some_and(|deadline| now < deadline);
        let runs = |attempt: &Attempt| matches!(attempt.phase, Phase::Running(_));
        let goes_on = inner.attempts.iter().filter(|(lease, attempt)| runs(attempt) && in_time(lease));
        let goes_on =
            goes_on.map(|(_, attempt)| Start::from_launch(inner.parts.id, &attempt.launch)).collect();
        inner.parts.oracle.on_wake(goes_on);
    }

    /// Lets the machine act up to its clock's time.
    pub fn advance(&self) {
        let mut inner = self.inner();
        if inner.asleep {
            return;
        }
        let now = inner.parts.clock.boot();
        inner.new_watchdog(now);
        inner.begin_due(now);
        if inner.stopped {
            inner.last_stops(now);
        } else {
            inner.watch(now);
        }
        inner.end_due(now);
        inner.tell_due(now);
        inner.check_limits(now);
    }
}

impl Inner {
    /// A watchdog that was stopped is killed, or its machine lost power.
    fn forget_stop(&mut self) {
        self.stopped = false;
        self.inbox.clear();
    }

    /// The node says something to its watchdog, which may have to wait.
    pub(crate) fn call(&mut self, call: Call) {
        if self.stopped { self.inbox.push(call) } else { self.hear(call) }
    }

    fn hear(&mut self, call: Call) {
        match call {
            Call::Start(launch) => {
                let lease = launch.lease;
                let known = self.attempts.contains_key(&lease) || self.waiting.contains_key(&lease);
                if !known && !self.ended.contains(&lease) {
                    self.launch(launch);
                }
            }
            Call::Renew(lease, deadline) => {
                let now = self.parts.clock.boot();
                self.watchdog.renew(lease, deadline);
                if self.watchdog.deadline(lease) == Some(deadline) {
                    self.given(lease, deadline, now);
                }
                if let Some(launch) = self.waiting.get_mut(&lease) {
                    launch.deadline = launch.deadline.max(deadline);
                }
            }
            Call::Stop(lease, reason) => {
                self.watchdog.stop(lease, reason.into());
                self.forget_waiting(lease, reason);
            }
        }
    }

    /// Each attempt's own init ends it, in the half of the margin that the watchdog leaves.
    fn last_stops(&mut self, now: BootMs) {
        if self.parts.plant == Some(Plant::NoLastStop) {
            return;
        }
        let margin = self.parts.kill_margin_ms;
        for (lease, attempt) in &mut self.attempts {
            let over = self.watchdog.deadline(*lease).is_some_and(|end| end.minus(margin / 2) <= now);
            if let Phase::Running(program) = &mut attempt.phase
                && over
            {
                program.dies(now.plus(self.parts.rng.between(1, margin / 2 - 50)));
            }
        }
    }

    fn new_watchdog(&mut self, now: BootMs) {
        if self.dead_until.is_some_and(|until| until <= now) {
            self.dead_until = None;
            for (_, launch) in std::mem::take(&mut self.waiting) {
                self.take_on(launch, now);
            }
        }
    }

    /// Takes a launch, or keeps it until there is a watchdog again.
    pub(crate) fn launch(&mut self, launch: Launch) {
        let now = self.parts.clock.boot();
        if self.dead_until.is_some() {
            self.waiting.insert(launch.lease, launch);
        } else {
            self.take_on(launch, now);
        }
    }

    /// A launch that no watchdog has seen is stopped: it never ran.
    pub(crate) fn forget_waiting(&mut self, lease: LeaseId, reason: StopReason) {
        let Some(launch) = self.waiting.remove(&lease) else { return };
        let kind = StopCause::from(reason).end_kind();
        let end = AttemptEnd::new(lease, kind, String::new(), 0);
        let at = self.parts.clock.boot();
        self.attempts.insert(lease, Attempt { launch, phase: Phase::Gone { end, at } });
    }

    fn take_on(&mut self, launch: Launch, now: BootMs) {
        let lease = launch.lease;
        let at = now.plus(self.parts.rng.between(1, START_MS));
        self.watchdog.start(lease, limits(&launch, self.parts.kill_margin_ms, launch.deadline, now));
        self.given(lease, launch.deadline, now);
        self.attempts.insert(lease, Attempt { launch, phase: Phase::Starting { at } });
    }

    /// Tells the oracle until when a lease was given. Words that waited while the machine was suspended may give one
    /// that is over already.
    pub(crate) fn given(&self, lease: LeaseId, deadline: BootMs, now: BootMs) {
        let Parts { clock, oracle, .. } = &self.parts;
        let (left_ms, over_ms) =
            (clock.in_world_ms(deadline.since(now)), clock.in_world_ms(now.since(deadline)));
        oracle.on_given(lease, left_ms as i64 - over_ms as i64);
    }

    fn begin_due(&mut self, now: BootMs) {
        let begins = |attempt: &Attempt| matches!(attempt.phase, Phase::Starting { at } if at <= now);
        let due: Vec<LeaseId> = self.attempts.iter().filter(|(_, a)| begins(a)).map(|(l, _)| *l).collect();
        for lease in due {
            let Some(deadline) = self.watchdog.deadline(lease) else { continue };
            let Some(attempt) = self.attempts.get_mut(&lease) else { continue };
            if !Watchdog::may_start(&limits(&attempt.launch, self.parts.kill_margin_ms, deadline, now), now) {
                self.end(lease, now, EndKind::Lost);
                continue;
            }
            if let Some(kind) = spawn_failure(lease, &self.parts.rules) {
                self.end(lease, now, kind);
                continue;
            }
            let Parts { id, oracle, rng, rules, .. } = &mut self.parts;
            let program = Program::drawn(lease, rules, rng, now);
            attempt.phase = Phase::Running(program.or_recorded(&attempt.launch.spec.command));
            oracle.on_start(&Start::from_launch(*id, &attempt.launch));
            self.tell(HostEvent::Started { lease, at: now });
        }
    }

    fn watch(&mut self, now: BootMs) {
        for action in self.watchdog.tick(now) {
            match action {
                Action::Term(lease, _) => self.on_term(lease, now),
                Action::Kill(_, StopCause::LeaseOver) if self.parts.plant == Some(Plant::LateKill) => {}
                Action::Kill(lease, _) => self.on_kill(lease, now),
            }
        }
    }

    fn on_term(&mut self, lease: LeaseId, now: BootMs) {
        let soon = now.plus(self.parts.rng.between(1, 200));
        let deaf = self.parts.plant == Some(Plant::LateKill);
        match self.attempts.get_mut(&lease).map(|attempt| &mut attempt.phase) {
            Some(Phase::Running(program)) if program.obeys_term && !deaf => program.dies(soon),
            Some(Phase::Starting { .. }) => self.end(lease, now, EndKind::Lost),
            _ => {}
        }
    }

    fn on_kill(&mut self, lease: LeaseId, now: BootMs) {
        let soon = now.plus(self.parts.rng.within(if self.slow { SLOW_REAP_MS } else { REAP_MS }));
        match self.attempts.get_mut(&lease).map(|attempt| &mut attempt.phase) {
            Some(Phase::Running(program)) => program.dies(soon),
            Some(Phase::Starting { .. }) => self.end(lease, now, EndKind::Lost),
            _ => {}
        }
    }

    fn end_due(&mut self, now: BootMs) {
        let over = |attempt: &Attempt| match &attempt.phase {
            Phase::Running(program) => program.over(now),
            _ => None,
        };
        let due: Vec<(LeaseId, EndKind)> =
            self.attempts.iter().filter_map(|(lease, attempt)| Some((*lease, over(attempt)?))).collect();
        for (lease, end) in due {
            self.end(lease, now, end);
        }
    }

    /// The attempt is gone. Some ends are told later.
    fn end(&mut self, lease: LeaseId, now: BootMs, own: EndKind) {
        let kind = self.watchdog.exited(lease).map_or(own, StopCause::end_kind);
        let late_ms = if self.parts.rng.one_in(8) { self.parts.rng.between(1, LATE_MS) } else { 0 };
        let told_at = if self.stopped { BootMs(u64::MAX) } else { now.plus(late_ms) };
        self.gone(lease, now, kind, told_at);
        self.tell_due(now);
    }

    fn gone(&mut self, lease: LeaseId, now: BootMs, kind: EndKind, told_at: BootMs) {
        let Some(attempt) = self.attempts.get_mut(&lease) else { return };
        let run_ms = match &attempt.phase {
            Phase::Starting { .. } => 0,
            Phase::Running(program) => now.since(program.since),
            Phase::Gone { .. } => return,
        };
        let was_running = matches!(attempt.phase, Phase::Running(_));
        let end = AttemptEnd::new(lease, kind, String::new(), run_ms);
        self.parts.oracle.on_end(self.parts.id, lease, &end.kind, was_running);
        attempt.phase = Phase::Gone { end, at: told_at };
    }

    /// Everything dies at once: with the power (nobody will tell of it), or with the watchdog.
    fn all_die(&mut self, told_at: Option<BootMs>) {
        let now = self.parts.clock.boot();
        let leases: Vec<LeaseId> = self.attempts.keys().copied().collect();
        for lease in leases {
            match told_at {
                Some(at) => self.gone(lease, now, EndKind::Lost, at),
                None if matches!(self.attempts[&lease].phase, Phase::Running(_)) => {
                    self.parts.oracle.on_power_lost(self.parts.id, lease);
                }
                None => {}
            }
        }
    }

    fn tell_due(&mut self, now: BootMs) {
        let due = |attempt: &Attempt| matches!(attempt.phase, Phase::Gone { at, .. } if at <= now);
        let leases: Vec<LeaseId> = self.attempts.iter().filter(|(_, a)| due(a)).map(|(l, _)| *l).collect();
        for lease in leases {
            let Some(Attempt { phase: Phase::Gone { end, .. }, .. }) = self.attempts.remove(&lease) else {
                continue;
            };
            self.ended.insert(lease);
            self.ends.insert(lease, end.clone());
            self.parts.oracle.on_spool(self.parts.id, self.ends.len());
            self.tell(HostEvent::Ended(end));
        }
    }

    fn tell(&self, event: HostEvent) {
        if let Some(events) = &self.events {
            // A node that does not listen looks at `held` and `unacknowledged` instead.
            let _ = events.try_send(event);
        }
    }

    /// Nothing runs past its lease or its run time by the machine's own clock. What came due while the machine was
    /// suspended is acted upon when it wakes: a lease that is over gets the time of a kill, a run time that is over the
    /// attempt's grace before it.
    fn check_limits(&self, now: BootMs) {
        let margin_ms = self.parts.kill_margin_ms;
        let after_waking = |ms: u64| self.woke_at.map_or(BootMs(0), |at| at.plus(ms));
        for (lease, attempt) in &self.attempts {
            let Phase::Running(program) = &attempt.phase else { continue };
            let Some(deadline) = self.watchdog.deadline(*lease) else { continue };
            let spec = &attempt.launch.spec;
            let stop_ms = spec.stop_grace_ms + margin_ms;
            let lease_over = deadline.max(after_waking(margin_ms));
            // Only the watchdog knows of the run time.
            let went_on = self.went_on_at.map_or(BootMs(0), |at| at.plus(stop_ms));
            let run_over = match self.stopped {
                true => BootMs(u64::MAX),
                false => {
                    program.since.plus(spec.timeout_ms + stop_ms).max(after_waking(stop_ms)).max(went_on)
                }
            };
            self.parts.oracle.on_running(self.parts.id, *lease, now, lease_over.min(run_over));
        }
    }
}

fn limits(launch: &Launch, kill_margin_ms: u64, deadline: BootMs, started_at: BootMs) -> AttemptTimes {
    AttemptTimes {
        deadline,
        grace_ms: launch.spec.stop_grace_ms,
        kill_margin_ms,
        run_timeout_ms: launch.spec.timeout_ms,
        started_at,
    }
}
