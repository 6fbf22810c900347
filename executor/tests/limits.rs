//! Limits of single tasks on the real runtimes, and what attempts are said to have used. Docker and its image are made by
//! `.ci/prepare`; without them these tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpListener;

use stint_executor::{Host, LogStream};
use stint_protocol::{EndKind, InputFile, InputSource, Network, Runtime, TaskFiles, TaskLimits, Usage};
use support::{Client, Rig, assert_kind, launch, spec};

const IMAGE: &str = "stint-test/busybox:1";
const ALL: [Runtime; 3] = [Runtime::Process, Runtime::Crun, Runtime::Docker];

async fn open(change: impl FnOnce(&mut Rig)) -> (Rig, Client) {
    let mut rig = Rig::new(true);
    rig.settings.runtimes = ALL.to_vec();
    rig.settings.docker.allowed_images = vec!["stint-test/*".into()];
    change(&mut rig);
    let client = rig.open().await;
    for runtime in ALL {
        assert_eq!(client.host.health().runtimes[&runtime], Ok(()), "run .ci/prepare");
    }
    (rig, client)
}

struct Ran {
    kind: EndKind,
    /// Its message and its output.
    text: String,
    usage: Option<Usage>,
}

/// Runs a script with limits.
async fn run(client: &mut Client, runtime: Runtime, limits: TaskLimits, args: &[&str]) -> Ran {
    let mut spec = spec(args);
    spec.image = (runtime == Runtime::Docker).then(|| IMAGE.to_owned());
    spec.limits = Some(Box::new(limits));
    let launch = launch(spec, runtime);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let mut text = format!("{}\n", end.message);
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        let chunk = client.host.read_log(lease, stream, 0, 100_000).await;
        text += &chunk.map(|c| String::from_utf8_lossy(&c.bytes).into_owned()).unwrap_or_default();
    }
    Ran { kind: end.kind, text, usage: end.usage.map(|usage| *usage) }
}

async fn shell(client: &mut Client, runtime: Runtime, limits: TaskLimits, script: &str) -> Ran {
    run(client, runtime, limits, &["/bin/sh", "-c", script]).await
}

#[tokio::test]
async fn a_fork_bomb_stops_at_its_own_number_of_processes() {
    let (_rig, mut client) = open(|_| {}).await;
    // The shell ends with an error when it cannot fork.
    let bomb = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo all";
    for runtime in ALL {
        let few = TaskLimits { pids: Some(20), ..TaskLimits::default() };
        let ran = shell(&mut client, runtime, few, bomb).await;
        assert!(ran.kind != EndKind::Exited(0) && !ran.text.contains("all"), "{runtime}: {}", ran.text);
        let enough = TaskLimits { pids: Some(60), ..TaskLimits::default() };
        let ran = shell(&mut client, runtime, enough, bomb).await;
        assert!(ran.kind == EndKind::Exited(0) && ran.text.contains("all"), "{runtime}: {}", ran.text);
    }
}

#[tokio::test]
async fn tmp_and_shared_memory_have_the_size_that_the_task_asks_for() {
    let (_rig, mut client) = open(|_| {}).await;
    let limits =
        || TaskLimits { tmp_bytes: Some(4 << 20), shm_bytes: Some(2 << 20), ..TaskLimits::default() };
    for runtime in ALL {
        for (place, fits, most) in [("/tmp", 3, 4), ("/dev/shm", 1, 2)] {
            let fill = |mib| format!("head -c {} /dev/zero >{place}/file", mib << 20);
            let ran = shell(&mut client, runtime, limits(), &fill(fits)).await;
            assert_eq!(ran.kind, EndKind::Exited(0), "{runtime} {place}: {}", ran.text);
            let ran = shell(&mut client, runtime, limits(), &fill(most + 1)).await;
            // Busybox only says that it could not be written.
            let full = ["No space left", "I/O error"].iter().any(|args| ran.text.contains(args));
            assert!(ran.kind == EndKind::Exited(1) && full, "{runtime} {place}: {:?} {}", ran.kind, ran.text);
        }
    }
}

