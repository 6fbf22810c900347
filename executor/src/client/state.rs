//! What the node knows about its attempts, shared by the handles and the tasks of a client.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId, QuarantinedGpu, Tenant};
use tokio::sync::{Notify, mpsc};

use super::devices::Quarantine;
use crate::clock::boot_now;
use crate::docker::watch::DaemonWatch;
use crate::gpu::GpuUsers;
use crate::host::{HostEvent, Publisher, StopReason};
use crate::logs;
use crate::refusal::Refusal;
use crate::settings::HostSettings;
use crate::shim_api::layout::Layout;
use crate::shim_api::wire::{Hello, ToShim};
use crate::stages::mask::Masks;
use crate::stages::secrets::Secrets;
use crate::stages::{self, Record};
use crate::store::Store;

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Being prepared: its image, files, secrets and mounts, and until nobody uses its devices.
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
    /// Its end is held back until its outputs are stored and its secrets are gone.
    pub staged: bool,
    /// Its program has ended; its outputs are being stored.
    pub finishing: bool,
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
    /// What is known of Docker's daemon; none: its runtime is not enabled.
    pub docker: Option<Arc<DaemonWatch>>,
    pub secrets: Secrets,
    stop_asked: Notify,
    /// Ends of attempts after which something is left to do; as many as there are attempts.
    finisher: mpsc::UnboundedSender<AttemptEnd>,
    masks: Mutex<BTreeMap<LeaseId, Masks>>,
    /// Images that the store keeps for attempts.
    images: Mutex<BTreeMap<LeaseId, (Tenant, String)>>,
    events: mpsc::Sender<HostEvent>,
    state: Mutex<State>,
}

impl Shared {
    pub fn new(
        settings: HostSettings,
        layout: Layout,
        events: mpsc::Sender<HostEvent>,
        finisher: mpsc::UnboundedSender<AttemptEnd>,
    ) -> Self {
        let crun = find_program(&settings.crun_path);
        let gpu_users = GpuUsers::of(&settings.gpus);
        let secrets = Secrets::of(&layout);
        let docker = DaemonWatch::new(&settings, &layout).map(Arc::new);
        Self {
            settings,
            layout,
            crun,
            gpu_users,
            wake: Notify::new(),
            docker,
            secrets,
            stop_asked: Notify::new(),
            finisher,
            masks: Mutex::default(),
            images: Mutex::default(),
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
        state.running.insert(lease, Entry::new(deadline, place));
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
        let place = entry.place;
        drop(state);
        self.stop_asked.notify_waiters();
        Some(place)
    }

    /// Returns when an attempt was asked to stop.
    pub async fn until_stopped(&self, lease: LeaseId) -> StopReason {
        loop {
            let asked = self.stop_asked.notified();
            tokio::pin!(asked);
            asked.as_mut().enable();
            if let Some(reason) = self.stop_reason(lease) {
                return reason;
            }
            asked.await;
        }
    }

    /// Why an attempt was asked to stop.
    pub fn stop_reason(&self, lease: LeaseId) -> Option<StopReason> {
        self.lock().running.get(&lease)?.stop_reason
    }

    /// An attempt is prepared and goes to the watchdog: its deadline by now. None: it is to stop.
    pub fn leave_wait(&self, lease: LeaseId, staged: bool) -> Option<BootMs> {
        let mut state = self.lock();
        let entry = state.running.get_mut(&lease).filter(|entry| !entry.stopping)?;
        entry.place = Where::Queued;
        entry.staged = staged;
        Some(entry.deadline)
    }

    /// What keeps the bytes of the cluster.
    pub fn store(&self) -> Result<&Arc<dyn Store>, Refusal> {
        let none = || Refusal::start_failed("this node keeps no images and blobs");
        self.settings.store.as_ref().ok_or_else(none)
    }

    /// What is hidden in the output of an attempt.
    pub fn masks(&self, lease: LeaseId) -> Option<Masks> {
        self.masks.lock().unwrap_or_else(PoisonError::into_inner).get(&lease).cloned()
    }

    pub fn set_masks(&self, lease: LeaseId, masks: Masks) {
        self.masks.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, masks);
    }

    pub fn forget_masks(&self, lease: LeaseId) {
        self.masks.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
    }

