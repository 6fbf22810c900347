//! The Docker runtime on a real engine: what a container may do, how it ends, and who ends it when everybody else is
//! gone. The engine and the image are made by `.ci/prepare`; without them these tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stint_executor::{Artifact, Host, LogStream, Observer, PullEnd, Rule, StopReason, boot_now};
use stint_protocol::{EndKind, GpuId, GpuInfo, GpuRequest, LeaseId, Runtime};
use support::{Client, Rig, assert_kind, launch, signal, spec, wait_until};

const IMAGE: &str = "stint-test/busybox:1";

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output();
    let output = output.expect("no docker command: run .ci/prepare");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?} failed, run .ci/prepare: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A host that may use the image of the tests.
async fn open() -> (Rig, Client) {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let mut rig = Rig::new(true);
    rig.settings.runtimes = vec![Runtime::Docker];
    rig.settings.docker.allowed_images = vec!["stint-test/*".into()];
    let client = rig.open().await;
    assert_eq!(client.host.health().runtimes[&Runtime::Docker], Ok(()));
    (rig, client)
}

/// Containers of a rig, in whatever state.
fn containers(rig: &Rig) -> Vec<String> {
    let label = format!("label=stint.executor={}", rig.executor().display());
    docker(&["ps", "-aq", "--no-trunc", "--filter", &label]).lines().map(str::to_owned).collect()
}

fn order(args: &[&str]) -> stint_executor::Launch {
    let mut spec = spec(args);
    spec.image = Some(IMAGE.into());
    launch(spec, Runtime::Docker)
}

fn shell(script: &str) -> stint_executor::Launch {
    order(&["/bin/sh", "-c", script])
}

async fn output(client: &Client, lease: LeaseId, stream: LogStream) -> String {
    let chunk = client.host.read_log(lease, stream, 0, 1 << 20).await.unwrap();
    String::from_utf8_lossy(&chunk.bytes).into_owned()
}

fn first_process(rig: &Rig) -> i32 {
    let id = &containers(rig)[0];
    docker(&["inspect", "--format", "{{.State.Pid}}", id]).parse().unwrap()
}

fn alive(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
        && !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z")
}

