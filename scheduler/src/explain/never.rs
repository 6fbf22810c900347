//! Says whether any node that is known could ever run a task, whatever ends and however long it waits: what whoever
//! submits it wants to know at once.

use std::mem::discriminant;

use stint_protocol::{SharedSpec, TaskSpec, Tenant};

use crate::apply::pin;
use crate::node::Node;
use crate::plan::{Rules, UnfitReason, choose_runtime, fits_labels, lacks_of_empty};
use crate::state::State;

/// Nodes of which it is said what each lacks, when they lack different things.
const NAMED: usize = 3;

/// Why no node could ever run such tasks, as the nodes are; none when one could, or has yet to say what it offers. Whether
/// nodes are cordoned, held or away now does not matter.
pub fn never_fits(state: &State, tenant: &Tenant, spec: &SharedSpec) -> Option<String> {
    // Whatever names an image that is not there is refused for that.
    let spec = pin(state, tenant, spec).ok()?;
    if state.nodes().next().is_none() || state.nodes().any(|node| could_ever(state, node, tenant, &spec)) {
        return None;
    }
    let lacks: Vec<(&Node, Vec<UnfitReason>)> =
        state.nodes().map(|node| (&**node, lacks(state, node, tenant, &spec))).collect();
    let shared = lacks.first().and_then(|(_, first)| first.iter().find_map(|lack| shared(&lacks, lack)));
    Some(format!("no node can ever run this: {}", shared.unwrap_or_else(|| by_node(&lacks))))
}

fn could_ever(state: &State, node: &Node, tenant: &Tenant, spec: &TaskSpec) -> bool {
    node.incarnation.0 == 0
        || (fits_labels(node, &spec.constraints)
            && lacks_of_empty(node, spec).is_empty()
            && choose_runtime(state, node, (tenant, spec), Rules::Heeded).is_ok())
}

fn lacks(state: &State, node: &Node, tenant: &Tenant, spec: &TaskSpec) -> Vec<UnfitReason> {
    let mut lacks = lacks_of_empty(node, spec);
    lacks.extend(choose_runtime(state, node, (tenant, spec), Rules::Heeded).err());
    lacks
}

/// What all of them lack, with the largest offer of any, if this is it.
fn shared(nodes: &[(&Node, Vec<UnfitReason>)], lack: &UnfitReason) -> Option<String> {
    let alike = |(node, lacks): &(&Node, Vec<UnfitReason>)| {
        let found = lacks.iter().find(|other| is_alike(lack, other))?.clone();
        Some((found, node.name.clone()))
    };
    let all: Vec<(UnfitReason, String)> = nodes.iter().map(alike).collect::<Option<_>>()?;
    // The first of the largest.
    let (largest, name) = all.iter().rev().max_by_key(|(lack, _)| offered(lack))?;
    let (cores, mib) = (|milli: u64| milli as f64 / 1000.0, |bytes: u64| bytes.div_ceil(1024 * 1024));
    Some(match largest {
        UnfitReason::Cpu { need, total, .. } => {
            format!("it asks for {} cores, and the largest node, {name}, has {}", cores(*need), cores(*total))
        }
        UnfitReason::Memory { need, total, .. } => {
            format!(
                "it asks for {} MiB memory, and the largest node, {name}, has {}",
                mib(*need),
                total >> 20
            )
        }
        UnfitReason::Gpus { need, fitting: 0, .. } => {
            let any = all.iter().any(|(lack, _)| matches!(lack, UnfitReason::Gpus { total: 1.., .. }));
            let such = if any { "such a GPU" } else { "a GPU" };
            format!("it asks for {need} GPU(s), and no node has {such}")
        }
        UnfitReason::Gpus { need, fitting, .. } => {
            format!("it asks for {need} GPUs, and the most that fit are the {fitting} of node {name}")
        }
        UnfitReason::Class(class) => format!("no node offers class {class}"),
        UnfitReason::Label { key, wanted, .. } => format!("no node has label {key}={wanted}"),
        UnfitReason::Slots { .. } => "every node has 0 slots".into(),
        UnfitReason::Runtime(_) if nodes.len() > 1 => format!("every node {largest}"),
        other if nodes.len() > 1 => format!("node {name}, as every other, {other}"),
        other => format!("node {name} {other}"),
    })
}

/// Whether both are about the same thing.
fn is_alike(lack: &UnfitReason, other: &UnfitReason) -> bool {
    match (lack, other) {
        (UnfitReason::Label { key, .. }, UnfitReason::Label { key: other, .. }) => key == other,
        // Each node has words of its own for what it allows.
        (UnfitReason::Allowed(own), UnfitReason::Allowed(others)) => own == others,
        _ => discriminant(lack) == discriminant(other),
    }
}

fn offered(lack: &UnfitReason) -> u64 {
    match lack {
        UnfitReason::Cpu { total, .. } | UnfitReason::Memory { total, .. } => *total,
        UnfitReason::Gpus { fitting, .. } => u64::from(*fitting),
        _ => 0,
    }
}

fn by_node(nodes: &[(&Node, Vec<UnfitReason>)]) -> String {
    let of = |(node, lacks): &(&Node, Vec<UnfitReason>)| {
        let lacks: Vec<String> = lacks.iter().map(UnfitReason::to_string).collect();
        format!("{} {}", node.name, lacks.join(", "))
    };
    let named: Vec<String> = nodes.iter().take(NAMED).map(of).collect();
    match nodes.len() - named.len() {
        0 => named.join("; "),
        more => format!("{}; and {more} more nodes", named.join("; ")),
    }
}