#[tokio::test]
async fn the_hosts_network_is_given_where_the_node_allows_it() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    let connect = format!("exec bash -c ': </dev/tcp/127.0.0.1/{number}'");
    let asks = |network| TaskLimits { network: Some(network), ..TaskLimits::default() };
    let (_rig, mut client) = open(|rig| rig.settings.crun.confine.networks.push(Network::Host)).await;
    assert_eq!(
        shell(&mut client, Runtime::Crun, asks(Network::Host), &connect).await.kind,
        EndKind::Exited(0)
    );
    assert_eq!(
        shell(&mut client, Runtime::Crun, asks(Network::None), &connect).await.kind,
        EndKind::Exited(1)
    );
    assert_eq!(
        shell(&mut client, Runtime::Crun, TaskLimits::default(), &connect).await.kind,
        EndKind::Exited(1)
    );
    // Not denied: another node may allow it.
    for runtime in [Runtime::Process, Runtime::Docker] {
        let ran = shell(&mut client, runtime, asks(Network::Host), "true").await;
        assert_eq!(ran.kind, EndKind::StartFailed, "{}", ran.text);
        assert!(ran.text.contains("network host"), "{}", ran.text);
    }
}

/// A task may have less than the others of its node.
#[tokio::test]
async fn a_task_may_be_kept_from_the_network_that_its_node_gives() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    let connect = format!("exec bash -c ': </dev/tcp/127.0.0.1/{number}'");
    let (_rig, mut client) = open(|rig| rig.settings.process.confine.network = Network::Host).await;
    let none = TaskLimits { network: Some(Network::None), ..TaskLimits::default() };
    assert_eq!(shell(&mut client, Runtime::Process, none, &connect).await.kind, EndKind::Exited(1));
    let plain = shell(&mut client, Runtime::Process, TaskLimits::default(), &connect).await;
    assert_eq!(plain.kind, EndKind::Exited(0), "{}", plain.text);
}

#[tokio::test]
async fn programs_start_where_their_task_says() {
    let (_rig, mut client) = open(|_| {}).await;
    let at = |path: &str| TaskLimits { working_dir: Some(path.into()), ..TaskLimits::default() };
    for (runtime, work) in
        [(Runtime::Process, "/tmp/work"), (Runtime::Crun, "/work"), (Runtime::Docker, "/work")]
    {
        let ran = shell(&mut client, runtime, at("src/deep"), "pwd; touch file; cd $HOME; ls src/deep").await;
        assert_eq!(ran.kind, EndKind::Exited(0), "{runtime}: {}", ran.text);
        assert_eq!(ran.text, format!("\n{work}/src/deep\nfile\n"), "{runtime}");
        let ran = shell(&mut client, runtime, at("/etc"), "pwd").await;
        assert_eq!((ran.kind, ran.text.as_str()), (EndKind::Exited(0), "\n/etc\n"), "{runtime}");
    }
    let ran = shell(&mut client, Runtime::Docker, at("/no/such"), "pwd").await;
    assert_eq!((ran.kind, ran.text.as_str()), (EndKind::Exited(0), "\n/no/such\n"), "made for it alone");
    let links = shell(&mut client, Runtime::Crun, at("/bin"), "pwd").await;
    let real = std::fs::canonicalize("/bin").unwrap();
    assert_eq!((links.kind, links.text), (EndKind::Exited(0), format!("\n{}\n", real.display())));
    for runtime in [Runtime::Process, Runtime::Crun] {
        for elsewhere in ["/no/such/folder", "/etc/passwd"] {
            let ran = shell(&mut client, runtime, at(elsewhere), "pwd").await;
            assert_eq!(ran.kind, EndKind::NotRunnable, "{runtime} {elsewhere}: {}", ran.text);
            assert!(ran.text.contains(elsewhere), "{runtime}: {}", ran.text);
        }
    }
}

/// It is the task's own fault, and not tried again.
#[tokio::test]
async fn a_working_directory_that_is_none_ends_the_task() {
    let (_rig, mut client) = open(|_| {}).await;
    for runtime in ALL {
        for wanted in ["src", "src/deep", "/bin/sh", "/bin/sh/deep", "/proc/nothing", "/dev/null"] {
            let mut spec = spec(&["/bin/sh", "-c", "pwd"]);
            spec.image = (runtime == Runtime::Docker).then(|| IMAGE.to_owned());
            let source = InputSource::Content(b"a file".to_vec());
            let input = InputFile { path: "src".into(), source, digest: None, executable: false };
            spec.files = Some(Box::new(TaskFiles { inputs: vec![input], ..TaskFiles::default() }));
            let limits = TaskLimits { working_dir: Some(wanted.into()), ..TaskLimits::default() };
            spec.limits = Some(Box::new(limits));
            let launch = launch(spec, runtime);
            let lease = launch.lease;
            client.host.start(launch);
            let end = client.end(lease).await;
            assert_kind(&end, EndKind::NotRunnable);
            assert!(end.message.contains(wanted), "{runtime}: {end:?}");
        }
    }
}

