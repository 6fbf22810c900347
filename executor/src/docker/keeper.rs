//! The keeper of one container: a forked child of the watchdog with a loop of its own. It brings the attempt from the
//! image to its end, writes what came of it into the attempt's folder, and leaves only when nothing of the container
//! runs any more. TERM asks the program to end; USR1 (also sent by the kernel when the watchdog dies) kills it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, ContainerState};
use bollard::query_parameters::{CreateContainerOptions, CreateImageOptions};
use futures_util::StreamExt;
use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, EndKind, LeaseId};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::engine::{self, Fault};
use super::image::Reference;
use super::logs::{self, Files};
use super::{Pull, container, container_name};
use crate::layout::Layout;
use crate::limits;
use crate::shim::kill_labelled;
use crate::sys::{self, Slot};
use crate::wire::{DockerOrder, Order};

/// What the watchdog wants of a keeper, the later the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Run,
    Term,
    Kill,
}

/// What came of it.
#[derive(Clone, Debug)]
struct Verdict {
    kind: EndKind,
    message: String,
}

fn verdict(kind: EndKind, message: impl Into<String>) -> Verdict {
    Verdict { kind, message: clip(message.into()) }
}

/// The watchdog's own reason replaces it.
fn stopped() -> Verdict {
    verdict(EndKind::Lost, "it was stopped before it ran")
}

/// Where a keeper writes how its attempt ended.
pub fn end_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("docker-end")
}

/// Says that an attempt runs under Docker, and at which socket.
pub fn mark_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("docker")
}

/// Tells the watchdog that the program runs.
pub type Tell<'a> = &'a dyn Fn();

/// The life of a keeper that runs an attempt; its exit code.
pub fn run(layout: &Layout, order: &Order, slot: &'static Slot, tell: Tell<'_>) -> i32 {
    let Some(docker) = &order.docker else { return 1 };
    in_loop(|wish| async move {
        let keeper = Keeper { layout, order, docker, slot, tell, wish, name: container_name(order.lease) };
        let Verdict { kind, message } = keeper.keep().await;
        say_end(layout, order.lease, Some(slot), kind, message);
    })
}

/// The life of a keeper that only clears away what another left behind; its exit code.
pub fn clean(layout: &Layout, lease: LeaseId, socket: &str, slot: Option<&'static Slot>) -> i32 {
    in_loop(|_| async move {
        make_sure_gone(layout, lease, socket).await;
        let message =
            "the process that kept its container was killed; everything of the attempt was seen gone";
        say_end(layout, lease, slot, EndKind::Lost, message.into());
    })
}

fn in_loop<F: Future<Output = ()>>(work: impl FnOnce(watch::Receiver<Wish>) -> F) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let signals = sys::awaitable(sys::signal_fd(&[libc::SIGTERM, libc::SIGUSR1])?)?;
            let (wisher, wish) = watch::channel(Wish::Run);
            let listening = tokio::spawn(listen(signals, wisher));
            work(wish).await;
            listening.abort();
            Ok(())
        })
    });
    match done {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("stint docker keeper {}: {e}", std::process::id());
            1
        }
    }
}

async fn listen(signals: AsyncFd<OwnedFd>, wisher: watch::Sender<Wish>) {
    while let Ok(mut ready) = signals.readable().await {
        for signal in sys::take_signals(signals.get_ref()) {
            let wish = if signal == libc::SIGTERM { Wish::Term } else { Wish::Kill };
            wisher.send_if_modified(|now| std::mem::replace(now, wish.max(*now)) < wish);
        }
        ready.clear_ready();
    }
}

