//! `stint wait`: waits until tasks are finished.

use std::time::Duration;

use clap::Args;
use stint_sdk::api::{Task, Waited};
use stint_sdk::{units, v1};

use super::waiting::telling;
use super::{Context, ps};
use crate::Done;
use crate::failure::{FAILED, WAIT_TIMED_OUT};
use crate::output::talk;
use crate::view::now_ms;

const EXAMPLES: &str = "\
Exits with 0 when every finished task succeeded, with 1 when one did not, with 4 when the time was over before.

Examples:
  stint wait TASK
  stint wait --any --timeout 10m TASK TASK";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct WaitArgs {
    /// Ids or names
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
    /// Wait until one of them is finished, not all
    #[arg(long)]
    pub any: bool,
    /// Wait no longer than this [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    pub timeout: Option<Duration>,
}

pub async fn run(context: Context, args: WaitArgs) -> Done {
    let Context { client, tenant, output } = context;
    let request = v1::WaitRequest {
        tenant: tenant.clone(),
        tasks: args.tasks.clone(),
        any: args.any,
        ..Default::default()
    };
    let over = client.wait_for(request, args.timeout);
    let waited = Waited::from(telling(&client, &tenant, &args.tasks, over).await?);
    let done = waited.tasks.iter().filter(|task| task.outcome.is_some());
    let ids: Vec<String> = done.clone().map(|task| task.id.clone()).collect();
    let all_succeeded = done.clone().all(Task::succeeded);
    output.show(&waited, ids, || ps::table(&waited.tasks, now_ms()))?;
    if !waited.finished {
        talk("the wait is over and not every task is finished; `stint explain TASK` says what one waits for");
        return Ok(WAIT_TIMED_OUT);
    }
    Ok(if all_succeeded { 0 } else { FAILED })
}
