//! What the node knows about its attempts, shared by the handles and the tasks of a client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId, QuarantinedGpu, Runtime, Tenant};
use tokio::sync::{Notify, mpsc};

use super::attempt::AttemptState;
use super::devices::Quarantine;
use super::disk_use;
use super::disk_watch::DiskWatch;
use super::turns::Turns;
use crate::gpu::GpuUsers;
use crate::host::{
    AttemptLabels, AttemptStage, AttemptStatus, Executing, HostEvent, Launch, Preparation, Publisher,
    StopReason,
};
use crate::refusal::Refusal;
use crate::runtimes::{self, HasAttempt, NodeRuntime, Runtimes};
use crate::settings::HostOptions;
use crate::shim_api::layout::Layout;
use crate::shim_api::wire::{Hello, ToShim};
use crate::stages::mask::Masks;
use crate::stages::secrets::Secrets;
use crate::store::Store;

/// Something that happened, with whose attempt it is about.
pub struct LabelledEvent {
    pub event: HostEvent,
    pub labels: Option<Arc<AttemptLabels>>,
}

/// The changing part.
#[derive(Default)]
pub struct State {
    pub running: BTreeMap<LeaseId, AttemptState>,
    pub ended: BTreeMap<LeaseId, AttemptEnd>,
    /// Those of `ended` that no watchdog ran, so that they wrote nothing.
    pub silent: BTreeSet<LeaseId>,
    pub outbox: Vec<ToShim>,
    pub hello: Option<Hello>,
    pub accounted: bool,
    /// Why there is no watchdog at the moment.
    pub link_problem: Option<String>,
    /// Acknowledged attempts whose folders are kept, oldest first.
    pub kept: VecDeque<(SystemTime, LeaseId)>,
    /// Those of them whose work folders have not been looked at since.
    pub to_clear: Vec<LeaseId>,
    pub quarantine: Quarantine,
    pub closing: bool,
    /// Messages were taken from the outbox and are not written yet.
    pub writing: bool,
    mock_marked: bool,
}

/// Everything the handles and tasks of one client share.
pub struct ClientState {
    pub settings: Arc<HostOptions>,
    pub layout: Layout,
    pub runtimes: Runtimes,
    pub gpu_users: GpuUsers,
    pub wake: Notify,
    pub secrets: Secrets,
    pub(super) disk: DiskWatch,
    /// Who starts now, of runtimes that start few at a time.
    pub(super) turns: Arc<Turns>,
    stop_asked: Notify,
    /// Ends of attempts after which something is left to do; as many as there are attempts.
    pub(super) finisher: mpsc::UnboundedSender<AttemptEnd>,
    masks: Mutex<BTreeMap<LeaseId, Masks>>,
    /// Images that the store keeps for attempts.
    images: Mutex<BTreeMap<LeaseId, (Tenant, String)>>,
    events: mpsc::Sender<HostEvent>,
    state: Mutex<State>,
}

