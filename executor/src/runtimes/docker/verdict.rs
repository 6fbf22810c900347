//! What came of a Docker attempt, and how the monitor tells the watchdog.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use bollard::models::ContainerState;
use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, EndKind, LeaseId, Usage};

use super::engine::EngineError;
use crate::log::log;
use crate::refusal::blame;
use crate::shim_api::inside::{INIT, INIT_FILE};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::ResolvedMount;
use crate::sys::StatusSlot;

/// How an attempt ended, and what a user needs to know beyond it.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub kind: EndKind,
    pub message: String,
    pub usage: Option<Usage>,
}

/// A verdict with words that are not too long.
pub fn verdict(kind: EndKind, message: impl Into<String>) -> Verdict {
    Verdict { kind, message: clip(message.into()), usage: None }
}

/// The watchdog's own reason replaces it.
pub fn stopped() -> Verdict {
    verdict(EndKind::Lost, "it was stopped before it ran")
}

impl Verdict {
    /// The same with a remark.
    pub fn and(self, remark: &str) -> Self {
        let gap = if self.message.is_empty() { "" } else { "; " };
        let message = clip(format!("{}{gap}{remark}", self.message));
        Self { message, ..self }
    }
}

/// Nobody answers at the daemon's socket.
pub fn no_daemon(socket: &str, fault: &EngineError) -> Verdict {
    let message = format!("the Docker daemon at {socket} does not answer: {}", fault.message());
    verdict(EndKind::StartFailed, message)
}

/// Something that the daemon was asked to do before the start failed.
pub fn failed(socket: &str, what: &str, fault: &EngineError) -> Verdict {
    if fault.is_unreachable() {
        return no_daemon(socket, fault);
    }
    // A status of 5xx is the daemon's own trouble, unless it passes on what its runtime said.
    let kind =
        if (400..500).contains(&fault.status()) { blame(fault.message()) } else { EndKind::StartFailed };
    verdict(kind, format!("{what}: {}", fault.message()))
}

/// How a container ended of which the daemon says `state` and the kernel `status`. `interrupted`: the daemon was away
/// when it ended.
pub fn from_state(
    state: &ContainerState,
    status: Option<i32>,
    interrupted: bool,
    memory_bytes: u64,
) -> Verdict {
    let Some(code) = state.exit_code.map(|code| code as i32) else {
        return verdict(EndKind::Lost, "the Docker daemon does not say how it ended");
    };
    if state.oom_killed == Some(true) && code != 0 {
        let limit = format!("the kernel killed it for memory at its limit of {memory_bytes} bytes");
        return verdict(EndKind::OutOfMemory, format!("{limit}: ask for more memory"));
    }
    // Docker tells a signal as 128 + its number, which a program can say too; the kernel tells them apart where it is
    // new enough.
    let signal = match status {
        Some(status) if libc::WIFSIGNALED(status) => Some(libc::WTERMSIG(status)),
        Some(_) => None,
        None => (129..=192).contains(&code).then_some(code - 128),
    };
    match signal {
        Some(_) if interrupted => {
            verdict(EndKind::Lost, "the Docker daemon stopped while it ran and killed it")
        }
        Some(signal) => verdict(EndKind::Signalled(signal), ""),
        None => verdict(EndKind::Exited(code), ""),
    }
}

/// Why what a task mounts could not be laid where it wants it, when that is what the daemon speaks of.
pub fn mount_failure(mounts: &[ResolvedMount], fault: &EngineError) -> Option<Verdict> {
    let message = fault.message();
    let of_it = |mount: &&ResolvedMount| {
        message.contains("mount") && message.contains(&format!("{}\"", mount.target))
    };
    let target = &mounts.iter().find(of_it)?.target;
    let advice = "is its target in the image of the same kind, a folder or a file?";
    Some(verdict(EndKind::NotRunnable, format!("mounting {target}: {advice} ({})", short(message))))
}

/// Why a created container did not start: the task's fault or the node's. The program has no part in it yet: what the daemon
/// executes is ours.
pub fn start_failure(working_dir: Option<&str>, fault: &EngineError) -> Verdict {
    let message = fault.message();
    if message.contains(INIT) || message.contains(INIT_FILE) {
        return verdict(EndKind::StartFailed, format!("starting its container: {message}"));
    }
    if lacks_working_dir(working_dir, message) {
        return no_working_dir(working_dir, message);
    }
    verdict(blame(message), format!("starting its container: {message}"))
}

/// Whether the daemon or its runtime could not make or enter the working directory that a task names, for a reason that
/// lies with the name: another node would not do better.
pub fn lacks_working_dir(wanted: Option<&str>, message: &str) -> bool {
    let about = ["Cannot mkdir", "chdir to cwd", "mkdir ", "lstat ", "not a directory", "file name too long"];
    let of_the_node = ["no space left", "quota exceeded", "input/output error"];
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    wanted.is_some() && says(&about) && !says(&of_the_node)
}

