//! Brings an attempt to its start, and does what is left after its end.
//!
//! Before: image, files and secrets, then its devices; only then the watchdog gets it. After: its output is masked, its
//! outputs are kept, its secrets cleared away; only then the node hears that it ended. Meanwhile the attempt counts as
//! held, so its lease goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stint_protocol::{
    AttemptEnd, Blob, EndKind, KeptFile, LeaseId, NodeRules, Runtime, TaskFiles, TaskSpec, limits as message,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::HostClient;
use super::devices;
use super::keep_logs;
use super::keeping;
use super::lines::{self, trouble};
use super::state::ClientState;
use crate::host::{HostEvent, Launch, LocalUser, LogStream, Preparation, StopReason};
use crate::observer::Rule;
use crate::refusal::Refusal;
use crate::shim_api::request::ResolvedMount;
use crate::stages::inputs::{self, Inputs};
use crate::stages::mask::Masks;
use crate::stages::{self, Owner, StageRecord, Staged};
use crate::store::StoreError;
use crate::users;
use crate::{limits, progress};

/// How images are named that the cluster keeps.
const REGISTERED: &str = "stint://";

/// Whether folders of this host are to be mounted.
fn has_mounts(launch: &Launch) -> bool {
    launch.spec.limits.as_deref().is_some_and(|l| !l.mounts().is_empty())
}

/// Whether something is to be prepared before the watchdog gets it.
pub fn must_wait(launch: &Launch) -> bool {
    must_stage(launch) || has_mounts(launch) || launch.spec.run_as.is_some()
}

/// What it waits for first.
pub fn first(launch: &Launch) -> Preparation {
    match () {
        () if registered_image(launch).is_some() => Preparation::Image,
        () if must_stage(launch) => Preparation::Inputs,
        () if has_mounts(launch) => Preparation::Mounts,
        () => Preparation::Devices,
    }
}

/// Whether its files or a registered image are to be fetched.
fn must_stage(launch: &Launch) -> bool {
    launch.spec.files.is_some() || registered_image(launch).is_some()
}

fn registered_image(launch: &Launch) -> Option<&str> {
    launch.spec.image.as_deref().filter(|image| image.starts_with(REGISTERED))
}

/// Prepares an attempt and hands it to the watchdog; ends it when that cannot be done or it is stopped meanwhile.
pub async fn start(client: HostClient, mut launch: Launch) {
    let shared = client.shared.clone();
    let lease = launch.lease;
    let began = Instant::now();
    lines::preparing(&launch);
    let ready = tokio::select! {
        biased;
        reason = shared.until_stopped(lease) => Err(stopped(reason)),
        ready = prepare(&shared, &mut launch) => ready,
        problem = shared.disk.until_it_hangs() => {
            // Whoever writes its files cannot be stopped, and the watchdog never hears of it: what is there is cleared when the disk
            // lets go.
            client.refuse(lease, Refusal::start_failed(problem));
            shared.disk.until_it_answers().await;
            return undo(&shared, &launch).await;
        }
    };
    let refusal = match ready {
        Ok(staged) => match shared.leave_preparation(lease, staged.own_folder) {
            Some(deadline) => {
                lines::prepared(&launch, began.elapsed());
                return client.send_request(&Launch { deadline, ..launch }, &staged);
            }
            None => stopped(StopReason::LeaseOver),
        },
        Err(refusal) => refusal,
    };
    undo(&shared, &launch).await;
    client.refuse(lease, refusal);
}

fn stopped(reason: StopReason) -> Refusal {
    let kind = if reason == StopReason::Cancelled { EndKind::Cancelled } else { EndKind::Drained };
    Refusal::new(kind, "it was stopped before its program was started")
}

