//! `stint run`: submits a task, shows its output and ends as it ends.

use clap::Args;
use stint_sdk::api::Submitted;
use stint_sdk::{Client, v1};

use super::Context;
use super::follow::{Ended, Followed, follow};
use super::submit::warn;
use crate::Done;
use crate::draft::TaskFlags;
use crate::failure::{Failure, RUN_FAILED};
use crate::output::talk;
use crate::signals::Signals;

const EXAMPLES: &str = "\
Ctrl-C (or TERM) cancels the task and waits for its end; a second one leaves at once. Ctrl-\\, the end of the terminal, and a closed
output leave the task to the cluster, and say its id.

Exit codes: the task's own; 128 + n for signal n; 124 when its time was over, 137 when the kernel killed it for
memory, 127 when it cannot be run, 130 when cancelled, 125 when Stint itself failed, refused it (--must-fit), cannot understand
the command line, or lost a part of the output of a task that succeeded. When `stint run` leaves the task: 128 + n for signal n,
and 141 when whoever reads its output closed it, as `head` does.

A script that is named by a relative path (./job.sh) is sent along: `stint submit --help` says more.

Examples:
  stint run -- echo hello
  stint run --gpus 1 --image pytorch/pytorch:2.9 -- nvidia-smi
  stint run -f train.toml > output.txt";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    pub task: TaskFlags,
}

pub async fn run(context: Context, args: RunArgs) -> Done {
    let request = args.task.draft(context.named_tenant())?.into_request()?;
    if request.count != 1 {
        let advice = "use `stint submit` for many, and `stint wait`";
        return Err(Failure::Usage(format!("run takes one task, not {}: {advice}", request.count)));
    }
    let tenant = request.tenant.clone();
    let mut signals = Signals::listen()?;
    let reply = tokio::select! {
        reply = context.client.submit(request) => Submitted::from(reply?),
        asked = signals.next() => {
            talk("left before the cluster answered; `stint ps` says whether it has the task");
            return Ok(asked.exit_code());
        }
    };
    warn(reply.warning.as_deref());
    let task = reply.task_ids.into_iter().next();
    let task = task.ok_or_else(|| Failure::Failed("the cluster answered without the task's id".into()))?;
    let followed = Followed { tenant, task, stream: String::new() };
    until_end_or_left(&context.client, &followed, signals).await
}

async fn until_end_or_left(client: &Client, followed: &Followed, mut signals: Signals) -> Done {
    let mut following = std::pin::pin!(follow(client, followed, 1));
    let asked = tokio::select! {
        end = &mut following => return finish(followed, end),
        asked = signals.next() => asked,
    };
    let id = &followed.task;
    if asked.leaves() {
        tell_left(id);
        return Ok(asked.exit_code());
    }
    talk(&format!("cancelling {id}; Ctrl-C again leaves it to the cluster"));
    let ending = async {
        cancel(client, followed).await?;
        following.await
    };
    tokio::select! {
        end = ending => finish(followed, end),
        asked = signals.next() => {
            talk(&format!("left; see `stint status {id}`"));
            Ok(asked.exit_code())
        }
    }
}

async fn cancel(client: &Client, followed: &Followed) -> Result<(), Failure> {
    let request = v1::CancelRequest { tenant: followed.tenant.clone(), tasks: vec![followed.task.clone()] };
    client.cancel(request).await?;
    Ok(())
}

/// The task may run on, and nobody here waits for it.
fn tell_left(id: &str) {
    talk(&format!(
        "{id} is left to the cluster: `stint logs -f {id}` shows its output, `stint cancel {id}` ends it"
    ));
}

fn finish(followed: &Followed, end: Result<Ended, Failure>) -> Done {
    let id = &followed.task;
    let Ended { task, complete } = end.inspect_err(|_| tell_left(id))?;
    let Some(outcome) = task.outcome else {
        return Err(Failure::Failed(format!("{id} is finished without an outcome")));
    };
    match (outcome.kind.as_str(), outcome.message.as_str()) {
        ("exited", _) => {}
        ("cancelled", _) => talk(&format!("{id} was cancelled")),
        (kind, "") => talk(&format!("{id} {} ({kind})", outcome.status)),
        (kind, message) => talk(&format!("{id} {} ({kind}): {message}", outcome.status)),
    }
    match u8::try_from(outcome.exit_code).unwrap_or(RUN_FAILED) {
        0 if !complete => {
            talk(&format!("{id} succeeded, but a part of its output is lost"));
            Ok(RUN_FAILED)
        }
        code => Ok(code),
    }
}
