//! The watchdog's core: which attempt must be told to end or be killed, when, and why. Pure: time is handed in, so the
//! simulator runs the same code.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{BootMs, EndKind, LeaseId};

use crate::limits::KILL_AGAIN_MS;
use crate::shim_api::wire::StopReason;

/// Why an attempt is being stopped. The first reason stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    TimedOut,
    Cancelled,
    /// The lease ran out or was taken back.
    LeaseOver,
    Drained,
    /// It fills the disk, so it is killed without time to end by itself.
    DiskExceeded,
}

impl StopCause {
    /// How an attempt that was stopped for this reason has ended.
    pub fn end_kind(self) -> EndKind {
        match self {
            StopCause::TimedOut => EndKind::TimedOut,
            StopCause::Cancelled => EndKind::Cancelled,
            StopCause::LeaseOver => EndKind::Lost,
            StopCause::Drained => EndKind::Drained,
            StopCause::DiskExceeded => EndKind::DiskExceeded,
        }
    }
}

impl From<StopReason> for StopCause {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Cancelled => StopCause::Cancelled,
            StopReason::LeaseOver => StopCause::LeaseOver,
            StopReason::Drained => StopCause::Drained,
            StopReason::DiskExceeded => StopCause::DiskExceeded,
        }
    }
}

/// What must be done to an attempt now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Term(LeaseId, StopCause),
    /// Repeated until the attempt is reported as exited.
    Kill(LeaseId, StopCause),
}

impl Action {
    /// Whether a lease is over: other nodes may run the task soon.
    pub fn is_of_a_lease(&self) -> bool {
        matches!(self, Action::Kill(_, StopCause::LeaseOver))
    }
}

/// The times of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTimes {
    /// End of the lease: dead and reaped by then.
    pub deadline: BootMs,
    /// Time between TERM and KILL.
    pub grace_ms: u64,
    /// Time between KILL and the end of the lease.
    pub kill_margin_ms: u64,
    /// Longest run time, counted from `started_at`.
    pub run_timeout_ms: u64,
    pub started_at: BootMs,
}

#[derive(Debug)]
enum Phase {
    Running,
    /// TERM was sent; KILL follows at `kill_at` or at the end of the lease.
    Terminating {
        why: StopCause,
        kill_at: BootMs,
    },
    /// KILL was sent, last at `at`.
    Killing {
        why: StopCause,
        at: BootMs,
    },
}

#[derive(Debug)]
struct Guarded {
    limits: AttemptTimes,
    phase: Phase,
    /// Stop asked for and not yet acted upon.
    asked: Option<StopCause>,
    wake: BootMs,
}

impl Guarded {
    /// When KILL is due for the lease's sake, whatever else happens.
    fn lease_kill(&self) -> BootMs {
        self.limits.deadline.minus(self.limits.kill_margin_ms)
    }

    fn lease_term(&self) -> BootMs {
        self.lease_kill().minus(self.limits.grace_ms)
    }

    fn run_term(&self) -> BootMs {
        self.limits.started_at.plus(self.limits.run_timeout_ms)
    }

    fn next_wake(&self) -> BootMs {
        match self.phase {
            Phase::Running if self.asked.is_some() => BootMs(0),
            Phase::Running => self.lease_term().min(self.run_term()),
            Phase::Terminating { kill_at, .. } => kill_at.min(self.lease_kill()),
            Phase::Killing { at, .. } => at.plus(KILL_AGAIN_MS),
        }
    }

    /// The reason to stop now, if there is one.
    fn due(&self, now: BootMs) -> Option<StopCause> {
        if let Some(why) = self.asked {
            return Some(why);
        }
        // After a suspend both times may be past: the one that came first is the reason.
        if now >= self.run_term() && self.run_term() <= self.lease_term() {
            return Some(StopCause::TimedOut);
        }
        if now >= self.lease_term() {
            return Some(StopCause::LeaseOver);
        }
        (now >= self.run_term()).then_some(StopCause::TimedOut)
    }