#[tokio::test]
async fn ends_are_told_apart_and_nothing_is_left() {
    let (rig, mut client) = open().await;
    let cases = [
        (shell("echo out; echo err >&2; exit 0"), EndKind::Exited(0)),
        (shell("exit 7"), EndKind::Exited(7)),
        (shell("exit 255"), EndKind::Exited(255)),
        (shell("sleep 0.5; exit 137"), EndKind::Exited(137)),
        (order(&["no-such-program"]), EndKind::NotRunnable),
        (order(&["/no/such/file"]), EndKind::NotRunnable),
        (order(&["/work"]), EndKind::NotRunnable),
    ];
    for (launch, kind) in cases {
        let lease = launch.lease;
        let args = launch.spec.command.clone();
        client.host.start(launch);
        let end = client.end(lease).await;
        if kind == EndKind::Exited(137) && end.kind == EndKind::Signalled(9) {
            println!("this kernel does not tell an exit code of 137 from a kill");
            continue;
        }
        assert_eq!(end.kind, kind, "{args:?}: {end:?}");
        if kind == EndKind::Exited(0) {
            assert_eq!(output(&client, lease, LogStream::Stdout).await, "out\n");
            assert_eq!(output(&client, lease, LogStream::Stderr).await, "err\n");
        }
    }
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn memory_signals_timeouts_and_stops() {
    let (rig, mut client) = open().await;
    let mut hog = spec(&["/bin/sh", "-c", "x=x; while :; do x=$x$x; done"]);
    (hog.image, hog.memory_bytes) = (Some(IMAGE.into()), 32 << 20);
    let hog = launch(hog, Runtime::Docker);
    let mut slow = spec(&["/bin/sh", "-c", "trap : TERM; while :; do sleep 0.05; done"]);
    (slow.image, slow.timeout_ms, slow.stop_grace_ms) = (Some(IMAGE.into()), 500, 300);
    let slow = launch(slow, Runtime::Docker);
    let polite = shell("trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done");
    let (hog_lease, slow_lease, polite_lease) = (hog.lease, slow.lease, polite.lease);
    for launch in [hog, slow, polite] {
        client.host.start(launch);
    }
    client.started(polite_lease).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.host.stop(polite_lease, StopReason::Cancelled);
    assert_kind(&client.end(hog_lease).await, EndKind::OutOfMemory);
    assert_kind(&client.end(slow_lease).await, EndKind::TimedOut);
    assert_kind(&client.end(polite_lease).await, EndKind::Cancelled);
    assert_eq!(output(&client, polite_lease, LogStream::Stdout).await, "bye\n");

    let killed = shell("sleep 100");
    let lease = killed.lease;
    client.host.start(killed);
    client.started(lease).await;
    signal(first_process(&rig), libc::SIGKILL);
    assert_kind(&client.end(lease).await, EndKind::Signalled(9));
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_allowed_does_not_run() {
    let (rig, mut client) = open().await;
    let cases = [
        (Some("busybox"), EndKind::Denied, "has no pattern that matches"),
        (Some("stint-test/deep/busybox"), EndKind::Denied, "has no pattern"),
        (Some("Not A Name"), EndKind::NotRunnable, "no name of a Docker image"),
        (None, EndKind::NotRunnable, "needs an image"),
    ];
    for (image, kind, part) in cases {
        let mut spec = spec(&["/bin/true"]);
        spec.image = image.map(str::to_owned);
        let launch = launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{end:?}");
        assert!(end.message.contains(part), "{end:?}");
    }
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_that_is_missing() {
    let (rig, client) = open().await;
    client.host.shutdown(false).await;
    let mut rig = rig;
    rig.settings.docker.pull = stint_executor::Pull::Never;
    let mut client = rig.open().await;
    let mut spec = spec(&["/bin/true"]);
    spec.image = Some("stint-test/absent:1".into());
    let launch = launch(spec, Runtime::Docker);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::NotRunnable, "{end:?}");
    assert!(end.message.contains("is not on this node"), "{end:?}");
    // A registry on loopback that is not there: the node's trouble, tried again.
    rig.settings.docker.pull = stint_executor::Pull::Missing;
    rig.settings.docker.allowed_images = vec!["**".into()];
    client.host.shutdown(false).await;
    let mut client = rig.open().await;
    let mut spec = support::spec(&["/bin/true"]);
    spec.image = Some("127.0.0.1:9/absent:1".into());
    let launch = support::launch(spec, Runtime::Docker);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::StartFailed, "{end:?}");
    assert!(end.message.contains("failed 3 times"), "{end:?}");
    assert!(output(&client, lease, LogStream::Stderr).await.contains("again in 2000 ms"));
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_gets_little() {
    let (rig, mut client) = open().await;
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; id -u; ls /sys/class/net | tr '\\n' ' '; echo; \
                  touch /x 2>/dev/null || echo read-only; touch /work/file && echo work; touch /tmp/f && echo tmp; \
                  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
                  cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; echo $HOME; ls /var/run/docker.sock 2>&1; \
                  cp /bin/busybox /tmp/sh && /tmp/sh true 2>/dev/null || echo noexec; sleep 1";
    let mut spec = spec(&["/bin/sh", "-c", script]);
    (spec.image, spec.memory_bytes, spec.cpu_milli) = (Some(IMAGE.into()), 64 << 20, 500);
    let launch = launch(spec, Runtime::Docker);
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let format = "{{.HostConfig.NanoCpus}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.NetworkMode}} \
                  {{.HostConfig.Privileged}} {{.HostConfig.CapDrop}} {{index .Config.Labels \"stint.tenant\"}} \
                  {{index .Config.Labels \"stint.attempt\"}}";
    let inspected = docker(&["inspect", "--format", format, &containers(&rig)[0]]);
    assert_eq!(inspected, format!("500000000 {} 512 none false [ALL] default 1", 64 << 20));
    assert_kind(&client.end(lease).await, EndKind::Exited(0));
    let said = output(&client, lease, LogStream::Stdout).await;
    for part in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "65534",
        "\nlo \n",
        "read-only",
        "work",
        "tmp",
        "67108864",
        "512",
        "/work\n",
        "docker.sock: No such file",
        "noexec",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
}

#[tokio::test]
async fn the_devices_of_the_lease_and_no_others() {
    let (rig, mut client) = open().await;
    let gpu = |id: &str| GpuInfo {
        id: GpuId::new(id).unwrap(),
        model: "Test".into(),
        memory_bytes: 1 << 30,
        index: 0,
    };
    let mut spec = spec(&["/bin/sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES; sleep 1"]);
    (spec.image, spec.gpus) = (Some(IMAGE.into()), Some(GpuRequest { count: 1, ..GpuRequest::default() }));
    let mut one = launch(spec.clone(), Runtime::Docker);
    one.gpus = vec![gpu("GPU-1")];
    let lease = one.lease;
    client.host.start(one);
    client.started(lease).await;
    let devices =
        docker(&["inspect", "--format", "{{json .HostConfig.DeviceRequests}}", &containers(&rig)[0]]);
    assert!(devices.contains("\"DeviceIDs\":[\"GPU-1\"]") && devices.contains("[[\"gpu\"]]"), "{devices}");
    assert_kind(&client.end(lease).await, EndKind::Exited(0));
    assert_eq!(output(&client, lease, LogStream::Stdout).await, "GPU-1 GPU-1\n");
    let mut two = launch(spec, Runtime::Docker);
    two.gpus = vec![gpu("GPU-1"), gpu("GPU-2")];
    let lease = two.lease;
    client.host.start(two);
    let end = client.end(lease).await;
    assert!(end.kind == EndKind::StartFailed && end.message.contains("holds 2 GPUs"), "{end:?}");
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_inside_itself_though_the_node_is_gone() {
    let (rig, mut client) = open().await;
    let mut launch = shell("trap : TERM; while :; do sleep 0.05; done");
    launch.deadline = boot_now().plus(4_000);
    let (lease, deadline) = (launch.lease, launch.deadline);
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    client.host.shutdown(false).await;
    wait_until("the end of the container", || !alive(pid)).await;
    assert!(boot_now() <= deadline, "it outlived its lease");
    let mut client = rig.open().await;
    wait_until("its end", || client.host.unacknowledged().iter().any(|end| end.lease == lease)).await;
    assert_kind(&client.host.unacknowledged()[0], EndKind::Lost);
    assert_eq!(containers(&rig), Vec::<String>::new());
    client.events.close();
}

#[tokio::test]
async fn a_container_dies_with_its_watchdog() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 100");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    rig.kill_shim();
    wait_until("the end of the container", || !alive(pid)).await;
    assert_kind(&client.end(lease).await, EndKind::Lost);
    wait_until("its removal", || containers(&rig).is_empty()).await;
}

fn monitors(rig: &Rig) -> Vec<i32> {
    let shim = rig.shim_pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_monitor_that_is_killed_leaves_nothing() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 100");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    for monitor in monitors(&rig) {
        signal(monitor, libc::SIGKILL);
    }
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::Lost, "{end:?}");
    assert!(!alive(pid));
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn watchdog_and_monitor_killed_at_once() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 100");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    let monitors = monitors(&rig);
    signal(rig.shim_pid().unwrap(), libc::SIGSTOP);
    for monitor in monitors {
        signal(monitor, libc::SIGKILL);
    }
    rig.kill_shim();
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::Lost, "{end:?}");
    assert!(!alive(pid), "the next watchdog reported it as lost while it ran");
    wait_until("its removal", || containers(&rig).is_empty()).await;
}

