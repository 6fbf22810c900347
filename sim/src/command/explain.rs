//! What happened in a seed, as a timeline that a person can read: what failed, who led, and the attempts around the
//! violation; and where to look.

use std::fmt::Write as _;

use crate::args::{ExplainArgs, Only};
use crate::command::child::{self, Print};
use crate::command::failure::{self, print};
use crate::command::recorded_event::Verdict;
use crate::command::run_context::RunContext;
use crate::command::timeline::{Attempt, Span, Timeline, place, seconds};
use crate::command::{Done, exit, hints, page};

/// Attempts are told one by one from this long before the violation, in milliseconds.
const WINDOW_MS: u64 = 3_000;
/// A pause longer than this begins a new group of lines, in milliseconds.
const GROUP_MS: u64 = 1_500;
/// Columns of a line.
const WIDTH: usize = 110;

/// Simulates the seed and tells its story.
pub fn run(args: ExplainArgs) -> Done {
    let context = RunContext::load(&args.world)?;
    let ended = child::simulate(&context, args.seed, args.only.as_ref(), Print::Events)?;
    let (verdict, timeline) = (&ended.verdict, Timeline::from_lines(&child::events(&ended)));
    let heading = heading(&context, verdict, args.only.as_ref());
    let lines = lines_of(&timeline);
    print(&format!("{heading}\n{}\n\n{lines}{}", facts(&timeline), closing(&timeline, verdict)))?;
    match &args.html {
        Some(path) => {
            failure::write(path, &page::page(&heading, &facts(&timeline), &timeline, verdict, &lines)?)?;
            eprintln!("the page is in {}: open it in a browser, it needs no network", path.display());
        }
        None => {
            let command = context.command("explain", args.seed, args.only.as_ref());
            eprintln!("as a page: {command} --html {}.html", args.seed);
        }
    }
    if verdict.code != exit::FINE && args.only.is_none() {
        eprintln!("fewer faults: {}", context.command("shrink", args.seed, None));
    }
    Ok(verdict.code)
}

fn heading(context: &RunContext, verdict: &Verdict, only: Option<&Only>) -> String {
    let mut text = format!("Seed {} of {}", verdict.seed, context.scenario.name);
    if let Some(plant) = context.plant {
        let _ = write!(text, " with {} planted", plant.as_str());
    }
    if let Some(only) = only {
        let _ = write!(text, ", faults {only} alone");
    }
    match &verdict.rule {
        Some(rule) => text + &format!(": {}, \"{rule}\"", exit::word(verdict.code)),
        None => text + ": no rule is broken",
    }
}

fn facts(timeline: &Timeline) -> String {
    let Timeline { end_ms, faults, leader_spans, attempts, acknowledged, peers, .. } = timeline;
    format!(
        "{} s simulated, {} peers, {} faults, {} terms, {} requests acknowledged, {} attempts",
        seconds(*end_ms),
        peers.len(),
        faults.len(),
        leader_spans.len(),
        acknowledged.len(),
        attempts.len()
    )
}

/// One line of the timeline.
struct Row {
    at_ms: u64,
    kind: &'static str,
    text: String,
}

fn row(at_ms: u64, kind: &'static str, text: String) -> Row {
    Row { at_ms, kind, text }
}

/// Everything that failed and who led; attempts only where they matter.
pub fn lines_of(timeline: &Timeline) -> String {
    let mut rows = Vec::new();
    // What the simulation says of its own end is told below.
    let said = timeline.said.iter().filter(|(_, what)| what != "ended early");
    rows.extend(said.map(|(at, what)| row(*at, "", what.clone())));
    rows.extend(timeline.leader_spans.iter().map(|span| {
        row(span.from_ms, "leader", format!("peer {} leads term {}", span.what.peer, span.what.term))
    }));
    rows.extend(timeline.downs.iter().flat_map(|down| {
        let peer = down.what.peer;
        let why = if down.what.power { "loses its power" } else { "is killed" };
        let began = row(down.from_ms, "peer", format!("{peer} {why}, {}", until(timeline, down.to_ms)));
        let back = row(down.to_ms, "peer", format!("{peer} starts again"));
        [Some(began), (down.to_ms < timeline.end_ms).then_some(back)].into_iter().flatten()
    }));
    rows.extend(timeline.faults.iter().flat_map(|fault| {
        let (id, until) = (&fault.what.id, until(timeline, fault.to_ms));
        let began = row(fault.from_ms, "fault", format!("{id} {until}: {}", fault.what.what));
        let over = row(fault.to_ms, "fault", format!("{id} ends"));
        [Some(began), (fault.to_ms < timeline.end_ms).then_some(over)].into_iter().flatten()
    }));
    rows.extend(timeline.healed_ms.map(|at| row(at, "", "faults and new work are over".into())));
    rows.extend(around(timeline));
    rows.sort_by_key(|row| row.at_ms);
    shown(&rows)
}

