//! The client: how it is set up, and one method for each call of the native API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::TryRng as _;
use stint_protocol::v1::stint_client::StintClient;
use stint_protocol::{api, v1};
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::address::Address;
use crate::call::{Operation, Peer, Peers};
use crate::credentials::{Credentials, Token};
use crate::error::Error;
use crate::limits;
use crate::logs::LogStream;

/// Where the cluster is and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tried in turn, starting with the one that answered last.
    pub addresses: Vec<Address>,
    /// Needed for `https://` addresses.
    pub credentials: Option<Credentials>,
    /// Shown to `https://` addresses instead of a certificate.
    pub token: Option<Token>,
    /// The name to expect in a peer's certificate; none = the host of its address.
    pub server_name: Option<String>,
    /// Opening one connection.
    pub connect_timeout: Duration,
    /// One try at one address.
    pub try_timeout: Duration,
    /// One call with all its tries.
    pub call_timeout: Duration,
    /// Told of each answer that was made without a leader, from one peer's own copy.
    pub on_outdated: Option<fn(&api::Outdated)>,
}

impl Options {
    /// One address, no credentials, the limits of `limits`.
    pub fn to(address: Address) -> Self {
        Self::to_any(vec![address])
    }

    /// Several addresses of one cluster.
    pub fn to_any(addresses: Vec<Address>) -> Self {
        Self {
            addresses,
            credentials: None,
            token: None,
            server_name: None,
            connect_timeout: limits::CONNECT_TIMEOUT,
            try_timeout: limits::TRY_TIMEOUT,
            call_timeout: limits::CALL_TIMEOUT,
            on_outdated: None,
        }
    }

    fn tls(&self) -> Result<Option<ClientTlsConfig>, Error> {
        let tls = match (&self.token, &self.credentials) {
            (Some(token), _) => token.load()?,
            (None, Some(credentials)) => credentials.load()?,
            (None, None) => return Ok(None),
        };
        Ok(Some(match &self.server_name {
            Some(name) => tls.domain_name(name),
            None => tls,
        }))
    }
}

/// A handle on a cluster; clones share their connections. Must be used inside a tokio runtime.
#[derive(Clone)]
pub struct Client {
    pub(crate) peers: Arc<Peers>,
    try_timeout: Duration,
    call_timeout: Duration,
}

impl Client {
    /// Reads the credentials and sets the addresses up; connects with the first call.
    pub fn new(options: Options) -> Result<Self, Error> {
        if options.addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        let needs_tls = options.addresses.iter().any(Address::needs_credentials);
        let tls = if needs_tls { options.tls()? } else { None };
        let peers: Result<Vec<Peer>, Error> =
            options.addresses.iter().map(|address| peer(address, tls.as_ref(), &options)).collect();
        Ok(Self {
            peers: Arc::new(Peers::new(peers?, options.on_outdated)),
            try_timeout: options.try_timeout,
            call_timeout: options.call_timeout,
        })
    }

    /// Submits tasks. Always with an idempotency key, so that a repeated try cannot start them twice.
    pub async fn submit(&self, mut request: v1::SubmitRequest) -> Result<v1::SubmitReply, Error> {
        if request.idempotency_key.is_empty() {
            request.idempotency_key = new_key()?;
        }
        let operation = self.operation("submit tasks");
        self.peers.call(operation, request, |mut s, r| async move { s.submit(r).await }).await
    }

    /// One task by id or name, with its attempts.
    pub async fn get_task(&self, request: v1::GetTaskRequest) -> Result<v1::Task, Error> {
        let operation = self.operation("read the task");
        self.peers.call(operation, request, |mut s, r| async move { s.get_task(r).await }).await
    }

    /// One page of tasks, newest first.
    pub async fn list_tasks(&self, request: v1::ListTasksRequest) -> Result<v1::ListTasksReply, Error> {
        let operation = self.operation("list tasks");
        self.peers.call(operation, request, |mut s, r| async move { s.list_tasks(r).await }).await
    }

    /// One wait of at most 30 s; `wait_for` waits longer.
    pub async fn wait(&self, request: v1::WaitRequest) -> Result<v1::WaitReply, Error> {
        let asked = match request.timeout_ms {
            0 => limits::WAIT_PAGE,
            ms => Duration::from_millis(ms).min(limits::WAIT_PAGE),
        };
        let mut operation = self.operation("wait for tasks");
        operation.try_timeout += asked;
        operation.call_timeout += asked + limits::WAIT_SLACK;
        self.peers.call(operation, request, |mut s, r| async move { s.wait(r).await }).await
    }

