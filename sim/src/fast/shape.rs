//! What the world of a seed looks like: peers, machines, clocks, devices and settings.

use std::collections::BTreeMap;

use stint_protocol::{Allowance, Class, GpuId, GpuInfo, NodeOffer, NodeRules, Resources, Runtime};
use stint_scheduler::{Placement, Settings};

use super::clock::Clocks;
use crate::rng::SeededRng;

/// Clocks of two machines drift apart by less than the hundredth that leases allow for, in millionths each.
const DRIFT_PPM: u64 = 4_000;

/// The world before anything happens.
pub struct Shape {
    pub settings: Settings,
    /// The machine each peer runs on.
    pub machine_of: Vec<usize>,
    pub clocks: Vec<Clocks>,
    /// What each peer's configuration offers; the devices only as far as their locks are free.
    pub offers: Vec<NodeOffer>,
    /// GPUs that one task may ask for.
    pub most_gpus: u32,
    pub pace: Pace,
    /// Whether images are registered and used.
    pub images: bool,
    /// How long a file stays that nothing names, in milliseconds: least and most.
    pub files_stay_ms: (u64, u64),
}

/// How fast things go in a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Leases of a few seconds, programs of all lengths.
    Quick,
    /// The same, and most programs outlast their first lease.
    Steady,
    /// The same, and every entry takes long to a majority of the disks.
    SlowDisks,
    /// Long leases, over which clocks drift apart; programs and faults last as long.
    Long,
}

impl Pace {
    fn drawn(rng: &mut SeededRng) -> Self {
        match rng.below(8) {
            0 | 1 => Pace::Long,
            2 | 3 => Pace::SlowDisks,
            4 | 5 => Pace::Steady,
            _ => Pace::Quick,
        }
    }

    /// How many times longer than usual things may take.
    pub fn stretch(self) -> u64 {
        if self == Pace::Long { 4 } else { 1 }
    }
}

impl Shape {
    /// The shape of a seed, in another pace than its own if one is given.
    pub fn drawn(seed: u64, pace: Option<Pace>) -> Self {
        let mut rng = SeededRng::new(seed, 0x5001);
        let own = Pace::drawn(&mut rng);
        let pace = pace.unwrap_or(own);
        let peers = [5, 5, 5, 5, 5, 5, 3, 4, 6, 7][rng.below(10) as usize];
        let shared = rng.one_in(3);
        let machine_of: Vec<usize> =
            (0..peers).map(|peer| if shared && peer == peers - 1 { peer - 1 } else { peer }).collect();
        let machines = if shared { peers - 1 } else { peers };
        let clocks = (0..machines).map(|_| clocks(pace, &mut rng)).collect();
        let offers: Vec<NodeOffer> =
            (0..peers).map(|peer| offer(peer, machine_of[peer], shared, &mut rng)).collect();
        let alone = |peer: usize| !shared || peer + 2 < peers;
        let most_gpus = (0..peers).filter(|p| alone(*p)).map(|p| offers[p].gpus.len()).max();
        let most_gpus = most_gpus.unwrap_or(0).clamp(1, 2) as u32;
        let settings = settings(pace, &mut rng);
        let images = rng.one_in(2);
        Self { settings, machine_of, clocks, offers, most_gpus, pace, images, files_stay_ms: (3_500, 9_000) }
    }

    pub fn peers(&self) -> usize {
        self.machine_of.len()
    }

    /// How long a fault lasts, in milliseconds: short, or about as long as the leader waits for a lease.
    pub fn outage_ms(&self, rng: &mut SeededRng) -> u64 {
        match rng.below(4) {
            0 => rng.between(20, 600),
            1 => rng.between(600, 6_000),
            _ => self.longest_wait_ms() + rng.between(0, 4_000),
        }
    }

    /// How long the leader waits for the longest lease, in milliseconds.
    pub fn longest_wait_ms(&self) -> u64 {
        let longest = self.settings.classes[..3].iter().map(|rules| rules.lease_ttl_ms).max().unwrap_or(0);
        longest + longest / 100 + self.settings.lease_margin_ms
    }
}

fn clocks(pace: Pace, rng: &mut SeededRng) -> Clocks {
    let drift = match rng.below(if pace == Pace::Long { 2 } else { 3 }) {
        0 => DRIFT_PPM as i64,
        1 => -(DRIFT_PPM as i64),
        _ => rng.between(0, 2 * DRIFT_PPM) as i64 - DRIFT_PPM as i64,
    };
    Clocks::new(drift, rng.between(1_000, 900_000), rng.between(0, 600) as i64 - 300)
}

/// Short leases, so that many run out; in some seeds long ones.
fn settings(pace: Pace, rng: &mut SeededRng) -> Settings {
    let kill_margin_ms = rng.between(200, 600);
    let mut settings = Settings {
        placement: if rng.one_in(2) { Placement::Spread } else { Placement::BinPack },
        keep_finished: rng.between(5, 20),
        kill_margin_ms,
        lease_margin_ms: kill_margin_ms + rng.between(100, 1_200),
        max_live_tasks: if rng.one_in(4) { rng.between(12, 30) } else { 10_000 },
        ..Settings::default()
    };
    let short = pace != Pace::Quick || rng.one_in(2);
    for class in [Class::CpuShort, Class::CpuLong, Class::Gpu] {
        let rules = &mut settings.classes[class as usize];
        rules.runtimes = vec![Runtime::Mock];
        rules.max_timeout_ms = rules.max_timeout_ms.max(120_000);
        rules.lease_ttl_ms = match pace {
            Pace::Long => rng.between(28_000, 36_000),
            _ if short => rng.between(2_400, 3_500),
            _ => rng.between(2_500, 8_000),
        };
    }
    settings.classes[Class::GpuSlurm as usize].lease_ttl_ms = 5_000;
    settings.classes[Class::Gpu as usize].max_gpus = 2;
    settings
}

/// The first peer has a device at least; two peers of one machine offer the same ones.
fn offer(peer: usize, machine: usize, shared: bool, rng: &mut SeededRng) -> NodeOffer {
    let least = u64::from(peer == 0 || (shared && machine != peer));
    let gpus = rng.between(least, 3) as u32;
    let gpu = |index: u32| GpuInfo {
        id: GpuId::new(&format!("GPU-{machine}-{index}")).unwrap_or_else(|e| panic!("a fixed name: {e}")),
        model: "Simulated".into(),
        memory_bytes: 16 << 30,
        index,
    };
    NodeOffer {
        resources: Resources { cpu_milli: rng.between(2, 5) * 1_000, memory_bytes: rng.between(3, 10) << 30 },
        gpus: (0..gpus).map(gpu).collect(),
        runtimes: vec![Runtime::Mock],
        classes: vec![Class::CpuShort, Class::CpuLong, Class::Gpu],
        labels: BTreeMap::from([("zone".to_owned(), ["a", "b"][peer % 2].to_owned())]),
        slots: rng.between(2, 6) as u32,
        quarantined: Vec::new(),
        allows: Some(vec![Allowance::everything(Runtime::Mock)]),
        rules: Some(Box::new(NodeRules::open())),
    }
}
