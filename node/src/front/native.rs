//! The native gRPC API, `stint.v1`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Map, StreamExt};
use stint_executor::LogStream;
use stint_protocol::v1::stint_server::{Stint, StintServer};
use stint_protocol::{Class, ImageName, TaskId, TaskStatus, Tenant, v1};
use stint_scheduler::NodeMode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{new_tasks, new_token, settings_update, tenant};
use super::errors::invalid;
use super::validity::{WhileValid, while_valid};
use super::{caller, images};
use crate::limits;
use crate::node::Node;
use crate::service::{
    AuthorityChange, LogPart, LogsAsked, OutputAsked, OutputPart, Principal, Service, ServiceError,
    TaskFilter, Wait,
};

/// Serves one peer's API.
pub struct NativeApi(Service);

impl NativeApi {
    /// The API of this peer.
    pub fn new(node: Arc<Node>) -> Self {
        Self(Service::new(node))
    }

    fn asked(&self) -> Asked {
        Asked(self.0.for_request())
    }
}

/// The gRPC service of this peer.
pub fn service(node: Arc<Node>) -> StintServer<NativeApi> {
    StintServer::new(NativeApi::new(node)).max_decoding_message_size(limits::MESSAGE_BYTES)
}

type Answer<T> = Result<Response<T>, Status>;

/// What one request asked for, as the message that carries it; marked when it was made without a leader.
struct Asked(Service);

impl Asked {
    fn answer<M>(&self, found: Result<impl Into<M>, ServiceError>) -> Answer<M> {
        let mut response = Response::new(found.map_err(|error| self.0.judge(error))?.into());
        if let Some(mark) = self.0.outdated() {
            mark.put(response.metadata_mut());
        }
        Ok(response)
    }
}

/// Parts of a stream as the messages that carry them.
type Parts<P, M> = WhileValid<
    Map<ReceiverStream<Result<P, ServiceError>>, fn(Result<P, ServiceError>) -> Result<M, Status>>,
>;

impl Asked {
    fn stream<P, M>(
        &self,
        caller: &Principal,
        parts: mpsc::Receiver<Result<P, ServiceError>>,
        encode: fn(Result<P, ServiceError>) -> Result<M, Status>,
    ) -> Parts<P, M> {
        WhileValid::new(ReceiverStream::new(parts).map(encode), &self.0, caller)
    }
}

#[tonic::async_trait]
impl Stint for NativeApi {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Answer<v1::SubmitReply> {
        let (caller, request) = caller::take(request)?;
        let accepted = self.0.submit(&caller, new_tasks(&caller, request)?).await?;
        let task_ids = accepted.ids().map(|id| id.to_string()).collect();
        let warning = accepted.warning.unwrap_or_default();
        Ok(Response::new(v1::SubmitReply { task_ids, repeated: accepted.repeated, warning }))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Answer<v1::Task> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        asked.answer(asked.0.task(&caller, &tenant(&caller, &request.tenant)?, &request.task).await)
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        let page = asked.0.list_tasks(&caller, &filter(&caller, &request)?).await;
        asked.answer(page.map(|page| {
            let tasks = page.tasks.into_iter().map(v1::Task::from).collect();
            v1::ListTasksReply { tasks, next: page.next.map(|id| id.to_string()).unwrap_or_default() }
        }))
    }

    async fn wait(&self, request: Request<v1::WaitRequest>) -> Answer<v1::WaitReply> {
        let (caller, request) = caller::take(request)?;
        let wait = Wait {
            tenant: tenant(&caller, &request.tenant)?,
            tasks: request.tasks,
            timeout: Some(request.timeout_ms).filter(|ms| *ms != 0).map(Duration::from_millis),
            any: request.any,
        };
        let asked = self.asked();
        asked.answer(while_valid(&asked.0, &caller, asked.0.wait(&caller, wait)).await?)
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Answer<v1::CancelReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        let tasks = asked.0.cancel(&caller, &tenant(&caller, &request.tenant)?, &request.tasks).await;
        asked.answer(
            tasks.map(|tasks| v1::CancelReply { tasks: tasks.into_iter().map(v1::Task::from).collect() }),
        )
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        asked.answer(asked.0.explain(&caller, &tenant(&caller, &request.tenant)?, &request.task).await)
    }

