//! A trace as things that last: leaders, peers that were down, faults, attempts. What the timeline and the page show.

use std::collections::BTreeMap;
use stint_sim::SLURM;

use crate::command::recorded_event::{Line, RecordedEvent};

/// Something that lasted.
#[derive(Clone, Debug, PartialEq)]
pub struct Span<T> {
    pub from_ms: u64,
    /// The end of the story when it had no end of its own.
    pub to_ms: u64,
    pub what: T,
}

/// A peer that was not there.
#[derive(Clone, Debug, PartialEq)]
pub struct Down {
    pub peer: u64,
    pub power: bool,
}

/// A leader's term.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaderSpan {
    pub term: u64,
    pub peer: u64,
}

/// A fault with its words.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub id: String,
    pub what: String,
}

/// One attempt on one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub machine: u64,
    pub name: String,
    pub gpus: Vec<String>,
    /// In words; `still running` when the story ended first.
    pub end: String,
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Acknowledged {
    pub at_ms: u64,
    pub key: String,
    pub first: String,
    pub count: u32,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub at_ms: u64,
    pub rule: String,
    pub what: String,
}

/// The whole run.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub end_ms: u64,
    pub healed_ms: Option<u64>,
    pub peers: Vec<u64>,
    pub downs: Vec<Span<Down>>,
    pub leader_spans: Vec<Span<LeaderSpan>>,
    pub faults: Vec<Span<Fault>>,
    pub attempts: Vec<Span<Attempt>>,
    pub acknowledged: Vec<Acknowledged>,
    /// What was said beside all this, such as `the cluster is complete`.
    pub said: Vec<(u64, String)>,
    pub violation: Option<Violation>,
}

/// What has begun and not ended.
#[derive(Default)]
struct Open {
    downs: BTreeMap<u64, usize>,
    faults: BTreeMap<String, usize>,
    attempts: BTreeMap<(u64, String), usize>,
}

impl Timeline {
    /// Of the events of one seed, in their order.
    pub fn from_lines(lines: &[Line]) -> Self {
        let end_ms = lines.last().map_or(0, |line| line.at_ms);
        let mut timeline = Timeline { end_ms, ..Timeline::default() };
        let mut open = Open::default();
        for line in lines {
            timeline.on(line.at_ms, line.event.clone(), &mut open);
        }
        timeline.name_peers();
        timeline
    }

    fn on(&mut self, at_ms: u64, event: RecordedEvent, open: &mut Open) {
        match event {
            RecordedEvent::Fault { fault, what, .. } => {
                open.faults.insert(fault.clone(), self.faults.len());
                self.faults.push(self.span(at_ms, Fault { id: fault, what }));
            }
            RecordedEvent::FaultEnds { fault } => close(&mut self.faults, open.faults.remove(&fault), at_ms),
            RecordedEvent::PeerDown { peer, power } => {
                open.downs.insert(peer, self.downs.len());
                self.downs.push(self.span(at_ms, Down { peer, power }));
            }
            RecordedEvent::PeerUp { peer } => close(&mut self.downs, open.downs.remove(&peer), at_ms),
            RecordedEvent::Leads { term, peer } => {
                let last = self.leader_spans.len().checked_sub(1);
                close(&mut self.leader_spans, last, at_ms);
                self.leader_spans.push(self.span(at_ms, LeaderSpan { term, peer }));
            }
            RecordedEvent::Started { machine, attempt, gpus } => {
                open.attempts.insert((machine, attempt.clone()), self.attempts.len());
                let attempt = Attempt { machine, name: attempt, gpus, end: "still running".into() };
                self.attempts.push(self.span(at_ms, attempt));
            }
            RecordedEvent::Ended { machine, attempt, end } => {
                let place = open.attempts.remove(&(machine, attempt));
                if let Some(span) = place.and_then(|place| self.attempts.get_mut(place)) {
                    span.to_ms = at_ms;
                    span.what.end = end.unwrap_or_else(|| "power lost".into());
                }
            }
            RecordedEvent::Acknowledged { key, first, count } => {
                self.acknowledged.push(Acknowledged { at_ms, key, first, count });
            }
            RecordedEvent::Violation { rule, what } if self.violation.is_none() => {
                self.violation = Some(Violation { at_ms, rule, what });
            }
            RecordedEvent::Healed => self.healed_ms = Some(at_ms),
            RecordedEvent::Said { what } => self.said.push((at_ms, what)),
            RecordedEvent::Applied { .. } | RecordedEvent::Violation { .. } => {}
        }
    }

