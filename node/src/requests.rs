//! The leader's side of requests: each becomes commands, a question to Raft, or a change of the membership.

use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{NodeId, TimeMs, Version, version};
use stint_raft::{BarrierError, MembershipError, PeerInfo};
use stint_scheduler::{Admit, Change, Command, Rejection, State, Submit, UpdateSettings};
use tokio::sync::Mutex;

use crate::applied_state::AppliedState;
use crate::blobs::message::RegistryRequest;
use crate::clock::Clock;
use crate::config::replicated;
use crate::leader::{Leader, ProposalError};
use crate::limits;
use crate::wire::{ForwardAnswer, LeaderView, Refusal, RefusalCode, Reply, Request};

/// Answers requests where the leader is.
pub struct Requests {
    pub leader: Arc<Leader>,
    pub shared: Arc<AppliedState>,
    pub clock: Arc<dyn Clock>,
    /// Whoever makes a voter.
    pub promotions: Mutex<()>,
}

enum RequestError {
    Refused(Refusal),
    NotLeader,
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        RequestError::Refused(refusal)
    }
}

impl From<ProposalError> for RequestError {
    fn from(not_done: ProposalError) -> Self {
        match not_done {
            ProposalError::NotLeader => RequestError::NotLeader,
            ProposalError::Full => {
                Refusal::new(RefusalCode::Full, "the leader's queue is full: retry in a moment").into()
            }
            too_large @ ProposalError::TooLarge { .. } => {
                Refusal::new(RefusalCode::Invalid, too_large.to_string()).into()
            }
            ProposalError::Refused(rejection) => rejection.into(),
            ProposalError::Unknown(why) => Refusal::new(RefusalCode::Unknown, why).into(),
        }
    }
}

impl From<BarrierError> for RequestError {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::NotLeader { .. } => RequestError::NotLeader,
            other => Refusal::new(RefusalCode::Unavailable, other.to_string()).into(),
        }
    }
}

impl From<MembershipError> for RequestError {
    fn from(error: MembershipError) -> Self {
        let code = match error {
            MembershipError::NotLeader { .. } => return RequestError::NotLeader,
            MembershipError::Unknown(_) | MembershipError::TimedOut => RefusalCode::Unknown,
            MembershipError::InProgress | MembershipError::NotCaughtUp { .. } | MembershipError::Stopped => {
                RefusalCode::Unavailable
            }
            MembershipError::UnknownPeer(_) => RefusalCode::NotFound,
            _ => RefusalCode::Conflict,
        };
        Refusal::new(code, error.to_string()).into()
    }
}

impl From<Rejection> for RequestError {
    fn from(rejection: Rejection) -> Self {
        let code = match rejection {
            Rejection::UnknownTask(_)
            | Rejection::UnknownNode(_)
            | Rejection::UnknownImage { .. }
            | Rejection::UnknownJoinToken
            | Rejection::UnknownAccessToken => RefusalCode::NotFound,
            Rejection::BadCount { .. }
            | Rejection::PriorityTooHigh { .. }
            | Rejection::BadImageName(_)
            | Rejection::ImageUnsuited { .. }
            | Rejection::BlobDiffers { .. }
            | Rejection::InvalidSettings(_) => RefusalCode::Invalid,
            Rejection::KeysFull(_)
            | Rejection::TooManyTasks { .. }
            | Rejection::SpecsTooLarge { .. }
            | Rejection::ImagesFull(_)
            | Rejection::AccessTokensFull(_)
            | Rejection::KeptBlobsFull(_) => RefusalCode::Full,
            Rejection::NoHolder(_) => RefusalCode::Unavailable,
            Rejection::BadJoinToken | Rejection::JoinTokenUsed(_) | Rejection::ImageNotAllowed(_) => {
                RefusalCode::Denied
            }
            Rejection::KeyTooOld(_) => RefusalCode::Unknown,
            _ => RefusalCode::Conflict,
        };
        Refusal::new(code, rejection.to_string()).into()
    }
}

impl Requests {
    /// Answers one request, if this peer leads.
    pub async fn answer(&self, request: Request) -> ForwardAnswer {
        if !self.leader.leads() {
            return self.not_leader();
        }
        match self.perform(request).await {
            Ok(reply) => ForwardAnswer::Reply(reply),
            Err(RequestError::Refused(refusal)) => ForwardAnswer::Refused(refusal),
            Err(RequestError::NotLeader) => self.not_leader(),
        }
    }

    fn not_leader(&self) -> ForwardAnswer {
        let known = self.leader.raft.status().leader_info();
        ForwardAnswer::NotLeader(known.map(|(id, info)| (NodeId(id), info.addr)))
    }

