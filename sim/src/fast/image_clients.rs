//! Registered images and stored bytes: clients who register and delete, and peers who copy, look for and sweep bytes
//! with the product's own rules. Bytes are names on disks here; they survive crashes, as synced files do.

use std::collections::BTreeMap;

use stint_node::blobs::gc::{BlobGc, candidates, is_surplus, too_few};
use stint_protocol::{Blob, Digest, ImageId, ImageName, ImageSource, NodeId, Tenant, version};
use stint_scheduler::{Command, KeepBlob, RegisterImage, State};

use super::event::Event;
use super::leader::Waiter;
use super::plant::FastPlant;
use super::shape::Shape;
use super::world::{World, node_id};
use crate::rng::SeededRng;

/// Copies of each blob.
const COPIES: usize = 2;
/// Different contents: few, so that the same ones come and go.
const CONTENTS: u64 = 5;
const NAMES: u64 = 3;
const TENANTS: [&str; 2] = ["default", "blue"];
/// How often a peer looks after its bytes, in milliseconds.
const ROUND_MS: u64 = 1_000;
/// Rounds from one sweep, and from one look for missing files, to the next.
const SWEEP_EVERY: u64 = 2;
const AUDIT_EVERY: u64 = 5;

/// The bytes of all peers, and those who register them.
pub struct ImageClients {
    rng: SeededRng,
    /// Whether the seed has images at all.
    pub opened: bool,
    /// When each file of a peer was last stored or asked for, by world time.
    disks: Vec<BTreeMap<Digest, u64>>,
    /// What each peer found old and spare, before it asks for an entry, and when that was last stored or asked for.
    found: Vec<Vec<(Digest, u64)>>,
    rounds: Vec<u64>,
    /// How long a file stays that nothing names, in milliseconds.
    sweep_after_ms: u64,
    next_image: u64,
}

impl ImageClients {
    pub fn new(seed: u64, shape: &Shape) -> Self {
        let mut rng = SeededRng::new(seed, 0x5005);
        let peers = shape.peers();
        Self {
            opened: shape.images,
            disks: vec![BTreeMap::new(); peers],
            found: vec![Vec::new(); peers],
            rounds: vec![0; peers],
            sweep_after_ms: rng.between(shape.files_stay_ms.0, shape.files_stay_ms.1),
            next_image: 0,
            rng,
        }
    }

    fn has(&self, peer: usize, digest: &Digest) -> bool {
        self.disks[peer].contains_key(digest)
    }

    /// The image that a new task names, if any.
    pub fn named_by_task(&mut self) -> Option<String> {
        (self.opened && self.rng.one_in(3)).then(|| format!("stint://{}", self.name()))
    }

    fn name(&mut self) -> ImageName {
        let name = format!("image-{}", self.rng.below(NAMES));
        ImageName::new(&name).unwrap_or_else(|e| panic!("a fixed name: {e}"))
    }

    fn tenant(&mut self) -> Tenant {
        let tenant = *self.rng.pick(&TENANTS);
        Tenant::new(tenant).unwrap_or_else(|e| panic!("a fixed name: {e}"))
    }

    fn blob(&mut self) -> Blob {
        let content = self.rng.below(CONTENTS) as u8 + 1;
        Blob { digest: Digest::from_bytes([content; 32]), size: u64::from(content) << 20 }
    }

    /// What is needed and nobody has any more.
    fn lost(&self, state: &State) -> Option<Digest> {
        let needed = state.blobs().filter(|(_, record)| record.unused_since.is_none());
        let mut digests = needed.map(|(digest, _)| *digest);
        digests.find(|digest| !self.disks.iter().any(|disk| disk.contains_key(digest)))
    }
}