    /// A span that lasts to the end, unless it is closed.
    fn span<T>(&self, from_ms: u64, what: T) -> Span<T> {
        Span { from_ms, to_ms: self.end_ms, what }
    }

    fn name_peers(&mut self) {
        let downs = self.downs.iter().map(|span| span.what.peer);
        let leaders = self.leader_spans.iter().map(|span| span.what.peer);
        let machines = self.attempts.iter().map(|span| span.what.machine).filter(|machine| *machine != SLURM);
        let most = downs.chain(leaders).chain(machines).max().unwrap_or(0);
        self.peers = (1..=most).collect();
    }

    /// Attempts of the tasks that the violation names.
    pub fn accused(&self) -> impl Iterator<Item = &Span<Attempt>> {
        let text = self.violation.as_ref().map(|violation| violation.what.clone()).unwrap_or_default();
        self.attempts.iter().filter(move |span| text.contains(task_of(&span.what.name)))
    }
}

/// The name of what runs attempts.
pub fn place(machine: u64) -> String {
    if machine == SLURM { "Slurm".into() } else { format!("machine {machine}") }
}

fn close<T>(spans: &mut [Span<T>], place: Option<usize>, at_ms: u64) {
    if let Some(span) = place.and_then(|place| spans.get_mut(place)) {
        span.to_ms = at_ms;
    }
}

/// The task of an attempt's name, `task#attempt`.
pub fn task_of(attempt: &str) -> &str {
    attempt.split_once('#').map_or(attempt, |(task, _)| task)
}

/// Seconds with three digits behind the point.
pub fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_ms: u64, event: RecordedEvent) -> Line {
        Line { at_ms, event }
    }

    #[test]
    fn what_begins_and_ends_becomes_a_span() {
        let started =
            |machine| RecordedEvent::Started { machine, attempt: "t#1".into(), gpus: vec!["G".into()] };
        let lines = [
            line(1, RecordedEvent::Leads { term: 1, peer: 2 }),
            line(2, started(3)),
            line(3, RecordedEvent::Fault { fault: "links:1".into(), what: "cut".into(), length_ms: 9 }),
            line(4, RecordedEvent::PeerDown { peer: 2, power: true }),
            line(5, RecordedEvent::Ended { machine: 3, attempt: "t#1".into(), end: None }),
            line(6, RecordedEvent::Leads { term: 2, peer: 1 }),
            line(7, RecordedEvent::PeerUp { peer: 2 }),
            line(8, started(1)),
            line(9, RecordedEvent::Violation { rule: "r".into(), what: "task t runs twice".into() }),
        ];
        let timeline = Timeline::from_lines(&lines);
        let spans: Vec<_> = timeline.leader_spans.iter().map(|s| (s.from_ms, s.to_ms, s.what.peer)).collect();
        assert_eq!(spans, [(1, 6, 2), (6, 9, 1)]);
        assert_eq!((timeline.downs[0].from_ms, timeline.downs[0].to_ms), (4, 7));
        assert_eq!((timeline.faults[0].from_ms, timeline.faults[0].to_ms), (3, 9));
        let ends: Vec<_> = timeline.accused().map(|s| (s.to_ms, s.what.end.as_str())).collect();
        assert_eq!(ends, [(5, "power lost"), (9, "still running")]);
        assert_eq!(timeline.peers, [1, 2, 3]);
    }
}
