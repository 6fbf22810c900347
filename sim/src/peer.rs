//! One simulated peer: what outlives its process, and the process itself, which is the real node behind simulated doors.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stint_executor::Host;
use stint_node::agent::Agent;
use stint_node::assemble::{Parts, assemble};
use stint_node::clock::Chance;
use stint_node::node::{Link, Node};
use stint_node::peers;
use stint_node::pki::{Authority, Identity};
use stint_protocol::{Class, GpuId, GpuInfo, Incarnation, NodeId, NodeOffer, Nonce, Resources, Runtime};
use stint_raft::{Settings, SyncDelay};
use stint_scheduler::RegisterNode;
use tokio::sync::mpsc;

use crate::clock::MachineClock;
use crate::dice::Dice;
use crate::disk::MemoryDisk;
use crate::host::Machine;
use crate::membership;
use crate::network::{self, PORT, Sky};
use crate::oracle::{Oracle, Severity};
use crate::plant::Plant;
use crate::rules::ClusterRules;
use crate::workload::Desk;

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
    seed: u64,
    plant: Option<Plant>,
    clock: Arc<MachineClock>,
    machine: Machine,
    disk: MemoryDisk,
    sky: Sky,
    oracle: Oracle,
    desk: Desk,
    /// Processes begun so far.
    lives: AtomicU64,
    /// What the real node keeps in its data folder.
    incarnation: AtomicU64,
    member: AtomicBool,
    rules: Arc<ClusterRules>,
    node: Mutex<Option<Arc<Node>>>,
}

/// What a peer shares with the world.
pub struct Surroundings {
    pub seed: u64,
    pub plant: Option<Plant>,
    pub sky: Sky,
    pub oracle: Oracle,
    pub desk: Desk,
    pub rules: Arc<ClusterRules>,
}

/// Why a simulated process ended by itself.
pub type Failed = Box<dyn std::error::Error>;

