//! `stint status`: one task with its attempts.

use clap::Args;
use stint_sdk::api::{Attempt, Task};
use stint_sdk::{units, v1};

use super::Context;
use crate::Done;
use crate::table::{Cell, Table};
use crate::text::Text;
use crate::view::{age, command_line, limits_line, now_ms, run_time, state_cell, state_tone, usage_line};

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Id or name
    pub task: String,
}

pub async fn run(context: Context, args: StatusArgs) -> Done {
    let request = v1::GetTaskRequest { tenant: context.tenant.clone(), task: args.task };
    let task = Task::from(context.client.get_task(request).await?);
    context.output.show(&task, [task.id.clone()], || text(&task, now_ms()))?;
    Ok(0)
}

fn text(task: &Task, now_ms: u64) -> Text {
    let text = Text::from(facts(task, now_ms));
    if task.attempt_records.is_empty() {
        return text;
    }
    text.and("").and(attempts(&task.attempt_records, &task.state, now_ms))
}

fn facts(task: &Task, now_ms: u64) -> Table {
    let mut table = Table::pairs();
    table
        .pair("id", task.id.as_str())
        .pair("name", task.name.clone().unwrap_or_default())
        .pair("tenant", task.tenant.as_str())
        .pair("class", task.class.as_str())
        .pair("state", state_cell(task, now_ms))
        .pair("priority", task.priority.to_string())
        .pair("command", command_line(&task.command, usize::MAX))
        .pair("comment", task.comment.clone().unwrap_or_default())
        .pair("runs as", task.run_as_uid.map(|uid| format!("user {uid}")).unwrap_or_default())
        .pair("submitted", format!("{} ago", age(task.submitted_at_ms, now_ms)))
        .pair("node", task.node.clone().unwrap_or_default())
        .pair("run time", run_time(task, now_ms));
    if let Some(limits) = &task.limits {
        table.pair("limits", limits_line(limits));
    }
    if let Some(outcome) = &task.outcome {
        if let Some(usage) = &outcome.usage {
            table.pair("used", usage_line(usage));
        }
        let own = outcome.exit_code.map_or_else(String::new, |code| code.to_string());
        table.pair("exit code", own).pair("message", outcome.message.as_str());
    }
    table
}

/// The one that has not ended is where its task is.
fn attempts(records: &[Attempt], state: &str, now_ms: u64) -> Table {
    let mut table = Table::new(&["ATTEMPT", "NODE", "STARTED", "END", "RUN", "GPUS", "MESSAGE"]);
    for attempt in records {
        let ago = |at: u64| format!("{} ago", units::show_duration(now_ms.saturating_sub(at)));
        let until = attempt.ended_at_ms.unwrap_or(now_ms);
        let run = attempt.started_at_ms.map(|start| units::show_duration(until.saturating_sub(start)));
        let end = match &attempt.end {
            Some(end) => Cell::from(end.as_str()),
            None => Cell::new(state, state_tone(state)),
        };
        table.row(vec![
            attempt.number.to_string().into(),
            attempt.node.as_str().into(),
            attempt.started_at_ms.map(ago).unwrap_or_default().into(),
            end,
            run.unwrap_or_default().into(),
            attempt.gpus.join(",").into(),
            attempt.message.as_str().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let attempt = |number, ended_at_ms, end: &str| v1::Attempt {
            number,
            node_id: 2,
            node_name: "b".into(),
            started_at_ms: 1_000,
            ended_at_ms,
            end: end.into(),
            gpus: vec!["GPU-1".into()],
            ..Default::default()
        };
        Task::from(v1::Task {
            id: "t-1".into(),
            tenant: "default".into(),
            class: "gpu".into(),
            state: "running".into(),
            submitted_at_ms: 500,
            attempts: 2,
            node_id: 2,
            node_name: "b".into(),
            attempt_records: vec![attempt(1, 4_000, "lost"), attempt(2, 0, "")],
            command: vec!["python".into(), "a b.py".into()],
            priority: 50,
            ..Default::default()
        })
    }

    #[test]
    fn a_task_and_its_attempts_for_people() {
        let expected = "\
id         t-1
tenant     default
class      gpu
state      running
priority   50
command    python 'a b.py'
submitted  9.5s ago
node       b
run time   9s

ATTEMPT  NODE  STARTED  END      RUN  GPUS   MESSAGE
1        b     9s ago   lost     3s   GPU-1  -
2        b     9s ago   running  9s   GPU-1  -
";
        assert_eq!(text(&task(), 10_000).render(false), expected);
    }

    #[test]
    fn a_comment_is_shown_where_there_is_one() {
        let commented = Task { comment: Some("for the report".into()), ..task() };
        assert!(text(&commented, 10_000).render(false).contains("\ncomment    for the report\n"));
        assert!(!text(&task(), 10_000).render(false).contains("comment"));
    }

    #[test]
    fn what_is_not_there_is_null_in_json() {
        let json = serde_json::to_value(task()).unwrap();
        assert_eq!((json["name"].is_null(), json["outcome"].is_null()), (true, true));
        assert_eq!(json["attempt_records"][1]["ended_at_ms"], serde_json::Value::Null);
        assert_eq!(json["node"], "b");
    }
}
