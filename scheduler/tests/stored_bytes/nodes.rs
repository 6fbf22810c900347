//! Nodes and the ends they report, as the stored commands hold them.

use stint_protocol::*;

use crate::tasks::pairs;

fn gpu(id: &str, index: u32) -> GpuInfo {
    GpuInfo { id: GpuId::new(id).unwrap(), model: "NVIDIA H200".into(), memory_bytes: 141 << 30, index }
}

pub fn offer() -> NodeOffer {
    NodeOffer {
        resources: Resources { cpu_milli: 16_000, memory_bytes: 64 << 30 },
        gpus: vec![gpu("GPU-1", 0), gpu("GPU-2", 1)],
        runtimes: Runtime::ALL.to_vec(),
        classes: Class::ALL.to_vec(),
        labels: pairs(&[("zone", "a")]),
        slots: 8,
        quarantined: vec![QuarantinedGpu { info: gpu("GPU-3", 2), used_by: "process 4711 (python3)".into() }],
        allows: None,
        rules: None,
    }
}

pub fn allows() -> Vec<Allowance> {
    let crun = Allowance {
        runtime: Runtime::Crun,
        networks: vec![Network::None, Network::Host],
        pids: 512,
        tmp_bytes: 2 << 30,
        shm_bytes: 8 << 30,
        swap_bytes: 1 << 30,
        mounts: None,
    };
    vec![crun, Allowance::everything(Runtime::Mock)]
}

pub fn problems() -> Vec<String> {
    vec!["memory limits are not enforced".into()]
}

pub fn lease(task: u128, attempt: u32) -> LeaseId {
    LeaseId { task: TaskId(task << 16), attempt }
}

pub fn ends() -> Vec<AttemptEnd> {
    let kinds = [
        EndKind::Exited(0),
        EndKind::Exited(-1),
        EndKind::Signalled(11),
        EndKind::TimedOut,
        EndKind::OutOfMemory,
        EndKind::Cancelled,
        EndKind::Lost,
        EndKind::StartFailed,
        EndKind::NotRunnable,
        EndKind::Denied,
        EndKind::Drained,
    ];
    let end = |(at, kind): (usize, &EndKind)| {
        AttemptEnd::new(lease(at as u128, 1), kind.clone(), format!("end {at}"), 1_000 * at as u64)
    };
    kinds.iter().enumerate().map(end).collect()
}

pub fn ends_with_outputs() -> Vec<AttemptEnd> {
    let kept = |path: &str, stored| KeptFile {
        path: path.into(),
        blob: Blob { digest: Digest::from_bytes([0xb2; 32]), size: 7 },
        stored,
        executable: None,
        pinned: None,
    };
    let end = |task, kind, outputs: Option<Box<[KeptFile]>>| AttemptEnd {
        lease: lease(task, 1),
        kind,
        message: String::new(),
        run_ms: 5,
        outputs,
        usage: None,
        not_kept: None,
        ending: None,
        left: None,
    };
    vec![
        end(20, EndKind::Exited(0), Some(vec![kept("out/a", true), kept("log", false)].into())),
        end(21, EndKind::OutputMissing, None),
        end(22, EndKind::OutputLost, None),
    ]
}

pub fn end_with_usage() -> AttemptEnd {
    let end = AttemptEnd::new(lease(30, 1), EndKind::Exited(0), String::new(), 2_000);
    AttemptEnd { usage: Some(Box::new(usage())), ..end }
}

pub fn usage() -> Usage {
    Usage { cpu_ms: Some(1_500), peak_memory_bytes: Some(64 << 20), read_bytes: Some(0), written_bytes: None }
}
