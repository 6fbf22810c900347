//! Join tokens: made, listed and revoked. The cluster keeps the hash of a secret, so nobody can read a token again.

use std::time::Duration;

use sha2::{Digest, Sha256};
use stint_protocol::{TimeMs, api, version};
use stint_scheduler::{JoinToken as TokenRecord, State};

use super::access::Operation;
use super::{Principal, Service, ServiceError};
use crate::join::{JoinToken, token_id};
use crate::leader_client::unexpected;
use crate::limits;
use crate::wire::{Reply, Request};

/// Validity of a join token when none is given: one hour; and at most: one week.
const VALID: Duration = Duration::from_secs(3_600);
const VALID_MOST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Hexadecimal digits of an id that are enough to name a token.
const ID_DIGITS: usize = 4;

/// A token with which so many nodes may join; none: any number.
pub struct MadeJoinToken {
    pub id: String,
    pub token: JoinToken,
    pub expires: TimeMs,
    pub uses: Option<u32>,
}

impl Service {
    /// Makes a join token, valid for this long and for so many nodes: one, if nothing is said. A cluster that does not
    /// speak limits yet makes one for any number.
    pub async fn create_join_token(
        &self,
        caller: &Principal,
        valid: Option<Duration>,
        uses: Option<u32>,
    ) -> Result<MadeJoinToken, ServiceError> {
        self.allow(caller, Operation::CreateJoinToken)?;
        let valid = valid.unwrap_or(VALID);
        if valid > VALID_MOST {
            return Err(ServiceError::TokenValidTooLong);
        }
        if uses.is_some_and(|uses| uses > limits::TOKEN_USES) {
            return Err(ServiceError::TokenUsesTooMany);
        }
        let uses = match (uses, self.node.leader_client.check_speaks(version::JOIN_TOKENS)) {
            (None, Err(_)) => None,
            (Some(_), Err(refusal)) => return Err(refusal.into()),
            (uses, Ok(())) => Some(uses.unwrap_or(1)),
        };
        let secret = self.node.rng.random_bits().to_be_bytes();
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let request =
            Request::CreateJoinToken { hash: hash.into(), valid_ms: valid.as_millis() as u64, uses };
        let expires = match self.ask(request).await? {
            Reply::JoinToken { expires } => expires,
            other => return Err(unexpected(&other).into()),
        };
        let (id, seconds) = (token_id(&hash), valid.as_secs());
        tracing::info!(token = id, uses, seconds, proof = ?caller.proof, "join token made");
        let token = JoinToken { fingerprint: self.node.certificates.root().fingerprint()?, secret };
        Ok(MadeJoinToken { id, token, expires, uses })
    }

    /// Tokens that are valid.
    pub async fn list_join_tokens(
        &self,
        caller: &Principal,
    ) -> Result<Vec<api::ListedJoinToken>, ServiceError> {
        self.allow(caller, Operation::ListJoinTokens)?;
        let (state, now) = (self.read().await?, self.node.clock.wall());
        // The time of the state stands still while nothing is done.
        let valid = state.join_tokens().filter(|(_, token)| token.expires > now);
        Ok(valid.map(|(hash, token)| listed(&state, hash, token)).collect())
    }

    /// Nobody joins any more with the token whose id is this, or begins like this; its whole id.
    pub async fn revoke_join_token(&self, caller: &Principal, id: &str) -> Result<String, ServiceError> {
        self.allow(caller, Operation::RevokeJoinToken)?;
        self.node.leader_client.check_speaks(version::JOIN_TOKENS)?;
        let state = self.read().await?;
        let meant = |hash: &&[u8; 32]| id.len() >= ID_DIGITS && token_id(hash).starts_with(id);
        let mut found = state.join_tokens().map(|(hash, _)| hash).filter(meant);
        let (Some(hash), None) = (found.next(), found.next()) else {
            return Err(ServiceError::JoinTokenNotFound(id.into()));
        };
        self.ask(Request::RevokeJoinToken { hash: (*hash).into() }).await?;
        let id = token_id(hash);
        tracing::info!(token = id, proof = ?caller.proof, "join token revoked");
        Ok(id)
    }
}

fn listed(state: &State, hash: &[u8; 32], token: &TokenRecord) -> api::ListedJoinToken {
    let limit = token.limit.as_ref();
    let used_by = limit.map(|limit| limit.used_by.as_slice()).unwrap_or_default();
    let member =
        |disk: &[u8; 16]| state.nodes().find(|node| node.disk == *disk).map(|node| node.name.clone());
    api::ListedJoinToken {
        expires_at_ms: token.expires.0,
        id: token_id(hash),
        used_by: used_by.iter().filter_map(|disk| member(disk)).collect(),
        uses: limit.map(|limit| limit.uses),
        uses_left: limit.map(|limit| limit.left()),
    }
}
