//! A task as the user writes it. Each key stands here once: it is a flag of `submit` and `run`, with `-` for `_`, and a key
//! of the task file.

use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde::Deserialize;
use stint_protocol::HostMount;
use stint_sdk::{units, v1};

use crate::failure::Failure;
use crate::{files, script, task_file};

/// What was said about a task; unsaid things are left to the cluster. Amounts are in bytes, milliseconds and thousandths of
/// a core.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Task")]
pub struct Draft {
    /// cpu_short, cpu_long, gpu or gpu_slurm [default: cpu_short, or gpu when GPUs are asked for]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Name, unique within the tenant while the task is known
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What it is for, in one line; `status` and `result` show it
    #[arg(long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// Owner; as a flag it is one of every command
    #[arg(skip)]
    pub tenant: Option<String>,
    /// Number of repetitions; as a flag of `submit` alone
    #[arg(skip)]
    #[serde(deserialize_with = "task_file::number")]
    pub count: Option<u32>,
    /// crun, docker or process [default: the one that the image is for, or the first that the class allows and a node
    /// offers]; python: the command is a module or a script
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<String>,
    /// Registered image (stint://NAME), Docker reference (runs with docker), or for crun a folder or program of the node
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// CPU cores: 2 or 0.5 [default: the class's]
    #[arg(long, value_name = "N", value_parser = units::parse_cpus)]
    #[serde(deserialize_with = "task_file::cpus")]
    pub cpus: Option<u64>,
    /// Memory: 512MiB, 8GiB [default: the class's]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    #[serde(deserialize_with = "task_file::bytes")]
    pub memory: Option<u64>,
    /// Whole GPUs [default: the class's]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "task_file::number")]
    pub gpus: Option<u32>,
    /// Part of the GPU's model name, such as H200
    #[arg(long, value_name = "MODEL")]
    pub gpu_model: Option<String>,
    /// Least memory of each GPU: 40GiB
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    #[serde(deserialize_with = "task_file::bytes")]
    pub gpu_memory: Option<u64>,
    /// Processes and threads, 16 at least [default: what the node gives]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "task_file::number")]
    pub pids: Option<u32>,
    /// Network: none, or host where the node allows it [default: what the node gives, mostly none]
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Size of /tmp; what is in it counts as memory [default: what the node gives]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    #[serde(deserialize_with = "task_file::bytes")]
    pub tmp_size: Option<u64>,
    /// Size of /dev/shm; what is in it counts as memory [default: what the node gives]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    #[serde(deserialize_with = "task_file::bytes")]
    pub shm_size: Option<u64>,
    /// Swap beyond the memory, where the node allows it [default: none]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    #[serde(deserialize_with = "task_file::bytes")]
    pub swap: Option<u64>,
    /// Where the program starts: an absolute path as it sees it, or one below its work folder, which is made
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// A folder or file of the node, for reading or, with :rw, for writing, where the node allows it
    #[arg(long = "mount", value_name = "SOURCE[:TARGET][:rw]", value_parser = parse_mount)]
    #[serde(deserialize_with = "task_file::mounts")]
    pub mounts: Vec<v1::HostMount>,
    /// Longest run time of one attempt: 90s, 15m [default: the class's]
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    #[serde(deserialize_with = "task_file::duration_ms")]
    pub timeout: Option<u64>,
    /// Time between TERM and KILL when the task is stopped [default: 2s, or half of the class's lease]
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    #[serde(deserialize_with = "task_file::duration_ms")]
    pub stop_grace: Option<u64>,
    /// 0 to 100, and no higher than the tenant may; the highest starts first [default: 50]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "task_file::number")]
    pub priority: Option<u32>,
    /// Variable of the task's environment; may be repeated
    #[arg(long, short = 'e', value_name = "KEY=VALUE", value_parser = key_value)]
    #[serde(deserialize_with = "task_file::pairs")]
    pub env: Vec<(String, String)>,
    /// Label that the node must have; may be repeated
    #[arg(long = "constraint", value_name = "KEY=VALUE", value_parser = key_value)]
    #[serde(deserialize_with = "task_file::pairs")]
    pub constraints: Vec<(String, String)>,
    /// Attempts after the first, when --retry-failures repeats it or its outputs could not be kept [default: 2]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "task_file::number")]
    pub retries: Option<u32>,
    /// Also repeat when the program itself fails: exit code, signal, memory or time
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub retry_failures: Option<bool>,
    /// Refuse it when no node could ever run it, as the nodes are now
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub must_fit: Option<bool>,
    /// What to do when the node or the lease is lost: retry or fail [default: retry]
    #[arg(long, value_name = "ACTION")]
    pub on_lost: Option<String>,
    /// File in the task's work folder: PATH=LOCAL_FILE (sent along, 256 KiB in all), PATH=file:///ON_THE_NODE, or
    /// PATH=sha256:DIGEST/BYTES of what the cluster keeps; may be repeated
    #[arg(long = "input", value_name = "PATH=SOURCE", value_parser = files::input)]
    #[serde(deserialize_with = "task_file::inputs")]
    pub inputs: Vec<v1::InputFile>,
    /// File or folder of the work folder that is kept after the end, and without which the task fails; may be repeated
    #[arg(long = "output-file", value_name = "PATH", value_parser = files::output)]
    #[serde(deserialize_with = "task_file::outputs")]
    pub outputs: Vec<v1::OutputPath>,
    /// The same, but it may be missing
    #[arg(long = "optional-output", value_name = "PATH", value_parser = files::optional_output)]
    #[serde(skip)]
    pub optional_outputs: Vec<v1::OutputPath>,
    /// After which ends of the program outputs are kept: always, or success only [default: always]
    #[arg(long, value_name = "WHEN")]
    pub keep: Option<String>,
    /// Who keeps all that it writes: node, or cluster, which keeps 1 MiB of each stream, too [default: node]
    #[arg(long, value_name = "WHO")]
    pub logs_keep: Option<String>,
    /// Whether every peer keeps the last 4 KiB of each stream: true or false [default: true]
    #[arg(long, value_name = "BOOL")]
    pub record: Option<bool>,
    /// Secret of the tenant: a file whose path is in NAME_FILE, or with =VARIABLE a variable; may be repeated
    #[arg(long = "secret", value_name = "NAME[=VARIABLE]", value_parser = files::secret)]
    #[serde(deserialize_with = "task_file::secrets")]
    pub secrets: Vec<v1::SecretUse>,
    /// Makes the submit repeatable: the same key gives the same tasks
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Program and its arguments; a script that is named by a relative path (./job.sh) is sent along
    #[arg(last = true, value_name = "COMMAND")]
    #[serde(deserialize_with = "task_file::texts")]
    pub command: Vec<String>,
}

