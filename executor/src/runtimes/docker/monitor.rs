//! The monitor of one container: a forked child of the watchdog with a loop of its own. It brings the attempt from the
//! image to its end, writes what came of it into the attempt's folder, and leaves only when nothing of the container
//! runs any more. TERM asks the program to end; USR1 (also sent by the kernel when the watchdog dies) kills it.

mod start;

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerState};
use bollard::query_parameters::CreateContainerOptions;
use stint_protocol::{EndKind, LeaseId, Usage};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::start::Found;
use super::begun::Seen;
use super::engine::{self, EngineError};
use super::init_report::{self, InitReport};
use super::logs::{self, LogFiles};
use super::pull::{FoundImage, Puller};
use super::stop_level::{StopLevel, at_least, in_loop};
use super::verdict::{self, Verdict, mount_failure, record_end, start_failure, stopped, verdict};
use super::{container, container_name};
use crate::labels::kill_labelled;
use crate::limits;
use crate::refusal::not_executed;
use crate::shim_api::LEASE_OVER;
use crate::shim_api::inside::INIT_FILE;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{DockerRequest, StartRequest};
use crate::sys::{self, StatusSlot};
use crate::usage;

/// Says that an attempt runs under Docker, and at which socket.
pub fn mark_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("docker")
}

/// Tells the watchdog that the program runs.
pub type Tell<'a> = &'a dyn Fn();

/// The life of a monitor that runs an attempt; its exit code.
pub fn run(layout: &Layout, request: &StartRequest, slot: &'static StatusSlot, tell: Tell<'_>) -> i32 {
    let Some(docker) = &request.docker else { return 1 };
    in_loop(request.lease, Some(slot), |stop_level| async move {
        let monitor = ContainerMonitor {
            layout,
            request,
            docker,
            slot,
            tell,
            stop_level,
            name: container_name(request.lease),
        };
        let ended = monitor.keep().await;
        let is_over = *monitor.stop_level.borrow() == StopLevel::LeaseOver;
        let by_itself = matches!(ended.kind, EndKind::Exited(_));
        let ended = if is_over && !by_itself { verdict(EndKind::Lost, LEASE_OVER) } else { ended };
        record_end(layout, request.lease, Some(slot), ended);
    })
}

/// The life of a monitor that only clears away what another left behind; its exit code.
pub fn clean(layout: &Layout, lease: LeaseId, socket: &str, slot: Option<&'static StatusSlot>) -> i32 {
    in_loop(lease, None, |_| async move {
        make_sure_gone(layout, lease, socket).await;
        let message =
            "the process that kept its container was killed; everything of the attempt was seen gone";
        record_end(layout, lease, slot, verdict(EndKind::Lost, message));
    })
}

/// Kills and removes the container of a lease whatever state it is in. Returns when there is none any more, or when
/// no daemon is there that could start it and no process of it is seen.
async fn make_sure_gone(layout: &Layout, lease: LeaseId, socket: &str) {
    let name = container_name(lease);
    loop {
        let seen = !kill_labelled(&layout.attempts(), |other| other == lease).is_empty();
        let removed = match engine::connect(socket).await {
            Ok(docker) => engine::remove(&docker, &name).await.is_ok(),
            // The socket file is gone or refuses: no daemon is there that could start it.
            Err(_) => !engine::is_there(socket).await,
        };
        if removed && !seen {
            return;
        }
        sleep(Duration::from_millis(limits::DOCKER_AGAIN_MS)).await;
    }
}

struct ContainerMonitor<'a> {
    layout: &'a Layout,
    request: &'a StartRequest,
    docker: &'a DockerRequest,
    slot: &'static StatusSlot,
    tell: Tell<'a>,
    stop_level: watch::Receiver<StopLevel>,
    name: String,
}

/// A container that can be started.
struct Prepared {
    engine: Docker,
    /// Of this very container: a call by the name, which another one may bear by then, could come late and start that again.
    id: String,
    files: LogFiles,
    pump: JoinHandle<Option<io::Error>>,
    /// What its first process passes on when it is to end.
    stop_signal: i32,
    /// The name of its program, for a message.
    program: String,
    /// Whether the attempt's stderr has that output was lost: once is enough.
    says_loss: bool,
}

