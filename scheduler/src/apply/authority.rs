//! A new certificate authority: asked for, trusted beside the old one, and at last alone.

use std::sync::Arc;

use stint_protocol::NodeId;

use crate::authority::{AskedRotation, Authority, NewAuthority, RotateAuthority};
use crate::command::{Change, Rejection};
use crate::state::State;

/// Another authority is wanted. The leader makes one.
pub(super) fn rotate(
    state: &mut State,
    rotate: RotateAuthority,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let at = state.time;
    let authorities = Arc::make_mut(&mut state.authorities);
    if authorities.asked.is_some() || authorities.changing().is_some() {
        return Err(Rejection::AuthorityChanges);
    }
    authorities.asked = Some(AskedRotation { rotate, at });
    changes.push(Change::AuthorityChanged);
    Ok(())
}

/// From now on it issues certificates, and both are trusted.
pub(super) fn trust(
    state: &mut State,
    new: NewAuthority,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let since = state.time;
    let authorities = Arc::make_mut(&mut state.authorities);
    // Of two leaders that made one, one is late.
    let Some(AskedRotation { rotate, .. }) = authorities.asked.take() else {
        return Err(Rejection::NoAuthorityAsked);
    };
    let old_until = Some(since.plus(rotate.overlap_ms));
    authorities.current = Some(Authority { new, since, by: rotate.by, old_until, certified: Vec::new() });
    changes.push(Change::AuthorityChanged);
    Ok(())
}

/// A member shows a certificate of this authority now.
pub(super) fn certify(
    state: &mut State,
    node: NodeId,
    fingerprint: &[u8; 32],
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    if !state.nodes.contains_key(&node) {
        return Err(Rejection::UnknownNode(node));
    }
    let current = Arc::make_mut(&mut state.authorities).current.as_mut();
    let current = current.filter(|current| *current.new.fingerprint == *fingerprint);
    let certified = &mut current.ok_or(Rejection::NoAuthorityAsked)?.certified;
    if let Err(place) = certified.binary_search(&node) {
        certified.insert(place, node);
        changes.push(Change::AuthorityChanged);
    }
    Ok(())
}

/// What the old authority issued is good for nothing any more. With `force` also where members have nothing else.
pub(super) fn drop_old(state: &mut State, force: bool, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    if state.authorities.changing().is_none() {
        return Err(Rejection::NoAuthorityChange);
    }
    let without: Vec<String> = state.nodes_to_certify().map(|node| node.name.clone()).collect();
    if !without.is_empty() && !force {
        return Err(Rejection::NotAllCertified(without.join(", ")));
    }
    if let Some(current) = &mut Arc::make_mut(&mut state.authorities).current {
        current.old_until = None;
    }
    changes.push(Change::AuthorityChanged);
    Ok(())
}

#[cfg(test)]
mod tests {
    use stint_protocol::{TimeMs, Version};

    use super::*;
    use crate::apply::{StampedCommand, apply};
    use crate::command::{Admit, Command};
    use crate::settings::ChangedBy;
    use crate::snapshot::{decode_snapshot, encode_snapshot, same};

    fn new(number: u8) -> NewAuthority {
        NewAuthority {
            root: format!("root {number}"),
            fingerprint: [number; 32].into(),
            endorsement: "endorsed".into(),
            old_root: "old".into(),
            cluster_id: "00ff".into(),
        }
    }

    fn rotation() -> Command {
        let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(1) };
        Command::RotateAuthority(RotateAuthority { overlap_ms: 5_000, by })
    }

    fn state() -> State {
        let mut state = State::default();
        for (number, name) in [(1, "a"), (2, "b")] {
            let admit = Admit {
                disk: [number; 16],
                name: name.into(),
                address: format!("{name}:1"),
                token: None,
                speaks: Version(5),
            };
            state.time = TimeMs(1);
            // The second one as if it had shown a token.
            let token = (number > 1).then_some([7; 32]);
            if token.is_some() {
                let add = Command::AddJoinToken { hash: [7; 32], valid_ms: 1_000_000, uses: None };
                apply(&mut state, StampedCommand { now: TimeMs(1), command: add }).unwrap();
            }
            let command = Command::Admit(Admit { token, ..admit });
            apply(&mut state, StampedCommand { now: TimeMs(1), command }).unwrap();
        }
        state
    }

    #[test]
    fn an_authority_is_asked_for_trusted_beside_the_old_one_and_then_alone() {
        let mut state = state();
        let run =
            |state: &mut State, now, command| apply(state, StampedCommand { now: TimeMs(now), command });
        let trust = |number| Command::TrustAuthority(new(number));
        let certify =
            |node, number: u8| Command::CertifyNode { node: NodeId(node), fingerprint: [number; 32].into() };
        let finish = |force| Command::DropOldAuthority { force };
        assert_eq!(run(&mut state, 10, trust(1)), Err(Rejection::NoAuthorityAsked));
        assert_eq!(run(&mut state, 10, finish(true)), Err(Rejection::NoAuthorityChange));
        run(&mut state, 10, rotation()).unwrap();
        assert_eq!(run(&mut state, 10, rotation()), Err(Rejection::AuthorityChanges));
        assert_eq!(run(&mut state, 10, finish(true)), Err(Rejection::NoAuthorityChange));
        run(&mut state, 100, trust(1)).unwrap();
        assert_eq!(run(&mut state, 100, trust(2)), Err(Rejection::NoAuthorityAsked), "a late leader's");
        assert_eq!(run(&mut state, 100, rotation()), Err(Rejection::AuthorityChanges));
        let until = |state: &State| state.authorities().current.as_ref().unwrap().old_until;
        assert_eq!(until(&state), Some(TimeMs(5_100)));
        run(&mut state, 200, certify(2, 1)).unwrap();
        assert_eq!(run(&mut state, 200, certify(1, 9)), Err(Rejection::NoAuthorityAsked));
        assert_eq!(run(&mut state, 200, certify(7, 1)), Err(Rejection::UnknownNode(NodeId(7))));
        let again = decode_snapshot(&encode_snapshot(&state)).unwrap();
        assert!(same(&state, &again), "also in a snapshot");
        assert_eq!(run(&mut state, 300, finish(false)), Err(Rejection::NotAllCertified("a".into())));
        let mut forced = state.clone();
        run(&mut forced, 300, finish(true)).unwrap();
        assert_eq!(until(&forced), None);
        run(&mut state, 300, certify(1, 1)).unwrap();
        run(&mut state, 300, finish(false)).unwrap();
        assert_eq!(until(&state), None);
        // Another one, after which the first is the old one.
        run(&mut state, 400, rotation()).unwrap();
        run(&mut state, 500, trust(2)).unwrap();
        let current = state.authorities().current.clone().unwrap();
        assert_eq!((current.new, current.certified), (new(2), Vec::new()));
        // A cluster that begins anew has an authority of its own.
        crate::apply::begin_anew(&mut state, None, TimeMs(600));
        assert!(state.authorities().is_empty());
    }
}
