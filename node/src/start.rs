//! Starts one peer from its configuration, and stops it.

mod blobs;
mod executor;
mod fronts;
mod group_socket;
mod membership;
mod slurm;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use stint_executor::{HostClient, raise_open_files};
use stint_protocol::{NodeId, version};
use stint_raft::{Profile, RaftOptions, SyncDelay};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::announce::announce;
use crate::applied_state::VersionTooOld;
use crate::audit::AuditLog;
use crate::blobs::OpenError;
use crate::build::{BuildError, NodeParts, build_node};
use crate::certificates::{CertificateParts, Surroundings, keep};
use crate::clock::{Clock, HostClock, Rng};
use crate::config::{Config, PeersConfig, RaftProfile};
use crate::endings::EndingsFolder;
use crate::former_member::Mark;
use crate::identity::{DataDir, IdentityError, Papers};
use crate::join::{Admitted, Applicant, Given, JoinError, JoinToken, join};
use crate::leader::LeaderQueue;
use crate::limits;
use crate::node::{Node, unless_stopped};
use crate::peers;
use crate::pki::{self, Authority, Validity};
use crate::removed::{Gone, finish_removals, removed};
use crate::wire::JoinRequests;

/// How long a leader may take to hand over before it stops all the same.
const HAND_OVER: Duration = Duration::from_secs(2);

/// What a peer starts as.
pub enum StartMode {
    /// Its data folder says who it is.
    Resume,
    /// The first peer of a new cluster. On a folder that has a node already: as `Resume`.
    Bootstrap,
    /// A new peer of an existing cluster. On a folder that has a node already: as `Resume`.
    Join { addresses: Vec<String>, token: String },
}

impl StartMode {
    /// Addresses of peers that the operator named.
    fn named(&self) -> Vec<String> {
        match self {
            StartMode::Join { addresses, .. } => addresses.clone(),
            StartMode::Resume | StartMode::Bootstrap => Vec::new(),
        }
    }
}

/// Where a started peer can be reached.
#[derive(Clone, Debug)]
pub struct Ready {
    pub node_id: u64,
    pub peers: SocketAddr,
    pub api: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub socket: PathBuf,
    /// Folder with `ca.pem`, `admin.pem` and `admin-key.pem`.
    pub credentials: PathBuf,
}

/// Why a peer did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "{0} belongs to no cluster yet: start with --bootstrap for a new cluster, or with --join ADDRESS --token-file FILE"
    )]
    NoCluster(PathBuf),
    #[error(
        "{} is empty, but it was {}: a second cluster is not founded by accident. To come back, start with --join ADDRESS \
         --token-file FILE (a peer that is there makes tokens, and removes the old node); to restore from a file see \
         docs/using/recovery.md; for a new cluster remove {} first",
        .folder.display(), .mark.what, .mark.path.display()
    )]
    WasMember { folder: PathBuf, mark: Mark },
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    #[error("TLS of the API: {0}")]
    ApiTls(String),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("listening on {what} {address}: {source}")]
    Listen { what: &'static str, address: String, source: std::io::Error },
    #[error(transparent)]
    GroupSocket(#[from] group_socket::GroupSocketError),
    #[error("stored bytes: {0}")]
    Blobs(#[from] OpenError),
    #[error("the folder of unpacked images {}: {source}", folder.display())]
    Images { folder: PathBuf, source: std::io::Error },
    #[error("the executor cannot start: {0}")]
    Executor(String),
    #[error("this peer did not become a member of its cluster: {0}")]
    Membership(String),
    #[error("this peer stops: {0}")]
    Outgrown(VersionTooOld),
    #[error(
        "this peer was removed from its cluster (stint node remove), so it ends: to join again, empty {} and start with \
         --join ADDRESS --token-file FILE",
        .0.display()
    )]
    Removed(PathBuf),
    #[error(
        "this peer ends, as a peer that it knew says: {why}. Its folder is {}: what it knows that the cluster does not \
         is lost with it",
        .folder.display()
    )]
    LeftOut { why: String, folder: PathBuf },
    #[error("this peer stops and does not start again by itself: {0}. See docs/using/recovery.md")]
    Contradicted(String),
    #[error("the log failed, so this peer stops (it never retries a failed write): {0}")]
    LogFailed(String),
}

