//! The one way the state changes: a command in, changes or a rejection out.

mod access;
mod authority;
mod blob;
mod cancel;
mod image;
mod instance;
mod join;
mod lease;
mod new_beginning;
mod node;
mod outputs;
mod settings;
mod submit;
mod suspend;
mod version;

pub use new_beginning::begin_anew;

pub(crate) use blob::forget_keep;
pub(crate) use image::pin;
pub(crate) use instance::{forget_oldest_hour, forget_oldest_outside, forget_with_task, weight_of_try};
pub(crate) use outputs::{count_of, forget_of_task};
pub(crate) use submit::share_of_spec;
pub(crate) use suspend::wake_place;

use minicbor::{Decode, Encode};
use stint_protocol::TimeMs;

use crate::command::{Change, Command, Rejection};
use crate::retention;
use crate::state::State;

/// A command with the leader's time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StampedCommand {
    #[n(0)]
    pub now: TimeMs,
    #[n(1)]
    pub command: Command,
}

/// Applies one command. A rejection leaves the state as it was but for the passing of time.
///
/// Equal states and commands give equal states and answers on every replica.
pub fn apply(state: &mut State, stamped: StampedCommand) -> Result<Vec<Change>, Rejection> {
    let mut changes = Vec::new();
    state.time = state.time.max(stamped.now);
    promote_due(state);
    suspend::wake_due(state, &mut changes);
    node::stop_drained(state, &mut changes);
    instance::stop_lingering(state, &mut changes);
    let result = dispatch(state, stamped.command, &mut changes);
    retention::sweep(state);
    result.map(|()| changes)
}

/// Without a wildcard: a command that nobody carries out does not compile, rather than being ignored on every replica.
fn dispatch(state: &mut State, command: Command, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    match command {
        Command::Configure(settings) => join::configure(state, settings, changes),
        Command::UpdateSettings(update) => settings::update(state, update, changes),
        Command::Submit(submit) => submit::submit(state, submit, changes),
        Command::Cancel(task) => cancel::cancel(state, task, changes),
        Command::RegisterNode(register) => node::register(state, register, changes),
        Command::RecordEnds { node, ends } => lease::record_ends(state, node, ends, changes),
        Command::CommitPlan(plan) => lease::commit_plan(state, plan, changes),
        Command::ExpireLeases(leases) => lease::expire(state, leases, changes),
        Command::SetNodeMode { node, mode, within_ms } => {
            node::set_mode(state, node, mode, within_ms, changes)
        }
        Command::RemoveNode(node) => node::remove(state, node, changes),
        Command::Admit(admit) => join::admit(state, admit, changes),
        Command::AddJoinToken { hash, valid_ms, uses } => {
            join::add_token(state, hash, valid_ms, uses, changes);
            Ok(())
        }
        Command::RemoveJoinToken { hash } => join::remove_token(state, &hash, changes),
        Command::AddAccessToken(add) => access::add_token(state, add, changes),
        Command::RemoveAccessToken { hash } => access::remove_token(state, &hash, changes),
        Command::RotateAuthority(rotate) => authority::rotate(state, rotate, changes),
        Command::TrustAuthority(new) => authority::trust(state, new, changes),
        Command::CertifyNode { node, fingerprint } => authority::certify(state, node, &fingerprint, changes),
        Command::DropOldAuthority { force } => authority::drop_old(state, force, changes),
        Command::Tick => Ok(()),
        Command::SetNodeAddress { node, address } => node::set_address(state, node, address, changes),
        Command::SetNodeVersion { node, speaks } => version::set_node_version(state, node, speaks, changes),
        Command::RaiseVersion { to } => version::raise(state, to, changes),
        Command::RegisterImage(image) => image::register(state, image, changes),
        Command::DeleteImage { tenant, image } => image::delete(state, &tenant, image, changes),
        Command::KeepBlob(keep) => blob::keep(state, keep, changes),
        Command::HoldBlobs { node, blobs } => blob::add_copies(state, node, &blobs, changes),
        // What lets go of stored bytes is never refused.
        Command::ForgetBlob { tenant, blob } => {
            blob::forget(state, tenant, blob, changes);
            Ok(())
        }
        Command::LoseBlobs { node, blobs } => {
            blob::remove_copies(state, node, &blobs, changes);
            Ok(())
        }
        Command::DropBlobs { blobs } => {
            blob::drop_unused(state, &blobs, changes);
            Ok(())
        }
        Command::Instance(command) => instance::carry_out(state, *command, changes),
        Command::Suspend { task, reason, wake_at } => suspend::suspend(state, task, reason, wake_at, changes),
        Command::Wake(task) => suspend::wake(state, task, changes),
    }
}

/// Retries whose wait is over take their place in the queue.
fn promote_due(state: &mut State) {
    while let Some((due, id)) = state.delayed.get_min().copied() {
        if due > state.time {
            return;
        }
        state.delayed.remove(&(due, id));
        if let Some(task) = state.tasks.get(&id) {
            state.queue.insert(id, task);
        }
    }
}