async fn prepare(shared: &Arc<ClientState>, launch: &mut Launch) -> Result<Staged, Refusal> {
    launch.run_as = find_user(shared, launch).await?;
    let launch = &*launch;
    let mut staged = if must_stage(launch) { stage(shared, launch).await? } else { Staged::default() };
    if has_mounts(launch) || launch.run_as.is_some() {
        shared.prepares(launch.lease, Preparation::Mounts);
        staged.mounts = find_mounts(shared, launch).await?;
    }
    shared.prepares(launch.lease, Preparation::Devices);
    devices::wait_until_free(shared, launch).await?;
    if shared.turns.are_of(launch.runtime) {
        shared.prepares(launch.lease, Preparation::Turn);
        shared.turns.wait(launch.runtime, launch.lease).await;
    }
    Ok(staged)
}

/// The user that its spec names, as this node knows that user now. A peer said the number: whether anything runs so here, this node
/// says.
async fn find_user(shared: &ClientState, launch: &Launch) -> Result<Option<LocalUser>, Refusal> {
    let Some(uid) = launch.spec.run_as else { return Ok(None) };
    let rules = NodeRules { run_as: shared.settings.rules().run_as, ..NodeRules::open() };
    let named = TaskSpec { run_as: Some(uid), ..TaskSpec::new(launch.spec.class, Vec::new()) };
    match rules.forbids(launch.runtime, &named).first() {
        Some(rule) => Err(Refusal::denied(format!("this node {rule}"))),
        None => users::look_up(uid).await.map(Some),
    }
}

/// Looks for what is to be mounted, apart from everything else: a file system of the network may not answer.
async fn find_mounts(shared: &Arc<ClientState>, launch: &Launch) -> Result<Vec<ResolvedMount>, Refusal> {
    let settings = &shared.settings;
    shared.enabled(launch.runtime)?.check(&launch.spec, shared.permits())?;
    let own =
        [Some(settings.data_dir.clone()), settings.secrets_dir.clone(), settings.docker.credentials.clone()];
    let closed: Vec<PathBuf> = own.into_iter().flatten().collect();
    let (opened, launch) = (settings.mounts.clone(), launch.clone());
    let may_show = launch.runtime == Runtime::Docker || shared.permits().jails;
    let look = tokio::task::spawn_blocking(move || {
        let user = launch.run_as.as_ref();
        users::check_image(&launch)?;
        let mut found = opened.find(&launch.spec, &closed, user)?;
        let home =
            user.filter(|_| may_show).and_then(|user| opened.find_home(user, &launch, &closed, &found));
        found.extend(home);
        Ok(found)
    });
    let found = match timeout(Duration::from_millis(limits::MOUNT_LOOK_MS), look).await {
        Ok(found) => found.unwrap_or_else(|e| Err(Refusal::start_failed(format!("looking for mounts: {e}")))),
        Err(_) => {
            let message = "a file system that it mounts, or one of [executor.mounts], does not answer";
            Err(Refusal::start_failed(message))
        }
    };
    if found.as_ref().is_err_and(Refusal::is_denied) {
        shared.observe(|observer| observer.denied(Rule::Mounts));
    }
    found
}

async fn stage(shared: &Arc<ClientState>, launch: &Launch) -> Result<Staged, Refusal> {
    let most = Duration::from_millis(limits::STAGE_MS);
    let staged = timeout(most, fetch_and_place(shared, launch)).await;
    staged.unwrap_or_else(|_| {
        Err(Refusal::start_failed(format!("its files were not there after {} s", most.as_secs())))
    })
}

