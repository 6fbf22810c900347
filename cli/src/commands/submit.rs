//! `stint submit`: leaves tasks with the cluster.

use clap::Args;
use stint_sdk::api::Submitted;

use super::Context;
use crate::Done;
use crate::draft::TaskFlags;
use crate::logs::{self, Level};
use crate::output::{Format, talk};
use crate::text::Text;

const EXAMPLES: &str = r#"Exits with 0 when the tasks were accepted, with 1 when they were refused (--must-fit: no node could ever run them), with 2
when a flag or a file cannot be understood, with 3 when no peer could be reached.

A script that the command names by a relative path (./job.sh) is sent along as it is now: executable, beginning with #!, 256 KiB at
most with all other inputs. It lies in the work folder under its own name. Absolute paths are those of the nodes.

A task file is TOML or JSON with the keys of the flags, `_` for `-`; flags win over the file:
  class = "gpu"
  command = ["python", "train.py"]
  image = "pytorch/pytorch:2.9"
  memory = "16GiB"
  timeout = "10m"
  shm_size = "8GiB"
  env = { EPOCHS = 3 }
  inputs = [{ path = "train.py", local = "train.py" }, { path = "data", file = "/data/set-1.tar" }]
  outputs = ["model.bin", { path = "metrics.json", optional = true }]
  secrets = ["token", { name = "db", variable = "DB_PASSWORD" }]

Examples:
  stint submit -- ./job.sh --fast
  stint submit --name sweep --count 100 --cpus 0.5 -- ./trial.sh      each sees its STINT_INDEX
  stint submit --input in.csv=data.csv --output-file out.csv --secret db -- ./convert.sh
  stint submit -f train.toml --idempotency-key nightly-2026-08-01     safe to repeat
  stint submit --must-fit --cpus 64 -- ./job.sh                       refused when no node has 64 cores
  id=$(stint submit -o quiet -- ./job.sh) && stint wait "$id""#;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SubmitArgs {
    #[command(flatten)]
    pub task: TaskFlags,
    /// Number of repetitions; with a name they are NAME-0, NAME-1, …
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: Option<u32>,
}

pub async fn run(context: Context, args: SubmitArgs) -> Done {
    let mut draft = args.task.draft(context.named_tenant())?;
    draft.count = args.count.or(draft.count);
    let submitted = Submitted::from(context.client.submit(draft.into_request()?).await?);
    let ids = submitted.task_ids.clone();
    context
        .output
        .show(&submitted, ids, || submitted.task_ids.iter().map(String::as_str).collect::<Text>())?;
    if context.output.format == Format::Table {
        tell(&submitted);
    }
    warn(submitted.warning.as_deref());
    Ok(0)
}

/// Says, in every format, that a task was accepted which no node could ever run.
pub fn warn(warning: Option<&str>) {
    if let Some(why) = warning {
        logs::write(
            Level::Warn,
            &format!("warning: {why}; it is accepted all the same (--must-fit refuses such tasks)"),
        );
    }
}

fn tell(submitted: &Submitted) {
    let tasks = match submitted.task_ids.len() {
        1 => "1 task".into(),
        n => format!("{n} tasks"),
    };
    if submitted.repeated {
        talk(&format!("{tasks} of an earlier submit with this idempotency key"));
    } else {
        talk(&format!("{tasks} accepted"));
    }
}

impl Context {
    /// The tenant, when one is named; a task file's own wins over the caller's.
    pub fn named_tenant(&self) -> Option<String> {
        Some(self.tenant.clone()).filter(|tenant| !tenant.is_empty())
    }
}
