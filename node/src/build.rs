//! Puts a peer together from its doors: the same for a real peer and a simulated one.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use stint_protocol::{NodeId, Version};
use stint_raft::{OpenError, Raft, RaftOptions};

use crate::applied_state::{AppliedState, NodeStateMachine, VersionTooOld};
use crate::attempt_output::AttemptOutput;
use crate::certificates::{CertificateParts, Certificates};
use crate::clock::{Clock, Rng};
use crate::endings::{Endings, EndingsFolder};
use crate::leader::{Leader, LeaderQueue};
use crate::leader_client::LeaderClient;
use crate::node::Node;
use crate::peers::{self, Peers};
use crate::pki::{self, PkiError};
use crate::reports::Reports;
use crate::requests::Requests;
use crate::transport::RaftTransport;

/// What a peer is made of. Log storage is in `options`; the execution host comes later, to `Node::output`.
pub struct NodeParts {
    pub id: NodeId,
    pub cluster: String,
    /// The id of the cluster, where it was recovered.
    pub recovered: Option<String>,
    /// The highest version that it may speak.
    pub speaks: Version,
    pub certificates: CertificateParts,
    /// The log's folder.
    pub log: PathBuf,
    /// Where what attempts wrote last is kept; none: this peer keeps none.
    pub endings: Option<EndingsFolder>,
    pub options: RaftOptions,
    /// Client and server side of the connections between peers.
    pub endpoint: quinn::Endpoint,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<Rng>,
}

/// Why a peer could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the log cannot be used: {0}")]
    Log(#[from] OpenError),
    #[error("the folder of endings cannot be used: {0}")]
    Endings(std::io::Error),
    #[error(transparent)]
    Outgrown(#[from] VersionTooOld),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("QUIC: {0}")]
    Quic(String),
}

/// A peer that serves nobody yet: `peers::serve` and `Leader::run` bring it to life.
pub async fn build_node(parts: NodeParts) -> Result<(Arc<Node>, LeaderQueue), BuildError> {
    let NodeParts { id, cluster, recovered, speaks, certificates, log, options, endpoint, .. } = parts;
    let NodeParts { endings, clock, rng, .. } = parts;
    let (root, identity) = (&certificates.root, &certificates.identity);
    let server = peers::server_config(pki::peer_server(root, identity)?).map_err(BuildError::Quic)?;
    endpoint.set_server_config(Some(server));
    let client = pki::peer_client(root, identity)?;
    let certificates = Certificates::new(id, recovered.clone(), certificates);
    let peers = Arc::new(Peers::new(endpoint, client).map_err(BuildError::Quic)?);
    let shared = AppliedState::new(speaks)?;
    if let Some(folder) = endings {
        // Set here alone, once: before the log is read.
        let _ = shared.endings.set(Endings::open(folder).map_err(BuildError::Endings)?);
    }
    let transport = Arc::new(RaftTransport(peers.clone()));
    let opened = Raft::open(id.0, log, options, NodeStateMachine(shared.clone()), transport).await;
    let raft = match (opened, shared.outgrown()) {
        (Err(_), Some(outgrown)) => return Err(outgrown.into()),
        (opened, _) => opened?,
    };
    shared.is_open.store(true, Ordering::SeqCst);
    shared.counts.begin(raft.status().last_log.unwrap_or(0));
    let (leader, queue) = Leader::new(raft.clone(), shared.clone(), clock.clone());
    let reports = Reports { leader: leader.clone(), shared: shared.clone() };
    let requests = Requests {
        leader: leader.clone(),
        shared: shared.clone(),
        clock: clock.clone(),
        promotions: Default::default(),
    };
    let requests = Arc::new(requests);
    let output = AttemptOutput { id, shared: shared.clone(), peers: peers.clone(), host: OnceLock::new() };
    let leader_client = Arc::new(LeaderClient {
        id,
        raft: raft.clone(),
        shared: shared.clone(),
        leader: leader.clone(),
        requests: requests.clone(),
        peers: peers.clone(),
    });
    let node = Node {
        id,
        cluster,
        recovered,
        raft,
        applied: shared,
        leader,
        peers,
        clock,
        rng,
        output,
        blobs: OnceLock::new(),
        audit: OnceLock::new(),
        certificates,
        reports,
        requests,
        leader_client,
    };
    Ok((Arc::new(node), queue))
}