    async fn perform(&self, request: Request) -> Result<Reply, RequestError> {
        match request {
            Request::Submit(submit) => self.submit(submit).await,
            Request::Cancel(tasks) => self.all(tasks.into_iter().map(Command::Cancel).collect()).await,
            Request::SetNodeMode { node, mode, within_ms } => {
                self.all(vec![Command::SetNodeMode { node, mode, within_ms }]).await
            }
            Request::RemoveNode(node) => self.remove_node(node).await,
            Request::CreateJoinToken { hash, valid_ms, uses } => {
                self.token(Command::AddJoinToken { hash: *hash, valid_ms, uses }).await
            }
            Request::RevokeJoinToken { hash } => {
                self.all(vec![Command::RemoveJoinToken { hash: *hash }]).await
            }
            Request::CreateAccessToken(add) => self.token(Command::AddAccessToken(add)).await,
            Request::RevokeAccessToken { hash } => self.all(vec![Command::RemoveAccessToken { hash }]).await,
            Request::RotateAuthority(rotate) => self.all(vec![Command::RotateAuthority(rotate)]).await,
            Request::DropOldAuthority { force } => self.all(vec![Command::DropOldAuthority { force }]).await,
            Request::CertifyNode { node, fingerprint } => {
                self.all(vec![Command::CertifyNode { node, fingerprint }]).await
            }
            Request::ReadIndex => Ok(Reply::Index(self.leader.raft.barrier(limits::BARRIER_DEADLINE).await?)),
            Request::LeaderView => self.view().await,
            Request::NotBegun => {
                let leases = self.leader.with(|core, view| {
                    core.leadership(view).map(|leadership| leadership.not_begun.leases(view.state))
                });
                leases.map(Reply::NotBegun).ok_or(RequestError::NotLeader)
            }
            Request::Admit { token, disk, name, address, speaks } => {
                let token = Some(*token);
                self.admit(Admit { disk: *disk, name, address, token, speaks }).await
            }
            Request::Enlist(node) => self.enlist(node).await,
            Request::TransferLeader(to) => self.transfer(to).await,
            Request::SetNodeAddress { node, address, speaks } => {
                self.set_node_address(node, address, speaks).await
            }
            Request::Registry(request) => self.registry(request).await,
            Request::UpdateSettings(update) => self.update_settings(update).await,
        }
    }

    async fn one(&self, command: Command) -> Result<Vec<Change>, RequestError> {
        let results = self.leader.propose(vec![command]).await?;
        let missing = || RequestError::from(ProposalError::Unknown("the entry gave no result".into()));
        Ok(results.into_iter().next().ok_or_else(missing)??)
    }

    /// Carries out all; the first refusal is the answer, the others are done all the same.
    async fn all(&self, commands: Vec<Command>) -> Result<Reply, RequestError> {
        for part in commands.chunks(limits::BATCH_COMMANDS) {
            for result in self.leader.propose(part.to_vec()).await? {
                result?;
            }
        }
        Ok(Reply::Done { index: self.shared.view().at.index })
    }

    async fn submit(&self, submit: Submit) -> Result<Reply, RequestError> {
        let changes = self.one(Command::Submit(submit)).await?;
        let submitted = changes.into_iter().find_map(|change| match change {
            Change::Submitted { first, count, repeated } => Some(Reply::Submitted { first, count, repeated }),
            _ => None,
        });
        submitted.ok_or_else(|| ProposalError::Unknown("the submit gave no tasks".into()).into())
    }

    async fn registry(&self, request: RegistryRequest) -> Result<Reply, RequestError> {
        let image = match request {
            RegistryRequest::Register(image) => image,
            RegistryRequest::Delete { tenant, image } => {
                return self.all(vec![Command::DeleteImage { tenant, image }]).await;
            }
            RegistryRequest::Keep(keep) => return self.all(vec![Command::KeepBlob(keep)]).await,
            RegistryRequest::Lose { node, blobs } => {
                return self.all(vec![Command::LoseBlobs { node, blobs }]).await;
            }
        };
        let changes = self.one(Command::RegisterImage(image)).await?;
        let index = self.shared.view().at.index;
        let registered = changes.iter().find_map(|change| match change {
            Change::ImageRegistered { image, .. } => Some(Reply::Image { image: *image, index }),
            _ => None,
        });
        registered.ok_or_else(|| ProposalError::Unknown("the entry registered nothing".into()).into())
    }

    async fn update_settings(&self, update: UpdateSettings) -> Result<Reply, RequestError> {
        let changes = self.one(Command::UpdateSettings(update)).await?;
        let view = self.shared.view();
        for change in changes {
            if let Change::SettingsChanged { revision } = change {
                tell_settings(&view.state, revision);
            }
        }
        Ok(Reply::Done { index: view.at.index })
    }

    /// Out of the executing nodes first, then out of the membership: a voter leaves a quorum behind.
    async fn remove_node(&self, node: NodeId) -> Result<Reply, RequestError> {
        let status = self.leader.raft.status();
        if status.id == node.0 {
            let message = "the leader does not remove itself: `stint cluster transfer-leader` first";
            return Err(Refusal::new(RefusalCode::Conflict, message).into());
        }
        let reply = self.all(vec![Command::RemoveNode(node)]).await?;
        match self.leader.raft.remove(node.0).await {
            Ok(()) | Err(MembershipError::UnknownPeer(_)) => Ok(reply),
            Err(error) => Err(error.into()),
        }
    }

