//! Events as JSON: what a seed's process prints and the other commands read. Fields are only added; a kind of event
//! that has no form of its own is told in words.

use serde::{Deserialize, Serialize};
use stint_protocol::EndKind;
use stint_sim::{Event, Report};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub at_ms: u64,
    #[serde(flatten)]
    pub event: RecordedEvent,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RecordedEvent {
    Fault {
        fault: String,
        what: String,
        length_ms: u64,
    },
    FaultEnds {
        fault: String,
    },
    Healed,
    PeerDown {
        peer: u64,
        power: bool,
    },
    PeerUp {
        peer: u64,
    },
    Leads {
        term: u64,
        peer: u64,
    },
    Applied {
        index: u64,
        digest: String,
    },
    Acknowledged {
        key: String,
        first: String,
        count: u32,
    },
    Started {
        machine: u64,
        attempt: String,
        gpus: Vec<String>,
    },
    /// No end: the machine lost its power.
    Ended {
        machine: u64,
        attempt: String,
        end: Option<String>,
    },
    Violation {
        rule: String,
        what: String,
    },
    Said {
        what: String,
    },
}

impl From<&Event> for RecordedEvent {
    fn from(event: &Event) -> Self {
        match event {
            Event::Fault { id, what, length_ms } => {
                RecordedEvent::Fault { fault: id.to_string(), what: what.clone(), length_ms: *length_ms }
            }
            Event::FaultEnds { id } => RecordedEvent::FaultEnds { fault: id.to_string() },
            Event::Healed => RecordedEvent::Healed,
            Event::PeerDown { peer, power } => RecordedEvent::PeerDown { peer: *peer, power: *power },
            Event::PeerUp { peer } => RecordedEvent::PeerUp { peer: *peer },
            Event::Leads { term, peer } => RecordedEvent::Leads { term: *term, peer: *peer },
            Event::Applied { index, digest } => {
                RecordedEvent::Applied { index: *index, digest: format!("{digest:016x}") }
            }
            Event::Acknowledged { key, first, count } => {
                RecordedEvent::Acknowledged { key: key.clone(), first: first.to_string(), count: *count }
            }
            Event::Started { machine, lease, gpus } => {
                let gpus = gpus.iter().map(ToString::to_string).collect();
                RecordedEvent::Started { machine: *machine, attempt: lease.to_string(), gpus }
            }
            Event::Ended { machine, lease, end } => {
                let end = end.as_ref().map(end_words);
                RecordedEvent::Ended { machine: *machine, attempt: lease.to_string(), end }
            }
            Event::Violation { rule, what } => {
                RecordedEvent::Violation { rule: (*rule).into(), what: what.clone() }
            }
            other => RecordedEvent::Said { what: other.to_string() },
        }
    }
}

fn end_words(end: &EndKind) -> String {
    match end {
        EndKind::Exited(code) => format!("exited {code}"),
        EndKind::Signalled(signal) => format!("signalled {signal}"),
        other => other.as_str().replace('_', " "),
    }
}

/// What came of a seed: the last line that its process prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub seed: u64,
    /// SHA-256 of the trace, its first 64 bits.
    pub hash: String,
    pub simulated_ms: u64,
    pub summary: String,
    /// 0, 10, 11 or 13.
    pub code: u8,
    pub rule: Option<String>,
    pub what: Option<String>,
    /// The faults that happened, in their order.
    pub faults: Vec<String>,
}

impl Verdict {
    pub fn new(seed: u64, report: &Report) -> Self {
        let faults = report.trace.0.iter().filter_map(|(_, event)| match event {
            Event::Fault { id, .. } => Some(id.to_string()),
            _ => None,
        });
        let violation = report.violation.as_ref();
        Self {
            seed,
            hash: report.trace.hash(),
            simulated_ms: report.simulated_ms,
            summary: report.summary.clone(),
            code: violation.map_or(0, |violation| violation.severity as u8),
            rule: violation.map(|violation| violation.rule.to_owned()),
            what: violation.map(|violation| violation.what.clone()),
            faults: faults.collect(),
        }
    }

    /// The last line for people.
    pub fn message(&self) -> String {
        let Self { seed, hash, simulated_ms, summary, .. } = self;
        let verdict = match (&self.rule, &self.what) {
            (Some(rule), Some(what)) => {
                format!("{} \"{rule}\": {what}", crate::command::exit::word(self.code))
            }
            _ => "ok".to_owned(),
        };
        format!("seed {seed} {hash} {simulated_ms} ms, {summary}: {verdict}")
    }
}
