//! What users see while peers are lost, on real processes: three peers on loopback, killed or stopped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::Value;
use stint_sdk::v1;
use support::marks::{Life, WORKER, lives, overlaps};
use support::{Cluster, PATIENCE, Setup, accepted, leftovers, signal, stint_at, submit};
use tokio::time::{Instant, sleep};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn marks(cluster: &Cluster) -> Vec<Life> {
    lives(&cluster.shared().join("marks"))
}

/// Until there is such a life of a task.
async fn life(cluster: &Cluster, what: &str, found: impl Fn(&Life) -> bool) -> Life {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(life) = marks(cluster).into_iter().find(&found) {
            return life;
        }
        assert!(Instant::now() < until, "{what}: {:#?}", marks(cluster));
        sleep(LOOK_AGAIN).await;
    }
}

/// How long a task waits that ran on a machine which is gone, until it runs elsewhere.
async fn waits_after_the_loss_of_its_node(lease_ttl: &'static str) -> Duration {
    let mut cluster = Cluster::start(Setup { lease_ttl, ..Setup::default() }).await;
    let leader = cluster.leader().await;
    let file = cluster.shared().join("marks");
    // On a follower: the failover of a leader comes on top, and is measured elsewhere.
    let leads = cluster.peers[leader].name.clone();
    let cordon = v1::SetNodeModeRequest { node: leads.clone(), mode: "cordon".into(), within_ms: None };
    cluster.client().set_node_mode(cordon).await.unwrap();
    let work = submit("cpu_short", &["/bin/sh", "-c", WORKER, "worker", &file.to_string_lossy(), "40"], 1);
    let task = accepted(&cluster.client(), work).await.remove(0);
    let first = life(&cluster, "the task does not start", |life| life.attempt == 1).await;
    let nodes = cluster.client().list_nodes().await.unwrap();
    let name = &nodes.iter().find(|node| node.id.to_string() == first.node).expect("a known node").name;
    let lost = cluster.peers.iter().position(|peer| peer.name == *name).expect("one of ours");
    assert_ne!(lost, leader);
    cluster.peers[lost].kill().await;
    let since = Instant::now();
    // Its watchdog, too: the machine is gone.
    leftovers::clear(&cluster.peers[lost].dir);
    // A busy machine may be late to start the second one.
    life(&cluster, "the task does not run elsewhere", |life| life.attempt > 1).await;
    let waited = since.elapsed();
    let request = v1::GetTaskRequest { task, ..Default::default() };
    let shown = cluster.client().get_task(request).await.unwrap();
    eprintln!("{:#?}", shown.attempt_records);
    let overlaps = overlaps(&marks(&cluster));
    assert!(overlaps.is_empty(), "it ran twice at a time: {overlaps:#?}");
    waited
}

