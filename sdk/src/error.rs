//! What can go wrong with a call: it could not be set up, no peer answered, or a peer refused.

use std::fmt;
use std::path::PathBuf;

use tonic::Code;

use crate::address::{Address, InvalidAddress};

/// A failed operation: what was attempted, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    InvalidAddress(#[from] InvalidAddress),
    #[error("no address of a peer was given: name at least one, for example unix:/var/lib/stint/stint.sock")]
    NoAddress,
    #[error(
        "{address} needs an access token with the cluster's ca.pem, or a client certificate: give a token (STINT_TOKEN), or the folder \
         with ca.pem, admin.pem and admin-key.pem"
    )]
    CredentialsNeeded { address: Address },
    #[error("cannot read {}: {source}; copy the credentials from {{data_dir}}/credentials of a peer", path.display())]
    Credentials { path: PathBuf, source: std::io::Error },
    #[error("the access token has characters that no token has: `stint token create` prints one")]
    NoToken,
    #[error("cannot use {address}: {problem}; check the address and the certificates")]
    Setup { address: Address, problem: String },
    #[error("cannot make an idempotency key: the system gives no random numbers ({0}); give a key yourself")]
    NoRandomness(String),
    #[error("cannot read the bytes to send: {0}")]
    Source(std::io::Error),
    #[error("the peer's document cannot be read: {0}")]
    Document(serde_json::Error),
    /// No address gave an answer that counts. What was asked may have been done or not.
    #[error(
        "cannot {operation}: {}; check that a peer runs there and that the cluster has a leader",
        list(tried)
    )]
    Unreachable { operation: &'static str, tried: Vec<Try> },
    /// A peer answered no; repeating it as it is will not help.
    #[error("refused: {message}")]
    Refused { operation: &'static str, address: Address, code: Code, message: String },
}

impl Error {
    /// The gRPC code of a refusal.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The last problem at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    pub address: Address,
    pub problem: String,
    /// False when no connection came about, so that nothing can have been done there.
    pub connected: bool,
    /// It waited for a leader and there is none: it will say so until a majority of the peers is back.
    pub leaderless: bool,
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.problem)?;
        // In words of TLS: what this side trusts, or shows, is of another authority, or has ended.
        let of_certificates =
            ["UnknownIssuer", "BadSignature", "UnknownCA", "DecryptError", "CertificateExpired"];
        match &self.address {
            Address::Https { .. } if of_certificates.iter().any(|word| self.problem.contains(word)) => {
                f.write_str(
                    " (ca.pem or the certificate has ended, or is of an authority that the cluster does not have any more: copy \
                     the folder {data_dir}/credentials of a peer again)",
                )
            }
            Address::Unix(_) if self.problem.starts_with("Permission denied") => f.write_str(
                " (only its user may open the socket of a node, and members of the group `api.group` the other one: ask an \
                 administrator of this machine to add you to that group)",
            ),
            _ => Ok(()),
        }
    }
}

fn list(tried: &[Try]) -> String {
    let shown: Vec<String> = tried.iter().map(Try::to_string).collect();
    shown.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_certificates_of_before_is_told_what_to_do() {
        let tried = |address: &str, problem: &str| Try {
            address: address.parse().unwrap(),
            problem: problem.into(),
            connected: false,
            leaderless: false,
        };
        for problem in ["invalid peer certificate: BadSignature", "received fatal alert: CertificateExpired"]
        {
            let said = tried("https://a:1", problem).to_string();
            assert!(said.contains(problem) && said.contains("credentials of a peer again"), "{said}");
        }
        assert!(!tried("https://a:1", "connection refused").to_string().contains("credentials"));
    }
}
