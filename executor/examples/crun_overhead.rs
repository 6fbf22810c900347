//! Measures what a crun attempt costs over `crun create` and `crun start` of the same bundle, one after the other:
//! `cargo run --profile ci -p stint-executor --example crun_overhead -- path/to/stint-shim`

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use stint_executor::{Host, HostClient, HostEvent, HostSettings, Launch, boot_now};
use stint_protocol::{Class, EndKind, LeaseId, Runtime, SharedSpec, TaskId, TaskSpec, Tenant};
use tokio::sync::mpsc;

const ATTEMPTS: u32 = 60;

/// What runs crun alone, as an attempt's init does: in namespaces of its own, without the half of a hybrid cgroup layout
/// that crun refuses. Prints the microseconds from before `create` until the program's end was seen.
const ALONE: &str = r#"
import os, subprocess, sys, time
crun, bundle, state = sys.argv[1:4]
subprocess.run(["umount", "-l", "/sys/fs/cgroup/unified"], stderr=subprocess.DEVNULL)
common = [crun, "--root=" + state, "--cgroup-manager=disabled"]
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
for n in range(int(sys.argv[4])):
    name, pid = f"alone-{n}", os.path.join(state, "pid")
    began = time.monotonic()
    subprocess.run(common + ["create", "--bundle=" + bundle, "--pid-file=" + pid, name], check=True, stdin=subprocess.DEVNULL)
    subprocess.run(common + ["start", name], check=True)
    os.waitpid(int(open(pid).read()), 0)
    print(int((time.monotonic() - began) * 1e6))
    subprocess.run(common + ["delete", "--force", name], stderr=subprocess.DEVNULL)
"#;

#[tokio::main]
async fn main() {
    let Some(shim) = std::env::args_os().nth(1) else {
        eprintln!("usage: crun_overhead PATH-OF-stint-shim");
        return;
    };
    let folder = std::env::temp_dir().join(format!("stint-overhead-{}", std::process::id()));
    let ours = ours(&shim, &folder).await;
    let alone = alone(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    let (ours, alone) = (median(ours), median(alone));
    println!("through the executor  {:.1} ms", ours.as_secs_f64() * 1e3);
    println!("crun create and start {:.1} ms", alone.as_secs_f64() * 1e3);
    println!("overhead              {:.1} ms", (ours.as_secs_f64() - alone.as_secs_f64()) * 1e3);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn ours(shim: &std::ffi::OsStr, folder: &Path) -> Vec<Duration> {
    let mut settings = HostSettings::new(folder.to_owned(), vec![shim.to_owned()]);
    settings.runtimes = vec![Runtime::Crun];
    let (sender, mut events) = mpsc::channel(64);
    let Ok(host) = HostClient::open(settings, sender).await else { return Vec::new() };
    let mut spec = TaskSpec::new(Class::CpuLong, vec!["/bin/true".into()]);
    (spec.timeout_ms, spec.memory_bytes, spec.cpu_milli) = (60_000, 512 << 20, 2000);
    let spec = SharedSpec::new(spec);
    let mut times = Vec::new();
    for number in 1..=ATTEMPTS {
        let lease = LeaseId { task: TaskId(number.into()), attempt: 1 };
        let env = BTreeMap::from([("STINT_TASK_ID".to_owned(), lease.task.to_string())]);
        let (tenant, deadline) = (Tenant::default_tenant(), boot_now().plus(60_000));
        let (runtime, spec, gpus) = (Runtime::Crun, spec.clone(), Vec::new());
        let began = Instant::now();
        host.start(Launch { lease, tenant, spec, runtime, gpus, deadline, env });
        loop {
            if let Some(HostEvent::Ended(end)) = events.recv().await {
                assert_eq!(end.kind, EndKind::Exited(0), "{end:?}");
                times.push(began.elapsed());
                break;
            }
        }
    }
    host.shutdown(true).await;
    times
}

/// The last attempt's bundle, by crun alone.
fn alone(folder: &Path) -> Vec<Duration> {
    let lease = LeaseId { task: TaskId(ATTEMPTS.into()), attempt: 1 };
    let bundle = folder.join(format!("executor/attempts/{}-1/bundle", lease.task));
    let state = folder.join("alone");
    let made = std::fs::create_dir_all(&state);
    assert!(made.is_ok(), "{made:?}");
    let output = Command::new("unshare")
        .args(["-m", "-p", "-f", "--mount-proc", "python3", "-c", ALONE, "crun"])
        .arg(&bundle)
        .arg(&state)
        .arg(ATTEMPTS.to_string())
        .output();
    let Ok(output) = output else { return Vec::new() };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.parse().ok()).map(Duration::from_micros).collect()
}
