//! The state as this peer has applied it, and who waits for it to change.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use minicbor::{Decode, Encode};
use stint_protocol::{NodeId, TaskId, TimeMs, Version};
use stint_raft::{Capture, Position, StateMachine};
use stint_scheduler::{
    Change, Command, Rejection, StampedCommand, State, apply, read_snapshot, write_snapshot,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::endings::{AppliedEnding, Endings};
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

impl LogEntry {
    /// The least version of a peer that may apply it.
    pub fn needs(&self) -> Version {
        self.commands.iter().map(Command::needs).max().unwrap_or_default()
    }

    /// Applies its commands one by one.
    pub fn carry_out(self, state: &mut State) -> Results {
        let now = self.now;
        self.commands.into_iter().map(|command| apply(state, StampedCommand { now, command })).collect()
    }
}

/// What became of an entry's commands, one by one.
pub type Results = Vec<Result<Vec<Change>, Rejection>>;

/// What an entry does to a state, found out while it was drafted. It is the same on every peer and at any time, so the peer
/// that drafted it need not carry it out again.
pub struct Effect {
    pub state: State,
    pub results: Results,
}

/// An entry that this peer proposes, and its effect on the state at one index.
pub struct Prepared {
    /// Up to where the state was applied.
    pub index: u64,
    pub data: Bytes,
    pub needs: Version,
    pub effect: Effect,
}

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
    /// What attempts wrote last. Empty on a peer that keeps none, as a simulated one.
    pub endings: OnceLock<Arc<Endings>>,
    /// What is on this peer's disk was read: a state that comes now is another peer's.
    pub is_open: AtomicBool,
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
    /// The entry that is being proposed here.
    prepared: Option<Prepared>,
    /// What the batch has changed so far.
    touched: Touched,
}

/// What changed, and who is to be woken for it.
#[derive(Default)]
struct Touched {
    nodes: Vec<NodeId>,
    tasks: Vec<TaskId>,
    endings: Vec<AppliedEnding>,
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
        let inner = Inner { state: State::default(), at, prepared: None, touched: Touched::default() };
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
            endings: OnceLock::new(),
            is_open: AtomicBool::new(false),
        }))
    }

    /// The state now.
    pub fn view(&self) -> View {
        let inner = self.lock();
        View { state: inner.state.clone(), at: inner.at }
    }

    /// Whether this node is no member any more, as far as this peer has applied.
    pub fn was_removed(&self, node: NodeId) -> bool {
        self.lock().state.was_removed(node)
    }

    /// Keeps the effect of an entry that is proposed next, or lets go of the one before.
    pub fn prepare(&self, prepared: Option<Prepared>) {
        self.lock().prepared = prepared;
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
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        // The state up to one index, and an entry behind it: what follows from both is known.
        let known = inner.prepared.take_if(|prepared| prepared.data == data);
        let results = match known.filter(|known| known.index == inner.at.index && at.index == known.index + 1)
        {
            Some(Prepared { needs, effect, .. }) => {
                self.0.can_follow(needs)?;
                inner.state = effect.state;
                effect.results
            }
            None => {
                let entry: LogEntry =
                    minicbor::decode(data).map_err(|e| format!("{e}: was it written by a newer stint?"))?;
                self.0.can_follow(entry.needs())?;
                entry.carry_out(&mut inner.state)
            }
        };
        results.iter().flatten().for_each(|changes| self.0.counts.note(at.index, &inner.state, changes));
        let changes = || results.iter().flatten().flatten();
        inner.touched.nodes.extend(changes().filter_map(concerned));
        inner.touched.tasks.extend(changes().filter_map(task_of));
        if self.0.endings.get().is_some() {
            inner.touched.endings.extend(changes().filter_map(ending_of));
        }
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
        // First: who is woken may ask for them.
        if let Some(endings) = self.0.endings.get().filter(|_| !touched.endings.is_empty()) {
            endings.keep(&touched.endings);
        }
        self.0.applied.send_replace(index);
        self.0.wake(touched.nodes);
        self.0.waiters.wake(&touched.tasks);
    }

    fn capture(&self) -> Capture {
        let (state, endings) = (self.0.view().state, self.0.endings.get().cloned());
        Box::new(move |to| {
            // The log that has them goes once the snapshot is there.
            endings.iter().for_each(|endings| endings.sync());
            write_snapshot(&state, to)
        })
    }

    fn restore(&mut self, at: Position, from: &mut dyn Read) -> Result<(), String> {
        let state = read_snapshot(from).map_err(|e| e.to_string())?;
        self.0.can_follow(state.version())?;
        let nodes: Vec<NodeId> = state.nodes().map(|n| n.id).collect();
        if let Some(endings) = self.0.endings.get().filter(|_| self.0.is_open.load(Ordering::SeqCst)) {
            endings.lacks(state.next_number());
        }
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

fn ending_of(change: &Change) -> Option<AppliedEnding> {
    match change {
        Change::EndingKept { lease, number, ending } => Some((*number, *lease, ending.clone())),
        _ => None,
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

#[cfg(test)]
mod tests {
    use stint_protocol::version;
    use stint_scheduler::Settings;

    use super::*;
    use crate::wire::encode;

    fn founding(now: u64) -> LogEntry {
        LogEntry { now: TimeMs(now), commands: vec![Command::Configure(Settings::default())] }
    }

    /// An entry as prepared on the state up to an index; its effect is told from that of applying it by the time.
    fn prepared(entry: &LogEntry, index: u64) -> Prepared {
        let mut state = State::default();
        let results = LogEntry { now: TimeMs(7), ..entry.clone() }.carry_out(&mut state);
        Prepared { index, data: encode(entry), needs: entry.needs(), effect: Effect { state, results } }
    }

    /// The cluster's time after an entry at this index, by a peer that prepared one.
    fn time_after(prepared: Prepared, entry: &LogEntry, index: u64) -> u64 {
        let shared = AppliedState::new(version::CURRENT).unwrap();
        shared.prepare(Some(prepared));
        let mut machine = NodeStateMachine(shared.clone());
        let results = machine.apply(Position { index, term: 1 }, &encode(entry)).unwrap();
        assert!(results.iter().all(Result::is_ok));
        assert!(
            shared.lock().prepared.is_none()
                || shared.lock().prepared.as_ref().unwrap().data != encode(entry)
        );
        shared.view().state.time().0
    }

    #[test]
    fn a_prepared_effect_is_taken_for_its_own_entry_behind_its_own_state_only() {
        let entry = founding(5);
        assert_eq!(time_after(prepared(&entry, 0), &entry, 1), 7, "it is taken");
        assert_eq!(time_after(prepared(&entry, 0), &entry, 2), 5, "another entry came between");
        assert_eq!(time_after(prepared(&entry, 3), &entry, 1), 5, "it was made for another state");
        assert_eq!(
            time_after(prepared(&founding(6), 0), &entry, 1),
            5,
            "another entry than the prepared one"
        );
    }
}
