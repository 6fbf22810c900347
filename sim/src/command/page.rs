//! A seed's story as one page that needs nothing else: data for the script in `page/page.js`, put into one file with it.

use serde::Serialize;

use crate::command::failure::Failure;
use stint_sim::SLURM;

use crate::command::recorded_event::Verdict;
use crate::command::timeline::{Attempt, Fault, Span, Timeline, place, seconds};
use crate::command::{exit, hints};

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// What the script draws.
#[derive(Serialize)]
struct Data {
    end_ms: u64,
    healed_ms: Option<u64>,
    violation: Option<Mark>,
    lanes: Vec<Lane>,
}

/// Rows that belong together.
#[derive(Serialize)]
struct Lane {
    name: &'static str,
    about: &'static str,
    rows: Vec<Row>,
}

#[derive(Default, Serialize)]
struct Row {
    label: String,
    bars: Vec<Bar>,
    marks: Vec<Mark>,
}

/// Something that lasted; `tone` is a class of the style sheet.
#[derive(Clone, Serialize)]
struct Bar {
    from_ms: u64,
    to_ms: u64,
    tone: &'static str,
    text: String,
    detail: String,
}

/// A moment.
#[derive(Serialize)]
struct Mark {
    at_ms: u64,
    tone: &'static str,
    detail: String,
}

/// The whole page.
pub fn page(
    heading: &str,
    facts: &str,
    timeline: &Timeline,
    verdict: &Verdict,
    lines: &str,
) -> Result<String, Failure> {
    // A `<` in the data must not end the script.
    let data = serde_json::to_string(&data(timeline)).map_err(std::io::Error::from)?.replace('<', "\\u003c");
    Ok(filled(&[
        ("{{title}}", escaped(heading)),
        ("{{facts}}", escaped(facts)),
        ("{{verdict}}", section(timeline, verdict)),
        ("{{timeline}}", escaped(lines)),
        ("{{style}}", STYLE.to_owned()),
        ("{{data}}", data),
        ("{{script}}", SCRIPT.to_owned()),
    ]))
}

/// The template with its parts. Each is put in once, from the end to the beginning: what a part says is never taken for
/// a place.
fn filled(parts: &[(&str, String)]) -> String {
    let mut places: Vec<(usize, usize, &String)> = Vec::new();
    for (place, text) in parts {
        places.extend(TEMPLATE.match_indices(place).map(|(at, _)| (at, place.len(), text)));
    }
    places.sort_by_key(|(at, _, _)| std::cmp::Reverse(*at));
    let mut page = TEMPLATE.to_owned();
    for (at, length, text) in places {
        page.replace_range(at..at + length, text);
    }
    page
}

fn section(timeline: &Timeline, verdict: &Verdict) -> String {
    let Some(violation) = &timeline.violation else {
        return "<section class=\"verdict good\"><h2>No rule is broken</h2></section>".into();
    };
    format!(
        "<section class=\"verdict bad\"><h2>{} at {} s: {}</h2><p>{}</p><p class=\"hint\">{}</p></section>",
        capital(exit::word(verdict.code)),
        seconds(violation.at_ms),
        escaped(&violation.rule),
        escaped(&violation.what),
        escaped(hints::hint_for(&violation.rule))
    )
}

fn data(timeline: &Timeline) -> Data {
    let violation = timeline.violation.as_ref().map(|violation| Mark {
        at_ms: violation.at_ms,
        tone: "violation",
        detail: format!("{} s  VIOLATION {}: {}", seconds(violation.at_ms), violation.rule, violation.what),
    });
    Data { end_ms: timeline.end_ms, healed_ms: timeline.healed_ms, violation, lanes: lanes(timeline) }
}

