//! `stint ps`: lists tasks.

use std::collections::BTreeMap;

use clap::Args;
use stint_protocol::TaskStatus;
use stint_sdk::api::Task;
use stint_sdk::{Client, Error, v1};

use super::Context;
use crate::Done;
use crate::output::{Format, talk};
use crate::table::Table;
use crate::view::{age, command_line, now_ms, run_time, state_cell};

/// Characters of a command in the table.
const COMMAND_WIDTH: usize = 48;
/// In the order of a task's life: one that moves on between two questions is still seen.
const UNFINISHED: [TaskStatus; 5] = [
    TaskStatus::Queued,
    TaskStatus::Starting,
    TaskStatus::Pending,
    TaskStatus::Running,
    TaskStatus::Stopping,
];
/// A peer that was not upgraded yet does not know these, and lists such tasks as running.
const NEW: [TaskStatus; 2] = [TaskStatus::Starting, TaskStatus::Pending];

const EXAMPLES: &str = "\
Examples:
  stint ps                         what waits and runs
  stint ps --all --limit 1000      also what is finished, newest first
  stint ps --state running --class gpu -o quiet";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct PsArgs {
    /// Also finished tasks
    #[arg(long, short = 'a', conflicts_with = "state")]
    pub all: bool,
    /// Only this state: queued, starting, pending (in Slurm), running, stopping or finished
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only this class
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Show no more than this many, newest first (10000 at most)
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// Show only tasks older than this id: the next page
    #[arg(long, value_name = "ID")]
    pub before: Option<String>,
}

pub async fn run(context: Context, args: PsArgs) -> Done {
    let states = match (&args.state, args.all) {
        (Some(state), _) => vec![state.as_str()],
        (None, true) => vec![""],
        (None, false) => UNFINISHED.map(TaskStatus::as_str).to_vec(),
    };
    let limit = args.limit.max(1);
    let (mut tasks, mut more) = list(&context.client, &context.tenant, &args, &states).await?;
    more |= tasks.len() > limit as usize;
    tasks.truncate(limit as usize);
    let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
    context.output.show(&tasks, ids.clone(), || table(&tasks, now_ms()))?;
    // Also when only ids are printed: a command that takes them would miss the rest.
    if let (Format::Table | Format::Quiet, true, Some(last)) = (context.output.format, more, ids.last()) {
        talk(&format!("there are more: raise --limit, or --before {last}"));
    }
    Ok(0)
}

fn is_new(state: &str) -> bool {
    NEW.iter().any(|new| new.as_str() == state)
}

/// Newest first, each once.
async fn list(
    client: &Client,
    tenant: &str,
    args: &PsArgs,
    states: &[&str],
) -> Result<(Vec<Task>, bool), Error> {
    let mut found = BTreeMap::new();
    let mut more = false;
    for state in states {
        let request = v1::ListTasksRequest {
            tenant: tenant.into(),
            state: (*state).into(),
            limit: args.limit.max(1),
            before: args.before.clone().unwrap_or_default(),
            class: args.class.clone().unwrap_or_default(),
        };
        let reply = match client.list_tasks(request).await {
            Err(Error::Refused { code: tonic::Code::InvalidArgument, .. })
                if args.state.is_none() && is_new(state) =>
            {
                continue;
            }
            reply => reply?,
        };
        more |= !reply.next.is_empty();
        found.extend(reply.tasks.into_iter().map(|task| (task.id.clone(), Task::from(task))));
    }
    Ok((found.into_values().rev().collect(), more))
}

/// Tasks as rows.
pub fn table(tasks: &[Task], now_ms: u64) -> Table {
    let mut table = Table::new(&["ID", "NAME", "CLASS", "STATE", "NODE", "AGE", "RUN", "COMMAND"]);
    for task in tasks {
        table.row(vec![
            task.id.clone().into(),
            task.name.clone().unwrap_or_default().into(),
            task.class.clone().into(),
            state_cell(task, now_ms),
            task.node.clone().unwrap_or_default().into(),
            age(task.submitted_at_ms, now_ms).into(),
            run_time(task, now_ms).into(),
            command_line(&task.command, COMMAND_WIDTH).into(),
        ]);
    }
    table
}
