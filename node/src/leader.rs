//! The leader's loop: coalesces what arrived while the last entry was written, plans, and proposes one entry
//! at a time. Runs on every peer and rests where there is no office to hold.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stint_protocol::{NodeId, TimeMs};
use stint_raft::{ProposeError, Raft, Role};
use stint_scheduler::{Command, PlanInput, Stamped, State, apply, plan};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Clock;
use crate::contacts::{Contacts, StampRange};
use crate::limits;
use crate::shared::{Entry, NodeMachine, Results, Shared, View};
use crate::wire::encode;

/// Why commands were not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    #[error("this peer does not lead")]
    NotLeader,
    #[error("the leader's queue is full")]
    Full,
    #[error("whether it was done cannot be said: {0}")]
    Unknown(String),
}

struct Proposal {
    commands: Vec<Command>,
    bytes: usize,
    answer: oneshot::Sender<Result<Results, NotDone>>,
}

/// One term of office of this peer.
struct Office {
    term: u64,
    contacts: Contacts,
}

/// What the last plan was made of: as long as it is the same, there is nothing new to plan.
#[derive(Clone, PartialEq, Eq)]
struct Planned {
    index: u64,
    reachable: BTreeSet<NodeId>,
}

/// The leading side of a peer.
pub struct Leader {
    pub raft: Raft<NodeMachine>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    queue: mpsc::Sender<Proposal>,
    office: Mutex<Option<Office>>,
    /// Order of events: a quorum's confirmation begun after a ticket was drawn holds for that ticket.
    tickets: AtomicU64,
    confirmed: AtomicU64,
    confirming: tokio::sync::Mutex<()>,
    alarm: Mutex<Option<String>>,
}

/// Keeps the queue's other end until the loop runs.
pub struct LeaderQueue(mpsc::Receiver<Proposal>);

impl Leader {
    /// The leading side, and what its loop needs.
    pub fn new(
        raft: Raft<NodeMachine>,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
    ) -> (Arc<Self>, LeaderQueue) {
        let (queue, receiver) = mpsc::channel(limits::PROPOSALS);
        let leader = Self {
            raft,
            shared,
            clock,
            queue,
            office: Mutex::new(None),
            tickets: AtomicU64::new(1),
            confirmed: AtomicU64::new(0),
            confirming: tokio::sync::Mutex::new(()),
            alarm: Mutex::new(None),
        };
        (Arc::new(leader), LeaderQueue(receiver))
    }

    /// Runs `act` on the leader's clocks while this peer holds office: it leads, and an entry of its own term
    /// is applied (DESIGN §5, rule 5). Answers the term and what `act` gave.
    pub fn in_office<R>(&self, act: impl FnOnce(&mut Contacts) -> R) -> Option<(u64, R)> {
        let status = self.raft.status();
        let leads = status.role == Role::Leader;
        let mut office = self.office.lock().unwrap_or_else(|e| e.into_inner());
        let view = self.shared.view();
        if !leads || view.at.term != status.term {
            *office = None;
            return None;
        }
        if office.as_ref().is_none_or(|o| o.term != status.term) {
            tracing::info!(term = status.term, "this peer leads");
            let contacts = Contacts::new(self.clock.boot(), view.state.time());
            *office = Some(Office { term: status.term, contacts });
        }
        office.as_mut().map(|o| (o.term, act(&mut o.contacts)))
    }

    /// Whether this peer holds office now.
    pub fn leads(&self) -> bool {
        self.in_office(|_| ()).is_some()
    }

    /// Proposes commands; they share an entry, in this order. Answers when they are applied here.
    pub async fn propose(&self, commands: Vec<Command>) -> Result<Results, NotDone> {
        let bytes = commands.iter().map(|c| encode(c).len()).sum();
        let (answer, wait) = oneshot::channel();
        self.queue.try_send(Proposal { commands, bytes, answer }).map_err(|_| NotDone::Full)?;
        wait.await.unwrap_or_else(|_| Err(NotDone::Unknown("this peer is stopping".into())))
    }