async fn fetch_and_place(shared: &Arc<ClientState>, launch: &Launch) -> Result<Staged, Refusal> {
    let image = match registered_image(launch) {
        Some(name) => {
            shared.prepares(launch.lease, Preparation::Image);
            let files = fetched(shared.store()?.image(&launch.tenant, name).await, "image")?;
            shared.holds_image(launch.lease, launch.tenant.clone(), name.into());
            Some(files)
        }
        None => None,
    };
    let mut files = Vec::new();
    shared.prepares(launch.lease, Preparation::Inputs);
    for blob in launch.spec.files.iter().flat_map(|files| inputs::blobs(files)).collect::<Vec<Blob>>() {
        files.push(fetched(shared.store()?.fetch(&launch.tenant, blob).await, "input")?);
    }
    shared.prepares(launch.lease, Preparation::Files);
    let (task, placed) = (shared.clone(), launch.clone());
    let place = move || place(&task, &placed, &files);
    let crashed = |e| Err(Refusal::start_failed(format!("placing its files: {e}")));
    let mut staged = tokio::task::spawn_blocking(place).await.unwrap_or_else(crashed)?;
    staged.image = image;
    Ok(staged)
}

fn fetched<T>(result: Result<T, StoreError>, what: &str) -> Result<T, Refusal> {
    result.map_err(|e| match e {
        StoreError::Wrong(message) => Refusal::not_runnable(format!("{what}: {message}")),
        StoreError::Unavailable(message) => Refusal::start_failed(format!("{what}: {message}")),
    })
}

/// Everything that is done on the disk.
fn place(
    shared: &Arc<ClientState>,
    launch: &Launch,
    fetched: &[std::path::PathBuf],
) -> Result<Staged, Refusal> {
    let lease = launch.lease;
    let none = TaskFiles::default();
    let files = launch.spec.files.as_deref().unwrap_or(&none);
    let owner = shared.enabled(launch.runtime)?.owner(launch);
    let record = StageRecord {
        tenant: launch.tenant.clone(),
        outputs: files.outputs.clone(),
        secrets: !files.secrets.is_empty(),
        image: registered_image(launch).map(String::from),
        labels: Some(launch.labels()),
        keep: files.keep,
        timeout_ms: Some(launch.spec.timeout_ms),
        logs: files.logs,
        record: files.record,
    };
    let making = |e: std::io::Error| Refusal::start_failed(format!("making its work folder: {e}"));
    let work = shared.layout.attempt(lease).join("work");
    make_work(&work, owner).map_err(making)?;
    record.write(&shared.layout, lease).map_err(making)?;
    let is_stopped = || shared.stop_reason(lease).is_some();
    let roots = &shared.settings.artifact_roots;
    let user = launch.run_as.as_ref();
    let placed = Inputs { work: &work, owner, user, roots, fetched, is_stopped: &is_stopped }.place(files);
    shared.observe(|observer| match &placed {
        Ok(placed) => placed.iter().for_each(|(artifact, bytes)| observer.moved(*artifact, *bytes)),
        Err(refusal) if refusal.is_denied() => observer.denied(Rule::ArtifactRoots),
        Err(_) => {}
    });
    placed?;
    let mut staged = Staged { own_folder: true, ..Staged::default() };
    if record.secrets {
        let provider = shared.settings.secrets_dir.as_deref();
        let given = shared.secrets.give(provider, &launch.tenant, lease, &files.secrets, owner)?;
        shared.set_masks(lease, given.masks);
        staged.environment = given.environment;
        staged.secrets = Some(given.files);
    }
    Ok(staged)
}

fn make_work(work: &std::path::Path, owner: Owner) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(work)?;
    owner.map_or(Ok(()), |(user, group)| std::os::unix::fs::chown(work, Some(user), Some(group)))
}

/// Nothing of it ran: everything goes.
async fn undo(shared: &Arc<ClientState>, launch: &Launch) {
    if !must_stage(launch) {
        return;
    }
    shared.release_image(launch.lease);
    let (shared, lease) = (shared.clone(), launch.lease);
    let clear = move || {
        shared.secrets.clear(lease);
        shared.forget_masks(lease);
        let _ = std::fs::remove_dir_all(shared.layout.attempt(lease));
    };
    let _ = tokio::task::spawn_blocking(clear).await;
}

