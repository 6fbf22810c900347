//! `stint nodes`: the nodes of the cluster; and `stint node status`: one of them.

use clap::Args;
use stint_sdk::api::Node;
use stint_sdk::units;

use super::Context;
use crate::Done;
use crate::failure::Failure;
use crate::table::{Cell, Table};
use crate::text::Text;
use crate::view::state_tone;

#[derive(Args, Debug)]
pub struct NodesArgs {}

pub async fn run(context: Context, _args: NodesArgs) -> Done {
    let nodes: Vec<Node> = context.client.list_nodes().await?.into_iter().map(Node::from).collect();
    let ids: Vec<String> = nodes.iter().map(|node| node.id.to_string()).collect();
    context.output.show(&nodes, ids, || table(&nodes))?;
    Ok(0)
}

/// Shows one node, found by id or name.
pub async fn show_one(context: Context, wanted: &str) -> Done {
    let nodes = context.client.list_nodes().await?;
    let found = nodes.into_iter().find(|node| node.name == wanted || node.id.to_string() == wanted);
    let unknown = || Failure::Failed(format!("no node is called {wanted:?}: `stint nodes` lists them"));
    let node = Node::from(found.ok_or_else(unknown)?);
    show(&context, &node)
}

/// Shows one node with everything about it.
pub fn show(context: &Context, node: &Node) -> Done {
    context.output.show(node, [node.id.to_string()], || text(node))?;
    Ok(0)
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new(&[
        "ID", "NAME", "STATE", "ROLE", "CPUS", "MEMORY", "GPUS", "TASKS", "ADDRESS", "PROBLEMS",
    ]);
    for node in nodes {
        table.row(vec![
            node.id.to_string().into(),
            node.name.as_str().into(),
            Cell::new(&node.state, state_tone(&node.state)),
            node.role.as_str().into(),
            cpus(node).into(),
            memory(node).into(),
            gpus(node).into(),
            format!("{}/{}", node.running, node.slots).into(),
            node.address.as_str().into(),
            node.problems.join("; ").into(),
        ]);
    }
    table
}

fn cpus(node: &Node) -> String {
    format!("{}/{}", units::show_cpus(node.cpu_used_milli), units::show_cpus(node.cpu_milli))
}

fn memory(node: &Node) -> String {
    format!("{}/{}", units::show_bytes(node.memory_used_bytes), units::show_bytes(node.memory_bytes))
}

fn gpus(node: &Node) -> String {
    if node.gpus.is_empty() {
        return String::new();
    }
    let leased = node.gpus.iter().filter(|gpu| gpu.state != "free").count();
    format!("{leased}/{}", node.gpus.len())
}

fn text(node: &Node) -> Text {
    let labels = node.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ");
    let mut table = Table::pairs();
    table
        .pair("id", node.id.to_string())
        .pair("name", node.name.as_str())
        .pair("state", Cell::new(&node.state, state_tone(&node.state)))
        .pair("role", node.role.as_str())
        .pair("address", node.address.as_str())
        .pair("cpus", cpus(node))
        .pair("memory", memory(node))
        .pair("tasks", format!("{}/{}", node.running, node.slots))
        .pair("classes", node.classes.join(", "))
        .pair("runtimes", node.runtimes.join(", "))
        .pair("labels", labels);
    for problem in &node.problems {
        table.pair("problem", Cell::new(problem, crate::table::Tone::Bad));
    }
    let text = Text::from(table);
    if node.gpus.is_empty() { text } else { text.and("").and(gpu_table(node)) }
}

fn gpu_table(node: &Node) -> Table {
    let mut table = Table::new(&["GPU", "MODEL", "MEMORY", "STATE", "HOLDER"]);
    for gpu in &node.gpus {
        table.row(vec![
            gpu.id.as_str().into(),
            gpu.model.as_str().into(),
            units::show_bytes(gpu.memory_bytes).into(),
            Cell::new(&gpu.state, state_tone(&gpu.state)),
            gpu.holder.clone().unwrap_or_default().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use stint_sdk::v1;

    fn node() -> Node {
        let gpu = |id: &str, state: &str, holder: &str| v1::Gpu {
            id: id.into(),
            model: "H200".into(),
            memory_bytes: 139 << 30,
            state: state.into(),
            holder: holder.into(),
        };
        Node::from(v1::Node {
            id: 1,
            name: "a".into(),
            address: "10.0.0.1:7001".into(),
            state: "ready".into(),
            role: "leader".into(),
            cpu_milli: 16_000,
            cpu_used_milli: 2_500,
            memory_bytes: 64 << 30,
            memory_used_bytes: 3 << 29,
            running: 2,
            slots: 128,
            gpus: vec![gpu("GPU-1", "leased", "t-1#1"), gpu("GPU-2", "free", "")],
            runtimes: vec!["crun".into()],
            classes: vec!["gpu".into()],
            problems: vec!["docker is not installed".into()],
            ..Default::default()
        })
    }

    #[test]
    fn nodes_as_a_table() {
        let expected = "\
ID  NAME  STATE  ROLE    CPUS    MEMORY        GPUS  TASKS  ADDRESS        PROBLEMS
1   a     ready  leader  2.5/16  1.5GiB/64GiB  1/2   2/128  10.0.0.1:7001  docker is not installed
";
        assert_eq!(table(&[node()]).render(false), expected);
    }

    #[test]
    fn one_node_with_its_gpus() {
        let shown = text(&node()).render(false);
        assert!(shown.contains("problem   docker is not installed\n\nGPU"), "{shown}");
        assert!(shown.ends_with("GPU-2  H200   139GiB  free    -\n"), "{shown}");
    }
}