    /// Draws a ticket: `confirm` on it holds only by a confirmation that began later.
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::SeqCst)
    }

    /// Whether a quorum confirmed this leader after the ticket was drawn; asks it once for all who wait.
    pub async fn confirm(&self, ticket: u64) -> bool {
        if self.confirmed.load(Ordering::SeqCst) > ticket {
            return true;
        }
        let _one_at_a_time = self.confirming.lock().await;
        if self.confirmed.load(Ordering::SeqCst) > ticket {
            return true;
        }
        let begun = self.ticket();
        if self.raft.barrier(limits::BARRIER_DEADLINE).await.is_err() {
            return false;
        }
        self.confirmed.fetch_max(begun, Ordering::SeqCst);
        true
    }

    /// What the operator should know of the leader's clock.
    pub fn alarms(&self) -> Vec<String> {
        self.alarm.lock().unwrap_or_else(|e| e.into_inner()).iter().cloned().collect()
    }

    /// Proposes until the node stops.
    pub async fn run(self: Arc<Self>, queue: LeaderQueue) {
        let LeaderQueue(mut queue) = queue;
        let mut tick = interval(limits::EXPIRY_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut planned: Option<Planned> = None;
        let mut kept: Option<Proposal> = None;
        loop {
            let mut expiry = false;
            if kept.is_none() {
                tokio::select! {
                    biased;
                    proposal = queue.recv() => match proposal {
                        Some(proposal) => kept = Some(proposal),
                        None => return,
                    },
                    () = self.shared.plan.notified() => {}
                    _ = tick.tick() => expiry = true,
                }
            }
            let batch = gather(&mut kept, &mut queue);
            self.enter(batch, expiry, &mut planned).await;
        }
    }

    /// One entry: the batch, what the clock asks for, and the plan that follows from both.
    async fn enter(&self, batch: Vec<Proposal>, expiry: bool, planned: &mut Option<Planned>) {
        let now = self.clock.boot();
        let view = self.shared.view();
        let office = self.in_office(|contacts| {
            let expired = if expiry { contacts.expire(&view.state, now) } else { Vec::new() };
            (expired, contacts.reachable(now), contacts.stamp_range(now))
        });
        let Some((_, (expired, reachable, range))) = office else {
            return refuse(batch, &NotDone::NotLeader);
        };
        let (stamp, may_plan) = self.stamp(&view, range);
        let mut commands: Vec<Command> = batch.iter().flat_map(|p| p.commands.iter().cloned()).collect();
        if !expired.is_empty() {
            tracing::warn!(count = expired.len(), "leases ran out");
            commands.push(Command::ExpireLeases(expired));
        }
        let due = view.state.next_due().is_some_and(|due| due <= stamp);
        let seen = Planned { index: view.at.index, reachable };
        if may_plan && (due || !commands.is_empty() || planned.as_ref() != Some(&seen)) {
            commands.extend(plan_after(&view.state, stamp, &commands, &seen.reachable));
            *planned = Some(seen);
        }
        if !commands.is_empty() {
            self.in_office(|contacts| contacts.stamped(stamp, now));
            if !self.write(batch, Entry { now: stamp, commands }).await {
                *planned = None;
            }
        }
    }

    /// Whether the entry is known to be applied.
    async fn write(&self, batch: Vec<Proposal>, entry: Entry) -> bool {
        let begun = self.ticket();
        match self.raft.propose(encode(&entry)).await {
            Ok(results) => {
                self.confirmed.fetch_max(begun, Ordering::SeqCst);
                answer(batch, results);
                return true;
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => refuse(batch, &NotDone::NotLeader),
            Err(ProposeError::Busy) => refuse(batch, &NotDone::Full),
            Err(error) => {
                tracing::warn!(%error, "an entry's fate is not known");
                refuse(batch, &NotDone::Unknown(error.to_string()));
            }
        }
        false
    }

    /// The entry's time, and whether it may be planned by. It may run ahead of elapsed boot time by at most
    /// `TIME_JUMP_MS` an entry; a clock that jumped further raises an alarm (DESIGN §5, "The log's side").
    /// A clock that is behind does not hold the cluster's time up: it goes on with boot time.
    fn stamp(&self, view: &View, range: StampRange) -> (TimeMs, bool) {
        let wall = self.clock.wall().max(view.state.time()).max(range.earliest);
        let mut alarm = self.alarm.lock().unwrap_or_else(|e| e.into_inner());
        match range.latest {
            Some(latest) if wall > latest && view.state.configured() => {
                let ahead = wall.since(latest);
                if alarm.is_none() {
                    tracing::error!(ahead_ms = ahead, "the leader's wall clock jumped ahead; not planning");
                }
                *alarm = Some(format!(
                    "the leader's wall clock runs {ahead} ms ahead of the cluster's time: set it right"
                ));
                (latest, false)
            }
            _ => {
                *alarm = None;
                (wall, true)
            }
        }
    }
}

/// Takes what waits, up to the bounds of an entry; one that does not fit stays in `kept`.
fn gather(kept: &mut Option<Proposal>, queue: &mut mpsc::Receiver<Proposal>) -> Vec<Proposal> {
    let (mut bytes, mut commands) = (0, 0);
    let mut batch: Vec<Proposal> = Vec::new();
    while let Some(next) = kept.take().or_else(|| queue.try_recv().ok()) {
        bytes += next.bytes;
        commands += next.commands.len();
        if !batch.is_empty() && (bytes > limits::BATCH_BYTES || commands > limits::BATCH_COMMANDS) {
            *kept = Some(next);
            break;
        }
        batch.push(next);
    }
    batch
}

/// What would be placed once the commands are applied: tried on a copy, so that a task may start with the entry
/// that accepts it.
fn plan_after(
    state: &State,
    now: TimeMs,
    commands: &[Command],
    reachable: &BTreeSet<NodeId>,
) -> Option<Command> {
    let mut trial = state.clone();
    for command in commands.iter().cloned().chain([Command::Tick]) {
        // A rejection will come again when the entry is applied, and be answered then.
        let _ = apply(&mut trial, Stamped { now, command });
    }
    let plan = plan(&trial, &PlanInput { reachable: reachable.clone() });
    (!plan.assignments.is_empty()).then_some(Command::CommitPlan(plan))
}

fn answer(batch: Vec<Proposal>, results: Results) {
    let mut results = results.into_iter();
    for proposal in batch {
        let own: Results = results.by_ref().take(proposal.commands.len()).collect();
        // Whoever asked may be gone.
        let _ = proposal.answer.send(Ok(own));
    }
}

fn refuse(batch: Vec<Proposal>, why: &NotDone) {
    for proposal in batch {
        let _ = proposal.answer.send(Err(why.clone()));
    }
}
