//! A peer looks after its own bytes: what it should have it fetches again, what nobody needs here it deletes.

use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{Blob, Digest, limits as protocol_limits, version};
use stint_scheduler::State;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::disk::StoredFile;
use super::gc::{BlobGc, is_surplus};
use super::leader::gc_round;
use super::message::RegistryRequest;
use super::pull::PullError;
use super::{BlobError, Blobs};
use crate::limits;
use crate::wire::{Reply, Request};

/// Runs until the peer stops.
pub async fn run(blobs: Arc<Blobs>) {
    let mut gc = BlobGc::default();
    let mut tick = interval(limits::BLOB_ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sweep_every = (blobs.settings.sweep_after / 4).clamp(limits::BLOB_ROUND, limits::BLOB_AUDIT);
    let (mut audited, mut swept): (Option<Instant>, Instant) = (None, Instant::now());
    loop {
        tick.tick().await;
        let due = |at: Instant, every: Duration| at.elapsed() >= every;
        if audited.is_none_or(|at| due(at, limits::BLOB_AUDIT)) {
            audited = audit(&blobs).await.then(Instant::now);
        }
        if due(swept, sweep_every) {
            swept = Instant::now();
            sweep(&blobs).await;
        }
        gc_round(&blobs, &mut gc).await;
    }
}

/// Fetches what the cluster counts on and this peer does not have (any more). False: it cannot be said yet what that is.
async fn audit(blobs: &Arc<Blobs>) -> bool {
    // After a start the state is as old as the last snapshot at first.
    let client = &blobs.cluster.leader_client;
    let Ok(state) = client.read().await else { return false };
    if state.version() < version::IMAGES {
        return true;
    }
    let missing = missing(blobs, &state).await;
    let mut lost: Vec<Digest> = Vec::new();
    for blob in missing {
        let from = blobs.others_with(&state, &blob.digest);
        match blobs.pull(blob, &from).await {
            Ok(()) => tracing::info!(%blob, "bytes that were missing here are fetched again"),
            Err(error @ PullError::NoHolder(..)) => {
                tracing::warn!(%blob, %error, "bytes are missing here and cannot be fetched now");
                lost.push(blob.digest);
            }
            Err(error) => tracing::warn!(%blob, %error, "bytes that are missing here cannot be stored"),
        }
    }
    for part in lost.chunks(protocol_limits::BLOBS_PER_COMMAND) {
        let lose = RegistryRequest::Lose { node: blobs.cluster.id, blobs: part.to_vec() };
        if let Err(error) = client.ask(Request::Registry(lose)).await {
            tracing::warn!(%error, "the cluster does not know yet that bytes are missing here");
        }
    }
    true
}

/// Bytes that the state says are here, and are not.
async fn missing(blobs: &Blobs, state: &State) -> Vec<Blob> {
    let own = state.blobs().filter(|(_, record)| record.holders.contains(&blobs.cluster.id));
    let own: Vec<Blob> = own.map(|(digest, record)| Blob { digest: *digest, size: record.size }).collect();
    let disk = blobs.disk.clone();
    let looked = tokio::task::spawn_blocking(move || {
        own.into_iter().filter(|blob| !disk.has(*blob)).collect::<Vec<Blob>>()
    });
    looked.await.unwrap_or_default()
}

/// Deletes files that no record names, and copies that were fetched to be used and are not any more.
async fn sweep(blobs: &Arc<Blobs>) {
    // Only a state that a majority confirmed says that nothing names a file.
    let Ok(state) = blobs.cluster.leader_client.read().await else { return };
    let (own, wanted) = (blobs.cluster.id, blobs.copies_wanted());
    let (disk, after) = (blobs.disk.clone(), blobs.settings.sweep_after);
    disk.forget_asked(after);
    let listed = tokio::task::spawn_blocking(move || disk.list()).await;
    let files = match listed {
        Ok(Ok(files)) => files.into_iter().filter(|file| file.age > after),
        Ok(Err(error)) => return tracing::warn!(%error, "stored bytes that nobody needs are not deleted"),
        Err(_) => return,
    };
    let mut spare: Vec<StoredFile> =
        files.filter(|file| is_surplus(&state, own, wanted, &file.blob.digest)).collect();
    if spare.is_empty() {
        return;
    }
    let Some(state) = state_after_an_entry(blobs).await else { return };
    spare.retain(|file| is_surplus(&state, own, wanted, &file.blob.digest));
    let disk = blobs.disk.clone();
    let swept = tokio::task::spawn_blocking(move || -> Result<usize, BlobError> {
        let mut count = 0;
        for file in spare {
            count += usize::from(disk.remove_old(&file.blob.digest, file.touched, after)?);
        }
        Ok(count)
    });
    match swept.await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(count)) => tracing::info!(count, "stored bytes that nobody needs are deleted"),
        Ok(Err(error)) => tracing::warn!(%error, "stored bytes that nobody needs are not deleted"),
    }
}

/// The state with an entry that is proposed now, and with everything that comes before it in the log.
async fn state_after_an_entry(blobs: &Blobs) -> Option<State> {
    let client = &blobs.cluster.leader_client;
    let nothing = RegistryRequest::Lose { node: blobs.cluster.id, blobs: Vec::new() };
    match client.ask(Request::Registry(nothing)).await {
        Ok(Reply::Done { index }) => client.read_at(index).await.ok(),
        _ => None,
    }
}
