//! `stint run`: submits a task, shows its output and ends as it ends.

use clap::Args;
use stint_sdk::api::Submitted;
use stint_sdk::{Client, v1};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use super::follow::{Followed, follow};
use super::submit::warn;
use crate::Done;
use crate::draft::TaskFlags;
use crate::failure::{Failure, INTERRUPTED, RUN_FAILED};
use crate::output::talk;

const EXAMPLES: &str = "\
Ctrl-C cancels the task and waits for its end; a second Ctrl-C leaves at once and says the task's id.

Exit codes: the task's own; 128 + n for signal n; 124 when its time was over, 137 when the kernel killed it for
memory, 127 when it cannot be run, 130 when cancelled, 125 when Stint itself failed or refused it (--must-fit).

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
    let reply = Submitted::from(context.client.submit(request).await?);
    warn(reply.warning.as_deref());
    let task = reply.task_ids.into_iter().next();
    let task = task.ok_or_else(|| Failure::Failed("the cluster answered without the task's id".into()))?;
    let followed = Followed { tenant, task, stream: String::new() };
    until_end_or_left(&context.client, &followed).await
}

async fn until_end_or_left(client: &Client, followed: &Followed) -> Done {
    let mut interrupts = Interrupts::listen()?;
    let mut following = std::pin::pin!(follow(client, followed, 1));
    tokio::select! {
        end = &mut following => return finish(followed, end),
        () = interrupts.next() => {}
    }
    let id = &followed.task;
    talk(&format!("cancelling {id}; Ctrl-C again leaves it to the cluster"));
    let ending = async {
        cancel(client, followed).await?;
        following.await
    };
    tokio::select! {
        end = ending => finish(followed, end),
        () = interrupts.next() => {
            talk(&format!("left; see `stint status {id}`"));
            Ok(INTERRUPTED)
        }
    }
}

async fn cancel(client: &Client, followed: &Followed) -> Result<(), Failure> {
    let request = v1::CancelRequest { tenant: followed.tenant.clone(), tasks: vec![followed.task.clone()] };
    client.cancel(request).await?;
    Ok(())
}

fn finish(followed: &Followed, end: Result<v1::Task, Failure>) -> Done {
    let id = &followed.task;
    let task = end.inspect_err(|_| talk(&format!("the task is {id}; see `stint status {id}`")))?;
    let Some(outcome) = task.outcome else {
        return Err(Failure::Failed(format!("{id} is finished without an outcome")));
    };
    match (outcome.kind.as_str(), outcome.message.as_str()) {
        ("exited", _) => {}
        ("cancelled", _) => talk(&format!("{id} was cancelled")),
        (kind, "") => talk(&format!("{id} {} ({kind})", outcome.status)),
        (kind, message) => talk(&format!("{id} {} ({kind}): {message}", outcome.status)),
    }
    Ok(u8::try_from(outcome.exit_code).unwrap_or(RUN_FAILED))
}

/// Ctrl-C, or the same wish from a supervisor.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::Start);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
