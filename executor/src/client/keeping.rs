//! Keeps what an attempt left as outputs, whatever its end, until that takes too long or somebody stops it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stint_protocol::{AttemptEnd, BootMs, EndKind, KeepOutputs, KeptFile, LeaseId};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::state::ClientState;
use crate::clock::boot_now;
use crate::host::StopReason;
use crate::limits;
use crate::observer::Artifact;
use crate::stages::outputs::{Found, Refused, Search};
use crate::stages::{self, StageRecord, archive};
use crate::store::StoreError;

/// Why keeping outputs was ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Cancelled,
    Stopped(StopReason),
    TookTooLong,
    LeaseOver,
}

impl Cut {
    /// How the attempt of a program ends that had succeeded: its outputs are a part of what it was to do.
    fn kind(self) -> EndKind {
        match self {
            Cut::Cancelled | Cut::Stopped(StopReason::Cancelled) => EndKind::Cancelled,
            Cut::Stopped(StopReason::Drained) => EndKind::Drained,
            Cut::Stopped(StopReason::DiskExceeded) => EndKind::DiskExceeded,
            Cut::Stopped(StopReason::LeaseOver) | Cut::LeaseOver => EndKind::Lost,
            Cut::TookTooLong => EndKind::TimedOut,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Cut::Cancelled => "it was cancelled while its outputs were kept",
            Cut::Stopped(_) => "keeping its outputs took too long after it was stopped",
            Cut::TookTooLong => "keeping its outputs took too long",
            Cut::LeaseOver => "its lease ended while its outputs were kept",
        }
    }
}

/// Whether such an end is one of a program that may have left something.
fn may_leave_outputs(kind: &EndKind) -> bool {
    match kind {
        EndKind::Exited(_)
        | EndKind::Signalled(_)
        | EndKind::TimedOut
        | EndKind::OutOfMemory
        | EndKind::Cancelled
        | EndKind::Drained
        | EndKind::Cut
        | EndKind::Lost => true,
        EndKind::StartFailed
        | EndKind::NotRunnable
        | EndKind::Denied
        | EndKind::OutputMissing
        | EndKind::OutputLost
        | EndKind::FilesMissing
        | EndKind::StartRefused
        // There is no room to keep them.
        | EndKind::DiskExceeded => false,
    }
}

/// Keeps the outputs of an attempt that has ended, and says in its end what was kept and what not.
pub async fn keep_outputs(
    shared: &Arc<ClientState>,
    places: &Semaphore,
    record: &StageRecord,
    end: &mut AttemptEnd,
) {
    let is_success = end.kind == EndKind::Exited(0);
    let wanted = record.keep.unwrap_or_default() == KeepOutputs::Always || is_success;
    if record.outputs.is_empty() || !wanted || !may_leave_outputs(&end.kind) {
        return;
    }
    let mut keeping = Keeping::new(shared, record, end);
    let cut = tokio::select! {
        biased;
        () = keeping.all(places) => None,
        cut = until_cut(shared, record, end) => Some(cut),
    };
    keeping.stopped.store(true, Ordering::Relaxed);
    keeping.tell(cut, record, end);
}

/// Returns when no more of the outputs is to be kept.
async fn until_cut(shared: &ClientState, record: &StageRecord, end: &AttemptEnd) -> Cut {
    let lease = end.lease;
    let before = shared.stop_reason(lease);
    let stopped = async {
        let reason = match before {
            Some(reason) => reason,
            None => shared.until_stopped(lease).await,
        };
        if before.is_none() && reason == StopReason::Cancelled {
            return Cut::Cancelled;
        }
        sleep(Duration::from_millis(limits::KEEP_AFTER_STOP_MS)).await;
        Cut::Stopped(reason)
    };
    let most = record.timeout_ms.unwrap_or_default().max(shared.settings.outputs.keep_ms);
    let lost = end.kind == EndKind::Lost;
    let most = if lost { limits::KEEP_AFTER_STOP_MS } else { most };
    tokio::select! {
        cut = stopped => cut,
        () = sleep(Duration::from_millis(most)) => Cut::TookTooLong,
        () = until_lease_over(shared, lease), if !lost => Cut::LeaseOver,
    }
}

