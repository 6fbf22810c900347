//! A tenant that shares its nodes with nobody starts on those that name it alone, and no attempt starts beside one of another
//! tenant when one of the two is such.

use stint_protocol::{LeaseId, NodeId, Tenant};
use stint_scheduler::{Change, State};

/// Looks at every lease that an entry granted, in the state after it.
pub fn alone(changes: &[Change], state: &State) -> Result<(), String> {
    changes.iter().try_for_each(|change| match change {
        Change::Leased { lease, node } => granted(*lease, *node, state),
        _ => Ok(()),
    })
}

fn granted(lease: LeaseId, node: NodeId, state: &State) -> Result<(), String> {
    let shares = |tenant: &Tenant| !state.settings().tenants.rules(tenant).dedicated;
    let Some(tenant) = state.tenant_of(lease.task) else { return Ok(()) };
    let rules = state.node(node).and_then(|node| node.offer.rules.as_ref());
    let names = rules.and_then(|rules| rules.tenants.clone());
    if !shares(&tenant) && names.as_deref() != Some(&[tenant.to_string()]) {
        return Err(format!("{lease} of {tenant} starts on node {node}, which is for {names:?}"));
    }
    for other in state.leases_of(node) {
        let Some(neighbour) = state.tenant_of(other.task) else { continue };
        if neighbour != tenant && !(shares(&tenant) && shares(&neighbour)) {
            return Err(format!("{lease} of {tenant} starts on node {node} beside {other} of {neighbour}"));
        }
    }
    Ok(())
}
