//! What a leader does, step by step: takes proposals, makes one entry at a time of what arrived while the last one was
//! written, and says what became of each. Pure: events come in with what the peer knows of itself and what its clock
//! shows; entries to write and answers to give go out. The leader's loop and the fast simulation drive it.

use std::collections::VecDeque;

use stint_protocol::{BootMs, NodeId, TaskId, TimeMs};
use stint_scheduler::{Command, Rejection, State};

use super::quorum::{Confirmation, Quorum, Ticket};
use crate::applied_state::{Effect, LogEntry, Results};
use crate::leadership::{EntryBuilder, Leadership, NextEntry, PeerView, TickInput, check_version};
use crate::limits;
use crate::mutations::{Mutation, planted};

/// Why commands were not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    #[error("this peer does not lead")]
    NotLeader,
    #[error("the leader's queue is full")]
    Full,
    /// It was not proposed: the cluster does not speak it yet.
    #[error(transparent)]
    Refused(Rejection),
    /// It was not proposed: no entry may be so large.
    #[error("takes {bytes} bytes in the log, {limit} at most: ask for less at once")]
    TooLarge { bytes: usize, limit: usize },
    #[error("whether it was done cannot be said: {0}")]
    Unknown(String),
}

/// What became of an entry, or of one proposal's part of it.
pub type ProposalResult = Result<Results, ProposalError>;

/// Who waits, and what to tell each.
pub type Answers<W> = Vec<(W, ProposalResult)>;

/// Commands that share an entry, in this order, and who waits for what becomes of them.
pub struct Proposal<W> {
    commands: Vec<Command>,
    bytes: usize,
    waiter: W,
}

impl<W> Proposal<W> {
    /// At least one command.
    pub fn new(commands: Vec<Command>, waiter: W) -> Self {
        assert!(!commands.is_empty(), "a proposal without a command would never be answered");
        let bytes = commands.iter().map(encoded_bytes).sum();
        Self { commands, bytes, waiter }
    }
}

/// Who waits for so many commands of an entry.
struct Waiting<W> {
    commands: usize,
    waiter: W,
}

/// What follows when the leader looks at what there is to do.
pub struct Turn<W> {
    pub answers: Answers<W>,
    /// Draft this and hand it back.
    pub drafting: Option<UnbuiltEntry<W>>,
}

/// What the next entry is made of. Drafted apart from the core: planning may take long, and the core answers others
/// meanwhile.
pub struct UnbuiltEntry<W> {
    builder: EntryBuilder,
    input: TickInput,
    commands: Vec<Command>,
    waiting: Vec<Waiting<W>>,
    now: BootMs,
}

impl<W> UnbuiltEntry<W> {
    /// Whether its plan may take longer than others should wait: the first one of a leader looks at everything, and each looks
    /// at all nodes that changed.
    pub fn takes_long(&self, state: &State) -> bool {
        self.builder.is_new() || state.nodes().nth(limits::MANY_NODES).is_some()
    }

    /// Drafts the entry, on the state that the turn saw and the index up to which it was applied.
    pub fn draft(mut self, state: &State, index: u64, wall: TimeMs) -> BuiltEntry<W> {
        let draft = self.builder.build(state, index, self.input, wall, self.commands);
        BuiltEntry { builder: self.builder, draft, waiting: self.waiting, now: self.now, wall }
    }
}

/// A draft on its way back.
pub struct BuiltEntry<W> {
    builder: EntryBuilder,
    draft: NextEntry,
    waiting: Vec<Waiting<W>>,
    now: BootMs,
    wall: TimeMs,
}

/// The entry that is being written.
struct Writing<W> {
    begun: Ticket,
    /// Its time, and what the boot clock showed when it was stamped.
    stamp: (TimeMs, BootMs),
    waiting: Vec<Waiting<W>>,
}

enum EntryStage<W> {
    Resting,
    Drafting,
    Writing(Writing<W>),
    /// Nothing is proposed any more.
    Closed,
}

/// The leading side of one peer. It exists on every peer, and does nothing while its peer does not lead.
pub struct LeaderCore<W> {
    leadership: Option<Leadership>,
    queue: VecDeque<Proposal<W>>,
    stage: EntryStage<W>,
    builder: EntryBuilder,
    ahead_ms: Option<u64>,
    /// Leases ran out that the last entry had no room for: the next turn looks for them, whether or not the clock ticked.
    more_expired: bool,
    quorum: Quorum,
}

