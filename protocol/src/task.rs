//! What a user asks for. Checked once, by `TaskSpec::resolve`; inside, a spec is right by construction.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::class::{Class, ClassRules, Runtime};
use crate::files::TaskFiles;
use crate::image::{NameKind, Named, PinnedImage, SCHEME};
use crate::limits;
use crate::resources::{GpuRequest, Resources};
use crate::retry::RetryPolicy;
use crate::task_limits::TaskLimits;
use crate::version::{self, Version};

/// What to do when an attempt is lost with its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum OnLost {
    #[n(0)]
    #[default]
    Retry,
    #[n(1)]
    Fail,
}

/// One piece of work as submitted. Amounts of 0 mean: the class's default.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TaskSpec {
    #[n(0)]
    pub class: Class,
    /// Program and arguments; no shell.
    #[n(1)]
    pub command: Vec<String>,
    /// None: any runtime that the class and the node offer.
    #[n(2)]
    pub runtime: Option<Runtime>,
    /// `stint://NAME` for a registered image, a Docker reference, or a folder with a root file system for crun; none =
    /// the host's, read-only.
    #[n(3)]
    pub image: Option<String>,
    #[n(4)]
    pub env: BTreeMap<String, String>,
    /// Thousandths of a core.
    #[n(5)]
    pub cpu_milli: u64,
    #[n(6)]
    pub memory_bytes: u64,
    #[n(7)]
    pub gpus: Option<GpuRequest>,
    /// Longest run time of one attempt, in milliseconds.
    #[n(8)]
    pub timeout_ms: u64,
    /// 0 to 100; higher runs first. 50 when unset.
    #[n(9)]
    pub priority: u8,
    #[n(10)]
    pub retry: RetryPolicy,
    #[n(11)]
    pub on_lost: OnLost,
    /// Labels the node must have, with these values.
    #[n(12)]
    pub constraints: BTreeMap<String, String>,
    /// Time between TERM and KILL when the attempt is stopped, in milliseconds.
    #[n(13)]
    pub stop_grace_ms: u64,
    /// Files it gets and leaves, and secrets it reads.
    #[n(15)]
    #[cbor(default)]
    pub files: Option<Box<TaskFiles>>,
    /// The registered image that `image` named when the task was submitted. Set by the cluster, never by a user.
    #[n(14)]
    #[cbor(default)]
    pub pinned: Option<PinnedImage>,
    /// Further limits, its network and where it starts; what is unset is as its node gives it.
    #[n(20)]
    #[cbor(default)]
    pub limits: Option<Box<TaskLimits>>,
    /// What it is for, in a line for people; the cluster keeps and shows it.
    #[n(21)]
    #[cbor(default)]
    pub comment: Option<String>,
    /// The user of a machine that its program runs as: who submitted it, as the kernel told the peer that took it. No request says
    /// it. None: the user of its tenant.
    #[n(22)]
    #[cbor(default)]
    pub run_as: Option<u32>,
}

/// Why a spec was refused, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidSpec {
    pub field: &'static str,
    pub problem: String,
}

pub(crate) fn refuse(field: &'static str, problem: impl Into<String>) -> Result<(), InvalidSpec> {
    Err(InvalidSpec { field, problem: problem.into() })
}

impl TaskSpec {
    /// The shortest lease under which it may take its time to stop, in milliseconds: stopping takes half of a lease at
    /// most.
    pub fn least_lease_ms(&self) -> u64 {
        self.stop_grace_ms.saturating_mul(2)
    }

    /// A spec of this class that runs `command`, with every default.
    pub fn new(class: Class, command: Vec<String>) -> Self {
        Self {
            class,
            command,
            runtime: None,
            image: None,
            env: BTreeMap::new(),
            cpu_milli: 0,
            memory_bytes: 0,
            gpus: None,
            timeout_ms: 0,
            priority: 50,
            retry: RetryPolicy::default(),
            on_lost: OnLost::default(),
            constraints: BTreeMap::new(),
            stop_grace_ms: 2_000,
            files: None,
            pinned: None,
            limits: None,
            comment: None,
            run_as: None,
        }
    }

    /// With no more time to stop than the class's leases have room for: for a spec whose user named none.
    pub fn with_grace_within(mut self, rules: &ClassRules) -> Self {
        self.stop_grace_ms = self.stop_grace_ms.min(rules.most_grace_ms());
        self
    }