    /// Waits until the tasks are finished (or one of them, with `any`), or `at_most` is over; none = for ever.
    pub async fn wait_for(
        &self,
        mut request: v1::WaitRequest,
        at_most: Option<Duration>,
    ) -> Result<v1::WaitReply, Error> {
        let start = Instant::now();
        loop {
            let left = at_most.map(|most| most.saturating_sub(start.elapsed()));
            let page = left.unwrap_or(limits::WAIT_PAGE).min(limits::WAIT_PAGE);
            request.timeout_ms = (page.as_millis() as u64).max(1);
            let reply = self.wait(request.clone()).await?;
            if reply.finished || at_most.is_some_and(|most| start.elapsed() >= most) {
                return Ok(reply);
            }
            tokio::time::sleep(limits::WAIT_PAUSE).await;
        }
    }

    /// Asks for the end of tasks; their records tell when they have stopped.
    pub async fn cancel(&self, request: v1::CancelRequest) -> Result<v1::CancelReply, Error> {
        let operation = self.operation("cancel tasks");
        self.peers.call(operation, request, |mut s, r| async move { s.cancel(r).await }).await
    }

    /// Why a task waits.
    pub async fn explain(&self, request: v1::ExplainRequest) -> Result<v1::ExplainReply, Error> {
        let operation = self.operation("explain the task");
        self.peers.call(operation, request, |mut s, r| async move { s.explain(r).await }).await
    }

    /// The output of one attempt. A stream of a named attempt is taken up again at another address when its
    /// connection breaks, without a byte lost or repeated; one of "the latest" attempt (0) is not.
    pub async fn logs(&self, request: v1::LogsRequest) -> Result<LogStream, Error> {
        LogStream::open(self.clone(), request).await
    }

    /// One JSON document that says how a task stands or ended, with the end of its output.
    pub async fn get_result(&self, request: v1::GetTaskRequest) -> Result<String, Error> {
        let operation = self.operation("get the result");
        Ok(self.peers.call(operation, request, |mut s, r| async move { s.get_result(r).await }).await?.json)
    }

    /// The same document, read.
    pub async fn result(&self, request: v1::GetTaskRequest) -> Result<api::TaskResult, Error> {
        serde_json::from_str(&self.get_result(request).await?).map_err(Error::Document)
    }

    /// A file that a finished task left as an output, from `request.offset` on. A stream that breaks is opened again
    /// where it broke by the caller, who knows what it has.
    pub async fn read_output(
        &self,
        request: v1::ReadOutputRequest,
    ) -> Result<tonic::Streaming<v1::OutputChunk>, Error> {
        let operation = self.operation("read an output");
        self.peers.call(operation, request, |mut s, r| async move { s.read_output(r).await }).await
    }

    /// The state of the cluster as the bytes of a file, in order.
    pub async fn save_snapshot(&self) -> Result<tonic::Streaming<v1::SnapshotChunk>, Error> {
        let operation = self.operation("save the cluster's state");
        let send = |mut s: StintClient<_>, r| async move { s.save_snapshot(r).await };
        self.peers.call(operation, v1::SaveSnapshotRequest {}, send).await
    }

    /// Who this client is to the peer that answers: its tenant and role, and how they were proven.
    pub async fn who_am_i(&self) -> Result<v1::Caller, Error> {
        let operation = self.operation("ask who I am");
        self.peers.call(operation, v1::WhoAmIRequest {}, |mut s, r| async move { s.who_am_i(r).await }).await
    }

    /// Every node of the cluster.
    pub async fn list_nodes(&self) -> Result<Vec<v1::Node>, Error> {
        let operation = self.operation("list nodes");
        let send = |mut s: StintClient<_>, r| async move { s.list_nodes(r).await };
        Ok(self.peers.call(operation, v1::ListNodesRequest {}, send).await?.nodes)
    }

    /// Sets a node to `ready`, `cordon` or `drain`.
    pub async fn set_node_mode(&self, request: v1::SetNodeModeRequest) -> Result<v1::Node, Error> {
        let operation = self.operation("set the node's mode");
        self.peers.call(operation, request, |mut s, r| async move { s.set_node_mode(r).await }).await
    }

