//! The native gRPC API, `stint.v1`.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use stint_protocol::v1::stint_server::{Stint, StintServer};
use stint_protocol::{Class, NodeId, TaskId, limits as words, v1};
use stint_scheduler::{NodeMode, State, explain};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::{self, find_node, find_task, new_tasks, status, tenant};
use super::{files, images, logs, nodes, result, runtimes};
use crate::blobs::message::RegistryRequest;
use crate::limits;
use crate::node::{Node, log_keeper};
use crate::wire::{self, Reply};

/// Validity of a join token when none is given: one hour; and at most: one week.
const JOIN_TOKEN_MS: u64 = 3_600_000;
const JOIN_TOKEN_MOST_MS: u64 = 7 * 24 * 3_600_000;
/// Rows of a listing when no limit is given.
const LIST_DEFAULT: usize = 100;

/// Serves one peer's API.
pub struct NativeApi(pub Arc<Node>);

/// The gRPC service of this peer.
pub fn service(node: Arc<Node>) -> StintServer<NativeApi> {
    StintServer::new(NativeApi(node)).max_decoding_message_size(limits::MESSAGE_BYTES)
}

type Answer<T> = Result<Response<T>, Status>;

impl NativeApi {
    async fn read(&self) -> Result<State, Status> {
        self.0.read().await.map_err(status)
    }

    async fn ask(&self, request: wire::Request) -> Result<Reply, Status> {
        self.0.ask(request).await.map_err(status)
    }

    /// The state after a request that was done.
    async fn after(&self, reply: Reply) -> Result<State, Status> {
        match reply {
            Reply::Done { index } => self.0.read_at(index).await.map_err(status),
            _ => self.read().await,
        }
    }

    async fn node_row(&self, id: NodeId) -> Result<v1::Node, Status> {
        let (view, state) = self.0.leader_view().await.map_err(status)?;
        let node = state.node(id).ok_or_else(|| Status::not_found(format!("node {id} is gone")))?;
        Ok(nodes::node(&state, node, &self.0.raft.status(), &view))
    }
}

