//! Sees everything from outside: keeps the trace and asks the checkers. The first violation ends the seed.

use stint_node::applied_state::{LogEntry, Results};
use stint_node::limits;
use stint_node::wire::{Orders, Report};
use stint_protocol::{
    BootMs, CheckpointId, EndKind, GpuId, IdempotencyKey, InstanceId, LeaseId, NodeId, SharedSpec, TaskId,
};
use stint_scheduler::{Change, Command, InstanceCommand, State};

use super::checkers::{
    AckedCheckpoints, Bounds, Committed, Deadlines, Endings, InForce, InstanceFencing, OneEnd, Outcomes,
    Promises, Replicas, Room, Signals, Stamps, Steps, Wakes, alone, touched,
};
use super::log::Log;
use super::process::Process;
use super::shape::Shape;
use super::trace::Trace;
use super::world::node_id;
use crate::checkers::{OneAttempt, OneHolder};
use crate::oracle::{Severity, Violation};

/// All checkers of one seed.
pub struct Oracle {
    pub now: u64,
    pub trace: Trace,
    pub violation: Option<Violation>,
    one_attempt: OneAttempt,
    one_holder: OneHolder,
    in_force: InForce,
    deadlines: Deadlines,
    room: Room,
    outcomes: Outcomes,
    endings: Endings,
    promises: Promises,
    replicas: Replicas,
    stamps: Stamps,
    workflows: WorkflowCheckers,
}

/// What is checked of workflow instances.
#[derive(Default)]
struct WorkflowCheckers {
    acked: AckedCheckpoints,
    steps: Steps,
    wakes: Wakes,
    signals: Signals,
    one_end: OneEnd,
    fencing: InstanceFencing,
}

impl Oracle {
    pub fn new(shape: &Shape, keep_text: bool) -> Self {
        Self {
            now: 0,
            trace: Trace::new(keep_text),
            violation: None,
            one_attempt: OneAttempt::default(),
            one_holder: OneHolder::default(),
            in_force: InForce::default(),
            deadlines: Deadlines::default(),
            room: Room::new(&shape.offers),
            outcomes: Outcomes::default(),
            endings: Endings::default(),
            promises: Promises::default(),
            replicas: Replicas::default(),
            stamps: Stamps::default(),
            workflows: WorkflowCheckers::default(),
        }
    }

    pub fn violate(&mut self, severity: Severity, rule: &'static str, what: String) {
        self.trace.note(self.now, "VIOLATION", severity as u64, 0, || format!("{rule}: {what}"));
        self.violation.get_or_insert(Violation { severity, rule, what });
    }

    /// A rule of safety was broken.
    pub fn broken(&mut self, rule: &'static str, what: String) {
        self.violate(Severity::Safety, rule, what);
    }

    fn note(&mut self, result: Result<(), String>, rule: &'static str) {
        if let Err(what) = result {
            self.broken(rule, what);
        }
    }

    /// The log has a new entry, proposed at `proposed_at`.
    pub fn committed(&mut self, index: u64, proposed_at: u64, log: &Log, results: &Results) {
        let Some(logged) = log.entries.last() else { return };
        if logged.entry.commands.is_empty() {
            return;
        }
        let detail = || format!("{:?}", logged.entry.commands.iter().map(name).collect::<Vec<_>>());
        self.trace.note(self.now, "entry", index, logged.entry.now.0, detail);
        let stamped = self.stamps.committed(logged.term, logged.entry.now, proposed_at);
        self.note(stamped, "the cluster's time goes on with real time");
        for (command, result) in logged.entry.commands.iter().zip(results) {
            if let Command::Instance(command) = command {
                self.flow_committed(command, result.as_ref().ok(), log.state());
            }
            if let Ok(changes) = result {
                self.changed(changes, log.state());
            }
        }
        match self.replicas.committed(log) {
            Ok(true) => {
                let agree = self.outcomes.agree(log.state());
                self.note(agree, "an outcome never changes");
            }
            Ok(false) => {}
            Err(what) => self.broken("same sound state on every replica", what),
        }
    }

