//! Founding a cluster, or becoming a member of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stint_protocol::NodeId;
use stint_raft::PeerInfo;
use stint_scheduler::{Admit, Command, Placement, Settings};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::NodeError;
use crate::config::Config;
use crate::identity::DataDir;
use crate::node::{Node, unless_stopped};
use crate::peers::PeerAddress;
use crate::wire::{ForwardAnswer, Kind, Request, decode, encode};
use crate::{limits, wire};

/// How long founding or becoming a member may take.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);
/// Adding and promoting a learner, in one call.
const ENLIST_DEADLINE: Duration = Duration::from_secs(45);

/// Returns when this peer is a member of a configured cluster.
pub async fn settle(
    node: &Node,
    dir: &mut DataDir,
    config: &Config,
    advertise: &str,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), NodeError> {
    let work = async {
        if dir.founding() {
            found(node, dir, config, advertise).await?;
        } else if !dir.joining().is_empty() {
            enlist(node, dir.joining()).await?;
        }
        Ok::<(), NodeError>(())
    };
    match unless_stopped(stop, tokio::time::timeout(SETTLE_DEADLINE, work)).await {
        Some(Ok(result)) => result?,
        Some(Err(_)) => return Err(NodeError::Membership(format!("not within {SETTLE_DEADLINE:?}"))),
        None => return Err(NodeError::Membership("stopped before it was done".into())),
    }
    if dir.founding() || !dir.joining().is_empty() {
        dir.settled()?;
    }
    Ok(())
}

async fn found(node: &Node, dir: &DataDir, config: &Config, advertise: &str) -> Result<(), NodeError> {
    let failed = |e: String| NodeError::Membership(e);
    let disk = dir.disk()?;
    let info = PeerInfo { addr: advertise.into(), disk_id: disk.to_string() };
    match node.raft.bootstrap(info).await {
        Ok(()) | Err(stint_raft::MembershipError::AlreadyInitialized) => {}
        Err(error) => return Err(failed(error.to_string())),
    }
    while !node.leader.leads() {
        sleep(limits::RETRY_PAUSE).await;
    }
    let admit = Admit {
        disk: disk.0.to_be_bytes(),
        name: config.node.name.clone(),
        address: advertise.into(),
        token: None,
    };
    // Both are refused when an earlier start got that far.
    let commands = vec![Command::Configure(settings(config)), Command::Admit(admit)];
    node.leader.propose(commands).await.map_err(|e| failed(e.to_string()))?;
    let admitted = node.shared.view().state.node(NodeId(1)).is_some();
    if admitted { Ok(()) } else { Err(failed("the first node was not admitted".into())) }
}

fn settings(config: &Config) -> Settings {
    let mut settings = Settings {
        cluster: config.cluster.name.clone(),
        lease_margin_ms: config.longest_lease_margin_ms(),
        kill_margin_ms: config.executor.kill_margin_ms,
        placement: Placement::Spread,
        ..Settings::default()
    };
    for (class, rules) in &config.classes {
        settings.classes[*class as usize] = rules.clone();
    }
    settings
}

/// Asks for membership until it is given: at the addresses the operator named, and where they say the leader is.
async fn enlist(node: &Node, addresses: &[String]) -> Result<(), NodeError> {
    let targets: Vec<PeerAddress> = addresses.iter().map(|a| PeerAddress::any(a)).collect();
    let index = ask_the_leader(node, &targets, Request::Enlist(node.id)).await?;
    node.read_at(index).await.map(|_| ()).map_err(|e| NodeError::Membership(e.to_string()))
}

/// Tells the cluster where this peer is reached, when that is not where its membership says: nobody could call it
/// there, so it calls the others until one who leads has written it down.
pub async fn readdress(node: Arc<Node>, advertise: String) {
    let status = node.raft.status();
    let members: BTreeMap<u64, PeerInfo> = status.voters.into_iter().chain(status.learners).collect();
    let Some(known) = members.get(&node.id.0).filter(|known| known.addr != advertise) else { return };
    tracing::info!(before = %known.addr, now = %advertise, "telling the cluster this peer's new address");
    let others = members.iter().filter(|(id, _)| **id != node.id.0);
    let targets: Vec<PeerAddress> =
        others.map(|(id, info)| PeerAddress::node(NodeId(*id), &info.addr)).collect();
    let request = || Request::Readdress { node: node.id, address: advertise.clone() };
    loop {
        // A majority may be gone for long: this peer is of no use to the others before they know where it is.
        let told = match targets.is_empty() {
            true => node.ask(request()).await.map(|_| 0).map_err(|e| NodeError::Membership(e.to_string())),
            false => ask_the_leader(&node, &targets, request()).await,
        };
        match told {
            Ok(_) => return,
            Err(error) => tracing::warn!(%error, "the cluster does not know this peer's new address yet"),
        }
    }
}

async fn call(node: &Node, target: &PeerAddress, request: &Request) -> Result<ForwardAnswer, String> {
    let answer = node.peers.call(target, Kind::Forward, encode(request), ENLIST_DEADLINE).await;
    answer.map_err(|e| e.to_string()).and_then(|body| decode(&body))
}

/// Asks these peers, and where they say the leader is, until one that leads has carried it out; its log's index then.
async fn ask_the_leader(node: &Node, targets: &[PeerAddress], request: Request) -> Result<u64, NodeError> {
    let until = Instant::now() + SETTLE_DEADLINE;
    let mut last = String::from("no peer answered");
    let mut next = targets.to_vec();
    while Instant::now() < until {
        for target in std::mem::take(&mut next) {
            let answer = match node.leader.leads() {
                true => Ok(node.requests.answer(request.clone()).await),
                false => call(node, &target, &request).await,
            };
            match answer {
                Ok(ForwardAnswer::Reply(wire::Reply::Done { index })) => return Ok(index),
                Ok(ForwardAnswer::NotLeader(Some((id, address)))) => {
                    next.push(PeerAddress::node(id, &address));
                }
                Ok(ForwardAnswer::Refused(refusal)) => last = refusal.to_string(),
                Ok(other) => last = format!("{other:?}"),
                Err(error) => last = error,
            }
        }
        if next.is_empty() {
            next = targets.to_vec();
            sleep(limits::RETRY_PAUSE * 4).await;
        }
    }
    Err(NodeError::Membership(last))
}