/// Returns when the cluster may give the task to another node.
pub async fn until_lease_over(shared: &ClientState, lease: LeaseId) {
    loop {
        let deadline = shared.lock().running.get(&lease).map(|attempt| attempt.deadline);
        // A node that came back knows the deadline once it is renewed.
        if deadline.is_some_and(|deadline| deadline != BootMs::default() && deadline <= boot_now()) {
            return;
        }
        sleep(Duration::from_millis(limits::KEEP_LEASE_LOOK_MS)).await;
    }
}

/// How far it is with the outputs of one attempt.
struct Keeping<'a> {
    shared: &'a Arc<ClientState>,
    record: &'a StageRecord,
    lease: LeaseId,
    /// The cluster takes them: it does not know of an attempt whose lease is over.
    to_cluster: bool,
    /// A file that the cluster does not take is left on this node: nothing runs again because of it.
    else_here: bool,
    /// Whoever reads files is to end.
    stopped: Arc<AtomicBool>,
    has_looked: bool,
    left: VecDeque<Found>,
    kept: Vec<KeptFile>,
    refused: Refused,
    is_incomplete: bool,
    /// What the store said that did not take a file.
    lost: Option<String>,
}

/// Why one file was not kept.
enum Failure {
    /// It lies with the file.
    Refused(String),
    /// It lies with the cluster.
    Lost(String),
}

impl<'a> Keeping<'a> {
    fn new(shared: &'a Arc<ClientState>, record: &'a StageRecord, end: &AttemptEnd) -> Self {
        Self {
            shared,
            record,
            lease: end.lease,
            to_cluster: shared.settings.store.is_some() && end.kind != EndKind::Lost,
            else_here: end.kind != EndKind::Exited(0),
            stopped: Arc::default(),
            has_looked: false,
            left: VecDeque::new(),
            kept: Vec::new(),
            refused: Refused::default(),
            is_incomplete: false,
            lost: None,
        }
    }

    fn work(&self) -> PathBuf {
        self.shared.layout.attempt(self.lease).join("work")
    }

    fn packed(&self) -> PathBuf {
        self.shared.layout.attempt(self.lease).join(stages::PACKED)
    }

    /// Keeps all of them, one after another. Dropped, it is told what is left.
    async fn all(&mut self, places: &Semaphore) {
        let _place = places.acquire().await;
        let (work, outputs, limits) =
            (self.work(), self.record.outputs.clone(), self.shared.settings.outputs);
        let stopped = self.stopped.clone();
        let find = move || {
            let is_stopped = || stopped.load(Ordering::Relaxed);
            Search { work: &work, outputs: &outputs, limits, is_stopped: &is_stopped }.find()
        };
        match tokio::task::spawn_blocking(find).await {
            Ok(findings) => {
                (self.refused, self.is_incomplete) = (findings.refused, findings.is_incomplete);
                self.left = findings.found.into();
            }
            Err(error) => self.lost = Some(format!("looking for them: {error}")),
        }
        self.has_looked = true;
        while let Some(next) = self.left.front().cloned() {
            let kept = self.keep(&next).await;
            self.left.pop_front();
            match kept {
                Ok(kept) => self.kept.push(kept),
                Err(Failure::Refused(reason)) => {
                    let mut outputs = self.record.outputs.iter();
                    self.is_incomplete |=
                        outputs.any(|output| output.path == next.path() && !output.optional);
                    self.refused.add(next.path(), reason);
                }
                Err(Failure::Lost(reason)) => {
                    self.refused.add(next.path(), format!("could not be kept: {reason}"));
                    self.lost = Some(reason);
                }
            }
        }
        if self.kept.iter().all(|kept| kept.stored) {
            let _ = tokio::fs::remove_dir_all(self.packed()).await;
        }
    }

