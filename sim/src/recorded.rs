//! A recorded workload: tasks with their times, played instead of drawn ones.

use serde::{Deserialize, Serialize};

/// One submit as it was recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedTask {
    /// Since the recording began, in milliseconds.
    pub at_ms: u64,
    pub class: String,
    /// Tasks of the submit.
    #[serde(default = "one")]
    pub count: u32,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    /// 0 to 100.
    #[serde(default = "usual_priority")]
    pub priority: u8,
    /// How long each program runs, in milliseconds.
    pub run_ms: u64,
    #[serde(default)]
    pub end: RecordedEnd,
}

/// How a program ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedEnd {
    #[default]
    Succeeded,
    /// With exit code 1.
    Failed,
    /// It does not: it runs until it is stopped.
    Hangs,
}

fn one() -> u32 {
    1
}

fn usual_priority() -> u8 {
    50
}

impl RecordedTask {
    /// The command of its tasks: tells the simulated machine what the program does.
    pub fn command(&self) -> Vec<String> {
        let end = match self.end {
            RecordedEnd::Succeeded => "succeeded",
            RecordedEnd::Failed => "failed",
            RecordedEnd::Hangs => "hangs",
        };
        vec!["recorded".into(), self.run_ms.to_string(), end.into()]
    }
}

/// What a command of `RecordedTask::command` says: how long it runs, unless it hangs, and its exit code.
pub fn recorded_run(command: &[String]) -> Option<(Option<u64>, i32)> {
    let [word, run_ms, end] = command else { return None };
    let run_ms = run_ms.parse().ok().filter(|_| word == "recorded")?;
    Some(((end != "hangs").then_some(run_ms), i32::from(end == "failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tells_what_was_recorded() {
        let text = r#"{"at_ms": 5, "class": "gpu", "cpu_milli": 1000, "memory_bytes": 1, "run_ms": 70}"#;
        let task: RecordedTask = serde_json::from_str(text).unwrap();
        assert_eq!((task.count, task.priority), (1, 50));
        assert_eq!(recorded_run(&task.command()), Some((Some(70), 0)));
        let hangs = RecordedTask { end: RecordedEnd::Hangs, ..task.clone() };
        assert_eq!(recorded_run(&hangs.command()), Some((None, 0)));
        let failed = RecordedTask { end: RecordedEnd::Failed, ..task };
        assert_eq!(recorded_run(&failed.command()), Some((Some(70), 1)));
        assert_eq!(recorded_run(&["simulated".into()]), None);
    }
}