    /// Takes a node out of the cluster for good.
    pub async fn remove_node(&self, request: v1::RemoveNodeRequest) -> Result<(), Error> {
        let operation = self.operation("remove the node");
        self.peers.call(operation, request, |mut s, r| async move { s.remove_node(r).await }).await?;
        Ok(())
    }

    /// The cluster as the peer that answers sees it.
    pub async fn cluster_status(&self) -> Result<v1::ClusterStatusReply, Error> {
        let operation = self.operation("read the cluster's status");
        let send = |mut s: StintClient<_>, r| async move { s.cluster_status(r).await };
        self.peers.call(operation, v1::ClusterStatusRequest {}, send).await
    }

    /// A token with which this many nodes may join; 0 = one. A repeated try may make a second one; both run out.
    pub async fn create_join_token(
        &self,
        valid: Duration,
        uses: u32,
    ) -> Result<v1::CreateJoinTokenReply, Error> {
        let operation = self.operation("create a join token");
        let request = v1::CreateJoinTokenRequest { valid_ms: valid.as_millis() as u64, uses };
        self.peers.call(operation, request, |mut s, r| async move { s.create_join_token(r).await }).await
    }

    /// Join tokens that are valid, without their secrets.
    pub async fn list_join_tokens(&self) -> Result<Vec<v1::JoinToken>, Error> {
        let operation = self.operation("list join tokens");
        let send = |mut s: StintClient<_>, r| async move { s.list_join_tokens(r).await };
        Ok(self.peers.call(operation, v1::ListJoinTokensRequest {}, send).await?.tokens)
    }

    /// Nobody joins with this token any more; its whole id. A repeated try may find it gone already.
    pub async fn revoke_join_token(&self, id: &str) -> Result<String, Error> {
        let operation = self.operation("revoke the join token");
        let request = v1::RevokeJoinTokenRequest { id: id.into() };
        let send = |mut s: StintClient<_>, r| async move { s.revoke_join_token(r).await };
        Ok(self.peers.call(operation, request, send).await?.id)
    }

    /// A token with which clients call without a certificate. A repeated try may make a second one; both expire.
    pub async fn create_token(&self, request: v1::CreateTokenRequest) -> Result<v1::CreateTokenReply, Error> {
        let operation = self.operation("create a token");
        self.peers.call(operation, request, |mut s, r| async move { s.create_token(r).await }).await
    }

    /// Tokens that are valid, without their secrets.
    pub async fn list_tokens(&self) -> Result<Vec<v1::Token>, Error> {
        let operation = self.operation("list tokens");
        let send = |mut s: StintClient<_>, r| async move { s.list_tokens(r).await };
        Ok(self.peers.call(operation, v1::ListTokensRequest {}, send).await?.tokens)
    }

    /// Nobody calls with this token any more; its whole id. A repeated try may find it gone already.
    pub async fn revoke_token(&self, id: &str) -> Result<String, Error> {
        let operation = self.operation("revoke the token");
        let request = v1::RevokeTokenRequest { id: id.into() };
        let send = |mut s: StintClient<_>, r| async move { s.revoke_token(r).await };
        Ok(self.peers.call(operation, request, send).await?.id)
    }

    /// Which certificate authority the cluster has, and how far its change is.
    pub async fn authority(&self) -> Result<v1::Authority, Error> {
        let operation = self.operation("read the authority");
        let send = |mut s: StintClient<_>, r| async move { s.get_authority(r).await };
        self.peers.call(operation, v1::GetAuthorityRequest {}, send).await
    }

    /// Begins a change of the certificate authority, or ends it. A repeated try may find it begun or ended already.
    pub async fn rotate_authority(
        &self,
        request: v1::RotateAuthorityRequest,
    ) -> Result<v1::Authority, Error> {
        let operation = self.operation("change the authority");
        let send = |mut s: StintClient<_>, r| async move { s.rotate_authority(r).await };
        self.peers.call(operation, request, send).await
    }

    /// The tenants that have anything, as far as the caller sees them.
    pub async fn list_tenants(&self) -> Result<Vec<v1::Tenant>, Error> {
        let operation = self.operation("list tenants");
        let send = |mut s: StintClient<_>, r| async move { s.list_tenants(r).await };
        Ok(self.peers.call(operation, v1::ListTenantsRequest {}, send).await?.tenants)
    }

