//! Sees everything from outside: writes the trace and asks the checkers. The first violation ends the simulation.

use std::sync::{Arc, Mutex, MutexGuard};

use stint_executor::Launch;
use stint_protocol::{BootMs, EndKind, GpuId, LeaseId, NodeOffer, Resources, TaskId, Version};
use stint_raft::Position;
use stint_scheduler::State;

use crate::checkers::{
    Answers, Fencing, Floor, HonestOutcome, Kept, LogMatching, NoOvercommit, OneAttempt, OneHolder,
    OneLeader, Released, SameState, TimeKeeps, Versions, bounded, deadlines,
};
use crate::clock::WorldTime;
use crate::event::Event;
use crate::trace::Trace;

/// What kind of rule was broken; also the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something happened that never may.
    Safety = 10,
    /// Something that must happen did not.
    Liveness = 11,
    /// A panic, or a peer that gave up.
    Crash = 13,
}

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    pub severity: Severity,
    pub rule: &'static str,
    pub what: String,
}

/// An attempt that runs on a machine.
pub struct Start {
    pub machine: u64,
    pub lease: LeaseId,
    pub gpus: Vec<GpuId>,
    pub needs: Resources,
}

impl Start {
    /// From its launch.
    pub fn from_launch(machine: u64, launch: &Launch) -> Self {
        let gpus = launch.gpus.iter().map(|gpu| gpu.id.clone()).collect();
        Self { machine, lease: launch.lease, gpus, needs: launch.spec.resources() }
    }
}

/// Shared by the world and everything in it.
#[derive(Clone)]
pub struct Oracle {
    time: WorldTime,
    book: Arc<Mutex<OracleState>>,
}

#[derive(Default)]
struct OracleState {
    trace: Trace,
    one_leader: OneLeader,
    same_state: SameState,
    log_matching: LogMatching,
    time_keeps: TimeKeeps,
    versions: Versions,
    one_attempt: OneAttempt,
    one_holder: OneHolder,
    no_overcommit: NoOvercommit,
    released: Released,
    fencing: Fencing,
    honest_outcome: HonestOutcome,
    kept: Kept,
    answers: Answers,
    violation: Option<Violation>,
}

impl OracleState {
    fn note(&mut self, at_ms: u64, result: Result<(), String>, rule: &'static str) {
        if let Err(what) = result {
            self.violate(at_ms, Violation { severity: Severity::Safety, rule, what });
        }
    }

    fn violate(&mut self, at_ms: u64, violation: Violation) {
        self.trace.add(at_ms, Event::Violation { rule: violation.rule, what: violation.what.clone() });
        self.violation.get_or_insert(violation);
    }

    fn runs(&mut self, at: u64, start: &Start) {
        let Start { machine, lease, gpus, needs } = start;
        let holder = self.one_holder.taken(*lease, gpus);
        self.note(at, holder, "one holder a GPU");
        let fits = self.no_overcommit.started(*lease, *machine, *needs);
        self.note(at, fits, "no machine runs more than it offers");
    }

    fn stops(&mut self, machine: u64, lease: LeaseId) {
        self.one_attempt.stopped(lease);
        self.one_holder.freed(lease);
        self.no_overcommit.stopped(lease, machine);
    }
}

impl Oracle {
    /// Has seen nothing yet. The cluster's leaders wait for this margin beyond a lease.
    pub fn new(time: WorldTime, lease_margin_ms: u64) -> Self {
        let book = OracleState { released: Released::new(lease_margin_ms), ..OracleState::default() };
        Self { time, book: Arc::new(Mutex::new(book)) }
    }

    fn book(&self) -> MutexGuard<'_, OracleState> {
        self.book.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a line to the trace.
    pub fn say(&self, what: &str) {
        self.tell(Event::Said(what.to_owned()));
    }

    /// Adds an event to the trace.
    pub fn tell(&self, event: Event) {
        self.book().trace.add(self.time.ms(), event);
    }

    /// A rule was broken.
    pub fn violate(&self, severity: Severity, rule: &'static str, what: String) {
        self.book().violate(self.time.ms(), Violation { severity, rule, what });
    }

    /// The first broken rule.
    pub fn violation(&self) -> Option<Violation> {
        self.book().violation.clone()
    }