impl<W> Default for LeaderCore<W> {
    fn default() -> Self {
        Self {
            leadership: None,
            queue: VecDeque::new(),
            stage: EntryStage::Resting,
            builder: EntryBuilder::default(),
            ahead_ms: None,
            more_expired: false,
            quorum: Quorum::default(),
        }
    }
}

impl<W> LeaderCore<W> {
    /// The peer's leadership, while it leads.
    pub fn leadership(&mut self, view: &PeerView<'_>) -> Option<&mut Leadership> {
        Leadership::renew(&mut self.leadership, view)
    }

    /// Takes a proposal for the next entry, or gives its waiter back as the queue is full.
    pub fn propose(&mut self, proposal: Proposal<W>) -> Result<(), W> {
        if self.queue.len() >= limits::PROPOSALS || matches!(self.stage, EntryStage::Closed) {
            return Err(proposal.waiter);
        }
        self.queue.push_back(proposal);
        Ok(())
    }

    /// Proposals that wait for the next entry.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Looks at what there is to do: commands arrived, the state changed, or the clock ticked. Nothing while an entry is
    /// made: look again when that one is written.
    pub fn turn(&mut self, view: &PeerView<'_>, tick: bool) -> Turn<W> {
        if !matches!(self.stage, EntryStage::Resting) {
            return Turn { answers: Vec::new(), drafting: None };
        }
        let Some(leadership) = Leadership::renew(&mut self.leadership, view) else {
            // What it knows of another term's state is of no use, and takes memory.
            self.builder = EntryBuilder::default();
            return Turn { answers: self.refuse_all(), drafting: None };
        };
        let tick = tick || self.more_expired;
        let input = TickInput::read(&mut leadership.lease_clock, view.state, view.now, tick);
        self.more_expired = input.more_expired;
        let mut drafting = UnbuiltEntry {
            builder: std::mem::take(&mut self.builder),
            input,
            commands: Vec::new(),
            waiting: Vec::new(),
            now: view.now,
        };
        let answers = self.gather(view.state, &mut drafting);
        self.stage = EntryStage::Drafting;
        Turn { answers, drafting: Some(drafting) }
    }

    /// Takes the draft back: the entry to write now, unless there is nothing to write; and its effect on the state it was drafted
    /// for, if that is known.
    pub fn built(&mut self, drafted: BuiltEntry<W>) -> Option<(LogEntry, Option<Effect>)> {
        let BuiltEntry { builder, draft, waiting, now, wall } = drafted;
        let NextEntry { entry, expired, ahead_ms, effect } = draft;
        if !matches!(self.stage, EntryStage::Drafting) {
            return None;
        }
        self.builder = builder;
        self.note_ahead(ahead_ms);
        if let Some(leadership) = &mut self.leadership {
            leadership.wall_clock.look(wall, now);
        }
        if expired > 0 {
            tracing::warn!(count = expired, "leases ran out");
        }
        if entry.commands.is_empty() {
            self.stage = EntryStage::Resting;
            return None;
        }
        // Drawn before it is proposed: drawn later, it would confirm reports that came after the quorum had followed,
        // and renew their leases.
        let begun = self.quorum.ticket();
        self.stage = EntryStage::Writing(Writing { begun, stamp: (entry.now, now), waiting });
        Some((entry, effect))
    }

    /// What became of the entry: it is applied here, or it was not proposed, or nobody knows.
    pub fn written(&mut self, result: ProposalResult, view: &PeerView<'_>) -> Answers<W> {
        let EntryStage::Writing(writing) = &mut self.stage else { return Vec::new() };
        let (begun, (time, at)) = (writing.begun, writing.stamp);
        let waiting = std::mem::take(&mut writing.waiting);
        self.stage = EntryStage::Resting;
        match result {
            Ok(results) => {
                self.quorum.committed(begun);
                // Only what became an entry may carry time ahead: refused tries would add up.
                if let Some(leadership) = self.leadership(view) {
                    let at = if planted(Mutation::StampWhenWritten) { view.now } else { at };
                    leadership.lease_clock.stamped(time, at);
                }
                answers_of(waiting, results)
            }
            Err(why) => {
                self.builder.forget();
                if planted(Mutation::StampRefused)
                    && let Some(leadership) = self.leadership(view)
                {
                    leadership.lease_clock.stamped(time, at);
                }
                waiting.into_iter().map(|waiting| (waiting.waiter, Err(why.clone()))).collect()
            }
        }
    }

