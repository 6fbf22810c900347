//! The cluster's beginning: peer 1 founds it and admits all, the others become members. As `stint_node::start` does.

use std::time::Duration;

use stint_node::leader::NotDone;
use stint_node::node::Node;
use stint_node::peers::PeerAddress;
use stint_node::wire::{ForwardAnswer, Kind, Reply, Request, decode, encode};
use stint_raft::{MembershipError, PeerInfo};
use stint_scheduler::{Admit, Command};
use tokio::time::sleep;

use crate::peer::{Failed, address_of};
use crate::rules::ClusterRules;

/// Peers of a simulated cluster.
pub const PEERS: u64 = 3;
const PAUSE: Duration = Duration::from_millis(50);
/// Adding and promoting a learner, in one call.
const ENLIST_DEADLINE: Duration = Duration::from_secs(20);
const TOKEN: [u8; 32] = [7; 32];

/// Returns when this peer is a member of a configured cluster.
pub async fn settle(node: &Node, disk: [u8; 16], rules: &ClusterRules) -> Result<(), Failed> {
    if node.id.0 == 1 { found(node, disk, rules).await } else { enlist(node).await }
}

async fn found(node: &Node, disk: [u8; 16], rules: &ClusterRules) -> Result<(), Failed> {
    let info = PeerInfo { addr: address_of(1), disk_id: format!("{:032x}", u128::from_be_bytes(disk)) };
    match node.raft.bootstrap(info).await {
        Ok(()) | Err(MembershipError::AlreadyInitialized) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        match node.leader.propose(first_commands(rules)).await {
            Ok(_) => return Ok(()),
            Err(NotDone::NotLeader) => sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn first_commands(rules: &ClusterRules) -> Vec<Command> {
    let admit = |id: u64| Admit {
        disk: crate::peer::disk_of(id),
        name: format!("peer-{id}"),
        address: address_of(id),
        token: (id > 1).then_some(TOKEN),
    };
    let mut commands = vec![Command::Configure(rules.settings())];
    commands.push(Command::Admit(admit(1)));
    commands.push(Command::AddJoinToken { hash: TOKEN, valid_ms: 3_600_000 });
    commands.extend((2..=PEERS).map(|id| Command::Admit(admit(id))));
    commands
}

async fn enlist(node: &Node) -> Result<(), Failed> {
    loop {
        let request = encode(&Request::Enlist(node.id));
        let to = PeerAddress::any(&address_of(1));
        let answer = node.peers.call(&to, Kind::Forward, request, ENLIST_DEADLINE).await;
        if let Ok(body) = answer
            && let Ok(ForwardAnswer::Reply(Reply::Done { index })) = decode(&body)
        {
            node.read_at(index).await.map_err(|e| e.to_string())?;
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}
