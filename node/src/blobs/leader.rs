//! What the leader does for stored bytes: more copies where there are too few, and an end for what nothing refers to.

use std::collections::BTreeMap;

use stint_protocol::{Blob, Digest, NodeId, limits as words, version};
use stint_scheduler::{Command, State};
use tokio::time::Instant;

use super::copies::candidates;
use crate::limits;
use crate::node::Node;

/// What this peer saw since it leads, by its own clock: the cluster's time stands still while nothing happens.
#[derive(Default)]
pub(super) struct Office {
    /// Since when each node has not been heard of.
    silent: BTreeMap<NodeId, Instant>,
    /// Since when each blob has been seen to be unused.
    unused: BTreeMap<Digest, Instant>,
}

impl Office {
    /// Nodes that can be counted on: those that report, those that were silent only shortly, and those that never
    /// report because they execute nothing.
    fn live(&mut self, node: &Node, state: &State) -> Option<Vec<NodeId>> {
        let now = Instant::now();
        let boot = node.clock.boot();
        let (_, reachable) = node.leader.in_office(|contacts| contacts.reachable(boot))?;
        let reports = |id: &NodeId| {
            reachable.contains(id) || state.node(*id).is_some_and(|node| node.incarnation.0 == 0)
        };
        let all: Vec<NodeId> = state.nodes().map(|node| node.id).collect();
        self.silent.retain(|id, _| !reports(id));
        for silent in all.iter().filter(|id| !reports(id)) {
            self.silent.entry(*silent).or_insert(now);
        }
        let patience = node.stored().ok()?.settings.heal_after;
        let live =
            |id: &NodeId| self.silent.get(id).is_none_or(|since| now.duration_since(*since) < patience);
        Some(all.into_iter().filter(live).collect())
    }

    /// What was unused for long enough may go; a part of it at a time.
    fn unused_for_long(&mut self, node: &Node, state: &State) -> Option<Vec<Digest>> {
        let (now, patience) = (Instant::now(), node.stored().ok()?.settings.sweep_after);
        let unused = |digest: &Digest| state.blob(digest).is_some_and(|record| record.unused_since.is_some());
        self.unused.retain(|digest, _| unused(digest));
        state.unused_blobs().for_each(|digest| {
            self.unused.entry(digest).or_insert(now);
        });
        let long = self.unused.iter().filter(|(_, since)| now.duration_since(**since) >= patience);
        let long: Vec<Digest> = long.map(|(digest, _)| *digest).take(words::BLOBS_PER_COMMAND).collect();
        (!long.is_empty()).then_some(long)
    }
}

/// One round, if this peer leads.
pub(super) async fn tend(node: &Node, office: &mut Office) {
    let state = node.shared.view().state;
    if state.version() < version::IMAGES || !node.leader.leads() {
        *office = Office::default();
        return;
    }
    let Some(live) = office.live(node, &state) else { return };
    heal(node, &state, &live).await;
    if let Some(unused) = office.unused_for_long(node, &state) {
        propose(node, Command::DropBlobs { blobs: unused }).await;
    }
}

/// Has bytes with too few copies fetched by more nodes, a few a round.
async fn heal(node: &Node, state: &State, live: &[NodeId]) {
    let Ok(wanted) = node.copies_wanted() else { return };
    for (blob, holders) in too_few(state, live, wanted).take(limits::HEALED_A_ROUND) {
        let possible = candidates(state, &blob.digest, &node.voters(), &holders);
        for target in possible.into_iter().filter(|id| live.contains(id)).take(1) {
            match node.offer(state, target, blob, &holders).await {
                Ok(()) => {
                    tracing::info!(digest = %blob.digest, node = target.0, "bytes with too few copies are copied");
                    let held = Command::HoldBlobs { node: target, blobs: vec![blob.digest] };
                    propose(node, held).await;
                }
                Err(error) => tracing::warn!(%blob, %error, "bytes with too few copies are not copied yet"),
            }
        }
    }
}

/// Bytes that something refers to, with fewer live holders than wanted and at least one.
fn too_few<'a>(
    state: &'a State,
    live: &'a [NodeId],
    wanted: usize,
) -> impl Iterator<Item = (Blob, Vec<NodeId>)> + 'a {
    let needed = state.blobs().filter(|(_, record)| record.unused_since.is_none());
    let counted = needed.map(move |(digest, record)| {
        let alive = record.holders.iter().filter(|holder| live.contains(holder)).count();
        (digest, record, alive)
    });
    let few = counted.filter(move |(_, record, alive)| *alive < wanted && !record.holders.is_empty());
    few.map(|(digest, record, _)| (Blob { digest: *digest, size: record.size }, record.holders.clone()))
}

/// What is not done now is seen again in the next round.
async fn propose(node: &Node, command: Command) {
    if let Err(error) = node.leader.propose(vec![command]).await {
        tracing::debug!(%error, "stored bytes are looked after in the next round");
    }
}