    /// For simulators: a waiting task that fits on a node although this leader just planned, and has nothing to write.
    pub fn overlooked(&mut self, view: &PeerView<'_>) -> Option<(TaskId, NodeId)> {
        if !matches!(self.stage, EntryStage::Resting) {
            return None;
        }
        let reachable = self.leadership(view)?.lease_clock.reachable(view.now);
        self.builder.overlooked(view.state, &reachable)
    }

    /// Takes nothing any more. Whoever waits is given back: nobody will answer.
    pub fn stop(&mut self) -> Vec<W> {
        let mut waiters: Vec<W> = match std::mem::replace(&mut self.stage, EntryStage::Closed) {
            EntryStage::Writing(writing) => {
                writing.waiting.into_iter().map(|waiting| waiting.waiter).collect()
            }
            EntryStage::Resting | EntryStage::Drafting | EntryStage::Closed => Vec::new(),
        };
        waiters.extend(self.queue.drain(..).map(|proposal| proposal.waiter));
        waiters
    }

    /// Draws a ticket for `confirm`.
    pub fn ticket(&mut self) -> Ticket {
        self.quorum.ticket()
    }

    /// Whether a quorum followed this leader after the ticket was drawn (`Quorum::confirm`).
    pub fn confirm(&mut self, ticket: Ticket, waited_for: Option<Ticket>) -> Confirmation {
        self.quorum.confirm(ticket, waited_for)
    }

    /// The questions to the quorum, for their answers.
    pub fn quorum(&mut self) -> &mut Quorum {
        &mut self.quorum
    }

    /// How far the wall clock is beyond what the last entry could be stamped with.
    pub fn ahead_ms(&self) -> Option<u64> {
        self.ahead_ms
    }

    /// By how much the wall clock was set since this peer leads, if it was: ahead, or (negative) behind.
    pub fn clock_step_ms(&self) -> Option<i64> {
        self.leadership.as_ref().and_then(|leadership| leadership.wall_clock.stepped_ms())
    }

    /// Whether this leader should hand over now, as its wall clock was set: each true is one try.
    pub fn hands_over(&mut self, view: &PeerView<'_>) -> bool {
        self.leadership(view).is_some_and(|leadership| leadership.wall_clock.hands_over(view.now))
    }

    fn note_ahead(&mut self, ahead_ms: Option<u64>) {
        if let Some(ahead) = ahead_ms.filter(|_| self.ahead_ms.is_none()) {
            tracing::error!(ahead_ms = ahead, "the leader's wall clock is ahead of the cluster's time");
        }
        self.ahead_ms = ahead_ms;
    }

    /// Takes what waits, up to the bounds of an entry. What the cluster does not speak is refused.
    fn gather(&mut self, state: &State, drafting: &mut UnbuiltEntry<W>) -> Answers<W> {
        let (mut answers, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.queue.front() {
            bytes += next.bytes;
            let commands = drafting.commands.len() + next.commands.len();
            let beyond = bytes > limits::BATCH_BYTES || commands > limits::BATCH_COMMANDS;
            if beyond && !drafting.waiting.is_empty() {
                break;
            }
            let Some(Proposal { commands, waiter, bytes: own }) = self.queue.pop_front() else { break };
            if own > limits::BATCH_BYTES {
                // Left in front, it would hold up all others for good.
                let too_large = ProposalError::TooLarge { bytes: own, limit: limits::BATCH_BYTES };
                answers.push((waiter, Err(too_large)));
                bytes -= own;
                continue;
            }
            match check_version(state, &commands) {
                Ok(()) => {
                    drafting.waiting.push(Waiting { commands: commands.len(), waiter });
                    drafting.commands.extend(commands);
                }
                Err(rejection) => answers.push((waiter, Err(ProposalError::Refused(rejection)))),
            }
        }
        answers
    }

    fn refuse_all(&mut self) -> Answers<W> {
        self.queue.drain(..).map(|proposal| (proposal.waiter, Err(ProposalError::NotLeader))).collect()
    }
}

/// Each proposal's part of an entry's results.
fn answers_of<W>(waiting: Vec<Waiting<W>>, results: Results) -> Answers<W> {
    let mut results = results.into_iter();
    let own = |waiting: Waiting<W>| (waiting.waiter, Ok(results.by_ref().take(waiting.commands).collect()));
    waiting.into_iter().map(own).collect()
}

/// What a command takes in an entry.
fn encoded_bytes(command: &Command) -> usize {
    let mut counted = Counted(0);
    minicbor::encode(command, &mut counted)
        .unwrap_or_else(|never: minicbor::encode::Error<_>| panic!("counting bytes: {never}"));
    counted.0
}

struct Counted(usize);

impl minicbor::encode::Write for Counted {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0 += bytes.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
