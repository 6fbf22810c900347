//! Access tokens: made and revoked. Expired ones are swept when one is made.

use stint_protocol::limits::ACCESS_TOKENS;

use crate::access_token::AccessToken;
use crate::command::{AddAccessToken, Change, Rejection};
use crate::state::State;

/// Makes a token valid for a while.
pub(super) fn add_token(
    state: &mut State,
    add: AddAccessToken,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let now = state.time;
    let expired: Vec<[u8; 32]> =
        state.access_tokens.iter().filter(|(_, token)| token.expires <= now).map(|(hash, _)| *hash).collect();
    for hash in expired {
        state.access_tokens.remove(&hash);
    }
    if state.access_tokens.len() >= ACCESS_TOKENS {
        return Err(Rejection::AccessTokensFull(ACCESS_TOKENS));
    }
    let AddAccessToken { hash, tenant, role, valid_ms, by, comment } = add;
    let expires = now.plus(valid_ms);
    state.access_tokens.insert(*hash, AccessToken { tenant, role, expires, created: now, by, comment });
    changes.push(Change::AccessTokenAdded { expires_ms: expires.0 });
    Ok(())
}

/// Nobody calls with it any more.
pub(super) fn remove_token(
    state: &mut State,
    hash: &[u8; 32],
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    state.access_tokens.remove(hash).ok_or(Rejection::UnknownAccessToken)?;
    changes.push(Change::AccessTokenRemoved);
    Ok(())
}

#[cfg(test)]
mod tests {
    use stint_protocol::{NodeId, Role, Tenant, TimeMs};

    use super::*;
    use crate::apply::{StampedCommand, apply};
    use crate::command::Command;
    use crate::settings::ChangedBy;
    use crate::snapshot::{decode_snapshot, encode_snapshot, same};

    fn add(number: u32, valid_ms: u64) -> Command {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(1) };
        let tenant = Some(Tenant::new("physics").unwrap());
        let comment = "nightly".into();
        Command::AddAccessToken(AddAccessToken {
            hash: hash.into(),
            tenant,
            role: Role::Submit,
            valid_ms,
            by,
            comment,
        })
    }

    #[test]
    fn tokens_expire_are_revoked_and_outlive_a_snapshot() {
        let mut state = State::default();
        let mut run = |now, command| apply(&mut state, StampedCommand { now: TimeMs(now), command });
        run(1_000, add(1, 500)).unwrap();
        run(1_000, add(2, 5_000)).unwrap();
        run(1_000, add(3, 5_000)).unwrap();
        let third = {
            let mut hash = [0; 32];
            hash[3] = 3;
            hash
        };
        run(1_100, Command::RemoveAccessToken { hash: third.into() }).unwrap();
        let gone = run(1_100, Command::RemoveAccessToken { hash: third.into() });
        assert_eq!(gone, Err(Rejection::UnknownAccessToken));
        run(1_600, add(4, 5_000)).unwrap();
        let left: Vec<u8> = state.access_tokens().map(|(hash, _)| hash[3]).collect();
        assert_eq!(left, [2, 4], "the expired one was swept");
        let again = decode_snapshot(&encode_snapshot(&state)).unwrap();
        assert!(same(&state, &again));
        let mut hash = [0; 32];
        hash[3] = 2;
        let kept = again.access_token(&hash).unwrap();
        assert_eq!((kept.role, kept.expires, kept.created), (Role::Submit, TimeMs(6_000), TimeMs(1_000)));
        assert!(again.access_token(&third).is_none());
    }

    #[test]
    fn the_table_of_tokens_is_bounded() {
        let mut state = State::default();
        for number in 0..ACCESS_TOKENS as u32 {
            apply(&mut state, StampedCommand { now: TimeMs(1), command: add(number, 1_000) }).unwrap();
        }
        let one_more = |now| StampedCommand { now: TimeMs(now), command: add(u32::MAX, 1_000) };
        assert_eq!(apply(&mut state, one_more(2)), Err(Rejection::AccessTokensFull(ACCESS_TOKENS)));
        apply(&mut state, one_more(2_000)).unwrap();
    }
}
