//! What the node knows about its attempts, shared by the handles and the tasks of a client.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId, QuarantinedGpu, Runtime};
use tokio::sync::{Notify, mpsc};

use super::devices::Quarantine;
use crate::gpu::GpuUsers;
use crate::host::{HostEvent, HostHealth, HostSettings, Sandbox, StopReason};
use crate::layout::Layout;
use crate::logs;
use crate::wire::{Hello, ToShim};

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Until nobody uses its devices.
    Waiting,
    /// On its way to the watchdog, not sent yet.
    Queued,
    /// Sent to the watchdog.
    Sent,
    /// In this process: mock, or refused.
    Here,
}

/// An attempt that has not ended.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub started: bool,
    pub stopping: bool,
    /// Why it was asked to stop while it waited.
    pub stop_reason: Option<StopReason>,
    pub deadline: BootMs,
    pub place: Where,
    /// The home it runs in, once the watchdog has said so.
    pub home: Option<u32>,
}

/// The changing part.
#[derive(Default)]
pub struct State {
    pub running: BTreeMap<LeaseId, Entry>,
    pub ended: BTreeMap<LeaseId, AttemptEnd>,
    pub outbox: Vec<ToShim>,
    pub hello: Option<Hello>,
    pub accounted: bool,
    /// Why there is no watchdog at the moment.
    pub link_problem: Option<String>,
    /// Acknowledged attempts whose folders are kept, oldest first.
    pub kept: VecDeque<(SystemTime, LeaseId)>,
    pub quarantine: Quarantine,
    /// Whether the Docker daemon answers, and what to do when not; none = not asked.
    pub docker: Option<Result<(), String>>,
    pub closing: bool,
    /// Messages were taken from the outbox and are not written yet.
    pub writing: bool,
    mock_marked: bool,
}

/// Everything the handles and tasks of one client share.
pub struct Shared {
    pub settings: HostSettings,
    pub layout: Layout,
    /// Absolute path of crun, when it is there.
    pub crun: Option<PathBuf>,
    pub gpu_users: GpuUsers,
    pub wake: Notify,
    /// Something could not be started: whether Docker's daemon is there is to be asked at once.
    pub look_at_docker: Notify,
    events: mpsc::Sender<HostEvent>,
    state: Mutex<State>,
}

impl Shared {
    pub fn new(settings: HostSettings, layout: Layout, events: mpsc::Sender<HostEvent>) -> Self {
        let crun = find_program(&settings.crun_path);
        let gpu_users = GpuUsers::of(&settings.gpus);
        Self {
            settings,
            layout,
            crun,
            gpu_users,
            wake: Notify::new(),
            look_at_docker: Notify::new(),
            events,
            state: Mutex::default(),
        }
    }

    /// The state. No code panics while it holds it, so a poisoned lock is as good as any.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message for the watchdog.
    pub fn send(&self, message: ToShim) {
        self.lock().outbox.push(message);
        self.wake.notify_one();
    }

    /// Notes an attempt; false when it is known already.
    pub fn begin(&self, lease: LeaseId, deadline: BootMs, place: Where) -> bool {
        let mut state = self.lock();
        if state.running.contains_key(&lease) || state.ended.contains_key(&lease) {
            return false;
        }
        let (started, stopping, stop_reason, home) = (false, false, None, None);
        state.running.insert(lease, Entry { started, stopping, stop_reason, deadline, place, home });
        true
    }