impl ContainerMonitor<'_> {
    async fn keep(&self) -> Verdict {
        for _ in 0..limits::DOCKER_STARTS {
            let prepared = tokio::select! {
                biased;
                () = at_least(&self.stop_level, StopLevel::Kill) => Err(stopped()),
                prepared = self.prepare() => prepared,
            };
            match prepared {
                Ok(prepared) if *self.stop_level.borrow() == StopLevel::Run => {
                    if let Some(ended) = self.start_and_watch(prepared).await {
                        return ended;
                    }
                }
                Ok(_) => return self.give_up(stopped()).await,
                Err(ended) => return self.give_up(ended).await,
            }
        }
        let tries = limits::DOCKER_STARTS;
        verdict(
            EndKind::StartFailed,
            format!("the Docker daemon was told {tries} times to start it and never did"),
        )
    }

    /// Nothing was started: what may have been created goes.
    async fn give_up(&self, ended: Verdict) -> Verdict {
        if let Ok(engine) = engine::connect(&self.docker.socket).await {
            self.remove(&engine).await;
        }
        ended
    }

    async fn prepare(&self) -> Result<Prepared, Verdict> {
        let making = |e: io::Error| verdict(EndKind::StartFailed, format!("making its folder: {e}"));
        let files = LogFiles::make(self.layout, self.request, self.docker).map_err(|e| {
            match self.request.working_dir.as_deref() {
                Some(wanted) if verdict::is_no_folder(&e) => {
                    verdict(EndKind::NotRunnable, format!("working directory {wanted:?}: {e}"))
                }
                _ => making(e),
            }
        })?;
        let socket = &self.docker.socket;
        let engine = engine::insist(socket, || engine::connect(socket)).await;
        let engine = engine.map_err(|fault| verdict::no_daemon(socket, &fault))?;
        let stderr = files.stderr.try_clone().map_err(making)?;
        let (layout, lease) = (self.layout, self.request.lease);
        let mut puller = Puller { engine: &engine, request: self.docker, layout, lease, stderr };
        let image = tokio::select! {
            () = at_least(&self.stop_level, StopLevel::Term) => Err(stopped()),
            image = puller.image() => image,
        }?;
        let command = container::command(self.request, &image.config);
        let Some(program) = command.first().cloned() else {
            let message = "neither the task nor its image names a program: give a command";
            return Err(verdict(EndKind::NotRunnable, message));
        };
        let volumes = container::volumes(&image.config).len();
        LogFiles::make_volumes(layout, lease, self.docker, volumes).map_err(making)?;
        let stop_signal = container::stop_signal(&image.config);
        let id = self.create(&engine, &image).await?;
        self.check_devices(&engine, &id).await?;
        let output = engine::insist(socket, || logs::attach(&engine, &id)).await;
        let output = output.map_err(|fault| verdict::failed(socket, "attaching to its container", &fault))?;
        let pump = tokio::spawn(logs::pump(output, files.try_clone().map_err(making)?));
        Ok(Prepared { engine, id, files, pump, stop_signal, program, says_loss: false })
    }

    /// The id of the new container.
    async fn create(&self, engine: &Docker, image: &FoundImage) -> Result<String, Verdict> {
        let body = container::body(self.layout, self.request, self.docker, image);
        let create = || async {
            let options = CreateContainerOptions { name: Some(self.name.clone()), platform: String::new() };
            Ok(engine.create_container(Some(options), body.clone()).await?)
        };
        let created = engine::insist(&self.docker.socket, || async {
            match create().await {
                // Only a container of this very attempt can bear its name, and nothing of it ran yet: one whose
                // creation had no answer.
                Err(EngineError::Said(409, _)) => {
                    engine::remove(engine, &self.name).await?;
                    create().await
                }
                other => other,
            }
        });
        let created = created.await;
        match created {
            Ok(created) => Ok(created.id),
            // A file of the node's own is gone.
            Err(EngineError::Said(400, message)) if message.contains(INIT_FILE) => {
                Err(verdict(EndKind::StartFailed, message))
            }
            Err(EngineError::Said(400, message)) => Err(verdict(EndKind::NotRunnable, message)),
            Err(EngineError::Said(_, message))
                if verdict::lacks_working_dir(self.request.working_dir.as_deref(), &message) =>
            {
                Err(verdict::no_working_dir(self.request.working_dir.as_deref(), &message))
            }
            Err(fault) => Err(verdict::failed(&self.docker.socket, "creating its container", &fault)),
        }
    }

    /// The daemon checks no device ids: whether it took ours, all of them and no others, is looked at before the start.
    async fn check_devices(&self, engine: &Docker, id: &str) -> Result<(), Verdict> {
        if self.docker.gpus.is_empty() {
            return Ok(());
        }
        let created = engine::insist(&self.docker.socket, || inspect(engine, id)).await;
        let created = created
            .map_err(|fault| verdict::failed(&self.docker.socket, "inspecting its container", &fault))?;
        if container::has_exactly(created.host_config.as_ref(), &self.docker.gpus) {
            return Ok(());
        }
        let message =
            "the daemon made a container with other devices than those of the lease; it was not started";
        Err(verdict(EndKind::StartFailed, message))
    }

    /// Starts it, once. None: that was certainly not done, and will not be.
    async fn start_and_watch(&self, prepared: Prepared) -> Option<Verdict> {
        let answer = self.start(&prepared.engine, &prepared.id).await.into();
        self.slot.started.store(sys::boot_now().0, SeqCst);
        let ended = match self.what_became(&prepared.engine, &prepared.id, answer).await {
            Found::Runs(process) => self.watch(prepared, process).await,
            Found::Ended { state, was_away } => {
                (self.tell)();
                self.finish(prepared, None, state, was_away).await
            }
            Found::NotBegun(fault) => {
                self.slot.started.store(0, SeqCst);
                self.remove(&prepared.engine).await;
                let fault = fault?;
                let working_dir = self.request.working_dir.as_deref();
                return Some(
                    mount_failure(&self.request.mounts, &fault)
                        .unwrap_or_else(|| start_failure(working_dir, &fault)),
                );
            }
            Found::Unknown(why) => {
                self.make_sure_gone().await;
                verdict(EndKind::Lost, why)
            }
        };
        self.slot.phase.store(2, SeqCst);
        Some(ended)
    }

    async fn watch(&self, mut prepared: Prepared, process: AsyncFd<OwnedFd>) -> Verdict {
        let mut stop_level = self.stop_level.clone();
        // What was wished before the handle was there.
        stop_level.mark_changed();
        let mut silent = false;
        let daemon = engine::listener(&self.docker.socket).await;
        let cgroups = usage::cgroups_of(self.slot.container.load(SeqCst));
        let mut away: Option<Instant> = None;
        let mut given_up = false;
        loop {
            tokio::select! {
                biased;
                _ = process.readable() => break,
                Ok(()) = stop_level.changed() => match *stop_level.borrow_and_update() {
                    StopLevel::Run => {}
                    StopLevel::Term => sys::pidfd_signal(process.get_ref(), prepared.stop_signal),
                    StopLevel::Kill | StopLevel::LeaseOver => sys::pidfd_signal(process.get_ref(), libc::SIGKILL),
                },
                _ = &mut prepared.pump, if !silent => silent = true,
                () = sleep(Duration::from_millis(limits::DOCKER_LOOK_MS)), if silent => {
                    // No output any more: the program closed it, or the daemon is gone.
                    let patience = Duration::from_millis(limits::DOCKER_PING_MS);
                    let there = matches!(timeout(patience, prepared.engine.ping()).await, Ok(Ok(_)));
                    match (there, away) {
                        // Its connection was cut, or the program closed both.
                        (true, None) if holds_output(self.slot.container.load(SeqCst)) => {
                            silent = !self.attach_again(&mut prepared).await;
                        }
                        (true, None) => {}
                        // Before it answers, a daemon that is back ends what it does not keep.
                        (true, Some(_)) if sys::pidfd_exited(process.get_ref()) => break,
                        (true, Some(_)) => {
                            away = None;
                            silent = !self.attach_again(&mut prepared).await;
                        }
                        (false, None) => away = Some(Instant::now()),
                        (false, Some(since)) if since.elapsed() > Duration::from_millis(limits::DOCKER_AWAY_MS) => {
                            given_up = true;
                            sys::pidfd_signal(process.get_ref(), libc::SIGKILL);
                        }
                        _ => {}
                    }
                }
            }
        }
        self.slot.ended.store(sys::boot_now().0, SeqCst);
        // At once: the daemon removes them soon.
        let used = usage::read_all(&cgroups);
        if silent {
            prepared.pump = tokio::spawn(async { None });
        }
        if given_up {
            self.remove(&prepared.engine).await;
            let message = "the Docker daemon stopped while it ran and did not come back: it was killed";
            return verdict(EndKind::Lost, message);
        }
        // One that was back before anybody missed it ended what it did not keep, too.
        let is_another = daemon.is_some() && engine::listener(&self.docker.socket).await != daemon;
        let mut ended = self.finish_watched(prepared, process.get_ref(), away.is_some() || is_another).await;
        ended.usage = Some(used).filter(|used| *used != Usage::default());
        ended
    }

    async fn attach_again(&self, prepared: &mut Prepared) -> bool {
        let Ok(files) = prepared.files.try_clone() else { return false };
        let Ok(output) = logs::attach(&prepared.engine, &prepared.id).await else { return false };
        if !std::mem::replace(&mut prepared.says_loss, true) {
            let lost = "stint: the Docker daemon did not hand on output; that of the last seconds is lost";
            let _ = writeln!(prepared.files.stderr, "{lost}");
        }
        prepared.pump = tokio::spawn(logs::pump(output, files));
        true
    }

    /// The container's first process is gone: asks how it ended.
    async fn finish_watched(&self, prepared: Prepared, process: &OwnedFd, was_away: bool) -> Verdict {
        match self.final_state(&prepared.engine, &prepared.id).await {
            Ok((state, went_away)) => {
                self.finish(prepared, Some(process), state, was_away || went_away).await
            }
            Err(fault) => {
                self.remove(&prepared.engine).await;
                let message = format!("the Docker daemon does not say how it ended: {}", fault.message());
                verdict(EndKind::Lost, message)
            }
        }
    }

    /// It has ended with this state: collects the rest of its output and removes it.
    async fn finish(
        &self,
        prepared: Prepared,
        process: Option<&OwnedFd>,
        state: ContainerState,
        was_away: bool,
    ) -> Verdict {
        if self.slot.ended.load(SeqCst) == 0 {
            self.slot.ended.store(sys::boot_now().0, SeqCst);
        }
        let of_kernel = process.and_then(sys::pidfd_wait_status);
        let mut ended = match (of_kernel, init_report::read(self.layout, self.request.lease)) {
            // Its first process was killed before it could say how the program ended.
            (Some(killed), _) if libc::WIFSIGNALED(killed) => self.ended(&state, of_kernel, was_away),
            (_, Some(InitReport::Ended(status))) => self.ended(&state, Some(status), was_away),
            (_, Some(InitReport::NotExecuted(number))) => {
                self.slot.started.store(0, SeqCst);
                let refused = not_executed(&prepared.program, number);
                verdict(refused.kind, refused.message)
            }
            (_, None) => self.ended(&state, of_kernel, was_away),
        };
        let drained = timeout(Duration::from_millis(limits::DOCKER_DRAIN_MS), prepared.pump).await;
        if let Ok(Ok(Some(e))) = drained {
            ended = ended.and(&format!("some of its output could not be kept: {e}"));
        }
        self.remove(&prepared.engine).await;
        ended
    }

    fn ended(&self, state: &ContainerState, status: Option<i32>, was_away: bool) -> Verdict {
        verdict::from_state(state, status, was_away, self.request.memory_bytes)
    }

    /// What the daemon says of the ended container, and whether it was away before it said so; an error when it does not
    /// answer, or says for long that it runs.
    async fn final_state(&self, engine: &Docker, id: &str) -> Result<(ContainerState, bool), EngineError> {
        let (mut heard, mut runs_since) = (Instant::now(), None);
        let mut was_away = false;
        let mut pause = Duration::from_millis(1);
        loop {
            match inspect(engine, id).await {
                Ok(inspected) => {
                    heard = Instant::now();
                    let state = inspected.state.unwrap_or_default();
                    if Seen::read(&state) == Seen::Ended {
                        return Ok((state, was_away));
                    }
                    let since = *runs_since.get_or_insert(heard);
                    if since.elapsed() > Duration::from_millis(limits::DOCKER_SETTLE_MS) {
                        let message = "it says that the container runs, whose process is gone";
                        return Err(EngineError::Unreachable(message.into()));
                    }
                }
                Err(fault) => {
                    was_away |= fault.tells_of_absence(&self.docker.socket).await;
                    let waited = heard.elapsed() > Duration::from_millis(limits::DOCKER_AWAY_MS);
                    if waited || !fault.is_unreachable() || *self.stop_level.borrow() >= StopLevel::Kill {
                        return Err(fault);
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes the container; what a daemon that is away keeps, the node's sweep removes later.
    async fn remove(&self, engine: &Docker) {
        let until = Instant::now() + Duration::from_millis(limits::DOCKER_REMOVE_MS);
        while let Err(fault) = engine::remove(engine, &self.name).await {
            if Instant::now() > until
                || *self.stop_level.borrow() >= StopLevel::Kill && fault.is_unreachable()
            {
                return;
            }
            sleep(Duration::from_millis(limits::DOCKER_AGAIN_MS)).await;
        }
    }

    async fn make_sure_gone(&self) {
        make_sure_gone(self.layout, self.request.lease, &self.docker.socket).await;
    }
}

async fn inspect(engine: &Docker, id: &str) -> Result<ContainerInspectResponse, EngineError> {
    Ok(engine.inspect_container(id, None).await?)
}

/// Whether a container's first process has not closed its output.
fn holds_output(pid: i32) -> bool {
    let is_pipe = |number: i32| {
        std::fs::read_link(format!("/proc/{pid}/fd/{number}"))
            .is_ok_and(|leads| leads.as_os_str().as_encoded_bytes().starts_with(b"pipe:"))
    };
    is_pipe(libc::STDOUT_FILENO) || is_pipe(libc::STDERR_FILENO)
}

/// Sends what the watchdog's notice pipe carries.
pub fn tell_slot(notice: &impl AsRawFd, index: u32) {
    sys::write_notice(notice, index);
}
