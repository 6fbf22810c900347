//! `stint cluster`: the cluster as a whole.

pub mod settings;

use std::time::Duration;

use clap::{Args, Subcommand};
use stint_sdk::api::{Cluster, JoinToken, LeaderTransferred};
use stint_sdk::units;

use super::Context;
use crate::Done;
use crate::output::{Format, talk};
use crate::table::{Cell, Table, Tone};
use crate::view::{now_ms, state_tone};

#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(subcommand)]
    pub command: ClusterCommand,
}

#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Show the leader, the peers with their lag, and alarms
    Status,
    /// Show the settings of the cluster; those of classes: stint class show
    Show(settings::ShowArgs),
    /// Change settings of the cluster; those of classes: stint class set
    Set(settings::Changes),
    /// Make a token with which a new node joins
    JoinToken(JoinTokenArgs),
    /// Hand the leadership to another peer
    TransferLeader(TransferLeaderArgs),
}

#[derive(Args, Debug)]
pub struct JoinTokenArgs {
    /// How long the token can be used; a week at most
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = units::parse_duration)]
    pub valid: Duration,
}

#[derive(Args, Debug)]
pub struct TransferLeaderArgs {
    /// Id or name of the new leader [default: any voter]
    pub node: Option<String>,
}

pub async fn run(context: Context, args: ClusterArgs) -> Done {
    match args.command {
        ClusterCommand::Status => status(context).await,
        ClusterCommand::Show(args) => settings::show(context, args).await,
        ClusterCommand::Set(changes) => settings::set(context, changes).await,
        ClusterCommand::JoinToken(args) => join_token(context, args).await,
        ClusterCommand::TransferLeader(args) => transfer_leader(context, args).await,
    }
}

async fn status(context: Context) -> Done {
    let cluster = Cluster::from(context.client.cluster_status().await?);
    let color = context.output.color;
    let ids: Vec<String> = cluster.peers.iter().map(|peer| peer.id.to_string()).collect();
    context.output.show_text(&cluster, ids, || text(&cluster, color))?;
    Ok(0)
}

async fn join_token(context: Context, args: JoinTokenArgs) -> Done {
    let made = JoinToken::from(context.client.create_join_token(args.valid).await?);
    context.output.show_text(&made, [made.token.clone()], || format!("{}\n", made.token))?;
    if context.output.format == Format::Table {
        let left = units::show_duration(made.expires_at_ms.saturating_sub(now_ms()));
        talk(&format!("valid for {left}; on the new machine: stint node --join HOST:7001 --token TOKEN"));
    }
    Ok(0)
}

async fn transfer_leader(context: Context, args: TransferLeaderArgs) -> Done {
    let leader_id = context.client.transfer_leader(&args.node.unwrap_or_default()).await?;
    let transferred = LeaderTransferred { leader_id };
    context
        .output
        .show_text(&transferred, [leader_id.to_string()], || format!("node {leader_id} leads\n"))?;
    Ok(0)
}

fn text(cluster: &Cluster, color: bool) -> String {
    let name_of = |id: u64| {
        let peer = cluster.peers.iter().find(|peer| peer.id == id);
        peer.map_or_else(|| id.to_string(), |peer| format!("{} ({id})", peer.name))
    };
    let leader = match cluster.leader_id {
        Some(id) => Cell::from(name_of(id)),
        None => Cell::new("none: no majority of the voters is in contact", Tone::Bad),
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
        .pair("peers speak", spoken(cluster));
    for alarm in &cluster.alarms {
        facts.pair("alarm", Cell::new(alarm, Tone::Bad));
    }
    format!("{}\n{}", facts.render(color), peers(cluster).render(color))
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
    let mut table = Table::new(&["ID", "NAME", "ROLE", "LAG", "ADDRESS"]);
    for peer in &cluster.peers {
        table.row(vec![
            peer.id.to_string().into(),
            peer.name.as_str().into(),
            Cell::new(&peer.role, state_tone(&peer.role)),
            peer.lag.map(|lag| lag.to_string()).unwrap_or_default().into(),
            peer.address.as_str().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use stint_sdk::v1;

    #[test]
    fn the_cluster_for_people() {
        let peer = |id, name: &str, role: &str, lag| v1::Peer {
            id,
            name: name.into(),
            address: format!("10.0.0.{id}:7001"),
            role: role.into(),
            lag,
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
alarm        clock of b runs ahead

ID  NAME  ROLE    LAG  ADDRESS
1   a     leader  0    10.0.0.1:7001
2   b     voter   -    10.0.0.2:7001
";
        assert_eq!(text(&reply.into(), false), expected);
    }
}
