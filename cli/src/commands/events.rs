//! `stint events`: what happened in the cluster.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use stint_sdk::{units, v1};

use super::Context;
use crate::Done;
use crate::output::{print_json, talk};
use crate::view::now_ms;

/// Tasks asked for at once: the most that a peer gives.
const PAGE: u32 = 10_000;
/// Lines of a recording that `stint sim` plays at most (`sim/src/command/real/workload.rs`).
const MOST_LINES: usize = 20_000;
/// Tasks of a line at most, as there.
const MOST_COUNT: u32 = 1_000;

#[derive(Args, Debug)]
pub struct EventsArgs {
    #[command(subcommand)]
    pub command: EventsCommand,
}

#[derive(Subcommand, Debug)]
pub enum EventsCommand {
    /// Write the finished tasks as a workload that `stint sim run --workload` plays
    Export(ExportArgs),
}

const EXAMPLES: &str = "\
Examples:
  stint events export --since 2h > load.jsonl
  stint sim run --config stint.toml --workload load.jsonl --speedup 10 --seeds 20";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// Only tasks that were submitted within this time [default: every finished task that is still known]
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    pub since: Option<Duration>,
    /// Only this class
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
}

pub async fn run(context: Context, args: EventsArgs) -> Done {
    match args.command {
        EventsCommand::Export(args) => export(context, args).await,
    }
}

/// A line of a recording: tasks that were submitted together and did the same.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    at_ms: u64,
    class: String,
    count: u32,
    cpu_milli: u64,
    memory_bytes: u64,
    priority: u32,
    run_ms: u64,
    end: &'static str,
}

impl Line {
    /// None for a task that never ran: it says nothing about the load.
    fn from_task(task: &v1::Task) -> Option<Self> {
        let outcome = task.outcome.as_ref()?;
        let end = match (outcome.kind.as_str(), outcome.status.as_str()) {
            (_, "succeeded") => "succeeded",
            ("timed_out", _) => "hangs",
            // These ran, even if for less than a millisecond.
            (
                "exited" | "signalled" | "oom_killed" | "disk_exceeded" | "output_missing" | "output_lost",
                _,
            ) => "failed",
            _ if outcome.run_ms == 0 => return None,
            // A user ended it: it would have run on.
            ("cancelled", _) => "succeeded",
            _ => "failed",
        };
        Some(Self {
            at_ms: task.submitted_at_ms,
            class: task.class.clone(),
            count: 1,
            cpu_milli: task.cpu_milli,
            memory_bytes: task.memory_bytes,
            priority: task.priority,
            run_ms: outcome.run_ms,
            end,
        })
    }

    /// Takes the other in when it is the same but for its count.
    fn takes(&mut self, other: &Self) -> bool {
        let same = *self == Self { count: self.count, class: other.class.clone(), ..*other };
        let fits = same && self.count < MOST_COUNT;
        self.count += u32::from(fits);
        fits
    }
}

async fn export(context: Context, args: ExportArgs) -> Done {
    let from = args.since.map_or(0, |since| now_ms().saturating_sub(since.as_millis() as u64));
    let mut tasks = Vec::new();
    let mut before = String::new();
    loop {
        let request = v1::ListTasksRequest {
            tenant: context.tenant.clone(),
            state: "finished".into(),
            limit: PAGE,
            before,
            class: args.class.clone().unwrap_or_default(),
        };
        let reply = context.client.list_tasks(request).await?;
        let all_older = reply.tasks.iter().all(|task| task.submitted_at_ms < from);
        tasks.extend(reply.tasks.into_iter().filter(|task| task.submitted_at_ms >= from));
        if reply.next.is_empty() || all_older {
            break;
        }
        before = reply.next;
    }
    let lines = lines(&tasks);
    let text: String = lines
        .iter()
        .map(|line| Ok(serde_json::to_string(line)? + "\n"))
        .collect::<Result<_, _>>()
        .map_err(|error: serde_json::Error| std::io::Error::other(error))?;
    print_json(&text)?;
    let played: u32 = lines.iter().map(|line| line.count).sum();
    talk(&format!(
        "{played} tasks in {} lines; {} never ran and are left out",
        lines.len(),
        tasks.len() as u64 - u64::from(played)
    ));
    if lines.len() > MOST_LINES {
        talk(&format!(
            "a simulation plays {MOST_LINES} lines at most: give a shorter --since, or a part of the file"
        ));
    }
    Ok(0)
}

/// In the order of their submits, with times since the first one.
fn lines(tasks: &[v1::Task]) -> Vec<Line> {
    let mut all: Vec<Line> = tasks.iter().filter_map(Line::from_task).collect();
    let first = all.iter().map(|line| line.at_ms).min().unwrap_or(0);
    all.iter_mut().for_each(|line| line.at_ms -= first);
    all.sort_by(|a, b| {
        let key = |line: &Line| {
            (
                line.at_ms,
                line.class.clone(),
                line.run_ms,
                line.cpu_milli,
                line.memory_bytes,
                line.priority,
                line.end,
            )
        };
        key(a).cmp(&key(b))
    });
    let mut lines: Vec<Line> = Vec::new();
    for line in all {
        if !lines.last_mut().is_some_and(|last| last.takes(&line)) {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(submitted_at_ms: u64, status: &str, kind: &str, run_ms: u64) -> v1::Task {
        let outcome =
            v1::Outcome { status: status.into(), kind: kind.into(), run_ms, ..v1::Outcome::default() };
        v1::Task {
            class: "cpu_short".into(),
            submitted_at_ms,
            outcome: Some(outcome),
            cpu_milli: 500,
            memory_bytes: 7,
            priority: 50,
            ..v1::Task::default()
        }
    }

    #[test]
    fn what_was_submitted_together_and_did_the_same_is_one_line() {
        let tasks = [
            task(1_200, "failed", "exited", 9),
            task(1_300, "failed", "signalled", 0),
            task(1_300, "failed", "start_failed", 0),
            task(1_000, "succeeded", "exited", 5),
            task(1_000, "succeeded", "exited", 5),
            task(1_000, "failed", "timed_out", 5),
            task(900, "cancelled", "cancelled", 0),
        ];
        let lines: Vec<String> =
            lines(&tasks).iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        let tail = r#""cpu_milli":500,"memory_bytes":7,"priority":50"#;
        assert_eq!(
            lines,
            [
                format!(r#"{{"at_ms":0,"class":"cpu_short","count":1,{tail},"run_ms":5,"end":"hangs"}}"#),
                format!(r#"{{"at_ms":0,"class":"cpu_short","count":2,{tail},"run_ms":5,"end":"succeeded"}}"#),
                format!(r#"{{"at_ms":200,"class":"cpu_short","count":1,{tail},"run_ms":9,"end":"failed"}}"#),
                format!(r#"{{"at_ms":300,"class":"cpu_short","count":1,{tail},"run_ms":0,"end":"failed"}}"#),
            ]
        );
    }

    #[test]
    fn a_line_holds_no_more_tasks_than_a_simulation_takes() {
        let tasks = vec![task(1, "succeeded", "exited", 5); MOST_COUNT as usize + 3];
        let counts: Vec<u32> = lines(&tasks).iter().map(|line| line.count).collect();
        assert_eq!(counts, [MOST_COUNT, 3]);
    }
}