/// Runs a peer until `stop` is raised or its log fails.
pub async fn serve(
    config: Config,
    mode: StartMode,
    ready: Option<oneshot::Sender<Ready>>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), NodeError> {
    let open_files = raise_open_files();
    let rng = Arc::new(Rng::from_system());
    let clock: Arc<dyn Clock> = Arc::new(HostClock);
    let mut dir = DataDir::open(&config.node.data_dir, rng.random_bits())?;
    let (endpoint, local) = bind(config.peers.listen)?;
    let advertise = with_port(&config.peers.advertise, local);
    let named = mode.named();
    settle_identity(&mut dir, &config, mode, &endpoint, &advertise).await?;
    if !wait_for_old_leases(&mut dir, &mut stop).await? {
        return Ok(());
    }
    let (node, queue) = open_node(&dir, &config, &endpoint, clock, rng).await?;

    let mut tasks = JoinSet::new();
    tasks.spawn(peers::serve(endpoint, node.clone()));
    tasks.spawn(node.leader.clone().run(queue));
    // Before anything else: where its certificate has expired nobody else talks to this peer.
    let (folder, credentials) = (dir.pki(), dir.credentials());
    let around = Surroundings { folder, credentials, address: advertise.clone(), also: named };
    tasks.spawn(keep(node.clone(), around));
    membership::settle(&node, &mut dir, &config, &advertise, &mut stop).await?;
    tasks.spawn(announce(node.clone(), advertise.clone()));
    tasks.spawn(finish_removals(node.clone()));
    let store = blobs::start(&node, &dir, &config, &mut tasks)?;
    open_audit(&node, &dir);
    let executing = executor::start(&node, &mut dir, &config, store, &mut tasks).await?;
    let node = executing.node;
    let fronts = fronts::start(&node, &config, open_files, &mut tasks).await?;
    tracing::info!(node = node.id.0, address = %advertise, "peer is up");
    let peer = Ready {
        node_id: node.id.0,
        peers: local,
        api: fronts.api,
        http: fronts.http,
        socket: config.api.socket.clone(),
        credentials: dir.credentials(),
    };
    if let Some(ready) = ready {
        // Whoever started this peer may not care.
        let _ = ready.send(peer);
    }
    let end = tokio::select! {
        _ = stop.wait_for(|stopped| *stopped) => End::Asked,
        why = node.raft.fatal() => End::Failed(why),
        gone = removed(node.clone(), advertise.clone()) => End::Gone(gone),
    };
    executing.closing.store(true, SeqCst);
    let why = match end {
        End::Asked => {
            hand_over(&node).await;
            stop_node(&node, executing.host, tasks).await;
            return Ok(());
        }
        End::Gone(gone) => {
            tracing::error!("this peer has no part in its cluster any more, so it ends");
            stop_soon(&node, executing.host, tasks).await;
            return Err(ended(&dir, gone));
        }
        End::Failed(why) => why,
    };
    // At once: what comes next may take its time on a disk that fails.
    tracing::error!(error = %why, "this peer stops at once; its attempts go on until their leases end");
    stop_soon(&node, executing.host, tasks).await;
    let outgrown = node.applied.outgrown().map(NodeError::Outgrown);
    let contradicted = || node.raft.contradiction().map(NodeError::Contradicted);
    Err(outgrown.or_else(contradicted).unwrap_or(NodeError::LogFailed(why)))
}

/// What a peer says that is no member any more.
fn ended(dir: &DataDir, gone: Gone) -> NodeError {
    let folder = dir.path.clone();
    match gone {
        Gone::Removed => {
            // Who was left out may still be the survivor from which an operator recovers.
            if let Err(error) = dir.pki().forget_authority_key() {
                tracing::warn!(%error, "the key of the cluster's authority cannot be removed");
            }
            NodeError::Removed(folder)
        }
        Gone::LeftOut(why) => NodeError::LeftOut { why, folder },
    }
}

/// Why a peer ends.
enum End {
    Asked,
    Gone(Gone),
    Failed(String),
}