#[tokio::test]
async fn a_hung_monitor_does_not_keep_its_container_alive() {
    let (rig, mut client) = open().await;
    let mut launch = shell("trap : TERM; while :; do sleep 0.05; done");
    launch.deadline = boot_now().plus(4_000);
    let (lease, deadline) = (launch.lease, launch.deadline);
    client.host.start(launch);
    client.started(lease).await;
    let (pid, monitors) = (first_process(&rig), monitors(&rig));
    monitors.iter().for_each(|monitor| signal(*monitor, libc::SIGSTOP));
    wait_until("the end of the container", || !alive(pid)).await;
    assert!(boot_now() <= deadline, "it outlived its lease");
    monitors.iter().for_each(|monitor| signal(*monitor, libc::SIGCONT));
    assert_kind(&client.end(lease).await, EndKind::Lost);
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_restarted_node_adopts_its_containers() {
    let (rig, mut client) = open().await;
    let launch = shell("echo before; sleep 2; echo after; exit 5");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    client.host.shutdown(false).await;
    let mut client = rig.open().await;
    assert!(client.host.health().accounted);
    assert_eq!(client.host.running().len(), 1);
    assert_eq!(containers(&rig).len(), 1, "the sweep took a container that is held");
    assert_kind(&client.end(lease).await, EndKind::Exited(5));
    assert_eq!(output(&client, lease, LogStream::Stdout).await, "before\nafter\n");
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn containers_that_nobody_accounts_for_are_swept() {
    let (rig, client) = open().await;
    client.host.shutdown(true).await;
    let label = format!("stint.executor={}", rig.executor().display());
    docker(&["run", "-d", "--network", "none", "--label", &label, IMAGE, "/bin/sleep", "100"]);
    docker(&["create", "--network", "none", "--label", &label, IMAGE, "/bin/sleep", "100"]);
    assert_eq!(containers(&rig).len(), 2);
    let _client = rig.open().await;
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_hundred_mebibytes_of_output() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 0.5; head -c 104857600 /dev/zero; echo; echo end");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let monitor = monitors(&rig)[0];
    let peak = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmHWM"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let (before, began) = (peak(monitor).unwrap(), std::time::Instant::now());
    let mut most = before;
    while !client.ends.contains_key(&lease) {
        let _ = tokio::time::timeout(
            Duration::from_millis(20),
            client.until(|c| c.ends.contains_key(&lease), "the end"),
        )
        .await;
        most = most.max(peak(monitor).unwrap_or(0));
    }
    assert_kind(&client.ends[&lease], EndKind::Exited(0));
    println!("MEASURED docker: 100 MiB of output in {:?}, monitor {before} to {most} KiB", began.elapsed());
    assert!(most - before < 32 << 10, "the monitor grew from {before} to {most} KiB");
    let size = std::fs::metadata(
        rig.executor().join("attempts").join(format!("{}-{}", lease.task, lease.attempt)).join("stdout"),
    );
    assert_eq!(size.unwrap().len(), (100 << 20) + 5);
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_full_disk_costs_output_and_nothing_else() {
    let (rig, mut client) = open().await;
    let attempts = rig.executor().join("attempts");
    let mount = |args: &[&str]| {
        assert!(
            Command::new(args[0]).args(&args[1..]).arg(&attempts).status().unwrap().success(),
            "{args:?}"
        );
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
    let launch = shell("sleep 0.3; head -c 4194304 /dev/zero; exit 3");
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let left = containers(&rig);
    mount(&["umount", "--lazy"]);
    assert_eq!(end.kind, EndKind::Exited(3), "{end:?}");
    assert!(end.message.contains("could not be kept"), "{end:?}");
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn what_a_monitor_cannot_do_stands_in_the_log_with_time_and_lease() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 60");
    let lease = launch.lease;
    let folder = rig.executor().join("attempts").join(format!("{}-{}", lease.task, lease.attempt));
    client.host.start(launch);
    client.started(lease).await;
    std::fs::rename(&folder, rig.folder.path().join("moved")).unwrap();
    client.host.stop(lease, StopReason::Cancelled);
    client.end(lease).await;
    let log = std::fs::read_to_string(rig.executor().join("shim.log")).unwrap();
    let about = format!(" task={} attempt={}: writing how it ended: ", lease.task, lease.attempt);
    let line = log.lines().find(|line| line.contains(&about)).unwrap_or_else(|| panic!("{log}"));
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 27 && time.starts_with("20") && time.ends_with('Z'), "{line}");
    assert!(rest.starts_with("monitor pid="), "{line}");
}

fn sha256(file: &std::path::Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    format!("sha256:{}", String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap())
}

/// A registry on loopback with one image, whose manifest it refuses to give `failures` times. With a login
/// (`user:password` in base64) it answers nobody else. Its port, and the manifest's digest.
fn registry(folder: PathBuf, failures: u32, login: Option<&'static str>) -> (u16, String) {
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
    let run = |args: &[&str]| {
        assert!(Command::new(args[0]).args(&args[1..]).current_dir(&folder).status().unwrap().success())
    };
    run(&["tar", "-C", "root", "-cf", "layer", "."]);
    let uncompressed = sha256(&folder.join("layer"));
    run(&["gzip", "-nf", "layer"]);
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"Cmd\":[\"/bin/sh\",\"-c\",\"echo of the image\"]}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{uncompressed}\"]}}}}"
    );
    std::fs::write(folder.join("config"), config).unwrap();
    let part = |kind: &str, file: &str| {
        let (digest, size) =
            (sha256(&folder.join(file)), std::fs::metadata(folder.join(file)).unwrap().len());
        let text = format!(
            "{{\"mediaType\":\"application/vnd.docker.{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}"
        );
        (digest, text)
    };
    let (config, layer) =
        (part("container.image.v1+json", "config"), part("image.rootfs.diff.tar.gzip", "layer.gz"));
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{},\"layers\":[{}]}}",
        config.1, layer.1
    );
    std::fs::write(folder.join("manifest"), &manifest).unwrap();
    let digest = sha256(&folder.join("manifest"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), digest.clone());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut failures = failures;
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            let (mut request, mut part) = (Vec::new(), [0u8; 4096]);
            while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.first() != Some(&0x16) {
                match stream.read(&mut part) {
                    Ok(read @ 1..) => request.extend_from_slice(&part[..read]),
                    _ => break,
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let Some((method, path)) =
                request.split_once(' ').map(|(m, rest)| (m, rest.split(' ').next().unwrap_or("")))
            else {
                continue;
            };
            let known = |login: &str| request.contains(&format!("\r\nAuthorization: Basic {login}\r\n"));
            let mut challenge = "";
            let mut status = "200 OK";
            let (mut kind_of, mut body) = ("application/octet-stream", Vec::new());
            if login.is_some_and(|login| !known(login)) {
                status = "401 Unauthorized";
                challenge = "WWW-Authenticate: Basic realm=\"stub\"\r\n";
            } else if path.contains("/manifests/") && failures > 0 {
                failures -= 1;
                status = "503 Service Unavailable";
            } else if path.contains("/manifests/") {
                (kind_of, body) = (kind, manifest.clone().into_bytes());
            } else if path.ends_with(&config.0) {
                body = std::fs::read(folder.join("config")).unwrap();
            } else if path.ends_with(&layer.0) {
                body = std::fs::read(folder.join("layer.gz")).unwrap();
            } else if path != "/v2/" {
                status = "404 Not Found";
            }
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind_of}\r\nContent-Length: {}\r\nConnection: close\r\n\
                 Docker-Distribution-Api-Version: registry/2.0\r\nDocker-Content-Digest: {digest}\r\n{challenge}\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes());
            if method != "HEAD" {
                let _ = stream.write_all(&body);
            }
        }
    });
    (port, seen)
}

