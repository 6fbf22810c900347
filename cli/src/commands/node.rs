//! `stint node`: without a sub-command it starts a peer; with one it manages a node of the cluster.

use clap::{Args, Subcommand};
use stint_sdk::api::{Node, NodeRemoved};
use stint_sdk::v1;

use super::{Context, node_start, nodes, with_client};
use crate::Done;
use crate::args::Global;
use crate::draft::milliseconds;
use crate::output::{Format, talk};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = node_start::EXAMPLES)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    #[command(flatten)]
    pub start: node_start::StartArgs,
}

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// Start a peer; the same as `stint node` alone
    #[command(after_help = node_start::EXAMPLES)]
    Start(Box<node_start::StartArgs>),
    /// Show one node: resources, GPUs, problems
    Status(Named),
    /// Give it no new tasks; those it runs may end there, or go on elsewhere after --deadline
    Drain(DrainArgs),
    /// Give it no new tasks; those it runs go on
    Cordon(Named),
    /// Give it tasks again
    Resume(Named),
    /// Take it out of the cluster for good; its process ends
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    pub named: Named,
    /// Stop what still runs after this long, such as 10m; it goes on elsewhere. 0s: at once [default: let it end]
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub deadline: Option<u64>,
}

#[derive(Args, Debug)]
pub struct RemoveArgs {
    #[command(flatten)]
    pub named: Named,
    /// Also when no majority is left after it, or files are lost that no other node has
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct Named {
    /// Id or name
    pub node: String,
}

pub fn run(global: &Global, args: NodeArgs) -> Done {
    match args.command {
        None => node_start::run(args.start),
        Some(NodeCommand::Start(start)) => node_start::run(*start),
        Some(NodeCommand::Status(named)) => {
            with_client(global, async |c| nodes::show_one(c, &named.node).await)
        }
        Some(NodeCommand::Drain(DrainArgs { named, deadline })) => {
            with_client(global, |c| set_mode(c, named.node, "drain", deadline))
        }
        Some(NodeCommand::Cordon(named)) => with_client(global, |c| set_mode(c, named.node, "cordon", None)),
        Some(NodeCommand::Resume(named)) => with_client(global, |c| set_mode(c, named.node, "ready", None)),
        Some(NodeCommand::Remove(args)) => with_client(global, |c| remove(c, args)),
    }
}

async fn set_mode(context: Context, node: String, mode: &str, within_ms: Option<u64>) -> Done {
    let request = v1::SetNodeModeRequest { node, mode: mode.into(), within_ms };
    let node = Node::from(context.client.set_node_mode(request).await?);
    nodes::show(&context, &node)?;
    if node.state == "draining" && context.output.format == Format::Table {
        talk(&format!(
            "{} still runs {} task(s); `stint node status {}` shows when it is drained",
            node.name, node.running, node.name
        ));
    }
    Ok(0)
}

async fn remove(context: Context, args: RemoveArgs) -> Done {
    let (node, force) = (args.named.node, args.force);
    context.client.remove_node(v1::RemoveNodeRequest { node: node.clone(), force }).await?;
    let document = NodeRemoved { removed: node.clone() };
    context.output.show(&document, [node.clone()], || format!("{node} removed"))?;
    Ok(0)
}