    /// Fills in the class's defaults and checks everything; the result needs no further check.
    pub fn resolve(mut self, rules: &ClassRules) -> Result<Self, InvalidSpec> {
        if self.cpu_milli == 0 {
            self.cpu_milli = u64::from(rules.default_cpu_milli);
        }
        if self.memory_bytes == 0 {
            self.memory_bytes = rules.default_memory_bytes;
        }
        if self.timeout_ms == 0 {
            self.timeout_ms = rules.default_timeout_ms;
        }
        if self.gpus.is_none() && rules.default_gpus > 0 {
            self.gpus = Some(GpuRequest { count: rules.default_gpus, ..GpuRequest::default() });
        }
        self.check_command()?;
        self.check_maps()?;
        self.check_files()?;
        let files = self.files.map(|files| Box::new(files.without_defaults()));
        self.files = files.filter(|files| !files.is_empty());
        self.limits = self.limits.filter(|limits| **limits != TaskLimits::default());
        self.limits.iter().try_for_each(|limits| limits.check())?;
        self.check_comment()?;
        self.check_class(rules)?;
        self.check_for_slurm()?;
        self.runtime = self.runtime_for_image(rules)?;
        self.check_numbers(rules)?;
        Ok(self)
    }

    /// CPU and memory that one attempt takes from its node. What Slurm runs takes none: Slurm finds its own.
    pub fn resources(&self) -> Resources {
        match self.class {
            Class::GpuSlurm => Resources::default(),
            _ => Resources { cpu_milli: self.cpu_milli, memory_bytes: self.memory_bytes },
        }
    }

    /// Whole GPUs of one attempt.
    pub fn gpu_count(&self) -> u32 {
        self.gpus.as_ref().map_or(0, |g| g.count)
    }

    /// The GPUs that one attempt leases from its node. What Slurm runs leases none: Slurm gives it its own.
    pub fn leases(&self) -> Option<&GpuRequest> {
        self.gpus.as_ref().filter(|gpus| gpus.count > 0 && self.class != Class::GpuSlurm)
    }

    /// How many GPUs one attempt leases from its node.
    pub fn leased_gpus(&self) -> u32 {
        self.leases().map_or(0, |gpus| gpus.count)
    }

    /// The lowest version of the cluster in which it may stand in the log: the highest that any part of it needs.
    pub fn needs(&self) -> Version {
        let names_image = self.image.as_deref().is_some_and(|image| Named::of_task(image).is_some());
        let parts = [
            (self.files.is_some(), version::TASK_FILES),
            (names_image, version::IMAGES),
            (self.limits.is_some(), version::TASK_LIMITS),
            (self.comment.is_some(), Version(5)),
            (self.run_as.is_some(), version::RUN_AS),
            (self.files.as_ref().is_some_and(|files| files.keep.is_some()), version::OUTPUTS_OF_ALL_ENDS),
            (self.files.as_ref().is_some_and(|files| files.says_of_logs()), version::ENDINGS),
        ];
        let needed = parts.into_iter().filter(|(there, _)| *there).map(|(_, needs)| needs);
        needed.max().unwrap_or(version::OLDEST)
    }

    /// Bytes it takes in memory, about; for the bound on live specs.
    pub fn weight(&self) -> u64 {
        let arguments = self.command.iter().map(|w| w.len() + 24).sum::<usize>();
        let pairs =
            self.env.iter().chain(&self.constraints).map(|(k, v)| k.len() + v.len() + 48).sum::<usize>();
        let files = self.files.as_ref().map_or(0, |files| files.weight());
        let pinned = self.pinned.as_ref().map_or(0, |_| 400);
        let limits = self.limits.as_ref().map_or(0, |limits| limits.weight());
        let comment = self.comment.as_ref().map_or(0, String::len);
        (200 + arguments + pairs + files + pinned + limits + comment) as u64
    }

