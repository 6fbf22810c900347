//! Stored bytes: which nodes have them, what refers to them, and when they may go.

use std::sync::Arc;

use stint_protocol::{Blob, Digest, NodeId, Tenant, limits};

use crate::command::{Change, KeepBlob, Rejection};
use crate::image::{BlobRecord, Keep};
use crate::state::State;

/// Says why nothing may refer to these bytes: nobody has them, or they are others.
pub(super) fn check_copies(state: &State, blob: Blob, holders: &[NodeId]) -> Result<(), Rejection> {
    let known = state.blobs.get(&blob.digest);
    if let Some(known) = known.filter(|known| known.size != blob.size) {
        return Err(Rejection::BlobDiffers { digest: blob.digest, size: blob.size, known: known.size });
    }
    let is_held = holders.iter().any(|node| state.nodes.contains_key(node));
    if !is_held && known.is_none_or(|known| known.holders.is_empty()) {
        return Err(Rejection::NoHolder(blob.digest));
    }
    Ok(())
}

/// Takes note that these members have the bytes. Nothing may refer to bytes that nobody has.
pub(super) fn record_copies(state: &mut State, blob: Blob, holders: &[NodeId]) -> Result<(), Rejection> {
    check_copies(state, blob, holders)?;
    let members: Vec<NodeId> =
        holders.iter().copied().filter(|node| state.nodes.contains_key(node)).collect();
    if !state.blobs.contains_key(&blob.digest) {
        let unused_since = Some(state.time);
        state.unused_blobs.insert((state.time, blob.digest));
        let record = BlobRecord { size: blob.size, holders: Vec::new(), unused_since };
        state.blobs.insert(blob.digest, Arc::new(record));
    }
    members.into_iter().for_each(|node| add_holder(state, node, &blob.digest));
    Ok(())
}

fn add_holder(state: &mut State, node: NodeId, digest: &Digest) {
    let Some(record) = state.blobs.get_mut(digest).map(Arc::make_mut) else { return };
    if let Err(place) = record.holders.binary_search(&node) {
        record.holders.insert(place, node);
    }
}

fn remove_holder(record: &mut Arc<BlobRecord>, node: NodeId) {
    if record.holders.contains(&node) {
        Arc::make_mut(record).holders.retain(|holder| *holder != node);
    }
}

/// A member has more bytes of those that are known.
pub(super) fn add_copies(
    state: &mut State,
    node: NodeId,
    blobs: &[Digest],
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    if !state.nodes.contains_key(&node) {
        return Err(Rejection::UnknownNode(node));
    }
    blobs.iter().for_each(|digest| add_holder(state, node, digest));
    changes.push(Change::BlobsChanged);
    Ok(())
}

/// A member has these bytes no more.
pub(super) fn remove_copies(state: &mut State, node: NodeId, blobs: &[Digest], changes: &mut Vec<Change>) {
    for digest in blobs {
        if let Some(record) = state.blobs.get_mut(digest) {
            remove_holder(record, node);
        }
    }
    changes.push(Change::BlobsChanged);
}

/// What a node that is no member any more had.
pub(super) fn node_gone(state: &mut State, node: NodeId) {
    let had: Vec<Digest> =
        state.blobs.iter().filter(|(_, r)| r.holders.contains(&node)).map(|(d, _)| *d).collect();
    for digest in had {
        if let Some(record) = state.blobs.get_mut(&digest) {
            remove_holder(record, node);
        }
    }
}

/// Forgets bytes to which nothing refers. What got a reference since this was proposed stays.
pub(super) fn drop_unused(state: &mut State, blobs: &[Digest], changes: &mut Vec<Change>) {
    for digest in blobs {
        let unused = state.blobs.get(digest).and_then(|record| record.unused_since);
        if let Some(since) = unused {
            state.unused_blobs.remove(&(since, *digest));
            state.blobs.remove(digest);
        }
    }
    changes.push(Change::BlobsChanged);
}

/// One more thing needs these bytes.
pub(super) fn add_reference(state: &mut State, blob: Option<Blob>) {
    let Some(digest) = blob.map(|blob| blob.digest) else { return };
    *state.blob_references.entry(digest).or_default() += 1;
    let Some(record) = state.blobs.get_mut(&digest) else { return };
    if let Some(since) = record.unused_since {
        Arc::make_mut(record).unused_since = None;
        state.unused_blobs.remove(&(since, digest));
    }
}

/// One thing less needs these bytes.
pub(super) fn drop_reference(state: &mut State, blob: Option<Blob>) {
    let Some(digest) = blob.map(|blob| blob.digest) else { return };
    let Some(count) = state.blob_references.get_mut(&digest) else { return };
    *count = count.saturating_sub(1);
    if *count > 0 {
        return;
    }
    state.blob_references.remove(&digest);
    if let Some(record) = state.blobs.get_mut(&digest) {
        Arc::make_mut(record).unused_since = Some(state.time);
        state.unused_blobs.insert((state.time, digest));
    }
}

/// A tenant wants bytes kept, for longer if it did before.
pub(super) fn keep(state: &mut State, keep: KeepBlob, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    let key = (keep.tenant, keep.blob.digest);
    let before = state.keeps.get(&key).copied();
    if before.is_none() && state.keeps.len() >= limits::KEPT_BLOBS {
        return Err(Rejection::KeptBlobsFull(state.keeps.len()));
    }
    record_copies(state, keep.blob, &keep.holders)?;
    let until = state.time.plus(keep.keep_ms.min(limits::KEEP_BLOB_MS));
    match before {
        Some(before) => {
            state.keep_order.remove(&(before.until, key.0.clone(), key.1));
        }
        None => add_reference(state, Some(keep.blob)),
    }
    let until = before.map_or(until, |before| before.until.max(until));
    state.keep_order.insert((until, key.0.clone(), key.1));
    state.keeps.insert(key, Keep { until });
    changes.push(Change::BlobsChanged);
    Ok(())
}

/// A tenant does not need these bytes any more.
pub(super) fn forget(state: &mut State, tenant: Tenant, digest: Digest, changes: &mut Vec<Change>) {
    if forget_keep(state, tenant, digest) {
        changes.push(Change::BlobsChanged);
    }
}

/// Whether it was kept.
pub(crate) fn forget_keep(state: &mut State, tenant: Tenant, digest: Digest) -> bool {
    let key = (tenant, digest);
    let Some(keep) = state.keeps.remove(&key) else { return false };
    state.keep_order.remove(&(keep.until, key.0, digest));
    drop_reference(state, Some(Blob { digest, size: 0 }));
    true
}