/// Returns when at least this is wished.
async fn at_least(wish: &watch::Receiver<Wish>, least: Wish) {
    let mut wish = wish.clone();
    if wish.wait_for(|now| *now >= least).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The kinds of end that a keeper tells, by their number in a slot.
const KINDS: [EndKind; 6] = [
    EndKind::Exited(0),
    EndKind::Signalled(0),
    EndKind::OutOfMemory,
    EndKind::Lost,
    EndKind::StartFailed,
    EndKind::NotRunnable,
];

/// Says how the attempt ended: the words in a file, the kind in memory, which no full disk can lose.
fn say_end(layout: &Layout, lease: LeaseId, slot: Option<&'static Slot>, kind: EndKind, message: String) {
    let code = match kind {
        EndKind::Exited(code) | EndKind::Signalled(code) => code,
        _ => 0,
    };
    let number = KINDS.iter().position(|k| std::mem::discriminant(k) == std::mem::discriminant(&kind));
    let end = AttemptEnd { lease, kind, message: clip(message), run_ms: 0 };
    let (file, fresh) = (end_file(layout, lease), layout.attempt(lease).join("docker-end.new"));
    let written =
        minicbor::to_vec(&end).map_err(io::Error::other).and_then(|bytes| std::fs::write(&fresh, bytes));
    if let Err(e) = written.and_then(|()| std::fs::rename(fresh, file)) {
        eprintln!("stint docker keeper: writing how {lease} ended: {e}");
    }
    if let Some(slot) = slot {
        slot.status.store(code, SeqCst);
        slot.errno.store(number.map_or(0, |n| n as i32 + 1), SeqCst);
    }
}

/// What `say_end` said; none: nothing yet.
pub fn told_end(slot: &Slot) -> Option<EndKind> {
    let number = slot.errno.load(SeqCst).checked_sub(1)?;
    let code = slot.status.load(SeqCst);
    Some(match KINDS.get(usize::try_from(number).ok()?)?.clone() {
        EndKind::Exited(_) => EndKind::Exited(code),
        EndKind::Signalled(_) => EndKind::Signalled(code),
        kind => kind,
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
            // The socket file is gone or refuses: a daemon that is merely slow accepts connections.
            Err(_) => std::os::unix::net::UnixStream::connect(socket).is_err(),
        };
        if removed && !seen {
            return;
        }
        sleep(Duration::from_millis(limits::DOCKER_AGAIN_MS)).await;
    }
}

struct Keeper<'a> {
    layout: &'a Layout,
    order: &'a Order,
    docker: &'a DockerOrder,
    slot: &'static Slot,
    tell: Tell<'a>,
    wish: watch::Receiver<Wish>,
    name: String,
}

/// A container that can be started.
struct Prepared {
    engine: Docker,
    files: Files,
    pump: JoinHandle<Option<io::Error>>,
}

/// Where the first process of a container is.
enum Found {
    Runs(AsyncFd<OwnedFd>),
    /// It has ended already.
    Ended,
    /// It cannot be killed from here.
    OutOfReach,
    /// The daemon does not say.
    Unknown,
}

