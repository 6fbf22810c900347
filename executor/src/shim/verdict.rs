//! How an attempt has ended, from what its init, its exit status, its cgroup and the watchdog say.

use std::io;
use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, EndKind};

use crate::refusal::{Refusal, blame_errno, not_executed};
use crate::runtimes::watchdog_side::{Failed, WatchdogRuntime};
use crate::shim_api::LEASE_OVER;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::StartRequest;
use crate::sys::StatusSlot;
use crate::sys::spawn::{Phase, Step};
use crate::watchdog::StopCause;

/// Everything there is to judge by.
pub struct Evidence<'a> {
    pub layout: &'a Layout,
    pub request: &'a StartRequest,
    pub runtime: &'static dyn WatchdogRuntime,
    pub slot: &'a StatusSlot,
    /// Raw wait status of the watchdog's child: the program, or the init of its namespace.
    pub child_status: i32,
    pub contained: bool,
    pub why: Option<StopCause>,
    pub oom_kills: u64,
    /// What the monitor said of what ran elsewhere.
    pub kept_end: Option<AttemptEnd>,
}

/// The kind of end and what a user needs to know beyond it.
pub fn judge(evidence: &Evidence<'_>) -> (EndKind, String) {
    if let Some(why) = evidence.why {
        return (why.end_kind(), stopped_message(why, evidence.request));
    }
    if let Some(end) = &evidence.kept_end {
        return (end.kind.clone(), end.message.clone());
    }
    let (kind, message) = match Phase::in_slot(evidence.slot) {
        Phase::Failed => return not_started(evidence),
        Phase::Exited => from_status(evidence.slot.status.load(SeqCst)),
        _ if !evidence.contained => from_status(evidence.child_status),
        Phase::Running => {
            let (kind, _) = from_status(evidence.child_status);
            (kind, "the init of its sandbox was killed from outside".to_owned())
        }
        Phase::LeaseOver => return (EndKind::Lost, LEASE_OVER.to_owned()),
        Phase::Starting => {
            (EndKind::Lost, "it was killed while it was being started; it may have begun".to_owned())
        }
        Phase::Nothing => (EndKind::StartFailed, "it was killed while it was being started".to_owned()),
    };
    if evidence.oom_kills > 0 && kind != EndKind::Exited(0) {
        let asked = evidence.request.memory_bytes;
        return (
            EndKind::OutOfMemory,
            format!("the kernel killed it for memory at its limit of {asked} bytes: ask for more memory"),
        );
    }
    (kind, message)
}

fn stopped_message(why: StopCause, request: &StartRequest) -> String {
    match why {
        StopCause::TimedOut => format!("ran longer than its timeout of {} ms", request.run_timeout_ms),
        StopCause::Cancelled => "cancelled".into(),
        StopCause::LeaseOver => {
            "its lease was over: the node did not renew it in time or had to give it back".into()
        }
        StopCause::Drained => "stopped because its node drains".into(),
        // The node that asked for it says more.
        StopCause::DiskExceeded => "its files took too much of the node's disk".into(),
    }
}

fn from_status(status: i32) -> (EndKind, String) {
    if libc::WIFSIGNALED(status) {
        (EndKind::Signalled(libc::WTERMSIG(status)), String::new())
    } else {
        (EndKind::Exited(libc::WEXITSTATUS(status)), String::new())
    }
}

fn not_started(evidence: &Evidence<'_>) -> (EndKind, String) {
    let step = Step::in_slot(evidence.slot);
    let number = evidence.slot.errno.load(SeqCst);
    let failed = Failed { layout: evidence.layout, request: evidence.request, step, number };
    if let Some(refusal) = evidence.runtime.not_started(&failed) {
        return refusal;
    }
    let error = io::Error::from_raw_os_error(number);
    match step {
        Step::Exec => {
            let name = evidence.request.command.first().map_or("", String::as_str);
            let Refusal { kind, message } = not_executed(name, number);
            (kind, message)
        }
        // It was there when the node looked.
        Step::HostMount if number == libc::ELOOP => {
            (EndKind::Denied, "what it mounts was replaced by a link meanwhile".into())
        }
        Step::HostMount if [libc::ENOENT, libc::ENOTDIR].contains(&number) => {
            (EndKind::FilesMissing, "what it mounts was taken away meanwhile".into())
        }
        Step::WorkingDir => {
            let wanted = evidence.request.working_dir.as_deref().unwrap_or_default();
            let advice = "name a folder that its user may enter, or one below the work folder";
            let kind = if is_of_the_name(number) { EndKind::NotRunnable } else { blame_errno(number) };
            (kind, clip(format!("working directory {wanted:?}: {error}: {advice}")))
        }
        _ => (blame_errno(number), clip(format!("{} failed: {error}", step.as_str()))),
    }
}

/// Whether a folder cannot be made or entered because of what was asked for: another node would not do better.
fn is_of_the_name(number: i32) -> bool {
    let of_the_name = [
        libc::ENOENT,
        libc::ENOTDIR,
        libc::EACCES,
        libc::EPERM,
        libc::EEXIST,
        libc::ELOOP,
        libc::ENAMETOOLONG,
    ];
    of_the_name.contains(&number)
}