fn until(timeline: &Timeline, ms: u64) -> String {
    if ms < timeline.end_ms { format!("until {}", seconds(ms)) } else { "to the end".into() }
}

/// Attempts that begin or end shortly before the violation, and all of those that it names.
fn around(timeline: &Timeline) -> Vec<Row> {
    let Some(violation) = &timeline.violation else { return Vec::new() };
    let from = violation.at_ms.saturating_sub(WINDOW_MS);
    let accused: Vec<&Span<Attempt>> = timeline.accused().collect();
    let mut rows = Vec::new();
    for span in &timeline.attempts {
        let named = accused.iter().any(|other| other.what.name == span.what.name);
        let kind = if named { "ATTEMPT" } else { "attempt" };
        let Attempt { machine, name, gpus, end } = &span.what;
        let on = if gpus.is_empty() { String::new() } else { format!(" on {}", gpus.join(", ")) };
        if named || span.from_ms >= from {
            rows.push(row(span.from_ms, kind, format!("{name} starts on {}{on}", place(*machine))));
        }
        if end != "still running" && (named || span.to_ms >= from) {
            rows.push(row(span.to_ms, kind, format!("{name} ends on {}: {end}", place(*machine))));
        }
    }
    rows
}

/// Lines in groups: a pause makes a gap.
fn shown(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut last = None;
    for Row { at_ms, kind, text: what } in rows {
        if last.is_some_and(|last| last + GROUP_MS < *at_ms) {
            text.push('\n');
        }
        last = Some(*at_ms);
        let _ = writeln!(text, "{:>9}  {kind:<7}  {}", seconds(*at_ms), wrapped(what, 20));
    }
    text
}

/// What was broken, and what to do next.
fn closing(timeline: &Timeline, verdict: &Verdict) -> String {
    let Some(violation) = &timeline.violation else {
        return match &verdict.what {
            None => "\nNo rule is broken.\n".into(),
            Some(what) => format!("\n{}\n", wrapped(what, 0)),
        };
    };
    let mut text = format!("\n{:>9}  VIOLATION  {}\n", seconds(violation.at_ms), violation.rule);
    let _ = writeln!(text, "           {}", wrapped(&violation.what, 11));
    for span in timeline.accused() {
        let Attempt { machine, name, end, .. } = &span.what;
        let _ = write!(text, "           {name} on {}: from {}", place(*machine), seconds(span.from_ms));
        let _ = match end.as_str() {
            "still running" => writeln!(text, ", still running"),
            end => writeln!(text, " to {}, {end}", seconds(span.to_ms)),
        };
    }
    let _ =
        writeln!(text, "\n{}", wrapped(&format!("What to look at: {}", hints::hint_for(&violation.rule)), 0));
    text
}

/// Words in lines of the screen's width, after `indent` columns.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 || indent + line + 1 + word.chars().count() <= WIDTH => {
                if line > 0 {
                    last.push(' ');
                }
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::recorded_event::{Line, RecordedEvent};

    #[test]
    fn the_timeline_tells_the_accused_attempts_whenever_they_were() {
        let started = |at_ms, machine, name: &str| {
            let event = RecordedEvent::Started { machine, attempt: name.into(), gpus: vec![] };
            Line { at_ms, event }
        };
        let lines = [
            started(100, 1, "aaa#1"),
            started(200, 1, "bbb#1"),
            started(9_000, 2, "ccc#1"),
            started(9_500, 2, "aaa#2"),
            Line {
                at_ms: 9_500,
                event: RecordedEvent::Violation { rule: "r".into(), what: "task aaa: twice".into() },
            },
        ];
        let text = lines_of(&Timeline::from_lines(&lines));
        assert!(text.contains("ATTEMPT  aaa#1") && text.contains("ATTEMPT  aaa#2"), "{text}");
        assert!(text.contains("attempt  ccc#1") && !text.contains("bbb#1"), "{text}");
    }

    #[test]
    fn long_words_are_kept_whole() {
        let long = "x".repeat(200);
        assert_eq!(wrapped(&format!("a {long} b"), 0), format!("a\n{long}\nb"));
    }
}