/// A registry on loopback that says one thing of every image. Its port, and how often it was asked for a manifest.
fn refusing(status: &'static str, body: &'static str) -> (u16, Arc<AtomicU32>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            // It is asked with TLS first, which has no lines.
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let Some(first) = request.first() else { continue };
            let of_image = first.contains("/manifests/");
            count.fetch_add(u32::from(of_image && first.starts_with("GET")), SeqCst);
            let (status, body) = if of_image { (status, body) } else { ("200 OK", "") };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\r\n",
                body.len()
            );
            let body = if first.starts_with("HEAD") { "" } else { body };
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (port, asked)
}

#[tokio::test]
async fn what_a_registry_says_of_an_image_decides_whether_it_is_asked_again() {
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec!["**".into()];
    let mut client = rig.open().await;
    let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    let no_name = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
    let harbor = r#"{"errors":[{"code":"NOT_FOUND","message":"artifact team/tool:1 not found"}]}"#;
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let too_many = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"unauthenticated pull rate limit"}]}"#;
    let cases = [
        ("404 Not Found", unknown, EndKind::NotRunnable, 1, "has no such image: check its name and its tag"),
        ("404 Not Found", no_name, EndKind::NotRunnable, 1, "has no such image: check its name and its tag"),
        ("404 Not Found", harbor, EndKind::NotRunnable, 1, "has no such image: check its name and its tag"),
        ("403 Forbidden", denied, EndKind::FilesMissing, 1, "or not for everybody: check its name"),
        ("403 Forbidden", "", EndKind::FilesMissing, 1, "or not for everybody: check its name"),
        ("404 Not Found", "<html>", EndKind::FilesMissing, 1, "whether that is a registry"),
        ("429 Too Many Requests", too_many, EndKind::StartFailed, 3, "failed 3 times"),
        ("503 Service Unavailable", "", EndKind::StartFailed, 3, "failed 3 times"),
    ];
    for (status, body, kind, tries, part) in cases {
        let (port, asked) = refusing(status, body);
        let mut spec = spec(&["/bin/true"]);
        spec.image = Some(format!("127.0.0.1:{port}/team/tool:1"));
        let launch = launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{end:?}");
        let name = format!("127.0.0.1:{port}/team/tool:1");
        assert!(end.message.contains(part) && end.message.contains(&name), "{end:?}");
        assert_eq!(asked.load(SeqCst), tries, "{end:?}");
    }
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_task_whose_image_a_node_is_refused_again_and_again_ends_also_over_its_restart() {
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec!["**".into()];
    let (port, _) = refusing("403 Forbidden", r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#);
    let mut spec = spec(&["/bin/true"]);
    spec.image = Some(format!("127.0.0.1:{port}/team/tool:1"));
    let first = launch(spec.clone(), Runtime::Docker);
    // Between them it ran elsewhere.
    let expected = [
        (1, EndKind::FilesMissing),
        (2, EndKind::FilesMissing),
        (5, EndKind::NotRunnable),
        (6, EndKind::NotRunnable),
    ];
    for (attempt, kind) in expected {
        let mut client = rig.open().await;
        let mut again = first.clone();
        again.lease.attempt = attempt;
        let lease = again.lease;
        client.host.start(again);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "attempt {attempt}: {end:?}");
        assert_eq!(
            end.message.contains("refused 3 times on this node"),
            kind == EndKind::NotRunnable,
            "{end:?}"
        );
        client.host.acknowledge(vec![lease]);
        client.host.shutdown(false).await;
    }
    // Another task has its own tries.
    let mut client = rig.open().await;
    let other = launch(spec, Runtime::Docker);
    let lease = other.lease;
    client.host.start(other);
    assert_eq!(client.end(lease).await.kind, EndKind::FilesMissing);
}

