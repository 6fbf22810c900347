//! Measures what a crun attempt costs over `crun create` and `crun start` of the same bundle, in turns:
//! `cargo run --profile ci -p stint-executor --example crun_overhead -- path/to/stint-shim`

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use stint_executor::{Host, HostClient, HostEvent, HostOptions, Launch, boot_now};
use stint_protocol::{Class, EndKind, LeaseId, Runtime, SharedSpec, TaskId, TaskSpec, Tenant};
use tokio::sync::mpsc;

const ATTEMPTS: u32 = 60;

/// What runs crun alone, as an attempt's init does: in namespaces of its own, without the half of a hybrid cgroup layout
/// that crun refuses. For each line that it reads it prints the microseconds from before `create` until the end of the
/// program was seen.
const ALONE: &str = r#"
import os, subprocess, sys, time
crun, bundle, state = sys.argv[1:4]
subprocess.run(["umount", "-l", "/sys/fs/cgroup/unified"], stderr=subprocess.DEVNULL)
common = [crun, "--root=" + state, "--cgroup-manager=disabled"]
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
for n, line in enumerate(sys.stdin):
    name, pid = f"alone-{n}", os.path.join(state, "pid")
    began = time.monotonic()
    subprocess.run(common + ["create", "--bundle=" + bundle, "--pid-file=" + pid, name], check=True, stdin=subprocess.DEVNULL)
    subprocess.run(common + ["start", name], check=True)
    os.waitpid(int(open(pid).read()), 0)
    took = time.monotonic() - began
    subprocess.run(common + ["delete", "--force", name], stderr=subprocess.DEVNULL)
    print(int(took * 1e6), flush=True)
"#;

#[tokio::main]
async fn main() {
    let Some(shim) = std::env::args_os().nth(1) else {
        eprintln!("usage: crun_overhead PATH-OF-stint-shim");
        return;
    };
    let folder = std::env::temp_dir().join(format!("stint-overhead-{}", std::process::id()));
    let (mut ours, mut bare, mut more) = (Vec::new(), Vec::new(), Vec::new());
    let mut settings = HostOptions::new(folder.clone(), vec![shim]);
    settings.runtimes = vec![Runtime::Crun];
    let (sender, mut events) = mpsc::channel(64);
    let Ok(host) = HostClient::open(settings, sender).await else { return };
    // The first one makes what is made once, and the bundle that crun gets alone.
    through_us(&host, &mut events, 1).await;
    let mut alone = Alone::begin(&folder);
    alone.run();
    for number in 2..ATTEMPTS {
        let (through_us, by_hand) = (through_us(&host, &mut events, number).await, alone.run());
        ours.push(through_us);
        bare.push(by_hand);
        more.push(through_us - by_hand);
    }
    alone.end();
    host.shutdown(true).await;
    let _ = std::fs::remove_dir_all(&folder);
    println!("through the executor    {:5.1} ms", median(ours));
    println!("crun create and start   {:5.1} ms", median(bare));
    println!("one more than the other {:5.1} ms (median of {} pairs)", median(more), ATTEMPTS - 2);
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Milliseconds from the order until the end of an attempt is told.
async fn through_us(host: &HostClient, events: &mut mpsc::Receiver<HostEvent>, number: u32) -> f64 {
    let mut spec = TaskSpec::new(Class::CpuLong, vec!["/bin/true".into()]);
    (spec.timeout_ms, spec.memory_bytes, spec.cpu_milli) = (60_000, 512 << 20, 2000);
    let lease = LeaseId { task: TaskId(number.into()), attempt: 1 };
    let env = BTreeMap::from([("STINT_TASK_ID".to_owned(), lease.task.to_string())]);
    let (tenant, deadline, spec) = (Tenant::default_tenant(), boot_now().plus(60_000), SharedSpec::new(spec));
    let began = Instant::now();
    host.start(Launch {
        lease,
        tenant,
        tenant_uid: None,
        run_as: None,
        name: None,
        spec,
        runtime: Runtime::Crun,
        gpus: Vec::new(),
        deadline,
        env,
    });
    loop {
        if let Some(HostEvent::Ended(end)) = events.recv().await {
            assert_eq!(end.kind, EndKind::Exited(0), "{end:?}");
            return began.elapsed().as_secs_f64() * 1e3;
        }
    }
}

/// The first attempt's bundle, by crun alone.
struct Alone(Child);

impl Alone {
    fn begin(folder: &Path) -> Self {
        let lease = LeaseId { task: TaskId(1), attempt: 1 };
        let bundle = folder.join(format!("executor/attempts/{}-1/bundle", lease.task));
        let state = folder.join("alone");
        let made = std::fs::create_dir_all(&state);
        assert!(made.is_ok(), "{made:?}");
        let mut command = Command::new("unshare");
        command.args(["-m", "-p", "-f", "--mount-proc", "python3", "-c", ALONE, "crun"]);
        let child = command.arg(&bundle).arg(&state).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|e| panic!("starting python3 in namespaces of its own: {e}")))
    }

    /// Milliseconds.
    fn run(&mut self) -> f64 {
        let succeeded = self.0.stdin.as_mut().is_some_and(|input| input.write_all(b"\n").is_ok());
        let mut line = String::new();
        let read =
            self.0.stdout.as_mut().map(|output| BufReader::with_capacity(1, output).read_line(&mut line));
        let micros = line.trim().parse::<f64>();
        assert!(
            succeeded && read.is_some_and(|read| read.is_ok()) && micros.is_ok(),
            "crun alone does not run"
        );
        micros.unwrap_or_default() / 1e3
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