    /// Whether a rule was broken.
    pub fn is_over(&self) -> bool {
        self.book().violation.is_some()
    }

    /// A peer knows who leads a term.
    pub fn on_leader(&self, term: u64, leader: u64) {
        let (at, mut book) = (self.time.ms(), self.book());
        let seen = book.one_leader.seen(term, leader);
        if seen == Ok(true) {
            book.trace.add(at, Event::Leads { term, peer: leader });
        }
        book.note(at, seen.map(|_| ()), "one leader a term");
    }

    /// A process (`life`) of a replica has applied up to `at`.
    pub fn on_state(&self, peer: u64, life: u64, at: Position, state: &State) {
        let (now, mut book) = (self.time.ms(), self.book());
        let matches = book.log_matching.applied(peer, life, at);
        book.note(now, matches, "every replica applies the same log");
        let seen = book.same_state.seen(peer, at.index, state);
        if let Ok(Some(digest)) = seen {
            book.trace.add(now, Event::Applied { index: at.index, digest });
            let keeps = book.time_keeps.first_seen(at, state.time(), now);
            book.note(now, keeps, "the cluster's time goes with real time");
        }
        // A state that was seen before has nothing new.
        let news = !matches!(seen, Ok(None));
        book.note(now, seen.map(|_| ()), "same state on every replica");
        if news {
            let released = book.released.first_seen(at.index, state, now);
            book.note(now, released, "a lease ends when its attempt has stopped");
            self.on_outcomes(now, &mut book, state);
        }
    }

    /// The first state of a process, which it may have read from a snapshot: peers check only what they meet in one.
    pub fn on_first_state(&self, peer: u64, state: &State) {
        let broken = |broken| format!("the state of node {peer} is not sound: {broken}");
        let sound = stint_scheduler::check(state).map_err(broken);
        let now = self.time.ms();
        self.book().note(now, sound, "same state on every replica");
    }

    /// A replica whose peer may speak `speaks` has applied up to `at`, where the cluster speaks `version`.
    pub fn on_version(&self, peer: u64, speaks: Version, at: Position, version: Version) {
        let (now, mut book) = (self.time.ms(), self.book());
        let seen = book.versions.seen(peer, speaks, at.index, version);
        book.note(now, seen, "the cluster's version only grows, with every member");
    }

    fn on_outcomes(&self, now: u64, book: &mut OracleState, state: &State) {
        match book.kept.seen(state) {
            Ok(new) => {
                for (task, outcome) in new {
                    let honest = book.honest_outcome.recorded(task, &outcome);
                    book.note(now, honest, "an outcome is what happened");
                }
            }
            Err(what) => book.note(now, Err(what), "an outcome never changes"),
        }
    }

    /// What a machine offers.
    pub fn on_offer(&self, machine: u64, offer: NodeOffer) {
        self.book().no_overcommit.offers(machine, offer);
    }

    /// A machine begins to run an attempt.
    pub fn on_start(&self, start: &Start) {
        let (at, mut book) = (self.time.ms(), self.book());
        let Start { machine, lease, gpus, .. } = start;
        book.trace.add(at, Event::Started { machine: *machine, lease: *lease, gpus: gpus.clone() });
        let one = book.one_attempt.started(*lease, *machine);
        book.note(at, one, "one running attempt a task");
        let fenced = book.fencing.started(*lease, *machine);
        book.note(at, fenced, "fencing tokens only grow");
        if book.kept.is_over(lease.task) {
            let what = format!("attempt {lease} starts after its task's outcome was recorded");
            book.note(at, Err(what), "nothing runs after its outcome");
        }
        book.runs(at, start);
    }

    /// A machine was given a lease, or more time of it: so much is left, less than nothing when it is over already.
    pub fn on_given(&self, lease: LeaseId, left_ms: i64) {
        let until_ms = self.time.ms().saturating_add_signed(left_ms);
        self.book().released.given(lease, until_ms);
    }

    /// A peer acts as the leader.
    pub fn on_leadership(&self, peer: u64, term: u64, applied_term: u64) {
        if term != applied_term {
            let what =
                format!("peer {peer} leads term {term} and has applied entries of term {applied_term}");
            self.violate(Severity::Safety, "a leader begins with an entry of its own term", what);
        }
    }

