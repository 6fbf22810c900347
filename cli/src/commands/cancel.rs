//! `stint cancel`: asks for the end of tasks.

use clap::Args;
use stint_sdk::api::Task;
use stint_sdk::v1;

use super::{Context, ps};
use crate::Done;
use crate::output::{Format, talk};
use crate::view::now_ms;

const EXAMPLES: &str = "\
A running task gets TERM, and KILL after its grace; `stint wait TASK` waits for its end.

Examples:
  stint cancel TASK
  stint cancel $(stint ps --state queued -o quiet)";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CancelArgs {
    /// Ids or names
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
}

pub async fn run(context: Context, args: CancelArgs) -> Done {
    let request = v1::CancelRequest { tenant: context.tenant.clone(), tasks: args.tasks };
    let reply = context.client.cancel(request).await?;
    let tasks: Vec<Task> = reply.tasks.into_iter().map(Task::from).collect();
    let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
    context.output.show(&tasks, ids, || ps::table(&tasks, now_ms()))?;
    let stopping = tasks.iter().filter(|task| task.outcome.is_none()).count();
    if stopping > 0 && context.output.format == Format::Table {
        talk(&format!("{stopping} still stopping: `stint wait` waits for the end"));
    }
    Ok(0)
}
