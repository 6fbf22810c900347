//! What a peer proves itself with, and the key of the cluster's authority while it votes.

mod issuing;
mod keeper;

use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use stint_protocol::{NodeId, TimeMs};
use tokio::sync::watch;

pub use keeper::{Surroundings, keep};

use crate::pki::{self, Authority, Identity, PkiError, PublicKey, Root, Validity};

/// How long certificates of nodes are valid, unless a configuration says otherwise: 30 days.
pub const LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Certificates and keys of one peer.
pub struct Certificates {
    pub root: Root,
    node: NodeId,
    /// The id of the cluster, where it was recovered.
    recovered: Option<String>,
    /// Of certificates that this peer issues.
    life: Duration,
    identity: RwLock<Arc<Identity>>,
    authority: RwLock<Option<Arc<Authority>>>,
    renewed: watch::Sender<()>,
    gone: OnceLock<String>,
}

/// What they are made of.
pub struct CertificateParts {
    pub root: Root,
    pub identity: Identity,
    /// Where its key is here.
    pub authority: Option<Authority>,
    pub life: Duration,
}

impl Certificates {
    /// Those of this node.
    pub fn new(node: NodeId, recovered: Option<String>, parts: CertificateParts) -> Self {
        let CertificateParts { root, identity, authority, life } = parts;
        Self {
            root,
            node,
            recovered,
            life,
            identity: RwLock::new(Arc::new(identity)),
            authority: RwLock::new(authority.map(Arc::new)),
            renewed: watch::Sender::new(()),
            gone: OnceLock::new(),
        }
    }

    /// The certificate of this peer, with its key.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The authority with its key, where it is here.
    pub fn authority(&self) -> Option<Arc<Authority>> {
        self.authority.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set_authority(&self, authority: Option<Authority>) {
        *self.authority.write().unwrap_or_else(|e| e.into_inner()) = authority.map(Arc::new);
    }

    /// Changes with every new certificate of this peer.
    pub fn renewals(&self) -> watch::Receiver<()> {
        self.renewed.subscribe()
    }

    /// Why this peer is given no certificate any more, in the words of a voter.
    pub fn gone(&self) -> Option<&str> {
        self.gone.get().map(String::as_str)
    }

    /// Seconds until the certificate of this peer ends; less than none after that.
    pub fn left_s(&self, now: TimeMs) -> Option<i64> {
        let validity = Validity::read(&self.identity().der().ok()?)?;
        Some(validity.to as i64 - (now.0 / 1_000) as i64)
    }

    /// What the API shows to clients that call this host. Before version 5 of the cluster a peer's own certificate does not
    /// name it.
    pub fn of_api(&self, host: &str) -> Result<Arc<Identity>, PkiError> {
        let own = self.identity();
        if pki::carries(&own.der()?, host) {
            return Ok(own);
        }
        match self.authority().filter(|_| pki::host_of(&format!("{host}:0")).is_some()) {
            Some(authority) => {
                let names = ["localhost", "127.0.0.1", host, &pki::node_name(self.node)];
                Ok(Arc::new(authority.issue(&names)?))
            }
            None => Ok(own),
        }
    }

    /// A certificate for a node that is reached at `address`, by this peer's clock.
    fn certify(
        &self,
        authority: &Authority,
        key: &PublicKey,
        node: NodeId,
        address: &str,
        now: TimeMs,
    ) -> Result<String, PkiError> {
        let validity = Validity::starting(now, self.life);
        authority.certify_peer(key, node, self.recovered.as_deref(), address, validity)
    }
}
