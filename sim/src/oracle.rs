//! Sees everything from outside: writes the trace and asks the checkers. The first violation ends the simulation.

use std::sync::{Arc, Mutex, MutexGuard};

use stint_protocol::{EndKind, GpuId, LeaseId, TaskId};
use stint_scheduler::State;

use crate::checkers::{Kept, OneAttempt, OneHolder, OneLeader, SameState};
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

/// Shared by the world and everything in it.
#[derive(Clone)]
pub struct Oracle {
    time: WorldTime,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    trace: Trace,
    one_leader: OneLeader,
    same_state: SameState,
    one_attempt: OneAttempt,
    one_holder: OneHolder,
    kept: Kept,
    violation: Option<Violation>,
}

impl Book {
    fn note(&mut self, at_ms: u64, result: Result<(), String>, rule: &'static str) {
        if let Err(what) = result {
            self.violate(at_ms, Violation { severity: Severity::Safety, rule, what });
        }
    }

    fn violate(&mut self, at_ms: u64, violation: Violation) {
        self.trace.add(at_ms, Event::Violation { rule: violation.rule, what: violation.what.clone() });
        self.violation.get_or_insert(violation);
    }
}

impl Oracle {
    /// Has seen nothing yet.
    pub fn new(time: WorldTime) -> Self {
        Self { time, book: Arc::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
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

    /// A peer knows who leads a term.
    pub fn on_leader(&self, term: u64, leader: u64) {
        let (at, mut book) = (self.time.ms(), self.book());
        let seen = book.one_leader.seen(term, leader);
        if seen == Ok(true) {
            book.trace.add(at, Event::Leads { term, peer: leader });
        }
        book.note(at, seen.map(|_| ()), "one leader a term");
    }

    /// A replica has applied up to `index`.
    pub fn on_state(&self, peer: u64, index: u64, state: &State) {
        let (at, mut book) = (self.time.ms(), self.book());
        let seen = book.same_state.seen(peer, index, state);
        if let Ok(Some(digest)) = seen {
            book.trace.add(at, Event::Applied { index, digest });
        }
        book.note(at, seen.map(|_| ()), "same state on every replica");
        let kept = book.kept.seen(state);
        book.note(at, kept, "an outcome never changes");
    }

    /// A machine begins to run an attempt.
    pub fn on_start(&self, machine: u64, lease: LeaseId, gpus: &[GpuId]) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.trace.add(at, Event::Started { machine, lease, gpus: gpus.to_vec() });
        let one = book.one_attempt.started(lease, machine);
        book.note(at, one, "one running attempt a task");
        let holder = book.one_holder.taken(lease, gpus);
        book.note(at, holder, "one holder a GPU");
    }

    /// An attempt is gone from its machine.
    pub fn on_stop(&self, machine: u64, lease: LeaseId, end: Option<&EndKind>) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.trace.add(at, Event::Ended { machine, lease, end: end.cloned() });
        book.one_attempt.stopped(lease);
        book.one_holder.freed(lease);
    }

    /// A client was told that its submit is kept.
    pub fn on_acknowledged(&self, key: &str, first: TaskId, count: u32) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.trace.add(at, Event::Acknowledged { key: key.to_owned(), first, count });
        let known = book.kept.acknowledged(key, first, count);
        book.note(at, known, "one answer a request");
    }

    /// A client asked for the state after these tasks had been acknowledged.
    pub fn on_read(&self, tasks: &[TaskId], state: &State) {
        let (at, mut book) = (self.time.ms(), self.book());
        book.note(at, Kept::missing(tasks, state), "acknowledged is kept");
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
