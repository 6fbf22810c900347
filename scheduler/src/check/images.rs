//! Invariants of the registry: every index re-derived, no reference to bytes that nobody knows.

use std::collections::BTreeMap;

use stint_protocol::{Blob, Digest, ImageId, ImageName, KeptFile, Tenant};

use super::{agree, agree_all};
use crate::state::State;

pub(super) fn check(state: &State) -> Result<(), String> {
    check_names(state)?;
    check_uses(state)?;
    check_references(state)?;
    check_holders(state)?;
    let order = state.keeps.iter().map(|((tenant, digest), keep)| (keep.until, tenant.clone(), *digest));
    agree_all("order of kept blobs", state.keep_order.iter().cloned(), order.collect())
}

/// One listed image a name.
fn check_names(state: &State) -> Result<(), String> {
    let listed = state.images.values().filter(|image| image.listed);
    let mut names: Vec<((&Tenant, &ImageName), ImageId)> =
        listed.map(|image| ((&image.tenant, &image.name), image.id)).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("two images of {} are listed as {}", twice[0].0.0, twice[0].0.1));
    }
    let kept = state.image_names.iter().map(|((tenant, name), id)| ((tenant, name), *id));
    agree_all("names of images", kept, names)
}

/// An image stays as long as it is listed or used, and a task's image is there.
fn check_uses(state: &State) -> Result<(), String> {
    let mut uses: BTreeMap<ImageId, u32> = BTreeMap::new();
    for (id, task) in &state.tasks {
        let Some(pinned) = &task.spec.pinned else { continue };
        *uses.entry(pinned.id).or_default() += 1;
        let image = state.images.get(&pinned.id).filter(|image| image.tenant == task.fields.tenant);
        if image.is_none_or(|image| image.source != pinned.source) {
            return Err(format!("the image of task {id} is not kept for it: {pinned:?}"));
        }
    }
    for (id, image) in &state.images {
        if !image.listed && !uses.contains_key(id) {
            return Err(format!("image {id} is kept for nothing"));
        }
    }
    agree_all("uses of images", state.image_uses.iter().map(|(id, n)| (*id, *n)), uses.into_iter().collect())
}

/// What is referred to is known; what is not is marked as unused.
fn check_references(state: &State) -> Result<(), String> {
    let of_images: Vec<Blob> = state.images.values().filter_map(|image| image.source.blob()).collect();
    for blob in &of_images {
        let known = state.blobs.get(&blob.digest).map(|record| record.size);
        agree(format_args!("size of {}", blob.digest), &known, &Some(blob.size))?;
    }
    let of_keeps = state.keeps.keys().map(|(_, digest)| *digest);
    let of_outputs = held_by_tasks(state);
    let mut references: BTreeMap<Digest, u32> = BTreeMap::new();
    let of_instances = super::instances::blobs(state);
    let of_instances = of_instances.iter().map(|blob| blob.digest);
    let of_tasks = of_outputs.into_iter().chain(of_instances);
    for digest in of_images.iter().map(|blob| blob.digest).chain(of_keeps).chain(of_tasks) {
        *references.entry(digest).or_default() += 1;
        if !state.blobs.contains_key(&digest) {
            return Err(format!("{digest} is referred to and not known"));
        }
    }
    for (digest, record) in &state.blobs {
        let unused = !references.contains_key(digest);
        agree(format_args!("{digest} is unused"), &record.unused_since.is_some(), &unused)?;
    }
    let counts = state.blob_references.iter().map(|(digest, count)| (*digest, *count));
    agree_all("references to blobs", counts, references.into_iter().collect())?;
    let unused = state.blobs.iter().filter_map(|(digest, record)| Some((record.unused_since?, *digest)));
    agree_all("unused blobs", state.unused_blobs.iter().copied(), unused.collect())
}

/// What tasks hold, once for each file that they remember.
fn held_by_tasks(state: &State) -> Vec<Digest> {
    let live = state.tasks.values().flat_map(|task| task.fields.records.clone());
    let live = live.flat_map(|record| record.outputs.unwrap_or_default());
    let finished = state.history.iter().flat_map(|(_, task)| {
        let fields = task.unpack().fields;
        fields.outputs().cloned().collect::<Vec<KeptFile>>()
    });
    live.chain(finished).filter(|file| file.is_pinned()).map(|file| file.blob.digest).collect()
}

/// Holders are members, in order, each once.
fn check_holders(state: &State) -> Result<(), String> {
    for (digest, record) in &state.blobs {
        if !record.holders.is_sorted_by(|one, next| one < next) {
            return Err(format!("holders of {digest} are not in order: {:?}", record.holders));
        }
        if let Some(gone) = record.holders.iter().find(|holder| !state.nodes.contains_key(*holder)) {
            return Err(format!("{digest} is held by {gone:?}, which is no member"));
        }
    }
    Ok(())
}