/// Keeps what a host tells of pulls.
#[derive(Default)]
struct Counts {
    pulls: Mutex<Vec<(PullEnd, Duration)>>,
}

impl Observer for Counts {
    fn denied(&self, _: Rule) {}
    fn pulled(&self, end: PullEnd, took: Duration) {
        self.pulls.lock().unwrap().push((end, took));
    }
    fn moved(&self, _: Artifact, _: u64) {}
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest_though_its_registry_fails_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let (port, digest) = registry(folder.path().to_owned(), 2, None);
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec![format!("127.0.0.1:{port}/**")];
    let counts = Arc::new(Counts::default());
    rig.settings.observer = Some(counts.clone());
    let mut client = rig.open().await;
    let name = format!("127.0.0.1:{port}/team/tool");
    let mut pulled = Vec::new();
    for image in [format!("{name}:3"), format!("{name}@{digest}")] {
        let mut spec = support::spec(&[]);
        spec.image = Some(image.clone());
        let launch = support::launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        let errors = output(&client, lease, LogStream::Stderr).await;
        assert_eq!(end.kind, EndKind::Exited(0), "{end:?}\n{errors}");
        assert_eq!(output(&client, lease, LogStream::Stdout).await, "of the image\n");
        pulled.push(errors);
        docker(&["rmi", "-f", &image]);
    }
    let counted = counts.pulls.lock().unwrap().clone();
    assert_eq!(counted.iter().map(|(end, _)| *end).collect::<Vec<_>>(), [PullEnd::Pulled; 2]);
    // A try that failed, and the pause after it, belong to the first.
    assert!(counted[0].1 >= Duration::from_millis(500) && counted[1].1 < counted[0].1, "{counted:?}");
    assert!(pulled[0].contains("failed, again in 500 ms"), "{}", pulled[0]);
    assert!(!pulled[1].contains("failed") && pulled[1].contains("stint: pulling"), "{}", pulled[1]);
    assert_eq!(containers(&rig), Vec::<String>::new());
}