    fn step(&mut self, lease: LeaseId, now: BootMs) -> Option<Action> {
        match self.phase {
            Phase::Running => {
                let why = self.due(now)?;
                if now >= self.lease_kill() || why == StopCause::DiskExceeded {
                    self.phase = Phase::Killing { why, at: now };
                    return Some(Action::Kill(lease, why));
                }
                self.phase = Phase::Terminating { why, kill_at: now.plus(self.limits.grace_ms) };
                Some(Action::Term(lease, why))
            }
            Phase::Terminating { why, kill_at } if now >= kill_at.min(self.lease_kill()) => {
                self.phase = Phase::Killing { why, at: now };
                Some(Action::Kill(lease, why))
            }
            Phase::Killing { why, at } if now >= at.plus(KILL_AGAIN_MS) => {
                self.phase = Phase::Killing { why, at: now };
                Some(Action::Kill(lease, why))
            }
            _ => None,
        }
    }

    /// What was given time to end by itself is killed next.
    fn give_no_time(&mut self) {
        if let Phase::Terminating { kill_at, .. } = &mut self.phase {
            *kill_at = BootMs(0);
        }
    }

    fn why(&self) -> Option<StopCause> {
        match self.phase {
            Phase::Running => self.asked,
            Phase::Terminating { why, .. } | Phase::Killing { why, .. } => Some(why),
        }
    }
}

/// The deadlines of all attempts of one host.
#[derive(Debug, Default)]
pub struct Watchdog {
    attempts: BTreeMap<LeaseId, Guarded>,
    /// When each attempt wants to be looked at.
    wakes: BTreeSet<(BootMs, LeaseId)>,
}

impl Watchdog {
    /// Whether an attempt may still be started at `now`: its lease has time left before stopping would begin.
    pub fn may_start(limits: &AttemptTimes, now: BootMs) -> bool {
        now < limits.deadline.minus(limits.kill_margin_ms).minus(limits.grace_ms)
    }

    /// Begins to guard an attempt; one that is already guarded stays as it is.
    pub fn start(&mut self, lease: LeaseId, limits: AttemptTimes) {
        if self.attempts.contains_key(&lease) {
            return;
        }
        let guarded = Guarded { limits, phase: Phase::Running, asked: None, wake: BootMs(0) };
        self.attempts.insert(lease, guarded);
        self.reschedule(lease);
    }

    /// The lease runs until `deadline`. Only a later one counts: a shorter one would shorten a promise already given.
    pub fn renew(&mut self, lease: LeaseId, deadline: BootMs) {
        if let Some(guarded) = self.attempts.get_mut(&lease)
            && deadline > guarded.limits.deadline
        {
            guarded.limits.deadline = deadline;
            self.reschedule(lease);
        }
    }

    /// The program began only now: its run time counts from here.
    pub fn began(&mut self, lease: LeaseId, started_at: BootMs, run_timeout_ms: u64) {
        if let Some(guarded) = self.attempts.get_mut(&lease) {
            guarded.limits.started_at = started_at;
            guarded.limits.run_timeout_ms = run_timeout_ms;
            self.reschedule(lease);
        }
    }

    /// Stops an attempt; the action comes from the next `tick`.
    pub fn stop(&mut self, lease: LeaseId, why: StopCause) {
        if let Some(guarded) = self.attempts.get_mut(&lease) {
            guarded.asked.get_or_insert(why);
            if why == StopCause::DiskExceeded {
                guarded.give_no_time();
            }
            self.reschedule(lease);
        }
    }

    /// The attempt is gone. Says why it was being stopped, none when it ended by itself.
    pub fn exited(&mut self, lease: LeaseId) -> Option<StopCause> {
        let why = self.stopped_by(lease);
        let guarded = self.attempts.remove(&lease)?;
        self.wakes.remove(&(guarded.wake, lease));
        why
    }

    /// What must be done now, in order of urgency. An attempt gets at most one action a tick.
    pub fn tick(&mut self, now: BootMs) -> Vec<Action> {
        let mut actions = Vec::new();
        let due: Vec<LeaseId> =
            self.wakes.iter().take_while(|(wake, _)| *wake <= now).map(|(_, lease)| *lease).collect();
        for lease in due {
            if let Some(guarded) = self.attempts.get_mut(&lease) {
                actions.extend(guarded.step(lease, now));
            }
            self.reschedule(lease);
        }
        actions
    }

    /// When `tick` wants to be called next.
    pub fn next_wake(&self) -> Option<BootMs> {
        self.wakes.first().map(|(wake, _)| *wake)
    }

    /// When the lease of an attempt ends.
    pub fn deadline(&self, lease: LeaseId) -> Option<BootMs> {
        self.attempts.get(&lease).map(|g| g.limits.deadline)
    }

