//! One simulated peer: what outlives its process, and the process itself, which is the real node behind simulated doors.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use stint_executor::{Host, HostEvent};
use stint_node::agent::Agent;
use stint_node::announce::announce;
use stint_node::applied_state::VersionTooOld;
use stint_node::build::{BuildError, NodeParts, build_node};
use stint_node::certificates::{ADMIN_LIFE, CertificateParts, LIFE};
use stint_node::clock::{Clock, Rng};
use stint_node::node::{Link, Node};
use stint_node::peers;
use stint_protocol::{Incarnation, NodeId, Nonce, Version, version};
use stint_raft::RaftOptions;
use stint_scheduler::RegisterNode;
use stint_slurm_bridge::Bridge;
use tokio::sync::mpsc;

use crate::clock::MachineClock;
use crate::disk::{self, MemoryDisk};
use crate::host::Watched;
use crate::identity::{identity, root};
use crate::machine::{self, Machine};
use crate::membership::{self, Members};
use crate::network::{Card, PORT, SharedLinkFaults};
use crate::offer::offer;
use crate::oracle::Oracle;
use crate::plant::Plant;
use crate::rng::SeededRng;
use crate::scenario::Scenario;
use crate::slurm::{self, SlurmWorld};
use crate::workload::Requests;

/// Entries between two snapshots: few, so that they happen.
const SNAPSHOT_EVERY: u64 = 150;
/// Entries kept after a snapshot: few, so that a peer that was away long needs one.
const KEEP_ENTRIES: u64 = 60;
/// Size of a log segment in bytes: small, so that segments change.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// Host events on their way to the agent.
const EVENTS_AHEAD: usize = 4_096;

/// A machine with a peer on it; a copy is the same machine.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    id: u64,
    world: Surroundings,
    clock: Arc<MachineClock>,
    machine: Machine,
    disk: MemoryDisk,
    card: Card,
    /// Processes begun so far.
    lives: AtomicU64,
    /// Times its machine was switched on.
    boots: AtomicU64,
    /// The highest version that the installed program may speak.
    speaks: AtomicU32,
    /// What the real node keeps in its data folder.
    incarnation: AtomicU64,
    member: AtomicBool,
    node: Mutex<Option<Arc<Node>>>,
}

/// What a peer shares with the world.
#[derive(Clone)]
pub struct Surroundings {
    pub seed: u64,
    pub scenario: Arc<Scenario>,
    pub members: Members,
    pub plant: Option<Plant>,
    pub link_faults: SharedLinkFaults,
    pub oracle: Oracle,
    pub requests: Requests,
    pub slurm: SlurmWorld,
}

/// Why a simulated process ended by itself.
pub type Failed = Box<dyn std::error::Error>;

impl Peer {
    /// A machine that is switched on, with an empty disk and no process yet.
    pub fn new(id: u64, clock: Arc<MachineClock>, world: &Surroundings) -> Self {
        let offer = offer(id, &world.scenario.topology);
        world.oracle.on_offer(id, offer.clone());
        let machine = Machine::new(machine::Parts {
            id,
            clock: clock.clone(),
            oracle: world.oracle.clone(),
            rng: SeededRng::new(world.seed, 0x1000 + id),
            plant: world.plant,
            offer,
            rules: world.scenario.workload.clone(),
            kill_margin_ms: world.scenario.cluster.kill_margin_ms,
        });
        let disk = MemoryDisk::default();
        if world.plant == Some(Plant::LyingDisk) {
            disk.faults(|trouble| trouble.lying_syncs = true);
        }
        Self(Arc::new(Inner {
            id,
            world: world.clone(),
            clock,
            machine,
            disk,
            card: Card::default(),
            lives: AtomicU64::new(0),
            boots: AtomicU64::new(0),
            speaks: AtomicU32::new(world.members.speaks(id).0),
            incarnation: AtomicU64::new(0),
            member: AtomicBool::new(false),
            node: Mutex::new(None),
        }))
    }

    /// The peer's id, from 1.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Its name in the network.
    pub fn host_name(&self) -> String {
        format!("peer-{}", self.0.id)
    }