fn lanes(timeline: &Timeline) -> Vec<Lane> {
    let lane = |name, about, rows| Lane { name, about, rows };
    vec![
        lane("Nodes", "up, process killed, power lost", nodes(timeline)),
        lane("Leadership", "who leads which term", leadership(timeline)),
        lane("Faults", "one row a lane of the scenario", faults(timeline)),
        lane("Attempts", "by machine; the color is how it ended", attempts(timeline)),
        lane("GPUs", "by device: which attempt holds it", gpus(timeline)),
        lane("Requests", "submits that were acknowledged", requests(timeline)),
    ]
}

fn nodes(timeline: &Timeline) -> Vec<Row> {
    let row = |peer: &u64| {
        let mut row = Row { label: format!("peer {peer}"), ..Row::default() };
        let mut up_from = 0;
        for down in timeline.downs.iter().filter(|down| down.what.peer == *peer) {
            row.bars.push(bar(up_from, down.from_ms, "up", "up", format!("peer {peer} is up")));
            let (tone, what) =
                if down.what.power { ("power", "power lost") } else { ("down", "process killed") };
            row.bars.push(bar(down.from_ms, down.to_ms, tone, what, format!("peer {peer}: {what}")));
            up_from = down.to_ms;
        }
        if up_from < timeline.end_ms {
            row.bars.push(bar(up_from, timeline.end_ms, "up", "up", format!("peer {peer} is up")));
        }
        row
    };
    timeline.peers.iter().map(row).collect()
}

fn leadership(timeline: &Timeline) -> Vec<Row> {
    let row = |peer: &u64| {
        let leader_spans = timeline.leader_spans.iter().filter(|span| span.what.peer == *peer);
        let bars = leader_spans.map(|span| {
            let term = span.what.term;
            let detail = format!("peer {peer} leads term {term}, as far as anybody knew");
            bar(span.from_ms, span.to_ms, "leader", &format!("term {term}"), detail)
        });
        Row { label: format!("peer {peer}"), bars: bars.collect(), marks: vec![] }
    };
    timeline.peers.iter().map(row).collect()
}

fn faults(timeline: &Timeline) -> Vec<Row> {
    let lane_of = |fault: &Fault| fault.id.split(':').next().unwrap_or_default().to_owned();
    let mut rows: Vec<Row> = Vec::new();
    for Span { from_ms, to_ms, what } in &timeline.faults {
        let label = lane_of(what);
        let one = bar(*from_ms, *to_ms, "fault", &what.what, format!("{}: {}", what.id, what.what));
        match rows.iter_mut().find(|row| row.label == label) {
            Some(row) => row.bars.push(one),
            None => rows.push(Row { label, bars: vec![one], marks: vec![] }),
        }
    }
    rows
}

fn attempts(timeline: &Timeline) -> Vec<Row> {
    let accused: Vec<String> = timeline.accused().map(|span| span.what.name.clone()).collect();
    let of_machine = |machine: &u64| {
        let own = timeline.attempts.iter().filter(|span| span.what.machine == *machine);
        let bars = own.map(|span| attempt_bar(span, accused.contains(&span.what.name)));
        packed(&place(*machine), bars)
    };
    let slurm = timeline.attempts.iter().any(|span| span.what.machine == SLURM).then_some(&SLURM);
    timeline.peers.iter().chain(slurm).flat_map(of_machine).collect()
}

fn gpus(timeline: &Timeline) -> Vec<Row> {
    let mut names: Vec<&String> = timeline.attempts.iter().flat_map(|span| &span.what.gpus).collect();
    names.sort();
    names.dedup();
    let accused: Vec<String> = timeline.accused().map(|span| span.what.name.clone()).collect();
    let of_gpu = |name: &String| {
        let holders = timeline.attempts.iter().filter(|span| span.what.gpus.contains(name));
        packed(name, holders.map(|span| attempt_bar(span, accused.contains(&span.what.name))))
    };
    names.into_iter().flat_map(of_gpu).collect()
}

