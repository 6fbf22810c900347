//! What may be asked about durable workflow instances, what comes of it, and why it is refused.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use stint_protocol::{
    CheckpointId, InstanceEvent, InstanceId, InstanceStatus, LeaseId, NodeId, Payload, SignalKind, Tenant,
    TimeMs, Writer, limits,
};

use super::Submit;
use crate::instance::{FailedTry, InstanceNo, Signal};

/// One thing that is asked about one instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InstanceCommand {
    #[n(0)]
    pub id: InstanceId,
    /// Drawn by the peer that took the request: the same one again is carried out once, and answered the same.
    #[n(1)]
    pub request: u64,
    #[n(2)]
    pub by: Writer,
    /// Nodes that have, durably, the stored bytes that its payloads name.
    #[n(3)]
    pub holders: Vec<NodeId>,
    #[n(4)]
    pub act: InstanceAct,
}

/// What is asked. Numbers are never reused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum InstanceAct {
    /// Make it, and the task whose attempts are its launches.
    #[n(0)]
    Start(#[n(0)] Box<StartInstance>),
    /// Its program is at work. An unknown one is made, without a task: its program runs outside the cluster.
    #[n(1)]
    Register {
        #[n(0)]
        tenant: Tenant,
        /// It is known, or the program is refused.
        #[n(1)]
        checkpoint: Option<CheckpointId>,
    },
    /// A step is done. Of all that save it, the first one counts.
    #[n(2)]
    Save {
        #[n(0)]
        checkpoint: CheckpointId,
        #[n(1)]
        state: Payload,
    },
    /// A try of a step has failed.
    #[n(3)]
    ReportTry {
        #[n(0)]
        checkpoint: CheckpointId,
        #[n(1)]
        failed: FailedTry,
    },
    #[n(4)]
    Record {
        #[n(0)]
        events: Vec<InstanceEvent>,
    },
    /// A step is done, and its program sleeps then.
    #[n(5)]
    Sleep {
        #[n(0)]
        checkpoint: CheckpointId,
        #[n(1)]
        state: Payload,
        #[n(2)]
        duration_ms: u64,
    },
    /// An operator wants something of it.
    #[n(6)]
    Signal {
        #[n(0)]
        kind: SignalKind,
        #[n(1)]
        payload: Payload,
    },
    /// Its program has seen what an operator wants.
    #[n(7)]
    Acknowledge(#[n(0)] SignalKind),
    /// Somebody sends something to one of its steps.
    #[n(8)]
    SendCustom {
        #[n(0)]
        checkpoint: CheckpointId,
        #[n(1)]
        payload: Payload,
    },
    /// Its program asks for what was sent to one of its steps.
    #[n(9)]
    TakeCustom(#[n(0)] CheckpointId),
    /// Cancel it now, and stop its program.
    #[n(10)]
    Stop {
        /// How long its program may take, in milliseconds; none: as its image says.
        #[n(0)]
        grace_ms: Option<u32>,
    },
    /// Let it go on that is asleep or paused.
    #[n(11)]
    Resume,
    /// Its program sleeps and does nothing else: it is to hold nothing until the sleep is over.
    #[n(12)]
    Hibernate {
        /// Its writes that were counted when its node looked: with more of them it is not idle.
        #[n(0)]
        calls: u32,
    },
    /// Nothing was heard of its program outside the cluster for long.
    #[n(13)]
    FailSilent {
        #[n(0)]
        calls: u32,
    },
}

/// What a new instance is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StartInstance {
    /// Of one task without a name: the instance's id stands for it. With a key, the request is known for what it was after the
    /// instance is forgotten.
    #[n(0)]
    pub submit: Submit,
    #[n(1)]
    pub input: Option<Payload>,
    #[n(2)]
    pub env: BTreeMap<String, String>,
}

impl InstanceCommand {
    /// Whether a task may wait for a node after this that did not before.
    pub(super) fn may_queue(&self) -> bool {
        match self.act {
            InstanceAct::Start(_) | InstanceAct::Resume | InstanceAct::Signal { .. } => true,
            InstanceAct::Register { .. }
            | InstanceAct::Save { .. }
            | InstanceAct::ReportTry { .. }
            | InstanceAct::Record { .. }
            | InstanceAct::Sleep { .. }
            | InstanceAct::Acknowledge(_)
            | InstanceAct::SendCustom { .. }
            | InstanceAct::TakeCustom(_)
            | InstanceAct::Stop { .. }
            | InstanceAct::Hibernate { .. }
            | InstanceAct::FailSilent { .. } => false,
        }
    }

    /// The stored bytes that it names.
    pub(crate) fn payloads(&self) -> Vec<&Payload> {
        match &self.act {
            InstanceAct::Start(start) => start.input.iter().collect(),
            InstanceAct::Save { state, .. } | InstanceAct::Sleep { state, .. } => vec![state],
            InstanceAct::Signal { payload, .. } | InstanceAct::SendCustom { payload, .. } => vec![payload],
            InstanceAct::Record { events } => events.iter().map(|event| &event.payload).collect(),
            InstanceAct::Register { .. }
            | InstanceAct::ReportTry { .. }
            | InstanceAct::Acknowledge(_)
            | InstanceAct::TakeCustom(_)
            | InstanceAct::Stop { .. }
            | InstanceAct::Resume
            | InstanceAct::Hibernate { .. }
            | InstanceAct::FailSilent { .. } => Vec::new(),
        }
    }
}

/// What a command changed of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceChange {
    Started {
        no: InstanceNo,
        /// The same request had made it already.
        repeated: bool,
    },
    /// The answer to whoever saves a step.
    Saved(Box<Saved>),
    /// Until when a program sleeps.
    Slept {
        no: InstanceNo,
        until: TimeMs,
    },
    /// What was sent to a step, if its program has not got it.
    Custom {
        no: InstanceNo,
        payload: Option<Payload>,
    },
    /// It has something new to say or to see.
    Changed {
        no: InstanceNo,
    },
    Ended {
        no: InstanceNo,
        status: InstanceStatus,
    },
}

