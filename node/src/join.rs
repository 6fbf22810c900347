//! Joining an existing cluster by address and join token.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use minicbor::bytes::ByteVec;
use stint_protocol::{NodeId, TimeMs, Version};

use crate::identity::Papers;
use crate::peers::{PeerAddress, Peers};
use crate::pki::{self, Authority, Root, Validity, utc};
use crate::wire::{CallKind, Join, JoinAnswer, JoinRequests, decode, encode};

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
    #[error(
        "by the clock of this machine it is {here}, by the clock of the cluster {there}: the certificate that this node was \
         given is not valid here. Set the clock that is wrong, and join again with the same token"
    )]
    Clocks { here: String, there: String },
}

/// What an admitted node knows.
pub struct Admitted {
    pub node: NodeId,
    pub cluster: String,
    /// The id of the cluster, where it was recovered.
    pub recovered: Option<String>,
    pub given: Given,
}

/// With what an admitted node proves itself.
pub enum Given {
    Papers(Papers),
    /// The key of the authority, by a cluster before version 5: the node issues its own.
    Authority(Authority),
}

/// Who wants to join.
pub struct Applicant<'a> {
    pub disk: [u8; 16],
    pub name: &'a str,
    pub address: &'a str,
    /// The highest version that it may speak.
    pub speaks: Version,
    pub requests: JoinRequests,
    /// The clock of this machine.
    pub now: fn() -> TimeMs,
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
        requests: Some(applicant.requests),
    };
    let mut reasons = Vec::new();
    for address in addresses {
        let call = peers.call(&PeerAddress::any(address), CallKind::Join, encode(&join), JOIN_DEADLINE).await;
        match call.map_err(|e| e.to_string()).and_then(|body| decode(&body)) {
            Ok(JoinAnswer::Admitted { node, authority, cluster, recovered }) => {
                return Ok(Admitted { node, cluster, recovered, given: Given::Authority(authority) });
            }
            Ok(JoinAnswer::Enrolled { node, root, certificate, admin, cluster, recovered, now }) => {
                let papers = Papers { root: Root(root), certificate, admin };
                match check_clocks(&papers, (applicant.now)(), now) {
                    Ok(()) => return Ok(Admitted { node, cluster, recovered, given: Given::Papers(papers) }),
                    Err(error) => reasons.push(format!("{address}: {error}")),
                }
            }
            Ok(JoinAnswer::Refused(refusal)) => reasons.push(format!("{address}: {refusal}")),
            Err(error) => reasons.push(format!("{address}: {error}")),
        }
    }
    Err(JoinError::NobodyAdmitted(reasons.join("\n  ")))
}

/// A certificate that is not valid by this machine's clock is of no use, and who is told so must know both clocks.
fn check_clocks(papers: &Papers, here: TimeMs, there: TimeMs) -> Result<(), JoinError> {
    let validity = Validity::read(&pki::read(&papers.certificate)?).ok_or(pki::PkiError::NotOurs)?;
    match validity.holds(here) {
        true => Ok(()),
        false => Err(JoinError::Clocks { here: utc(here.0 / 1_000), there: utc(there.0 / 1_000) }),
    }
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

    #[test]
    fn a_joiner_whose_clock_differs_too_much_is_told_both_clocks() {
        let (authority, key) = (Authority::make().unwrap(), pki::PublicKey([7; 32]));
        let (now, month) = (TimeMs(1_800_000_000_000), Duration::from_secs(30 * 24 * 3_600));
        let validity = Validity::starting(now, month);
        let certificate = authority.certify_peer(&key, NodeId(2), None, "a:1", validity).unwrap();
        let papers = Papers { root: authority.root(), certificate, admin: String::new() };
        let at = |hours: i64| TimeMs(now.0.checked_add_signed(hours * 3_600_000).unwrap());
        for hours in [0, -1, 29 * 24] {
            check_clocks(&papers, at(hours), now).unwrap();
        }
        for hours in [-2, 31 * 24] {
            let said = check_clocks(&papers, at(hours), now).unwrap_err().to_string();
            assert!(said.contains(&utc(at(hours).0 / 1_000)) && said.contains(&utc(now.0 / 1_000)), "{said}");
        }
    }
}
