//! `stint cluster`: the cluster as a whole.

pub mod ca;
pub mod join_token;
pub mod recover;
pub mod settings;
pub mod snapshot;

use clap::{Args, Subcommand};
use stint_sdk::api::{Cluster, LeaderTransferred, Peer};
use stint_sdk::units;

use super::{Context, with_client};
use crate::Done;
use crate::args::Global;
use crate::output::Output;
use crate::table::{Cell, Table, Tone};
use crate::text::Text;
use crate::view::{age, now_ms, state_tone};

#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(subcommand)]
    pub command: ClusterCommand,
}

#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Show the leader, the peers with their lag, and alarms
    Status,
    /// Show the settings of the cluster; those of classes and tenants: stint class show, stint tenant show
    Show(settings::ShowArgs),
    /// Change settings of the cluster; those of classes and tenants: stint class set, stint tenant set
    Set(settings::Changes),
    /// Make a token with which a new node joins, list those that are valid, revoke one
    JoinToken(join_token::JoinTokenArgs),
    /// Show the certificate authority, or change it while all goes on
    Ca(ca::CaArgs),
    /// Hand the leadership to another peer
    TransferLeader(TransferLeaderArgs),
    /// Save the state of the cluster to a file, look into one, or restore a cluster from one
    Snapshot(snapshot::SnapshotArgs),
    /// Make a new cluster of the folder of a stopped peer, when a majority is lost for good
    Recover(recover::RecoverArgs),
}

#[derive(Args, Debug)]
pub struct TransferLeaderArgs {
    /// Id or name of the new leader [default: any voter]
    pub node: Option<String>,
}

pub fn run(global: &Global, args: ClusterArgs) -> Done {
    match args.command {
        ClusterCommand::Status => with_client(global, status),
        ClusterCommand::Show(args) => with_client(global, |context| settings::show(context, args)),
        ClusterCommand::Set(changes) => with_client(global, |context| settings::set(context, changes)),
        ClusterCommand::JoinToken(args) => with_client(global, |context| join_token::run(context, args)),
        ClusterCommand::Ca(args) => with_client(global, |context| ca::run(context, args)),
        ClusterCommand::TransferLeader(args) => with_client(global, |context| transfer_leader(context, args)),
        ClusterCommand::Snapshot(args) => snapshot::run(global, args),
        ClusterCommand::Recover(args) => recover::run(&Output::new(global.output), args),
    }
}

async fn status(context: Context) -> Done {
    let cluster = Cluster::from(context.client.cluster_status().await?);
    let ids: Vec<String> = cluster.peers.iter().map(|peer| peer.id.to_string()).collect();
    context.output.show(&cluster, ids, || text(&cluster))?;
    Ok(0)
}

async fn transfer_leader(context: Context, args: TransferLeaderArgs) -> Done {
    let leader_id = context.client.transfer_leader(&args.node.unwrap_or_default()).await?;
    let transferred = LeaderTransferred { leader_id };
    context.output.show(&transferred, [leader_id.to_string()], || format!("node {leader_id} leads"))?;
    Ok(0)
}

fn text(cluster: &Cluster) -> Text {
    let name_of = |id: u64| {
        let peer = cluster.peers.iter().find(|peer| peer.id == id);
        peer.map_or_else(|| id.to_string(), |peer| format!("{} ({id})", peer.name))
    };
    let leader = match cluster.leader_id {
        Some(id) => Cell::from(name_of(id)),
        None => Cell::new(leaderless(cluster, now_ms()), Tone::Bad),
    };
    let mut facts = Table::pairs();
    facts
        .pair("cluster", cluster.cluster.as_str())
        .pair("leader", leader)
        .pair("term", cluster.term.to_string())
        .pair("answered by", name_of(cluster.node_id))
        .pair(
            "tasks",
            format!("{} queued, {} running, {} finished", cluster.queued, cluster.running, cluster.finished),
        )
        .pair("version", cluster.version.as_str())
        .pair("peers speak", spoken(cluster))
        .pair("can lose", can_lose(cluster));
    for alarm in &cluster.alarms {
        facts.pair("alarm", Cell::new(alarm, Tone::Bad));
    }
    Text::from(facts).and("").and(peers(cluster))
}

/// Since when there is no leader, and why.
fn leaderless(cluster: &Cluster, now_ms: u64) -> String {
    match &cluster.outdated {
        Some(mark) => format!("none for {}: {}", age(mark.no_leader_since_ms, now_ms), mark.missing),
        None => "none: no majority of the voters is in contact".into(),
    }
}

