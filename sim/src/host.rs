//! Door: execution. A machine that runs attempts under the real watchdog's core. It outlives the node's process; only
//! the loss of its power ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use stint_executor::watchdog::{Action, Limits, Watchdog, Why};
use stint_executor::{
    Held, Host, HostEvent, HostHealth, Launch, LogError, LogFuture, LogStream, Sandbox, StopReason,
};
use stint_node::clock::Clock;
use stint_protocol::{AttemptEnd, BootMs, EndKind, GpuId, LeaseId, Runtime};
use tokio::sync::mpsc;

use crate::clock::MachineClock;
use crate::dice::Dice;
use crate::oracle::Oracle;
use crate::plant::Plant;
use crate::recorded;

/// Time between KILL and the end of a lease, in milliseconds; as in `stint_scheduler::Settings`.
pub const KILL_MARGIN_MS: u64 = 500;
/// Longest time between KILL and the reaped attempt, in milliseconds: a loaded machine, inside the margin.
const REAP_MS: u64 = 300;
/// Longest time a start takes, in milliseconds.
const START_MS: u64 = 400;

/// One machine as its node sees it.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<Inner>>);

struct Inner {
    id: u64,
    clock: Arc<MachineClock>,
    oracle: Oracle,
    dice: Dice,
    plant: Option<Plant>,
    watchdog: Watchdog,
    attempts: BTreeMap<LeaseId, Attempt>,
    /// Spooled until acknowledged.
    ends: BTreeMap<LeaseId, AttemptEnd>,
    ended: BTreeSet<LeaseId>,
    /// The node's ear, while its process lives.
    events: Option<mpsc::Sender<HostEvent>>,
    accounted: bool,
    kill_margin_ms: u64,
}

/// An attempt that has not ended.
struct Attempt {
    launch: Launch,
    phase: Phase,
}

enum Phase {
    Starting { at: BootMs },
    Running(Program),
}

/// What a program will do.
struct Program {
    since: BootMs,
    /// None: hangs until it is stopped.
    ends_at: Option<BootMs>,
    end: EndKind,
    obeys_term: bool,
    dies_at: Option<BootMs>,
}

