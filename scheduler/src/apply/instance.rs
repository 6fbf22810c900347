//! Durable workflow instances: what their programs and operators ask, one subject a file.

mod attempt;
mod checkpoint;
mod end;
mod event;
mod forget;
mod resume;
mod signal;
mod sleep;
mod start;

pub(super) use attempt::{
    Next, after_attempt, end_of_task, goes_on_suspended, settle_outcome, task_finished,
};
pub(crate) use checkpoint::weight_of_try;
pub(crate) use forget::{forget_oldest_hour, forget_oldest_outside, forget_with_task};
pub(super) use resume::{cancel_with_task, stop_lingering};

use std::sync::Arc;

use stint_protocol::{Blob, InstanceId, LeaseId, NodeId, Payload, Writer, limits};

use super::blob;
use crate::command::{Change, InstanceAct, InstanceCommand, InstanceRejection, Rejection};
use crate::instance::{Instance, InstanceNo, InstanceState};
use crate::mutations::{Mutation, planted};
use crate::state::{Instances, State};
use crate::task::StopReason;

/// Carries out one command. What is refused is refused before anything changes.
pub(super) fn carry_out(
    state: &mut State,
    command: InstanceCommand,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    check_blobs(state, &command)?;
    let InstanceCommand { id, request, by, holders, act } = command;
    let asked = Asked { id, request, by, holders };
    match act {
        InstanceAct::Start(start) => start::start(state, asked, *start, changes),
        InstanceAct::Register { tenant, checkpoint } => {
            start::register(state, asked, tenant, checkpoint, changes)
        }
        InstanceAct::Save { checkpoint, state: saved } => {
            checkpoint::save(state, asked, checkpoint, saved, changes)
        }
        InstanceAct::ReportTry { checkpoint, failed } => {
            checkpoint::report_try(state, asked, &checkpoint, failed)
        }
        InstanceAct::Record { events } => event::record(state, asked, events, changes),
        InstanceAct::Sleep { checkpoint, state: saved, duration_ms } => {
            sleep::sleep(state, asked, checkpoint, saved, duration_ms, changes)
        }
        InstanceAct::Signal { kind, payload } => signal::send(state, asked, kind, payload, changes),
        InstanceAct::Acknowledge(kind) => signal::acknowledge(state, asked, kind, changes),
        InstanceAct::SendCustom { checkpoint, payload } => {
            signal::send_custom(state, asked, checkpoint, payload, changes)
        }
        InstanceAct::TakeCustom(checkpoint) => signal::take_custom(state, asked, &checkpoint, changes),
        InstanceAct::Stop { grace_ms } => resume::stop(state, asked, grace_ms, changes),
        InstanceAct::Resume => resume::resume(state, asked, changes),
        InstanceAct::Hibernate { calls } => sleep::hibernate(state, asked, calls, changes),
        InstanceAct::FailSilent { calls } => resume::fail_silent(state, asked, calls, changes),
    }
}

/// Who asks for what.
struct Asked {
    id: InstanceId,
    request: u64,
    by: Writer,
    holders: Vec<NodeId>,
}

/// What is named as stored bytes is somewhere, and one digest has one size.
fn check_blobs(state: &State, command: &InstanceCommand) -> Result<(), Rejection> {
    let mut blobs: Vec<Blob> = command.payloads().into_iter().filter_map(Payload::blob).collect();
    blobs.sort_unstable();
    for blob in &blobs {
        blob::check_copies(state, *blob, &command.holders)?;
    }
    let differs = |pair: &&[Blob]| pair[0].digest == pair[1].digest && pair[0].size != pair[1].size;
    match blobs.windows(2).find(differs) {
        Some(pair) => {
            Err(Rejection::BlobDiffers { digest: pair[0].digest, size: pair[1].size, known: pair[0].size })
        }
        None => Ok(()),
    }
}