/// How many voters more may be lost.
fn can_lose(cluster: &Cluster) -> Cell {
    match cluster.can_lose {
        Some(1) => "1 more peer".into(),
        Some(0) => Cell::new("no more peer: the next loss stops the cluster", Tone::Busy),
        Some(more) => format!("{more} more peers").into(),
        None if cluster.leader_id.is_none() => Cell::new("none: no majority is there", Tone::Bad),
        None => "".into(),
    }
}

/// The cluster's version, and who keeps it from a higher one.
fn spoken(cluster: &Cluster) -> Cell {
    let version = format!("version {}", cluster.cluster_version);
    let by: Vec<String> =
        cluster.held_back_by.iter().map(|by| format!("{} (speaks {})", by.name, by.speaks)).collect();
    match by.is_empty() {
        true => version.into(),
        false => Cell::new(format!("{version}, held back by {}", by.join(", ")), Tone::Busy),
    }
}

fn peers(cluster: &Cluster) -> Table {
    let mut table = Table::new(&["ID", "NAME", "ROLE", "STATE", "CONTACT", "LAG", "VERSION", "ADDRESS"]);
    for peer in &cluster.peers {
        table.row(vec![
            peer.id.to_string().into(),
            peer.name.as_str().into(),
            Cell::new(&peer.role, state_tone(&peer.role)),
            Cell::new(&peer.state, state_tone(&peer.state)),
            contact(peer).into(),
            peer.lag.map(|lag| lag.to_string()).unwrap_or_default().into(),
            Some(peer.speaks)
                .filter(|speaks| *speaks > 0)
                .map(|speaks| speaks.to_string())
                .unwrap_or_default()
                .into(),
            peer.address.as_str().into(),
        ]);
    }
    table
}

/// How long ago a peer gave a sign of life; the one that tells is there.
fn contact(peer: &Peer) -> String {
    match peer.contact_ms {
        Some(0) => "now".into(),
        Some(ms) if ms < 1_000 => "under 1s ago".into(),
        Some(ms) => format!("{} ago", units::show_duration(ms / 1_000 * 1_000)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stint_sdk::{api, v1};

    #[test]
    fn the_cluster_for_people() {
        let peer = |id, name: &str, role: &str, lag| v1::Peer {
            id,
            name: name.into(),
            address: format!("10.0.0.{id}:7001"),
            role: role.into(),
            lag,
            state: if role == "leader" { role } else { "unreachable" }.into(),
            contact_ms: if role == "leader" { Some(0) } else { Some(5_300) },
            speaks: 5,
        };
        let reply = v1::ClusterStatusReply {
            cluster: "stint".into(),
            node_id: 2,
            leader_id: 1,
            term: 7,
            peers: vec![peer(1, "a", "leader", Some(0)), peer(2, "b", "voter", None)],
            queued: 3,
            running: 2,
            finished: 1,
            version: "0.1.0".into(),
            alarms: vec!["clock of b runs ahead".into()],
            cluster_version: 1,
            held_back_by: vec![v1::HeldBack { name: "b".into(), speaks: 1 }],
            can_lose: Some(0),
            ..Default::default()
        };
        let expected = "\
cluster      stint
leader       a (1)
term         7
answered by  b (2)
tasks        3 queued, 2 running, 1 finished
version      0.1.0
peers speak  version 1, held back by b (speaks 1)
can lose     no more peer: the next loss stops the cluster
alarm        clock of b runs ahead

ID  NAME  ROLE    STATE        CONTACT  LAG  VERSION  ADDRESS
1   a     leader  leader       now      0    5        10.0.0.1:7001
2   b     voter   unreachable  5s ago   -    5        10.0.0.2:7001
";
        let cluster = Cluster::from(reply);
        assert_eq!(text(&cluster).render(false), expected);
        let missing = "1 of 2 voters missing: b (silent for 5 s)".to_owned();
        let outdated = api::Outdated { no_leader_since_ms: now_ms() - 5_000, as_of_ms: 0, missing };
        let alone = Cluster { leader_id: None, can_lose: None, outdated: Some(outdated), ..cluster };
        let shown = text(&alone).render(false);
        assert!(
            shown.contains("leader       none for 5s: 1 of 2 voters missing: b (silent for 5 s)\n"),
            "{shown}"
        );
        assert!(shown.contains("can lose     none: no majority is there\n"), "{shown}");
    }
}
