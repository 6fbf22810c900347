//! Listeners of a peer's fronts.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::NodeError;
use super::group_socket::{self, GroupSocketError};
use crate::config::Config;
use crate::front::connections::{Connection, LimitedListener, Patience};
use crate::front::{GroupSocket, Socket, Tls, http, native};
use crate::limits;
use crate::local_users::{self, Directory, LocalUsers};
use crate::node::Node;
use crate::pki;

/// Addresses that were bound.
pub struct Fronts {
    pub api: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
}

/// Starts every front that the configuration names. This process may have `open_files` open.
pub async fn start(
    node: &Arc<Node>,
    config: &Config,
    open_files: u64,
    tasks: &mut JoinSet<()>,
) -> Result<Fronts, NodeError> {
    if open_files < limits::FEW_OPEN_FILES {
        tracing::warn!(
            open_files,
            "few files may be open, so the fronts take few connections: raise `ulimit -Hn`"
        );
    }
    let most = limits::SOCKET_CONNECTIONS.within(open_files);
    match &config.api.group {
        None => serve_socket(node, &config.api.socket, most, tasks)?,
        Some(group) => {
            serve_socket(node, &config.api.socket, most / 2, tasks)?;
            serve_group(node, config, group, most / 2, tasks).await?;
        }
    }
    let most = limits::API_CONNECTIONS.within(open_files);
    let api = match config.api.listen {
        Some(address) => Some(serve_api(node, config, address, most, tasks).await?),
        None => None,
    };
    let most = limits::HTTP_CONNECTIONS.within(open_files);
    let http = match config.http.listen {
        Some(address) => Some(serve_http(node, address, most, tasks).await?),
        None => None,
    };
    Ok(Fronts { api, http })
}

/// The local administrator's door: who may open the socket may do everything.
fn serve_socket(
    node: &Arc<Node>,
    path: &Path,
    most: usize,
    tasks: &mut JoinSet<()>,
) -> Result<(), NodeError> {
    let failed = |source| NodeError::Listen { what: "socket", address: path.display().to_string(), source };
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let checked = InterceptedService::new(native::service(node.clone()), Socket);
    let server = bounded(Server::builder()).add_service(checked);
    let connections =
        LimitedListener::new("socket", listener, most, Patience::FirstRequest(limits::FIRST_REQUEST));
    tasks.spawn(async move {
        if let Err(error) = server.serve_with_incoming(connections.into_stream()).await {
            tracing::error!(%error, "the socket front ended");
        }
    });
    Ok(())
}

