//! What a peer proves itself with, and the key of the cluster's authority while it votes.

mod admin;
mod issuing;
mod keeper;
mod rotation;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use stint_protocol::{NodeId, TimeMs};
use tokio::sync::watch;

pub use keeper::{Surroundings, keep};

use crate::pki::{self, Authority, Identity, PkiError, PkiFolder, PublicKey, Root, Validity};

/// How long certificates of nodes are valid, unless a configuration says otherwise: 30 days.
pub const LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The same of administrators' certificates: a year.
pub const ADMIN_LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Certificates and keys of one peer.
pub struct Certificates {
    root: RwLock<Arc<Root>>,
    /// How often another authority was trusted since this process began.
    changes: AtomicU64,
    /// Where the key of the next authority is kept; empty on a peer that keeps none.
    folder: OnceLock<PkiFolder>,
    node: NodeId,
    /// The id of the cluster, where it was recovered.
    recovered: Option<String>,
    /// Of certificates that this peer issues.
    life: Duration,
    admin_life: Duration,
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
    /// Of administrators' certificates.
    pub admin_life: Duration,
}

impl Certificates {
    /// Those of this node.
    pub fn new(node: NodeId, recovered: Option<String>, parts: CertificateParts) -> Self {
        let CertificateParts { root, identity, authority, life, admin_life } = parts;
        Self {
            root: RwLock::new(Arc::new(root)),
            changes: AtomicU64::new(0),
            folder: OnceLock::new(),
            node,
            recovered,
            life,
            admin_life,
            identity: RwLock::new(Arc::new(identity)),
            authority: RwLock::new(authority.map(Arc::new)),
            renewed: watch::Sender::new(()),
            gone: OnceLock::new(),
        }
    }

    /// Whom this peer trusts.
    pub fn root(&self) -> Arc<Root> {
        self.root.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn trust(&self, root: Root) {
        *self.root.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(root);
        self.changes.fetch_add(1, SeqCst);
    }

    /// Whether the cluster has another authority than the one it was founded with.
    fn was_changed(&self) -> bool {
        let root = self.root();
        root.first().len() < root.0.len()
    }

    /// How often another authority was trusted: what was verified before may not be trusted any more.
    pub fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
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
        let own = match self.authority().filter(|_| pki::host_of(&format!("{host}:0")).is_some()) {
            Some(authority) if !pki::carries(&own.der()?, host) => {
                let names = ["localhost", "127.0.0.1", host, &pki::node_name(self.node)];
                Arc::new(authority.issue(&names)?)
            }
            _ => own,
        };
        let more = self.root().for_old_clients()?;
        if more.is_empty() {
            return Ok(own);
        }
        let certificate = [own.certificate.as_str(), &more].concat();
        Ok(Arc::new(Identity { certificate, key: own.key.clone() }))
    }

    /// An administrator's certificate for the folder of a node, by this peer's clock.
    fn certify_admin(
        &self,
        authority: &Authority,
        key: &PublicKey,
        node: NodeId,
        now: TimeMs,
    ) -> Result<String, PkiError> {
        authority.certify_admin(key, node, Validity::starting(now, self.admin_life))
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
