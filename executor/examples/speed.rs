//! Measures 1,000 short programs with four at a time against `xargs -P4`, as ratios on the same machine:
//! `cargo run --profile dist -p stint-executor --example speed -- path/to/stint-shim`

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use stint_executor::{Host, HostClient, HostEvent, HostOptions, Launch, boot_now};
use stint_protocol::{Class, EndKind, LeaseId, Runtime, SharedSpec, TaskId, TaskSpec, Tenant};
use tokio::sync::mpsc;

const TASKS: u32 = 1000;
const SLOTS: u32 = 4;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    let Some(shim) = std::env::args_os().nth(1) else {
        eprintln!("usage: speed PATH-OF-stint-shim");
        return;
    };
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut note = |name, time: Duration| all.entry(name).or_default().push(time.as_secs_f64());
        note("xargs", xargs("/bin/true"));
        note("xargs unshare -pfm", xargs("unshare -pfm /bin/true"));
        note("off", ours(&shim, false, Runtime::Process).await);
        note("on", ours(&shim, true, Runtime::Process).await);
    }
    let median = |name: &str| {
        let mut times = all[name].clone();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    for name in all.keys() {
        println!("{name:20} {:.3} s", median(name));
    }
    println!("sandbox off / xargs                = {:.2}", median("off") / median("xargs"));
    println!("sandbox on  / xargs unshare -pfm   = {:.2}", median("on") / median("xargs unshare -pfm"));
}

fn xargs(command: &str) -> Duration {
    let began = Instant::now();
    let script = format!("seq {TASKS} | xargs -P{SLOTS} -n1 {command}");
    let status = Command::new("sh").args(["-c", &script]).status();
    assert!(status.is_ok_and(|s| s.success()), "{script}");
    began.elapsed()
}

async fn ours(shim: &std::ffi::OsStr, sandbox: bool, runtime: Runtime) -> Duration {
    let folder = std::env::temp_dir().join(format!("stint-speed-{}", std::process::id()));
    let mut settings = HostOptions::new(folder.clone(), vec![shim.to_owned()]);
    settings.sandbox = sandbox;
    let (sender, mut events) = mpsc::channel(64);
    let Ok(host) = HostClient::open(settings, sender).await else { return Duration::ZERO };
    let mut spec = TaskSpec::new(Class::CpuShort, vec!["/bin/true".into()]);
    (spec.timeout_ms, spec.memory_bytes, spec.cpu_milli) = (60_000, 512 << 20, 1000);
    let spec = SharedSpec::new(spec);
    let mut next = 0;
    let mut start = || {
        next += 1;
        let lease = LeaseId { task: TaskId(next), attempt: 1 };
        let env = BTreeMap::from([("STINT_TASK_ID".to_owned(), lease.task.to_string())]);
        let deadline = boot_now().plus(60_000);
        let tenant = Tenant::default_tenant();
        host.start(Launch {
            lease,
            tenant,
            tenant_uid: None,
            run_as: None,
            name: None,
            spec: spec.clone(),
            runtime,
            gpus: Vec::new(),
            deadline,
            env,
        });
    };
    let began = Instant::now();
    (0..SLOTS).for_each(|_| start());
    let (mut started, mut ended) = (SLOTS, 0);
    while ended < TASKS {
        let Some(HostEvent::Ended(end)) = events.recv().await else { continue };
        assert_eq!(end.kind, EndKind::Exited(0), "{end:?}");
        host.acknowledge(vec![end.lease]);
        ended += 1;
        if started < TASKS {
            start();
            started += 1;
        }
    }
    let took = began.elapsed();
    host.shutdown(true).await;
    let _ = std::fs::remove_dir_all(folder);
    took
}