impl World {
    /// A client registers, deletes, or has bytes kept for a while.
    pub fn on_library(&mut self) {
        if self.is_healed() {
            return;
        }
        let pause = self.image_clients.rng.between(200, 2_000) * self.shape.pace.stretch();
        self.queue.at(self.now + pause, Event::Library);
        let via = self.image_clients.rng.below(self.peers.len() as u64) as usize;
        if !self.peers[via].up || self.log.state().version() < version::IMAGES {
            return;
        }
        let tenant = self.image_clients.tenant();
        let command = match self.image_clients.rng.below(8) {
            0 => {
                let (state, name) = (self.log.state(), self.image_clients.name());
                let known = state.images_after(&tenant, None).find(|image| image.name == name);
                let Some(image) = known.map(|image| image.id) else { return };
                Command::DeleteImage { tenant, image }
            }
            1 => Command::ForgetBlob { tenant, blob: self.image_clients.blob().digest },
            2 => {
                let (blob, keep_ms) =
                    (self.image_clients.blob(), self.image_clients.rng.between(500, 20_000));
                let Some(holders) = self.spread(via, blob) else { return };
                Command::KeepBlob(KeepBlob { tenant, blob, keep_ms, holders })
            }
            _ => {
                let blob = self.image_clients.blob();
                let Some(holders) = self.spread(via, blob) else { return };
                self.image_clients.next_image += 1;
                let (id, name) = (
                    ImageId::from_parts(self.now, self.image_clients.next_image.into()),
                    self.image_clients.name(),
                );
                let source = ImageSource::Rootfs(blob);
                let description = String::new();
                Command::RegisterImage(RegisterImage { id, tenant, name, source, description, holders })
            }
        };
        let takes = if self.image_clients.rng.one_in(4) {
            self.image_clients.rng.between(5, 1_500)
        } else {
            self.image_clients.rng.between(5, 60)
        };
        self.tell_leader(via, takes, command);
    }

    /// Sends a command to whom `via` takes for the leader. Who sent it does not wait for the answer.
    pub fn tell_leader(&mut self, via: usize, takes: u64, command: Command) {
        let Some((_, leader)) = self.peers[via].belief.filter(|_| self.peers[via].up) else { return };
        if via == leader || self.network.open(via, leader) {
            let command = Box::new(command);
            self.queue.at(self.now + takes, Event::LibraryCommand { peer: leader, command });
        }
    }

    pub fn on_library_command(&mut self, peer: usize, command: Command) {
        if self.peers[peer].up && self.leads_for_certain(peer) {
            self.propose(peer, vec![command], Waiter::Nobody);
        }
    }

    /// Stores bytes at `via` and copies them: who has them, if they are enough.
    fn spread(&mut self, via: usize, blob: Blob) -> Option<Vec<NodeId>> {
        let voters: Vec<NodeId> = (0..self.peers.len()).map(node_id).collect();
        let state = self.log.state_at(self.peers[via].applied);
        let others = candidates(state, &blob.digest, &voters, &[node_id(via)]);
        self.image_clients.disks[via].insert(blob.digest, self.now);
        let reached = others.into_iter().map(|id| id.0 as usize - 1);
        let reached = reached.filter(|peer| self.peers[*peer].up && self.network.both(via, *peer));
        let copies: Vec<usize> = reached.take(COPIES - 1).collect();
        for copy in &copies {
            self.image_clients.disks[*copy].insert(blob.digest, self.now);
        }
        let holders: Vec<NodeId> = [via].into_iter().chain(copies).map(node_id).collect();
        (holders.len() == COPIES).then_some(holders)
    }

    /// A round of a peer's maintenance.
    pub fn on_upkeep(&mut self, peer: usize) {
        let life = self.peers[peer].life;
        self.queue.at(self.now + ROUND_MS, Event::Upkeep { peer, life });
        if self.is_healed() || self.log.state().version() < version::IMAGES {
            return;
        }
        self.image_clients.rounds[peer] += 1;
        let round = self.image_clients.rounds[peer];
        let confirms = self.has_quorum(peer);
        if confirms && round.is_multiple_of(AUDIT_EVERY) {
            self.audit(peer);
        }
        if confirms && round.is_multiple_of(SWEEP_EVERY) {
            self.sweep(peer);
        }
        self.tend(peer);
    }