impl Peer {
    /// A machine that is switched on, with an empty disk and no process yet.
    pub fn new(id: u64, clock: Arc<MachineClock>, world: &Surroundings) -> Self {
        let Surroundings { seed, plant, sky, oracle, desk, rules } = world;
        let dice = Dice::new(*seed, 0x1000 + id);
        let machine = Machine::new(id, clock.clone(), oracle.clone(), dice, *plant);
        machine.keep_for_kill(rules.kill_margin_ms);
        let disk = MemoryDisk::default();
        if *plant == Some(Plant::LyingDisk) {
            disk.lie();
        }
        Self(Arc::new(Inner {
            id,
            seed: *seed,
            plant: *plant,
            clock,
            machine,
            disk,
            sky: sky.clone(),
            oracle: oracle.clone(),
            desk: desk.clone(),
            lives: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
            member: AtomicBool::new(false),
            rules: rules.clone(),
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

    /// The machine under it.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
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
        self.0.machine.node_died();
        self.0.disk.process_died();
    }

    /// The machine is about to lose its power.
    pub fn power_goes(&self, dice: &mut Dice) {
        self.slot().take();
        self.0.machine.power_lost();
        self.0.disk.power_lost(dice);
        self.0.clock.power_on();
    }

    /// The process: runs until it is killed.
    pub async fn run(self) -> Result<(), Failed> {
        let life = self.0.lives.fetch_add(1, Ordering::SeqCst) + 1;
        let mut dice = Dice::new(self.0.seed, 0x2000 + self.0.id * 0x10_0000 + life);
        let endpoint = network::endpoint(self.0.sky.clone(), Dice::new(dice.next(), 1)).await?;
        let parts = Parts {
            id: NodeId(self.0.id),
            cluster: "sim".into(),
            authority: authority(),
            identity: identity(self.0.id),
            log: PathBuf::from("/raft"),
            settings: self.raft_settings(&mut dice),
            endpoint: endpoint.clone(),
            clock: self.0.clock.clone(),
            chance: Arc::new(Chance::seeded(dice.next())),
        };
        let (node, queue) = assemble(parts).await?;
        *self.slot() = Some(node.clone());
        tokio::spawn(peers::serve(endpoint, node.clone()));
        tokio::spawn(node.leader.clone().run(queue));
        self.observe(&node);
        if !self.0.member.load(Ordering::SeqCst) {
            membership::settle(&node, disk_of(self.0.id), &self.0.rules).await?;
            self.0.member.store(true, Ordering::SeqCst);
        }
        self.execute(&node);
        self.0.desk.clone().serve(self.0.id, node).await;
        Ok(())
    }

    fn raft_settings(&self, dice: &mut Dice) -> Settings {
        let mut settings = Settings::new("sim");
        settings.disk_id = Some(format!("{:032x}", u128::from_be_bytes(disk_of(self.0.id))));
        settings.profile = self.0.rules.profile();
        settings.snapshot_every_entries = SNAPSHOT_EVERY;
        settings.keep_entries_after_snapshot = KEEP_ENTRIES;
        settings.segment_bytes = SEGMENT_BYTES;
        settings.inline_io = true;
        settings.rng_seed = Some(dice.next());
        settings.disk = Arc::new(self.0.disk.session());
        settings.sync_delay = sync_delay(Dice::new(dice.next(), 2));
        settings.mutation_leader_restore = self.0.plant == Some(Plant::LeaderRestore);
        settings
    }

    /// Tells the oracle what this replica knows.
    fn observe(&self, node: &Arc<Node>) {
        let (oracle, watched, id) = (self.0.oracle.clone(), node.clone(), self.0.id);
        tokio::spawn(async move {
            let mut applied = watched.shared.applied();
            while applied.changed().await.is_ok() {
                let view = watched.shared.view();
                oracle.on_state(id, view.at.index, &view.state);
            }
        });
        let (oracle, watched) = (self.0.oracle.clone(), node.clone());
        tokio::spawn(async move {
            let mut watch = watched.raft.watch();
            loop {
                let status = watch.changed().await;
                if let Some(leader) = status.leader {
                    oracle.on_leader(status.term, leader);
                }
            }
        });
        let (oracle, watched) = (self.0.oracle.clone(), node.clone());
        tokio::spawn(async move {
            let why = watched.raft.fatal().await;
            oracle.violate(Severity::Crash, "no peer gives up", format!("peer {id}: {why}"));
        });
    }

    /// The executing side, as `stint_node::start` brings it up.
    fn execute(&self, node: &Arc<Node>) {
        let (sender, events) = mpsc::channel(EVENTS_AHEAD);
        if !self.0.machine.open(sender) || self.0.incarnation.load(Ordering::SeqCst) == 0 {
            self.0.incarnation.fetch_add(1, Ordering::SeqCst);
        }
        let incarnation = Incarnation(self.0.incarnation.load(Ordering::SeqCst));
        let nonce = Nonce(node.chance.bits() as u64);
        let host: Arc<dyn Host> = Arc::new(self.0.machine.clone());
        // Set once a process.
        let _ = node.host.set(host.clone());
        let offer =
            RegisterNode { node: node.id, incarnation, nonce, offer: offer(self.0.id), problems: vec![] };
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

/// The random id of a peer's data folder.
pub fn disk_of(id: u64) -> [u8; 16] {
    [id as u8; 16]
}

/// Where a peer listens: turmoil counts its hosts' addresses from 192.168.0.1.
pub fn address_of(id: u64) -> String {
    format!("192.168.0.{id}:{PORT}")
}

/// Peer 1 has one GPU, peer 2 two, peer 3 none.
fn offer(id: u64) -> NodeOffer {
    let gpu = |index: u32| GpuInfo {
        id: GpuId::new(&format!("GPU-{id}-{index}")).unwrap_or_else(|e| panic!("a fixed name: {e}")),
        model: "Simulated".into(),
        memory_bytes: 16 << 30,
        index,
    };
    NodeOffer {
        resources: Resources { cpu_milli: 4_000, memory_bytes: 16 << 30 },
        gpus: (0..[1, 2, 0][(id as usize - 1) % 3]).map(gpu).collect(),
        runtimes: vec![Runtime::Mock],
        classes: vec![Class::CpuShort, Class::CpuLong, Class::Gpu],
        labels: Default::default(),
        slots: 8,
    }
}

/// Most syncs take 0.5 to 3 ms, some 8, few 60.
fn sync_delay(dice: Dice) -> SyncDelay {
    let dice = Mutex::new(dice);
    SyncDelay::model(move || {
        let mut dice = dice.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let micros = match dice.below(100) {
            0..=89 => dice.between(500, 3_000),
            90..=98 => 8_000,
            _ => 60_000,
        };
        Duration::from_micros(micros)
    })
}

fn authority() -> Authority {
    let certificate = include_str!("../fixtures/authority.pem").to_owned();
    Authority { certificate, key: include_str!("../fixtures/authority.key").to_owned() }
}

fn identity(id: u64) -> Identity {
    let (certificate, key) = match id {
        1 => (include_str!("../fixtures/peer-1.pem"), include_str!("../fixtures/peer-1.key")),
        2 => (include_str!("../fixtures/peer-2.pem"), include_str!("../fixtures/peer-2.key")),
        _ => (include_str!("../fixtures/peer-3.pem"), include_str!("../fixtures/peer-3.key")),
    };
    Identity { certificate: certificate.into(), key: key.into() }
}