    /// Why an attempt is being stopped, if it is.
    pub fn stopping(&self, lease: LeaseId) -> Option<StopCause> {
        self.attempts.get(&lease).and_then(Guarded::why)
    }

    /// Why an attempt was told to end; none while only asked for and not acted upon.
    pub fn stopped_by(&self, lease: LeaseId) -> Option<StopCause> {
        match self.attempts.get(&lease)?.phase {
            Phase::Running => None,
            Phase::Terminating { why, .. } | Phase::Killing { why, .. } => Some(why),
        }
    }

    /// The leases that are guarded.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.attempts.keys().copied()
    }

    /// Whether nothing is guarded.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    fn reschedule(&mut self, lease: LeaseId) {
        if let Some(guarded) = self.attempts.get_mut(&lease) {
            self.wakes.remove(&(guarded.wake, lease));
            guarded.wake = guarded.next_wake();
            self.wakes.insert((guarded.wake, lease));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stint_protocol::TaskId;

    use super::*;

    fn lease(n: u128) -> LeaseId {
        LeaseId { task: TaskId(n), attempt: 1 }
    }

    fn limits(deadline: u64) -> AttemptTimes {
        AttemptTimes {
            deadline: BootMs(deadline),
            grace_ms: 200,
            kill_margin_ms: 100,
            run_timeout_ms: 100_000,
            started_at: BootMs(0),
        }
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_inside_itself() {
        let (mut dog, a) = (Watchdog::default(), lease(1));
        dog.start(a, limits(1000));
        assert_eq!(dog.next_wake(), Some(BootMs(700)));
        assert_eq!(dog.tick(BootMs(699)), []);
        assert_eq!(dog.tick(BootMs(700)), [Action::Term(a, StopCause::LeaseOver)]);
        assert_eq!(dog.tick(BootMs(899)), []);
        assert_eq!(dog.tick(BootMs(900)), [Action::Kill(a, StopCause::LeaseOver)]);
        assert_eq!(
            dog.tick(BootMs(950)),
            [Action::Kill(a, StopCause::LeaseOver)],
            "repeated until it is gone"
        );
        assert_eq!(dog.exited(a), Some(StopCause::LeaseOver));
        assert_eq!(dog.next_wake(), None);
    }

    #[test]
    fn what_fills_the_disk_is_killed_at_once_also_while_it_may_still_end_by_itself() {
        let (mut dog, a, b) = (Watchdog::default(), lease(1), lease(2));
        dog.start(a, limits(1000));
        dog.start(b, limits(1000));
        dog.stop(b, StopCause::Cancelled);
        assert_eq!(dog.tick(BootMs(10)), [Action::Term(b, StopCause::Cancelled)]);
        dog.stop(a, StopCause::DiskExceeded);
        dog.stop(b, StopCause::DiskExceeded);
        let kills = dog.tick(BootMs(11));
        assert_eq!(kills, [Action::Kill(a, StopCause::DiskExceeded), Action::Kill(b, StopCause::Cancelled)]);
        assert_eq!(dog.exited(a).map(StopCause::end_kind), Some(EndKind::DiskExceeded));
    }

    #[test]
    fn renewals_extend_and_never_shorten() {
        let (mut dog, a) = (Watchdog::default(), lease(1));
        dog.start(a, limits(1000));
        dog.renew(a, BootMs(2000));
        dog.renew(a, BootMs(1500));
        assert_eq!(dog.deadline(a), Some(BootMs(2000)));
        assert_eq!(dog.tick(BootMs(1699)), []);
        assert_eq!(dog.tick(BootMs(1700)), [Action::Term(a, StopCause::LeaseOver)]);
        dog.renew(a, BootMs(5000));
        assert_eq!(
            dog.tick(BootMs(1900)),
            [Action::Kill(a, StopCause::LeaseOver)],
            "a late renewal does not save it"
        );
    }

    #[test]
    fn the_first_reason_stays() {
        let (mut dog, a) = (Watchdog::default(), lease(1));
        dog.start(a, AttemptTimes { run_timeout_ms: 300, ..limits(10_000) });
        assert_eq!(dog.tick(BootMs(300)), [Action::Term(a, StopCause::TimedOut)]);
        dog.stop(a, StopCause::Cancelled);
        assert_eq!(dog.tick(BootMs(500)), [Action::Kill(a, StopCause::TimedOut)]);
        assert_eq!(dog.exited(a), Some(StopCause::TimedOut));
    }

    #[test]
    fn a_program_that_ends_before_it_was_told_to_ended_by_itself() {
        let (mut dog, a) = (Watchdog::default(), lease(1));
        dog.start(a, limits(1000));
        dog.stop(a, StopCause::Cancelled);
        assert_eq!(dog.exited(a), None);
    }

    #[test]
    fn a_program_that_begins_late_has_its_whole_run_time() {
        let (mut dog, a) = (Watchdog::default(), lease(1));
        dog.start(a, AttemptTimes { run_timeout_ms: 5000, ..limits(10_000) });
        dog.began(a, BootMs(4000), 2000);
        assert_eq!(dog.tick(BootMs(5999)), []);
        assert_eq!(dog.tick(BootMs(6000)), [Action::Term(a, StopCause::TimedOut)]);
    }

    #[test]
    fn a_slept_through_deadline_kills_without_grace() {
        let (mut dog, a) = (Watchdog::default(), lease(1));
        dog.start(a, limits(1000));
        assert_eq!(dog.tick(BootMs(60_000)), [Action::Kill(a, StopCause::LeaseOver)]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Start(u8, u64, u64),
        Renew(u8, u64),
        Stop(u8),
        Exit(u8),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..4u8, 1..3000u64, 1..4000u64).prop_map(|(l, d, r)| Op::Start(l, d, r)),
            (0..4u8, 1..3000u64).prop_map(|(l, d)| Op::Renew(l, d)),
            (0..4u8).prop_map(Op::Stop),
            (0..4u8).prop_map(Op::Exit),
            (1..500u64).prop_map(Op::Pass),
        ]
    }

    /// The model: the latest deadline promised, and whether KILL was seen.
    #[derive(Default)]
    struct Model {
        now: u64,
        running: BTreeMap<LeaseId, (u64, bool)>,
    }

    impl Model {
        /// Lets time pass from wake to wake, as the shim does.
        fn pass(&mut self, dog: &mut Watchdog, until: u64) -> Result<(), TestCaseError> {
            while self.now < until {
                let wake = dog.next_wake().map_or(until, |w| w.0.max(self.now));
                self.now = wake.min(until);
                for action in dog.tick(BootMs(self.now)) {
                    if let Action::Kill(l, _) = action {
                        self.running.get_mut(&l).expect("only what runs is killed").1 = true;
                    }
                }
                for (l, (deadline, killed)) in &self.running {
                    prop_assert!(
                        *killed || self.now <= deadline.saturating_sub(100).max(1),
                        "{l} at {}",
                        self.now
                    );
                }
                if wake >= until {
                    break;
                }
                if dog.next_wake() == Some(BootMs(self.now)) {
                    return Err(TestCaseError::fail("tick must make progress"));
                }
            }
            self.now = until;
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn nothing_runs_past_its_deadline(ops in proptest::collection::vec(op(), 1..60)) {
            let (mut dog, mut model) = (Watchdog::default(), Model::default());
            for op in ops {
                match op {
                    Op::Start(l, length, run) => {
                        let l = lease(l.into());
                        let limits = AttemptTimes {
                            deadline: BootMs(model.now + length), grace_ms: 200, kill_margin_ms: 100,
                            run_timeout_ms: run, started_at: BootMs(model.now),
                        };
                        if Watchdog::may_start(&limits, BootMs(model.now)) {
                            dog.start(l, limits);
                            model.running.entry(l).or_insert((model.now + length, false));
                        }
                    }
                    Op::Renew(l, length) => {
                        let deadline = model.now + length;
                        dog.renew(lease(l.into()), BootMs(deadline));
                        if let Some(entry) = model.running.get_mut(&lease(l.into())) {
                            entry.0 = entry.0.max(deadline);
                            prop_assert_eq!(dog.deadline(lease(l.into())), Some(BootMs(entry.0)));
                        }
                    }
                    Op::Stop(l) => dog.stop(lease(l.into()), StopCause::Cancelled),
                    Op::Exit(l) => {
                        dog.exited(lease(l.into()));
                        model.running.remove(&lease(l.into()));
                    }
                    Op::Pass(ms) => {
                        let until = model.now + ms;
                        model.pass(&mut dog, until)?;
                    }
                }
            }
        }
    }
}