pub fn no_working_dir(wanted: Option<&str>, message: &str) -> Verdict {
    let wanted = wanted.unwrap_or_default();
    verdict(EndKind::NotRunnable, format!("its working directory {wanted:?}: {}", short(message)))
}

/// Whether a folder cannot be made because of its name.
pub fn is_no_folder(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotADirectory | std::io::ErrorKind::InvalidFilename)
}

/// The last part of runc's chain of reasons.
fn short(message: &str) -> &str {
    message.rsplit_once(": exec: ").map_or(message, |(_, last)| last)
}

/// Where a monitor writes how its attempt ended.
pub fn end_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("docker-end")
}

/// The kinds of end that a monitor tells, by their number in a slot.
const KINDS: [EndKind; 8] = [
    EndKind::Exited(0),
    EndKind::Signalled(0),
    EndKind::OutOfMemory,
    EndKind::Lost,
    EndKind::StartFailed,
    EndKind::NotRunnable,
    EndKind::FilesMissing,
    EndKind::StartRefused,
];

/// Says how the attempt ended: the words in a file, the kind in memory, which no full disk can lose.
pub fn record_end(layout: &Layout, lease: LeaseId, slot: Option<&'static StatusSlot>, ended: Verdict) {
    let Verdict { kind, message, usage } = ended;
    let code = match kind {
        EndKind::Exited(code) | EndKind::Signalled(code) => code,
        _ => 0,
    };
    let number = KINDS.iter().position(|k| std::mem::discriminant(k) == std::mem::discriminant(&kind));
    let usage = usage.map(Box::new);
    let end = AttemptEnd { usage, ..AttemptEnd::new(lease, kind, message, 0) };
    let (file, fresh) = (end_file(layout, lease), layout.attempt(lease).join("docker-end.new"));
    let written =
        minicbor::to_vec(&end).map_err(io::Error::other).and_then(|bytes| std::fs::write(&fresh, bytes));
    if let Err(e) = written.and_then(|()| std::fs::rename(fresh, file)) {
        log!(Monitor, lease, "writing how it ended: {e}");
    }
    if let Some(slot) = slot {
        slot.status.store(code, SeqCst);
        slot.errno.store(number.map_or(0, |n| n as i32 + 1), SeqCst);
    }
}

/// What `record_end` recorded; none: nothing yet.
pub fn recorded_end(slot: &StatusSlot) -> Option<EndKind> {
    let number = slot.errno.load(SeqCst).checked_sub(1)?;
    let code = slot.status.load(SeqCst);
    Some(match KINDS.get(usize::try_from(number).ok()?)?.clone() {
        EndKind::Exited(_) => EndKind::Exited(code),
        EndKind::Signalled(_) => EndKind::Signalled(code),
        kind => kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i64, oom_killed: bool, status: Option<i32>, interrupted: bool) -> EndKind {
        let state = ContainerState {
            exit_code: Some(code),
            oom_killed: Some(oom_killed),
            ..ContainerState::default()
        };
        from_state(&state, status, interrupted, 1).kind
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(ended(0, false, None, false), EndKind::Exited(0));
        assert_eq!(ended(255, false, None, false), EndKind::Exited(255));
        assert_eq!(ended(137, true, Some(9), false), EndKind::OutOfMemory);
        assert_eq!(
            ended(0, true, Some(0), false),
            EndKind::Exited(0),
            "a child of it was killed, it went on"
        );
        assert_eq!(ended(137, false, None, false), EndKind::Signalled(9));
        assert_eq!(ended(137, false, Some(9), false), EndKind::Signalled(9));
        assert_eq!(
            ended(137, false, Some(137 << 8), false),
            EndKind::Exited(137),
            "the program's own number"
        );
        assert_eq!(ended(137, false, Some(9), true), EndKind::Lost);
        assert_eq!(ended(3, false, Some(3 << 8), true), EndKind::Exited(3));
    }

    #[test]
    fn failed_starts_are_the_programs_fault_or_the_nodes() {
        let runc = "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \
                    \"/.stint-init\": permission denied: unknown";
        let gpus = "could not select device driver \"\" with capabilities: [[gpu]]";
        let in_folder =
            |message: &str| start_failure(Some("/proc/x"), &EngineError::Said(400, message.into())).kind;
        for message in [
            "error during container init: mkdir /proc/x: no such file or directory",
            "OCI runtime create failed: chdir to cwd (\"/proc/x\"): not a directory: unknown",
            "lstat /merged/bin/busybox/x: not a directory",
        ] {
            assert_eq!(in_folder(message), EndKind::NotRunnable, "{message}");
        }
        assert_eq!(in_folder("mkdir /x: no space left on device"), EndKind::StartFailed);
        let kind = |message: &str| start_failure(None, &EngineError::Said(400, message.into())).kind;
        assert_eq!(kind(runc), EndKind::StartFailed, "what is executed is the node's own");
        assert_eq!(kind(gpus), EndKind::StartFailed);
    }
}