    async fn token(&self, add: Command) -> Result<Reply, RequestError> {
        let changes = self.one(add).await?;
        let expires = changes.iter().find_map(|change| match change {
            Change::JoinTokenAdded { expires_ms } | Change::AccessTokenAdded { expires_ms } => {
                Some(TimeMs(*expires_ms))
            }
            _ => None,
        });
        Ok(Reply::JoinToken { expires: expires.unwrap_or_default() })
    }

    async fn view(&self) -> Result<Reply, RequestError> {
        let index = self.leader.raft.barrier(limits::BARRIER_DEADLINE).await?;
        let now = self.clock.boot();
        let Some((_, reachable)) = self.leader.while_leading(|lease_clock| lease_clock.reachable(now)) else {
            return Err(RequestError::NotLeader);
        };
        let status = self.leader.raft.status();
        let contacts = status.contacts.iter().map(|(id, age)| (NodeId(*id), age.as_millis() as u64));
        Ok(Reply::LeaderView(LeaderView {
            leader: NodeId(status.id),
            index,
            reachable: reachable.into_iter().collect(),
            lag: status.lag.into_iter().filter_map(|(peer, lag)| Some((NodeId(peer), lag?))).collect(),
            alarms: self.leader.alarms(),
            contacts: Some(contacts.collect()),
        }))
    }

    async fn admit(&self, admit: Admit) -> Result<Reply, RequestError> {
        let changes = self.one(Command::Admit(admit)).await?;
        let admitted = changes.iter().find_map(|change| match change {
            Change::Admitted { node, .. } => Some(Reply::Admitted(*node)),
            _ => None,
        });
        admitted.ok_or_else(|| ProposalError::Unknown("the entry admitted nobody".into()).into())
    }

    /// Makes an admitted peer a learner and, when it has caught up, a voter.
    async fn enlist(&self, node: NodeId) -> Result<Reply, RequestError> {
        let view = self.shared.view();
        let Some(record) = view.state.node(node) else {
            return Err(Rejection::UnknownNode(node).into());
        };
        let info = PeerInfo { addr: record.address.clone(), disk_id: disk_text(&record.disk) };
        let status = self.leader.raft.status();
        let done = Reply::Done { index: view.at.index };
        match status.voters.get(&node.0) {
            Some(known) if *known == info => return Ok(done),
            Some(known) if known.disk_id == info.disk_id => {
                self.leader.raft.update_peer(node.0, info).await?;
                return Ok(done);
            }
            _ => {}
        }
        self.leader.raft.add_learner(node.0, info).await?;
        let has_room = || self.leader.raft.status().voters.len() < limits::VOTERS;
        if has_room() {
            self.leader.raft.catch_up(node.0).await?;
            // Two that have caught up at once must not both take the last place.
            let _alone = self.promotions.lock().await;
            if has_room() {
                self.leader.raft.promote(node.0).await?;
            }
        }
        Ok(done)
    }

    /// For those who execute and for those who replicate the log: both find the peer at its new address. In the state
    /// it waits for the cluster's version: the peer tells it again then.
    async fn set_node_address(
        &self,
        node: NodeId,
        address: String,
        speaks: Version,
    ) -> Result<Reply, RequestError> {
        let state = self.shared.view().state;
        let record = state.node(node).ok_or(Rejection::UnknownNode(node))?;
        let mut commands = Vec::new();
        if record.speaks != speaks {
            commands.push(Command::SetNodeVersion { node, speaks });
        }
        if record.address != address && state.version() >= version::NODE_ADDRESS {
            commands.push(Command::SetNodeAddress { node, address: address.clone() });
        }
        self.all(commands).await?;
        let status = self.leader.raft.status();
        let known = status.voters.get(&node.0).or_else(|| status.learners.get(&node.0));
        if let Some(known) = known.filter(|known| known.addr != address) {
            let info = PeerInfo { addr: address, disk_id: known.disk_id.clone() };
            self.leader.raft.update_peer(node.0, info).await?;
        }
        Ok(Reply::Done { index: self.shared.view().at.index })
    }

    async fn transfer(&self, to: Option<NodeId>) -> Result<Reply, RequestError> {
        self.leader.raft.transfer_leadership(to.map(|n| n.0), Duration::from_secs(2)).await?;
        let leader = self.leader.raft.status().leader.or(to.map(|n| n.0));
        Ok(Reply::Leader(NodeId(leader.unwrap_or_default())))
    }
}

/// Tells what made this revision of the settings, in the log of the leader alone.
fn tell_settings(state: &State, revision: u64) {
    let Some(change) = state.audit().changes.iter().find(|change| change.revision == revision) else {
        return;
    };
    for setting in &change.settings {
        let (key, by) = (replicated::key(&setting.to), &change.by);
        let (from, to) = (replicated::value(&setting.from), replicated::value(&setting.to));
        let (role, proof, peer) = (by.role.as_str(), by.proof.as_str(), by.peer.0);
        tracing::info!(revision, key, from, to, role, proof, peer, "setting changed");
    }
}

/// A data folder's id as the membership keeps it: 32 hexadecimal digits.
pub fn disk_text(disk: &[u8; 16]) -> String {
    disk.iter().map(|byte| format!("{byte:02x}")).collect()
}
