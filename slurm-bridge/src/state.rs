//! Slurm's words for how jobs are and how they end. Source: `job_state_codes` of Slurm's documentation (22.05 to 26.05).

use stint_protocol::EndKind;

/// What the script of a job ends with when it does not begin its program: `EX_TEMPFAIL` of `sysexits.h`.
pub const REFUSAL: i32 = 75;

/// How a job is, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Its script does not run now: it waits, was suspended, or is to be started again.
    Waiting,
    /// Its script runs.
    Running,
    /// Its processes are being ended.
    Completing,
    Ended(JobEnd),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    pub reason: EndReason,
    /// The script's exit code and the signal that ended it, where Slurm says so.
    pub code: Option<(i32, i32)>,
}

/// Why a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its script did; the exit code says how.
    Ended,
    Cancelled,
    TimedOut,
    OutOfMemory,
    /// Slurm took its place for another job.
    Preempted,
    /// Its node failed, or could not start it: its processes may be there still.
    NodeFailed,
}

impl JobState {
    /// Reads the state that `squeue` and `scontrol` print, with or without flags after a `+`.
    pub fn read(word: &str, code: Option<(i32, i32)>) -> Option<Self> {
        let over = |how| Some(JobState::Ended(JobEnd { reason: how, code }));
        match word.split(['+', ' ']).next().unwrap_or_default() {
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT"
            | "RESV_DEL_HOLD" | "SUSPENDED" | "STOPPED" | "POWER_UP_NODE" => Some(JobState::Waiting),
            "COMPLETING" => Some(JobState::Completing),
            "RUNNING" | "RESIZING" | "SIGNALING" | "STAGE_OUT" | "EXPEDITING" => Some(JobState::Running),
            "COMPLETED" | "FAILED" => over(EndReason::Ended),
            "CANCELLED" | "REVOKED" => over(EndReason::Cancelled),
            "TIMEOUT" | "DEADLINE" => over(EndReason::TimedOut),
            "OUT_OF_MEMORY" => over(EndReason::OutOfMemory),
            "PREEMPTED" => over(EndReason::Preempted),
            "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" | "UPDATE_DB" => {
                over(EndReason::NodeFailed)
            }
            _ => None,
        }
    }
}

/// The end of a program by the code of the shell that waited for it.
pub fn end_of_shell_code(code: i32) -> EndKind {
    match code {
        129..=192 => EndKind::Signalled(code - 128),
        _ => EndKind::Exited(code),
    }
}

impl JobEnd {
    /// Whether its script ended without having begun its program, as one does that Slurm starts a second time.
    pub fn is_refusal(&self) -> bool {
        self.reason == EndReason::Ended && self.code == Some((REFUSAL, 0))
    }

    /// How the attempt ended, with words where Slurm's matter. `shell`: what the job's own files say.
    pub fn verdict(&self, shell: Option<i32>) -> (EndKind, &'static str) {
        match self.reason {
            EndReason::Ended => match (shell, self.code) {
                (Some(code), _) => (end_of_shell_code(code), ""),
                (None, Some((_, signal))) if signal > 0 => (EndKind::Signalled(signal), ""),
                (None, Some((code, _))) => (end_of_shell_code(code), ""),
                (None, None) => (EndKind::Lost, "Slurm does not say how its job ended"),
            },
            EndReason::Cancelled => (EndKind::Cancelled, "its job was cancelled in Slurm"),
            EndReason::TimedOut => (EndKind::TimedOut, "Slurm ended its job: its time limit was over"),
            EndReason::OutOfMemory => {
                (EndKind::OutOfMemory, "Slurm ended its job: it used more memory than it asked for")
            }
            EndReason::Preempted => {
                (EndKind::Lost, "Slurm ended its job for one that comes first (preempted)")
            }
            EndReason::NodeFailed => (EndKind::Lost, "the node of Slurm that ran its job failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state of Slurm's documentation; those who read fewer left jobs unfinished for ever.
    #[test]
    fn every_word_of_slurm_is_known() {
        let waits = "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD SUSPENDED \
                     STOPPED POWER_UP_NODE";
        assert_eq!(JobState::read("COMPLETING", None), Some(JobState::Completing));
        let runs = "RUNNING RESIZING SIGNALING STAGE_OUT EXPEDITING";
        waits
            .split_whitespace()
            .for_each(|word| assert_eq!(JobState::read(word, None), Some(JobState::Waiting), "{word}"));
        runs.split_whitespace()
            .for_each(|word| assert_eq!(JobState::read(word, None), Some(JobState::Running), "{word}"));
        let ends = [
            ("COMPLETED", Some((0, 0)), None, EndKind::Exited(0)),
            ("FAILED", Some((3, 0)), None, EndKind::Exited(3)),
            ("FAILED", Some((137, 0)), None, EndKind::Signalled(9)),
            ("FAILED", Some((0, 11)), None, EndKind::Signalled(11)),
            ("FAILED", Some((1, 0)), Some(255), EndKind::Exited(255)),
            ("FAILED", None, None, EndKind::Lost),
            ("CANCELLED", Some((0, 15)), None, EndKind::Cancelled),
            ("CANCELLED by 1000", None, Some(143), EndKind::Cancelled),
            ("REVOKED", None, None, EndKind::Cancelled),
            ("TIMEOUT", Some((0, 1)), None, EndKind::TimedOut),
            ("DEADLINE", None, None, EndKind::TimedOut),
            ("OUT_OF_MEMORY", Some((0, 125)), Some(137), EndKind::OutOfMemory),
            ("PREEMPTED", Some((0, 0)), None, EndKind::Lost),
            ("NODE_FAIL", Some((0, 0)), None, EndKind::Lost),
            ("BOOT_FAIL", None, None, EndKind::Lost),
            ("LAUNCH_FAILED", None, None, EndKind::Lost),
            ("RECONFIG_FAIL", None, None, EndKind::Lost),
        ];
        for (word, code, shell, kind) in ends {
            let Some(JobState::Ended(over)) = JobState::read(word, code) else { panic!("{word} is no end") };
            assert_eq!(over.verdict(shell).0, kind, "{word} {code:?} {shell:?}");
        }
        assert_eq!(JobState::read("CORRUPT", None), None);
    }
}
