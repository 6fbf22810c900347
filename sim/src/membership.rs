//! The cluster's beginning: peer 1 founds it and admits all, the others become members. As `stint_node::start` does.

use std::time::Duration;

use stint_node::leader::NotDone;
use stint_node::node::Node;
use stint_node::peers::PeerAddress;
use stint_node::wire::{ForwardAnswer, Kind, Reply, Request, decode, encode};
use stint_protocol::{Class, ClassRules, Runtime};
use stint_raft::{MembershipError, PeerInfo};
use stint_scheduler::{Admit, Command, Placement, Settings};
use tokio::time::sleep;

use crate::machine::KILL_MARGIN_MS;
use crate::peer::{Failed, address_of};

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
}

impl Members {
    /// All nodes.
    pub fn all(self) -> u64 {
        self.voters + self.executors
    }
}

/// Returns when this peer is a member of a configured cluster.
pub async fn settle(node: &Node, members: &Members) -> Result<(), Failed> {
    match node.id.0 {
        1 => found(node, members).await,
        id if id <= members.voters => enlist(node).await,
        _ => learn(node).await,
    }
}

async fn found(node: &Node, members: &Members) -> Result<(), Failed> {
    match node.raft.bootstrap(info(1)).await {
        Ok(()) | Err(MembershipError::AlreadyInitialized) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        match node.leader.propose(first_commands(members)).await {
            Ok(_) => break,
            Err(NotDone::NotLeader) => sleep(PAUSE).await,
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

fn first_commands(members: &Members) -> Vec<Command> {
    let admit = |id: u64| Admit {
        disk: disk_of(id),
        name: format!("peer-{id}"),
        address: address_of(id),
        token: (id > 1).then_some(TOKEN),
    };
    let mut commands = vec![Command::Configure(settings())];
    commands.push(Command::Admit(admit(1)));
    commands.push(Command::AddJoinToken { hash: TOKEN, valid_ms: 3_600_000 });
    commands.extend((2..=members.all()).map(|id| Command::Admit(admit(id))));
    commands
}

/// Short leases and run times: much happens in little time. The margin is the real one: 300 ms of election, drift of a
/// hundredth of the lease, the kill margin, and some.
fn settings() -> Settings {
    let rules = |class| ClassRules {
        runtimes: vec![Runtime::Mock],
        default_timeout_ms: 10_000,
        max_timeout_ms: 10_000,
        lease_ttl_ms: if class == Class::Gpu { 5_000 } else { 4_000 },
        ..ClassRules::default_for(class)
    };
    Settings {
        cluster: "sim".into(),
        classes: Class::ALL.into_iter().map(rules).collect(),
        placement: Placement::Spread,
        lease_margin_ms: 1_000,
        kill_margin_ms: KILL_MARGIN_MS,
        ..Settings::default()
    }
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

/// The founder adds those that only execute.
async fn learn(node: &Node) -> Result<(), Failed> {
    while node.shared.view().state.node(node.id).is_none() {
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