    fn changed(&mut self, changes: &[Change], state: &State) {
        for change in changes {
            self.trace.note(self.now, "change", 0, 0, || format!("{change:?}"));
        }
        self.note(touched(changes, state), "what an entry changed is sound");
        self.note(alone(changes, state), "a dedicated tenant shares no node");
        let over = self.in_force.changed(changes);
        self.note(over, "a lease is over only when its attempt is gone");
        let outcomes = self.outcomes.changed(changes);
        self.note(outcomes, "an outcome never changes");
        self.workflows.fencing.changed(changes);
        let wakes = self.workflows.wakes.changed(changes, state);
        self.note(wakes, "a sleep ends once, at its time");
        let one_end = self.workflows.one_end.changed(changes, state);
        self.note(one_end, "an instance ends once");
        let endings = self.endings.changed(changes, state);
        self.note(endings, "an ending is that of its attempt");
    }

    fn flow_committed(&mut self, command: &InstanceCommand, changes: Option<&Vec<Change>>, state: &State) {
        let of_it = |change: &Change| match change {
            Change::Instance(change) => Some(change.clone()),
            _ => None,
        };
        let changes: Option<Vec<_>> = changes.map(|changes| changes.iter().filter_map(of_it).collect());
        let it = Committed { command, changes: changes.as_deref(), state };
        let now = state.time();
        let checkers = &mut self.workflows;
        let results = [
            (checkers.fencing.committed(&it), "nobody writes for a launch that is over"),
            (checkers.acked.committed(&it), "the first state of a step stays"),
            (checkers.wakes.committed(&it, now), "a sleep ends once, at its time"),
            (checkers.signals.committed(&it, now), "a signal is seen, and seen once"),
        ];
        checkers.steps.committed(&it);
        checkers.one_end.committed(&it);
        results.into_iter().for_each(|(result, rule)| self.note(result, rule));
    }

    /// A program has done a step.
    pub fn flow_did(&mut self, id: &InstanceId, step: &CheckpointId, attempt: u32, records_first: bool) {
        self.trace.note(self.now, "did", attempt.into(), 0, || format!("{id} {step}"));
        let did = self.workflows.steps.did(id, step, attempt, records_first);
        self.note(did, "a recorded step is never done again, and none is skipped");
    }

    /// A program passes over a step that is done.
    pub fn flow_skipped(&mut self, id: &InstanceId, step: &CheckpointId, attempt: u32, records_first: bool) {
        let skipped = self.workflows.steps.skipped(id, step, attempt, records_first);
        self.note(skipped, "a recorded step is never done again, and none is skipped");
    }

    /// A program hears that its step is kept.
    pub fn flow_acknowledged(&mut self, id: &InstanceId, step: &CheckpointId, state: &State) {
        let kept = self.workflows.acked.acknowledged(id, step, state);
        self.note(kept, "the first state of a step stays");
    }

    /// A program gets what was sent to its step. `again`: it had got the same.
    pub fn flow_given(&mut self, id: &InstanceId, attempt: u32, again: bool) {
        if again {
            let what = format!("attempt {attempt} of {id} got the same custom signal twice");
            self.broken("a signal is seen, and seen once", what);
        }
    }

    /// A leader makes orders.
    pub fn ordered(&mut self, report: &Report, orders: &Orders) {
        let (node, grants) = (report.node.0, orders.grants.len() as u64);
        self.trace.note(self.now, "orders", node << 32 | report.sequence, grants, || {
            let launches = orders.grants.iter().filter(|grant| grant.launch.is_some()).count();
            let (sequence, term, sent) = (report.sequence, orders.term, report.sent.0);
            let ttl: Vec<u64> = orders.grants.iter().map(|grant| grant.ttl_ms).collect();
            format!("node {node} report {sequence} of {sent} term {term} for {ttl:?} launches {launches}")
        });
        self.deadlines.ordered(report, orders);
    }

