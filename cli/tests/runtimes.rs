//! What a node offers: slots that are never exceeded, and runtimes that are not there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::marks::{QUICK, lives};
use support::{Cluster, PATIENCE, STINT, Setup, accepted, submit};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_tasks_at_once_never_exceed_the_slots() {
    let setup = Setup { peers: 1, cpus: 64, executor: "slots = 4\n", ..Setup::default() };
    let cluster = Cluster::start(setup).await;
    let marks = cluster.shared().join("marks");
    let args = ["/bin/sh", "-c", QUICK, "quick", &marks.to_string_lossy(), "8"];
    let ids = accepted(&cluster.client(), submit("cpu_short", &args, 50)).await;
    for task in cluster.finish(&ids, PATIENCE).await {
        assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
    }
    let lives = lives(&marks);
    assert_eq!(lives.len(), 50);
    let at_once =
        lives.iter().map(|one| lives.iter().filter(|l| l.start <= one.start && one.start < l.last).count());
    let most = at_once.max().unwrap();
    assert!((2..=4).contains(&most), "{most} ran at once in 4 slots");
}

fn no_daemon(_: usize) -> String {
    "[executor.docker]\nsocket = \"/nonexistent/docker.sock\"\nallowed_images = [\"**\"]\n".into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtimes_that_are_absent_are_said_once_and_hold_up_nothing_else() {
    let runtimes = "\"process\", \"crun\", \"docker\"";
    let executor = "crun_path = \"/nonexistent/crun\"\n";
    let cluster =
        Cluster::start(Setup { peers: 1, runtimes, executor, more: no_daemon, ..Setup::default() }).await;
    let client = cluster.client();
    let wanting = |runtime: &str| {
        let mut request = submit("cpu_short", &["/bin/true"], 1);
        let spec = request.spec.as_mut().unwrap();
        spec.runtime = runtime.into();
        spec.image = if runtime == "docker" { "busybox:1".into() } else { String::new() };
        request
    };
    let crun = accepted(&client, wanting("crun")).await.remove(0);
    let docker = accepted(&client, wanting("docker")).await.remove(0);
    let free = accepted(&client, submit("cpu_short", &["/bin/true"], 5)).await;
    for task in cluster.finish(&free, PATIENCE).await {
        assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
    }
    let address = format!("unix:{}", cluster.peers[0].dir.join("stint.sock").display());
    for (id, missing) in [(&crun, "/nonexistent/crun"), (&docker, "/nonexistent/docker.sock")] {
        let output = Command::new(STINT).args(["--address", &address, "explain", id]).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.contains(missing), "{missing} is not named for {id}: {shown}");
        let waits =
            client.get_task(stint_sdk::v1::GetTaskRequest { tenant: String::new(), task: id.clone() }).await;
        assert_eq!(waits.unwrap().state, "queued");
    }
    // Long enough that whatever is looked at again has been.
    sleep(Duration::from_secs(5)).await;
    let log = cluster.peers[0].log();
    for missing in ["/nonexistent/crun", "/nonexistent/docker.sock"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(missing)).collect();
        assert_eq!(lines.len(), 1, "{missing}: {lines:#?}");
    }
}

/// Asked of a peer that does not execute it, too: the node is asked where its attempt is.
fn test_images(_: usize) -> String {
    "[executor.docker]\nallowed_images = [\"stint-test/*\"]\n".into()
}