    fn check_command(&self) -> Result<(), InvalidSpec> {
        let first_empty = self.command.first().is_none_or(|c| c.trim().is_empty());
        if first_empty && self.image.is_none() {
            return refuse(
                "command",
                "is empty: give a program and its arguments, for example [\"/bin/true\"]",
            );
        }
        if self.runtime == Some(Runtime::Docker) && self.image.is_none() {
            return refuse(
                "image",
                "is missing: runtime docker runs an image, for example registry.example/team/tool:1",
            );
        }
        if self.command.len() > limits::COMMAND_ARGUMENTS {
            return refuse(
                "command",
                format!("has {} words; {} at most", self.command.len(), limits::COMMAND_ARGUMENTS),
            );
        }
        let texts = self.command.iter().chain(self.env.keys()).chain(self.env.values());
        if texts.clone().any(|t| t.contains('\0')) {
            return refuse("command", "holds a NUL character in a word or a variable; take it out");
        }
        let bytes: usize = texts.map(String::len).sum();
        if bytes > limits::COMMAND_AND_ENVIRONMENT_BYTES {
            let most = limits::COMMAND_AND_ENVIRONMENT_BYTES;
            return refuse(
                "command",
                format!("and env take {bytes} bytes; {most} at most: pass large data as a file"),
            );
        }
        Ok(())
    }