    /// A host begins to run an attempt.
    pub fn began(&mut self, node: usize, lease: LeaseId, gpus: &[GpuId], spec: &SharedSpec, state: &State) {
        let detail = || format!("node {} runs {lease} {gpus:?}", node + 1);
        self.trace.note(
            self.now,
            "runs",
            node as u64,
            lease.task.0 as u64 ^ u64::from(lease.attempt),
            detail,
        );
        let one = self.one_attempt.started(lease, node as u64 + 1);
        self.note(one, "one running attempt a task");
        let holder = self.one_holder.taken(lease, gpus);
        self.note(holder, "one holder a GPU");
        let in_force = self.in_force.began(node_id(node), lease, gpus, state);
        self.note(in_force, "an attempt runs only under its lease");
        let room = self.room.began(node, lease, spec);
        self.note(room, "what runs on a node fits on it");
    }

    /// An attempt ended by itself or was killed, at `boot` by its node's clock.
    pub fn ended(&mut self, node: usize, lease: LeaseId, kind: &EndKind, boot: BootMs) {
        let detail = || format!("node {} ended {lease} {} at {}", node + 1, kind.as_str(), boot.0);
        self.trace.note(
            self.now,
            "ended",
            node as u64,
            lease.task.0 as u64 ^ u64::from(lease.attempt),
            detail,
        );
        let deadline = self.deadlines.ended(lease, boot);
        self.note(deadline, "an attempt is gone when its lease ends");
        self.forget(lease);
    }

    /// An attempt is gone with its machine.
    pub fn gone(&mut self, lease: LeaseId) {
        self.deadlines.gone(lease);
        self.forget(lease);
    }

    fn forget(&mut self, lease: LeaseId) {
        self.one_attempt.stopped(lease);
        self.one_holder.freed(lease);
        self.in_force.ended(lease);
        self.room.ended(lease);
    }

    /// A client was told that its submit is kept.
    pub fn acknowledged(
        &mut self,
        key: &IdempotencyKey,
        first: TaskId,
        count: u32,
        as_new: bool,
        state: &State,
    ) {
        self.trace.note(self.now, "acknowledged", first.0 as u64, count.into(), || {
            format!("{key} {first} x {count}")
        });
        let kept = self.promises.acknowledged(key, (first, count), as_new, state, &self.outcomes);
        self.note(kept, "acknowledged is kept");
    }

    /// A leader writes an entry.
    pub fn written(&mut self, entry: &LogEntry) {
        let bytes = stint_node::wire::encode(entry).len();
        if bytes > limits::ENTRY_BYTES {
            let what =
                format!("{bytes} bytes, {} at most: it is refused again and again", limits::ENTRY_BYTES);
            self.broken("the log takes every entry", what);
        }
    }

    /// A leader has nothing to write, and a task waits that fits on a node.
    pub fn waits_for_no_plan(&mut self, task: TaskId, node: NodeId) {
        let what = format!("task {task} fits on node {node}, and the leader's last plan left it waiting");
        self.violate(Severity::Liveness, "a task that fits waits for no plan", what);
    }

    /// Whether an entry does what its leader found out while drafting it.
    pub fn found_out(&mut self, is_so: bool, entry: &LogEntry) {
        if !is_so {
            let what = format!("the entry of {} ms does not do what its leader found out", entry.now.0);
            self.violate(Severity::Safety, "same sound state on every replica", what);
        }
    }

    /// Looks at the sizes of queues.
    pub fn bounded(&mut self, events: usize, peers: &[Process]) {
        let bounds = Bounds::hold(events, peers);
        self.note(bounds, "queues are bounded");
    }

    /// An acknowledged task without an outcome.
    pub fn unfinished(&self) -> Option<TaskId> {
        self.promises.unfinished(&self.outcomes)
    }

    /// Attempts that ever ran, and tasks that finished.
    pub fn counts(&self) -> (usize, usize) {
        (self.one_attempt.total(), self.outcomes.count())
    }
}

fn name(command: &stint_scheduler::Command) -> String {
    let text = format!("{command:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}