#[tokio::test]
async fn without_a_sandbox_a_program_starts_where_its_task_says_too() {
    let mut rig = Rig::new(false);
    rig.settings.runtimes = vec![Runtime::Process];
    let mut client = rig.open().await;
    let at = |path: &str| TaskLimits { working_dir: Some(path.into()), ..TaskLimits::default() };
    let ran = shell(&mut client, Runtime::Process, at("src"), "basename $PWD").await;
    assert_eq!((ran.kind, ran.text.as_str()), (EndKind::Exited(0), "\nsrc\n"));
    let ran = shell(&mut client, Runtime::Process, at("/no/such"), "pwd").await;
    assert_eq!(ran.kind, EndKind::NotRunnable, "{}", ran.text);
    let pids = TaskLimits { pids: Some(20), ..TaskLimits::default() };
    let ran = shell(&mut client, Runtime::Process, pids, "true").await;
    assert_eq!(ran.kind, EndKind::StartFailed, "nothing limits it: {}", ran.text);
}

/// Uses the CPU for half a second, by its own clock.
const SPIN: &str = "while ((times)[0] + (times)[1] < 0.5) {}";

#[tokio::test]
async fn cpu_time_and_the_peak_of_memory_are_told_with_the_end() {
    let (_rig, mut client) = open(|_| {}).await;
    for runtime in [Runtime::Process, Runtime::Crun] {
        let spun = run(&mut client, runtime, TaskLimits::default(), &["perl", "-e", SPIN]).await;
        assert_kind_of(&spun, EndKind::Exited(0));
        let cpu = spun.usage.unwrap().cpu_ms.unwrap();
        assert!((480..900).contains(&cpu), "{runtime}: {cpu} ms");

        let hog = "my $x = ''; vec($x, (64 << 20) - 1, 8) = 1;";
        let hogged = run(&mut client, runtime, TaskLimits::default(), &["perl", "-e", hog]).await;
        assert_kind_of(&hogged, EndKind::Exited(0));
        let peak = hogged.usage.unwrap().peak_memory_bytes.unwrap() >> 20;
        assert!((64..=100).contains(&peak), "{runtime}: {peak} MiB");
        println!("MEASURED {runtime}: {cpu} ms, {peak} MiB");
    }
}

/// The kernel does not account for processes that are killed together with their namespace.
#[tokio::test]
async fn cpu_time_is_told_of_programs_that_had_to_be_killed() {
    let (_rig, mut client) = open(|_| {}).await;
    for runtime in [Runtime::Process, Runtime::Crun] {
        let mut spec = spec(&["perl", "-e", "$SIG{TERM} = 'IGNORE'; while (1) {}"]);
        (spec.timeout_ms, spec.stop_grace_ms) = (700, 100);
        let launch = launch(spec, runtime);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::TimedOut);
        let cpu = end.usage.unwrap().cpu_ms.unwrap();
        assert!((1..1500).contains(&cpu), "{runtime}: {cpu} ms");
    }
}

#[tokio::test]
async fn docker_containers_tell_what_they_used() {
    let (_rig, mut client) = open(|_| {}).await;
    // Busybox alone: its shell counts up for a while, then holds a string of 32 MiB.
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; x=$(head -c 33554432 /dev/zero | tr '\\0' x); sleep 0.3";
    let ran = shell(&mut client, Runtime::Docker, TaskLimits::default(), script).await;
    assert_kind_of(&ran, EndKind::Exited(0));
    let usage = ran.usage.expect("its cgroup is within reach");
    println!("MEASURED docker: {usage:?}");
    assert!(usage.cpu_ms.unwrap() > 50, "{usage:?}");
    assert!(usage.peak_memory_bytes.unwrap() > 32 << 20, "{usage:?}");
}

#[tokio::test]
async fn what_never_ran_used_nothing() {
    let (_rig, mut client) = open(|_| {}).await;
    let ran = run(&mut client, Runtime::Process, TaskLimits::default(), &["stint-no-such-command"]).await;
    assert_kind_of(&ran, EndKind::NotRunnable);
    assert_eq!(ran.usage, None);
}

fn assert_kind_of(ran: &Ran, kind: EndKind) {
    assert_eq!(ran.kind, kind, "{}", ran.text);
}
