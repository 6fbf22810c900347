//! The start of a container, and the search for what became of it.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerState;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use super::super::begun::{Seen, StartAnswer, Undecided};
use super::super::belongs;
use super::super::engine::EngineError;
use super::super::settle::{Settled, settle};
use super::super::stop_level::{StopLevel, at_least};
use super::{ContainerMonitor, inspect};
use crate::labels::kill_labelled;
use crate::limits;
use crate::sys;

/// What became of a start.
pub(super) enum Found {
    /// A handle on the container's first process: when that ends, everything in its pid namespace has.
    Runs(AsyncFd<OwnedFd>),
    /// It has ended already. `was_away`: the daemon did not answer all the time.
    Ended { state: ContainerState, was_away: bool },
    /// Nothing of it ran, nor will: the daemon refused to start it, or its start never came.
    NotBegun(Option<EngineError>),
    /// Nobody can say whether it began, or it cannot be killed from here.
    Unknown(String),
}

impl ContainerMonitor<'_> {
    /// Starts it. A kill that comes meanwhile reaches whatever shows up of the program.
    pub(super) async fn start(&self, engine: &Docker, id: &str) -> Result<(), EngineError> {
        let mut start = std::pin::pin!(engine.start_container(id, None));
        loop {
            tokio::select! {
                result = &mut start => return Ok(result?),
                () = sleep(Duration::from_millis(limits::DOCKER_AGAIN_MS)) => {}
            }
            if *self.stop_level.borrow() >= StopLevel::Kill {
                kill_labelled(&self.layout.attempts(), |lease| lease == self.request.lease);
            }
        }
    }

    /// Asks until it is known whether the program began, and where its first process is. A kill ends the asking.
    pub(super) async fn what_became(&self, engine: &Docker, id: &str, answer: StartAnswer) -> Found {
        let killed = "it was killed while it was started";
        tokio::select! {
            biased;
            () = at_least(&self.stop_level, StopLevel::Kill) => Found::Unknown(killed.into()),
            found = self.ask_what_became(engine, id, answer) => found,
        }
    }

    /// Never starts it again: it may have ended meanwhile.
    async fn ask_what_became(&self, engine: &Docker, id: &str, answer: StartAnswer) -> Found {
        let (mut was_away, mut pause) = (false, Duration::from_millis(1));
        let mut heard = Instant::now();
        let mut so_far: Option<(Undecided, Instant)> = None;
        loop {
            match inspect(engine, id).await {
                Ok(inspected) => {
                    heard = Instant::now();
                    let state = inspected.state.unwrap_or_default();
                    let undecided = match (Seen::read(&state), &answer) {
                        (Seen::Ended, _) => return Found::Ended { state, was_away },
                        (Seen::Runs(pid), _) => match self.hold(pid, id) {
                            Some(process) => return Found::Runs(process),
                            None => Undecided::NotSeen,
                        },
                        (Seen::NotBegun, StartAnswer::Refused(fault)) => {
                            return Found::NotBegun(Some(fault.clone()));
                        }
                        (Seen::NotBegun, StartAnswer::Done) => Undecided::NotShown,
                        (Seen::NotBegun, StartAnswer::None(_)) => Undecided::NoAnswer,
                    };
                    let since = match so_far {
                        Some((before, since)) if before == undecided => since,
                        _ => heard,
                    };
                    so_far = Some((undecided, since));
                    if since.elapsed() > undecided.patience(&answer) {
                        if undecided == Undecided::NotSeen {
                            return Found::Unknown(undecided.message().into());
                        }
                        match settle(engine, &self.docker.socket, id).await {
                            Settled::NeverRan => return Found::NotBegun(None),
                            Settled::Ran(state) => return Found::Ended { state, was_away: true },
                            Settled::Runs => so_far = None,
                            Settled::Unknown(why) => {
                                return Found::Unknown(format!("{}: {why}", undecided.message()));
                            }
                        }
                    }
                }
                Err(fault) if fault.is_unreachable() => {
                    was_away |= fault.tells_of_absence(&self.docker.socket).await;
                    // One that starts it answers no question about it until it has.
                    let is_late = matches!(fault, EngineError::Late(_));
                    let most = if is_late { limits::DOCKER_LATE_START_MS } else { limits::DOCKER_AWAY_MS };
                    if heard.elapsed() > Duration::from_millis(most) {
                        let message = "the Docker daemon does not say whether its program began";
                        return Found::Unknown(format!("{message}: {}", fault.message()));
                    }
                }
                Err(fault) => {
                    return match answer {
                        // That was before the start.
                        StartAnswer::Refused(refused) => Found::NotBegun(Some(refused)),
                        _ => Found::Unknown(format!("its container was taken away: {}", fault.message())),
                    };
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest_pause(so_far.map(|(undecided, _)| undecided)));
        }
    }

    /// A handle on a container's first process; none: no such process is seen, or not that container's any more.
    fn hold(&self, pid: i32, container: &str) -> Option<AsyncFd<OwnedFd>> {
        let handle = belongs(pid, container).then(|| sys::pidfd_open(pid))?.ok()?;
        if !belongs(pid, container) {
            return None;
        }
        let since = sys::start_ticks(pid)?;
        let handle = sys::awaitable(handle).ok()?;
        self.slot.container_since.store(since, SeqCst);
        self.slot.container.store(pid, SeqCst);
        self.slot.phase.store(1, SeqCst);
        (self.tell)();
        Some(handle)
    }
}

/// A daemon that is late with everything is not asked more often than helps.
fn longest_pause(undecided: Option<Undecided>) -> Duration {
    Duration::from_millis(match undecided {
        Some(Undecided::NotShown | Undecided::NotSeen) => limits::DOCKER_AGAIN_MS,
        Some(Undecided::NoAnswer) | None => limits::DOCKER_ASK_MS,
    })
}