    /// An attempt has ended; it may never have run.
    pub fn on_end(&self, machine: u64, lease: LeaseId, end: &EndKind, ran: bool) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.honest_outcome.ended(lease, end);
        book.released.ended(lease);
        if ran {
            book.trace.add(at, Event::Ended { machine, lease, end: Some(end.clone()) });
            book.stops(machine, lease);
        }
    }

    /// Another honest word for how an attempt ended.
    pub fn on_seen_as(&self, lease: LeaseId, end: &EndKind) {
        self.book().honest_outcome.ended(lease, end);
    }

    /// A running attempt is gone with its machine's power.
    pub fn on_power_lost(&self, machine: u64, lease: LeaseId) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.trace.add(at, Event::Ended { machine, lease, end: None });
        book.stops(machine, lease);
    }

    /// A machine is suspended: nothing on it uses anything.
    pub fn on_suspend(&self, machine: u64) {
        let mut book = self.book();
        for lease in book.one_attempt.suspended(machine) {
            book.stops(machine, lease);
        }
    }

    /// A suspended machine goes on with these attempts, whose leases have time left.
    pub fn on_wake(&self, goes_on: Vec<Start>) {
        let (at, mut book) = (self.time.ms(), self.book());
        for start in goes_on {
            let one = book.one_attempt.runs(start.lease, start.machine);
            book.note(at, one, "one running attempt a task");
            book.runs(at, &start);
        }
    }

    /// An attempt runs, and must have ended by `until`.
    pub fn on_running(&self, machine: u64, lease: LeaseId, now: BootMs, until: BootMs) {
        if let Err(what) = deadlines::running(machine, lease, now, until) {
            self.violate(Severity::Safety, "nothing outlives its lease", what);
        }
    }

    /// A machine has spooled so many ends.
    pub fn on_spool(&self, machine: u64, ends: usize) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.note(at, bounded::spool(machine, ends), "what must stay small does");
    }

    /// A peer's disk holds so much.
    pub fn on_disk(&self, peer: u64, bytes: usize) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.note(at, bounded::disk(peer, bytes), "what must stay small does");
    }

    /// A client was told that its submit is kept.
    pub fn on_acknowledged(&self, key: &str, first: TaskId, count: u32) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.trace.add(at, Event::Acknowledged { key: key.to_owned(), first, count });
        let known = book.kept.acknowledged(key, first, count);
        book.note(at, known, "one answer a request");
        book.answers.submitted(first, count);
    }

    /// A client was told that a task is cancelled.
    pub fn on_cancelled(&self, task: TaskId) {
        self.book().answers.cancelled(task);
    }

    /// A read begins.
    pub fn on_read_begins(&self) -> Floor {
        self.book().answers.floor()
    }

    /// A read that began then shows this state.
    pub fn on_read(&self, floor: Floor, state: &State) {
        let (at, mut book) = (self.time.ms(), self.book());
        let read = book.answers.read(floor, state);
        book.note(at, read, "reads show what was acknowledged");
    }

    /// A read that began then shows one task as finished or not, or does not know it.
    pub fn on_look(&self, floor: Floor, task: TaskId, is_finished: Option<bool>) {
        let (at, mut book) = (self.time.ms(), self.book());
        let looked = book.answers.look(floor, task, is_finished);
        book.note(at, looked, "reads show what was acknowledged");
    }

    /// Every acknowledged task.
    pub fn acknowledged(&self) -> Vec<TaskId> {
        self.book().kept.tasks().collect()
    }

    /// Acknowledged tasks without an outcome.
    pub fn unfinished(&self) -> Vec<TaskId> {
        self.book().kept.unfinished()
    }

    /// Attempts that run on machines now.
    pub fn running(&self) -> usize {
        self.book().one_attempt.running()
    }

    /// A number that changes as long as work gets done.
    pub fn progress(&self) -> usize {
        let book = self.book();
        book.one_attempt.total() + book.kept.outcomes()
    }

    /// One line that sums up.
    pub fn summary(&self) -> String {
        let book = self.book();
        let tasks = book.kept.tasks().count();
        format!("tasks {tasks} attempts {} ended {:?}", book.one_attempt.total(), book.kept.ended())
    }

    /// Everything that happened.
    pub fn trace(&self) -> Trace {
        self.book().trace.clone()
    }
}
