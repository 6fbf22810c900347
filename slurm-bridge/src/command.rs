//! The real Slurm, by its command line: `sbatch`, `squeue` and `scancel`. They work alike from Slurm 20.11 on, know a
//! site's way of authentication, and retry within the controller's own limits.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use stint_executor::{Launch, open_files_as_before};
use stint_protocol::LeaseId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::doors::{BoxFuture, JobId, ListedJob, Slurm, SubmitError};
use crate::job_dir::{SharedJobDir, lease_of};
use crate::limits;
use crate::script::FIRST_ANSWER_S;
use crate::state::JobState;

/// How one node uses Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandSettings {
    /// Folder of `sbatch`, `squeue` and `scancel`; none: as the search path says.
    pub bin: Option<PathBuf>,
    /// `SLURM_CONF`; none: Slurm's own default.
    pub conf: Option<PathBuf>,
    /// Further options of `sbatch`, for example `--partition=gpu` and `--account=lab`.
    pub submit_options: Vec<String>,
    /// Who jobs run as, when that is not who this node runs as.
    pub user: Option<(u32, u32)>,
    /// What this node's jobs are known by: the identity of its data folder, as of its job folder.
    pub owner: String,
}

/// Options of `sbatch` that the bridge sets itself or that would break what it promises.
pub const OWN_OPTIONS: &[&str] = &[
    "--array",
    "-a",
    "--chdir",
    "-D",
    "--comment",
    "--error",
    "-e",
    "--export",
    "--gid",
    "--gpus",
    "-G",
    "--gres",
    "--input",
    "-i",
    "--job-name",
    "-J",
    "--output",
    "-o",
    "--parsable",
    "--requeue",
    "--no-requeue",
    "--time",
    "-t",
    "--uid",
    "--wait",
    "-W",
    "--wrap",
    "--het-group",
    "--clusters",
    "-M",
    "--test-only",
];

/// Slurm by its commands; a copy is the same one.
#[derive(Clone)]
pub struct CommandSlurm(Arc<Inner>);

struct Inner {
    settings: CommandSettings,
    job_dir: SharedJobDir,
}

/// What a command printed and how it ended.
struct Printed {
    ok: bool,
    out: String,
    /// Its error output, or what went wrong with running it.
    message: String,
}

impl CommandSlurm {
    /// Submits scripts of this folder.
    pub fn new(settings: CommandSettings, job_dir: SharedJobDir) -> Self {
        Self(Arc::new(Inner { settings, job_dir }))
    }

    /// What the names of this node's jobs begin with.
    fn prefix(&self) -> String {
        format!("stint.{}.", self.0.settings.owner)
    }

    fn name(&self, lease: LeaseId) -> String {
        format!("{}{}.{}", self.prefix(), lease.task, lease.attempt)
    }

    async fn call(&self, program: &str, arguments: Vec<OsString>) -> Result<Printed, String> {
        let settings = &self.0.settings;
        let path = settings.bin.as_ref().map_or_else(|| PathBuf::from(program), |bin| bin.join(program));
        let mut command = Command::new(&path);
        // Of this node's environment a job gets nothing: sbatch hands on what it has.
        command.args(arguments).env_clear().kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Nor its limit of open files, which sbatch hands on, too.
        open_files_as_before(&mut command);
        for kept in ["PATH", "LD_LIBRARY_PATH", "SLURM_CONF"] {
            std::env::var_os(kept).into_iter().for_each(|value| {
                command.env(kept, value);
            });
        }
        settings.conf.iter().for_each(|conf| {
            command.env("SLURM_CONF", conf);
        });
        let failed = |e: std::io::Error| format!("running {}: {e}", path.display());
        let mut child = command.spawn().map_err(failed)?;
        let (out, err) = tokio::join!(read(child.stdout.take()), read(child.stderr.take()));
        let status = child.wait().await.map_err(failed)?;
        let message = err.trim().replace('\n', "; ");
        let message = if message.is_empty() { format!("{program} ended with {status}") } else { message };
        let message = message.chars().take(limits::MESSAGE_BYTES).collect();
        Ok(Printed { ok: status.success(), out, message })
    }

    fn submit_arguments(&self, launch: &Launch) -> Vec<OsString> {
        let Inner { settings, job_dir } = &*self.0;
        let (spec, folder) = (&launch.spec, job_dir.folder(launch.lease));
        let mut message = settings.submit_options.clone();
        let name = self.name(launch.lease);
        message.extend(["--parsable".into(), "--no-requeue".into(), format!("--job-name={name}")]);
        message.push(format!("--comment=stint {} of tenant {}", launch.lease, launch.tenant));
        // The bridge ends it in time; Slurm's own limit, in whole minutes, is for what the bridge cannot.
        let limit_ms = spec.timeout_ms + spec.stop_grace_ms + FIRST_ANSWER_S * 1_000;
        let minutes = limit_ms.div_ceil(60_000) + 1;
        message.push(format!("--time={minutes}"));
        message.push(format!("--output={}", folder.join("job/slurm.out").display()));
        message.push(format!("--chdir={}", folder.join("job").display()));
        if let Some((uid, gid)) = settings.user {
            // Without a group it would keep this node's, which is root's.
            message.extend([format!("--uid={uid}"), format!("--gid={gid}")]);
        }
        if spec.cpu_milli > 0 {
            message.push(format!("--cpus-per-task={}", spec.cpu_milli.div_ceil(1_000)));
        }
        if spec.memory_bytes > 0 {
            message.push(format!("--mem={}M", spec.memory_bytes.div_ceil(1 << 20)));
        }
        if let Some(gpus) = spec.gpus.as_ref().filter(|gpus| gpus.count > 0) {
            let model = gpus.model.as_ref().map_or_else(String::new, |model| format!("{model}:"));
            message.push(format!("--gres=gpu:{model}{}", gpus.count));
        }
        let mut arguments: Vec<OsString> = message.into_iter().map(OsString::from).collect();
        arguments.push(job_dir.script(launch.lease).into());
        arguments
    }
}