    type LogsStream = Parts<LogPart, v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let (caller, request) = caller::take(request)?;
        let asked = LogsAsked {
            tenant: tenant(&caller, &request.tenant)?,
            task: request.task,
            attempt: request.attempt,
            stream: log_stream(&request.stream)?,
            follow: request.follow,
        };
        let service = self.asked();
        let parts = service.0.logs(&caller, asked).await;
        service.answer(parts.map(|parts| service.stream(&caller, parts, log_chunk)))
    }

    async fn get_result(&self, request: Request<v1::GetTaskRequest>) -> Answer<v1::ResultReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        let result = asked.0.result(&caller, &tenant(&caller, &request.tenant)?, &request.task).await;
        // Its keys are in the order of the alphabet, as ever.
        let json = result.map(|result| serde_json::to_value(result).map(|json| json.to_string()));
        asked.answer::<v1::ResultReply>(match json {
            Ok(Ok(json)) => Ok(v1::ResultReply { json }),
            Ok(Err(error)) => return Err(Status::internal(error.to_string())),
            Err(error) => Err(error),
        })
    }

    type ReadOutputStream = Parts<OutputPart, v1::OutputChunk>;

    async fn read_output(&self, request: Request<v1::ReadOutputRequest>) -> Answer<Self::ReadOutputStream> {
        let (caller, request) = caller::take(request)?;
        let v1::ReadOutputRequest { tenant: name, task, path, offset, attempt } = request;
        let asked = OutputAsked { tenant: tenant(&caller, &name)?, task, path, offset, attempt };
        let service = self.asked();
        let parts = service.0.read_output(&caller, &asked).await;
        service.answer(parts.map(|parts| service.stream(&caller, parts, output_chunk)))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Answer<v1::Caller> {
        let (caller, _) = caller::take(request)?;
        Ok(Response::new(self.0.who_am_i(&caller)?.into()))
    }

    async fn list_nodes(&self, request: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesReply> {
        let (caller, _) = caller::take(request)?;
        let asked = self.asked();
        let nodes = asked.0.list_nodes(&caller).await;
        asked.answer(
            nodes.map(|nodes| v1::ListNodesReply { nodes: nodes.into_iter().map(v1::Node::from).collect() }),
        )
    }

    async fn set_node_mode(&self, request: Request<v1::SetNodeModeRequest>) -> Answer<v1::Node> {
        let (caller, request) = caller::take(request)?;
        let mode = node_mode(&request.mode)?;
        let asked = self.asked();
        asked.answer(asked.0.set_node_mode(&caller, &request.node, mode, request.within_ms).await)
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Answer<v1::RemoveNodeReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        let removed = asked.0.remove_node(&caller, &request.node, request.force).await;
        asked.answer(removed.map(|()| v1::RemoveNodeReply {}))
    }

    async fn cluster_status(
        &self,
        request: Request<v1::ClusterStatusRequest>,
    ) -> Answer<v1::ClusterStatusReply> {
        let (caller, _) = caller::take(request)?;
        let asked = self.asked();
        asked.answer(asked.0.cluster_status(&caller).await)
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenReply> {
        let (caller, request) = caller::take(request)?;
        let valid = Some(request.valid_ms).filter(|ms| *ms != 0).map(Duration::from_millis);
        let uses = Some(request.uses).filter(|uses| *uses != 0);
        let made = self.0.create_join_token(&caller, valid, uses).await?;
        let (token, expires_at_ms) = (made.token.to_string(), made.expires.0);
        Ok(Response::new(v1::CreateJoinTokenReply { token, expires_at_ms, id: made.id, uses: made.uses }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<v1::ListJoinTokensRequest>,
    ) -> Answer<v1::ListJoinTokensReply> {
        let (caller, _) = caller::take(request)?;
        let asked = self.asked();
        let tokens = asked.0.list_join_tokens(&caller).await;
        asked.answer(tokens.map(|tokens| v1::ListJoinTokensReply {
            tokens: tokens.into_iter().map(v1::JoinToken::from).collect(),
        }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<v1::RevokeJoinTokenRequest>,
    ) -> Answer<v1::RevokeJoinTokenReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        let revoked = asked.0.revoke_join_token(&caller, &request.id).await;
        asked.answer(revoked.map(|id| v1::RevokeJoinTokenReply { id }))
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Answer<v1::CreateTokenReply> {
        let (caller, request) = caller::take(request)?;
        let made = self.0.create_token(&caller, new_token(request)?).await?;
        Ok(Response::new(made.into()))
    }

    async fn list_tokens(&self, request: Request<v1::ListTokensRequest>) -> Answer<v1::ListTokensReply> {
        let (caller, _) = caller::take(request)?;
        let asked = self.asked();
        let tokens = asked.0.list_tokens(&caller).await;
        asked.answer(
            tokens.map(|tokens| v1::ListTokensReply {
                tokens: tokens.into_iter().map(v1::Token::from).collect(),
            }),
        )
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Answer<v1::RevokeTokenReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        let revoked = asked.0.revoke_token(&caller, &request.id).await;
        asked.answer(revoked.map(|id| v1::RevokeTokenReply { id }))
    }

    async fn get_authority(&self, request: Request<v1::GetAuthorityRequest>) -> Answer<v1::Authority> {
        let (caller, _) = caller::take(request)?;
        let asked = self.asked();
        let found = asked.0.authority(&caller).await;
        asked.answer(found.map(v1::Authority::from))
    }

    async fn rotate_authority(&self, request: Request<v1::RotateAuthorityRequest>) -> Answer<v1::Authority> {
        let (caller, request) = caller::take(request)?;
        let overlap = Some(request.overlap_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
        let change = match request.finish {
            true => AuthorityChange::Finish { force: request.force },
            false => AuthorityChange::Begin { overlap },
        };
        let asked = self.asked();
        let changed = asked.0.change_authority(&caller, change).await;
        asked.answer(changed.map(v1::Authority::from))
    }

    async fn list_tenants(&self, request: Request<v1::ListTenantsRequest>) -> Answer<v1::ListTenantsReply> {
        let (caller, _) = caller::take(request)?;
        let asked = self.asked();
        let tenants = asked.0.list_tenants(&caller).await;
        asked.answer(tenants.map(|tenants| v1::ListTenantsReply {
            tenants: tenants.into_iter().map(v1::Tenant::from).collect(),
        }))
    }

    async fn remove_tenant(&self, request: Request<v1::RemoveTenantRequest>) -> Answer<v1::Tenant> {
        let (caller, request) = caller::take(request)?;
        let tenant = Tenant::new(&request.tenant).map_err(invalid)?;
        let asked = self.asked();
        let removed = asked.0.remove_tenant(&caller, &tenant).await;
        asked.answer(removed.map(v1::Tenant::from))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Answer<v1::TransferLeaderReply> {
        let (caller, request) = caller::take(request)?;
        let to = Some(request.node.as_str()).filter(|node| !node.is_empty());
        let asked = self.asked();
        let leader = asked.0.transfer_leader(&caller, to).await;
        asked.answer(leader.map(|leader| v1::TransferLeaderReply { leader_id: leader.0 }))
    }

    async fn get_settings(&self, request: Request<v1::GetSettingsRequest>) -> Answer<v1::Settings> {
        let (caller, request) = caller::take(request)?;
        let of =
            Some(request.tenant).filter(|of| !of.is_empty()).map(|of| tenant(&caller, &of)).transpose()?;
        let asked = self.asked();
        asked.answer(asked.0.settings(&caller, of.as_ref()).await)
    }

    async fn update_settings(&self, request: Request<v1::UpdateSettingsRequest>) -> Answer<v1::Settings> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        asked.answer(asked.0.update_settings(&caller, settings_update(request)?).await)
    }

    async fn register_image(
        &self,
        request: Request<Streaming<v1::RegisterImageRequest>>,
    ) -> Answer<v1::Image> {
        let (caller, mut parts) = caller::take(request)?;
        let new = images::header(&caller, &mut parts).await?;
        Ok(Response::new(self.0.register_image(&caller, new, images::bytes(parts)).await?.into()))
    }

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesReply> {
        let (caller, request) = caller::take(request)?;
        let after = Some(&request.after).filter(|after| !after.is_empty());
        let after = after.map(|after| ImageName::new(after)).transpose();
        let after = after.map_err(|error| invalid(format!("after: {error}")))?;
        let (tenant, limit) = (tenant(&caller, &request.tenant)?, request.limit as usize);
        let asked = self.asked();
        let page = asked.0.list_images(&caller, &tenant, after.as_ref(), limit).await;
        asked.answer(page.map(|page| {
            let images = page.images.into_iter().map(v1::Image::from).collect();
            v1::ListImagesReply { images, next: page.next.unwrap_or_default() }
        }))
    }

    async fn get_image(&self, request: Request<v1::GetImageRequest>) -> Answer<v1::Image> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        asked.answer(asked.0.image(&caller, &tenant(&caller, &request.tenant)?, &request.image).await)
    }

    type SaveSnapshotStream = Parts<Vec<u8>, v1::SnapshotChunk>;

    async fn save_snapshot(
        &self,
        request: Request<v1::SaveSnapshotRequest>,
    ) -> Answer<Self::SaveSnapshotStream> {
        let (caller, _) = caller::take(request)?;
        let service = self.asked();
        let parts = service.0.save_snapshot(&caller).await;
        service.answer(parts.map(|parts| service.stream(&caller, parts, snapshot_chunk)))
    }

    async fn delete_image(&self, request: Request<v1::DeleteImageRequest>) -> Answer<v1::DeleteImageReply> {
        let (caller, request) = caller::take(request)?;
        let asked = self.asked();
        let image = asked.0.delete_image(&caller, &tenant(&caller, &request.tenant)?, &request.image).await;
        asked.answer(image.map(|image| v1::DeleteImageReply { image: Some(image.into()) }))
    }
}

pub fn filter(caller: &Principal, request: &v1::ListTasksRequest) -> Result<TaskFilter, Status> {
    let before = Some(&request.before).filter(|text| !text.is_empty());
    let before = before.map(|text| text.parse::<TaskId>()).transpose();
    let class = Some(&request.class).filter(|text| !text.is_empty());
    Ok(TaskFilter {
        tenant: tenant(caller, &request.tenant)?,
        before: before.map_err(|error| invalid(format!("before: {error}")))?,
        class: class.map(|text| text.parse::<Class>()).transpose().map_err(invalid)?,
        state: task_status(&request.state)?,
        limit: request.limit as usize,
    })
}

fn task_status(text: &str) -> Result<Option<TaskStatus>, Status> {
    let asked = Some(text).filter(|text| !text.is_empty());
    asked.map(str::parse).transpose().map_err(|error| invalid(format!("state: {error}")))
}

fn node_mode(text: &str) -> Result<NodeMode, Status> {
    match text {
        "ready" => Ok(NodeMode::Ready),
        "cordon" => Ok(NodeMode::Cordoned),
        "drain" => Ok(NodeMode::Draining),
        other => Err(invalid(format!("mode: {other:?} is none of ready, cordon, drain"))),
    }
}

fn log_stream(text: &str) -> Result<Option<LogStream>, Status> {
    match text {
        "" => Ok(None),
        "stdout" => Ok(Some(LogStream::Stdout)),
        "stderr" => Ok(Some(LogStream::Stderr)),
        other => Err(invalid(format!("stream: {other:?} is neither stdout nor stderr"))),
    }
}

fn log_chunk(part: Result<LogPart, ServiceError>) -> Result<v1::LogChunk, Status> {
    let LogPart { stream, offset, bytes, note } = part?;
    let stream = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    Ok(v1::LogChunk { stream: stream.into(), offset, data: bytes, note: note.unwrap_or_default() })
}

fn snapshot_chunk(part: Result<Vec<u8>, ServiceError>) -> Result<v1::SnapshotChunk, Status> {
    Ok(v1::SnapshotChunk { data: part? })
}

fn output_chunk(part: Result<OutputPart, ServiceError>) -> Result<v1::OutputChunk, Status> {
    let OutputPart { offset, bytes } = part?;
    Ok(v1::OutputChunk { offset, data: bytes })
}