pub fn milliseconds(text: &str) -> Result<u64, units::InvalidAmount> {
    units::parse_duration(text).map(|d| d.as_millis() as u64)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.into(), value.into()))
}

/// `SOURCE[:TARGET][:rw]`; what paths may be is the cluster's to say.
pub fn parse_mount(text: &str) -> Result<v1::HostMount, String> {
    text.parse::<HostMount>().map(v1::HostMount::from).map_err(|e| e.to_string())
}

/// The flags that say what a task is; `submit` and `run` share them.
#[derive(Clone, Debug)]
pub struct TaskFlags {
    file: Option<String>,
    given: ArgMatches,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Task")]
struct FileFlag {
    /// Task file, TOML or JSON; `-` reads stdin
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    file: Option<String>,
}

impl Args for TaskFlags {
    fn augment_args(command: Command) -> Command {
        Draft::augment_args(FileFlag::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for TaskFlags {
    fn from_arg_matches(given: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { file: FileFlag::from_arg_matches(given)?.file, given: given.clone() })
    }

    fn update_from_arg_matches(&mut self, given: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(given)?;
        Ok(())
    }
}

impl TaskFlags {
    /// The flags over the file, if one is named. `tenant` is the global option, when it is given.
    pub fn draft(&self, tenant: Option<String>) -> Result<Draft, Failure> {
        let file = self.file.as_deref().map(task_file::read).transpose()?.unwrap_or_default();
        let mut draft = self.over(file).map_err(|e| Failure::Usage(e.to_string()))?;
        draft.tenant = tenant.or(draft.tenant);
        Ok(draft)
    }

    /// Flags replace what the file says; variables, labels, files and secrets join those of the file.
    fn over(&self, file: Draft) -> Result<Draft, clap::Error> {
        let mut draft = Draft {
            env: Vec::new(),
            constraints: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            secrets: Vec::new(),
            ..file.clone()
        };
        draft.update_from_arg_matches(&self.given)?;
        draft.env = [file.env, draft.env].concat();
        draft.constraints = [file.constraints, draft.constraints].concat();
        draft.inputs = [file.inputs, draft.inputs].concat();
        draft.outputs = [file.outputs, draft.outputs].concat();
        draft.secrets = [file.secrets, draft.secrets].concat();
        Ok(draft)
    }
}

impl Draft {
    /// The request to submit it. Only what the cluster could not tell is refused here.
    pub fn into_request(mut self) -> Result<v1::SubmitRequest, Failure> {
        script::send_along(&mut self)?;
        if self.command.is_empty() && self.image.is_none() {
            let advice = "give a program after --, a task file with -f, or an image";
            return Err(Failure::Usage(format!("nothing to run: {advice}")));
        }
        Ok(v1::SubmitRequest {
            tenant: self.tenant.clone().unwrap_or_default(),
            name: self.name.clone().unwrap_or_default(),
            count: self.count.unwrap_or(1),
            idempotency_key: self.idempotency_key.clone().unwrap_or_default(),
            must_fit: self.must_fit.unwrap_or(false),
            spec: Some(self.into_spec()),
        })
    }

    fn into_spec(self) -> v1::TaskSpec {
        let (gpus, limits) = (self.gpu_request(), self.limits());
        let default_class = if gpus.as_ref().is_some_and(|g| g.count > 0) { "gpu" } else { "cpu_short" };
        let retry = self.retry_policy();
        v1::TaskSpec {
            class: self.class.unwrap_or_else(|| default_class.into()),
            command: self.command,
            runtime: self.runtime.unwrap_or_default(),
            image: self.image.unwrap_or_default(),
            env: self.env.into_iter().collect(),
            cpu_milli: self.cpus.unwrap_or(0),
            memory_bytes: self.memory.unwrap_or(0),
            gpus,
            timeout_ms: self.timeout.unwrap_or(0),
            priority: self.priority,
            retry,
            on_lost: self.on_lost.unwrap_or_default(),
            constraints: self.constraints.into_iter().collect(),
            stop_grace_ms: self.stop_grace,
            inputs: self.inputs,
            outputs: [self.outputs, self.optional_outputs].concat(),
            secrets: self.secrets,
            keep: self.keep.unwrap_or_default(),
            logs_keep: self.logs_keep.unwrap_or_default(),
            record: self.record,
            limits,
            comment: self.comment.unwrap_or_default(),
        }
    }

    /// Naming a model or a memory means one GPU, unless a number is said.
    fn gpu_request(&self) -> Option<v1::GpuRequest> {
        let narrowed = self.gpu_model.is_some() || self.gpu_memory.is_some();
        let count = self.gpus.or(narrowed.then_some(1))?;
        Some(v1::GpuRequest {
            count,
            model: self.gpu_model.clone().unwrap_or_default(),
            min_memory_bytes: self.gpu_memory.unwrap_or(0),
        })
    }

    /// None when nothing was said.
    fn limits(&self) -> Option<v1::TaskLimits> {
        let limits = v1::TaskLimits {
            pids: self.pids,
            swap_bytes: self.swap,
            tmp_bytes: self.tmp_size,
            shm_bytes: self.shm_size,
            network: self.network.clone().unwrap_or_default(),
            working_dir: self.workdir.clone().unwrap_or_default(),
            mounts: self.mounts.clone(),
        };
        (limits != v1::TaskLimits::default()).then_some(limits)
    }

    /// `retries` counts the attempts after the first.
    fn retry_policy(&self) -> Option<v1::RetryPolicy> {
        (self.retries.is_some() || self.retry_failures.is_some()).then(|| v1::RetryPolicy {
            max_attempts: self.retries.map_or(0, |n| n.saturating_add(1)),
            retry_failures: self.retry_failures.unwrap_or(false),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(command: &str) -> Draft {
        Draft { command: command.split_whitespace().map(String::from).collect(), ..Draft::default() }
    }

    #[test]
    fn mounts_are_read_as_they_are_shown() {
        for text in ["/data", "/data:/in", "/data:rw", "/data:/in:rw"] {
            assert_eq!(HostMount::from(parse_mount(text).unwrap()).to_string(), text);
        }
        assert_eq!(HostMount::from(parse_mount("/data:/in:ro").unwrap()).to_string(), "/data:/in");
        for wrong in ["", ":", "/data:", ":/in", "/a:/b:/c", "/a:/b:rw:rw"] {
            assert!(parse_mount(wrong).unwrap_err().contains("SOURCE[:TARGET][:rw]"), "{wrong}");
        }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        task: TaskFlags,
    }

    /// These flags over a draft.
    fn over(flags: &str, file: Draft) -> Draft {
        let line = <Line as clap::Parser>::parse_from(std::iter::once("run").chain(flags.split_whitespace()));
        line.task.over(file).unwrap()
    }

    #[test]
    fn flags_win_over_the_file_and_lists_join() {
        let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
        let file = Draft {
            class: Some("gpu".into()),
            tenant: Some("team".into()),
            count: Some(3),
            retry_failures: Some(true),
            pids: Some(30),
            workdir: Some("src".into()),
            env: vec![pair("A", "1"), pair("B", "1")],
            secrets: vec![files::secret("token").unwrap()],
            mounts: vec![parse_mount("/a").unwrap()],
            outputs: vec![files::output("kept").unwrap()],
            ..draft("from file")
        };
        assert_eq!(over("", file.clone()), file, "what no flag says stays");
        let flags = "--cpus 2 --pids 20 -e B=2 --secret db --mount /b:rw --output-file o --optional-output p";
        let spec = over(flags, file.clone()).into_spec();
        assert_eq!((spec.class.as_str(), spec.cpu_milli, spec.command.len()), ("gpu", 2000, 2));
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("1", "2"));
        let names: Vec<&str> = spec.secrets.iter().map(|secret| secret.name.as_str()).collect();
        assert_eq!(names, ["token", "db"]);
        let paths: Vec<(&str, bool)> = spec.outputs.iter().map(|o| (o.path.as_str(), o.optional)).collect();
        assert_eq!(paths, [("kept", false), ("o", false), ("p", true)]);
        let limits = spec.limits.unwrap();
        assert_eq!((limits.pids, limits.working_dir.as_str()), (Some(20), "src"));
        assert_eq!(limits.mounts, [parse_mount("/b:rw").unwrap()]);
        assert_eq!(over("-- other program here", file).command, ["other", "program", "here"]);
        let said = |flags: &str| over(flags, Draft::default()).retry_failures;
        assert_eq!((said("--retry-failures"), said("")), (Some(true), None));
    }

    #[test]
    fn what_is_unsaid_is_left_to_the_cluster() {
        let request = draft("true").into_request().unwrap();
        let spec = request.spec.unwrap();
        assert_eq!((request.tenant.as_str(), spec.class.as_str()), ("", "cpu_short"));
        assert_eq!((spec.cpu_milli, spec.timeout_ms, spec.priority), (0, 0, None));
        assert!(spec.retry.is_none() && spec.gpus.is_none() && spec.limits.is_none());
    }

    #[test]
    fn a_gpu_model_means_one_gpu_and_the_class_gpu() {
        let spec = Draft { gpu_model: Some("H200".into()), ..draft("train") }.into_spec();
        assert_eq!((spec.class.as_str(), spec.gpus.unwrap().count), ("gpu", 1));
    }

    #[test]
    fn retries_are_the_attempts_after_the_first() {
        let policy = Draft { retries: Some(0), ..draft("x") }.retry_policy().unwrap();
        assert_eq!(policy.max_attempts, 1);
        let policy = Draft { retry_failures: Some(true), ..draft("x") }.retry_policy().unwrap();
        assert_eq!((policy.max_attempts, policy.retry_failures), (0, true));
    }

    #[test]
    fn nothing_to_run_is_refused() {
        assert!(Draft::default().into_request().unwrap_err().to_string().contains("nothing to run"));
    }
}