    /// Which of its processes runs, from 1.
    pub fn life(&self) -> u64 {
        self.0.lives.load(Ordering::SeqCst)
    }

    /// The highest version that its program may speak.
    pub fn speaks(&self) -> Version {
        Version(self.0.speaks.load(Ordering::SeqCst))
    }

    /// From its next start on it is the new program.
    pub fn upgrade(&self) {
        self.0.speaks.store(version::CURRENT.0, Ordering::SeqCst);
    }

    /// Why its process ended, when that is for its version.
    pub fn outgrown(&self, how: &Result<(), Failed>) -> Option<VersionTooOld> {
        let at_start = || match how.as_ref().err()?.downcast_ref()? {
            BuildError::Outgrown(outgrown) => Some(*outgrown),
            _ => None,
        };
        self.node().and_then(|node| node.applied.outgrown()).or_else(at_start)
    }

    /// The machine under it.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// The machine's disk.
    pub fn disk(&self) -> &MemoryDisk {
        &self.0.disk
    }

    /// The machine's clocks.
    pub fn clock(&self) -> &MachineClock {
        &self.0.clock
    }

    /// The machine's network card.
    pub fn card(&self) -> &Card {
        &self.0.card
    }

    /// The running node, once it is put together.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.slot().clone()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Node>>> {
        self.0.node.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The process is about to be killed; the machine goes on.
    pub fn process_dies(&self) {
        self.slot().take();
        self.0.card.close(false);
        self.0.machine.node_died();
        self.0.disk.process_died();
    }

    /// The machine is about to lose its power. With `garbage` its disk keeps some of what was not synced damaged.
    pub fn power_goes(&self, rng: &mut SeededRng, garbage: bool) {
        self.slot().take();
        self.0.card.close(true);
        self.0.machine.power_lost();
        self.0.disk.power_lost(rng, garbage);
        self.0.clock.power_on();
        self.0.boots.fetch_add(1, Ordering::SeqCst);
    }

    /// The process: runs until it is killed, or its storage fails.
    pub async fn run(self) -> Result<(), Failed> {
        let life = self.0.lives.fetch_add(1, Ordering::SeqCst) + 1;
        let world = &self.0.world;
        let mut rng = SeededRng::new(world.seed, 0x2000 + self.0.id * 0x10_0000 + life);
        let own = address_of(self.0.id).parse()?;
        let endpoint = self.0.card.endpoint(own, world.link_faults.clone(), SeededRng::new(rng.next(), 1))?;
        let parts = NodeParts {
            id: NodeId(self.0.id),
            cluster: "sim".into(),
            recovered: None,
            speaks: self.speaks(),
            certificates: CertificateParts {
                root: root(),
                identity: identity(self.0.id),
                authority: None,
                life: LIFE,
                admin_life: ADMIN_LIFE,
            },
            log: PathBuf::from("/raft"),
            // It would be files beside the simulated disk.
            endings: None,
            options: self.raft_options(&mut rng),
            endpoint: endpoint.clone(),
            clock: self.0.clock.clone(),
            rng: Arc::new(Rng::seeded(rng.next())),
        };
        let (node, queue) = build_node(parts).await?;
        *self.slot() = Some(node.clone());
        tokio::spawn(peers::serve(endpoint, node.clone()));
        tokio::spawn(node.leader.clone().run(queue));
        self.observe(&node, life);
        tokio::select! {
            biased;
            why = node.raft.fatal() => Err(why.into()),
            ended = self.work(&node) => ended,
        }
    }

    async fn work(&self, node: &Arc<Node>) -> Result<(), Failed> {
        if !self.0.member.load(Ordering::SeqCst) {
            membership::settle(node, &self.0.world.members, &self.0.world.scenario.cluster).await?;
            self.0.member.store(true, Ordering::SeqCst);
        }
        tokio::spawn(announce(node.clone(), address_of(self.0.id)));
        self.execute(node);
        self.0.world.requests.clone().serve(self.0.id, node.clone()).await;
        Ok(())
    }