    /// Notes renewals and queues them; gives those of mock attempts.
    pub fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) -> Vec<(LeaseId, BootMs)> {
        let (mut state, mut here) = (self.lock(), Vec::new());
        for (lease, deadline) in renewals {
            let Some(entry) = state.running.get_mut(&lease) else { continue };
            entry.deadline = entry.deadline.max(deadline);
            match entry.place {
                Where::Waiting => {}
                Where::Here => here.push((lease, deadline)),
                Where::Queued | Where::Sent => state.outbox.push(ToShim::Renew(lease, deadline)),
            }
        }
        drop(state);
        self.wake.notify_one();
        here
    }

    /// Notes in which home an attempt runs.
    pub fn moved_in(&self, lease: LeaseId, home: Option<u32>) {
        if let Some(entry) = self.lock().running.get_mut(&lease) {
            entry.home = home;
        }
    }

    /// Where the output of an attempt is now, and whether it has ended.
    pub fn output_folder(&self, lease: LeaseId) -> (PathBuf, bool) {
        let state = self.lock();
        let entry = state.running.get(&lease);
        let folder = match entry.and_then(|e| e.home) {
            Some(home) => self.layout.home(home),
            None => self.layout.attempt(lease),
        };
        (folder, entry.is_none())
    }

    /// Whether an attempt without a folder is known to have ended here: then it left nothing.
    pub fn left_nothing(&self, lease: LeaseId) -> bool {
        let state = self.lock();
        state.ended.contains_key(&lease) || state.kept.iter().any(|(_, kept)| *kept == lease)
    }

    /// Notes that an attempt is being stopped; says where it is.
    pub fn stopping(&self, lease: LeaseId, reason: StopReason) -> Option<Where> {
        let mut state = self.lock();
        let entry = state.running.get_mut(&lease)?;
        entry.stopping = true;
        entry.stop_reason.get_or_insert(reason);
        Some(entry.place)
    }

    /// Why an attempt was asked to stop.
    pub fn stop_reason(&self, lease: LeaseId) -> Option<StopReason> {
        self.lock().running.get(&lease)?.stop_reason
    }

    /// An attempt has waited for its devices and goes to the watchdog: its deadline by now. None: it is to stop.
    pub fn leave_wait(&self, lease: LeaseId) -> Option<BootMs> {
        let mut state = self.lock();
        let entry = state.running.get_mut(&lease).filter(|entry| !entry.stopping)?;
        entry.place = Where::Queued;
        Some(entry.deadline)
    }

    /// The watchdog does not get an attempt after all.
    pub fn stays_here(&self, lease: LeaseId) {
        if let Some(entry) = self.lock().running.get_mut(&lease) {
            entry.place = Where::Here;
        }
    }

    /// Notes devices that stay in use, and tells the node.
    pub async fn quarantine(&self, used: Vec<QuarantinedGpu>) {
        for gpu in used {
            tracing::warn!(gpu = %gpu.info.id, used_by = %gpu.used_by, "a GPU stays in use: quarantined until it is free");
            self.lock().quarantine.insert(gpu.info.id.clone(), gpu);
        }
        self.publish(vec![HostEvent::DevicesChanged]).await;
    }

    /// Forgets ends that the cluster has recorded.
    pub fn acknowledge(&self, leases: &[LeaseId]) {
        let (mut state, now) = (self.lock(), SystemTime::now());
        for lease in leases {
            if state.ended.remove(lease).is_some() {
                state.outbox.push(ToShim::Acknowledge(*lease));
                state.kept.push_back((now, *lease));
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Takes over what the watchdog of an earlier node holds. No events: the node asks.
    pub fn adopt(&self, hello: &Hello, accounted: bool) {
        let folders = logs::ended_folders(&self.layout);
        let mut state = self.lock();
        state.accounted = accounted;
        for (held, home) in &hello.held {
            let (place, home) = (Where::Sent, *home);
            let entry = Entry {
                started: held.started,
                stopping: held.stopping,
                stop_reason: None,
                deadline: held.deadline,
                place,
                home,
            };
            state.running.insert(held.lease, entry);
        }
        state.ended = hello.ended.iter().map(|end| (end.lease, end.clone())).collect();
        let kept = folders
            .into_iter()
            .filter(|(_, l)| !state.running.contains_key(l) && !state.ended.contains_key(l))
            .collect();
        state.kept = kept;
        state.hello = Some(hello.clone());
    }

    /// Compares what is known with what a newly connected watchdog says; gives what has happened meanwhile.
    pub fn reconcile(&self, hello: &Hello) -> Vec<HostEvent> {
        let (mut state, mut events) = (self.lock(), Vec::new());
        for (held, home) in &hello.held {
            if let Some(entry) = state.running.get_mut(&held.lease) {
                entry.home = *home;
                entry.stopping |= held.stopping;
                if held.started && !entry.started && !held.stopping {
                    events.push(HostEvent::Started { lease: held.lease, at: crate::boot_now() });
                }
            }
        }
        for end in &hello.ended {
            if state.running.contains_key(&end.lease) {
                events.push(HostEvent::Ended(end.clone()));
            } else if !state.ended.contains_key(&end.lease) {
                // Acknowledged before, but the watchdog did not hear it.
                state.outbox.push(ToShim::Acknowledge(end.lease));
            }
        }
        let known = |lease: &LeaseId| {
            hello.held.iter().any(|(h, _)| h.lease == *lease) || hello.ended.iter().any(|e| e.lease == *lease)
        };
        for (lease, _) in state.running.iter().filter(|(l, e)| e.place == Where::Sent && !known(l)) {
            // The watchdog writes its journal before it clones, so an attempt it does not know never ran.
            let message = "the watchdog ended before it could start it".to_owned();
            events.push(HostEvent::Ended(AttemptEnd {
                lease: *lease,
                kind: EndKind::Lost,
                message,
                run_ms: 0,
            }));
        }
        state.hello = Some(hello.clone());
        state.link_problem = None;
        events
    }

    /// Notes what has happened and tells the node, waiting while it does not take more.
    pub async fn publish(&self, mut events: Vec<HostEvent>) {
        {
            let mut state = self.lock();
            events.retain(|event| state.take_note(event));
        }
        let failed = |end: &AttemptEnd| matches!(end.kind, EndKind::StartFailed | EndKind::Lost);
        if events.iter().any(|event| matches!(event, HostEvent::Ended(end) if failed(end))) {
            self.look_at_docker.notify_one();
        }
        for event in events {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// Leaves a mark, since a restart cannot know which mock attempts this process ran.
    pub fn mark_mock(&self) -> std::io::Result<()> {
        let mut state = self.lock();
        if !state.mock_marked {
            std::fs::write(self.layout.mock_mark(), "mock attempts end with their node\n")?;
            state.mock_marked = true;
        }
        Ok(())
    }

    /// Why a runtime cannot be used here, and what to do.
    pub fn runtime_problem(&self, runtime: Runtime) -> Option<String> {
        if !self.settings.runtimes.contains(&runtime) {
            return Some(format!("the runtime {runtime} is not enabled on this node: add it to runtimes"));
        }
        let pid_namespaces =
            self.lock().hello.as_ref().is_some_and(|h| h.sandbox == Sandbox::PidNamespace && h.own_proc);
        match runtime {
            Runtime::Mock | Runtime::Process => None,
            Runtime::Crun if self.crun.is_none() => Some(format!(
                "crun was not found as {}: install it (Debian: apt install crun) or set crun_path",
                self.settings.crun_path.display()
            )),
            Runtime::Crun if crate::sys::effective_ids().0 != 0 => {
                Some("crun runs as root only for now: start the node as root or use another runtime".into())
            }
            Runtime::Crun if !pid_namespaces => Some(
                "crun needs pid namespaces and a mountable /proc, which this host does not permit".into(),
            ),
            Runtime::Crun => None,
            Runtime::Docker if crate::sys::effective_ids().0 != 0 => {
                Some("docker runs as root only: containers must be killed without the daemon's help".into())
            }
            Runtime::Docker if self.lock().hello.as_ref().is_some_and(|hello| !hello.docker) => Some(
                "the watchdog of an earlier version still runs: docker is there once its attempts have ended and \
                 the node was started again"
                    .into(),
            ),
            Runtime::Docker => match &self.lock().docker {
                Some(Ok(())) => None,
                Some(Err(why)) => Some(why.clone()),
                None => Some("the Docker daemon was not asked yet".into()),
            },
            Runtime::Slurm => Some(format!("the runtime {runtime} is not built into this executor yet")),
        }
    }

    /// Whether the watchdog knows of confinement. One of an earlier version lives on over an upgrade of the node.
    pub fn confines(&self) -> bool {
        self.lock().hello.as_ref().is_some_and(|hello| hello.confines)
    }

    pub fn health(&self) -> HostHealth {
        let runtimes =
            self.settings.runtimes.iter().map(|r| (*r, self.runtime_problem(*r).map_or(Ok(()), Err)));
        let runtimes = runtimes.collect();
        let state = self.lock();
        let hello = state.hello.as_ref();
        let mut problems: Vec<String> = hello.map(|h| h.problems.clone()).unwrap_or_default();
        let sandbox = if self.settings.sandbox {
            hello.map_or(Sandbox::None, |h| h.sandbox)
        } else {
            problems.push(
                "the sandbox is off: programs of the process runtime have no memory limit, see the host's processes, \
                 and out-of-memory is not told apart"
                    .into(),
            );
            Sandbox::None
        };
        if hello.is_some_and(|hello| !hello.confines) {
            problems.push(
                "the watchdog of an earlier version still runs and confines programs as that version did: let this \
                 node's attempts end, and start it again"
                    .into(),
            );
        }
        problems.extend(state.link_problem.clone());
        HostHealth { sandbox, runtimes, accounted: state.accounted, problems }
    }
}

impl State {
    /// Updates what is known; false when the event is not news.
    fn take_note(&mut self, event: &HostEvent) -> bool {
        match event {
            HostEvent::Started { lease, .. } => match self.running.get_mut(lease) {
                Some(entry) => !std::mem::replace(&mut entry.started, true),
                None => false,
            },
            HostEvent::DevicesChanged | HostEvent::RuntimesChanged => true,
            HostEvent::Ended(end) => {
                let news = self.running.remove(&end.lease).is_some();
                if news {
                    self.ended.insert(end.lease, end.clone());
                }
                news
            }
        }
    }

    /// Takes what is to be sent, noting which attempts are on their way now.
    pub fn take_outbox(&mut self) -> Vec<ToShim> {
        for message in &self.outbox {
            if let ToShim::Start(order) = message
                && let Some(entry) = self.running.get_mut(&order.lease)
            {
                entry.place = Where::Sent;
            }
        }
        self.writing = !self.outbox.is_empty();
        std::mem::take(&mut self.outbox)
    }

    /// Whether the watchdog has got everything, or there is none to get it.
    pub fn is_flushed(&self) -> bool {
        (self.outbox.is_empty() && !self.writing) || self.link_problem.is_some()
    }
}

/// A program's absolute path, searched in PATH when it has no `/`.
fn find_program(name: &std::path::Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|p| p.is_file())
}
