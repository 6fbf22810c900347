//! The leader's loop: coalesces what arrived while the last entry was written, plans, and proposes one entry
//! at a time. Runs on every peer and rests where there is no office to hold.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stint_raft::{ProposeError, Raft, Role};
use stint_scheduler::{Command, Rejection, State};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Clock;
use crate::contacts::Contacts;
use crate::limits;
use crate::mutations::{Mutation, planted};
use crate::office::{Drafts, Office, Outlook, Standing, speakable};
use crate::shared::{Entry, NodeMachine, Results, Shared};
use crate::told;
use crate::wire::encode;

/// Why commands were not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    #[error("this peer does not lead")]
    NotLeader,
    #[error("the leader's queue is full")]
    Full,
    /// It was not proposed: the cluster does not speak it yet.
    #[error(transparent)]
    Refused(Rejection),
    #[error("whether it was done cannot be said: {0}")]
    Unknown(String),
}

struct Proposal {
    commands: Vec<Command>,
    bytes: usize,
    answer: oneshot::Sender<Result<Results, NotDone>>,
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
    /// is applied (docs/internals/leases.md#new-leader). Answers the term and what `act` gave.
    pub fn in_office<R>(&self, act: impl FnOnce(&mut Contacts) -> R) -> Option<(u64, R)> {
        self.hold(|office| (office.term, act(&mut office.contacts)))
    }

    /// Runs `act` on this peer's office while it holds one.
    pub fn hold<R>(&self, act: impl FnOnce(&mut Office) -> R) -> Option<R> {
        let status = self.raft.status();
        let mut office = self.office.lock().unwrap_or_else(|e| e.into_inner());
        let view = self.shared.view();
        let leads = status.role == Role::Leader;
        let standing = Standing { leads, term: status.term, applied_term: view.at.term };
        Office::hold(&mut office, standing, self.clock.boot(), view.state.time()).map(act)
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
        if self.confirmed.load(Ordering::SeqCst) > ticket || planted(Mutation::RenewWithoutQuorum) {
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
        let mut drafts = Drafts::default();
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
            self.enter(batch, expiry, &mut drafts).await;
        }
    }

    /// One entry: the batch, what the clock asks for, and the plan that follows from both.
    async fn enter(&self, batch: Vec<Proposal>, expiry: bool, drafts: &mut Drafts) {
        let now = self.clock.boot();
        let view = self.shared.view();
        let outlook = self.in_office(|contacts| Outlook::of(contacts, &view.state, now, expiry));
        let Some((_, outlook)) = outlook else {
            return refuse(batch, &NotDone::NotLeader);
        };
        let batch = turn_away(batch, &view.state);
        let commands = batch.iter().flat_map(|p| p.commands.iter().cloned()).collect();
        let draft = drafts.draft(&view.state, view.at.index, outlook, self.clock.wall(), commands);
        self.note_ahead(draft.ahead_ms);
        if draft.expired > 0 {
            tracing::warn!(count = draft.expired, "leases ran out");
        }
        if !draft.entry.commands.is_empty() {
            let stamp = draft.entry.now;
            // Only what became an entry may carry time ahead: refused tries would add up.
            if self.write(batch, draft.entry).await {
                self.in_office(|contacts| contacts.stamped(stamp, now));
            } else {
                drafts.forget();
            }
        }
    }

    /// Whether the entry is known to be applied.
    async fn write(&self, batch: Vec<Proposal>, entry: Entry) -> bool {
        let begun = self.ticket();
        match self.raft.propose(encode(&entry)).await {
            Ok(results) => {
                self.confirmed.fetch_max(begun, Ordering::SeqCst);
                if told::is_on() {
                    told::tell(&self.shared.view().state, &results);
                }
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

    /// Raises the alarm while the wall clock is further ahead than an entry may be stamped with.
    fn note_ahead(&self, ahead_ms: Option<u64>) {
        let mut alarm = self.alarm.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(ahead) = ahead_ms.filter(|_| alarm.is_none()) {
            tracing::error!(ahead_ms = ahead, "the leader's wall clock jumped ahead; not planning");
        }
        let words = |ahead| {
            format!("the leader's wall clock runs {ahead} ms ahead of the cluster's time: set it right")
        };
        *alarm = ahead_ms.map(words);
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

/// Refuses what the cluster does not speak; answers the rest.
fn turn_away(batch: Vec<Proposal>, state: &State) -> Vec<Proposal> {
    let mut rest = Vec::with_capacity(batch.len());
    for proposal in batch {
        match speakable(state, &proposal.commands) {
            Ok(()) => rest.push(proposal),
            Err(rejection) => refuse(vec![proposal], &NotDone::Refused(rejection)),
        }
    }
    rest
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