    async fn keep(&mut self, found: &Found) -> Result<KeptFile, Failure> {
        let path = found.path().to_owned();
        let (file, executable) = match found {
            Found::File(file) => (file.file.clone(), file.executable),
            Found::Packed { path, files } => (self.pack(path, files.clone()).await?, false),
        };
        let executable = executable.then_some(true);
        if self.to_cluster {
            match self.store(&file).await {
                Ok(blob) => return Ok(KeptFile { path, blob, stored: true, executable, pinned: None }),
                Err(Failure::Lost(_)) if self.else_here => {}
                Err(failure) => return Err(failure),
            }
        }
        let stopped = self.stopped.clone();
        let hash = move || stages::blob_of(&file, &|| stopped.load(Ordering::Relaxed));
        let hashed = tokio::task::spawn_blocking(hash).await.map_err(|e| Failure::Lost(e.to_string()))?;
        let blob = hashed.map_err(|e| Failure::Refused(format!("cannot be read: {e}")))?;
        Ok(KeptFile { path, blob, stored: false, executable, pinned: None })
    }

    /// Gives a file to the cluster, again while no peer answers.
    async fn store(&mut self, file: &std::path::Path) -> Result<stint_protocol::Blob, Failure> {
        let Some(store) = self.shared.settings.store.clone() else {
            return Err(Failure::Lost("this node keeps no blobs".into()));
        };
        // What was tried for long once is not tried for long again.
        let pauses: &[u64] = if self.lost.is_some() { &[] } else { &limits::KEEP_PAUSES_MS };
        let mut pauses = pauses.iter();
        loop {
            match (store.keep(&self.record.tenant, file.to_owned()).await, pauses.next()) {
                (Ok(blob), _) => {
                    self.shared.observe(|observer| observer.moved(Artifact::Output, blob.size));
                    return Ok(blob);
                }
                (Err(StoreError::Unavailable(_)), Some(pause)) => sleep(Duration::from_millis(*pause)).await,
                (Err(StoreError::Unavailable(reason)), None) => {
                    self.lost = Some(reason.clone());
                    return Err(Failure::Lost(reason));
                }
                (Err(StoreError::Wrong(reason)), _) => return Err(Failure::Refused(reason)),
            }
        }
    }

    async fn pack(
        &self,
        path: &str,
        files: Vec<crate::stages::outputs::PlainFile>,
    ) -> Result<PathBuf, Failure> {
        let (archive, stopped) = (self.packed().join(path), self.stopped.clone());
        let target = archive.clone();
        let write = move || archive::write(&target, &files, &|| stopped.load(Ordering::Relaxed));
        let written =
            tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        written.map(|()| archive).map_err(|e| Failure::Lost(format!("writing its archive: {e}")))
    }

    /// Says in the end of the attempt what was kept, and what not.
    fn tell(mut self, cut: Option<Cut>, record: &StageRecord, end: &mut AttemptEnd) {
        if let Some(cut) = cut {
            for left in &self.left {
                self.refused.add(left.path(), cut.reason());
            }
            if !self.has_looked {
                record.outputs.iter().for_each(|output| self.refused.add(&output.path, cut.reason()));
            }
        }
        // Of a program that was stopped before it began nothing is missing.
        let began =
            end.run_ms > 0 || !matches!(end.kind, EndKind::Cancelled | EndKind::Drained | EndKind::Lost);
        if !began && self.kept.is_empty() {
            return;
        }
        if end.kind == EndKind::Exited(0) {
            match cut {
                Some(cut) => end.kind = cut.kind(),
                None if self.lost.is_some() => end.kind = EndKind::OutputLost,
                None if self.is_incomplete => end.kind = EndKind::OutputMissing,
                None => {}
            }
        }
        let mut notes: Vec<String> = Vec::new();
        notes.extend(cut.map(|cut| format!("{}: {} kept", cut.reason(), self.kept.len())));
        let named =
            self.refused.named.iter().filter(|file| cut.is_none_or(|cut| cut.reason() != file.reason));
        notes.extend(named.map(|file| format!("output {:?} {}", file.path, file.reason)));
        if self.refused.more > 0 {
            notes.push(format!("and {} more were not kept", self.refused.more));
        }
        if !notes.is_empty() {
            let own = if end.message.is_empty() {
                end.kind.default_message()
            } else {
                std::mem::take(&mut end.message)
            };
            let own = Some(own).filter(|own| !own.is_empty());
            end.message = own.into_iter().chain(notes).collect::<Vec<_>>().join("; ");
        }
        end.outputs = Some(self.kept.into());
        end.not_kept = Some(self.refused.named).filter(|named| !named.is_empty()).map(Into::into);
    }
}