/// `robot:a?b~c>>>???`: in the JSON that the daemon gets, base64 needs every letter of its alphabet.
const LOGIN: &str = "cm9ib3Q6YT9ifmM+Pj4/Pz8=";

#[tokio::test]
async fn a_private_image_is_pulled_with_the_node_s_credentials_for_its_registry() {
    let folder = tempfile::tempdir().unwrap();
    let (port, _) = registry(folder.path().to_owned(), 0, Some(LOGIN));
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec![format!("127.0.0.1:{port}/**")];
    let file = rig.folder.path().join("docker-config.json");
    let image = format!("127.0.0.1:{port}/team/private:1");
    let run = async |rig: &Rig| {
        let mut client = rig.open().await;
        let mut spec = support::spec(&[]);
        spec.image = Some(image.clone());
        let launch = support::launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        let args = output(&client, lease, LogStream::Stderr).await;
        client.host.shutdown(false).await;
        (end, args)
    };
    let (end, _) = run(&rig).await;
    assert_eq!(end.kind, EndKind::FilesMissing, "another node may have some: {end:?}");
    assert!(end.message.contains("no credentials for 127.0.0.1"), "{end:?}");

    let write = |login: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&file, format!(r#"{{"auths":{{"127.0.0.1:{port}":{{"auth":"{login}"}}}}}}"#)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    rig.settings.docker.credentials = Some(file.clone());
    write("cm9ib3Q6d3Jvbmc=", 0o600);
    let (end, _) = run(&rig).await;
    assert_eq!(end.kind, EndKind::FilesMissing, "{end:?}");
    assert!(end.message.contains("sent the credentials that it has for 127.0.0.1"), "{end:?}");
    write(LOGIN, 0o644);
    let (end, _) = run(&rig).await;
    assert_eq!(end.kind, EndKind::FilesMissing, "it says nothing of other tasks: {end:?}");
    assert!(end.message.contains("chmod 600"), "{end:?}");

    write(LOGIN, 0o600);
    let (end, args) = run(&rig).await;
    assert_eq!(end.kind, EndKind::Exited(0), "{end:?}\n{args}");
    assert!(!args.contains(LOGIN) && !args.contains("a?b~c"), "{args}");
    docker(&["rmi", "-f", &image]);
}

#[tokio::test]
async fn credentials_that_cannot_be_used_keep_only_those_away_who_need_them() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (public, _) = registry(folder.path().to_owned(), 0, None);
    let folder = tempfile::tempdir().unwrap();
    let (private, _) = registry(folder.path().to_owned(), 0, Some(LOGIN));
    let (full, _) =
        refusing("429 Too Many Requests", r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"x"}]}"#);
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    let file = rig.folder.path().join("docker-config.json");
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("{}");
    rig.settings.docker.credentials = Some(file.clone());
    rig.settings.docker.allowed_images = vec!["**".into()];
    let mut client = rig.open().await;
    let problem = |client: &Client| {
        let problems = client.host.health().problems;
        problems.into_iter().find(|args| args.contains("executor.docker.credentials"))
    };
    assert_eq!(problem(&client), None);

    write("s3cret {");
    wait_until("the node says so", || problem(&client).is_some()).await;
    let args = problem(&client).unwrap();
    assert!(args.starts_with("runtime docker: the credentials ") && !args.contains("s3cret"), "{args}");
    assert_eq!(client.host.health().runtimes[&Runtime::Docker], Ok(()));
    let cases = [
        (IMAGE.to_owned(), 1, EndKind::Exited(0)),
        (format!("127.0.0.1:{public}/team/tool:1"), 1, EndKind::Exited(0)),
        // However often: the image may be fine.
        (format!("127.0.0.1:{private}/team/tool:1"), 1, EndKind::FilesMissing),
        (format!("127.0.0.1:{private}/team/tool:1"), 2, EndKind::FilesMissing),
        (format!("127.0.0.1:{private}/team/tool:1"), 3, EndKind::FilesMissing),
        (format!("127.0.0.1:{full}/team/tool:1"), 1, EndKind::FilesMissing),
    ];
    let task = support::lease().task;
    for (image, attempt, kind) in cases {
        let mut spec = spec(&["/bin/sh", "-c", "exit 0"]);
        spec.image = Some(image.clone());
        let mut launch = launch(spec, Runtime::Docker);
        if image.contains(&format!(":{private}/")) {
            launch.lease = LeaseId { task, attempt };
        }
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{image}: {end:?}");
        let seen = end.message.contains("no file as `docker login` writes it");
        assert_eq!(seen, kind == EndKind::FilesMissing, "{end:?}");
        assert!(!end.message.contains("s3cret"), "{end:?}");
    }
    write("{}");
    wait_until("the node takes it back", || problem(&client).is_none()).await;
    docker(&["rmi", "-f", &format!("127.0.0.1:{public}/team/tool:1")]);
}