/// Holds the images of attempts that an earlier node started; until it can be asked, the store keeps what was used
/// lately.
pub async fn hold_images(shared: Arc<ClientState>) {
    let Some(store) = shared.settings.store.clone() else { return };
    let leases: Vec<LeaseId> = shared.lock().running.keys().copied().collect();
    for lease in leases {
        let Some(StageRecord { tenant, image: Some(image), .. }) = StageRecord::open(&shared.layout, lease)
        else {
            continue;
        };
        match store.image(&tenant, &image).await {
            Ok(_) if shared.lock().running.contains_key(&lease) => shared.holds_image(lease, tenant, image),
            Ok(_) => store.release(&tenant, &image),
            Err(error) => {
                trouble!(warn, shared, lease, image, %error, "the image of a running attempt cannot be held")
            }
        }
    }
}

/// Does what is left after the ends of attempts that were staged. Runs until the client goes.
pub async fn finish_all(shared: Arc<ClientState>, mut inbox: mpsc::UnboundedReceiver<AttemptEnd>) {
    let places = Arc::new(Semaphore::new(limits::KEEPING_AT_ONCE));
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(end) = inbox.recv().await {
        while tasks.try_join_next().is_some() {}
        let (shared, places) = (shared.clone(), places.clone());
        tasks.spawn(async move {
            let end = finish(&shared, &places, end).await;
            shared.forget_staging(end.lease);
            shared.publish(vec![HostEvent::Ended(end)]).await;
        });
    }
}

async fn finish(shared: &Arc<ClientState>, places: &Semaphore, mut end: AttemptEnd) -> AttemptEnd {
    let lease = end.lease;
    let Some(record) = StageRecord::open(&shared.layout, lease) else {
        return stages::finished(&shared.layout, lease).unwrap_or(end);
    };
    keeping::keep_outputs(shared, places, &record, &mut end).await;
    let masks = shared.masks(lease);
    if let Some(masks) = &masks {
        end.message = masks.hide(end.message);
    }
    end.message = message::clip(end.message);
    shared.release_image(lease);
    let (masked, mut is_hidden) = (shared.clone(), true);
    if record.secrets {
        let masks = masks.unwrap_or(Masks::Unknown);
        let kept = end.outputs.clone().unwrap_or_default();
        let hidden = move || hide(&masked, lease, &kept, &masks);
        is_hidden = tokio::task::spawn_blocking(hidden).await.is_ok();
    }
    if is_hidden {
        keep_logs::keep_logs(shared, &record, &mut end).await;
    }
    let (cleared, written) = (shared.clone(), end.clone());
    let clear = move || {
        // Not before: what is hidden is found again by them when this node is killed meanwhile.
        if record.secrets {
            cleared.secrets.clear(lease);
        }
        // When this fails and the node is killed at once, the outputs are kept a second time.
        if let Err(error) = stages::finish(&cleared.layout, &written) {
            trouble!(warn, cleared, lease, %error, "the end of an attempt could not be written down");
        }
    };
    let _ = tokio::task::spawn_blocking(clear).await;
    end
}

/// Hides the secrets of an attempt in what it wrote.
fn hide(shared: &ClientState, lease: LeaseId, kept: &[KeptFile], masks: &Masks) {
    let folder = shared.layout.attempt(lease);
    // Before the streams: what a program said there counts, too.
    if let Err(error) = progress::keep_last(&folder, masks) {
        trouble!(error, shared, lease, %error, "progress with secrets cannot be masked: it is removed");
        let _ = std::fs::remove_dir_all(folder.join("work"));
    }
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        if let Err(error) = masks.rewrite(&folder.join(stream.as_str()))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            trouble!(error, shared, lease, %error, "output with secrets cannot be masked: it is removed");
            let _ = std::fs::remove_file(folder.join(stream.as_str()));
        }
    }
    if let Err(error) = super::keep_said(shared, lease, kept, masks) {
        trouble!(warn, shared, lease, %error, "what a program with secrets said its result is could not be noted");
    }
}