/// The margin after a lease is its own: the ten minutes that a job of Slurm has are no matter of other classes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nodes_task_starts_elsewhere_in_time() {
    let waited = waits_after_the_loss_of_its_node("10s").await;
    eprintln!("elsewhere after {waited:?} with a lease of 10 s");
    assert!(waited > Duration::from_secs(8), "the lease was not waited for: {waited:?}");
    assert!(waited <= Duration::from_secs(12), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nodes_task_starts_elsewhere_within_five_seconds_of_a_short_lease() {
    let waited = waits_after_the_loss_of_its_node("3s").await;
    eprintln!("elsewhere after {waited:?} with a lease of 3 s");
    assert!(waited <= Duration::from_secs(5), "{waited:?}");
}

/// What reads may take without a leader, start of the command included.
const READ: Duration = Duration::from_secs(1);
/// The first one after the loss, on a busy machine: it waits for a leader that may still be elected.
const FIRST_READ: Duration = Duration::from_secs(2);

/// A command at one peer, and how long it took.
fn timed(cluster: &Cluster, peer: usize, args: &[&str]) -> ((i32, String, String), Duration) {
    let began = std::time::Instant::now();
    let ended = stint_at(cluster, peer, args);
    let took = began.elapsed();
    eprintln!("{} took {took:?}, exit {}", args.join(" "), ended.0);
    (ended, took)
}

/// Status line and body that a peer's HTTP port answers.
fn http(cluster: &Cluster, peer: usize, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", cluster.peers[peer].http)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(cluster: &Cluster, peer: usize) -> Value {
    let (code, out, err) = stint_at(cluster, peer, &["cluster", "status", "--output", "json"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn state_of(status: &Value, name: &str) -> String {
    let peers = status["peers"].as_array().unwrap();
    let peer = peers.iter().find(|peer| peer["name"] == name).expect("a known peer");
    peer["state"].as_str().unwrap().to_owned()
}

/// A task that is finished, and one that waits as no node has a device.
async fn finished_and_waiting(cluster: &Cluster) -> (String, String) {
    let client = cluster.client();
    let done = accepted(&client, submit("cpu_short", &["/bin/echo", "kept"], 1)).await.remove(0);
    cluster.finish(std::slice::from_ref(&done), PATIENCE).await;
    let waiting = accepted(&client, submit("gpu", &["/bin/true"], 1)).await.remove(0);
    (done, waiting)
}

/// Each command that only reads, at a peer that has lost the others.
fn prove_reads(cluster: &Cluster, peer: usize, done: &str, waiting: &str) {
    let reads: [&[&str]; 7] = [
        &["nodes"],
        &["cluster", "status"],
        &["ps", "--all"],
        &["status", done],
        &["result", done],
        &["explain", waiting],
        &["logs", done],
    ];
    for (place, args) in reads.into_iter().enumerate() {
        let ((code, out, err), took) = timed(cluster, peer, args);
        // Output may lie on a peer that is away: that is said as soon.
        let may_fail = args[0] == "logs";
        assert!(code == 0 || may_fail, "{args:?} ended with {code}: {err}");
        assert!(!out.is_empty() || may_fail, "{args:?} says nothing: {err}");
        assert!(err.contains("no leader"), "{args:?} is not marked: {err}");
        assert!(took <= if place == 0 { FIRST_READ } else { READ }, "{args:?} took {took:?}");
    }
}

/// What changes something, and a wait, at a peer that has lost the others.
fn prove_writes(cluster: &Cluster, peer: usize, waiting: &str) {
    let missing = |place: usize| cluster.peers[place].name.clone();
    let writes: [&[&str]; 3] =
        [&["submit", "--", "/bin/true"], &["cancel", waiting], &["node", "drain", "t1"]];
    // Once nobody can be elected: an election and a second.
    std::thread::sleep(Duration::from_millis(1_500));
    for args in writes {
        let ((code, _, err), took) = timed(cluster, peer, args);
        assert_eq!(code, 3, "{args:?}: {err}");
        assert!(err.contains("no leader for") && err.contains("2 of 3 voters missing"), "{args:?}: {err}");
        for place in (0..3).filter(|place| *place != peer) {
            assert!(err.contains(&missing(place)), "{args:?} does not name {}: {err}", missing(place));
        }
        assert!(took <= READ, "{args:?} took {took:?}");
    }
    let ((code, _, err), took) = timed(cluster, peer, &["wait", "--timeout", "3s", waiting]);
    assert_eq!(code, 4, "{err}");
    assert!(took >= Duration::from_secs(3) && took <= Duration::from_secs(4), "it took {took:?}");
}

fn prove_seen(cluster: &Cluster, peer: usize) {
    let seen = status(cluster, peer);
    assert!(seen["leader_id"].is_null() && seen["can_lose"].is_null(), "{seen:#}");
    assert!(seen["outdated"]["no_leader_since_ms"].as_u64().unwrap() > 1_700_000_000_000, "{seen:#}");
    for (place, other) in cluster.peers.iter().enumerate() {
        let state = state_of(&seen, &other.name);
        assert_eq!(state == "unreachable", place != peer, "{} is {state}", other.name);
    }
    let ready = http(cluster, peer, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("2 of 3 voters missing"), "{ready}");
    let metrics = http(cluster, peer, "/metrics");
    let line = |name: &str| metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    assert_eq!(line("stint_alarm{alarm=\"no_leader\"}"), "stint_alarm{alarm=\"no_leader\"} 1");
    let contact = line("stint_raft_leader_last_contact_seconds ");
    let seconds: f64 = contact.split(' ').nth(1).unwrap_or_default().parse().unwrap();
    assert!(seconds > 0.3, "{contact}");
}

/// After a majority is back: everything is answered as ever.
async fn prove_recovered(cluster: &Cluster, peer: usize, waiting: &str) {
    cluster.all_ready().await;
    let until = Instant::now() + PATIENCE;
    while !http(cluster, peer, "/readyz").starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < until, "{}", http(cluster, peer, "/readyz"));
        sleep(LOOK_AGAIN).await;
    }
    let (code, _, err) = stint_at(cluster, peer, &["cancel", waiting]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = stint_at(cluster, peer, &["status", waiting]);
    assert!(code == 0 && !err.contains("no leader"), "{err}");
}

async fn unready_after(cluster: &Cluster, peer: usize) -> Duration {
    let began = Instant::now();
    while http(cluster, peer, "/readyz").starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < PATIENCE, "it stays ready");
        sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_majority_was_killed_answers_and_refuses_soon() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let (done, waiting) = finished_and_waiting(&cluster).await;
    // A follower is left, and the leader is lost.
    let leader = cluster.leader().await;
    let left = (leader + 1) % 3;
    for place in (0..3).filter(|place| *place != left) {
        cluster.peers[place].kill().await;
    }
    let unready = unready_after(&cluster, left).await;
    eprintln!("not ready after {unready:?}");
    assert!(unready <= READ, "{unready:?}");
    prove_reads(&cluster, left, &done, &waiting);
    prove_writes(&cluster, left, &waiting);
    prove_seen(&cluster, left);
    for place in (0..3).filter(|place| *place != left) {
        cluster.peers[place].spawn(&[]);
        cluster.peers[place].ready().await;
    }
    prove_recovered(&cluster, left, &waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_followers_hang_answers_and_refuses_soon() {
    let cluster = Cluster::start(Setup::default()).await;
    let (done, waiting) = finished_and_waiting(&cluster).await;
    let left = cluster.leader().await;
    let stopped: Vec<u32> =
        (0..3).filter(|place| *place != left).map(|place| cluster.peers[place].pid().unwrap()).collect();
    stopped.iter().for_each(|pid| signal(*pid, "STOP"));
    let unready = unready_after(&cluster, left).await;
    eprintln!("not ready after {unready:?}");
    prove_reads(&cluster, left, &done, &waiting);
    prove_writes(&cluster, left, &waiting);
    prove_seen(&cluster, left);
    stopped.iter().for_each(|pid| signal(*pid, "CONT"));
    assert!(unready <= READ, "{unready:?}");
    prove_recovered(&cluster, left, &waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_is_unreachable_within_two_seconds() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let leader = cluster.leader().await;
    let (dead, asked) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = cluster.peers[dead].name.clone();
    let before = status(&cluster, asked);
    assert_eq!(
        (state_of(&before, &name).as_str(), &before["can_lose"]),
        ("follower", &Value::from(1)),
        "{before:#}"
    );
    cluster.peers[dead].kill().await;
    let killed = Instant::now();
    let after = loop {
        let seen = status(&cluster, asked);
        if state_of(&seen, &name) == "unreachable" {
            break seen;
        }
        assert!(killed.elapsed() < PATIENCE, "{seen:#}");
    };
    let took = killed.elapsed();
    eprintln!("unreachable after {took:?}");
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert_eq!(after["can_lose"], 0, "{after:#}");
    let (_, nodes, _) = stint_at(&cluster, asked, &["nodes"]);
    let row = nodes.lines().find(|line| line.contains(&name)).expect("its row");
    assert!(row.contains("lost"), "{nodes}");
    cluster.peers[dead].spawn(&[]);
    cluster.peers[dead].ready().await;
    cluster.all_ready().await;
    let again = status(&cluster, asked);
    assert_eq!(
        (state_of(&again, &name).as_str(), &again["can_lose"]),
        ("follower", &Value::from(1)),
        "{again:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_stop_the_cluster_is_refused_and_a_removed_peer_ends() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let leader = cluster.leader().await;
    let (away, there) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = |cluster: &Cluster, place: usize| cluster.peers[place].name.clone();
    let (away_name, there_name) = (name(&cluster, away), name(&cluster, there));
    cluster.peers[away].kill().await;
    let until = Instant::now() + PATIENCE;
    while state_of(&status(&cluster, leader), &away_name) != "unreachable" {
        assert!(Instant::now() < until, "{away_name} does not get unreachable");
    }
    let (code, _, err) = stint_at(&cluster, leader, &["node", "remove", &there_name]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("no majority") && err.contains(&away_name) && err.contains("--force"), "{err}");
    // The one that is away may go. It hears of that when it is back.
    let (code, _, err) = stint_at(&cluster, leader, &["node", "remove", &away_name]);
    assert_eq!(code, 0, "{err}");
    cluster.peers[away].spawn(&[]);
    let ended = cluster.peers[away].exit().await;
    assert_eq!(ended.code(), Some(1), "{}", cluster.peers[away].log());
    assert!(cluster.peers[away].log().contains("removed from its cluster"), "{}", cluster.peers[away].log());
    // So may one that runs: the one that is left is a majority of itself.
    let (code, _, err) = stint_at(&cluster, leader, &["node", "remove", &there_name]);
    assert_eq!(code, 0, "a cluster of one is left: {err}");
    let ended = cluster.peers[there].exit().await;
    assert_eq!(ended.code(), Some(1), "{}", cluster.peers[there].log());
    assert!(
        cluster.peers[there].log().contains("removed from its cluster"),
        "{}",
        cluster.peers[there].log()
    );
    let (code, _, err) = stint_at(&cluster, leader, &["submit", "--", "/bin/true"]);
    assert_eq!(code, 0, "{err}");
}

/// Wall time is ahead by as many seconds as the file `$FAKE_CLOCK` says.
const FAKE_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    const char *path = getenv("FAKE_CLOCK");
    FILE *file = result == 0 && clock == CLOCK_REALTIME && path ? fopen(path, "r") : NULL;
    long ahead = 0;
    if (file) {
        if (fscanf(file, "%ld", &ahead) == 1) now->tv_sec += ahead;
        fclose(file);
    }
    return result;
}
"#;

/// Builds it; an error says what is missing here.
fn fake_clock(folder: &std::path::Path) -> Result<String, String> {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, FAKE_CLOCK).unwrap();
    let mut compile = std::process::Command::new("cc");
    let ended = compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    let ended = ended.map_err(|error| format!("no C compiler: {error}"))?;
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(library.display().to_string())
}

async fn a_leader_whose_wall_clock_is_set(ahead_s: i64) {
    let mut cluster = Cluster::start(Setup::default()).await;
    let library = match fake_clock(cluster.root.path()) {
        Ok(library) => library,
        Err(why) => return eprintln!("left out, as no clock can be set here: {why}"),
    };
    let offset = |cluster: &Cluster, place: usize| cluster.root.path().join(format!("ahead-{place}"));
    for place in 0..3 {
        let file = offset(&cluster, place).display().to_string();
        cluster.peers[place].variables = vec![("LD_PRELOAD", library.clone()), ("FAKE_CLOCK", file)];
        cluster.peers[place].kill().await;
        cluster.peers[place].spawn(&[]);
        cluster.peers[place].ready().await;
    }
    cluster.all_ready().await;
    let leader = cluster.leader().await;
    std::fs::write(offset(&cluster, leader), ahead_s.to_string()).unwrap();
    let set = Instant::now();
    while cluster.leader().await == leader {
        assert!(set.elapsed() < PATIENCE, "{}", cluster.peers[leader].log());
        sleep(LOOK_AGAIN).await;
    }
    let took = set.elapsed();
    eprintln!("another peer leads {took:?} after the leader's clock was set by {ahead_s} s");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    let began = Instant::now();
    let ids = accepted(&cluster.client(), submit("cpu_short", &["/bin/true"], 1)).await;
    cluster.finish(&ids, PATIENCE).await;
    assert!(began.elapsed() <= Duration::from_secs(5), "the task took {:?}", began.elapsed());
    let seen = status(&cluster, (leader + 1) % 3);
    assert_eq!(seen["alarms"].as_array().map(Vec::len), Some(0), "{seen:#}");
    assert!(cluster.peers[leader].log().contains("wall clock was set"), "{}", cluster.peers[leader].log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_wall_clock_is_set_ahead_hands_over() {
    a_leader_whose_wall_clock_is_set(3_600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_wall_clock_is_set_back_hands_over() {
    a_leader_whose_wall_clock_is_set(-3_600).await;
}