/// What an attempt costs beyond the calls to the daemon that it needs: the same calls from a bare loop, interleaved.
/// `cargo nextest run -p stint-executor --run-ignored only a_start_costs --cargo-profile ci --no-capture`
#[tokio::test]
#[ignore = "a measurement"]
async fn a_start_costs_little() {
    let (rig, mut client) = open().await;
    let engine =
        bollard::Docker::connect_with_unix("/var/run/docker.sock", 30, bollard::API_DEFAULT_VERSION).unwrap();
    let engine = engine.negotiate_version().await.unwrap();
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..60 {
        let bare_first = round % 2 == 0;
        if bare_first {
            bare.push(bare_start(&engine, &rig, round).await);
        }
        let launch = order(&["/bin/true"]);
        let lease = launch.lease;
        let began = std::time::Instant::now();
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        ours.push(began.elapsed());
        if !bare_first {
            bare.push(bare_start(&engine, &rig, round).await);
        }
    }
    let mut more: Vec<f64> =
        ours.iter().zip(&bare).map(|(o, b)| (o.as_secs_f64() - b.as_secs_f64()) * 1e3).collect();
    more.sort_by(f64::total_cmp);
    bare.sort();
    ours.sort();
    println!(
        "MEASURED docker: bare {:?}, through us {:?} (medians of 60), median of the differences {:.1} ms",
        bare[30], ours[30], more[30]
    );
    assert_eq!(containers(&rig), Vec::<String>::new());
}