    /// The store keeps an image for an attempt.
    pub fn holds_image(&self, lease: LeaseId, tenant: Tenant, image: String) {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, (tenant, image));
    }

    /// The attempt needs its image no more.
    pub fn release_image(&self, lease: LeaseId) {
        let held = self.images.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
        if let (Some((tenant, image)), Some(store)) = (held, &self.settings.store) {
            store.release(&tenant, &image);
        }
    }

    /// Everything was done after the end of an attempt.
    pub fn done(&self, lease: LeaseId) {
        self.forget_masks(lease);
        if let Some(entry) = self.lock().running.get_mut(&lease) {
            entry.staged = false;
        }
    }

    /// Something is left to do after this end: the node hears of it then.
    fn divert(&self, state: &mut State, event: &HostEvent) -> bool {
        let HostEvent::Ended(end) = event else { return false };
        let Some(entry) = state.running.get_mut(&end.lease).filter(|entry| entry.staged) else {
            return false;
        };
        if !std::mem::replace(&mut entry.finishing, true) {
            // Only a client that is closing has nobody who takes it; the next one goes on.
            let _ = self.finisher.send(end.clone());
        }
        true
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
            let staged = self.has_more_to_do(held.lease);
            let entry = Entry {
                started: held.started,
                stopping: held.stopping,
                home,
                staged,
                ..Entry::new(held.deadline, place)
            };
            state.running.insert(held.lease, entry);
        }
        for end in &hello.ended {
            if self.has_more_to_do(end.lease) {
                let entry = Entry {
                    started: true,
                    stopping: true,
                    staged: true,
                    finishing: true,
                    ..Entry::new(BootMs::default(), Where::Sent)
                };
                state.running.insert(end.lease, entry);
                let _ = self.finisher.send(end.clone());
            } else {
                let written = stages::finished(&self.layout, end.lease);
                state.ended.insert(end.lease, written.unwrap_or_else(|| end.clone()));
            }
        }
        self.secrets.sweep(|lease| state.running.contains_key(&lease));
        let kept = folders
            .into_iter()
            .filter(|(_, l)| !state.running.contains_key(l) && !state.ended.contains_key(l))
            .collect();
        state.kept = kept;
        state.hello = Some(hello.clone());
    }

    /// Whether something is left to do after the end of an attempt of an earlier node; what its output is masked with
    /// is found again.
    fn has_more_to_do(&self, lease: LeaseId) -> bool {
        let record = Record::open(&self.layout, lease);
        if record.as_ref().is_some_and(|record| record.secrets) {
            self.set_masks(lease, self.secrets.masks(lease));
        }
        record.is_some()
    }

    /// Compares what is known with what a newly connected watchdog says; gives what has happened meanwhile.
    pub fn reconcile(&self, hello: &Hello) -> Vec<HostEvent> {
        let (mut state, mut events) = (self.lock(), Vec::new());
        for (held, home) in &hello.held {
            if let Some(entry) = state.running.get_mut(&held.lease) {
                entry.home = *home;
                entry.stopping |= held.stopping;
                if held.started && !entry.started && !held.stopping {
                    events.push(HostEvent::Started { lease: held.lease, at: boot_now() });
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
            events.push(HostEvent::Ended(AttemptEnd::new(*lease, EndKind::Lost, message, 0)));
        }
        state.hello = Some(hello.clone());
        state.link_problem = None;
        events
    }

    /// Notes what has happened and tells the node, waiting while it does not take more.
    pub async fn publish(&self, mut events: Vec<HostEvent>) {
        {
            let mut state = self.lock();
            events.retain(|event| !self.divert(&mut state, event) && state.take_note(event));
        }
        events.iter().for_each(|event| self.tell(event));
        let failed = |end: &AttemptEnd| matches!(end.kind, EndKind::StartFailed | EndKind::Lost);
        if events.iter().any(|event| matches!(event, HostEvent::Ended(end) if failed(end))) {
            self.docker.iter().for_each(|daemon| daemon.look_soon());
        }
        for event in events {
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// Publishes for those who know nothing of attempts.
    pub fn publisher(self: &Arc<Self>) -> Publisher {
        let shared = self.clone();
        Arc::new(move |events| {
            let shared = shared.clone();
            Box::pin(async move { shared.publish(events).await })
        })
    }

    /// Says whether an attempt has not ended.
    pub fn holds(self: &Arc<Self>) -> impl Fn(LeaseId) -> bool + Send + Sync + 'static {
        let shared = self.clone();
        move |lease| shared.lock().running.contains_key(&lease)
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
}

impl Entry {
    fn new(deadline: BootMs, place: Where) -> Self {
        Self {
            started: false,
            stopping: false,
            stop_reason: None,
            deadline,
            place,
            home: None,
            staged: false,
            finishing: false,
        }
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