    /// Removes a tenant that has nothing in use; what it was. A repeated try may find it gone already.
    pub async fn remove_tenant(&self, tenant: &str) -> Result<v1::Tenant, Error> {
        let operation = self.operation("remove the tenant");
        let request = v1::RemoveTenantRequest { tenant: tenant.into() };
        let send = |mut s: StintClient<_>, r| async move { s.remove_tenant(r).await };
        self.peers.call(operation, request, send).await
    }

    /// Hands the leadership to `node` (id or name; empty = any other voter); returns the new leader's id.
    pub async fn transfer_leader(&self, node: &str) -> Result<u64, Error> {
        let operation = self.operation("transfer the leadership");
        let request = v1::TransferLeaderRequest { node: node.into() };
        let send = |mut s: StintClient<_>, r| async move { s.transfer_leader(r).await };
        Ok(self.peers.call(operation, request, send).await?.leader_id)
    }

    /// The cluster's settings, the rules of its classes and tenants, and who changed them.
    pub async fn get_settings(&self) -> Result<v1::Settings, Error> {
        let operation = self.operation("read the settings");
        let send = |mut s: StintClient<_>, r| async move { s.get_settings(r).await };
        self.peers.call(operation, v1::GetSettingsRequest::default(), send).await
    }

    /// The settings, and in any case the rules of this tenant.
    pub async fn get_settings_of_tenant(&self, tenant: &str) -> Result<v1::Settings, Error> {
        let operation = self.operation("read the settings");
        let request = v1::GetSettingsRequest { tenant: tenant.into() };
        self.peers.call(operation, request, |mut s, r| async move { s.get_settings(r).await }).await
    }

    /// Changes settings of the cluster, or rules of one class or tenant, all or none. A repeated try changes nothing more.
    pub async fn update_settings(&self, request: v1::UpdateSettingsRequest) -> Result<v1::Settings, Error> {
        let operation = self.operation("change settings");
        self.peers.call(operation, request, |mut s, r| async move { s.update_settings(r).await }).await
    }

    /// One page of a tenant's images, by name.
    pub async fn list_images(&self, request: v1::ListImagesRequest) -> Result<v1::ListImagesReply, Error> {
        let operation = self.operation("list images");
        self.peers.call(operation, request, |mut s, r| async move { s.list_images(r).await }).await
    }

    /// One image by name, name and digest, or id.
    pub async fn get_image(&self, request: v1::GetImageRequest) -> Result<v1::Image, Error> {
        let operation = self.operation("read the image");
        self.peers.call(operation, request, |mut s, r| async move { s.get_image(r).await }).await
    }

    /// Takes an image off the list; answers what it was.
    pub async fn delete_image(&self, request: v1::DeleteImageRequest) -> Result<v1::Image, Error> {
        let operation = self.operation("delete the image");
        let send = |mut s: StintClient<_>, r| async move { s.delete_image(r).await };
        Ok(self.peers.call(operation, request, send).await?.image.unwrap_or_default())
    }

    pub(crate) fn operation(&self, name: &'static str) -> Operation {
        Operation { name, try_timeout: self.try_timeout, call_timeout: self.call_timeout }
    }
}

fn peer(address: &Address, tls: Option<&ClientTlsConfig>, options: &Options) -> Result<Peer, Error> {
    let setup = |e: tonic::transport::Error| Error::Setup { address: address.clone(), problem: cause(&e) };
    let mut endpoint = Endpoint::from_shared(address.to_string()).map_err(setup)?;
    if address.needs_credentials() {
        let tls = tls.ok_or_else(|| Error::CredentialsNeeded { address: address.clone() })?;
        endpoint = endpoint.tls_config(tls.clone()).map_err(setup)?;
    }
    let channel = endpoint
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT)
        .connect_lazy();
    let stub = StintClient::new(channel).max_decoding_message_size(limits::ANSWER_BYTES);
    let authorization = options.token.as_ref().filter(|_| address.needs_credentials());
    let authorization = authorization.map(Token::header).transpose()?;
    Ok(Peer { address: address.clone(), stub, authorization })
}

fn cause(error: &tonic::transport::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |s| s.to_string())
}

/// 128 random bits: unique without asking anyone.
fn new_key() -> Result<String, Error> {
    let mut bits = [0u8; 16];
    rand::rngs::SysRng.try_fill_bytes(&mut bits).map_err(|e| Error::NoRandomness(e.to_string()))?;
    Ok(format!("sdk-{:032x}", u128::from_be_bytes(bits)))
}