/// The same container by the bare Engine API: how long it takes from the first call to the answer to the last.
async fn bare_start(engine: &bollard::Docker, rig: &Rig, round: usize) -> Duration {
    use futures_util::StreamExt;
    let name = format!("stint-bare-{}-{round}", std::process::id());
    let host_config = bollard::models::HostConfig {
        network_mode: Some("none".into()),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        ipc_mode: Some("private".into()),
        memory: Some(256 << 20),
        memory_swap: Some(256 << 20),
        nano_cpus: Some(1_000_000_000),
        pids_limit: Some(512),
        tmpfs: Some(std::collections::HashMap::from([("/tmp".to_owned(), "rw,size=512m".to_owned())])),
        binds: Some(vec![format!("{}:/work", rig.folder.path().display())]),
        log_config: Some(bollard::models::HostConfigLogConfig { typ: Some("none".into()), config: None }),
        ..Default::default()
    };
    let body = bollard::models::ContainerCreateBody {
        image: Some(IMAGE.into()),
        entrypoint: Some(vec!["/bin/true".into()]),
        host_config: Some(host_config),
        ..Default::default()
    };
    let began = std::time::Instant::now();
    engine.inspect_image(IMAGE).await.unwrap();
    let options =
        bollard::query_parameters::CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
    engine.create_container(Some(options), body).await.unwrap();
    let options = bollard::query_parameters::AttachContainerOptions {
        stream: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let mut output = engine.attach_container(&name, Some(options)).await.unwrap().output;
    engine.start_container(&name, None).await.unwrap();
    while output.next().await.is_some() {}
    while engine.inspect_container(&name, None).await.unwrap().state.unwrap().running == Some(true) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let options = bollard::query_parameters::RemoveContainerOptions { force: true, v: true, link: false };
    engine.remove_container(&name, Some(options)).await.unwrap();
    began.elapsed()
}
