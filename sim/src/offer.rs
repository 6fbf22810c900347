//! What the simulated nodes offer.

use stint_protocol::{Allowance, Class, GpuId, GpuInfo, NodeOffer, NodeRules, Resources, Runtime};

use crate::scenario::Topology;

/// Node `id`, from 1. GPUs that all nodes share come after its own.
pub fn offer(id: u64, topology: &Topology) -> NodeOffer {
    let own = match topology.gpus.len() {
        0 => 0,
        kinds => topology.gpus[(id as usize - 1) % kinds],
    };
    let own = (0..own).map(|index| gpu(format!("GPU-{id}-{index}"), index));
    let shared = (0..topology.shared_gpus).map(|index| gpu(format!("GPU-shared-{index}"), 100 + index));
    fn with<T>(mut these: Vec<T>, one: T, is: bool) -> Vec<T> {
        these.extend(is.then_some(one));
        these
    }
    NodeOffer {
        resources: Resources { cpu_milli: topology.cpu_milli, memory_bytes: topology.memory_bytes },
        gpus: own.chain(shared).collect(),
        runtimes: with(vec![Runtime::Mock], Runtime::Slurm, topology.slurm_jobs > 0),
        classes: with(
            vec![Class::CpuShort, Class::CpuLong, Class::Gpu],
            Class::GpuSlurm,
            topology.slurm_jobs > 0,
        ),
        labels: Default::default(),
        slots: topology.slots,
        quarantined: Vec::new(),
        allows: Some(vec![Allowance::everything(Runtime::Mock)]),
        rules: Some(Box::new(NodeRules::open())),
    }
}

fn gpu(name: String, index: u32) -> GpuInfo {
    GpuInfo {
        id: GpuId::new(&name).unwrap_or_else(|e| panic!("a fixed name: {e}")),
        model: "Simulated".into(),
        memory_bytes: 16 << 30,
        index,
    }
}