/// Every byte there is, more of them than a pipe holds, on both streams at once.
const BYTES: &str = "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\" >>b; i=$((i+1)); done; \
    n=0; while [ $n -lt 500 ]; do cat b; cat b b >&2; n=$((n+1)); done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_and_logs_give_every_byte_that_was_written() {
    const IMAGE: &str = "stint-test/busybox:1";
    let has = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    let mut ways = vec![("process", vec![])];
    if has("crun", &["--version"]) {
        ways.push(("crun", vec![]));
    }
    if has("docker", &["image", "inspect", IMAGE]) {
        ways.push(("docker", vec!["--image", IMAGE]));
    }
    let runtimes = "\"process\", \"crun\", \"docker\"";
    let cluster = Cluster::start(Setup { peers: 1, runtimes, more: test_images, ..Setup::default() }).await;
    let address = format!("unix:{}", cluster.peers[0].dir.join("stint.sock").display());
    let all: Vec<u8> = (0..=255).collect();
    let (stdout, stderr) = (all.repeat(500), all.repeat(1000));
    for (runtime, image) in ways {
        let stint =
            |args: &[&str]| Command::new(STINT).args(["--address", &address]).args(args).output().unwrap();
        let run = ["run", "--name", runtime, "--runtime", runtime].into_iter().chain(image);
        let run = stint(&run.chain(["--", "/bin/sh", "-c", BYTES]).collect::<Vec<_>>());
        assert_eq!(run.status.code(), Some(0), "{runtime}: {}", String::from_utf8_lossy(&run.stderr));
        let logs = stint(&["logs", runtime]);
        for (how, output) in [("run", run), ("logs", logs)] {
            assert!(output.stdout == stdout, "{how} {runtime}: {} bytes of stdout", output.stdout.len());
            assert!(output.stderr == stderr, "{how} {runtime}: {} bytes of stderr", output.stderr.len());
        }
        println!("MEASURED {runtime}: the same bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_where_an_attempt_is_on_its_node() {
    let cluster = Cluster::start(Setup { peers: 3, ..Setup::default() }).await;
    let id = accepted(&cluster.client(), submit("cpu_short", &["/bin/sleep", "60"], 1)).await.remove(0);
    for peer in &cluster.peers {
        let address = format!("unix:{}", peer.dir.join("stint.sock").display());
        let begun = Instant::now();
        loop {
            let output = Command::new(STINT).args(["--address", &address, "explain", &id]).output().unwrap();
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            if shown.contains(", where it is with the watchdog: running") {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not say where the attempt is: {shown}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn told_apart(peer: usize) -> String {
    let labels = format!("[executor.labels]\npeer = \"{peer}\"\n");
    format!("{labels}[executor.docker]\nallowed_images = [\"stint-test/*\"]\n")
}

/// What runs this runtime here, if anything does: the arguments of a task for it.
fn way(runtime: &'static str) -> Option<Vec<&'static str>> {
    let has = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    match runtime {
        "crun" => has("crun", &["--version"]).then(|| vec!["--runtime", "crun", "--class", "cpu_long"]),
        "docker" => has("docker", &["image", "inspect", "stint-test/busybox:1"])
            .then(|| vec!["--image", "stint-test/busybox:1", "--class", "cpu_long"]),
        _ => Some(vec!["--runtime", "process", "--class", "cpu_short"]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tenant_has_a_user_of_its_own_the_same_on_every_peer() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root alone gives tenants users of their own");
        return;
    }
    let runtimes = "\"process\", \"crun\", \"docker\"";
    let cluster = Cluster::start(Setup { runtimes, more: told_apart, ..Setup::default() }).await;
    let run = |tenant: &str, way: &[&str], peer: usize, script: &str| {
        let on = format!("peer={peer}");
        let args = ["run", "--tenant", tenant, "--constraint", &on, "--memory", "64MiB"];
        let (code, out, err) =
            stint_at(&cluster, &[&args[..], way, &["--", "/bin/sh", "-c", script]].concat());
        assert_eq!(code, Some(0), "{tenant} {way:?} on {peer}: {out}{err}");
        out
    };
    let shared = cluster.shared();
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let file = shared.join("weights").display().to_string();
    let process = way("process").unwrap();
    run("physics", &process, 0, &format!("umask 077; echo secret >{file}"));
    let out = run("chem", &process, 1, &format!("cat {file} || echo refused"));
    assert_eq!(out, "refused\n");
    assert_eq!(run("physics", &process, 2, &format!("cat {file}")), "secret\n");
    for way in ["process", "crun", "docker"].iter().filter_map(|runtime| way(runtime)) {
        for peer in 0..3 {
            assert_eq!(run("physics", &way, peer, "id -u; id -g; echo $USER"), "200000\n200000\nphysics\n");
            assert_eq!(run("chem", &way, peer, "id -u"), "200001\n");
        }
    }
    let (_, shown, err) = stint_at(&cluster, &["tenant", "show", "chem"]);
    assert!(shown.contains("200001"), "{shown}{err}");
}

fn stint_at(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String, String) {
    let address = format!("unix:{}", cluster.peers[0].dir.join("stint.sock").display());
    let output = Command::new(STINT).args(["--address", &address]).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A task that runs as a process.
fn process_of(tenant: &str, command: &[&str], program: &[&str]) -> Vec<String> {
    let task =
        ["--tenant", tenant, "--runtime", "process", "--class", "cpu_short", "--memory", "64MiB", "--"];
    [command, &task, program].concat().into_iter().map(String::from).collect()
}

fn stint_with(cluster: &Cluster, args: Vec<String>) -> (Option<i32>, String, String) {
    stint_at(cluster, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_takes_tasks_of_the_tenants_that_it_names() {
    let executor = "tenants = [\"physics\"]\n";
    let cluster = Cluster::start(Setup { peers: 1, executor, ..Setup::default() }).await;
    let (code, out, err) = stint_with(&cluster, process_of("physics", &["run"], &["echo", "taken"]));
    assert_eq!((code, out.as_str()), (Some(0), "taken\n"), "{err}");
    let (code, _, err) = stint_with(&cluster, process_of("chem", &["submit", "--must-fit"], &["true"]));
    assert!(code == Some(1) && err.contains("takes no tasks of tenant chem"), "{code:?} {err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedicated_tenants_tasks_run_on_its_nodes_alone() {
    // What runs there outlives the restart of its node, however long that takes.
    let setup = Setup { lease_ttl: "60s", executor: "slots = 4\n", more: told_apart, ..Setup::default() };
    let mut cluster = Cluster::start(setup).await;
    let done = |cluster: &Cluster, args: &[&str]| {
        let (code, out, err) = stint_at(cluster, args);
        assert_eq!(code, Some(0), "{args:?}: {out}{err}");
        out.trim_end().to_owned()
    };
    // Another tenant's task runs where the tenant's own node is to be.
    let options =
        ["submit", "-o", "quiet", "--tenant", "chem", "--memory", "64MiB", "--constraint", "peer=2"];
    let before = done(&cluster, &[&options[..], &["--", "sleep", "600"]].concat());
    let until = Instant::now() + PATIENCE;
    while !done(&cluster, &["status", "--tenant", "chem", &before]).contains("running") {
        assert!(Instant::now() < until, "it does not run");
        sleep(Duration::from_millis(50)).await;
    }
    let shown = done(&cluster, &["tenant", "set", "physics", "--dedicated"]);
    assert!(shown.contains("true"), "{shown}");
    let (code, _, err) = stint_with(&cluster, process_of("physics", &["submit", "--must-fit"], &["true"]));
    assert!(code == Some(1) && err.contains("is not dedicated to tenant physics"), "{code:?} {err}");
    let (code, id, err) = stint_with(&cluster, process_of("physics", &["submit", "-o", "quiet"], &["true"]));
    assert!(code == Some(0) && err.contains("is not dedicated to tenant physics"), "it is warned of: {err}");
    // The node is given to it, and waits for the other's end.
    let peer = &mut cluster.peers[2];
    peer.edit("slots = 4", "slots = 4\ntenants = [\"physics\"]");
    peer.kill().await;
    peer.spawn(&[]);
    peer.ready().await;
    let until = Instant::now() + PATIENCE;
    let explain = ["explain", "--tenant", "physics", id.trim()];
    while !done(&cluster, &explain).contains("still runs tasks of others") {
        assert!(Instant::now() < until, "{}", done(&cluster, &explain));
        sleep(Duration::from_millis(50)).await;
    }
    // Others go elsewhere meanwhile.
    let (code, out, err) = stint_with(&cluster, process_of("chem", &["run"], &["echo", "elsewhere"]));
    assert_eq!((code, out.as_str()), (Some(0), "elsewhere\n"), "{err}");
    assert!(done(&cluster, &["status", "--tenant", "chem", &before]).contains("running"), "it goes on");
    done(&cluster, &["cancel", "--tenant", "chem", &before]);
    done(&cluster, &["wait", "--tenant", "physics", id.trim()]);
    let ran: serde_json::Value =
        serde_json::from_str(&done(&cluster, &["status", "--tenant", "physics", id.trim(), "-o", "json"]))
            .unwrap();
    assert!(ran.to_string().contains(&cluster.peers[2].name), "{ran}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_judged_again_when_the_images_of_its_tenant_change() {
    let cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let submit = |image: &str| {
        let args = ["submit", "-o", "quiet", "--tenant", "blue", "--class", "cpu_short", "--runtime", "mock"];
        stint_at(&cluster, &[&args[..], &["--image", image, "--", "mock", "run=10ms"]].concat())
    };
    let done = |args: &[&str]| {
        let (code, out, err) = stint_at(&cluster, args);
        assert_eq!(code, Some(0), "{args:?}: {out}{err}");
        out
    };
    let node = cluster.peers[0].name.clone();
    done(&["node", "cordon", &node]);
    let (code, id, err) = submit("evil.example/x");
    assert_eq!(code, Some(0), "{err}");
    done(&["tenant", "set", "blue", "--images", "ghcr.io/blue/*,stint://tool"]);
    let (code, _, err) = submit("evil.example/x");
    let said =
        "tenant blue may not use image evil.example/x, only ghcr.io/blue/*,stint://tool: name one of these";
    assert!(code == Some(1) && err.contains(said), "{code:?} {err}");
    assert_eq!(submit("ghcr.io/blue/x").0, Some(0));
    done(&["node", "resume", &node]);
    let explained = done(&["explain", "--tenant", "blue", id.trim()]);
    assert!(explained.contains("may not use image evil.example/x"), "{explained}");
    let (_, allowed, _) = submit("ghcr.io/blue/y");
    done(&["wait", "--tenant", "blue", allowed.trim()]);
    assert!(done(&["status", "--tenant", "blue", id.trim()]).contains("queued"), "it waits on");
    done(&["tenant", "set", "blue", "--images", "any"]);
    done(&["wait", "--tenant", "blue", id.trim()]);
    let shown = done(&["tenant", "show", "blue", "--history"]);
    assert!(shown.contains("tenants.blue.images") && shown.contains("admin (local_socket)"), "{shown}");
    assert!(done(&["tenant", "ls"]).contains("any"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_a_second_tenant_do_not_share_the_user_of_the_first() {
    let executor = "sandbox = false\n";
    let mut cluster = Cluster::start(Setup { peers: 1, executor, ..Setup::default() }).await;
    let first = |cluster: &Cluster| stint_with(cluster, process_of("physics", &["run"], &["echo", "ran"]));
    let ran = (Some(0), "ran\n".to_owned());
    let (code, out, err) = first(&cluster);
    assert_eq!((code, out), ran, "the first tenant: {err}");
    let (code, id, err) = stint_with(&cluster, process_of("chem", &["submit", "-o", "quiet"], &["true"]));
    assert!(code == Some(0) && err.contains("as one user"), "it is warned of: {err}");
    let (code, out, err) = first(&cluster);
    assert_eq!((code, out), ran, "it goes on: {err}");
    let (_, explained, _) = stint_at(&cluster, &["explain", "--tenant", "chem", id.trim()]);
    assert!(explained.contains("executor.tenants"), "{explained}");
    // Its operator says that they may.
    let peer = &mut cluster.peers[0];
    peer.edit("sandbox = false", "sandbox = false\ntenants = [\"*\"]");
    peer.kill().await;
    peer.spawn(&[]);
    peer.ready().await;
    let (code, out, err) = stint_at(&cluster, &["wait", "--tenant", "chem", id.trim()]);
    assert_eq!(code, Some(0), "{out}{err}");
}
