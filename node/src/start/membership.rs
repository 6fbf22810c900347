//! Founding a cluster, or becoming a member of one.

use std::time::Duration;

use stint_raft::PeerInfo;
use stint_scheduler::{Admit, Command, Settings};
use tokio::sync::watch;
use tokio::time::sleep;

use super::NodeError;
use crate::config::Config;
use crate::identity::DataDir;
use crate::limits;
use crate::node::{Node, unless_stopped};
use crate::peers::PeerAddress;
use crate::wire::{Refusal, Request};

/// How long founding or becoming a member may take.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

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
        speaks: config.cluster.max_version,
    };
    // Both are refused when an earlier start got that far.
    let commands = vec![Command::Configure(settings(config)), Command::Admit(admit)];
    node.leader.propose(commands).await.map_err(|e| failed(e.to_string()))?;
    let admitted = node.applied.view().state.node(node.id).is_some();
    if admitted { Ok(()) } else { Err(failed("the first node was not admitted".into())) }
}

fn settings(config: &Config) -> Settings {
    let mut settings = Settings {
        cluster: config.cluster.name.clone(),
        lease_margin_ms: config.longest_lease_margin_ms(),
        kill_margin_ms: config.executor.kill_margin_ms,
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
    let failed = |refusal: Refusal| NodeError::Membership(refusal.message);
    let index = node.leader_client.ask_at(&targets, Request::Enlist(node.id)).await.map_err(failed)?;
    node.leader_client.read_at(index).await.map(drop).map_err(failed)
}
