//! The JSON of each document, held against what is stored: programs read it, so that it never changes but by further
//! keys. `STINT_BLESS=1` writes a file that is not there yet, and never one that is.

use std::path::Path;

use serde::Serialize;
use stint_sdk::v1;

use super::{ClusterView, ExplainView, ImageView, NodeView, TaskView};

fn check(name: &str, document: &impl Serialize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/stored/api").join(name);
    let today = serde_json::to_string_pretty(document).unwrap() + "\n";
    if !path.exists() && std::env::var_os("STINT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &today).unwrap();
    }
    let stored = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; STINT_BLESS=1 stores it", path.display()));
    assert_eq!(today, stored, "{name} is shown otherwise than it is stored");
}

fn attempt(number: u32, end: &str) -> v1::Attempt {
    v1::Attempt {
        number,
        node_id: 2,
        node_name: "b".into(),
        started_at_ms: 2_000,
        ended_at_ms: if end.is_empty() { 0 } else { 3_000 },
        end: end.into(),
        message: if end == "lost" { "node b was lost".into() } else { String::new() },
        gpus: vec!["GPU-1".into()],
    }
}

fn waiting() -> v1::Task {
    v1::Task {
        id: "0190a1b2-0000-7000-8000-000000000001".into(),
        tenant: "default".into(),
        class: "cpu_short".into(),
        state: "queued".into(),
        submitted_at_ms: 1_000,
        command: vec!["/bin/true".into()],
        priority: 50,
        cpu_milli: 500,
        memory_bytes: 64 << 20,
        ..v1::Task::default()
    }
}

fn running() -> v1::Task {
    let mount = |source: &str, target: &str, writable| v1::HostMount {
        source: source.into(),
        target: target.into(),
        writable,
    };
    v1::Task {
        name: "train-7".into(),
        class: "gpu".into(),
        state: "running".into(),
        not_before_ms: 1_500,
        attempts: 2,
        node_id: 2,
        node_name: "b".into(),
        attempt_records: vec![attempt(1, "lost"), attempt(2, "")],
        command: vec!["python3".into(), "train it.py".into()],
        limits: Some(v1::TaskLimits {
            pids: Some(64),
            swap_bytes: Some(0),
            tmp_bytes: Some(1 << 20),
            shm_bytes: Some(1 << 30),
            network: "none".into(),
            working_dir: "src".into(),
            mounts: vec![mount("/data", "", false), mount("/sets", "/in", true)],
        }),
        ..waiting()
    }
}

fn finished() -> v1::Task {
    let kept = |path: &str, stored| v1::KeptFile {
        path: path.into(),
        blob: Some(v1::Blob { digest: format!("sha256:{}", "07".repeat(32)), size_bytes: 9 }),
        stored,
    };
    v1::Task {
        state: "finished".into(),
        attempts: 1,
        node_id: 2,
        node_name: "b".into(),
        attempt_records: vec![attempt(1, "exited")],
        limits: Some(v1::TaskLimits::default()),
        outcome: Some(v1::Outcome {
            status: "failed".into(),
            kind: "exited".into(),
            exit_code: 3,
            message: "exit code 3".into(),
            finished_at_ms: 3_000,
            run_ms: 900,
            attempt: 1,
            outputs: vec![kept("model.bin", true), kept("log/err.txt", false)],
            usage: Some(v1::Usage {
                cpu_ms: Some(7),
                peak_memory_bytes: Some(1 << 20),
                ..v1::Usage::default()
            }),
        }),
        ..waiting()
    }
}

#[test]
fn tasks() {
    check("task-waiting.json", &TaskView::from(waiting()));
    check("task-running.json", &TaskView::from(running()));
    check("task-finished.json", &TaskView::from(finished()));
}

#[test]
fn nodes() {
    let gpu = |id: &str, state: &str, holder: &str| v1::Gpu {
        id: id.into(),
        model: "H200".into(),
        memory_bytes: 141 << 30,
        state: state.into(),
        holder: holder.into(),
    };
    let node = v1::Node {
        id: 2,
        name: "b".into(),
        address: "10.0.0.2:7001".into(),
        state: "ready".into(),
        role: "voter".into(),
        cpu_milli: 16_000,
        cpu_used_milli: 2_500,
        memory_bytes: 64 << 30,
        memory_used_bytes: 3 << 29,
        running: 2,
        slots: 128,
        gpus: vec![
            gpu("GPU-1", "leased", "0190a1b2-0000-7000-8000-000000000001#2"),
            gpu("GPU-2", "free", ""),
        ],
        runtimes: vec!["process".into(), "crun".into()],
        classes: vec!["cpu_short".into(), "gpu".into()],
        labels: [("zone".into(), "z1".into()), ("disk".into(), "fast".into())].into(),
        problems: vec!["docker is not installed".into()],
    };
    check("node.json", &NodeView::from(node));
}

#[test]
fn the_cluster() {
    let peer = |id, name: &str, role: &str, lag| v1::Peer {
        id,
        name: name.into(),
        address: format!("10.0.0.{id}:7001"),
        role: role.into(),
        lag,
    };
    let reply = v1::ClusterStatusReply {
        cluster: "stint".into(),
        node_id: 2,
        leader_id: 1,
        term: 7,
        applied_index: 99,
        peers: vec![peer(1, "a", "leader", Some(0)), peer(2, "b", "voter", None)],
        queued: 3,
        running: 2,
        finished: 1,
        version: "0.1.0".into(),
        alarms: vec!["clock of b runs ahead".into()],
        cluster_version: 3,
        held_back_by: vec![v1::HeldBack { name: "b".into(), speaks: 3 }],
    };
    check("cluster.json", &ClusterView::from(reply.clone()));
    let leaderless = v1::ClusterStatusReply { leader_id: 0, alarms: vec![], held_back_by: vec![], ..reply };
    check("cluster-leaderless.json", &ClusterView::from(leaderless));
}

#[test]
fn explanations() {
    let reason = v1::NodeReason { node_id: 2, node_name: "b".into(), missing: vec!["no free GPU".into()] };
    let reply = v1::ExplainReply {
        summary: "Waits for a GPU.".into(),
        nodes: vec![reason],
        advice: vec!["resume node a".into()],
        ahead_in_queue: 2,
    };
    check("explain.json", &ExplainView::from(reply));
}

#[test]
fn images() {
    let stored = v1::Image {
        id: "0190a1b2-0000-7000-8000-000000000007".into(),
        tenant: "default".into(),
        name: "team/tool:2".into(),
        kind: "executable".into(),
        digest: format!("sha256:{}", "07".repeat(32)),
        size_bytes: 5 << 20,
        description: "for tests".into(),
        created_at_ms: 1_000,
        nodes: vec!["a".into(), "b".into()],
        used_by: 2,
        ..v1::Image::default()
    };
    check("image-stored.json", &ImageView::from(stored.clone()));
    let docker = v1::Image {
        kind: "docker".into(),
        digest: String::new(),
        size_bytes: 0,
        reference: "ghcr.io/team/web:1".into(),
        nodes: vec![],
        ..stored
    };
    check("image-docker.json", &ImageView::from(docker));
}