    /// Fetches again what the cluster counts on and is missing here.
    fn audit(&mut self, peer: usize) {
        let node = node_id(peer);
        let own = self.log.state().blobs().filter(|(_, record)| record.holders.contains(&node));
        let missing: Vec<(Digest, Vec<NodeId>)> = own
            .filter(|(digest, _)| !self.image_clients.has(peer, digest))
            .map(|(digest, record)| (*digest, record.holders.clone()))
            .collect();
        let mut lost = Vec::new();
        for (digest, holders) in missing {
            match self.source_for(peer, &digest, &holders) {
                Some(_) => drop(self.image_clients.disks[peer].insert(digest, self.now)),
                None => lost.push(digest),
            }
        }
        if !lost.is_empty() {
            self.tell_leader(peer, 20, Command::LoseBlobs { node, blobs: lost });
        }
    }

    /// A peer that has the bytes and can be reached.
    fn source_for(&self, peer: usize, digest: &Digest, holders: &[NodeId]) -> Option<usize> {
        let others = holders.iter().map(|id| id.0 as usize - 1).filter(|other| *other != peer);
        others.into_iter().find(|other| {
            self.peers[*other].up && self.network.both(peer, *other) && self.image_clients.has(*other, digest)
        })
    }

    /// Looks for what nobody needs here; it goes when an entry that is proposed now is applied.
    fn sweep(&mut self, peer: usize) {
        let state = self.log.state();
        let old = self.image_clients.disks[peer].keys().filter(|digest| self.is_old(peer, digest));
        let spare = old.filter(|digest| is_surplus(state, node_id(peer), COPIES, digest));
        let disk = &self.image_clients.disks[peer];
        let found: Vec<(Digest, u64)> =
            spare.filter_map(|digest| Some((*digest, *disk.get(digest)?))).collect();
        if self.plant == Some(FastPlant::SweepFoundTwice) {
            return self.sweep_found_twice(peer, found);
        }
        if found.is_empty() {
            return;
        }
        self.image_clients.found[peer] = found;
        let Some((_, leader)) = self.peers[peer].belief else { return };
        if self.sweeps_blindly() || self.plant == Some(FastPlant::SweepWithoutEntry) {
            return self.on_swept(peer, self.log.index());
        }
        if peer == leader || self.network.open(peer, leader) {
            let takes = self.image_clients.rng.between(1, 30);
            let life = self.peers[peer].life;
            self.queue.at(self.now + takes, Event::SweepAsked { leader, peer, life });
        }
    }

    /// As planted: deletes what the last sweep found too, and keeps in mind what this one found.
    fn sweep_found_twice(&mut self, peer: usize, found: Vec<(Digest, u64)>) {
        let before = std::mem::replace(&mut self.image_clients.found[peer], found.clone());
        self.image_clients.found[peer].retain(|(digest, _)| before.iter().any(|(known, _)| known == digest));
        self.on_swept(peer, self.log.index());
        self.image_clients.found[peer] = found;
    }

    fn is_old(&self, peer: usize, digest: &Digest) -> bool {
        let after_ms = if self.sweeps_blindly() { 0 } else { self.image_clients.sweep_after_ms };
        let asked = self.image_clients.disks[peer].get(digest);
        asked.is_some_and(|asked| self.now.saturating_sub(*asked) > after_ms)
    }

    fn sweeps_blindly(&self) -> bool {
        self.plant == Some(FastPlant::SweepBlindly)
    }

    pub fn on_sweep_asked(&mut self, leader: usize, peer: usize, life: u64) {
        if self.peers[leader].up && self.leads_for_certain(leader) {
            let nothing = Command::LoseBlobs { node: node_id(peer), blobs: Vec::new() };
            self.propose(leader, vec![nothing], Waiter::Sweep { peer, life });
        }
    }

    /// The leader says that the entry is applied.
    pub fn sweep_may_go_on(&mut self, leader: usize, peer: usize, life: u64, index: u64) {
        if peer == leader || self.network.open(leader, peer) {
            let takes = self.image_clients.rng.between(1, 30);
            self.queue.at(self.now + takes, Event::Swept { peer, life, index });
        }
    }

