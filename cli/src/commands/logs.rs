//! `stint logs`: the output of a task, as it was written.

use clap::Args;
use stint_sdk::v1;

use super::Context;
use super::follow::{Followed, copy, follow};
use crate::Done;
use crate::failure::{FAILED, Failure};

const EXAMPLES: &str = "\
Output is copied as it is, whatever --output says: stdout to stdout, stderr to stderr. Exits with 1 when a part of it is
gone, which stderr says.

Examples:
  stint logs TASK                     the latest attempt
  stint logs -f TASK                  until the task is finished, through all further attempts
  stint logs --stderr --attempt 1 TASK";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct LogsArgs {
    /// Id or name
    pub task: String,
    /// Go on until the task is finished
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Only what it wrote to stdout
    #[arg(long, conflicts_with = "stderr")]
    pub stdout: bool,
    /// Only what it wrote to stderr
    #[arg(long)]
    pub stderr: bool,
    /// This attempt, from 1 [default: the latest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
}

pub async fn run(context: Context, args: LogsArgs) -> Done {
    let stream = match (args.stdout, args.stderr) {
        (true, _) => "stdout",
        (_, true) => "stderr",
        _ => "",
    };
    let followed = Followed { tenant: context.tenant, task: args.task, stream: stream.into() };
    let client = &context.client;
    let code = |complete: bool| if complete { 0 } else { FAILED };
    if let Some(attempt) = args.attempt {
        return Ok(code(copy(client, &followed, attempt, args.follow).await?));
    }
    let request = v1::GetTaskRequest { tenant: followed.tenant.clone(), task: followed.task.clone() };
    let latest = client.get_task(request).await?.attempts;
    if args.follow {
        return Ok(code(follow(client, &followed, latest.max(1)).await?.complete));
    }
    if latest > 0 {
        return Ok(code(copy(client, &followed, latest, false).await?));
    }
    let task = &followed.task;
    let advice = format!("`stint explain {task}` says why; `stint logs -f {task}` waits for it");
    Err(Failure::Failed(format!("{task} has not started, so there is no output: {advice}")))
}