impl ClientState {
    pub fn new(
        settings: HostOptions,
        layout: Layout,
        events: mpsc::Sender<HostEvent>,
        finisher: mpsc::UnboundedSender<AttemptEnd>,
    ) -> Self {
        let settings = Arc::new(settings);
        let runtimes = runtimes::open(&settings, &layout);
        let gpu_users = GpuUsers::for_source(&settings.gpus);
        let secrets = Secrets::for_layout(&layout);
        let few =
            |(kind, runtime): (&Runtime, &Arc<dyn NodeRuntime>)| Some((*kind, runtime.starts_at_once()?));
        let turns = Arc::new(Turns::new(runtimes.iter().filter_map(few)));
        Self {
            settings,
            layout,
            runtimes,
            gpu_users,
            wake: Notify::new(),
            secrets,
            disk: DiskWatch::default(),
            turns,
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
    pub fn begin(&self, launch: &Launch, stage: AttemptStage) -> bool {
        let (mut state, lease) = (self.lock(), launch.lease);
        if state.running.contains_key(&lease) || state.ended.contains_key(&lease) {
            return false;
        }
        let labels = Some(Arc::new(launch.labels()));
        state.running.insert(lease, AttemptState::new(launch.deadline, stage, labels));
        true
    }

    /// An attempt that is being prepared waits for something else now.
    pub fn prepares(&self, lease: LeaseId, what: Preparation) {
        if let Some(attempt) = self.lock().running.get_mut(&lease) {
            attempt.stage = AttemptStage::Preparing(what);
        }
    }

    /// Notes renewals and queues them; gives those of attempts that this process executes.
    pub fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) -> Vec<(LeaseId, BootMs)> {
        let (mut state, mut here) = (self.lock(), Vec::new());
        for (lease, deadline) in renewals {
            let Some(attempt) = state.running.get_mut(&lease) else { continue };
            attempt.deadline = attempt.deadline.max(deadline);
            match attempt.stage {
                // Whoever prepares it hands its deadline on.
                AttemptStage::Preparing(_) => {}
                AttemptStage::With(Executing::Node, _) => here.push((lease, deadline)),
                _ => state.outbox.push(ToShim::Renew(lease, deadline)),
            }
        }
        drop(state);
        self.wake.notify_one();
        here
    }

    /// Notes in which sandbox folder an attempt runs.
    pub fn set_sandbox_dir(&self, lease: LeaseId, sandbox_dir: Option<u32>) {
        if let Some(attempt) = self.lock().running.get_mut(&lease) {
            attempt.sandbox_dir = sandbox_dir;
        }
    }

    /// Where the output of an attempt is now, and whether it has ended.
    pub fn output_folder(&self, lease: LeaseId) -> (PathBuf, bool) {
        let state = self.lock();
        let attempt = state.running.get(&lease);
        let folder = match attempt.and_then(|attempt| attempt.sandbox_dir) {
            Some(sandbox_dir) => self.layout.sandbox_dir(sandbox_dir),
            None => self.layout.attempt(lease),
        };
        (folder, attempt.is_none())
    }

    /// Whether an attempt without a folder is known to have ended here: then it left nothing.
    pub fn left_nothing(&self, lease: LeaseId) -> bool {
        let state = self.lock();
        state.ended.contains_key(&lease) || state.kept.iter().any(|(_, kept)| *kept == lease)
    }

    /// Notes that an attempt is being stopped; says where it is.
    pub fn ask_to_stop(&self, lease: LeaseId, reason: StopReason) -> Option<AttemptStage> {
        let mut state = self.lock();
        let attempt = state.running.get_mut(&lease)?;
        attempt.ask_to_stop(reason);
        let stage = attempt.stage;
        drop(state);
        self.stop_asked.notify_waiters();
        Some(stage)
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
        self.lock().running.get(&lease)?.stop
    }

    /// An attempt is prepared and goes to the watchdog: its deadline by now. None: it is to stop.
    pub fn leave_preparation(&self, lease: LeaseId, finishes: bool) -> Option<BootMs> {
        let mut state = self.lock();
        let attempt = state.running.get_mut(&lease).filter(|attempt| !attempt.is_stopping())?;
        attempt.stage = AttemptStage::Outbox;
        attempt.finishes = finishes;
        Some(attempt.deadline)
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
        let running = self.images.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
        if let (Some((tenant, image)), Some(store)) = (running, &self.settings.store) {
            store.release(&tenant, &image);
        }
    }

    /// Everything was done after the end of an attempt.
    pub fn forget_staging(&self, lease: LeaseId) {
        self.forget_masks(lease);
        if let Some(attempt) = self.lock().running.get_mut(&lease) {
            attempt.finishes = false;
        }
    }

    /// Holds an end back until what is left to do after it is done.
    fn finish_here(&self, state: &mut State, event: &HostEvent) -> bool {
        let HostEvent::Ended(end) = event else { return false };
        let Some(attempt) = state.running.get_mut(&end.lease).filter(|attempt| attempt.finishes) else {
            return false;
        };
        if attempt.begin_finishing() {
            // Only a client that is closing has nobody who takes it; the next one goes on.
            let _ = self.finisher.send(end.clone());
        }
        true
    }

    /// The watchdog does not get an attempt after all.
    pub fn is_local(&self, lease: LeaseId) {
        if let Some(attempt) = self.lock().running.get_mut(&lease) {
            attempt.hand_to(Executing::Node);
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
                state.silent.remove(lease);
                state.outbox.push(ToShim::Acknowledge(*lease));
                state.kept.push_back((now, *lease));
                state.to_clear.push(*lease);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Notes what has happened and tells the node, waiting while it does not take more.
    pub async fn publish(&self, events: Vec<HostEvent>) {
        for event in &events {
            match event {
                HostEvent::Started { lease, .. } => self.turns.over(*lease),
                HostEvent::Ended(end) => {
                    self.turns.over(end.lease);
                    if end.kind == EndKind::DiskExceeded {
                        let folder = self.layout.attempt(end.lease);
                        let _ = tokio::task::spawn_blocking(move || disk_use::remove_files(&folder)).await;
                    }
                }
                HostEvent::DevicesChanged | HostEvent::RuntimesChanged => {}
            }
        }
        let news: Vec<LabelledEvent> = {
            let mut state = self.lock();
            let news =
                |event| (!self.finish_here(&mut state, &event)).then(|| state.take_note(event)).flatten();
            events.into_iter().filter_map(news).collect()
        };
        news.iter().for_each(|news| self.log_event(news));
        let failed = |end: &AttemptEnd| {
            matches!(end.kind, EndKind::StartFailed | EndKind::StartRefused | EndKind::Lost)
        };
        if news.iter().any(|news| matches!(&news.event, HostEvent::Ended(end) if failed(end))) {
            self.runtimes.values().for_each(|runtime| runtime.look_soon());
        }
        for LabelledEvent { event, .. } in news {
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
    pub fn holds(self: &Arc<Self>) -> HasAttempt {
        let shared = self.clone();
        Arc::new(move |lease| shared.lock().running.contains_key(&lease))
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

impl State {
    /// Updates what is known; none when the event is not news.
    fn take_note(&mut self, mut event: HostEvent) -> Option<LabelledEvent> {
        let labels = match &mut event {
            HostEvent::Started { lease, .. } => {
                let attempt = self.running.get_mut(lease)?;
                attempt.note_started().then(|| attempt.labels.clone())?
            }
            HostEvent::DevicesChanged | HostEvent::RuntimesChanged => None,
            HostEvent::Ended(end) => {
                let attempt = self.running.remove(&end.lease)?;
                // The watchdog knows no numbers.
                if let (EndKind::DiskExceeded, Some(why)) = (&end.kind, attempt.over_disk) {
                    end.message = why;
                }
                self.ended.insert(end.lease, end.clone());
                if attempt.stage.is_with(Executing::Node) {
                    self.silent.insert(end.lease);
                }
                attempt.labels
            }
        };
        Some(LabelledEvent { event, labels })
    }

    /// As `Host::attempts`.
    pub fn attempts(&self) -> Vec<AttemptStatus> {
        let running = self.running.iter().map(|(lease, attempt)| AttemptStatus {
            lease: *lease,
            stage: attempt.stage,
            stop: attempt.stop,
            deadline: Some(attempt.deadline),
            labels: attempt.labels.as_deref().cloned(),
        });
        let ended = self.ended.keys().map(|lease| AttemptStatus::ended(*lease));
        running.chain(ended).collect()
    }

    /// Takes what is to be sent, noting which attempts are on their way now.
    pub fn take_outbox(&mut self) -> Vec<ToShim> {
        // From here on nobody knows whether the watchdog has it: when the connection breaks, the next greeting
        // decides, and an attempt that it does not name never ran.
        for message in &self.outbox {
            if let ToShim::Start(request) = message
                && let Some(attempt) = self.running.get_mut(&request.lease)
            {
                attempt.hand_to(Executing::Watchdog);
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
