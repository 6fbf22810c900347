//! How commands show documents to people.

mod images;
mod limits;
mod settings;

use std::time::{SystemTime, UNIX_EPOCH};

use stint_sdk::api::{Outcome, Task};
use stint_sdk::units;

pub use images::{content, size};
pub use limits::{limits_line, usage_line};
pub use settings::{classes, cluster_settings, history, images_of, tenants};

use crate::table::{Cell, Tone};

/// The state of a task in a word or two: how it ended, or when it is tried again.
pub fn state_cell(task: &Task, now_ms: u64) -> Cell {
    if let Some(outcome) = &task.outcome {
        return outcome_cell(outcome);
    }
    match task.not_before_ms.and_then(|at| at.checked_sub(now_ms)).filter(|ms| *ms > 0) {
        Some(ms) => Cell::new(format!("queued (retry in {})", units::show_duration(ms)), Tone::Plain),
        None => Cell::new(&task.state, state_tone(&task.state)),
    }
}

/// How long the last attempt of a task ran, or has been running.
pub fn run_time(task: &Task, now_ms: u64) -> String {
    let running = || {
        let start = task.attempt_records.iter().rev().find(|a| a.ended_at_ms.is_none())?.started_at_ms?;
        Some(now_ms.saturating_sub(start))
    };
    let ms = task.outcome.as_ref().map(|o| o.run_ms).filter(|ms| *ms > 0).or_else(running);
    ms.map(units::show_duration).unwrap_or_default()
}

/// Time since then.
pub fn age(since_ms: u64, now_ms: u64) -> String {
    units::show_duration(now_ms.saturating_sub(since_ms))
}

/// A time of day in UTC, as the clocks of logs show it.
pub fn clock(at_ms: u64) -> String {
    let seconds = at_ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn outcome_cell(outcome: &Outcome) -> Cell {
    let detail = match (outcome.status.as_str(), outcome.kind.as_str()) {
        ("succeeded" | "cancelled", _) => String::new(),
        (_, "exited") => format!(" (exit {})", outcome.run_exit_code),
        (_, "signalled") => format!(" (signal {})", outcome.run_exit_code - 128),
        (_, kind) => format!(" ({kind})"),
    };
    let tone = match outcome.status.as_str() {
        "succeeded" => Tone::Good,
        "failed" => Tone::Bad,
        _ => Tone::Faint,
    };
    Cell::new(format!("{}{detail}", outcome.status), tone)
}

/// The tone of a state of a task, a node or a GPU.
pub fn state_tone(state: &str) -> Tone {
    match state {
        "running" | "starting" | "pending" | "stopping" | "leased" | "draining" => Tone::Busy,
        "ready" | "free" | "leader" => Tone::Good,
        "lost" | "unreachable" | "quarantined" | "conflict" => Tone::Bad,
        "cordoned" | "drained" => Tone::Faint,
        _ => Tone::Plain,
    }
}

/// A command on one line, as a shell would take it; cut to `most` characters.
pub fn command_line(command: &[String], most: usize) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quoted = |word: &String| match word {
        w if !w.is_empty() && w.chars().all(plain) => w.clone(),
        w => format!("'{}'", w.replace('\'', r"'\''").escape_debug().to_string().replace("\\'", "'")),
    };
    let line = command.iter().map(quoted).collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The wall clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
