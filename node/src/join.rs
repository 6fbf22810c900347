//! Joining an existing cluster by address and join token.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use minicbor::bytes::ByteVec;
use stint_protocol::{NodeId, Version};

use crate::peers::{PeerAddress, Peers};
use crate::pki::{self, Authority};
use crate::wire::{CallKind, Join, JoinAnswer, decode, encode};

/// How long one peer is given to admit: it may have to find its leader first.
const JOIN_DEADLINE: Duration = Duration::from_secs(12);

/// What a joiner is given by an operator: whom to trust, and the secret that lets it in.
pub struct JoinToken {
    pub fingerprint: [u8; 32],
    pub secret: [u8; 16],
}

/// The first part of a token's text; a later form gets another.
const PREFIX: &str = "stint1-";

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.fingerprint.iter().chain(&self.secret).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for JoinToken {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let digits = text
            .trim()
            .strip_prefix(PREFIX)
            .filter(|d| d.len() == 96 && d.is_ascii())
            .ok_or(JoinError::BadToken)?;
        let byte =
            |i: usize| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).map_err(|_| JoinError::BadToken);
        let mut token = Self { fingerprint: [0; 32], secret: [0; 16] };
        for (i, place) in token.fingerprint.iter_mut().chain(&mut token.secret).enumerate() {
            *place = byte(i)?;
        }
        Ok(token)
    }
}

/// By which a token is listed, revoked and named in logs, made of the hash of its secret: 12 hexadecimal digits.
pub fn token_id(hash: &[u8; 32]) -> String {
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Why this data folder did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "the join token is not one: it starts with {PREFIX} and has 96 hexadecimal digits (`stint cluster join-token` prints one)"
    )]
    BadToken,
    #[error("no peer admitted this node:\n  {0}")]
    NobodyAdmitted(String),
    #[error("TLS: {0}")]
    Tls(#[from] pki::PkiError),
    #[error("QUIC: {0}")]
    Quic(String),
}

/// What an admitted node knows.
pub struct Admitted {
    pub node: NodeId,
    pub cluster: String,
    /// The id of the cluster, where it was recovered.
    pub recovered: Option<String>,
    pub authority: Authority,
}

/// Who wants to join.
pub struct Applicant<'a> {
    pub disk: [u8; 16],
    pub name: &'a str,
    pub address: &'a str,
    /// The highest version that it may speak.
    pub speaks: Version,
}

/// Asks each address in turn.
pub async fn join(
    endpoint: quinn::Endpoint,
    addresses: &[String],
    token: &JoinToken,
    applicant: Applicant<'_>,
) -> Result<Admitted, JoinError> {
    let peers = Peers::new(endpoint, pki::joining_client(token.fingerprint)?).map_err(JoinError::Quic)?;
    let join = Join {
        secret: ByteVec::from(token.secret.to_vec()),
        disk: applicant.disk.into(),
        name: applicant.name.into(),
        address: applicant.address.into(),
        speaks: applicant.speaks,
    };
    let mut reasons = Vec::new();
    for address in addresses {
        let call = peers.call(&PeerAddress::any(address), CallKind::Join, encode(&join), JOIN_DEADLINE).await;
        match call.map_err(|e| e.to_string()).and_then(|body| decode(&body)) {
            Ok(JoinAnswer::Admitted { node, authority, cluster, recovered }) => {
                return Ok(Admitted { node, cluster, recovered, authority });
            }
            Ok(JoinAnswer::Refused(refusal)) => reasons.push(format!("{address}: {refusal}")),
            Err(error) => reasons.push(format!("{address}: {error}")),
        }
    }
    Err(JoinError::NobodyAdmitted(reasons.join("\n  ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_and_refuse_what_is_none() {
        let token = JoinToken { fingerprint: [7; 32], secret: [200; 16] };
        let read: JoinToken = token.to_string().parse().unwrap();
        assert_eq!((read.fingerprint, read.secret), (token.fingerprint, token.secret));
        for bad in ["", "stint1-", "stint1-zz", &"a".repeat(103)] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad:?} was taken");
        }
    }
}
