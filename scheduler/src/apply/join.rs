//! The cluster itself: its settings, who may join, who joined.

use std::sync::Arc;

use stint_protocol::{Incarnation, NodeId, NodeOffer, Nonce, Resources, TimeMs};

use crate::command::{Admit, Change, Rejection};
use crate::node::{Node, NodeMode};
use crate::settings::Settings;
use crate::state::State;

use super::version;

/// Gives a new cluster its settings, once.
pub(super) fn configure(
    state: &mut State,
    settings: Settings,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    if state.configured {
        return Err(Rejection::AlreadyConfigured);
    }
    state.configured = true;
    state.settings = Arc::new(settings);
    changes.push(Change::Configured);
    Ok(())
}

/// Gives a data folder its node id; the same folder always gets the same one.
pub(super) fn admit(state: &mut State, admit: Admit, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    let known = state.nodes.values().find(|n| n.disk == admit.disk).map(|n| n.id);
    let bootstrap = admit.token.is_none() && state.nodes.is_empty();
    let invited = admit.token.is_some_and(|hash| state.join_token_valid(&hash));
    if !bootstrap && !invited {
        return Err(Rejection::BadJoinToken);
    }
    version::check_node_version(state, admit.speaks)?;
    if state.nodes.values().any(|n| n.name == admit.name && Some(n.id) != known) {
        return Err(Rejection::NodeNameTaken(admit.name));
    }
    if bootstrap {
        state.version = state.version.max(admit.speaks);
    }
    let id = known.unwrap_or_else(|| next_id(state));
    match state.nodes.get_mut(&id) {
        Some(node) => {
            let node = Arc::make_mut(node);
            node.name = admit.name;
            node.address = admit.address;
            node.speaks = admit.speaks;
        }
        None => {
            state.nodes.insert(id, Arc::new(new_node(id, admit)));
        }
    }
    changes.push(Change::Admitted { node: id, known: known.is_some() });
    Ok(())
}

fn next_id(state: &mut State) -> NodeId {
    state.next_node += 1;
    NodeId(state.next_node)
}

fn new_node(id: NodeId, admit: Admit) -> Node {
    Node {
        id,
        disk: admit.disk,
        name: admit.name,
        address: admit.address,
        mode: NodeMode::Ready,
        incarnation: Incarnation(0),
        nonce: Nonce(0),
        offer: NodeOffer::default(),
        problems: Vec::new(),
        used: Resources::default(),
        running: 0,
        start_backoff: None,
        start_holds: None,
        drain_by: None,
        speaks: admit.speaks,
    }
}

/// Makes a join token valid for a while; expired ones are swept here.
pub(super) fn add_token(
    state: &mut State,
    hash: [u8; 32],
    valid_ms: u64,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let now = state.time;
    let expired: Vec<[u8; 32]> =
        state.join_tokens.iter().filter(|(_, at)| **at <= now).map(|(hash, _)| *hash).collect();
    for hash in expired {
        state.join_tokens.remove(&hash);
    }
    let expires: TimeMs = now.plus(valid_ms);
    state.join_tokens.insert(hash, expires);
    changes.push(Change::JoinTokenAdded { expires_ms: expires.0 });
    Ok(())
}

#[cfg(test)]
mod tests {
    use stint_protocol::version;

    use super::*;
    use crate::apply::{StampedCommand, apply};
    use crate::command::Command;

    #[test]
    fn who_was_removed_is_told_from_who_is_not_known_yet() {
        let mut state = State::default();
        let mut run = |command| apply(&mut state, StampedCommand { now: TimeMs(1_000), command }).unwrap();
        let admit = |disk: u8, token| {
            let (disk, name, address) = ([disk; 16], format!("n{disk}"), "a:1".into());
            Command::Admit(Admit { disk, name, address, token, speaks: version::OLDEST })
        };
        let invited = Some([9; 32]);
        run(admit(1, None));
        run(Command::AddJoinToken { hash: [9; 32], valid_ms: 1_000 });
        run(admit(2, invited));
        run(Command::RemoveNode(NodeId(2)));
        // The same disk, and another node.
        run(admit(2, invited));
        let removed: Vec<bool> = (1..=5).map(|id| state.was_removed(NodeId(id))).collect();
        assert_eq!(removed, [false, true, false, false, false], "ids 4 and 5 may have been given since");
    }
}