impl Machine {
    /// A machine that runs nothing.
    pub fn new(id: u64, clock: Arc<MachineClock>, oracle: Oracle, dice: Dice, plant: Option<Plant>) -> Self {
        let inner = Inner {
            id,
            clock,
            oracle,
            dice,
            plant,
            watchdog: Watchdog::default(),
            attempts: BTreeMap::new(),
            ends: BTreeMap::new(),
            ended: BTreeSet::new(),
            events: None,
            accounted: true,
            kill_margin_ms: KILL_MARGIN_MS,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How much of a lease's end is kept for the kill, in milliseconds.
    pub fn keep_for_kill(&self, kill_margin_ms: u64) {
        self.inner().kill_margin_ms = kill_margin_ms;
    }

    /// A node's process begins and hears of events. Answers whether everything from before is accounted for.
    pub fn open(&self, events: mpsc::Sender<HostEvent>) -> bool {
        let mut inner = self.inner();
        inner.events = Some(events);
        std::mem::replace(&mut inner.accounted, true)
    }

    /// The node's process is gone; the watchdog goes on.
    pub fn node_died(&self) {
        self.inner().events = None;
    }

    /// Everything on the machine is gone at once.
    pub fn power_lost(&self) {
        let mut inner = self.inner();
        inner.events = None;
        let nothing_lost = inner.attempts.is_empty() && inner.ends.is_empty();
        inner.accounted = inner.accounted && nothing_lost || inner.plant == Some(Plant::FalseAccount);
        for (lease, attempt) in std::mem::take(&mut inner.attempts) {
            if let Phase::Running(_) = attempt.phase {
                inner.oracle.on_stop(inner.id, lease, None);
            }
        }
        inner.watchdog = Watchdog::default();
        inner.ends.clear();
        inner.ended.clear();
    }

    /// Lets the machine act up to its clock's time.
    pub fn advance(&self) {
        let mut inner = self.inner();
        let now = inner.clock.boot();
        inner.begin_due(now);
        inner.watch(now);
        inner.end_due(now);
    }
}

impl Inner {
    fn begin_due(&mut self, now: BootMs) {
        let due: Vec<LeaseId> =
            self.attempts.iter().filter(|(_, a)| a.begins(now)).map(|(l, _)| *l).collect();
        for lease in due {
            let Some(deadline) = self.watchdog.deadline(lease) else { continue };
            let Some(attempt) = self.attempts.get_mut(&lease) else { continue };
            if !Watchdog::may_start(&limits(&attempt.launch, self.kill_margin_ms, deadline, now), now) {
                self.end(lease, now, EndKind::Lost);
                continue;
            }
            attempt.phase =
                Phase::Running(Program::drawn(&mut self.dice, now).or_recorded(&attempt.launch.spec.command));
            let gpus: Vec<GpuId> = attempt.launch.gpus.iter().map(|gpu| gpu.id.clone()).collect();
            self.oracle.on_start(self.id, lease, &gpus);
            self.tell(HostEvent::Started { lease, at: now });
        }
    }

    fn watch(&mut self, now: BootMs) {
        for action in self.watchdog.tick(now) {
            match action {
                Action::Term(lease, _) => self.on_term(lease, now),
                Action::Kill(_, Why::LeaseOver) if self.plant == Some(Plant::LateKill) => {}
                Action::Kill(lease, _) => self.on_kill(lease, now),
            }
        }
    }

    fn on_term(&mut self, lease: LeaseId, now: BootMs) {
        let soon = now.plus(self.dice.between(1, 200));
        let deaf = self.plant == Some(Plant::LateKill);
        match self.attempts.get_mut(&lease).map(|attempt| &mut attempt.phase) {
            Some(Phase::Running(program)) if program.obeys_term && !deaf => program.dies_at = Some(soon),
            Some(Phase::Starting { .. }) => self.end(lease, now, EndKind::Lost),
            _ => {}
        }
    }

    fn on_kill(&mut self, lease: LeaseId, now: BootMs) {
        let soon = now.plus(self.dice.between(1, REAP_MS));
        match self.attempts.get_mut(&lease).map(|attempt| &mut attempt.phase) {
            Some(Phase::Running(program)) => {
                program.dies_at = Some(program.dies_at.map_or(soon, |known| known.min(soon)));
            }
            Some(Phase::Starting { .. }) => self.end(lease, now, EndKind::Lost),
            None => {}
        }
    }

    fn end_due(&mut self, now: BootMs) {
        let due: Vec<(LeaseId, EndKind)> =
            self.attempts.iter().filter_map(|(lease, attempt)| Some((*lease, attempt.over(now)?))).collect();
        for (lease, end) in due {
            self.end(lease, now, end);
        }
    }

    /// The attempt is gone: spools its end.
    fn end(&mut self, lease: LeaseId, now: BootMs, own: EndKind) {
        let kind = self.watchdog.exited(lease).map_or(own, Why::end_kind);
        let Some(attempt) = self.attempts.remove(&lease) else { return };
        let run_ms = match attempt.phase {
            Phase::Starting { .. } => 0,
            Phase::Running(program) => {
                self.oracle.on_stop(self.id, lease, Some(&kind));
                now.since(program.since)
            }
        };
        let end = AttemptEnd { lease, kind, message: String::new(), run_ms };
        self.ended.insert(lease);
        self.ends.insert(lease, end.clone());
        self.tell(HostEvent::Ended(end));
    }

    fn tell(&self, event: HostEvent) {
        if let Some(events) = &self.events {
            // A node that does not listen looks at `held` and `unacknowledged` instead.
            let _ = events.try_send(event);
        }
    }
}

impl Attempt {
    fn begins(&self, now: BootMs) -> bool {
        matches!(self.phase, Phase::Starting { at } if at <= now)
    }

    fn over(&self, now: BootMs) -> Option<EndKind> {
        let Phase::Running(program) = &self.phase else { return None };
        if program.dies_at.is_some_and(|at| at <= now) {
            return Some(EndKind::Signalled(9));
        }
        program.ends_at.is_some_and(|at| at <= now).then(|| program.end.clone())
    }
}

impl Program {
    fn drawn(dice: &mut Dice, now: BootMs) -> Self {
        let run_ms = match dice.below(10) {
            0..=3 => dice.between(1, 800),
            4..=6 => dice.between(800, 4_000),
            _ => dice.between(4_000, 12_000),
        };
        let end = match dice.below(10) {
            0 => EndKind::Exited(1),
            1 => EndKind::StartFailed,
            _ => EndKind::Exited(0),
        };
        let ends_at = (!dice.one_in(20)).then(|| now.plus(run_ms));
        Self { since: now, ends_at, end, obeys_term: !dice.one_in(3), dies_at: None }
    }

    /// A recorded task does what was recorded.
    fn or_recorded(self, command: &[String]) -> Self {
        let Some((run_ms, code)) = recorded::told(command) else { return self };
        Self { ends_at: run_ms.map(|ms| self.since.plus(ms)), end: EndKind::Exited(code), ..self }
    }
}

fn limits(launch: &Launch, kill_margin_ms: u64, deadline: BootMs, started_at: BootMs) -> Limits {
    Limits {
        deadline,
        grace_ms: launch.spec.stop_grace_ms,
        kill_margin_ms,
        run_timeout_ms: launch.spec.timeout_ms,
        started_at,
    }
}

impl Host for Machine {
    fn start(&self, launch: Launch) {
        let mut inner = self.inner();
        let lease = launch.lease;
        if inner.attempts.contains_key(&lease) || inner.ended.contains(&lease) {
            return;
        }
        let now = inner.clock.boot();
        let at = now.plus(inner.dice.between(1, START_MS));
        let limits = limits(&launch, inner.kill_margin_ms, launch.deadline, now);
        inner.watchdog.start(lease, limits);
        inner.attempts.insert(lease, Attempt { launch, phase: Phase::Starting { at } });
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        let mut inner = self.inner();
        for (lease, deadline) in renewals {
            inner.watchdog.renew(lease, deadline);
        }
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        self.inner().watchdog.stop(lease, reason.into());
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
            started: matches!(attempt.phase, Phase::Running(_)),
            stopping: inner.watchdog.stopping(*lease).is_some(),
            deadline: inner.watchdog.deadline(*lease).unwrap_or_default(),
        };
        inner.attempts.iter().map(one).collect()
    }

    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        self.inner().ends.values().cloned().collect()
    }

    fn read_log(&self, lease: LeaseId, _: LogStream, _: u64, _: usize) -> LogFuture {
        Box::pin(async move { Err(LogError::NotFound(lease)) })
    }

    fn health(&self) -> HostHealth {
        let runtimes = BTreeMap::from([(Runtime::Mock, Ok(()))]);
        HostHealth {
            sandbox: Sandbox::PidNamespace,
            runtimes,
            accounted: self.inner().accounted,
            problems: vec![],
        }
    }
}