/// What a program hears of a step that it saves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The step was done before, by another request, with this state.
    pub found: Option<Payload>,
    pub signal: Option<Signal>,
    /// What was sent to this step.
    pub custom: Option<Payload>,
}

/// Why a command about an instance was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceRejection {
    #[error("instance id {0} is in use: choose another one")]
    Exists(InstanceId),
    #[error("instance {0} is not known: it may have ended and be past its retention, or was never started")]
    Unknown(InstanceId),
    #[error("instance {id} has ended ({status})")]
    Ended { id: InstanceId, status: InstanceStatus },
    #[error("instance {id} is {status}, and only the program of one that runs does this")]
    NotRunning { id: InstanceId, status: InstanceStatus },
    #[error("instance {id} has no checkpoint {checkpoint:?}")]
    UnknownCheckpoint { id: InstanceId, checkpoint: CheckpointId },
    #[error("attempt {0} is over or is being stopped: what it still says is not taken")]
    StaleLaunch(LeaseId),
    #[error("instance {0} runs inside the cluster: only its own program writes for it")]
    LaunchedHere(InstanceId),
    #[error("instance {0} has {most} checkpoints, the most: use fewer ids", most = limits::CHECKPOINTS)]
    TooManyCheckpoints(InstanceId),
    #[error("the payloads of all instances take {bytes} bytes, the most is {most}: retry later", most = limits::DURABLE_BYTES)]
    DurableFull { bytes: u64 },
    #[error("instance {0} has {most} custom signals, the most: send to fewer checkpoints", most = limits::CUSTOM_SIGNALS)]
    TooManySignals(InstanceId),
    #[error("instance {id} has no program that could be stopped: it is {status}")]
    NoProcess { id: InstanceId, status: InstanceStatus },
    #[error("instance {id} is {status}, and only one that is suspended is resumed")]
    NotSuspended { id: InstanceId, status: InstanceStatus },
    #[error("instance {0} has no image: its program runs outside the cluster, and only that can go on")]
    NoImage(InstanceId),
    #[error("{live} instances have not ended, which is the most: retry when some have")]
    TooMany { live: u64 },
}
