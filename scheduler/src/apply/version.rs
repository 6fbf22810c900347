//! Which version the cluster speaks: its members say what they may speak, and it is raised once all say more.

use std::sync::Arc;

use stint_protocol::{NodeId, Tenant, Version};

use crate::command::{Change, Rejection};
use crate::state::State;

/// Takes what a member may speak. It may be held back again while the cluster does not speak more.
pub(super) fn set_node_version(
    state: &mut State,
    id: NodeId,
    speaks: Version,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    check_node_version(state, speaks)?;
    let Some(node) = state.nodes.get_mut(&id) else {
        return Err(Rejection::UnknownNode(id));
    };
    if node.speaks != speaks {
        Arc::make_mut(node).speaks = speaks;
        changes.push(Change::NodeChanged { node: id });
    }
    Ok(())
}

/// Who speaks less than the cluster does cannot be a member.
pub(super) fn check_node_version(state: &State, speaks: Version) -> Result<(), Rejection> {
    if speaks < state.version {
        return Err(Rejection::SpeaksTooLittle { version: state.version, speaks });
    }
    Ok(())
}

/// A member may have joined or been held back since the leader proposed this: all are asked again.
pub(super) fn raise(state: &mut State, to: Version, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    if to <= state.version {
        return Ok(());
    }
    if state.nodes.values().any(|node| node.speaks < to) {
        return Err(state.version_too_low());
    }
    state.version = to;
    // Those that have tasks need not wait for their next submit. The one of clients that name none was there first.
    let mut tenants: Vec<Tenant> = state.tenants.keys().cloned().collect();
    tenants.sort_by_key(|tenant| !tenant.is_default());
    tenants.iter().for_each(|tenant| state.give_uid(tenant));
    changes.push(Change::VersionRaised { to });
    Ok(())
}
