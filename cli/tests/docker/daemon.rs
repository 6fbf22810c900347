//! A daemon of its own that ends, comes back or hangs while tasks run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::scrape::{self, Scrape};
use crate::support::{Cluster, PATIENCE, Setup, accepted, signal, stint, submit};
use crate::{IMAGE, containers_at, docker, docker_at, outputs, shell, until};

const AVAILABLE: &str = "stint_runtime_available{runtime=\"docker\"}";

/// A second daemon, in a network namespace of its own so that it does not touch the first one's bridge.
struct Daemon {
    root: PathBuf,
    process: std::process::Child,
}

fn own_daemon_root() -> PathBuf {
    std::env::temp_dir().join(format!("stint-dockerd-{}", std::process::id()))
}

fn own_socket() -> String {
    own_daemon_root().join("docker.sock").display().to_string()
}

fn start_daemon(root: &Path) -> std::process::Child {
    let path = |name: &str| root.join(name).display().to_string();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(root.join("log")).unwrap();
    std::process::Command::new("unshare")
        .args(["--net", "dockerd", "--host", &format!("unix://{}", path("docker.sock"))])
        .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("dockerd cannot be started: run .ci/prepare")
}

impl Daemon {
    async fn start() -> Self {
        let root = own_daemon_root();
        std::fs::create_dir_all(&root).unwrap();
        let mut daemon = Self { process: start_daemon(&root), root };
        daemon.ready().await;
        let archive = daemon.root.join("image.tar").display().to_string();
        docker(&["save", "-o", &archive, IMAGE]);
        docker_at(&own_socket(), &["load", "-i", &archive]).unwrap();
        daemon
    }

    async fn ready(&mut self) {
        let root = self.root.clone();
        until("the second daemon answers", || {
            if let Some(status) = self.process.try_wait().unwrap() {
                let log = std::fs::read_to_string(root.join("log")).unwrap_or_default();
                panic!("the second daemon ended ({status}), run .ci/prepare:\n{log}");
            }
            docker_at(&own_socket(), &["version"]).is_ok()
        })
        .await;
    }

    /// Asks it to stop, as an operator does; it ends its containers first.
    fn stop(&mut self, how: &str) {
        signal(self.process.id(), how);
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        // What one that was killed leaves; its containerd has died with it.
        let _ = std::fs::remove_file(self.root.join("exec/containerd/containerd.pid"));
        let _ = std::fs::remove_file(self.root.join("pid"));
        self.process = start_daemon(&self.root);
        self.ready().await;
    }

    /// Ends what a killed daemon leaves: processes that name its folder on their command line.
    fn end_helpers(&self) {
        let root = self.root.display().to_string();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            let program = line.split('\0').next().unwrap_or_default();
            if program.contains("containerd") && line.contains(&root) {
                signal(entry.file_name().to_str().unwrap().parse().unwrap(), "KILL");
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.stop("TERM");
        }
        self.end_helpers();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(&self.root)) {
            let _ = std::process::Command::new("umount").args(["--lazy", point]).output();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn own_daemon(_: usize) -> String {
    format!("[executor.docker]\nallowed_images = [\"stint-test/*\"]\nsocket = \"{}\"\n", own_socket())
}

async fn cluster_of_own_daemon() -> Cluster {
    let runtimes = "\"docker\", \"process\"";
    Cluster::start(Setup { peers: 1, runtimes, more: own_daemon, ..Setup::default() }).await
}

async fn docker_is_offered(cluster: &Cluster, wanted: bool) {
    let client = cluster.client();
    let end = Instant::now() + PATIENCE;
    while client.list_nodes().await.unwrap()[0].runtimes.contains(&"docker".to_owned()) != wanted {
        assert!(Instant::now() < end, "docker should be offered: {wanted}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The daemon goes while a task runs: the attempt is lost, the next one runs once the daemon is back; meanwhile other
/// runtimes work and `explain` says what is missing.
async fn a_daemon_that_ends(how: &str) {
    let mut daemon = Daemon::start().await;
    let cluster = cluster_of_own_daemon().await;
    let client = cluster.client();
    let ids =
        accepted(&client, shell("[ $STINT_ATTEMPT != 1 ] || { echo first; sleep 60; }; echo second")).await;
    until("it runs", || outputs(&cluster).values().any(|text| text.contains("first"))).await;
    // By then its start has been answered: a daemon that is killed before fails the start instead.
    sleep(Duration::from_secs(1)).await;
    daemon.stop(how);
    docker_is_offered(&cluster, false).await;
    // A task that never needed Docker is not held up.
    let (health, _) = scrape::get(&cluster.peers[0], "/healthz");
    assert!(health.starts_with("degraded\nruntime docker: no Docker daemon answers at"), "{health}");
    assert_eq!(Scrape::read(&cluster.peers[0]).value(AVAILABLE), 0.0);
    let other = accepted(&client, submit("cpu_short", &["/bin/true"], 1)).await;
    let other = cluster.finish(&other, PATIENCE).await.remove(0);
    assert_eq!(other.outcome.unwrap().status, "succeeded");
    let waits = accepted(&client, shell("echo third")).await;
    let (_, shown, _) = stint(&cluster, &["explain", &waits[0]]);
    assert!(shown.contains("no Docker daemon answers at"), "{shown}");
    assert_eq!(
        cluster.peers[0].log().matches("the Docker daemon is gone").count(),
        1,
        "{}",
        cluster.peers[0].log()
    );
    daemon.start_again().await;
    docker_is_offered(&cluster, true).await;
    assert_eq!(scrape::get(&cluster.peers[0], "/healthz").0, "ok\n");
    assert_eq!(Scrape::read(&cluster.peers[0]).value(AVAILABLE), 1.0);
    let all = [ids, waits].concat();
    for task in cluster.finish(&all, PATIENCE * 2).await {
        assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
        let ends: Vec<&str> = task.attempt_records.iter().map(|record| record.end.as_str()).collect();
        assert!(ends == ["lost", "exited"] || ends == ["exited"], "{task:#?}");
    }
    until("nothing is left", || containers_at(&own_socket(), &cluster).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_stopped_while_a_task_runs() {
    a_daemon_that_ends("TERM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_while_a_task_runs() {
    a_daemon_that_ends("KILL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_hangs_cannot_keep_a_container_alive() {
    let daemon = Daemon::start().await;
    let mut cluster = cluster_of_own_daemon().await;
    let ids =
        accepted(&cluster.client(), shell("[ $STINT_ATTEMPT != 1 ] || { echo first; sleep 60; }")).await;
    until("it runs", || outputs(&cluster).values().any(|text| text.contains("first"))).await;
    sleep(Duration::from_secs(1)).await;
    let id = containers_at(&own_socket(), &cluster).remove(0);
    let pid = docker_at(&own_socket(), &["inspect", "--format", "{{.State.Pid}}", &id]).unwrap();
    let process = PathBuf::from("/proc").join(pid);
    // Neither the daemon nor the node can do anything.
    signal(daemon.process.id(), "STOP");
    cluster.peers[0].kill().await;
    let began = Instant::now();
    until("the watchdog killed it", || !process.exists()).await;
    let took = began.elapsed();
    signal(daemon.process.id(), "CONT");
    assert!(took < Duration::from_millis(4_100), "it outlived its lease: {took:?}");
    until("its container is removed", || containers_at(&own_socket(), &cluster).is_empty()).await;
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    let task = cluster.finish(&ids, PATIENCE).await.remove(0);
    assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
    assert_eq!(task.attempt_records[0].end, "lost", "{task:#?}");
}
