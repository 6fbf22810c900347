//! A cluster in one process: peers with disks in memory, and a transport that can be cut.
#![allow(dead_code)] // each test file uses a part
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may stop at what they do not expect")]

pub mod memory_disk;
/// Included as a file: the library has it only inside simulators and its own tests.
#[allow(dead_code)]
#[path = "../../src/simulated_disk.rs"]
pub mod simulated_disk;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use stint_raft::*;

use memory_disk::MemoryDisk;

/// A machine that remembers every entry it applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    pub lines: Vec<(u64, Vec<u8>)>,
    pub advanced: u64,
    pub batches: u64,
    pub restored: u64,
    /// Extra bytes in each snapshot.
    pub ballast: usize,
}

impl Ledger {
    pub fn texts(&self) -> Vec<String> {
        self.lines.iter().map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect()
    }
}

#[derive(Clone, Default)]
pub struct SharedLedger(pub Arc<Mutex<Ledger>>);

impl SharedLedger {
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap()
    }
}

impl StateMachine for SharedLedger {
    type Reply = (u64, usize);

    fn apply(&mut self, at: Position, data: &[u8]) -> Result<(u64, usize), String> {
        let mut ledger = self.lock();
        ledger.lines.push((at.index, data.to_vec()));
        Ok((at.index, ledger.lines.len()))
    }

    fn advance(&mut self, _at: Position) {
        self.lock().advanced += 1;
    }

    fn batch_done(&mut self) {
        self.lock().batches += 1;
    }

    fn capture(&self) -> Capture {
        let ledger = self.lock();
        let (lines, ballast) = (ledger.lines.clone(), ledger.ballast);
        Box::new(move |to| {
            to.write_all(&(ballast as u64).to_le_bytes())?;
            to.write_all(&vec![7; ballast])?;
            for (index, line) in lines {
                to.write_all(&index.to_le_bytes())?;
                to.write_all(&(line.len() as u32).to_le_bytes())?;
                to.write_all(&line)?;
            }
            Ok(())
        })
    }

    fn restore(&mut self, _at: Position, from: &mut dyn Read) -> Result<(), String> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let mut ledger = self.lock();
        ledger.restored += 1;
        ledger.lines.clear();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let mut at = 8 + number(0) as usize;
        while at < bytes.len() {
            let index = number(at);
            let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
            ledger.lines.push((index, bytes[at + 12..at + 12 + len].to_vec()));
            at += 12 + len;
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Net {
    peers: BTreeMap<PeerId, Raft<SharedLedger>>,
    /// Peers that reach nobody and are reached by nobody.
    cut: BTreeSet<PeerId>,
    /// Every nth request for a snapshot loses its answer.
    pub lose_every_snapshot_answer: Option<u64>,
    pub snapshot_calls: u64,
    /// Peers whose certificate is of another one.
    pub posing: BTreeMap<PeerId, PeerId>,
    /// Addresses that calls were made to.
    pub addresses: BTreeSet<String>,
}

#[derive(Clone, Default)]
pub struct SharedNet(Arc<Mutex<Net>>);

struct Wire {
    from: PeerId,
    net: SharedNet,
}

impl SharedNet {
    pub fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap()
    }

    fn loses_answer(&self, class: CallClass) -> bool {
        let mut net = self.lock();
        if class != CallClass::Snapshot {
            return false;
        }
        net.snapshot_calls += 1;
        net.lose_every_snapshot_answer.is_some_and(|n| net.snapshot_calls.is_multiple_of(n))
    }
}

impl Transport for Wire {
    fn call(
        &self,
        peer: PeerId,
        info: &PeerInfo,
        class: CallClass,
        request: Bytes,
        _deadline: Duration,
    ) -> CallFuture {
        let (net, from, addr) = (self.net.clone(), self.from, info.addr.clone());
        Box::pin(async move {
            // One way there and one way back.
            tokio::time::sleep(Duration::from_micros(200)).await;
            let target = {
                let mut net = net.lock();
                net.addresses.insert(addr);
                let cut = net.cut.contains(&from) || net.cut.contains(&peer);
                (!cut).then(|| net.peers.get(&peer).cloned()).flatten()
            };
            let target = target.ok_or(TransportError::Unreachable("no such peer".into()))?;
            let caller = net.lock().posing.get(&from).copied().unwrap_or(from);
            let answer = target.handle(Some(caller), class, request).await;
            tokio::time::sleep(Duration::from_micros(200)).await;
            if net.loses_answer(class) || net.lock().cut.contains(&from) {
                return Err(TransportError::TimedOut);
            }
            answer.map_err(|error| TransportError::Unreachable(error.to_string()))
        })
    }
}

/// What lives on through a peer's restarts, and the peer.
pub struct Peer {
    pub disk: MemoryDisk,
    pub ledger: SharedLedger,
    pub raft: Option<Raft<SharedLedger>>,
}

pub struct Cluster {
    pub net: SharedNet,
    pub peers: BTreeMap<PeerId, Peer>,
    pub change: fn(&mut RaftOptions),
    pub seed: u64,
}

pub fn info(id: PeerId) -> PeerInfo {
    PeerInfo { addr: format!("peer-{id}:1"), disk_id: format!("disk-{id}") }
}

impl Cluster {
    pub fn new(change: fn(&mut RaftOptions)) -> Self {
        Self { net: SharedNet::default(), peers: BTreeMap::new(), change, seed: 1 }
    }

