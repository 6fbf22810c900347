//! Everything that can happen. What concerns a process names its life: a later process does not get it.

use stint_node::leader::quorum::Ticket;
use stint_node::wire::{Report, ReportAnswer};
use stint_protocol::Digest;
use stint_scheduler::Command;

use super::clients::Reply;
use super::workflows::FlowEvent;

/// A call of a node's process, to find its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub node: usize,
    pub life: u64,
    pub sequence: u64,
}

#[derive(Debug)]
pub enum Event {
    /// A proposed entry reaches a quorum, if there is one.
    Commit {
        number: u64,
    },
    /// Its proposer hears of it.
    Written {
        peer: usize,
        life: u64,
        number: u64,
    },
    /// A peer has applied the log up to `index`.
    Applied {
        peer: usize,
        life: u64,
        index: u64,
    },
    /// Peers that miss their leader vote.
    Election {
        epoch: u64,
    },
    /// A peer hears who leads a term.
    Hear {
        peer: usize,
        life: u64,
        term: u64,
    },
    /// A quorum is asked whether `peer` leads.
    QuorumAsked {
        peer: usize,
        life: u64,
        question: Ticket,
    },
    /// The answer of a quorum comes back.
    QuorumConfirms {
        peer: usize,
        life: u64,
        question: Ticket,
    },
    /// The leader's loop looks for leases that ran out.
    Tick {
        peer: usize,
        life: u64,
        term: u64,
    },
    /// A held report is answered without news.
    HoldOver {
        peer: usize,
        life: u64,
        session: u64,
    },
    ReportArrives {
        peer: usize,
        call: Call,
        report: Box<Report>,
    },
    AnswerArrives {
        call: Call,
        answer: Box<ReportAnswer>,
    },
    CallDeadline {
        call: Call,
    },
    /// The agent's pause is over.
    Resume {
        node: usize,
        life: u64,
    },
    /// Something on a host is due.
    Host {
        node: usize,
    },
    /// A client has something new to ask.
    Ask,
    RequestArrives {
        peer: usize,
        request: u64,
        attempt: u32,
    },
    ReplyArrives {
        request: u64,
        attempt: u32,
        reply: Box<Reply>,
    },
    /// A client's patience with one try, or its pause before the next, is over.
    ClientWake {
        request: u64,
        attempt: u32,
    },
    Fault,
    StartProcess {
        peer: usize,
    },
    PowerOn {
        machine: usize,
    },
    /// A node is cut off.
    Silence {
        node: usize,
        length: u64,
    },
    Mend {
        from: usize,
        to: usize,
    },
    CalmLinks {
        epoch: u64,
    },
    FastDisks {
        epoch: u64,
    },
    QuickWatchdog {
        node: usize,
    },
    RightClock {
        machine: usize,
    },
    /// Somebody registers an image, or deletes one.
    Library,
    /// The operator changes a setting.
    Settings,
    /// A leader is asked for something about images, bytes or settings.
    LibraryCommand {
        peer: usize,
        command: Box<Command>,
    },
    /// A peer looks after stored bytes.
    Upkeep {
        peer: usize,
        life: u64,
    },
    /// A leader is asked for an entry, which a sweep of `peer` waits for.
    SweepAsked {
        leader: usize,
        peer: usize,
        life: u64,
    },
    /// It is applied: what was found spare may be deleted.
    Swept {
        peer: usize,
        life: u64,
        index: u64,
    },
    /// A leader hears that `target` has fetched bytes.
    Copied {
        peer: usize,
        life: u64,
        target: usize,
        digest: Digest,
    },
    /// Something about workflow instances.
    Flow(FlowEvent),
    /// Whether everything is finished is looked at.
    Look,
}