    fn raft_options(&self, rng: &mut SeededRng) -> RaftOptions {
        let mut options = RaftOptions::new("sim");
        options.disk_id = Some(membership::disk_text(self.0.id));
        options.profile = self.0.world.scenario.cluster.profile();
        options.snapshot_every_entries = SNAPSHOT_EVERY;
        options.keep_entries_after_snapshot = KEEP_ENTRIES;
        options.segment_bytes = SEGMENT_BYTES;
        options.inline_io = true;
        options.rng_seed = Some(rng.next());
        options.disk = Arc::new(self.0.disk.session());
        options.sync_delay = disk::sync_delay(&self.0.disk, SeededRng::new(rng.next(), 2));
        options.mutation_leader_restore = self.0.world.plant == Some(Plant::LeaderRestore);
        options
    }

    /// Tells the oracle what this replica knows.
    fn observe(&self, node: &Arc<Node>, life: u64) {
        let (oracle, watched, id) = (self.0.world.oracle.clone(), node.clone(), self.0.id);
        tokio::spawn(async move {
            let mut applied = watched.applied.applied();
            oracle.on_first_state(id, &watched.applied.view().state);
            while applied.changed().await.is_ok() {
                let view = watched.applied.view();
                oracle.on_state(id, life, view.at, &view.state);
                oracle.on_version(id, watched.applied.speaks, view.at, view.state.version());
            }
        });
        let (oracle, watched) = (self.0.world.oracle.clone(), node.clone());
        tokio::spawn(async move {
            let mut watch = watched.raft.watch();
            loop {
                let status = watch.changed().await;
                if let Some(leader) = status.leader {
                    oracle.on_leader(status.term, leader);
                }
            }
        });
    }

    /// The machine, and Slurm beside it where there is one. False: not all that was handed to it is accounted for.
    fn host(&self, events: mpsc::Sender<HostEvent>) -> (Arc<dyn Host>, bool) {
        let world = &self.0.world;
        let local: Arc<dyn Host> = Arc::new(self.0.machine.clone());
        if world.scenario.topology.slurm_jobs == 0 {
            return (local, true);
        }
        let boot = self.0.boots.load(Ordering::SeqCst);
        let doors = slurm::Doors { world: world.slurm.clone(), node: self.0.id, boot };
        let (records, accounted) = doors.open();
        let clock = self.0.clock.clone();
        let doors = stint_slurm_bridge::Doors {
            slurm: Arc::new(doors.clone()),
            job_dir: Arc::new(doors),
            now: Arc::new(move || clock.boot()),
            timing: slurm::timing(world.scenario.cluster.kill_margin_ms),
        };
        let bridge = Bridge::new(local, doors, records, events);
        tokio::spawn(bridge.clone().run());
        let watched = Watched {
            bridge,
            slurm: world.slurm.clone(),
            clock: self.0.clock.clone(),
            oracle: world.oracle.clone(),
        };
        (Arc::new(watched), accounted)
    }

    /// The executing side, as `stint_node::start` brings it up.
    fn execute(&self, node: &Arc<Node>) {
        let (sender, events) = mpsc::channel(EVENTS_AHEAD);
        let (host, accounted) = self.host(sender.clone());
        if !(self.0.machine.open(sender) && accounted) || self.0.incarnation.load(Ordering::SeqCst) == 0 {
            self.0.incarnation.fetch_add(1, Ordering::SeqCst);
        }
        let incarnation = Incarnation(self.0.incarnation.load(Ordering::SeqCst));
        let nonce = Nonce(node.rng.random_bits() as u64);
        // Set once a process.
        let _ = node.output.host.set(host.clone());
        let offer = self.0.machine.offer();
        let offer = RegisterNode { node: node.id, incarnation, nonce, offer, problems: vec![] };
        let agent = Agent {
            node: node.id,
            incarnation,
            nonce,
            host,
            clock: node.clock.clone(),
            link: Arc::new(Link(node.clone())),
            offer,
            closing: Arc::new(AtomicBool::new(false)),
        };
        tokio::spawn(agent.run(events));
    }
}

/// Where a peer listens: turmoil counts its hosts' addresses from 192.168.0.1.
pub fn address_of(id: u64) -> String {
    format!("192.168.0.{id}:{PORT}")
}
