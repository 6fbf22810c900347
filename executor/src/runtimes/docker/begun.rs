//! Whether a container's program has begun, as its daemon says: a start whose answer never came may have been done all the
//! same.

use std::time::Duration;

use bollard::models::{ContainerState, ContainerStateStatusEnum};

use super::engine::EngineError;
use crate::limits;

/// How far a container's program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was created, and nothing of it ever ran.
    NotBegun,
    /// Its first process has this id, as the daemon numbers processes.
    Runs(i32),
    Ended,
}

impl Seen {
    /// What the daemon's answer says. A container that does not run is not thereby one that has ended: the daemon answers so
    /// before the start too, and its exit code is 0 then.
    pub fn read(state: &ContainerState) -> Self {
        use ContainerStateStatusEnum::{CREATED, EMPTY};
        let pid = state.pid.unwrap_or(0) as i32;
        if state.running == Some(true) && pid > 0 {
            return Seen::Runs(pid);
        }
        let began = state.started_at.as_deref().is_some_and(|time| !time.starts_with("0001-"));
        let is_new = matches!(state.status, None | Some(CREATED | EMPTY));
        if state.running != Some(true) && began && !is_new { Seen::Ended } else { Seen::NotBegun }
    }
}

/// What the daemon said to the start.
#[derive(Debug)]
pub enum StartAnswer {
    Done,
    Refused(EngineError),
    /// It was sent, and no answer came.
    None(EngineError),
}

impl From<Result<(), EngineError>> for StartAnswer {
    fn from(result: Result<(), EngineError>) -> Self {
        match result {
            Ok(()) => StartAnswer::Done,
            Err(fault) if fault.is_unreachable() => StartAnswer::None(fault),
            Err(fault) => StartAnswer::Refused(fault),
        }
    }
}

/// Why what became of a start is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// The start had no answer, and the program has not begun: it may yet.
    NoAnswer,
    /// The daemon said that it started it, and does not show it.
    NotShown,
    /// The daemon says that it runs, and its first process is not seen: it has just ended, or is out of reach.
    NotSeen,
}

impl Undecided {
    /// How long it may last.
    pub fn patience(self, answer: &StartAnswer) -> Duration {
        Duration::from_millis(match (self, answer) {
            (Undecided::NoAnswer, StartAnswer::None(EngineError::Late(_))) => limits::DOCKER_LATE_START_MS,
            (Undecided::NoAnswer, _) => limits::DOCKER_CUT_START_MS,
            (Undecided::NotShown | Undecided::NotSeen, _) => limits::DOCKER_SETTLE_MS,
        })
    }

    /// Why nobody knows, in the end.
    pub fn message(self) -> &'static str {
        match self {
            Undecided::NotSeen => {
                "the Docker daemon's processes cannot be seen from this node, so a container could not be \
                                   killed in time: run both in one pid namespace"
            }
            Undecided::NoAnswer => "the Docker daemon did not answer its start",
            Undecided::NotShown => "the Docker daemon said that it started it, and shows no start",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(status: ContainerStateStatusEnum, pid: i64, started_at: &str) -> ContainerState {
        ContainerState {
            status: Some(status),
            running: Some(status == ContainerStateStatusEnum::RUNNING),
            pid: Some(pid),
            exit_code: Some(0),
            started_at: Some(started_at.into()),
            ..ContainerState::default()
        }
    }

    #[test]
    fn what_never_ran_has_not_ended() {
        use ContainerStateStatusEnum::{CREATED, DEAD, EXITED, RUNNING};
        let (never, then) = ("0001-01-01T00:00:00Z", "2026-11-29T10:00:00.5Z");
        assert_eq!(Seen::read(&state(CREATED, 0, never)), Seen::NotBegun);
        assert_eq!(Seen::read(&state(RUNNING, 7, then)), Seen::Runs(7));
        assert_eq!(Seen::read(&state(EXITED, 0, then)), Seen::Ended);
        assert_eq!(Seen::read(&state(DEAD, 0, then)), Seen::Ended);
        // It is being started.
        assert_eq!(Seen::read(&state(RUNNING, 0, then)), Seen::NotBegun);
        assert_eq!(Seen::read(&ContainerState::default()), Seen::NotBegun);
    }
}
