//! A peer that answers what a test tells it to. Also used by the tests of the command line.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stint_sdk::v1::stint_server::{Stint, StintServer};
use stint_sdk::v1::*;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
pub type LogScript = Vec<Result<LogChunk, Status>>;

/// What the peer answers, and what it was asked.
#[derive(Default)]
pub struct Fake {
    /// The next calls fail so, one each.
    pub failures: Mutex<VecDeque<Status>>,
    /// While set, calls are not answered.
    pub silent: AtomicBool,
    pub calls: AtomicU32,
    pub submits: Mutex<Vec<SubmitRequest>>,
    pub cancels: Mutex<Vec<CancelRequest>>,
    pub modes: Mutex<Vec<SetNodeModeRequest>>,
    /// What becomes of the task: one entry a look at it; the last one stays.
    pub task: Mutex<VecDeque<Task>>,
    /// What it becomes when it is cancelled.
    pub after_cancel: Mutex<Option<Task>>,
    pub tasks: Mutex<Vec<Task>>,
    /// One script a call; an empty list of scripts is an empty output.
    pub logs: Mutex<VecDeque<LogScript>>,
    pub nodes: Mutex<Vec<Node>>,
    pub cluster: Mutex<ClusterStatusReply>,
    pub settings: Mutex<Settings>,
    pub updates: Mutex<Vec<UpdateSettingsRequest>>,
    pub explain: Mutex<ExplainReply>,
    /// Of every submit.
    pub warning: Mutex<String>,
    /// A result document.
    pub result: Mutex<String>,
    pub images: Mutex<Vec<Image>>,
    /// What was registered: headers, and the bytes that came before the end.
    pub registered: Mutex<Vec<(ImageHeader, Vec<u8>)>>,
    /// The next uploads are cut short after so many bytes, one each.
    pub cut_uploads: Mutex<VecDeque<usize>>,
}

impl Fake {
    /// Serves on a unix socket until the test ends.
    pub fn serve(self: &Arc<Self>, socket: &Path) {
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let service = StintServer::from_arc(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
    }

    pub fn fail_next(&self, statuses: impl IntoIterator<Item = Status>) {
        self.failures.lock().unwrap().extend(statuses);
    }

    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn keys(&self) -> Vec<String> {
        self.submits.lock().unwrap().iter().map(|s| s.idempotency_key.clone()).collect()
    }

    async fn gate(&self) -> Result<(), Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        match self.failures.lock().unwrap().pop_front() {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }

    fn look(&self) -> Task {
        let mut task = self.task.lock().unwrap();
        if task.len() > 1 { task.pop_front().unwrap() } else { task.front().cloned().unwrap_or_default() }
    }
}

pub fn chunk(stream: &str, offset: u64, text: &str) -> Result<LogChunk, Status> {
    Ok(LogChunk { stream: stream.into(), offset, data: text.as_bytes().to_vec(), note: String::new() })
}

pub fn finished(mut task: Task, kind: &str, exit_code: i32) -> Task {
    let status = match (kind, exit_code) {
        ("exited", 0) => "succeeded",
        ("cancelled", _) => "cancelled",
        _ => "failed",
    };
    task.state = "finished".into();
    task.outcome = Some(Outcome {
        status: status.into(),
        kind: kind.into(),
        exit_code,
        run_ms: 1500,
        ..Default::default()
    });
    task
}

pub fn running(id: &str, attempts: u32) -> Task {
    Task {
        id: id.into(),
        tenant: "default".into(),
        class: "cpu_short".into(),
        state: if attempts > 0 { "running" } else { "queued" }.into(),
        attempts,
        command: vec!["echo".into(), "hi".into()],
        ..Default::default()
    }
}

#[tonic::async_trait]
impl Stint for Fake {
    type LogsStream = tokio_stream::Iter<std::vec::IntoIter<Result<LogChunk, Status>>>;

    async fn submit(&self, request: Request<SubmitRequest>) -> Answer<SubmitReply> {
        let request = request.into_inner();
        let count = request.count.max(1);
        self.submits.lock().unwrap().push(request);
        self.gate().await?;
        let task_ids = (0..count).map(|n| format!("task-{n}")).collect();
        let warning = self.warning.lock().unwrap().clone();
        Ok(Response::new(SubmitReply { task_ids, repeated: false, warning }))
    }

