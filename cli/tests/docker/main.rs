//! Tasks in Docker containers, through the real binary and on a real engine: how they end, who ends them, and that
//! nothing of them is left. The engine and the image are made by `.ci/prepare`; without them these tests fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod daemon;
#[allow(dead_code)] // the tests of the executor use all of it
#[path = "../../../executor/tests/docker/proxy.rs"]
mod proxy;
mod stopped;
#[path = "../support/mod.rs"]
mod support;
mod unanswered;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use stint_sdk::v1;
use support::scrape;
use support::{Cluster, PATIENCE, Setup, accepted, stint, submit};
use tokio::time::{Instant, sleep};

const IMAGE: &str = "stint-test/busybox:1";
const SOCKET: &str = "/var/run/docker.sock";

fn docker_at(socket: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = std::process::Command::new("docker");
    let output = command.args(["-H", &format!("unix://{socket}")]).args(arguments).output();
    let output = output.expect("no docker command: run .ci/prepare");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn docker(arguments: &[&str]) -> String {
    docker_at(SOCKET, arguments)
        .unwrap_or_else(|e| panic!("docker {arguments:?} failed, run .ci/prepare: {e}"))
}

/// Containers of the nodes of a cluster, in whatever state.
fn containers_at(socket: &str, cluster: &Cluster) -> Vec<String> {
    let format = "{{.ID}} {{.Label \"stint.executor\"}}";
    let all = docker_at(
        socket,
        &["ps", "-a", "--no-trunc", "--filter", "label=stint.executor", "--format", format],
    );
    let root = cluster.root.path().display().to_string();
    let own = |line: &&str| line.split_once(' ').is_some_and(|(_, executor)| executor.starts_with(&root));
    all.unwrap().lines().filter(own).map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn containers(cluster: &Cluster) -> Vec<String> {
    containers_at(SOCKET, cluster)
}

fn only_our_images(_: usize) -> String {
    "[executor.docker]\nallowed_images = [\"stint-test/*\"]\n".into()
}

async fn cluster(peers: usize) -> Cluster {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let runtimes = "\"docker\", \"process\"";
    Cluster::start(Setup { peers, runtimes, more: only_our_images, ..Setup::default() }).await
}

fn in_image(class: &str, args: &[&str], count: u32) -> v1::SubmitRequest {
    let mut request = submit(class, args, count);
    let spec = request.spec.as_mut().unwrap();
    (spec.image, spec.runtime) = (IMAGE.into(), "docker".into());
    request
}

fn shell(script: &str) -> v1::SubmitRequest {
    in_image("cpu_long", &["/bin/sh", "-c", script], 1)
}

fn kind(task: &v1::Task) -> String {
    task.attempt_records.last().map(|record| record.end.clone()).unwrap_or_default()
}

/// Output of every attempt that ran in a cluster, by the attempt's folder.
fn outputs(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for peer in &cluster.peers {
        let folders = std::fs::read_dir(peer.dir.join("executor/attempts")).unwrap();
        for folder in folders.map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(folder.join("stdout")).unwrap_or_default();
            all.insert(folder.file_name().unwrap().to_string_lossy().into_owned(), text);
        }
    }
    all
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_are_told_apart_and_nothing_is_left() {
    let cluster = cluster(1).await;
    let run = |args: &[&str]| {
        let head =
            ["run", "--class", "cpu_long", "--runtime", "docker", "--image", IMAGE, "--memory", "32MiB"];
        let (head, args) = (head.to_vec(), args.to_vec());
        let all: Vec<&str> = head.into_iter().chain(["--"]).chain(args).collect();
        stint(&cluster, &all)
    };
    let (code, out, _) = run(&["/bin/sh", "-c", "echo hello from $STINT_CLASS"]);
    assert_eq!((code, out.as_str()), (0, "hello from cpu_long\n"));
    assert_eq!(run(&["/bin/sh", "-c", "exit 7"]).0, 7);
    assert_eq!(run(&["no-such-program"]).0, 127);
    assert_eq!(run(&["/bin/sh", "-c", "x=x; while :; do x=$x$x; done"]).0, 137);

    let client = cluster.client();
    let mut slow = shell("sleep 100");
    slow.spec.as_mut().unwrap().timeout_ms = 700;
    let slow = accepted(&client, slow).await;
    let cancelled = accepted(&client, shell("sleep 100")).await;
    until("the container of the cancelled one is there", || containers(&cluster).len() >= 2).await;
    client.cancel(v1::CancelRequest { tasks: cancelled.clone(), ..Default::default() }).await.unwrap();
    let mut refused = shell("true");
    refused.spec.as_mut().unwrap().image = "docker.io/library/busybox:latest".into();
    let refused = accepted(&client, refused).await;
    for (id, end) in [(&slow, "timed_out"), (&cancelled, "cancelled"), (&refused, "denied")] {
        let task = cluster.finish(id, PATIENCE).await.remove(0);
        assert_eq!(kind(&task), end, "{task:#?}");
        assert_eq!(task.attempt_records.len(), 1, "{task:#?}");
        let images = "allowed_images has no pattern that matches";
        assert!(end != "denied" || task.attempt_records[0].message.contains(images), "{task:#?}");
    }
    assert_eq!(containers(&cluster), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_chooses_docker_and_a_local_script_runs_in_every_runtime() {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let runtimes = "\"process\", \"crun\", \"docker\"";
    let cluster =
        Cluster::start(Setup { peers: 1, runtimes, more: only_our_images, ..Setup::default() }).await;
    let run = |args: &[&str]| stint(&cluster, &[&["run", "--class", "cpu_short"], args].concat());
    // Of a file system that the machine does not have.
    let (code, out, err) = run(&["--image", IMAGE, "--", "/bin/sh", "-c", "echo $HOME $STINT_CLASS"]);
    assert_eq!((code, out.as_str()), (0, "/work cpu_short\n"), "{err}");
    let (code, _, err) = run(&["--image", IMAGE, "--runtime", "crun", "--", "true"]);
    assert!(code == 125 && err.contains("is a Docker reference, which crun cannot run"), "{code}: {err}");

    let script = cluster.root.path().join("job.sh");
    std::fs::write(&script, "#!/bin/sh\necho \"job $1 in $STINT_CLASS\"\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // As users write it: from where they are.
    let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
    let named = up + script.to_str().unwrap().trim_start_matches('/');
    for more in [&["--runtime", "process"][..], &["--runtime", "crun"], &["--image", IMAGE]] {
        for workdir in [&[][..], &["--workdir", "src"]] {
            let (code, out, err) = run(&[more, workdir, &["--", &named, "7"]].concat());
            assert_eq!((code, out.as_str()), (0, "job 7 in cpu_short\n"), "{more:?}: {err}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_over_ends_its_container_though_the_node_was_killed() {
    let mut cluster = cluster(1).await;
    let ids = accepted(
        &cluster.client(),
        shell("trap : TERM; n=0; while [ $n -lt 60 ]; do sleep 0.1; n=$((n+1)); done; echo done"),
    )
    .await;
    until("its container runs", || !containers(&cluster).is_empty()).await;
    let id = containers(&cluster).remove(0);
    let pid = || docker(&["inspect", "--format", "{{.State.Pid}}", &id]);
    until("its process is there", || pid() != "0").await;
    let process = PathBuf::from("/proc").join(pid());
    cluster.peers[0].kill().await;
    let began = Instant::now();
    until("the watchdog killed it", || !process.exists()).await;
    // The lease of these clusters lasts 4 s, counted from the last report before the kill.
    assert!(began.elapsed() < Duration::from_millis(4_100), "it outlived its lease: {:?}", began.elapsed());
    until("its container is removed", || containers(&cluster).is_empty()).await;
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    let task = cluster.finish(&ids, PATIENCE).await.remove(0);
    assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
    let ends: Vec<&str> = task.attempt_records.iter().map(|record| record.end.as_str()).collect();
    assert_eq!(ends, ["lost", "exited"], "{task:#?}");
    assert_eq!(containers(&cluster), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_and_comes_back_adopts_its_container() {
    let mut cluster = cluster(1).await;
    let ids = accepted(&cluster.client(), shell("echo before; sleep 3; echo after; exit 5")).await;
    until("it runs", || outputs(&cluster).values().any(|text| text.contains("before"))).await;
    let before = containers(&cluster);
    cluster.peers[0].kill().await;
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    assert_eq!(containers(&cluster), before, "the container goes on");
    let task = cluster.finish(&ids, PATIENCE).await.remove(0);
    assert_eq!(task.attempt_records.len(), 1, "{task:#?}");
    assert_eq!(task.outcome.as_ref().unwrap().exit_code, 5, "{task:#?}");
    assert!(outputs(&cluster).values().any(|text| text == "before\nafter\n"), "{:?}", outputs(&cluster));
    assert_eq!(containers(&cluster), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tasks_on_two_devices_never_share_one() {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let own = std::process::id();
    let name = |n: u32| -> &'static str { Box::leak(format!("GPU-docker-{own}-{n}").into_boxed_str()) };
    let setup = Setup {
        peers: 2,
        runtimes: "\"docker\"",
        gpus: vec![vec![name(1)], vec![name(2)]],
        more: only_our_images,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup).await;
    let script = "read up _ </proc/uptime; echo start $up $NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES; sleep 0.3; \
                  read up _ </proc/uptime; echo end $up";
    let ids = accepted(&cluster.client(), in_image("gpu", &["/bin/sh", "-c", script], 20)).await;
    for task in cluster.finish(&ids, PATIENCE * 2).await {
        assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
        assert_eq!(task.attempt_records.len(), 1, "{task:#?}");
    }
    let mut lives: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for text in outputs(&cluster).into_values() {
        let args: Vec<&str> = text.split_whitespace().collect();
        let ["start", start, gpu, same, "end", end] = args[..] else { panic!("{text:?}") };
        assert_eq!(gpu, same);
        lives.entry(gpu.into()).or_default().push((start.parse().unwrap(), end.parse().unwrap()));
    }
    assert_eq!(lives.keys().cloned().collect::<Vec<_>>(), [name(1), name(2)]);
    assert_eq!(lives.values().map(Vec::len).sum::<usize>(), 20);
    for (gpu, mut lives) in lives {
        lives.sort_by(|a, b| a.0.total_cmp(&b.0));
        for pair in lives.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "two tasks had {gpu} at once: {pair:?}");
        }
    }
    assert_eq!(containers(&cluster), Vec::<String>::new());
}

/// A registry on loopback that gives nobody anything, as many do of images that they do not have. Its port.
fn denying_registry() -> u16 {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let of_image = request.first().is_some_and(|line| line.contains("/manifests/"));
            let status = if of_image { "403 Forbidden" } else { "200 OK" };
            let head =
                "Content-Length: 0\r\nConnection: close\r\nDocker-Distribution-Api-Version: registry/2.0";
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n").as_bytes());
        }
    });
    port
}

fn any_image_with_credentials(_: usize) -> String {
    "[executor.docker]\nallowed_images = [\"**\"]\ncredentials = \"ROOT/docker-config.json\"\n".into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_no_node_is_given_ends_its_task_soon_and_broken_credentials_are_told_by_the_nodes() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    let file = root.path().join("docker-config.json");
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("{}");
    let (runtimes, more) = ("\"docker\", \"process\"", any_image_with_credentials as fn(usize) -> String);
    let cluster = Cluster::start_in(root, Setup { runtimes, more, ..Setup::default() }).await;
    let client = cluster.client();
    let port = denying_registry();
    let denied = || {
        let mut request = shell("exit 0");
        request.spec.as_mut().unwrap().image = format!("127.0.0.1:{port}/team/mistyped:1");
        request
    };
    let task = cluster.finish(&accepted(&client, denied()).await, PATIENCE).await.remove(0);
    let ends: Vec<&str> = task.attempt_records.iter().map(|record| record.end.as_str()).collect();
    let nodes: std::collections::BTreeSet<_> =
        task.attempt_records.iter().map(|record| &record.node_id).collect();
    // Once on each: then every node that could run it has said so.
    assert!(nodes.len() == 3 && ends == ["files_missing"; 3], "{task:#?}");
    let message = task.outcome.unwrap().message;
    assert!(message.contains("team/mistyped:1") && message.contains("check its name"), "{message}");

    write("{ s3cret");
    let shown = |wanted: bool| {
        let (_, nodes, _) = stint(&cluster, &["nodes", "-o", "json"]);
        assert!(!nodes.contains("s3cret"), "{nodes}");
        nodes.matches("runtime docker: the credentials").count() == if wanted { 3 } else { 0 }
    };
    until("the nodes tell it", || shown(true)).await;
    let (health, _) = scrape::get(&cluster.peers[0], "/healthz");
    assert!(health.starts_with("degraded\nruntime docker: the credentials"), "{health}");
    let ids: Vec<String> = accepted(&client, denied()).await;
    let fine = [
        accepted(&client, shell("exit 0")).await,
        accepted(&client, submit("cpu_short", &["/bin/true"], 1)).await,
    ];
    for task in cluster.finish(&fine.concat(), PATIENCE).await {
        assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
    }
    client.cancel(v1::CancelRequest { tasks: ids, ..Default::default() }).await.unwrap();
    write("{}");
    until("the nodes take it back", || shown(false)).await;
    assert_eq!(scrape::get(&cluster.peers[0], "/healthz").0, "ok\n");
    assert_eq!(cluster.peers[0].log().matches("runtime docker: the credentials").count(), 1, "said once");
}
