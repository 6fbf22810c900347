//! What a user asks for. Checked once, by `TaskSpec::resolve`; inside, a spec is right by construction.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::class::{Class, ClassRules, Runtime};
use crate::files::{KeepOutputs, TaskFiles};
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
        if let Some(files) = &mut self.files {
            // What is the default anyhow needs no word for it.
            let leaves = !files.outputs.is_empty();
            files.keep = files.keep.filter(|keep| leaves && *keep != KeepOutputs::default());
        }
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
            (self.files.as_ref().is_some_and(|files| files.keep.is_some()), version::OUTPUTS_OF_ALL_ENDS),
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
        if self.files.is_some() {
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
mod tests {
    use super::*;
    use crate::files::OutputPath;

    fn resolve(spec: TaskSpec) -> Result<TaskSpec, InvalidSpec> {
        let rules = ClassRules::default_for(spec.class);
        spec.resolve(&rules)
    }

    fn arguments(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn defaults_come_from_the_class() {
        let spec = resolve(TaskSpec::new(Class::Gpu, arguments("train --fast"))).unwrap();
        assert_eq!((spec.cpu_milli, spec.gpu_count(), spec.timeout_ms), (2000, 1, 600_000));
    }

    #[test]
    fn a_short_lease_leaves_half_of_itself_to_stop() {
        let rules = ClassRules { lease_ttl_ms: 3_000, ..ClassRules::default_for(Class::CpuShort) };
        let spec = TaskSpec::new(Class::CpuShort, arguments("true"));
        assert_eq!(spec.clone().resolve(&rules).unwrap_err().field, "stop_grace_ms");
        let spec = spec.with_grace_within(&rules).resolve(&rules).unwrap();
        assert_eq!((spec.stop_grace_ms, spec.least_lease_ms()), (1_500, 3_000));
    }

    #[test]
    fn what_slurm_runs_takes_nothing_of_its_node() {
        let mut spec = TaskSpec::new(Class::GpuSlurm, arguments("train"));
        spec.cpu_milli = 8_000;
        spec.gpus = Some(GpuRequest { count: 64, model: Some("h200".into()), min_memory_bytes: 0 });
        let spec = resolve(spec).unwrap();
        assert_eq!((spec.resources(), spec.gpu_count(), spec.leased_gpus()), (Resources::default(), 64, 0));
    }

    fn commented(text: &str) -> TaskSpec {
        TaskSpec { comment: Some(text.into()), ..TaskSpec::new(Class::CpuShort, arguments("x")) }
    }

    #[test]
    fn a_comment_is_a_line_of_text_and_weighs_what_it_takes() {
        let (short, long) = (commented("für den Bericht"), commented(&"x".repeat(1024)));
        assert_eq!(resolve(short.clone()).unwrap().comment, short.comment);
        assert_eq!(resolve(long).unwrap().weight() - resolve(short).unwrap().weight(), 1024 - 16);
    }

    #[test]
    fn refusals_say_what_to_change() {
        let mut two_gpus = TaskSpec::new(Class::Gpu, arguments("train"));
        two_gpus.gpus = Some(GpuRequest { count: 2, ..GpuRequest::default() });
        let mut slow = TaskSpec::new(Class::CpuShort, arguments("x"));
        slow.timeout_ms = 61_000;
        let mut wrong_runtime = TaskSpec::new(Class::CpuLong, arguments("x"));
        wrong_runtime.runtime = Some(Runtime::Process);
        let mut own_variable = TaskSpec::new(Class::CpuShort, arguments("x"));
        own_variable.env.insert("STINT_TASK".into(), "1".into());
        let mut no_image = TaskSpec::new(Class::CpuLong, arguments("x"));
        no_image.runtime = Some(Runtime::Docker);
        let slurm = || TaskSpec::new(Class::GpuSlurm, arguments("train"));
        let (mut image_for_slurm, mut files_for_slurm, mut memory_for_slurm) = (slurm(), slurm(), slurm());
        image_for_slurm.image = Some("registry.example/tool:1".into());
        files_for_slurm.files = Some(Box::new(TaskFiles {
            outputs: vec![OutputPath { path: "out".into(), optional: false }],
            ..TaskFiles::default()
        }));
        memory_for_slurm.gpus = Some(GpuRequest { count: 1, min_memory_bytes: 1, ..GpuRequest::default() });
        let cases = [
            (image_for_slurm, "Slurm runs what its nodes have"),
            (files_for_slurm, "do not reach Slurm's nodes"),
            (memory_for_slurm, "name a model"),
            (no_image, "image: is missing"),
            (TaskSpec::new(Class::CpuShort, vec![]), "command: is empty"),
            (TaskSpec::new(Class::CpuShort, arguments("a\0b")), "NUL"),
            (two_gpus, "at most 1 whole GPU(s), 2 asked"),
            (slow, "over the cap of class cpu_short (60000 ms)"),
            (wrong_runtime, "does not run with process: use crun, docker"),
            (own_variable, "set by Stint itself"),
            (commented(&"x".repeat(1025)), "comment: has 1025 bytes; 1024 at most"),
            (commented("two\nlines"), "write one line"),
            (commented("\u{1b}[2J"), "write one line"),
        ];
        for (spec, part) in cases {
            let message = resolve(spec).unwrap_err().to_string();
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }

    #[test]
    fn an_image_chooses_its_runtime_unless_the_task_names_one() {
        let with = |image: &str, runtime: Option<Runtime>| {
            let spec = TaskSpec::new(Class::CpuShort, arguments("train"));
            resolve(TaskSpec { image: Some(image.into()), runtime, ..spec })
        };
        let chosen =
            |image, runtime| with(image, runtime).map(|spec| spec.runtime).map_err(|e| e.to_string());
        let (docker, crun, process, mock) =
            (Some(Runtime::Docker), Some(Runtime::Crun), Some(Runtime::Process), Some(Runtime::Mock));
        for (image, asked, expected) in [
            ("pytorch/pytorch:2.9", None, docker),
            ("pytorch/pytorch:2.9", docker, docker),
            ("pytorch/pytorch:2.9", mock, mock),
            ("./rootfs", mock, mock),
            ("/srv/roots/small", None, crun),
            ("/srv/roots/hello", process, process),
            ("stint://team/tool:2", None, None),
            ("stint://team/tool:2", process, process),
        ] {
            assert_eq!(chosen(image, asked), Ok(expected), "{image} {asked:?}");
        }
        for (image, asked, part) in [
            (
                "pytorch/pytorch:2.9",
                crun,
                "is a Docker reference, which crun cannot run: leave the runtime out, or name docker",
            ),
            ("busybox", process, "is a Docker reference, which process cannot run"),
            (
                "/srv/roots/small",
                docker,
                "is a path of the nodes, which docker cannot run: leave the runtime out, or name crun",
            ),
            ("./rootfs", None, "\"./rootfs\" names none: write stint://NAME"),
            ("Tool", docker, "\"Tool\" names none"),
        ] {
            let refusal = chosen(image, asked).unwrap_err();
            assert!(refusal.starts_with("image: ") && refusal.contains(part), "{refusal}");
        }
        let rules = ClassRules { runtimes: vec![Runtime::Crun], ..ClassRules::default_for(Class::Gpu) };
        let spec = TaskSpec::new(Class::Gpu, arguments("train"));
        let refused =
            TaskSpec { image: Some("busybox".into()), ..spec }.resolve(&rules).unwrap_err().to_string();
        assert!(refused.contains("class gpu does not run with docker: use another class"), "{refused}");
    }

    #[test]
    fn a_spec_needs_the_highest_version_of_its_parts() {
        let needs = |change: &dyn Fn(&mut TaskSpec)| {
            let mut spec = TaskSpec::new(Class::CpuShort, arguments("true"));
            change(&mut spec);
            spec.needs()
        };
        let with_image = |spec: &mut TaskSpec| spec.image = Some("stint://tool".into());
        let with_files = |spec: &mut TaskSpec| spec.files = Some(Box::new(TaskFiles::default()));
        let with_limits = |spec: &mut TaskSpec| spec.limits = Some(Box::new(TaskLimits::default()));
        assert_eq!(needs(&|_| {}), version::OLDEST);
        assert_eq!(needs(&|spec| spec.image = Some("registry.example/tool:1".into())), version::OLDEST);
        assert_eq!(needs(&with_image), version::IMAGES);
        assert_eq!(needs(&with_files), version::TASK_FILES);
        let all = |spec: &mut TaskSpec| {
            with_image(spec);
            with_limits(spec);
            with_files(spec);
        };
        assert_eq!(needs(&all), version::TASK_LIMITS);
        assert_eq!(needs(&|spec| spec.comment = Some("why".into())), Version(5));
    }

    #[test]
    fn a_stored_spec_reads_back_and_ignores_fields_of_later_versions() {
        let spec = resolve(TaskSpec::new(Class::CpuShort, arguments("echo hi"))).unwrap();
        let bytes = minicbor::to_vec(&spec).unwrap();
        assert_eq!(minicbor::decode::<TaskSpec>(&bytes).unwrap(), spec);
    }
}