/// A copy of an instance, to be changed and put back.
fn find(state: &State, id: &InstanceId) -> Result<(InstanceNo, Instance), InstanceRejection> {
    let no = state.instance_named(id).ok_or_else(|| InstanceRejection::Unknown(id.clone()))?;
    let found = state.instance(no).ok_or_else(|| InstanceRejection::Unknown(id.clone()))?;
    Ok((no, Arc::unwrap_or_clone(found)))
}

/// The attempt that writes; 0 for a program outside. What an attempt says that does not hold its lease is not taken.
fn writer(state: &State, instance: &Instance, by: Writer) -> Result<u32, InstanceRejection> {
    match (instance.task, by) {
        (None, Writer::Outside) => Ok(0),
        (Some(_), Writer::Outside) => Err(InstanceRejection::LaunchedHere(instance.id.clone())),
        (Some(task), Writer::Launch(lease))
            if lease.task == task && (may_write(state, lease) || planted(Mutation::StaleLaunchWrites)) =>
        {
            Ok(lease.attempt)
        }
        (_, Writer::Launch(lease)) => Err(InstanceRejection::StaleLaunch(lease)),
    }
}

/// Whether an attempt holds its lease, and its program is not one that is stopped because it sleeps.
fn may_write(state: &State, lease: LeaseId) -> bool {
    let leased = state.task(lease.task).filter(|_| state.holds(lease)).and_then(|task| task.leased());
    leased.is_some_and(|leased| leased.stop != Some(StopReason::Asleep))
}

/// One more write of an attempt: its program is at work, whether it said so or not.
fn count_write(state: &State, instance: &mut Instance, attempt: u32) {
    if attempt != instance.launch {
        (instance.launch, instance.calls) = (attempt, 0);
    }
    instance.calls += 1;
    let later = match instance.state {
        InstanceState::Pending => true,
        InstanceState::Suspended { by, .. } => attempt > by,
        _ => false,
    };
    if later {
        instance.state = InstanceState::Running;
        instance.started = Some(state.time);
    }
}

/// Only what runs saves steps and sleeps.
fn check_running(instance: &Instance) -> Result<(), InstanceRejection> {
    match instance.state {
        InstanceState::Running => Ok(()),
        other => Err(InstanceRejection::NotRunning { id: instance.id.clone(), status: other.status() }),
    }
}

/// Whether so many bytes more may be held.
fn check_room(state: &State, more: u64) -> Result<(), InstanceRejection> {
    let bytes = state.instances.bytes + more;
    if bytes > limits::DURABLE_BYTES { Err(InstanceRejection::DurableFull { bytes }) } else { Ok(()) }
}

fn tables(state: &mut State) -> &mut Instances {
    Arc::make_mut(&mut state.instances)
}

/// The instance holds so many bytes more.
fn add_bytes(state: &mut State, instance: &mut Instance, bytes: u64) {
    let tables = tables(state);
    instance.counts.bytes += bytes;
    tables.bytes += bytes;
    if instance.state.is_ended() {
        tables.ended_bytes += bytes;
    }
}

/// The instance holds so many bytes less.
fn drop_bytes(state: &mut State, instance: &mut Instance, bytes: u64) {
    let tables = tables(state);
    instance.counts.bytes = instance.counts.bytes.saturating_sub(bytes);
    tables.bytes = tables.bytes.saturating_sub(bytes);
    if instance.state.is_ended() {
        tables.ended_bytes = tables.ended_bytes.saturating_sub(bytes);
    }
}

/// The instance keeps a payload, whose stored bytes these nodes have.
fn add_payload(state: &mut State, instance: &mut Instance, payload: &Payload, holders: &[NodeId]) {
    add_bytes(state, instance, payload.inline_len());
    if let Some(stored) = payload.blob() {
        let known = blob::record_copies(state, stored, holders);
        assert!(known.is_ok(), "the copies of {stored} were looked at: {known:?}");
        blob::add_reference(state, Some(stored));
    }
}

/// The instance keeps a payload no more.
fn drop_payload(state: &mut State, instance: &mut Instance, payload: &Payload) {
    drop_bytes(state, instance, payload.inline_len());
    blob::drop_reference(state, payload.blob());
}
