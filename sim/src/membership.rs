//! The cluster's beginning: peer 1 founds it and admits all, the others become members. As `stint_node::start` does.

use std::time::Duration;

use stint_node::leader::ProposalError;
use stint_node::node::Node;
use stint_node::peers::PeerAddress;
use stint_node::wire::{CallKind, ForwardAnswer, Reply, Request, decode, encode};
use stint_protocol::{Version, version};
use stint_raft::{MembershipError, PeerInfo};
use stint_scheduler::{Admit, Command};
use tokio::time::sleep;

use crate::peer::{Failed, address_of};
use crate::rules::ClusterRules;

/// Voters at most (`stint_node`'s limit).
pub const VOTERS: u64 = 7;
const PAUSE: Duration = Duration::from_millis(50);
/// Adding and promoting a learner, in one call.
const ENLIST_DEADLINE: Duration = Duration::from_secs(20);
const TOKEN: [u8; 32] = [7; 32];

/// Who belongs to the cluster: nodes 1 to `voters` vote, the next `executors` only execute.
#[derive(Clone, Copy, Debug)]
pub struct Members {
    pub voters: u64,
    pub executors: u64,
    /// The first so many begin with the oldest version.
    pub old: u64,
}

impl Members {
    /// All nodes.
    pub fn all(self) -> u64 {
        self.voters + self.executors
    }

    /// The highest version that a peer may speak at first.
    pub fn speaks(self, id: u64) -> Version {
        if id <= self.old { version::OLDEST } else { version::CURRENT }
    }
}

/// Returns when this peer is a member of a configured cluster.
pub async fn settle(node: &Node, members: &Members, rules: &ClusterRules) -> Result<(), Failed> {
    match node.id.0 {
        1 => found(node, members, rules).await,
        id if id <= members.voters => enlist(node).await,
        _ => learn(node).await,
    }
}

async fn found(node: &Node, members: &Members, rules: &ClusterRules) -> Result<(), Failed> {
    match node.raft.bootstrap(info(1)).await {
        Ok(()) | Err(MembershipError::AlreadyInitialized) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        match node.leader.propose(first_commands(members, rules)).await {
            Ok(_) => break,
            Err(ProposalError::NotLeader) => sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
    for id in members.voters + 1..=members.all() {
        node.raft.add_learner(id, info(id)).await?;
    }
    Ok(())
}

fn info(id: u64) -> PeerInfo {
    PeerInfo { addr: address_of(id), disk_id: disk_text(id) }
}

fn first_commands(members: &Members, rules: &ClusterRules) -> Vec<Command> {
    let admit = |id: u64| Admit {
        disk: disk_of(id),
        name: format!("peer-{id}"),
        address: address_of(id),
        token: (id > 1).then_some(TOKEN),
        speaks: members.speaks(id),
    };
    let mut commands = vec![Command::Configure(rules.settings())];
    commands.push(Command::Admit(admit(1)));
    commands.push(Command::AddJoinToken { hash: TOKEN, valid_ms: 3_600_000, uses: None });
    commands.extend((2..=members.all()).map(|id| Command::Admit(admit(id))));
    commands
}

async fn enlist(node: &Node) -> Result<(), Failed> {
    loop {
        let request = encode(&Request::Enlist(node.id));
        let to = PeerAddress::any(&address_of(1));
        let answer = node.peers.call(&to, CallKind::Forward, request, ENLIST_DEADLINE).await;
        if let Ok(body) = answer
            && let Ok(ForwardAnswer::Reply(Reply::Done { index })) = decode(&body)
        {
            node.leader_client.read_at(index).await.map_err(|e| e.to_string())?;
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

/// The founder adds those that only execute.
async fn learn(node: &Node) -> Result<(), Failed> {
    while node.applied.view().state.node(node.id).is_none() {
        sleep(PAUSE).await;
    }
    Ok(())
}

/// The random id of a peer's data folder.
fn disk_of(id: u64) -> [u8; 16] {
    [id as u8; 16]
}

/// The same as the membership keeps it.
pub fn disk_text(id: u64) -> String {
    format!("{:032x}", u128::from_be_bytes(disk_of(id)))
}
