//! Limits of single tasks and what attempts used, through the real binary: where a node allows what a task asks for, and
//! what users are told.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use std::time::Duration;

use serde_json::Value;
use stint_protocol::version;
use stint_sdk::Client;
use support::{Cluster, PATIENCE, Setup, stint};
use tokio::time::{Instant, sleep};

fn done(cluster: &Cluster, args: &[&str]) -> String {
    let (code, out, err) = stint(cluster, args);
    assert_eq!(code, 0, "stint {args:?}: {out}{err}");
    out
}

fn json(cluster: &Cluster, args: &[&str]) -> Value {
    serde_json::from_str(&done(cluster, args)).unwrap()
}

/// The second node lets tasks have its network.
fn host_on_the_second(place: usize) -> String {
    let networks = if place == 1 { "\"none\", \"host\"" } else { "\"none\"" };
    format!("[executor.crun]\nnetworks = [{networks}]\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_where_its_network_is_allowed_and_explain_names_who_does_not() {
    let runtimes = "\"crun\"";
    let cluster =
        Cluster::start(Setup { peers: 2, runtimes, more: host_on_the_second, ..Setup::default() }).await;
    let task = ["--class", "cpu_long", "--network", "host", "--memory", "64MiB", "-o", "quiet", "--", "true"];
    for _ in 0..3 {
        let id = done(&cluster, &[&["submit"], &task[..]].concat());
        done(&cluster, &["wait", id.trim()]);
        assert_eq!(json(&cluster, &["result", id.trim()])["node"], "t2");
    }
    done(&cluster, &["node", "cordon", "t2"]);
    let id = done(&cluster, &[&["submit"], &task[..]].concat());
    let shown = done(&cluster, &["explain", id.trim()]);
    let args = "allows no network host for crun: set [executor.crun] networks = [\"none\", \"host\"]";
    assert!(shown.lines().any(|line| line.contains("t1") && line.contains(args)), "{shown}");
    assert!(shown.contains("stint node resume t2"), "{shown}");
    done(&cluster, &["node", "resume", "t2"]);
    done(&cluster, &["wait", id.trim()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_what_was_used_are_shown() {
    let cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let file = cluster.root.path().join("task.toml");
    std::fs::write(
        &file,
        "class = \"cpu_short\"\nname = \"limited\"\nmemory = \"128MiB\"\npids = 40\nshm_size = \"1MiB\"\nworkdir = \"src\"\n\
         command = [\"perl\", \"-e\", \"my $x = ''; vec($x, (64 << 20) - 1, 8) = 1; while ((times)[0] + (times)[1] < 0.3) {}; print `pwd`\"]\n",
    )
    .unwrap();
    let file = file.display().to_string();
    done(&cluster, &["submit", "-f", &file, "--pids", "50"]);
    done(&cluster, &["wait", "limited"]);
    assert_eq!(done(&cluster, &["logs", "--stdout", "limited"]), "/tmp/work/src\n");

    let shown = done(&cluster, &["status", "limited"]);
    assert!(shown.contains("pids 50, shm 1MiB, workdir src"), "flags win over the file: {shown}");
    assert!(shown.contains("used") && shown.contains("memory "), "{shown}");
    let status = json(&cluster, &["status", "limited", "-o", "json"]);
    assert_eq!(status["limits"]["pids"], 50);
    let metrics = &json(&cluster, &["result", "limited"])["result"]["metrics"];
    let (cpu, peak) = (metrics["cpu_ms"].as_u64().unwrap(), metrics["peak_memory_bytes"].as_u64().unwrap());
    assert!((280..700).contains(&cpu), "{metrics}");
    assert!((64 << 20..=100 << 20).contains(&peak), "{metrics}");
    assert_eq!(status["outcome"]["usage"]["cpu_ms"], cpu);

    let refused = [
        (["--pids", "15"], "pids: 15 is outside 16 to"),
        (["--network", "bridge"], "unknown network \"bridge\": use one of none, host"),
        (["--workdir", "../up"], "workdir: \"../up\""),
        (["--tmp-size", "0"], "tmp_size: is under"),
    ];
    for (flag, part) in refused {
        let (code, _, err) = stint(&cluster, &["submit", flag[0], flag[1], "--", "true"]);
        assert!(code != 0 && err.contains(part), "{flag:?}: {err}");
    }
}

async fn until_version(client: &Client, version: u32) {
    let until = Instant::now() + PATIENCE;
    while client.cluster_status().await.unwrap().cluster_version != version {
        assert!(Instant::now() < until, "the cluster does not speak version {version}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The log of a cluster that speaks an earlier version holds nothing that its peers do not understand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_usage_and_comments_wait_for_the_last_peer_of_an_upgrade() {
    let capped = |place| if place == 0 { "[cluster]\nmax_version = 3\n".into() } else { String::new() };
    let mut cluster = Cluster::start(Setup { peers: 2, more: capped, ..Setup::default() }).await;
    let client = cluster.client();
    until_version(&client, 3).await;
    let id = done(&cluster, &["submit", "-o", "quiet", "--", "true"]);
    done(&cluster, &["wait", id.trim()]);
    assert_eq!(json(&cluster, &["result", id.trim()])["result"]["metrics"], Value::Null);
    for flag in [["--pids", "20"], ["--comment", "why"]] {
        let (code, _, err) = stint(&cluster, &["submit", flag[0], flag[1], "--", "true"]);
        assert!(code != 0 && err.contains("until every peer is upgraded: t1 speaks 3"), "{flag:?}: {err}");
    }

    cluster.peers[0].kill().await;
    cluster.peers[0].edit("max_version = 3\n", "");
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    until_version(&client, version::CURRENT.0).await;
    cluster.all_ready().await;
    // The second node did not start anew: it is asked again what it allows.
    done(&cluster, &["node", "cordon", "t1"]);
    let flags = ["--pids", "20", "--comment", "for week 48"];
    let id = done(&cluster, &[&["submit", "-o", "quiet"], &flags[..], &["--", "true"]].concat());
    done(&cluster, &["wait", id.trim(), "--timeout", "30s"]);
    let status = json(&cluster, &["status", "-o", "json", id.trim()]);
    let result = json(&cluster, &["result", id.trim()]);
    assert_eq!([&status["comment"], &result["comment"]], ["for week 48", "for week 48"]);
    assert_eq!(result["node"], "t2");
    assert!(result["result"]["metrics"]["cpu_ms"].is_u64(), "{result}");
}

/// The second node lets tasks see a folder.
fn data_on_the_second(place: usize) -> String {
    if place == 1 { "[executor.mounts]\nreadable = [\"/usr/share\"]\n".into() } else { String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_where_its_folder_may_be_mounted_and_explain_names_who_does_not() {
    let runtimes = "\"crun\"";
    let cluster =
        Cluster::start(Setup { peers: 2, runtimes, more: data_on_the_second, ..Setup::default() }).await;
    let file = cluster.root.path().join("task.toml");
    let task = "class = \"cpu_long\"\nmemory = \"64MiB\"\nmounts = [\"/usr/share:/in\"]\ncommand = [\"ls\", \"-d\", \"/in/doc\"]\n";
    std::fs::write(&file, task).unwrap();
    let file = file.display().to_string();
    let submit = ["submit", "-o", "quiet", "-f", &file];
    for _ in 0..3 {
        let id = done(&cluster, &submit);
        done(&cluster, &["wait", id.trim()]);
        assert_eq!(json(&cluster, &["result", id.trim()])["node"], "t2");
        assert_eq!(done(&cluster, &["logs", "--stdout", id.trim()]), "/in/doc\n");
        assert!(done(&cluster, &["status", id.trim()]).contains("mount /usr/share:/in"));
    }
    // Flags win over the file. No node lets it write there.
    let id = done(&cluster, &[&submit[..], &["--mount", "/usr/share:/in:rw"]].concat());
    let shown = done(&cluster, &["explain", id.trim()]);
    for node in ["t1", "t2"] {
        let args = "does not let tasks of crun write in /usr/share: let its operator add it to [executor.mounts] writable";
        assert!(shown.lines().any(|line| line.contains(node) && line.contains(args)), "{shown}");
    }
    done(&cluster, &["cancel", id.trim()]);
    let refused = [
        ("relative:/in", "mounts: \"relative\" is not absolute"),
        ("/usr:/proc/x", "/proc is the container's own"),
        ("/usr:", "SOURCE[:TARGET][:rw]"),
    ];
    for (mount, part) in refused {
        let (code, _, err) = stint(&cluster, &["submit", "--mount", mount, "--", "true"]);
        assert!(code != 0 && err.contains(part), "{mount:?}: {err}");
    }
}
