//! One peer: its parts, and what other peers call.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use stint_protocol::NodeId;
use stint_raft::{CallClass, Raft};

use crate::agent::LeaderLink;
use crate::applied_state::{AppliedState, NodeStateMachine};
use crate::attempt_output::AttemptOutput;
use crate::audit::AuditLog;
use crate::blobs::Blobs;
use crate::blobs::message::{BlobChunk, OfferAnswer, OfferBlob, ReadBlob};
use crate::callers::{Verdict, check_node, check_request};
use crate::certificates::Certificates;
use crate::clock::{Clock, Rng};
use crate::leader::Leader;
use crate::leader_client::LeaderClient;
use crate::limits;
use crate::peers::{BoxFuture, Caller, Handler, Peers};
use crate::pki::PkiError;
use crate::reports::Reports;
use crate::requests::Requests;
use crate::wire::{CallKind, ReadEndings, Refusal, RefusalCode, Report, ReportAnswer, decode, encode};

/// One peer of a cluster.
pub struct Node {
    pub id: NodeId,
    pub cluster: String,
    /// The id of the cluster, where it was recovered: peers of before have no part in it.
    pub recovered: Option<String>,
    pub raft: Raft<NodeStateMachine>,
    pub applied: Arc<AppliedState>,
    pub leader: Arc<Leader>,
    pub peers: Arc<Peers>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<Rng>,
    /// What attempts wrote; its host is empty on a peer that executes nothing.
    pub output: AttemptOutput,
    /// Empty on a peer that keeps no bytes.
    pub blobs: OnceLock<Arc<Blobs>>,
    pub certificates: Certificates,
    /// Empty on a peer that keeps none, as a simulated one.
    pub audit: OnceLock<AuditLog>,
    pub reports: Reports,
    pub requests: Arc<Requests>,
    pub leader_client: Arc<LeaderClient>,
}

impl Node {
    /// The bytes of this peer.
    pub fn stored(&self) -> Result<&Arc<Blobs>, Refusal> {
        let none = || Refusal::new(RefusalCode::Unavailable, "this peer keeps no bytes: ask another one");
        self.blobs.get().ok_or_else(none)
    }

    /// What tells its cluster from others of the same name.
    pub fn cluster_id(&self) -> Result<String, PkiError> {
        let state = self.applied.view().state;
        // As it was before the authority changed.
        let kept = state.authorities().current.as_ref().map(|current| current.new.cluster_id.clone());
        let known = self.recovered.clone().or(kept);
        known.map_or_else(|| self.certificates.root().cluster_id(), Ok)
    }

    /// A request of Raft, which says by itself, too, from whom it is.
    async fn on_raft(&self, caller: &Caller, class: CallClass, body: Bytes) -> Result<Bytes, String> {
        let from = caller.node().map(|node| node.0);
        self.raft.handle(from, class, body).await.map_err(|e| e.to_string())
    }

    async fn take_offer(&self, offer: OfferBlob) -> OfferAnswer {
        match self.stored() {
            Ok(blobs) => blobs.take_offer(offer).await,
            Err(refusal) => OfferAnswer::Failed(refusal.message),
        }
    }

    async fn read_blob(&self, read: ReadBlob) -> BlobChunk {
        match self.stored() {
            Ok(blobs) => blobs.read_for_peer(read).await,
            Err(refusal) => BlobChunk::Missing(refusal.message),
        }
    }

    async fn read_endings(&self, read: ReadEndings) -> Result<Bytes, String> {
        let endings = self.applied.endings.get().cloned().ok_or("this peer keeps no endings")?;
        let read = tokio::task::spawn_blocking(move || endings.answer(&read)).await;
        Ok(encode(&read.map_err(|e| e.to_string())??))
    }
}

impl Handler for Node {
    fn handle(
        self: Arc<Self>,
        caller: Caller,
        kind: CallKind,
        body: Bytes,
    ) -> BoxFuture<Result<Bytes, String>> {
        Box::pin(async move {
            if let Verdict::Answer(answer) = self.judge_caller(&caller, kind) {
                return answer;
            }
            match kind {
                CallKind::RaftControl => self.on_raft(&caller, CallClass::Control, body).await,
                CallKind::RaftAppend => self.on_raft(&caller, CallClass::Append, body).await,
                CallKind::RaftSnapshot => self.on_raft(&caller, CallClass::Snapshot, body).await,
                CallKind::Report => {
                    let report: Report = decode(&body)?;
                    check_node(&caller, report.node)?;
                    Ok(encode(&self.reports.on_report(report).await))
                }
                CallKind::Forward => {
                    let request = decode(&body)?;
                    check_request(&caller, &request)?;
                    Ok(encode(&self.requests.answer(request).await))
                }
                CallKind::ReadLog => Ok(encode(&self.output.read_own(decode(&body)?).await)),
                CallKind::ReadEndings => self.read_endings(decode(&body)?).await,
                CallKind::OfferBlob => Ok(encode(&self.take_offer(decode(&body)?).await)),
                CallKind::ReadBlob => Ok(encode(&self.read_blob(decode(&body)?).await)),
                CallKind::Join => self.on_join(&caller, body).await,
                CallKind::Renew => self.on_renew(&caller, body).await,
                CallKind::RenewAdmin => self.on_renew_admin(&caller, body),
                CallKind::KeepNextKey => self.on_next_key(&caller, body).await,
                CallKind::Authorities => Ok(encode(&self.certificates.root().0)),
                CallKind::AuthorityKey => Ok(encode(&self.on_key_question(&caller, decode(&body)?))),
            }
        })
    }
}

/// The agent's way to the leader.
pub struct Link(pub Arc<Node>);

impl LeaderLink for Link {
    fn report(&self, report: Report) -> BoxFuture<Result<ReportAnswer, String>> {
        let node = self.0.clone();
        Box::pin(async move {
            if node.leader.leads() {
                return Ok(node.reports.on_report(report).await);
            }
            let body =
                node.leader_client.call(CallKind::Report, encode(&report), limits::REPORT_DEADLINE).await;
            decode(&body.map_err(|e| e.to_string())?)
        })
    }
}

/// Runs a future until the flag is raised; whether it ended by itself.
pub async fn unless_stopped<F: Future>(
    stop: &mut tokio::sync::watch::Receiver<bool>,
    future: F,
) -> Option<F::Output> {
    tokio::select! {
        output = future => Some(output),
        _ = stop.wait_for(|stopped| *stopped) => None,
    }
}