#[tonic::async_trait]
impl Stint for NativeApi {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Answer<v1::SubmitReply> {
        let request = request.into_inner();
        let state = match &request.spec {
            Some(spec) if runtimes::needs_image(spec) => self.read().await?,
            _ => self.0.shared.view().state,
        };
        let new = new_tasks(&state, request)?;
        let (first, count, repeated) = self.0.submit(new).await.map_err(status)?;
        let task_ids = (0..count).map(|n| TaskId(first.0 + u128::from(n)).to_string()).collect();
        Ok(Response::new(v1::SubmitReply { task_ids, repeated }))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Answer<v1::Task> {
        let request = request.into_inner();
        let state = self.read().await?;
        let id = find_task(&state, &tenant(&request.tenant)?, &request.task)?;
        let gone = || Status::not_found("the task is gone");
        Ok(Response::new(convert::task(&state, id).ok_or_else(gone)?))
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksReply> {
        let request = request.into_inner();
        let state = self.read().await?;
        Ok(Response::new(list_tasks(&state, &request)?))
    }

    async fn wait(&self, request: Request<v1::WaitRequest>) -> Answer<v1::WaitReply> {
        let request = request.into_inner();
        let state = self.read().await?;
        let tenant = tenant(&request.tenant)?;
        let find = |text: &String| find_task(&state, &tenant, text);
        let ids: Vec<TaskId> = request.tasks.iter().map(find).collect::<Result<_, _>>()?;
        let wait = match request.timeout_ms {
            0 => limits::WAIT_MOST,
            ms => Duration::from_millis(ms),
        };
        let mut open = ids.clone();
        let finished = self.0.wait_until(wait, |state| all_or_any(state, &mut open, request.any)).await;
        let state = self.0.shared.view().state;
        let tasks = ids.iter().filter_map(|id| convert::task(&state, *id)).collect();
        Ok(Response::new(v1::WaitReply { finished, tasks }))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Answer<v1::CancelReply> {
        let request = request.into_inner();
        let state = self.read().await?;
        let tenant = tenant(&request.tenant)?;
        let find = |text: &String| find_task(&state, &tenant, text);
        let ids: Vec<TaskId> = request.tasks.iter().map(find).collect::<Result<_, _>>()?;
        let reply = self.ask(wire::Request::Cancel(ids.clone())).await?;
        let state = self.after(reply).await?;
        let tasks = ids.iter().filter_map(|id| convert::task(&state, *id)).collect();
        Ok(Response::new(v1::CancelReply { tasks }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainReply> {
        let request = request.into_inner();
        let (view, state) = self.0.leader_view().await.map_err(status)?;
        let id = find_task(&state, &tenant(&request.tenant)?, &request.task)?;
        let reachable = view.reachable.into_iter().collect();
        let gone = || Status::not_found("the task is gone");
        let told = explain(&state, id, &reachable).ok_or_else(gone)?;
        let reason = |r: stint_scheduler::NodeReason| v1::NodeReason {
            node_id: r.node.0,
            node_name: r.name,
            missing: r.missing,
        };
        Ok(Response::new(v1::ExplainReply {
            summary: told.summary,
            nodes: told.nodes.into_iter().map(reason).collect(),
            advice: told.advice,
            ahead_in_queue: told.ahead,
        }))
    }

    type LogsStream = ReceiverStream<Result<v1::LogChunk, Status>>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let request = request.into_inner();
        let only = match request.stream.as_str() {
            "" => None,
            "stdout" => Some(false),
            "stderr" => Some(true),
            other => {
                return Err(Status::invalid_argument(format!(
                    "stream: {other:?} is neither stdout nor stderr"
                )));
            }
        };
        let state = self.read().await?;
        let id = find_task(&state, &tenant(&request.tenant)?, &request.task)?;
        let mut found = log_keeper(&state, id, request.attempt);
        if found.is_none() && request.follow {
            let begun = |state: &State| {
                found = log_keeper(state, id, request.attempt);
                found.is_some() || state.task(id).is_none()
            };
            self.0.wait_until(limits::WAIT_MOST, begun).await;
        }
        let Some((keeper, lease)) = found else {
            return Err(Status::failed_precondition(format!(
                "task {id} has no attempt with output yet: see `stint explain {id}`"
            )));
        };
        Ok(Response::new(ReceiverStream::new(logs::stream(
            self.0.clone(),
            keeper,
            lease,
            only,
            request.follow,
        ))))
    }

    async fn get_result(&self, request: Request<v1::GetTaskRequest>) -> Answer<v1::ResultReply> {
        let request = request.into_inner();
        let state = self.read().await?;
        let id = find_task(&state, &tenant(&request.tenant)?, &request.task)?;
        let document = result::document(&self.0, &state, id).await;
        let document = document.ok_or_else(|| Status::not_found("the task is not known any more"))?;
        Ok(Response::new(v1::ResultReply { json: document.to_string() }))
    }

    type ReadOutputStream = ReceiverStream<Result<v1::OutputChunk, Status>>;

    async fn read_output(&self, request: Request<v1::ReadOutputRequest>) -> Answer<Self::ReadOutputStream> {
        let keeper = files::find_output(&self.read().await?, &request.into_inner())?;
        Ok(Response::new(ReceiverStream::new(files::stream(self.0.clone(), keeper))))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesReply> {
        let (view, state) = self.0.leader_view().await.map_err(status)?;
        let raft = self.0.raft.status();
        let rows = state.nodes().map(|node| nodes::node(&state, node, &raft, &view)).collect();
        Ok(Response::new(v1::ListNodesReply { nodes: rows }))
    }

    async fn set_node_mode(&self, request: Request<v1::SetNodeModeRequest>) -> Answer<v1::Node> {
        let request = request.into_inner();
        let mode = match request.mode.as_str() {
            "ready" => NodeMode::Ready,
            "cordon" => NodeMode::Cordoned,
            "drain" => NodeMode::Draining,
            other => {
                return Err(Status::invalid_argument(format!(
                    "mode: {other:?} is none of ready, cordon, drain"
                )));
            }
        };
        let node = find_node(&self.read().await?, &request.node)?;
        let within_ms = request.within_ms;
        if within_ms.is_some() && mode != NodeMode::Draining {
            return Err(Status::invalid_argument("within_ms is for mode drain only"));
        }
        self.ask(wire::Request::SetNodeMode { node, mode, within_ms }).await?;
        Ok(Response::new(self.node_row(node).await?))
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Answer<v1::RemoveNodeReply> {
        let node = find_node(&self.read().await?, &request.into_inner().node)?;
        self.ask(wire::Request::RemoveNode(node)).await?;
        Ok(Response::new(v1::RemoveNodeReply {}))
    }

    async fn cluster_status(&self, _: Request<v1::ClusterStatusRequest>) -> Answer<v1::ClusterStatusReply> {
        let (view, state) = self.0.leader_view().await.map_err(status)?;
        let raft = self.0.raft.status();
        Ok(Response::new(v1::ClusterStatusReply {
            cluster: self.0.cluster.clone(),
            node_id: self.0.id.0,
            leader_id: view.leader.0,
            term: raft.term,
            applied_index: self.0.shared.view().at.index,
            peers: nodes::peers(&state, &raft, &view),
            queued: state.waiting() as u64,
            running: state.running() as u64,
            finished: state.finished_total(),
            version: env!("CARGO_PKG_VERSION").into(),
            alarms: view.alarms,
            cluster_version: state.version().0,
            held_back_by: nodes::holding_back(&state),
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenReply> {
        let valid_ms = match request.into_inner().valid_ms {
            0 => JOIN_TOKEN_MS,
            ms if ms > JOIN_TOKEN_MOST_MS => return Err(Status::invalid_argument("valid: one week at most")),
            ms => ms,
        };
        let secret = self.0.chance.bits().to_be_bytes();
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let reply = self.ask(wire::Request::CreateJoinToken { hash: hash.into(), valid_ms }).await?;
        let Reply::JoinToken { expires } = reply else {
            return Err(Status::internal("the leader gave an answer of another kind"));
        };
        let fingerprint = self.0.authority.fingerprint().map_err(|e| Status::internal(e.to_string()))?;
        let token = crate::join::JoinToken { fingerprint, secret }.to_string();
        Ok(Response::new(v1::CreateJoinTokenReply { token, expires_at_ms: expires.0 }))
    }

    async fn register_image(
        &self,
        request: Request<tonic::Streaming<v1::RegisterImageRequest>>,
    ) -> Answer<v1::Image> {
        Ok(Response::new(images::register(&self.0, request.into_inner()).await?))
    }

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesReply> {
        let state = self.read().await?;
        Ok(Response::new(images::list(&state, &request.into_inner())?))
    }

    async fn get_image(&self, request: Request<v1::GetImageRequest>) -> Answer<v1::Image> {
        let request = request.into_inner();
        let state = self.read().await?;
        let image = images::find(&state, &tenant(&request.tenant)?, &request.image)?;
        Ok(Response::new(images::image(&state, image)))
    }

    async fn delete_image(&self, request: Request<v1::DeleteImageRequest>) -> Answer<v1::DeleteImageReply> {
        let request = request.into_inner();
        let (state, tenant) = (self.read().await?, tenant(&request.tenant)?);
        let image = images::find(&state, &tenant, &request.image)?;
        let delete = RegistryRequest::Delete { tenant, image: image.id };
        self.ask(wire::Request::Registry(delete)).await?;
        Ok(Response::new(v1::DeleteImageReply { image: Some(images::image(&state, image)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Answer<v1::TransferLeaderReply> {
        let text = request.into_inner().node;
        let to = match text.as_str() {
            "" => None,
            text => Some(find_node(&self.read().await?, text)?),
        };
        match self.ask(wire::Request::TransferLeader(to)).await? {
            Reply::Leader(leader) => Ok(Response::new(v1::TransferLeaderReply { leader_id: leader.0 })),
            _ => Err(Status::internal("the leader gave an answer of another kind")),
        }
    }
}

/// Whether all (or any) of `open` are finished; those that are leave it, so that each look is short.
fn all_or_any(state: &State, open: &mut Vec<TaskId>, any: bool) -> bool {
    let before = open.len();
    while let Some(last) = open.last() {
        if state.task(*last).is_some() {
            break;
        }
        open.pop();
    }
    if !any {
        return open.is_empty();
    }
    open.len() < before || open.is_empty() || open.iter().any(|id| state.task(*id).is_none())
}

fn list_tasks(state: &State, request: &v1::ListTasksRequest) -> Result<v1::ListTasksReply, Status> {
    let tenant = tenant(&request.tenant)?;
    let limit = match request.limit as usize {
        0 => LIST_DEFAULT,
        n => n.min(words::LIST_PAGE),
    };
    let before = match request.before.as_str() {
        "" => TaskId(u128::MAX),
        text => text.parse().map_err(|e| Status::invalid_argument(format!("before: {e}")))?,
    };
    let class: Option<Class> = match request.class.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|e| Status::invalid_argument(format!("{e}")))?),
    };
    let wanted = &request.state;
    if !["", "queued", "running", "stopping", "finished"].contains(&wanted.as_str()) {
        let message = format!("state: {wanted:?} is none of queued, running, stopping, finished");
        return Err(Status::invalid_argument(message));
    }
    let live = state.tasks_before(before).filter(|(_, t)| t.fields.tenant == tenant);
    let live = live.filter(|(_, t)| class.is_none_or(|c| t.spec.class == c));
    let live = live.map(|(id, t)| (id, convert::live_task(state, id, t)));
    let live = live.filter(|(_, t)| wanted.is_empty() || t.state == *wanted).take(limit + 1);
    let done = (wanted.is_empty() || wanted == "finished").then(|| state.finished_of(&tenant, class, before));
    let done = done.into_iter().flatten().take(limit + 1);
    let done = done.map(|(id, t)| (id, convert::finished_task(state, id, &t)));
    let mut rows: Vec<(TaskId, v1::Task)> = live.chain(done).collect();
    rows.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|(id, _)| id.to_string()).unwrap_or_default();
    Ok(v1::ListTasksReply { tasks: rows.into_iter().map(|(_, task)| task).collect(), next })
}