    fn check_maps(&self) -> Result<(), InvalidSpec> {
        if self.env.len() > limits::ENVIRONMENT_VARIABLES {
            return refuse(
                "env",
                format!("has {} variables; {} at most", self.env.len(), limits::ENVIRONMENT_VARIABLES),
            );
        }
        if let Some(bad) = self.env.keys().find(|k| k.is_empty() || k.contains('=')) {
            return refuse("env", format!("{bad:?} cannot be a variable's name: not empty, no '='"));
        }
        if let Some(taken) = self.env.keys().find(|k| k.starts_with("STINT_")) {
            return refuse(
                "env",
                format!("{taken:?} is set by Stint itself: choose a name that does not start with STINT_"),
            );
        }
        let long = |t: &String| t.is_empty() || t.len() > limits::LABEL_BYTES;
        if self.constraints.len() > limits::LABELS || self.constraints.keys().any(long) {
            return refuse(
                "constraints",
                format!("{} labels of 1 to {} bytes at most", limits::LABELS, limits::LABEL_BYTES),
            );
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), InvalidSpec> {
        let Some(files) = &self.files else { return Ok(()) };
        files.check()?;
        match files.secrets.iter().find(|secret| self.env.contains_key(&secret.sets())) {
            Some(secret) => {
                refuse("env", format!("{:?} is set by the secret {:?}: keep one", secret.sets(), secret.name))
            }
            None => Ok(()),
        }
    }

    /// It is shown on terminals and in tables.
    fn check_comment(&self) -> Result<(), InvalidSpec> {
        let Some(comment) = &self.comment else { return Ok(()) };
        if comment.len() > limits::COMMENT_BYTES {
            return refuse(
                "comment",
                format!("has {} bytes; {} at most", comment.len(), limits::COMMENT_BYTES),
            );
        }
        if comment.chars().any(char::is_control) {
            return refuse(
                "comment",
                "holds a line break or another control character: write one line of text",
            );
        }
        Ok(())
    }

    fn check_class(&self, rules: &ClassRules) -> Result<(), InvalidSpec> {
        let class = self.class;
        match self.runtime {
            Some(runtime) if !rules.runtimes.contains(&runtime) => {
                // Only those who know of mock use it.
                let names = rules.runtimes.iter().filter(|known| **known != Runtime::Mock);
                let names: Vec<&str> = names.map(|known| known.as_str()).collect();
                return refuse(
                    "runtime",
                    format!("class {class} does not run with {runtime}: use {}", names.join(", ")),
                );
            }
            _ => {}
        }
        let asked = self.gpu_count();
        if asked > rules.max_gpus {
            let most = rules.max_gpus;
            let advice = if most == 0 {
                "use class gpu for one whole GPU"
            } else {
                "ask for fewer, or let the operator raise max_gpus of the class"
            };
            return refuse(
                "gpus",
                format!("class {class} gets at most {most} whole GPU(s), {asked} asked: {advice}"),
            );
        }
        if rules.default_gpus > 0 && asked == 0 {
            return refuse(
                "gpus",
                format!("class {class} gets {} whole GPU(s); for none use a cpu class", rules.default_gpus),
            );
        }
        Ok(())
    }

    /// What cannot be handed to Slurm: its nodes have files of their own.
    fn check_for_slurm(&self) -> Result<(), InvalidSpec> {
        if self.class != Class::GpuSlurm {
            return Ok(());
        }
        if self.image.is_some() {
            return refuse(
                "image",
                "is not for class gpu_slurm: Slurm runs what its nodes have; name their container program in the \
                 command, for example [\"apptainer\", \"exec\", \"/shared/tool.sif\", \"train\"]",
            );
        }
        // Who keeps the end of its output is said of every task.
        let recorded = |files: &TaskFiles| TaskFiles { record: None, ..files.clone() };
        if self.files.as_deref().is_some_and(|files| !recorded(files).is_empty()) {
            return refuse(
                "files",
                "are not for class gpu_slurm: inputs, outputs and secrets do not reach Slurm's nodes; use their \
                 shared file system",
            );
        }
        if self.gpus.as_ref().is_some_and(|gpus| gpus.min_memory_bytes > 0) {
            return refuse(
                "gpus",
                "of class gpu_slurm cannot be asked for by memory: name a model, which is the type in Slurm's gres",
            );
        }
        Ok(())
    }

    /// The runtime that the task names, or the one that its image is for. One that cannot run it is refused.
    fn runtime_for_image(&self, rules: &ClassRules) -> Result<Option<Runtime>, InvalidSpec> {
        let runs_all = self.runtime == Some(Runtime::Mock);
        let Some(image) = self.image.as_deref().filter(|_| !runs_all) else { return Ok(self.runtime) };
        let invalid = |problem| InvalidSpec { field: "image", problem };
        let Some(kind) = NameKind::read(image) else {
            return Err(invalid(format!(
                "{image:?} names none: write {SCHEME}NAME for a registered image, a Docker reference \
                 (registry.example/team/tool:1), or an absolute path of the nodes"
            )));
        };
        match (self.runtime, kind.runtime()) {
            (Some(own), suited) if !kind.suits(own) => {
                let advice = suited.map_or_else(String::new, |runtime| format!(", or name {runtime}"));
                Err(invalid(format!(
                    "{image:?} is {kind}, which {own} cannot run: leave the runtime out{advice}"
                )))
            }
            (None, Some(suited)) if !rules.runtimes.contains(&suited) => Err(invalid(format!(
                "{image:?} is {kind}, and class {} does not run with {suited}: use another class",
                self.class
            ))),
            (own, suited) => Ok(own.or(suited)),
        }
    }

    /// With less no runtime starts anything, and each node would be blamed for it. Slurm and the mock have no such bounds.
    fn check_least_amounts(&self) -> Result<(), InvalidSpec> {
        if self.class == Class::GpuSlurm || self.runtime == Some(Runtime::Mock) {
            return Ok(());
        }
        let (bytes, least) = (self.memory_bytes, limits::LEAST_MEMORY_BYTES);
        if bytes < least {
            let problem = format!(
                "{bytes} bytes is less than any runtime can start with ({} MiB): write it with a unit, for example \"512MiB\"",
                least >> 20
            );
            return refuse("memory", problem);
        }
        if self.cpu_milli < limits::LEAST_CPU_MILLI {
            let problem = format!(
                "{} cores is less than any runtime can limit a task to: ask for 0.01 at least",
                self.cpu_milli as f64 / 1000.0
            );
            return refuse("cpus", problem);
        }
        Ok(())
    }

    fn check_numbers(&self, rules: &ClassRules) -> Result<(), InvalidSpec> {
        if self.timeout_ms > rules.max_timeout_ms {
            let (asked, most) = (self.timeout_ms, rules.max_timeout_ms);
            return refuse(
                "timeout",
                format!(
                    "{asked} ms is over the cap of class {} ({most} ms): ask for less or use another class",
                    self.class
                ),
            );
        }
        self.check_least_amounts()?;
        if self.priority > limits::MAX_PRIORITY {
            let most = limits::MAX_PRIORITY;
            return refuse("priority", format!("{} is outside 0 to {most}", self.priority));
        }
        if !(1..=limits::MAX_ATTEMPTS).contains(&self.retry.max_attempts) {
            return refuse(
                "retry.max_attempts",
                format!("{} is outside 1 to {}", self.retry.max_attempts, limits::MAX_ATTEMPTS),
            );
        }
        if self.retry.max_backoff_ms > limits::MAX_BACKOFF_MS {
            return refuse(
                "retry.max_backoff_ms",
                format!("is over {} ms (one hour)", limits::MAX_BACKOFF_MS),
            );
        }
        let most_grace = rules.most_grace_ms();
        if self.stop_grace_ms > most_grace {
            return refuse(
                "stop_grace_ms",
                format!("{} is over {most_grace} ms, half of the class's lease", self.stop_grace_ms),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
