//! The leader's loop: drives `LeaderCore` from this peer's log, clock and callers. Runs on every peer and does nothing
//! while its peer does not lead.

pub mod core;
pub mod quorum;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use stint_raft::{ProposeError, Raft, Role};
use stint_scheduler::Command;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

pub use self::core::ProposalError;
use self::core::{Answers, LeaderCore, Proposal, ProposalResult};
use self::quorum::Ticket;
use crate::applied_state::{AppliedState, NodeStateMachine, Prepared, Results};
use crate::blocking::beside_other_work;
use crate::clock::Clock;
use crate::leadership::{PeerView, RaftRole};
use crate::lease_clock::LeaseClock;
use crate::limits;
use crate::task_log;
use crate::wire::encode;

/// Whoever proposed waits on the other end.
type Core = LeaderCore<oneshot::Sender<ProposalResult>>;

/// The leading side of a peer.
pub struct Leader {
    pub raft: Raft<NodeStateMachine>,
    shared: Arc<AppliedState>,
    clock: Arc<dyn Clock>,
    core: Mutex<Core>,
    /// Wakes the loop when commands arrive.
    arrived: Notify,
    /// The last question to the quorum that nobody asks any more.
    answered: watch::Sender<Ticket>,
}

/// Proposals are taken as long as it is there: until the loop ends.
pub struct LeaderQueue(Arc<Leader>);

impl Drop for LeaderQueue {
    fn drop(&mut self) {
        let unanswered = self.0.core().stop();
        drop(unanswered);
    }
}

impl Leader {
    /// The leading side, and what its loop needs.
    pub fn new(
        raft: Raft<NodeStateMachine>,
        shared: Arc<AppliedState>,
        clock: Arc<dyn Clock>,
    ) -> (Arc<Self>, LeaderQueue) {
        let leader = Arc::new(Self {
            raft,
            shared,
            clock,
            core: Mutex::default(),
            arrived: Notify::new(),
            answered: watch::Sender::default(),
        });
        (leader.clone(), LeaderQueue(leader))
    }