/// Ends everything that runs in this process; attempts go on under the watchdog.
async fn stop_node(node: &Node, host: Option<HostClient>, mut tasks: JoinSet<()>) {
    tasks.shutdown().await;
    if let Some(host) = host {
        host.shutdown(false).await;
    }
    node.raft.stop().await;
    node.peers.close();
}

/// The same, but not for long: nobody waits for what this peer could still keep.
async fn stop_soon(node: &Node, host: Option<HostClient>, tasks: JoinSet<()>) {
    if timeout(limits::STOP_AFTER_FAILURE, stop_node(node, host, tasks)).await.is_err() {
        tracing::warn!("stopping took too long and is cut short");
    }
}

/// Nobody is kept from working as there is no room for a line about it.
fn open_audit(node: &Node, dir: &DataDir) {
    match AuditLog::open(dir.path.join("audit.jsonl")) {
        Ok(log) => drop(node.audit.set(log)),
        Err(error) => tracing::warn!(%error, "there is no audit log"),
    }
}

fn bind(listen: SocketAddr) -> Result<(Endpoint, SocketAddr), NodeError> {
    let failed = |source| NodeError::Listen { what: "peers", address: listen.to_string(), source };
    let socket = std::net::UdpSocket::bind(listen).map_err(failed)?;
    let endpoint =
        Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).map_err(failed)?;
    let local = endpoint.local_addr().map_err(failed)?;
    Ok((endpoint, local))
}

/// The advertised address; port 0 stands for the port that was bound.
fn with_port(advertise: &str, local: SocketAddr) -> String {
    match advertise.strip_suffix(":0") {
        Some(host) => format!("{host}:{}", local.port()),
        None => advertise.into(),
    }
}

/// How a new cluster, which speaks what its first peer may, keeps the authority's key and for how long certificates are valid.
struct Terms {
    sealed: bool,
    validity: Validity,
    /// Of the administrator's certificate.
    admin: Validity,
}

impl Terms {
    fn from_config(config: &Config) -> Self {
        let starting = |ms| Validity::starting(HostClock.wall(), Duration::from_millis(ms));
        let PeersConfig { certificate_ttl_ms, admin_certificate_ttl_ms, .. } = config.peers;
        match config.cluster.max_version >= version::CERTIFICATES {
            true => Self {
                sealed: true,
                validity: starting(certificate_ttl_ms),
                admin: starting(admin_certificate_ttl_ms),
            },
            false => Self { sealed: false, validity: Validity::ENDLESS, admin: Validity::ENDLESS },
        }
    }
}

/// After this the data folder says which node it is.
async fn settle_identity(
    dir: &mut DataDir,
    config: &Config,
    mode: StartMode,
    endpoint: &Endpoint,
    advertise: &str,
) -> Result<(), NodeError> {
    if let Some(node) = dir.node() {
        tracing::info!(%node, "going on as the node this data folder belongs to");
        return Ok(());
    }
    match mode {
        StartMode::Resume => Err(NodeError::NoCluster(dir.path.clone())),
        StartMode::Bootstrap => {
            if let Some(mark) = dir.was_member() {
                return Err(NodeError::WasMember { folder: dir.path.clone(), mark });
            }
            let (node, authority, terms) = (NodeId(1), Authority::make()?, Terms::from_config(config));
            let keys = dir.join_keys()?;
            let papers =
                Papers::issue(&authority, &keys, node, None, advertise, (terms.validity, terms.admin))?;
            dir.keep_key(&authority, terms.sealed)?;
            dir.become_node(node, &config.cluster.name, None, (&papers, &keys), &[])?;
            Ok(())
        }
        StartMode::Join { addresses, token } => {
            let token: JoinToken = token.parse()?;
            let keys = dir.join_keys()?;
            let [peer, admin] = keys.requests()?;
            let applicant = Applicant {
                disk: dir.disk()?.0.to_be_bytes(),
                name: &config.node.name,
                address: advertise,
                speaks: config.cluster.max_version,
                requests: JoinRequests { peer, admin },
                now: || HostClock.wall(),
            };
            let admitted = join(endpoint.clone(), &addresses, &token, applicant).await?;
            let Admitted { node, cluster, recovered, given } = admitted;
            let recovered = recovered.as_deref();
            let papers = match given {
                Given::Papers(papers) => papers,
                Given::Authority(authority) => {
                    dir.keep_key(&authority, false)?;
                    {
                        let endless = (Validity::ENDLESS, Validity::ENDLESS);
                        Papers::issue(&authority, &keys, node, recovered, advertise, endless)?
                    }
                }
            };
            dir.become_node(node, &cluster, recovered, (&papers, &keys), &addresses)?;
            Ok(())
        }
    }
}