    /// Three voters, the first of which leads.
    pub async fn of_three(change: fn(&mut RaftOptions)) -> Self {
        let mut cluster = Self::new(change);
        cluster.seed_three().await;
        cluster
    }

    pub async fn seed_three(&mut self) {
        for id in 1..=3 {
            self.start(id).await.unwrap();
        }
        self.raft(1).bootstrap(info(1)).await.unwrap();
        self.leader().await;
        for id in 2..=3 {
            self.raft(1).add_learner(id, info(id)).await.unwrap();
            self.raft(1).promote(id).await.unwrap();
        }
    }

    pub fn options(&self, id: PeerId, disk: &MemoryDisk) -> RaftOptions {
        let mut options = RaftOptions {
            disk_id: Some(info(id).disk_id),
            segment_bytes: 16 * 1024,
            inline_io: true,
            sync_delay: SyncDelay::fixed(Duration::from_micros(300)),
            rng_seed: Some(self.seed * 100 + id),
            disk: Arc::new(disk.session()),
            ..RaftOptions::new("test")
        };
        (self.change)(&mut options);
        options
    }

    /// Starts a peer, on the disk it had before.
    pub async fn start(&mut self, id: PeerId) -> Result<(), OpenError> {
        let disk = self.peers.get(&id).map(|peer| peer.disk.clone()).unwrap_or_default();
        let ledger = SharedLedger::default();
        let options = self.options(id, &disk);
        let wire = Arc::new(Wire { from: id, net: self.net.clone() });
        let raft = Raft::open(id, PathBuf::from("/data"), options, ledger.clone(), wire).await?;
        self.net.lock().peers.insert(id, raft.clone());
        self.peers.insert(id, Peer { disk, ledger, raft: Some(raft) });
        Ok(())
    }

    pub fn raft(&self, id: PeerId) -> Raft<SharedLedger> {
        self.peers[&id].raft.clone().expect("the peer runs")
    }

    pub fn ledger(&self, id: PeerId) -> Ledger {
        self.peers[&id].ledger.lock().clone()
    }

    pub fn running(&self) -> Vec<PeerId> {
        self.peers.iter().filter(|(_, peer)| peer.raft.is_some()).map(|(id, _)| *id).collect()
    }

    pub async fn stop(&mut self, id: PeerId) {
        self.net.lock().peers.remove(&id);
        if let Some(raft) = self.peers.get_mut(&id).and_then(|peer| peer.raft.take()) {
            raft.stop().await;
        }
    }

    pub fn cut(&self, id: PeerId) {
        self.net.lock().cut.insert(id);
    }

    pub fn heal(&self, id: PeerId) {
        self.net.lock().cut.remove(&id);
    }

    /// Waits for a leader with a quorum among the peers that run.
    pub async fn leader(&self) -> PeerId {
        let leads = |id: &PeerId| self.raft(*id).status().is_leader_with_quorum();
        self.wait("a leader", || {
            self.running().into_iter().filter(leads).max_by_key(|id| self.raft(*id).status().term)
        })
        .await
    }

    /// Waits until `found` gives something; fails after 20 s.
    pub async fn wait<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> T {
        wait(what, found).await
    }

    /// Proposes until some leader takes it.
    pub async fn propose(&self, text: &str) -> (u64, usize) {
        for _ in 0..100 {
            let leader = self.leader().await;
            match self.raft(leader).propose(Bytes::from(text.to_string())).await {
                Ok(reply) => return reply,
                Err(ProposeError::NotLeader { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{text}: {error}"),
            }
        }
        panic!("{text}: nobody took it");
    }

    /// Waits until all these peers have applied the same lines, which must be `count` many.
    pub async fn agree(&self, ids: &[PeerId], count: usize) {
        let same = || {
            let first = self.ledger(ids[0]).lines;
            let all = ids.iter().all(|id| self.ledger(*id).lines == first);
            (all && first.len() == count).then_some(())
        };
        self.wait("agreement", same).await
    }
}

/// Waits until `found` gives something; fails after 20 s.
pub async fn wait<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "no {what} within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
