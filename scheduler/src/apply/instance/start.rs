//! New instances, and programs that say that they are at work.

use std::sync::Arc;

use stint_protocol::{CheckpointId, EventKind, InstanceEvent, Payload, SharedSpec, Tenant, Writer};

use super::{Asked, add_bytes, add_payload, check_room, count_write, event, find, tables, writer};
use crate::apply::{image, submit};
use crate::command::{Change, InstanceChange, InstanceRejection, Rejection, StartInstance, Submit};
use crate::instance::{Counts, Given, Instance, InstanceNo, InstanceState};
use crate::state::State;

/// Makes an instance and its task. The same request again answers with the instance that it made.
pub(super) fn start(
    state: &mut State,
    asked: Asked,
    start: StartInstance,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    if let Some(no) = state.instance_named(&asked.id) {
        let known = state.instance(no);
        let same = known.is_some_and(|it| it.task.is_some() && it.given.request == asked.request);
        if !same {
            return Err(InstanceRejection::Exists(asked.id).into());
        }
        changes.push(Change::Instance(InstanceChange::Started { no, repeated: true }));
        return Ok(());
    }
    let StartInstance { submit, input, env } = start;
    // It was started by this request before, and is forgotten.
    if submit::known_request(state, &submit)?.is_some() {
        return Err(InstanceRejection::Unknown(asked.id).into());
    }
    if submit.count != 1 {
        return Err(Rejection::BadCount { asked: submit.count, most: 1 });
    }
    let bytes = env.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum::<u64>();
    check_room(state, bytes + input.as_ref().map_or(0, Payload::inline_len))?;
    let spec = share_spec(state, image::pin(state, &submit.tenant, &submit.spec)?);
    let (task, tenant) = (submit.first, submit.tenant.clone());
    let image = spec.pinned.as_ref().map(|pinned| (pinned.id, pinned.name.clone()));
    submit::take_in(state, Submit { spec, name: None, ..submit }, changes)?;

    let given = Given { input, env, request: asked.request };
    let mut instance = Instance {
        task: Some(task),
        image,
        given: Arc::new(given.clone()),
        ..new_instance(state, &asked, tenant)
    };
    add_bytes(state, &mut instance, bytes);
    if let Some(input) = &given.input {
        add_payload(state, &mut instance, input, &asked.holders);
    }
    let no = add(state, instance);
    tables(state).of_task.insert(task, no);
    changes.push(Change::Instance(InstanceChange::Started { no, repeated: false }));
    Ok(())
}

/// Instances of one image mostly ask for the same: they share a spec.
fn share_spec(state: &mut State, spec: SharedSpec) -> SharedSpec {
    let Some(image) = spec.pinned.as_ref().map(|pinned| pinned.id) else { return spec };
    match state.instances.specs.get(&image) {
        Some(known) if **known == *spec => known.clone(),
        _ => {
            tables(state).specs.insert(image, spec.clone());
            spec
        }
    }
}

fn new_instance(state: &State, asked: &Asked, tenant: Tenant) -> Instance {
    Instance {
        id: asked.id.clone(),
        tenant,
        task: None,
        image: None,
        state: InstanceState::Pending,
        created: state.time,
        started: None,
        finished: None,
        checkpoint: None,
        given: Arc::default(),
        output: None,
        error: None,
        signal: None,
        recent: Vec::new(),
        launch: 0,
        calls: 0,
        resume_wanted: false,
        ended_by: None,
        heartbeat: None,
        registered: false,
        stop_grace_ms: None,
        counts: Counts::default(),
    }
}

/// Takes a new instance in.
fn add(state: &mut State, instance: Instance) -> InstanceNo {
    let no = InstanceNo(state.next_sequence);
    state.next_sequence += 1;
    let tables = tables(state);
    tables.ids.insert(instance.id.clone(), no);
    tables.of_tenant.insert((instance.tenant.clone(), no));
    tables.live += 1;
    tables.put(no, instance);
    no
}

/// A program says that it is at work. One that the cluster did not start makes its instance with it.
pub(super) fn register(
    state: &mut State,
    asked: Asked,
    tenant: Tenant,
    checkpoint: Option<CheckpointId>,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let no = match state.instance_named(&asked.id) {
        Some(no) => no,
        None => add_outside(state, &asked, &tenant, checkpoint.as_ref())?,
    };
    let (_, mut instance) = find(state, &asked.id)?;
    // A stranger does not learn whether it is there.
    if instance.tenant != tenant {
        return Err(InstanceRejection::Unknown(asked.id).into());
    }
    let attempt = writer(state, &instance, asked.by)?;
    if instance.state.is_ended() {
        let status = instance.state.status();
        return Err(InstanceRejection::Ended { id: asked.id, status }.into());
    }
    if let Some(checkpoint) = checkpoint.filter(|id| state.checkpoint(no, id).is_none()) {
        return Err(InstanceRejection::UnknownCheckpoint { id: asked.id, checkpoint }.into());
    }
    if instance.has_seen(asked.request) {
        return Ok(());
    }
    instance.remember(asked.request);
    count_write(state, &mut instance, attempt);
    instance.state = InstanceState::Running;
    instance.started = Some(state.time);
    instance.registered = true;
    let at = state.time;
    let (kind, payload) = (EventKind::Started, Payload::empty());
    let started = InstanceEvent { kind, subtype: None, checkpoint: None, payload, at };
    event::keep(state, no, &mut instance, &started, &[]);
    tables(state).put(no, instance);
    changes.push(Change::Instance(InstanceChange::Changed { no }));
    Ok(())
}

/// A program that nobody here started.
fn add_outside(
    state: &mut State,
    asked: &Asked,
    tenant: &Tenant,
    checkpoint: Option<&CheckpointId>,
) -> Result<InstanceNo, InstanceRejection> {
    if let Writer::Launch(lease) = asked.by {
        return Err(InstanceRejection::StaleLaunch(lease));
    }
    if let Some(checkpoint) = checkpoint {
        return Err(InstanceRejection::UnknownCheckpoint {
            id: asked.id.clone(),
            checkpoint: checkpoint.clone(),
        });
    }
    let live = state.instances.live;
    if live >= state.settings.max_live_tasks {
        return Err(InstanceRejection::TooMany { live });
    }
    let instance = new_instance(state, asked, tenant.clone());
    Ok(add(state, instance))
}