/// Before the first start of a cluster that began anew: attempts of the one before may run until their leases are over
/// (docs/internals/leases.md#new-beginning). A clock that stands still while the machine is suspended only waits longer.
/// False: it was stopped meanwhile, and waits again next time.
async fn wait_for_old_leases(dir: &mut DataDir, stop: &mut watch::Receiver<bool>) -> Result<bool, NodeError> {
    let wait = dir.wait();
    if wait.is_zero() {
        return Ok(true);
    }
    tracing::warn!(
        seconds = wait.as_secs_f64(),
        "this cluster began anew: waiting until the leases of the one before are over"
    );
    if unless_stopped(stop, sleep(wait)).await.is_none() {
        return Ok(false);
    }
    dir.waited()?;
    Ok(true)
}

async fn open_node(
    dir: &DataDir,
    config: &Config,
    endpoint: &Endpoint,
    clock: Arc<dyn Clock>,
    rng: Arc<Rng>,
) -> Result<(Arc<Node>, LeaderQueue), NodeError> {
    let id = dir.node().ok_or_else(|| NodeError::NoCluster(dir.path.clone()))?;
    let cluster = dir.cluster().unwrap_or_default().to_string();
    let recovered = dir.recovered().map(str::to_owned);
    let pki = dir.pki();
    let certificates = CertificateParts {
        root: pki.root()?,
        identity: pki.identity()?,
        authority: pki.readable_authority(),
        life: Duration::from_millis(config.peers.certificate_ttl_ms),
        admin_life: Duration::from_millis(config.peers.admin_certificate_ttl_ms),
    };
    let options = raft_options(config, &cluster, dir)?;
    let log = dir.log();
    let endings = Some(EndingsFolder { path: dir.path.join("endings"), reserve: config.blobs.disk.reserve });
    let endpoint = endpoint.clone();
    let speaks = config.cluster.max_version;
    let parts = NodeParts {
        id,
        cluster,
        recovered,
        speaks,
        certificates,
        log,
        endings,
        options,
        endpoint,
        clock,
        rng,
    };
    Ok(build_node(parts).await?)
}

fn raft_options(config: &Config, cluster: &str, dir: &DataDir) -> Result<RaftOptions, NodeError> {
    // Peers of before are refused by this name, too.
    let name = match dir.recovered() {
        Some(id) => format!("{cluster} (recovered as {id})"),
        None => cluster.to_owned(),
    };
    let mut options = RaftOptions::new(name);
    options.disk_id = Some(dir.disk()?.to_string());
    options.max_entry_bytes = limits::ENTRY_BYTES;
    options.snapshot_every_entries = config.raft.snapshot_every_entries;
    options.profile = match config.raft.profile {
        RaftProfile::Fast => Profile::Fast,
        RaftProfile::Lan => Profile::Lan,
        RaftProfile::Tight => Profile::Tight,
        RaftProfile::Wan => Profile::Wan,
    };
    if config.raft.extra_sync_delay_ms > 0 {
        options.sync_delay = SyncDelay::fixed(Duration::from_millis(config.raft.extra_sync_delay_ms));
    }
    Ok(options)
}

/// A leader that stops leaves the lead to another voter first.
async fn hand_over(node: &Node) {
    if !node.leader.leads() || node.raft.status().voters.len() < 2 {
        return;
    }
    match timeout(HAND_OVER, node.raft.transfer_leadership(None, HAND_OVER)).await {
        Ok(Ok(())) => tracing::info!("handed the lead over"),
        Ok(Err(error)) => tracing::warn!(%error, "could not hand the lead over"),
        Err(_) => tracing::warn!("handing the lead over took too long"),
    }
}
