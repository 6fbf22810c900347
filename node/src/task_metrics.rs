//! What this peer saw happen to tasks since it started: counters and histograms of every class (docs/using/metrics.md).
//! They come from the applied log, so each peer counts the whole cluster.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use stint_protocol::{Class, EndKind, Outcome, TaskId};
use stint_scheduler::{Change, State};

/// Upper ends of the buckets of run times and waits, in seconds. Dashboards add the same buckets of all peers: to change
/// them breaks what they show across an upgrade.
pub(crate) const BUCKETS_S: [f64; 12] =
    [0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0];

/// How tasks end, as dashboards tell it.
const OUTCOMES: [&str; 5] = ["completed", "failed", "timed_out", "cancelled", "denied"];

fn outcome_index(outcome: &Outcome) -> usize {
    match outcome.kind {
        _ if outcome.succeeded() => 0,
        EndKind::TimedOut => 2,
        EndKind::Cancelled => 3,
        EndKind::Denied => 4,
        _ => 1,
    }
}

/// Of one class; looked up once, because an entry may end thousands of tasks.
struct ClassMetrics {
    ended: [IntCounter; OUTCOMES.len()],
    ran: [Histogram; OUTCOMES.len()],
    waited: Histogram,
}

/// The counters of one peer.
pub struct TaskMetrics {
    tasks: IntCounterVec,
    durations: HistogramVec,
    waits: HistogramVec,
    retries: IntCounterVec,
    classes: Vec<ClassMetrics>,
    /// What the log held when this process began was counted by an earlier one.
    from: AtomicU64,
}

impl TaskMetrics {
    /// Nothing happened yet, and nothing is counted before `begin`.
    pub fn new() -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(BUCKETS_S.to_vec());
        let by_outcome = ["class", "outcome"];
        let help = "Tasks that finished, in the whole cluster, since this peer started";
        let tasks = IntCounterVec::new(Opts::new("stint_tasks_total", help), &by_outcome)?;
        let help = "How long the last attempt of a finished task ran";
        let durations = HistogramVec::new(histogram("stint_task_duration_seconds", help), &by_outcome)?;
        let help = "How long tasks waited for a node, since their submit or the end of the attempt before";
        let waits = HistogramVec::new(histogram("stint_queue_wait_seconds", help), &["class"])?;
        let help = "Attempts after which a task was queued again, by how the attempt ended";
        let retries = IntCounterVec::new(Opts::new("stint_retries_total", help), &["class", "kind"])?;
        let of_class = |class: Class| ClassMetrics {
            ended: OUTCOMES.map(|outcome| tasks.with_label_values(&[class.as_str(), outcome])),
            ran: OUTCOMES.map(|outcome| durations.with_label_values(&[class.as_str(), outcome])),
            waited: waits.with_label_values(&[class.as_str()]),
        };
        let classes = Class::ALL.into_iter().map(of_class).collect();
        Ok(Self { tasks, durations, waits, retries, classes, from: AtomicU64::new(u64::MAX) })
    }

    /// Counts what is applied after this index.
    pub fn begin(&self, last_stored: u64) {
        self.from.store(last_stored, Ordering::Relaxed);
    }

    /// Counts the changes of a command; `state` is what it made.
    pub fn note(&self, index: u64, state: &State, changes: &[Change]) {
        if index <= self.from.load(Ordering::Relaxed) {
            return;
        }
        for change in changes {
            match change {
                Change::Finished { class, outcome, .. } => self.finished(*class, outcome),
                Change::Leased { lease, .. } => self.leased(state, lease.task),
                Change::Queued { task } => self.queued_again(state, *task),
                _ => {}
            }
        }
    }

    fn of_class(&self, class: Class) -> Option<&ClassMetrics> {
        Class::ALL.iter().position(|known| *known == class).and_then(|at| self.classes.get(at))
    }

    fn finished(&self, class: Class, outcome: &Outcome) {
        let Some(of) = self.of_class(class) else { return };
        let at = outcome_index(outcome);
        of.ended[at].inc();
        of.ran[at].observe(outcome.run_ms as f64 / 1_000.0);
    }

    fn leased(&self, state: &State, id: TaskId) {
        let Some(task) = state.task(id) else { return };
        let (Some(leased), Some(of)) = (task.leased(), self.of_class(task.spec.class)) else { return };
        let queued_since = task.fields.records.last().map_or(task.fields.submitted_at, |last| last.ended_at);
        of.waited.observe(leased.since.since(queued_since) as f64 / 1_000.0);
    }

    fn queued_again(&self, state: &State, id: TaskId) {
        let Some(task) = state.task(id) else { return };
        // The first time it was submitted, not retried.
        let Some(last) = task.fields.records.last() else { return };
        self.retries.with_label_values(&[task.spec.class.as_str(), last.end.as_str()]).inc();
    }

    /// Adds them to what is shown.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let all: [Box<dyn Collector>; 4] = [
            Box::new(self.tasks.clone()),
            Box::new(self.durations.clone()),
            Box::new(self.waits.clone()),
            Box::new(self.retries.clone()),
        ];
        all.into_iter().try_for_each(|one| registry.register(one))
    }
}