/// A door for members of a group: the kernel says which user calls.
async fn serve_group(
    node: &Arc<Node>,
    config: &Config,
    group: &str,
    most: usize,
    tasks: &mut JoinSet<()>,
) -> Result<(), NodeError> {
    let gid = match local_users::number(Directory::Groups, group).await {
        Ok(Some(gid)) => gid,
        Ok(None) => return Err(GroupSocketError::UnknownGroup(group.into()).into()),
        Err(error) => return Err(GroupSocketError::LookUp(group.into(), error).into()),
    };
    let users = Arc::new(LocalUsers::from_config(&config.api, config.executor.runs_as_users()).await);
    let socket = &config.api.group_socket;
    let listener = group_socket::bind(socket, gid)?;
    tracing::info!(socket = %socket.display(), group, gid, "members of the group may call");
    let of_a_user = most.div_ceil(limits::USERS_SHARE);
    let patience = Patience::FirstRequest(limits::FIRST_REQUEST);
    let connections = LimitedListener::with_users("group_socket", listener, most, of_a_user, patience);
    let checked =
        InterceptedService::new(native::service(node.clone()), GroupSocket { node: node.clone(), users });
    let server = bounded(Server::builder()).add_service(checked);
    tasks.spawn(async move {
        if let Err(error) = server.serve_with_incoming(connections.into_stream()).await {
            tracing::error!(%error, "the group's socket front ended");
        }
    });
    Ok(())
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), NodeError> {
    let failed = |source| NodeError::Listen { what, address: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// TCP, under TLS: an access token opens it, or an administrator's certificate.
async fn serve_api(
    node: &Arc<Node>,
    config: &Config,
    address: SocketAddr,
    most: usize,
    tasks: &mut JoinSet<()>,
) -> Result<SocketAddr, NodeError> {
    let (listener, local) = bind("api", address).await?;
    let host = config
        .peers
        .advertise
        .rsplit_once(':')
        .map_or("localhost", |(host, _)| host.trim_matches(['[', ']']));
    pki::require_tls13()?;
    let (host, renewals) = (host.to_owned(), node.certificates.renewals());
    let first = ApiServer::start(node, &host)?;
    let connections =
        LimitedListener::new("api", listener, most, Patience::FirstRequest(limits::FIRST_REQUEST));
    tasks.spawn(hand_to_servers(node.clone(), host, connections, first, renewals));
    Ok(local)
}

type ApiConnection = Connection<tokio::net::TcpStream>;

/// Serves what is handed to it, with the certificate that the peer had when it was started.
struct ApiServer {
    connections: mpsc::Sender<io::Result<ApiConnection>>,
    serving: JoinSet<()>,
}

impl ApiServer {
    fn start(node: &Arc<Node>, host: &str) -> Result<Self, NodeError> {
        let own = node.certificates.of_api(host)?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&own.certificate, &own.key))
            .client_ca_root(Certificate::from_pem(node.certificates.root().for_clients()?))
            .client_auth_optional(true)
            .timeout(limits::TLS_HANDSHAKE);
        let checked = InterceptedService::new(native::service(node.clone()), Tls(node.clone()));
        // On a socket of this machine the kernel says that a client is gone.
        let builder = bounded(Server::builder())
            .http2_keepalive_interval(Some(limits::CLIENT_PROBE))
            .http2_keepalive_timeout(Some(limits::CLIENT_PROBE_ANSWER));
        let mut builder = builder.tls_config(tls).map_err(|e| NodeError::ApiTls(e.to_string()))?;
        let server = builder.add_service(checked);
        let (connections, incoming) = mpsc::channel(1);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            if let Err(error) = server.serve_with_incoming(ReceiverStream::new(incoming)).await {
                tracing::error!(%error, "the API front ended");
            }
        });
        Ok(Self { connections, serving })
    }

    /// Takes no more connections, and ends when the handshakes are over that it has begun.
    fn retire(mut self) {
        tokio::spawn(async move {
            sleep(limits::TLS_HANDSHAKE).await;
            drop(self.connections);
            while self.serving.join_next().await.is_some() {}
        });
    }
}

/// Hands each connection to a server that shows the newest certificate.
async fn hand_to_servers(
    node: Arc<Node>,
    host: String,
    mut listener: LimitedListener<TcpListener>,
    mut server: ApiServer,
    mut renewals: watch::Receiver<()>,
) {
    loop {
        let connection = listener.accept_one().await;
        if renewals.has_changed().unwrap_or(false) {
            renewals.mark_unchanged();
            match ApiServer::start(&node, &host) {
                Ok(new) => std::mem::replace(&mut server, new).retire(),
                Err(error) => tracing::error!(%error, "the API front shows its old certificate"),
            }
        }
        if server.connections.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

/// Bytes of an image may be on their way before the disk has the first of them.
fn bounded(server: Server) -> Server {
    let (stream, connection) = (limits::UPLOAD_WINDOW_BYTES, limits::UPLOAD_WINDOW_BYTES * 2);
    server
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .max_concurrent_streams(limits::REQUESTS_OF_A_CONNECTION)
}

async fn serve_http(
    node: &Arc<Node>,
    address: SocketAddr,
    most: usize,
    tasks: &mut JoinSet<()>,
) -> Result<SocketAddr, NodeError> {
    let (listener, local) = bind("http", address).await?;
    let routes = http::routes(node.clone());
    let patience = Patience::EachRequest(limits::HTTP_PAUSE, limits::HTTP_REQUEST_BYTES);
    let connections = LimitedListener::new("http", listener, most, patience);
    tasks.spawn(async move {
        if let Err(error) = axum::serve(connections, routes).await {
            tracing::error!(%error, "the HTTP front ended");
        }
    });
    Ok(local)
}
