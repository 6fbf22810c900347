//! `stint submit`: leaves tasks with the cluster.

use clap::Args;
use stint_sdk::api::Submitted;
use stint_sdk::{units, v1};

use super::Context;
use crate::Done;
use crate::args::DEFAULT_TENANT;
use crate::draft::Draft;
use crate::failure::Failure;
use crate::files;
use crate::limits::Limits;
use crate::output::{Format, talk};
use crate::task_file;

const EXAMPLES: &str = r#"A task file is TOML or JSON with the keys of the flags, `_` for `-`; flags win over the file:
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

/// The flags that say what a task is; `submit` and `run` share them.
#[derive(Args, Debug)]
#[command(next_help_heading = "Task")]
pub struct TaskFlags {
    /// Task file, TOML or JSON; `-` reads stdin
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    pub file: Option<String>,
    /// cpu_short, cpu_long or gpu [default: cpu_short, or gpu when GPUs are asked for]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Name, unique within the tenant while the task is known
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// crun, docker or process [default: the first that the class allows and a node offers]; python: the command is a
    /// module or a script
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<String>,
    /// Docker reference, or a folder with a root file system for crun
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// CPU cores: 2 or 0.5
    #[arg(long, value_name = "N", value_parser = units::parse_cpus)]
    pub cpus: Option<u64>,
    /// Memory: 512MiB, 8GiB
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub memory: Option<u64>,
    /// Whole GPUs
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,
    /// Part of the GPU's model name, such as H200
    #[arg(long, value_name = "MODEL")]
    pub gpu_model: Option<String>,
    /// Least memory of each GPU: 40GiB
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub gpu_memory: Option<u64>,
    #[command(flatten)]
    pub limits: Limits,
    /// Longest run time of one attempt: 90s, 15m
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub timeout: Option<u64>,
    /// Time between TERM and KILL when the task is stopped
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub stop_grace: Option<u64>,
    /// 0 to 100, higher first
    #[arg(long, value_name = "N")]
    pub priority: Option<u32>,
    /// Variable of the task's environment; may be repeated
    #[arg(long, short = 'e', value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// Label that the node must have; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub constraint: Vec<(String, String)>,
    /// Further attempts after one that failed through no fault of the program
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Also repeat when the program itself fails
    #[arg(long)]
    pub retry_failures: bool,
    /// What to do when the node is lost: retry or fail
    #[arg(long, value_name = "ACTION")]
    pub on_lost: Option<String>,
    /// File in the task's work folder: PATH=LOCAL_FILE (sent along, 256 KiB in all), PATH=file:///ON_THE_NODE, or
    /// PATH=sha256:DIGEST/BYTES of what the cluster keeps; may be repeated
    #[arg(long, value_name = "PATH=SOURCE", value_parser = files::input)]
    pub input: Vec<v1::InputFile>,
    /// File or folder of the work folder that is kept after the end, and without which the task fails; may be repeated
    #[arg(long, value_name = "PATH")]
    pub output_file: Vec<String>,
    /// The same, but it may be missing
    #[arg(long, value_name = "PATH")]
    pub optional_output: Vec<String>,
    /// Secret of the tenant: a file whose path is in NAME_FILE, or with =VARIABLE a variable; may be repeated
    #[arg(long, value_name = "NAME[=VARIABLE]", value_parser = files::secret)]
    pub secret: Vec<v1::SecretUse>,
    /// Makes the submit repeatable: the same key gives the same tasks
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub fn milliseconds(text: &str) -> Result<u64, units::InvalidAmount> {
    units::parse_duration(text).map(|d| d.as_millis() as u64)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.into(), value.into()))
}

impl TaskFlags {
    /// The flags over the file, if one is named. `tenant` is the global option, when it is given.
    pub fn draft(self, tenant: Option<String>) -> Result<Draft, Failure> {
        let file = self.file.as_deref().map(task_file::read).transpose()?.unwrap_or_default();
        let flags = Draft {
            class: self.class,
            name: self.name,
            tenant,
            count: None,
            command: self.command,
            runtime: self.runtime,
            image: self.image,
            cpu_milli: self.cpus,
            memory_bytes: self.memory,
            gpus: self.gpus,
            gpu_model: self.gpu_model,
            gpu_memory_bytes: self.gpu_memory,
            timeout_ms: self.timeout,
            stop_grace_ms: self.stop_grace,
            priority: self.priority,
            env: self.env.into_iter().collect(),
            constraints: self.constraint.into_iter().collect(),
            retries: self.retries,
            retry_failures: self.retry_failures.then_some(true),
            on_lost: self.on_lost,
            idempotency_key: self.idempotency_key,
            inputs: self.input,
            outputs: files::outputs(self.output_file, self.optional_output),
            secrets: self.secret,
            limits: self.limits,
        };
        Ok(flags.over(file))
    }
}

pub async fn run(context: Context, args: SubmitArgs) -> Done {
    let mut draft = args.task.draft(context.named_tenant())?;
    draft.count = args.count.or(draft.count);
    let submitted = Submitted::from(context.client.submit(draft.into_request()?).await?);
    let ids = submitted.task_ids.clone();
    context.output.show_text(&submitted, ids, || lines(&submitted.task_ids))?;
    if context.output.format == Format::Table {
        tell(&submitted);
    }
    Ok(0)
}

fn lines(ids: &[String]) -> String {
    ids.iter().map(|id| format!("{id}\n")).collect()
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
    /// The tenant, when it is not the default one; a task file's own wins over the default.
    pub fn named_tenant(&self) -> Option<String> {
        Some(self.tenant.clone()).filter(|tenant| tenant != DEFAULT_TENANT)
    }
}