    async fn get_task(&self, _: Request<GetTaskRequest>) -> Answer<Task> {
        self.gate().await?;
        Ok(Response::new(self.look()))
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksReply> {
        self.gate().await?;
        let request = request.into_inner();
        let fits = |task: &&Task| request.state.is_empty() || task.state == request.state;
        let tasks = self.tasks.lock().unwrap().iter().filter(fits).cloned().collect();
        Ok(Response::new(ListTasksReply { tasks, next: String::new() }))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Answer<WaitReply> {
        self.gate().await?;
        let task = self.look();
        if task.outcome.is_none() {
            tokio::time::sleep(Duration::from_millis(request.into_inner().timeout_ms)).await;
        }
        Ok(Response::new(WaitReply { finished: task.outcome.is_some(), tasks: vec![task] }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Answer<CancelReply> {
        self.gate().await?;
        self.cancels.lock().unwrap().push(request.into_inner());
        if let Some(task) = self.after_cancel.lock().unwrap().clone() {
            *self.task.lock().unwrap() = VecDeque::from([task]);
        }
        Ok(Response::new(CancelReply { tasks: vec![self.look()] }))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Answer<ExplainReply> {
        self.gate().await?;
        Ok(Response::new(self.explain.lock().unwrap().clone()))
    }

    async fn logs(&self, _: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        self.gate().await?;
        let script = self.logs.lock().unwrap().pop_front().unwrap_or_default();
        Ok(Response::new(tokio_stream::iter(script)))
    }

    async fn get_result(&self, _: Request<GetTaskRequest>) -> Answer<ResultReply> {
        self.gate().await?;
        Ok(Response::new(ResultReply { json: self.result.lock().unwrap().clone() }))
    }

    type ReadOutputStream = tokio_stream::Iter<std::vec::IntoIter<Result<OutputChunk, Status>>>;

    async fn read_output(&self, _: Request<ReadOutputRequest>) -> Answer<Self::ReadOutputStream> {
        self.gate().await?;
        Ok(Response::new(tokio_stream::iter(vec![])))
    }

    type SaveSnapshotStream = tokio_stream::Iter<std::vec::IntoIter<Result<SnapshotChunk, Status>>>;

    async fn save_snapshot(&self, _: Request<SaveSnapshotRequest>) -> Answer<Self::SaveSnapshotStream> {
        self.gate().await?;
        Ok(Response::new(tokio_stream::iter(vec![])))
    }

    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesReply> {
        self.gate().await?;
        Ok(Response::new(ListNodesReply { nodes: self.nodes.lock().unwrap().clone() }))
    }

    async fn who_am_i(&self, _: Request<WhoAmIRequest>) -> Answer<Caller> {
        self.gate().await?;
        let (tenant, role, proof) = ("default".into(), "admin".into(), "local_socket".into());
        let (uid, token_id) = (None, String::new());
        Ok(Response::new(Caller { tenant, role, all_tenants: true, proof, uid, token_id }))
    }

    async fn set_node_mode(&self, request: Request<SetNodeModeRequest>) -> Answer<Node> {
        self.gate().await?;
        self.modes.lock().unwrap().push(request.into_inner());
        Ok(Response::new(self.nodes.lock().unwrap().first().cloned().unwrap_or_default()))
    }

    async fn remove_node(&self, _: Request<RemoveNodeRequest>) -> Answer<RemoveNodeReply> {
        self.gate().await?;
        Ok(Response::new(RemoveNodeReply {}))
    }

    async fn cluster_status(&self, _: Request<ClusterStatusRequest>) -> Answer<ClusterStatusReply> {
        self.gate().await?;
        Ok(Response::new(self.cluster.lock().unwrap().clone()))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Answer<CreateJoinTokenReply> {
        self.gate().await?;
        let (token, id, uses) = ("token-1".into(), "00a1".into(), Some(request.into_inner().uses.max(1)));
        Ok(Response::new(CreateJoinTokenReply { token, expires_at_ms: 1, id, uses }))
    }

    async fn list_join_tokens(&self, _: Request<ListJoinTokensRequest>) -> Answer<ListJoinTokensReply> {
        self.gate().await?;
        let (id, used_by) = ("00a1".into(), vec!["b".into()]);
        let token = JoinToken { id, expires_at_ms: 1, uses: Some(2), uses_left: Some(1), used_by };
        Ok(Response::new(ListJoinTokensReply { tokens: vec![token] }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<RevokeJoinTokenRequest>,
    ) -> Answer<RevokeJoinTokenReply> {
        self.gate().await?;
        Ok(Response::new(RevokeJoinTokenReply { id: request.into_inner().id }))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Answer<CreateTokenReply> {
        self.gate().await?;
        let CreateTokenRequest { tenant, role, .. } = request.into_inner();
        let (token, id) = ("stintat1-0".into(), "00a1".into());
        Ok(Response::new(CreateTokenReply { token, id, expires_at_ms: 1, tenant, role }))
    }

    async fn get_authority(&self, _: Request<GetAuthorityRequest>) -> Answer<Authority> {
        self.gate().await?;
        Ok(Response::new(Authority { phase: "steady".into(), ..Authority::default() }))
    }

    async fn rotate_authority(&self, request: Request<RotateAuthorityRequest>) -> Answer<Authority> {
        self.gate().await?;
        let phase = if request.into_inner().finish { "steady" } else { "asked" };
        Ok(Response::new(Authority { phase: phase.into(), ..Authority::default() }))
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Answer<ListTokensReply> {
        self.gate().await?;
        Ok(Response::new(ListTokensReply { tokens: Vec::new() }))
    }

    async fn revoke_token(&self, request: Request<RevokeTokenRequest>) -> Answer<RevokeTokenReply> {
        self.gate().await?;
        Ok(Response::new(RevokeTokenReply { id: request.into_inner().id }))
    }

    async fn list_tenants(&self, _: Request<ListTenantsRequest>) -> Answer<ListTenantsReply> {
        self.gate().await?;
        Ok(Response::new(ListTenantsReply { tenants: Vec::new() }))
    }

    async fn remove_tenant(&self, request: Request<RemoveTenantRequest>) -> Answer<Tenant> {
        self.gate().await?;
        Ok(Response::new(Tenant { tenant: request.into_inner().tenant, ..Tenant::default() }))
    }

    async fn transfer_leader(&self, _: Request<TransferLeaderRequest>) -> Answer<TransferLeaderReply> {
        self.gate().await?;
        Ok(Response::new(TransferLeaderReply { leader_id: 2 }))
    }

    async fn get_settings(&self, _: Request<GetSettingsRequest>) -> Answer<Settings> {
        self.gate().await?;
        Ok(Response::new(self.settings.lock().unwrap().clone()))
    }

    async fn update_settings(&self, request: Request<UpdateSettingsRequest>) -> Answer<Settings> {
        self.gate().await?;
        self.updates.lock().unwrap().push(request.into_inner());
        Ok(Response::new(self.settings.lock().unwrap().clone()))
    }

    async fn register_image(
        &self,
        request: Request<tonic::Streaming<RegisterImageRequest>>,
    ) -> Answer<Image> {
        use register_image_request::Part;
        self.gate().await?;
        let mut parts = request.into_inner();
        let (mut header, mut bytes) = (ImageHeader::default(), Vec::new());
        let cut = self.cut_uploads.lock().unwrap().pop_front().unwrap_or(usize::MAX);
        while let Some(message) = parts.message().await? {
            if bytes.len() >= cut {
                return Err(Status::unavailable("this peer goes away"));
            }
            match message.part {
                Some(Part::Header(given)) => header = given,
                Some(Part::Chunk(chunk)) => bytes.extend(chunk),
                _ => {
                    let image = Image { name: header.name.clone(), ..Image::default() };
                    self.registered.lock().unwrap().push((header, bytes));
                    return Ok(Response::new(image));
                }
            }
        }
        Err(Status::invalid_argument("no end"))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesReply> {
        self.gate().await?;
        let images = self.images.lock().unwrap().clone();
        Ok(Response::new(ListImagesReply { images, next: "more".into() }))
    }

    async fn get_image(&self, request: Request<GetImageRequest>) -> Answer<Image> {
        self.gate().await?;
        let name = request.into_inner().image;
        let images = self.images.lock().unwrap();
        let found = images.iter().find(|image| image.name == name).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found("no image"))
    }

    async fn delete_image(&self, request: Request<DeleteImageRequest>) -> Answer<DeleteImageReply> {
        let request = request.into_inner();
        let get = GetImageRequest { tenant: request.tenant, image: request.image };
        let image = self.get_image(Request::new(get)).await?.into_inner();
        Ok(Response::new(DeleteImageReply { image: Some(image) }))
    }
}