impl Keeper<'_> {
    async fn keep(&self) -> Verdict {
        let prepared = tokio::select! {
            biased;
            () = at_least(&self.wish, Wish::Kill) => Err(stopped()),
            prepared = self.prepare() => prepared,
        };
        match prepared {
            Ok(prepared) if *self.wish.borrow() == Wish::Run => self.start_and_watch(prepared).await,
            Ok(_) => self.give_up(stopped()).await,
            Err(verdict) => self.give_up(verdict).await,
        }
    }

    /// Nothing was started: what may have been created goes.
    async fn give_up(&self, verdict: Verdict) -> Verdict {
        if let Ok(engine) = engine::connect(&self.docker.socket).await {
            self.remove(&engine).await;
        }
        verdict
    }

    async fn prepare(&self) -> Result<Prepared, Verdict> {
        let failed = |e: io::Error| verdict(EndKind::StartFailed, format!("making its folder: {e}"));
        let mut files = self.make_folder().map_err(failed)?;
        let engine = engine::connect(&self.docker.socket).await.map_err(|fault| self.no_daemon(&fault))?;
        let image = tokio::select! {
            () = at_least(&self.wish, Wish::Term) => Err(stopped()),
            image = self.image(&engine, &mut files) => image,
        }?;
        self.create(&engine, image).await?;
        self.check_devices(&engine).await?;
        let output =
            logs::attach(&engine, &self.name).await.map_err(|fault| self.failed("attaching", &fault))?;
        let pump = tokio::spawn(logs::pump(output, files.try_clone().map_err(failed)?));
        Ok(Prepared { engine, files, pump })
    }

    fn make_folder(&self) -> io::Result<Files> {
        let folder = self.layout.attempt(self.order.lease);
        let work = folder.join("work");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&work)?;
        std::os::unix::fs::chown(&work, Some(self.docker.user), Some(self.docker.group))?;
        let open =
            |name: &str| OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(name));
        Ok(Files { stdout: open("stdout")?, stderr: open("stderr")? })
    }

    fn no_daemon(&self, fault: &Fault) -> Verdict {
        let message =
            format!("the Docker daemon at {} does not answer: {}", self.docker.socket, fault.words());
        verdict(EndKind::StartFailed, message)
    }

    fn failed(&self, what: &str, fault: &Fault) -> Verdict {
        if fault.is_unreachable() {
            return self.no_daemon(fault);
        }
        verdict(EndKind::StartFailed, format!("{what} its container: {}", fault.words()))
    }

    /// The id of the image, here by then.
    async fn image(&self, engine: &Docker, files: &mut Files) -> Result<String, Verdict> {
        let name = self.docker.image.as_str();
        if self.docker.pull != Pull::Always
            && let Some(id) = self.image_here(engine).await?
        {
            return Ok(id);
        }
        if self.docker.pull == Pull::Never {
            let message = format!("image {name} is not on this node, and executor.docker.pull is never");
            return Err(verdict(EndKind::NotRunnable, message));
        }
        self.pull(engine, files).await?;
        let gone = || verdict(EndKind::StartFailed, format!("image {name} was pulled and is gone again"));
        self.image_here(engine).await?.ok_or_else(gone)
    }

    async fn image_here(&self, engine: &Docker) -> Result<Option<String>, Verdict> {
        match engine.inspect_image(&self.docker.image).await.map_err(Fault::from) {
            Ok(image) => Ok(image.id),
            Err(fault) if fault.status() == 404 => Ok(None),
            Err(fault) => Err(self.failed("looking for the image of", &fault)),
        }
    }

    /// Pulls with growing pauses. Progress goes to the attempt's stderr, a line now and then.
    async fn pull(&self, engine: &Docker, files: &mut Files) -> Result<(), Verdict> {
        let name = self.docker.image.as_str();
        let mut pause = limits::PULL_PAUSE_MS;
        let mut tries = 1;
        loop {
            let _ = writeln!(files.stderr, "stint: pulling {name}");
            let fault = match self.pull_once(engine, files).await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            if is_missing(&fault) {
                return Err(verdict(EndKind::NotRunnable, format!("image {name}: {}", fault.words())));
            }
            if tries == limits::PULL_TRIES {
                let message = format!("pulling {name} failed {tries} times, last: {}", fault.words());
                return Err(verdict(EndKind::StartFailed, message));
            }
            let _ = writeln!(
                files.stderr,
                "stint: pulling {name} failed, again in {pause} ms: {}",
                fault.words()
            );
            sleep(Duration::from_millis(pause)).await;
            (tries, pause) = (tries + 1, pause * 4);
        }
    }

    async fn pull_once(&self, engine: &Docker, files: &mut Files) -> Result<(), Fault> {
        let reference = Reference::parse(&self.docker.image).map_err(|e| Fault::Said(400, e.to_string()))?;
        let options = CreateImageOptions {
            from_image: Some(reference.repository.clone()),
            tag: reference.digest.clone().or(reference.tag.clone()),
            ..CreateImageOptions::default()
        };
        let mut steps = std::pin::pin!(engine.create_image(Some(options), None, None));
        let mut progress = Progress::default();
        let quiet = Duration::from_millis(limits::PULL_QUIET_MS);
        loop {
            let step = timeout(quiet, steps.next()).await;
            let step =
                step.map_err(|_| Fault::Unreachable(format!("nothing came for {} s", quiet.as_secs())))?;
            let Some(step) = step else { return Ok(()) };
            let step = step?;
            if let Some(error) = step.error_detail {
                return Err(Fault::Said(500, error.message.unwrap_or_default()));
            }
            let detail = step.progress_detail.unwrap_or_default();
            if let Some(line) = progress.note(step.id, detail.current, detail.total) {
                let _ = writeln!(files.stderr, "stint: pulling {}: {line}", self.docker.image);
            }
        }
    }

    async fn create(&self, engine: &Docker, image: String) -> Result<(), Verdict> {
        let options = || CreateContainerOptions { name: Some(self.name.clone()), platform: String::new() };
        let body = container::body(self.layout, self.order, self.docker, image);
        let mut created = engine.create_container(Some(options()), body.clone()).await.map_err(Fault::from);
        if let Err(Fault::Said(409, _)) = &created {
            // Only a container of this very attempt can bear its name.
            let _ = engine::remove(engine, &self.name).await;
            created = engine.create_container(Some(options()), body).await.map_err(Fault::from);
        }
        match created {
            Ok(_) => Ok(()),
            Err(Fault::Said(400, words)) => Err(verdict(EndKind::NotRunnable, words)),
            Err(fault) => Err(self.failed("creating", &fault)),
        }
    }

    /// The daemon checks no device ids: whether it took ours, all of them and no others, is looked at before the start.
    async fn check_devices(&self, engine: &Docker) -> Result<(), Verdict> {
        if self.docker.gpus.is_empty() {
            return Ok(());
        }
        let created = self.inspect(engine).await.map_err(|fault| self.failed("inspecting", &fault))?;
        if container::has_exactly(created.host_config.as_ref(), &self.docker.gpus) {
            return Ok(());
        }
        let message =
            "the daemon made a container with other devices than those of the lease; it was not started";
        Err(verdict(EndKind::StartFailed, message))
    }

    async fn inspect(&self, engine: &Docker) -> Result<ContainerInspectResponse, Fault> {
        Ok(engine.inspect_container(&self.name, None).await?)
    }

    async fn start_and_watch(&self, prepared: Prepared) -> Verdict {
        if let Err(fault) = self.start(&prepared.engine).await {
            if fault.is_unreachable() {
                // It may have been started all the same.
                self.make_sure_gone().await;
                return self.no_daemon(&fault);
            }
            self.remove(&prepared.engine).await;
            return start_failure(&self.order.command, &fault);
        }
        self.slot.started.store(sys::boot_now().0, SeqCst);
        let found = self.find_process(&prepared.engine).await;
        let ended = match found {
            Found::Runs(process) => self.watch(prepared, process).await,
            Found::Ended => {
                (self.tell)();
                self.finish(prepared, None, false).await
            }
            Found::Unknown => {
                self.make_sure_gone().await;
                verdict(EndKind::Lost, "the Docker daemon stopped while the container was started")
            }
            Found::OutOfReach => {
                self.make_sure_gone().await;
                let message = "the Docker daemon's processes cannot be seen from this node, so a container could not be \
                               killed in time: run both in one pid namespace";
                verdict(EndKind::StartFailed, message)
            }
        };
        self.slot.phase.store(2, SeqCst);
        ended
    }

    /// Starts it. A kill that comes meanwhile reaches whatever shows up of the program.
    async fn start(&self, engine: &Docker) -> Result<(), Fault> {
        let mut start = std::pin::pin!(engine.start_container(&self.name, None));
        loop {
            tokio::select! {
                result = &mut start => return Ok(result?),
                () = sleep(Duration::from_millis(limits::DOCKER_AGAIN_MS)) => {}
            }
            if *self.wish.borrow() == Wish::Kill {
                kill_labelled(&self.layout.attempts(), |lease| lease == self.order.lease);
            }
        }
    }

    /// A handle on the container's first process: when that ends, everything in its pid namespace has.
    async fn find_process(&self, engine: &Docker) -> Found {
        for _ in 0..3 {
            let Ok(inspected) = self.inspect(engine).await else { return Found::Unknown };
            let state = inspected.state.unwrap_or_default();
            let pid = state.pid.unwrap_or(0) as i32;
            if state.running != Some(true) || pid <= 0 {
                return Found::Ended;
            }
            let id = inspected.id.unwrap_or_default();
            let handle = belongs(pid, &id).then(|| sys::pidfd_open(pid)).and_then(Result::ok);
            if let Some(handle) = handle
                && belongs(pid, &id)
                && let Some(since) = sys::start_ticks(pid)
                && let Ok(handle) = sys::awaitable(handle)
            {
                self.slot.container_since.store(since, SeqCst);
                self.slot.container.store(pid, SeqCst);
                self.slot.phase.store(1, SeqCst);
                (self.tell)();
                return Found::Runs(handle);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Found::OutOfReach
    }

    async fn watch(&self, mut prepared: Prepared, process: AsyncFd<OwnedFd>) -> Verdict {
        let mut wish = self.wish.clone();
        // What was wished before the handle was there.
        wish.mark_changed();
        let mut silent = false;
        let mut away: Option<Instant> = None;
        let mut given_up = false;
        loop {
            tokio::select! {
                biased;
                _ = process.readable() => break,
                Ok(()) = wish.changed() => match *wish.borrow_and_update() {
                    Wish::Run => {}
                    Wish::Term => sys::pidfd_signal(process.get_ref(), libc::SIGTERM),
                    Wish::Kill => sys::pidfd_signal(process.get_ref(), libc::SIGKILL),
                },
                _ = &mut prepared.pump, if !silent => silent = true,
                () = sleep(Duration::from_millis(limits::DOCKER_LOOK_MS)), if silent => {
                    // No output any more: the program closed it, or the daemon is gone.
                    let patience = Duration::from_millis(limits::DOCKER_PING_MS);
                    let there = matches!(timeout(patience, prepared.engine.ping()).await, Ok(Ok(_)));
                    match (there, away) {
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
        if silent {
            prepared.pump = tokio::spawn(async { None });
        }
        let mut verdict = self.finish(prepared, Some(process.get_ref()), away.is_some()).await;
        if given_up {
            verdict.kind = EndKind::Lost;
            verdict.message =
                "the Docker daemon stopped while it ran and did not come back: it was killed".into();
        }
        verdict
    }

    async fn attach_again(&self, prepared: &mut Prepared) -> bool {
        let Ok(files) = prepared.files.try_clone() else { return false };
        let Ok(output) = logs::attach(&prepared.engine, &self.name).await else { return false };
        let _ =
            writeln!(prepared.files.stderr, "stint: the Docker daemon was away; output of that time is lost");
        prepared.pump = tokio::spawn(logs::pump(output, files));
        true
    }

    /// The container's first process is gone: collects how, and the rest of its output; removes it.
    async fn finish(&self, prepared: Prepared, process: Option<&OwnedFd>, was_away: bool) -> Verdict {
        let state = self.final_state(&prepared.engine).await;
        if self.slot.ended.load(SeqCst) == 0 {
            self.slot.ended.store(sys::boot_now().0, SeqCst);
        }
        let mut verdict = match state {
            Ok(state) => self.judge(&state, process, was_away),
            Err(fault) => {
                let message = format!("the Docker daemon stopped while it ran: {}", fault.words());
                verdict(EndKind::Lost, message)
            }
        };
        let drained = timeout(Duration::from_millis(limits::DOCKER_DRAIN_MS), prepared.pump).await;
        if let Ok(Ok(Some(e))) = drained {
            verdict.message = clip(format!(
                "{}{}some of its output could not be kept: {e}",
                verdict.message,
                gap(&verdict)
            ));
        }
        self.remove(&prepared.engine).await;
        verdict
    }

    /// What the daemon says of the ended container; an error when it does not answer.
    async fn final_state(&self, engine: &Docker) -> Result<ContainerState, Fault> {
        let until = Instant::now() + Duration::from_millis(limits::DOCKER_SETTLE_MS);
        let mut pause = Duration::from_millis(1);
        loop {
            let state = self.inspect(engine).await?.state.unwrap_or_default();
            if state.running != Some(true) {
                return Ok(state);
            }
            if Instant::now() > until {
                return Err(Fault::Unreachable(
                    "it says that the container runs, whose process is gone".into(),
                ));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn judge(&self, state: &ContainerState, process: Option<&OwnedFd>, was_away: bool) -> Verdict {
        let code = state.exit_code.unwrap_or(0) as i32;
        if state.oom_killed == Some(true) && code != 0 {
            let asked = self.order.memory_bytes;
            let message = format!(
                "the kernel killed it for memory at its limit of {asked} bytes: ask for more with memory_bytes"
            );
            return verdict(EndKind::OutOfMemory, message);
        }
        // Docker tells a signal as 128 + its number, which a program can say too; the kernel tells them apart where it is
        // new enough.
        let signal = match process.and_then(sys::pidfd_wait_status) {
            Some(status) if libc::WIFSIGNALED(status) => Some(libc::WTERMSIG(status)),
            Some(_) => None,
            None => (129..=192).contains(&code).then_some(code - 128),
        };
        match signal {
            Some(_) if was_away => {
                verdict(EndKind::Lost, "the Docker daemon stopped while it ran and killed it")
            }
            Some(signal) => verdict(EndKind::Signalled(signal), ""),
            None => verdict(EndKind::Exited(code), ""),
        }
    }

    /// Removes the container; what a daemon that is away keeps, the node's sweep removes later.
    async fn remove(&self, engine: &Docker) {
        let until = Instant::now() + Duration::from_millis(limits::DOCKER_REMOVE_MS);
        while let Err(fault) = engine::remove(engine, &self.name).await {
            if Instant::now() > until || *self.wish.borrow() == Wish::Kill && fault.is_unreachable() {
                return;
            }
            sleep(Duration::from_millis(limits::DOCKER_AGAIN_MS)).await;
        }
    }

    async fn make_sure_gone(&self) {
        make_sure_gone(self.layout, self.order.lease, &self.docker.socket).await;
    }
}

fn gap(verdict: &Verdict) -> &'static str {
    if verdict.message.is_empty() { "" } else { "; " }
}

/// Whether a process is in a container, as its cgroups say.
fn belongs(pid: i32, container: &str) -> bool {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    container.len() >= 12 && cgroups.contains(container)
}

/// Whether a registry says that there is no such image, or none for us.
fn is_missing(fault: &Fault) -> bool {
    let words = fault.words().to_lowercase();
    let told = [
        "manifest unknown",
        "manifest for",
        "repository does not exist",
        "pull access denied",
        "unauthorized",
    ];
    !fault.is_unreachable() && (fault.status() == 404 || told.iter().any(|part| words.contains(part)))
}

/// Why a created container did not start: the task's fault or the node's.
fn start_failure(command: &[String], fault: &Fault) -> Verdict {
    let words = fault.words();
    let name = command.first().map_or("the image's program", String::as_str);
    let told = [
        "executable file not found",
        "no such file or directory",
        "permission denied",
        "exec format error",
        "is a directory",
    ];
    let exec = words.contains("exec") && told.iter().any(|part| words.contains(part));
    if exec {
        let advice = "not found or not executable in the image: give its full path, or another image";
        return verdict(EndKind::NotRunnable, format!("{name:?}: {advice} ({})", short(words)));
    }
    verdict(EndKind::StartFailed, format!("starting its container: {words}"))
}

/// The last part of runc's chain of reasons.
fn short(words: &str) -> &str {
    words.rsplit_once(": exec: ").map_or(words, |(_, last)| last)
}

/// The bytes of all layers of a pull.
#[derive(Default)]
struct Progress {
    layers: std::collections::BTreeMap<String, (i64, i64)>,
    said_at: Option<Instant>,
}

impl Progress {
    /// Notes a step; words when it is time to say something again.
    fn note(&mut self, layer: Option<String>, current: Option<i64>, total: Option<i64>) -> Option<String> {
        let (current, total) = (current?, total?);
        if self.layers.len() < limits::PULL_LAYERS {
            self.layers.insert(layer?, (current, total));
        }
        let quiet = Duration::from_millis(limits::PULL_SAY_MS);
        if self.said_at.is_some_and(|at| at.elapsed() < quiet) {
            return None;
        }
        self.said_at = Some(Instant::now());
        let (current, total) =
            self.layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        let mib = |bytes: i64| bytes / (1 << 20);
        Some(format!("{} of {} MiB of the layers begun", mib(current), mib(total)))
    }
}

/// Sends what the watchdog's notice pipe carries.
pub fn tell_slot(notice: &impl AsRawFd, index: u32) {
    sys::write_notice(notice, index);
}