    /// Runs `act` on the core, with what this peer knows of itself now.
    pub fn with<R>(&self, act: impl FnOnce(&mut Core, &PeerView<'_>) -> R) -> R {
        let mut core = self.core();
        // Read while the core is held: a caller that came second with an older view would end a leadership that has just
        // begun, with all that it heard.
        let (status, view) = (self.raft.status(), self.shared.view());
        let leads = status.role == Role::Leader;
        let role = RaftRole { leads, term: status.term, applied_term: view.at.term };
        let (index, now) = (view.at.index, self.clock.boot());
        act(&mut core, &PeerView { role, state: &view.state, index, now })
    }

    /// Runs `act` on the leader's clocks while this peer leads for certain: it believes so, and an entry of its own term
    /// is applied (docs/internals/leases.md#new-leader). Answers the term and what `act` gave.
    pub fn while_leading<R>(&self, act: impl FnOnce(&mut LeaseClock) -> R) -> Option<(u64, R)> {
        self.with(|core, view| {
            core.leadership(view).map(|leadership| (leadership.term, act(&mut leadership.lease_clock)))
        })
    }

    /// Whether this peer leads now.
    pub fn leads(&self) -> bool {
        self.while_leading(|_| ()).is_some()
    }

    /// Proposes commands; they share an entry, in this order. Answers when they are applied here.
    pub async fn propose(&self, commands: Vec<Command>) -> Result<Results, ProposalError> {
        let (answer, wait) = oneshot::channel();
        let proposal = Proposal::new(commands, answer);
        self.core().propose(proposal).map_err(|_| ProposalError::Full)?;
        self.arrived.notify_waiters();
        wait.await.unwrap_or_else(|_| Err(ProposalError::Unknown("this peer is stopping".into())))
    }

    /// Asks the quorum whether it follows this leader; the core has the answer afterwards.
    pub async fn ask_quorum(&self, question: Ticket) {
        let _asking = QuestionGuard { leader: self, question };
        let follows = self.raft.barrier(limits::BARRIER_DEADLINE).await.is_ok();
        self.core().quorum().answered(question, follows);
    }

    /// Waits until the question has its answer, or nobody asks it any more.
    pub async fn quorum_answered(&self, question: Ticket) {
        // The sender is a part of this.
        let _ = self.answered.subscribe().wait_for(|answered| *answered >= question).await;
    }

    /// What the operator should know of the leader's clock.
    pub fn alarms(&self) -> Vec<String> {
        let core = self.core();
        let cure = "set it right (chronyc makestep), or hand over: stint cluster transfer-leader";
        let alarm = match (core.clock_step_ms(), core.ahead_ms()) {
            (Some(step), _) => {
                let (by, way) = (step.unsigned_abs() / 1_000, if step > 0 { "ahead" } else { "back" });
                format!(
                    "the leader's wall clock was set {by} s {way}, and no other peer took over yet: {cure}"
                )
            }
            (None, Some(ahead)) => {
                format!(
                    "the leader's wall clock is {} s ahead of the cluster's time: {cure}",
                    ahead.div_ceil(1_000)
                )
            }
            (None, None) => return Vec::new(),
        };
        vec![alarm]
    }

    /// Proposes until the node stops.
    pub async fn run(self: Arc<Self>, queue: LeaderQueue) {
        let _until_it_ends = queue;
        let mut tick = interval(limits::EXPIRY_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Heard of from here on: a proposal that comes between the look at the queue and the wait would lie there
            // until the next tick.
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let more = async {
                if self.core().queued() == 0 {
                    tokio::select! {
                        () = arrived => {}
                        () = self.shared.plan.notified() => {}
                    }
                }
            };
            let ticked = tick_or(&mut tick, more).await;
            if let Some(entry) = self.build_entry(ticked) {
                let result = self.write(entry).await;
                self.shared.prepare(None);
                send_answers(self.with(|core, view| core.written(result, view)));
            }
            if ticked {
                self.hand_over_if_clock_was_set().await;
            }
        }
    }

    /// Another leader's clock is likely to be right. Meanwhile this one goes on.
    async fn hand_over_if_clock_was_set(&self) {
        if self.raft.status().voters.len() < 2 || !self.with(|core, view| core.hands_over(view)) {
            return;
        }
        match self.raft.transfer_leadership(None, limits::HAND_OVER).await {
            Ok(()) => tracing::info!("handed the lead over, as this machine's wall clock was set"),
            Err(error) => tracing::warn!(%error, "could not hand the lead over"),
        }
    }

    /// The next entry as it goes into the log, if there is anything to write.
    fn build_entry(&self, tick: bool) -> Option<Bytes> {
        let (turn, state, index) =
            self.with(|core, view| (core.turn(view, tick), view.state.clone(), view.index));
        send_answers(turn.answers);
        let (drafting, wall) = (turn.drafting?, self.clock.wall());
        let drafted = if drafting.takes_long(&state) {
            beside_other_work(|| drafting.draft(&state, index, wall))
        } else {
            drafting.draft(&state, index, wall)
        };
        let (entry, effect) = self.core().built(drafted)?;
        let data = encode(&entry);
        let needs = entry.needs();
        self.shared.prepare(effect.map(|effect| Prepared { index, data: data.clone(), needs, effect }));
        Some(data)
    }

    /// Puts an entry into the log: what became of it.
    async fn write(&self, entry: Bytes) -> ProposalResult {
        match self.raft.propose(entry).await {
            Ok(results) => {
                if task_log::is_on() {
                    task_log::log_changes(&self.shared.view().state, &results);
                }
                Ok(results)
            }
            // Neither came into the log, so whoever asked may go to another peer. An error that leaves this open must
            // not be told so: what was proposed might be done twice.
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => Err(ProposalError::NotLeader),
            Err(ProposeError::Busy) => Err(ProposalError::Full),
            Err(ProposeError::TooLarge { bytes, limit }) => Err(ProposalError::TooLarge { bytes, limit }),
            Err(error) => {
                tracing::warn!(%error, "an entry's fate is not known");
                Err(ProposalError::Unknown(error.to_string()))
            }
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Waits for the clock's next tick or for something else to do; true if the clock ticked. A tick that is due counts even
/// when there is always something else: leases have to end on a busy leader too.
async fn tick_or(tick: &mut Interval, more: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        _ = tick.tick() => true,
        () = more => false,
    }
}

/// Somebody asks the quorum. Whoever asks may go away before the answer: then those who wait ask themselves.
struct QuestionGuard<'a> {
    leader: &'a Leader,
    question: Ticket,
}

impl Drop for QuestionGuard<'_> {
    fn drop(&mut self) {
        self.leader.core().quorum().withdrawn(self.question);
        self.leader.answered.send_modify(|answered| *answered = self.question.max(*answered));
    }
}

fn send_answers(answers: Answers<oneshot::Sender<ProposalResult>>) {
    for (waiter, result) in answers {
        // Whoever asked may be gone.
        let _ = waiter.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_always_has_something_to_write_hears_its_clock_tick() {
        let mut tick = interval(limits::EXPIRY_TICK);
        assert!(tick_or(&mut tick, std::future::ready(())).await, "the first tick is due at once");
        assert!(!tick_or(&mut tick, std::future::ready(())).await);
        tokio::time::advance(limits::EXPIRY_TICK).await;
        assert!(tick_or(&mut tick, std::future::ready(())).await);
        assert!(
            tick_or(&mut tick, std::future::pending()).await,
            "it waits for a tick when there is nothing else"
        );
    }
}