/// Reads a pipe to its end, as far as anybody wants to know.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error counts.
        let _ = pipe.take(limits::OUTPUT_BYTES as u64).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether these words of `sbatch` say that there is no job and will be none: anything else may pass, or may have
/// reached the controller.
pub(crate) fn is_refusal(message: &str) -> bool {
    const PASSING: &[&str] = &[
        "Unable to contact",
        "Socket timed out",
        "Connection refused",
        "Connection reset",
        "temporarily",
        "Zero Bytes",
        "Transport endpoint",
        "communication",
        "Communication",
        "Protocol authentication",
        "authentication credential",
        "job submit limit",
        "Slurm backup controller",
        "Resource temporarily",
        "Job dependency",
        "Required partition not available",
        "Incompatible versions",
        "configuration source",
        "DNS SRV",
    ];
    message.contains("error:") && !PASSING.iter().any(|part| message.contains(part))
}

/// Reads an exit code: `squeue` prints the status as the kernel gives it, and some versions `code:signal`.
fn code(text: &str) -> Option<(i32, i32)> {
    if let Some((code, signal)) = text.split_once(':') {
        return Some((code.parse().ok()?, signal.parse().ok()?));
    }
    let status: i32 = text.parse().ok()?;
    Some((status >> 8 & 0xff, status & 0x7f))
}

/// One line of [`FIELDS`].
pub(crate) fn parse_listed_job(line: &str, prefix: &str) -> Option<ListedJob> {
    let fields: Vec<&str> = line.split('|').map(str::trim).collect();
    let [job, name, state, exit, reason, ..] = fields[..] else { return None };
    let lease = lease_of(name.strip_prefix(prefix)?)?;
    let job_state = JobState::read(state, code(exit))?;
    let reason = reason.trim_start_matches('(').trim_end_matches(')');
    let reason = if matches!(reason, "" | "None") { String::new() } else { format!(", {reason}") };
    Some(ListedJob {
        job: JobId(job.parse().ok()?),
        lease,
        state: job_state,
        message: format!("Slurm job {job}: {state}{reason}"),
    })
}

/// What `squeue` prints of each job, with its width: a name of ours has 160 bytes at most.
const FIELDS: &str = "JobID:20|,Name:200|,State:40|,exit_code:20|,ReasonList:200|";

/// Who this process runs as.
fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl Slurm for CommandSlurm {
    fn submit(&self, launch: &Launch) -> BoxFuture<Result<JobId, SubmitError>> {
        let (slurm, arguments) = (self.clone(), self.submit_arguments(launch));
        Box::pin(async move {
            let printed = slurm.call("sbatch", arguments).await.map_err(SubmitError::Unknown)?;
            // `JOB` or `JOB;CLUSTER`.
            let job = printed.out.trim().split(';').next().and_then(|job| job.parse().ok());
            match job {
                Some(job) if printed.ok => Ok(JobId(job)),
                _ if !printed.ok && is_refusal(&printed.message) => {
                    Err(SubmitError::Refused(printed.message))
                }
                _ => Err(SubmitError::Unknown(printed.message)),
            }
        })
    }

    fn jobs(&self) -> BoxFuture<Result<Vec<ListedJob>, String>> {
        let slurm = self.clone();
        let user = self.0.settings.user.map_or_else(own_uid, |(uid, _)| uid);
        let arguments = ["--states=all", "--noheader", "--array", "-O", FIELDS].map(OsString::from);
        Box::pin(async move {
            let mut arguments = arguments.to_vec();
            arguments.push(format!("--user={user}").into());
            let printed = slurm.call("squeue", arguments).await?;
            if !printed.ok {
                return Err(printed.message);
            }
            let prefix = slurm.prefix();
            Ok(printed.out.lines().filter_map(|line| parse_listed_job(line, &prefix)).collect())
        })
    }

    fn cancel(&self, lease: LeaseId, job: JobId) -> BoxFuture<Result<(), String>> {
        let slurm = self.clone();
        Box::pin(async move {
            let arguments = vec![format!("--name={}", slurm.name(lease)).into(), job.to_string().into()];
            let printed = slurm.call("scancel", arguments).await?;
            // Of a job that is over or forgotten there is nothing to cancel.
            let gone = ["Invalid job id", "already completing", "already completed", "Job/step already"];
            let gone = gone.iter().any(|message| printed.message.contains(message));
            if printed.ok || gone { Ok(()) } else { Err(printed.message) }
        })
    }
}
