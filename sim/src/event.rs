//! What happened in a simulation, as data: the trace prints it, the timeline draws it.

use std::fmt;

use stint_protocol::{EndKind, GpuId, LeaseId, TaskId};

/// Which fault of a seed: the lane and the number within it, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId {
    pub lane: String,
    pub number: u32,
}

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lane, self.number)
    }
}

impl std::str::FromStr for FaultId {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let parts = word.split_once(':').and_then(|(lane, n)| Some((lane, n.parse().ok()?)));
        let (lane, number) =
            parts.ok_or_else(|| format!("{word:?} is no fault: write lane:number, such as links:3"))?;
        Ok(Self { lane: lane.to_owned(), number })
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A fault begins; `what` says what was done.
    Fault {
        id: FaultId,
        what: String,
        length_ms: u64,
    },
    FaultEnds {
        id: FaultId,
    },
    /// Faults and new work are over.
    Healed,
    PeerDown {
        peer: u64,
        power: bool,
    },
    PeerUp {
        peer: u64,
    },
    /// A process ended by itself, as it must when its disk fails; it is started again soon.
    PeerEnded {
        peer: u64,
        why: String,
    },
    Leads {
        term: u64,
        peer: u64,
    },
    /// The first replica to apply this index; `digest` is of the state then.
    Applied {
        index: u64,
        digest: u64,
    },
    Acknowledged {
        key: String,
        first: TaskId,
        count: u32,
    },
    Started {
        machine: u64,
        lease: LeaseId,
        gpus: Vec<GpuId>,
    },
    /// None: the machine lost its power.
    Ended {
        machine: u64,
        lease: LeaseId,
        end: Option<EndKind>,
    },
    Violation {
        rule: &'static str,
        what: String,
    },
    Said(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Fault { id, what, length_ms } => write!(f, "FAULT {id} {what} for {length_ms} ms"),
            Event::FaultEnds { id } => write!(f, "FAULT {id} ends"),
            Event::Healed => write!(f, "HEALED"),
            Event::PeerDown { peer, power: true } => write!(f, "peer {peer} loses its power"),
            Event::PeerDown { peer, power: false } => write!(f, "peer {peer} is killed"),
            Event::PeerUp { peer } => write!(f, "peer {peer} starts anew"),
            Event::PeerEnded { peer, why } => write!(f, "peer {peer} ends: {why}"),
            Event::Leads { term, peer } => write!(f, "term {term} is led by peer {peer}"),
            Event::Applied { index, digest } => write!(f, "index {index} is {digest:016x}"),
            Event::Acknowledged { key, first, count } => write!(f, "acknowledged {key} {first} x {count}"),
            Event::Started { machine, lease, gpus } => write!(f, "machine {machine} runs {lease} {gpus:?}"),
            Event::Ended { machine, lease, end } => write!(f, "machine {machine} ended {lease} {end:?}"),
            Event::Violation { rule, what } => write!(f, "VIOLATION {rule}: {what}"),
            Event::Said(what) => f.write_str(what),
        }
    }
}
