//! The image registry: registering, deleting, and what tasks pin.

use std::sync::Arc;

use stint_protocol::image::Named;
use stint_protocol::{ImageId, Runtime, SharedSpec, TaskSpec, Tenant, limits};

use super::blob;
use crate::command::{Change, RegisterImage, Rejection};
use crate::image::Image;
use crate::state::State;

/// Lists an image under its name. Another one of that name is replaced; the same one again changes nothing.
pub(super) fn register(
    state: &mut State,
    new: RegisterImage,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let key = (new.tenant.clone(), new.name.clone());
    let known = state.image_names.get(&key).and_then(|id| state.images.get(id)).cloned();
    let same =
        known.as_ref().filter(|image| image.source == new.source && image.description == new.description);
    if same.is_none() {
        check_new(state, &new)?;
    }
    if let Some(bytes) = new.source.blob() {
        blob::record_copies(state, bytes, &new.holders)?;
    }
    if let Some(same) = same {
        changes.push(Change::ImageRegistered { image: same.id, repeated: true });
        return Ok(());
    }
    let RegisterImage { id, tenant, name, source, description, .. } = new;
    let image = Image { id, tenant, name, source, description, created_at: state.time, listed: true };
    blob::add_reference(state, image.source.blob());
    state.images.insert(id, Arc::new(image));
    state.image_names.insert(key, id);
    if let Some(replaced) = known {
        unlist(state, replaced.id);
    }
    changes.push(Change::ImageRegistered { image: id, repeated: false });
    Ok(())
}

fn check_new(state: &State, new: &RegisterImage) -> Result<(), Rejection> {
    if state.images.len() >= limits::IMAGES {
        return Err(Rejection::ImagesFull(state.images.len()));
    }
    if state.images.contains_key(&new.id) {
        return Err(Rejection::ImageIdTaken(new.id));
    }
    Ok(())
}

/// No new task may name it; it stays for those that use it.
pub(super) fn delete(
    state: &mut State,
    tenant: &Tenant,
    id: ImageId,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let Some(image) = state.images.get(&id).filter(|image| image.tenant == *tenant && image.listed) else {
        return Err(Rejection::UnknownImage { image: id.to_string(), tenant: tenant.clone() });
    };
    state.image_names.remove(&(tenant.clone(), image.name.clone()));
    let uses = state.image_uses(id);
    unlist(state, id);
    changes.push(Change::ImageDeleted { image: id, uses });
    Ok(())
}

fn unlist(state: &mut State, id: ImageId) {
    if let Some(image) = state.images.get_mut(&id) {
        Arc::make_mut(image).listed = false;
    }
    forget_unused(state, id);
}

/// The spec with the registered image that it names, if it names one.
pub(crate) fn pin(state: &State, tenant: &Tenant, spec: &SharedSpec) -> Result<SharedSpec, Rejection> {
    let Some(named) = spec.image.as_deref().and_then(Named::of_task) else { return Ok(unpinned(spec)) };
    let named = named.map_err(|e| Rejection::BadImageName(e.to_string()))?;
    let unknown = || Rejection::UnknownImage { image: named.to_string(), tenant: tenant.clone() };
    let image = state.image_named(tenant, &named).ok_or_else(unknown)?;
    check_runtime(state, spec, image)?;
    let pinned = image.pinned();
    Ok(SharedSpec::new(TaskSpec {
        image: Some(pinned.reference()),
        pinned: Some(pinned),
        ..TaskSpec::clone(spec)
    }))
}

/// Only the registry pins.
fn unpinned(spec: &SharedSpec) -> SharedSpec {
    match &spec.pinned {
        None => spec.clone(),
        Some(_) => SharedSpec::new(TaskSpec { pinned: None, ..TaskSpec::clone(spec) }),
    }
}

/// A runtime that the task names, or that its class has, must be able to run it.
fn check_runtime(state: &State, spec: &TaskSpec, image: &Image) -> Result<(), Rejection> {
    let kind = image.source.kind();
    let able = |runtime: &Runtime| kind.runtimes().contains(runtime);
    let fine = match &spec.runtime {
        Some(own) => able(own) || *own == Runtime::Mock,
        None => state.settings.class(spec.class).runtimes.iter().any(able),
    };
    if fine {
        return Ok(());
    }
    let runtimes: Vec<&str> = kind.runtimes().iter().map(|runtime| runtime.as_str()).collect();
    let asked = spec.runtime.map_or_else(
        || format!("class {} has none of them", spec.class),
        |own| format!("the task asks for {own}"),
    );
    Err(Rejection::ImageUnsuited { name: image.name.clone(), kind, runtimes: runtimes.join(" or "), asked })
}

/// `count` more tasks of this spec live.
pub(super) fn add_use(state: &mut State, spec: &TaskSpec, count: u32) {
    if let Some(pinned) = &spec.pinned {
        *state.image_uses.entry(pinned.id).or_default() += count;
    }
}

/// A task of this spec lives no more.
pub(super) fn drop_use(state: &mut State, spec: &TaskSpec) {
    let Some(id) = spec.pinned.as_ref().map(|pinned| pinned.id) else { return };
    let Some(uses) = state.image_uses.get_mut(&id) else { return };
    *uses = uses.saturating_sub(1);
    if *uses == 0 {
        state.image_uses.remove(&id);
        if state.instances.specs.contains_key(&id) {
            Arc::make_mut(&mut state.instances).specs.remove(&id);
        }
        forget_unused(state, id);
    }
}

/// One that is neither listed nor used is gone, and its bytes are referred to by one less.
fn forget_unused(state: &mut State, id: ImageId) {
    let unused = state.images.get(&id).is_some_and(|image| !image.listed) && state.image_uses(id) == 0;
    if let Some(image) = unused.then(|| state.images.remove(&id)).flatten() {
        blob::drop_reference(state, image.source.blob());
    }
}