/// Bars that overlap go into rows below each other; what still runs at the end shares no row with what begins then.
fn packed(label: &str, bars: impl Iterator<Item = Bar>) -> Vec<Row> {
    let mut rows = vec![Row { label: label.to_owned(), ..Row::default() }];
    for bar in bars {
        let free = |row: &&mut Row| row.bars.last().is_none_or(|last| last.to_ms < bar.from_ms);
        match rows.iter_mut().find(free) {
            Some(row) => row.bars.push(bar),
            None => rows.push(Row { bars: vec![bar], ..Row::default() }),
        }
    }
    rows
}

fn attempt_bar(span: &Span<Attempt>, accused: bool) -> Bar {
    let Attempt { machine, name, gpus, end } = &span.what;
    let on = if gpus.is_empty() { String::new() } else { format!(" with {}", gpus.join(", ")) };
    let tone = match (accused, end.as_str()) {
        (true, _) => "accused",
        (_, "exited 0") => "succeeded",
        (_, "still running") => "running",
        (_, "power lost" | "lost") => "lost",
        (_, "cancelled" | "drained") => "cancelled",
        _ => "failed",
    };
    bar(span.from_ms, span.to_ms, tone, &short(name), format!("{name} on {}{on}: {end}", place(*machine)))
}

fn requests(timeline: &Timeline) -> Vec<Row> {
    let marks = timeline.acknowledged.iter().map(|request| Mark {
        at_ms: request.at_ms,
        tone: "request",
        detail: format!(
            "{} s  {}: {} task(s) from {}",
            seconds(request.at_ms),
            request.key,
            request.count,
            request.first
        ),
    });
    vec![Row { label: "clients".into(), bars: vec![], marks: marks.collect() }]
}

fn bar(from_ms: u64, to_ms: u64, tone: &'static str, text: &str, detail: String) -> Bar {
    let detail = format!("{} to {} s  {detail}", seconds(from_ms), seconds(to_ms));
    Bar { from_ms, to_ms, tone, text: text.to_owned(), detail }
}

/// The end of a task's id, where ids of one run differ, and the attempt.
fn short(attempt: &str) -> String {
    let (task, number) = attempt.split_once('#').unwrap_or((attempt, ""));
    let parts: Vec<&str> = task.split('-').collect();
    match parts[..] {
        [_, second, .., last] => format!("{second}…{}#{number}", &last[last.len().saturating_sub(4)..]),
        _ => attempt.to_owned(),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::recorded_event::{Line, RecordedEvent};

    #[test]
    fn the_page_needs_nothing_else_and_words_cannot_break_out() {
        let started = |at_ms, machine, name: &str| {
            let gpus = vec!["GPU-1".to_owned()];
            Line { at_ms, event: RecordedEvent::Started { machine, attempt: name.into(), gpus } }
        };
        let nasty = "task a: </script><b> {{script}}".to_owned();
        let lines = [
            started(1, 1, "a#1"),
            started(2, 2, "a#2"),
            Line {
                at_ms: 3,
                event: RecordedEvent::Violation { rule: "one holder a GPU".into(), what: nasty },
            },
        ];
        let timeline = Timeline::from_lines(&lines);
        let verdict = Verdict {
            seed: 1,
            hash: String::new(),
            simulated_ms: 3,
            summary: String::new(),
            code: 10,
            rule: None,
            what: None,
            faults: vec![],
        };
        let page = page("Seed 1", "facts", &timeline, &verdict, "lines").unwrap();
        assert!(!page.contains("http://") && !page.contains("https://"), "a reference to outside");
        assert_eq!(page.matches("</script>").count(), page.matches("<script").count());
        assert_eq!(page.matches("{{").count(), page.matches("{{script}}").count(), "a place is left");
        for lane in ["Nodes", "Leadership", "Faults", "Attempts", "GPUs", "Requests"] {
            assert!(page.contains(&format!("{{\"name\":\"{lane}\"")), "no lane {lane}");
        }
        // Two holders of one GPU lie below each other.
        assert_eq!(gpus(&timeline).len(), 2);
    }
}
