//! The state as this peer has applied it, and who waits for it to change.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use minicbor::{Decode, Encode};
use stint_protocol::{NodeId, TaskId, TimeMs, Version};
use stint_raft::{Capture, Position, StateMachine};
use stint_scheduler::{
    Change, Command, Rejection, StampedCommand, State, apply, read_snapshot, write_snapshot,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::executor_metrics::ExecutorMetrics;
use crate::task_metrics::TaskMetrics;
use crate::waiters::{Waiters, WaitsFull, task_of};

/// What one log entry holds: commands with one time.
#[derive(Clone, Debug, Encode, Decode)]
pub struct LogEntry {
    #[n(0)]
    pub now: TimeMs,
    #[n(1)]
    pub commands: Vec<Command>,
}

/// What became of an entry's commands, one by one.
pub type Results = Vec<Result<Vec<Change>, Rejection>>;

/// Shared between the state machine's task and everything that reads.
pub struct AppliedState {
    inner: Mutex<Inner>,
    applied: watch::Sender<u64>,
    /// Wakes a held report of a node when its orders may have changed.
    orders: Mutex<BTreeMap<NodeId, Arc<Notify>>>,
    /// Requests that wait for tasks.
    pub waiters: Arc<Waiters>,
    /// Wakes the leader's loop when there may be something to plan.
    pub plan: Notify,
    /// The highest version that this peer may speak.
    pub speaks: Version,
    outgrown: OnceLock<VersionTooOld>,
    /// What happened since this process began.
    pub counts: TaskMetrics,
    /// What its execution host did.
    pub work: ExecutorMetrics,
}

/// The log went beyond what this peer may speak: it must stop, or its state would be another than that of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster speaks {needs} and this peer at most {}: upgrade it (install the stint that the other peers run, and \
     remove [cluster] max_version where it is set) and start it again; its data folder is good", speaks.0
)]
pub struct VersionTooOld {
    pub needs: Version,
    pub speaks: Version,
}

struct Inner {
    state: State,
    at: Position,
    /// What the batch has changed so far.
    touched: Touched,
}

/// What changed, and who is to be woken for it.
#[derive(Default)]
struct Touched {
    nodes: Vec<NodeId>,
    tasks: Vec<TaskId>,
}

/// The state at one moment, cheap to take.
pub struct View {
    pub state: State,
    pub at: Position,
}

impl AppliedState {
    /// An empty state of a peer that may speak this.
    pub fn new(speaks: Version) -> Result<Arc<Self>, prometheus::Error> {
        let at = Position { index: 0, term: 0 };
        let inner = Inner { state: State::default(), at, touched: Touched::default() };
        Ok(Arc::new(Self {
            inner: Mutex::new(inner),
            applied: watch::Sender::new(0),
            orders: Mutex::new(BTreeMap::new()),
            waiters: Arc::default(),
            plan: Notify::new(),
            speaks,
            outgrown: OnceLock::new(),
            counts: TaskMetrics::new()?,
            work: ExecutorMetrics::new()?,
        }))
    }

    /// The state now.
    pub fn view(&self) -> View {
        let inner = self.lock();
        View { state: inner.state.clone(), at: inner.at }
    }

    /// Why this peer had to stop, when that is for its version.
    pub fn outgrown(&self) -> Option<VersionTooOld> {
        self.outgrown.get().copied()
    }

    /// Whether this peer may speak what is needed.
    fn can_follow(&self, needs: Version) -> Result<(), String> {
        if needs <= self.speaks {
            return Ok(());
        }
        let outgrown = self.outgrown.get_or_init(|| VersionTooOld { needs, speaks: self.speaks });
        Err(outgrown.to_string())
    }

    /// Follows the applied index.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// What a held report of `node` waits on.
    pub fn orders_changed(&self, node: NodeId) -> Arc<Notify> {
        let mut orders = self.orders.lock().unwrap_or_else(|e| e.into_inner());
        orders.entry(node).or_default().clone()
    }

    /// Waits until `done` holds for the state, or the time is over; answers whether it held. It is asked again after each
    /// change of one of these tasks.
    pub async fn wait_for(
        &self,
        tasks: &[TaskId],
        until: Instant,
        mut done: impl FnMut(&State) -> bool,
    ) -> Result<bool, WaitsFull> {
        let waiter = self.waiters.register(tasks)?;
        loop {
            if done(&self.view().state) {
                return Ok(true);
            }
            if timeout_at(until, waiter.woken()).await.is_err() {
                return Ok(done(&self.view().state));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake(&self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.orders_changed(node).notify_waiters();
        }
        self.plan.notify_one();
    }
}

/// Drives `Shared` from the log.
pub struct NodeStateMachine(pub Arc<AppliedState>);

impl StateMachine for NodeStateMachine {
    type Reply = Results;

    fn apply(&mut self, at: Position, data: &[u8]) -> Result<Results, String> {
        let entry: LogEntry =
            minicbor::decode(data).map_err(|e| format!("{e}: was it written by a newer stint?"))?;
        let needs = entry.commands.iter().map(Command::needs).max().unwrap_or_default();
        self.0.can_follow(needs)?;
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let one = |command| apply(&mut inner.state, StampedCommand { now: entry.now, command });
        let results: Results = entry.commands.into_iter().map(one).collect();
        results.iter().flatten().for_each(|changes| self.0.counts.note(at.index, &inner.state, changes));
        let changes = || results.iter().flatten().flatten();
        inner.touched.nodes.extend(changes().filter_map(concerned));
        inner.touched.tasks.extend(changes().filter_map(task_of));
        inner.at = at;
        Ok(results)
    }

    fn advance(&mut self, at: Position) {
        self.0.lock().at = at;
    }

    fn batch_done(&mut self) {
        let (index, touched) = {
            let mut inner = self.0.lock();
            (inner.at.index, std::mem::take(&mut inner.touched))
        };
        self.0.applied.send_replace(index);
        self.0.wake(touched.nodes);
        self.0.waiters.wake(&touched.tasks);
    }

    fn capture(&self) -> Capture {
        let state = self.0.view().state;
        Box::new(move |to| write_snapshot(&state, to))
    }

    fn restore(&mut self, at: Position, from: &mut dyn Read) -> Result<(), String> {
        let state = read_snapshot(from).map_err(|e| e.to_string())?;
        self.0.can_follow(state.version())?;
        let nodes: Vec<NodeId> = state.nodes().map(|n| n.id).collect();
        {
            let mut inner = self.0.lock();
            inner.state = state;
            inner.at = at;
        }
        self.0.applied.send_replace(at.index);
        self.0.wake(nodes);
        self.0.waiters.wake_all();
        Ok(())
    }
}

/// The node whose orders a change concerns.
pub fn concerned(change: &Change) -> Option<NodeId> {
    match change {
        Change::Leased { node, .. } | Change::StopAsked { node, .. } | Change::NodeChanged { node } => {
            Some(*node)
        }
        _ => None,
    }
}
