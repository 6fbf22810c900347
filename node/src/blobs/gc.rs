//! What the looking after of stored bytes decides, without clocks and disks of its own: the simulator runs it too.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{Blob, BootMs, Digest, NodeId, limits as protocol_limits};
use stint_scheduler::State;

/// What this peer saw since it leads, by its own clock: the cluster's time stands still while nothing happens.
#[derive(Debug, Default)]
pub struct BlobGc {
    /// Since when each node has not been heard of.
    silent: BTreeMap<NodeId, BootMs>,
    /// Since when each blob has been seen to be unused.
    unused: BTreeMap<Digest, BootMs>,
}

impl BlobGc {
    /// Nodes that can be counted on: those that report, those that were silent for less than `patience_ms`, and those
    /// that never report because they execute nothing.
    pub fn live(
        &mut self,
        state: &State,
        reachable: &BTreeSet<NodeId>,
        now: BootMs,
        patience_ms: u64,
    ) -> Vec<NodeId> {
        let reports = |id: &NodeId| {
            reachable.contains(id) || state.node(*id).is_some_and(|node| node.incarnation.0 == 0)
        };
        let all: Vec<NodeId> = state.nodes().map(|node| node.id).collect();
        self.silent.retain(|id, _| !reports(id));
        for silent in all.iter().filter(|id| !reports(id)) {
            self.silent.entry(*silent).or_insert(now);
        }
        let live = |id: &NodeId| self.silent.get(id).is_none_or(|since| now.since(*since) < patience_ms);
        all.into_iter().filter(live).collect()
    }

    /// What was unused for `patience_ms` may go; as much of it as a command takes.
    pub fn unused_for_long(&mut self, state: &State, now: BootMs, patience_ms: u64) -> Vec<Digest> {
        let unused = |digest: &Digest| state.blob(digest).is_some_and(|record| record.unused_since.is_some());
        self.unused.retain(|digest, _| unused(digest));
        state.unused_blobs().for_each(|digest| {
            self.unused.entry(digest).or_insert(now);
        });
        let long = self.unused.iter().filter(|(_, since)| now.since(**since) >= patience_ms);
        long.map(|(digest, _)| *digest).take(protocol_limits::BLOBS_PER_COMMAND).collect()
    }
}

/// Whether nothing needs the copy of `node`: no record names the bytes, or enough others are counted on.
///
/// A state that a majority confirmed may still lack an entry that is being written and names the bytes, for as long as
/// that takes. So a file may go only by a state that has an entry which was proposed after the file was found to be old
/// and spare: whoever counted on the bytes before they were old comes first in the log. And only when nobody stored or
/// asked for it since it was found: whoever did may come after that entry, and wait so long that it is old again.
pub fn is_surplus(state: &State, node: NodeId, wanted: usize, digest: &Digest) -> bool {
    match state.blob(digest) {
        None => true,
        Some(record) => !record.holders.contains(&node) && record.holders.len() >= wanted,
    }
}

/// Bytes that something refers to, with fewer live holders than wanted and at least one; with all their holders.
pub fn too_few<'a>(
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

/// Members that could have a copy besides these: voters first, and for each blob in another order, so that peers share
/// the load.
pub fn candidates(state: &State, digest: &Digest, voters: &[NodeId], have: &[NodeId]) -> Vec<NodeId> {
    let bytes = digest.bytes();
    let seed = bytes.iter().take(8).fold(0, |number: u64, byte| (number << 8) | u64::from(*byte));
    let rank = |node: &NodeId| {
        let mixed = (seed ^ node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (!voters.contains(node), mixed ^ (mixed >> 31))
    };
    let mut found: Vec<NodeId> = state.nodes().map(|node| node.id).filter(|id| !have.contains(id)).collect();
    found.sort_by_key(rank);
    found
}

#[cfg(test)]
mod tests {
    use stint_protocol::{ImageId, ImageName, ImageSource, Tenant, TimeMs, Version};
    use stint_scheduler::{Admit, Command, RegisterImage, StampedCommand, apply};

    use super::*;

    fn four_nodes() -> State {
        let mut state = State::default();
        let mut run = |command| apply(&mut state, StampedCommand { now: TimeMs(1), command }).unwrap();
        run(Command::AddJoinToken { hash: [1; 32], valid_ms: 1_000, uses: None });
        for id in 1..=4u8 {
            let (name, address) = (format!("n{id}"), "a:1".into());
            let (disk, token, speaks) = ([id; 16], Some([1; 32]), Version(3));
            run(Command::Admit(Admit { disk, name, address, token, speaks }));
        }
        state
    }

    #[test]
    fn a_copy_is_spare_when_nothing_names_it_or_enough_others_are_counted_on() {
        let mut state = four_nodes();
        let (registered, unknown) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        assert!(is_surplus(&state, NodeId(1), 2, &registered) && is_surplus(&state, NodeId(1), 2, &unknown));
        let (tenant, name) = (Tenant::default_tenant(), ImageName::new("tool").unwrap());
        let source = ImageSource::Rootfs(Blob { digest: registered, size: 9 });
        let (id, description, holders) =
            (ImageId::from_parts(1, 1), String::new(), vec![NodeId(1), NodeId(2)]);
        let image = RegisterImage { id, tenant, name, source, description, holders };
        let registering = Command::RegisterImage(image);
        apply(&mut state, StampedCommand { now: TimeMs(2), command: registering }).unwrap();
        assert!(!is_surplus(&state, NodeId(1), 2, &registered), "it is counted on");
        assert!(is_surplus(&state, NodeId(4), 2, &registered), "enough others have it");
        assert!(!is_surplus(&state, NodeId(4), 3, &registered), "too few have it");
    }

    #[test]
    fn every_peer_is_first_choice_for_some_blobs_and_voters_for_all() {
        let state = four_nodes();
        let voters = [NodeId(1), NodeId(2), NodeId(3)];
        let mut first = std::collections::BTreeSet::new();
        for number in 0..64 {
            let found = candidates(&state, &Digest::from_bytes([number; 32]), &voters, &[NodeId(1)]);
            assert_eq!((found.len(), found[2]), (3, NodeId(4)));
            first.insert(found[0]);
        }
        assert_eq!(first.into_iter().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
    }
}
