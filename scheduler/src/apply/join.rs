//! The cluster itself: its settings, who may join, who joined.

use std::sync::Arc;

use stint_protocol::{Incarnation, NodeId, NodeOffer, Nonce, Resources, TimeMs};

use crate::command::{Admit, Change, Rejection};
use crate::join_token::{JoinToken, TokenLimit};
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
    if !bootstrap {
        check_token(state, &admit, known)?;
    }
    version::check_node_version(state, admit.speaks)?;
    if state.nodes.values().any(|n| n.name == admit.name && Some(n.id) != known) {
        return Err(Rejection::NodeNameTaken(admit.name));
    }
    if bootstrap {
        state.version = state.version.max(admit.speaks);
    }
    if let Some(hash) = admit.token {
        use_token(state, &hash, admit.disk, known);
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

/// Refuses who shows no token that is valid and has a use left for it.
fn check_token(state: &State, admit: &Admit, known: Option<NodeId>) -> Result<(), Rejection> {
    let token = admit.token.filter(|hash| state.join_token_valid(hash));
    let token = token.and_then(|hash| state.join_tokens.get(&hash)).ok_or(Rejection::BadJoinToken)?;
    match &token.limit {
        Some(limit) if limit.left() == 0 && !limit.counted(&admit.disk, known) => {
            Err(Rejection::JoinTokenUsed(limit.uses))
        }
        _ => Ok(()),
    }
}

/// Counts a use once for each node.
fn use_token(state: &mut State, hash: &[u8; 32], disk: [u8; 16], known: Option<NodeId>) {
    if let Some(limit) = state.join_tokens.get_mut(hash).and_then(|token| token.limit.as_mut())
        && !limit.counted(&disk, known)
    {
        limit.used_by.push(disk.into());
    }
}

/// Makes a join token valid for a while; expired ones are swept here.
pub(super) fn add_token(
    state: &mut State,
    hash: [u8; 32],
    valid_ms: u64,
    uses: Option<u32>,
    changes: &mut Vec<Change>,
) {
    let now = state.time;
    let expired: Vec<[u8; 32]> =
        state.join_tokens.iter().filter(|(_, token)| token.expires <= now).map(|(hash, _)| *hash).collect();
    for hash in expired {
        state.join_tokens.remove(&hash);
    }
    let expires: TimeMs = now.plus(valid_ms);
    let limit = uses.map(|uses| TokenLimit { uses, used_by: Vec::new() });
    state.join_tokens.insert(hash, JoinToken { expires, limit });
    changes.push(Change::JoinTokenAdded { expires_ms: expires.0 });
}

/// Nobody joins with it any more.
pub(super) fn remove_token(
    state: &mut State,
    hash: &[u8; 32],
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    state.join_tokens.remove(hash).ok_or(Rejection::UnknownJoinToken)?;
    changes.push(Change::JoinTokenRemoved);
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
        run(Command::AddJoinToken { hash: [9; 32], valid_ms: 1_000, uses: None });
        run(admit(2, invited));
        run(Command::RemoveNode(NodeId(2)));
        // The same disk, and another node.
        run(admit(2, invited));
        let removed: Vec<bool> = (1..=5).map(|id| state.was_removed(NodeId(id))).collect();
        assert_eq!(removed, [false, true, false, false, false], "ids 4 and 5 may have been given since");
    }
}