    /// Deletes what is spare by the state with that entry, and old still.
    pub fn on_swept(&mut self, peer: usize, index: u64) {
        for (digest, asked) in std::mem::take(&mut self.image_clients.found[peer]) {
            let spare = is_surplus(self.log.state_at(index), node_id(peer), COPIES, &digest);
            let untouched = self.image_clients.disks[peer].get(&digest) == Some(&asked)
                || self.plant == Some(FastPlant::SweepAskedFor);
            if spare && untouched && self.is_old(peer, &digest) {
                self.image_clients.disks[peer].remove(&digest);
                let number = u64::from(digest.bytes()[0]);
                self.say("swept", peer as u64, number, || format!("{digest} at peer {}", peer + 1));
            }
        }
        self.check_library();
    }

    /// What a leader does: copies what has too few, and forgets what was unused for long.
    fn tend(&mut self, peer: usize) {
        let (boot, patience_ms) = (self.clocks(peer).boot(self.now), self.image_clients.sweep_after_ms);
        let applied = self.peers[peer].applied;
        let mut leadership = std::mem::take(&mut self.peers[peer].leader.image_clients);
        let looked = self.while_leading(peer, |at_leader, state| {
            let reachable = at_leader.lease_clock.reachable(boot);
            let live = leadership.live(state, &reachable, boot, patience_ms);
            let few = too_few(state, &live, COPIES).next();
            (live, few, leadership.unused_for_long(state, boot, patience_ms))
        });
        let Some((live, few, unused)) = looked else { return };
        self.peers[peer].leader.image_clients = leadership;
        if let Some((blob, holders)) = few {
            let voters: Vec<NodeId> = (0..self.peers.len()).map(node_id).collect();
            let possible = candidates(self.log.state_at(applied), &blob.digest, &voters, &holders);
            let target = possible.into_iter().find(|id| live.contains(id)).map(|id| id.0 as usize - 1);
            if let Some(target) =
                target.filter(|target| self.can_fetch(peer, *target, &blob.digest, &holders))
            {
                let takes = self.image_clients.rng.between(20, 1_200);
                let (life, digest) = (self.peers[peer].life, blob.digest);
                self.image_clients.disks[target].insert(digest, self.now);
                self.queue.at(self.now + takes, Event::Copied { peer, life, target, digest });
            }
        }
        if !unused.is_empty() {
            self.propose(peer, vec![Command::DropBlobs { blobs: unused }], Waiter::Nobody);
        }
    }

    fn can_fetch(&self, leader: usize, target: usize, digest: &Digest, holders: &[NodeId]) -> bool {
        let reached = leader == target || self.network.both(leader, target);
        self.peers[target].up && reached && self.source_for(target, digest, holders).is_some()
    }

    /// A peer said that it has fetched what the leader offered.
    pub fn on_copied(&mut self, peer: usize, target: usize, digest: Digest) {
        if self.leads_for_certain(peer) {
            let at_leader = Command::HoldBlobs { node: node_id(target), blobs: vec![digest] };
            self.propose(peer, vec![at_leader], Waiter::Nobody);
        }
    }

    /// One file of a peer is gone, of which another one that is counted on has a copy. False: there is none.
    pub fn lose_file(&mut self, rng: &mut SeededRng) -> bool {
        let state = self.log.state();
        let has = |id: &&NodeId, digest: &Digest| self.image_clients.has(id.0 as usize - 1, digest);
        let copies: Vec<(Digest, Vec<usize>)> = state
            .blobs()
            .map(|(digest, record)| {
                let holders = record.holders.iter().filter(|id| has(id, digest));
                (*digest, holders.map(|id| id.0 as usize - 1).collect::<Vec<usize>>())
            })
            .filter(|(_, holders)| holders.len() >= COPIES)
            .collect();
        if copies.is_empty() {
            return false;
        }
        let (digest, holders) = rng.pick(&copies);
        let peer = *rng.pick(holders);
        self.image_clients.disks[peer].remove(digest);
        self.say("file-lost", peer as u64, 0, || format!("{digest} at peer {}", peer + 1));
        self.check_library();
        true
    }

    /// What the cluster promised to keep is on some disk.
    pub fn check_library(&mut self) {
        if !self.image_clients.opened {
            return;
        }
        if let Some(digest) = self.image_clients.lost(self.log.state()) {
            self.oracle.broken("bytes that are needed are kept", format!("no peer has {digest} any more"));
        }
    }
}

/// What a peer keeps for leading the looking after.
pub type LeaderBlobGc = BlobGc;
