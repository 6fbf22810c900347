//! The JSON of each document, held against what is stored: programs read it, so that it never changes but by further
//! keys. `STINT_BLESS=1` writes a file that is not there yet, and never one that is. Results, which a node makes, are held
//! by its own tests; here they are read and written back.
#![cfg(feature = "grpc")]
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stint_protocol::api::{
    Authority, Caller, Cluster, ClusterRecovered, ClusterRestored, ClusterSnapshot, Explanation, Image,
    JoinToken, JoinTokenRevoked, LeaderTransferred, ListedJoinToken, ListedTenant, ListedToken, Node,
    NodeRemoved, Settings, Task, TaskResult, Token, TokenRevoked,
};
use stint_protocol::v1;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored/api")
}

/// Holds that `message` is shown as it is stored, that what is stored is read to the same document, and that the
/// document goes back to the API as the same message.
fn check<M, D>(name: &str, message: M)
where
    M: Clone + Debug + PartialEq + From<D>,
    D: Clone + Debug + PartialEq + From<M> + Serialize + DeserializeOwned,
{
    let document = D::from(message.clone());
    let path = folder().join(name);
    let today = serde_json::to_string_pretty(&document).unwrap() + "\n";
    if !path.exists() && std::env::var_os("STINT_BLESS").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(&path, &today).unwrap();
    }
    let stored = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; STINT_BLESS=1 stores it", path.display()));
    assert_eq!(today, stored, "{name} is shown otherwise than it is stored");
    let read: D = serde_json::from_str(&stored).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(&document).unwrap(), "{name}");
    assert_eq!(M::from(document), message, "{name} is another message after its way through the document");
}

#[test]
fn stored_results_are_read_and_written_back_the_same() {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let results: Vec<PathBuf> =
        files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("result-")).collect();
    assert!(results.len() >= 7, "{results:?}");
    for path in results {
        let stored: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let read: TaskResult = serde_json::from_value(stored.clone()).unwrap();
        let is_end = matches!(read.status.as_str(), "completed" | "failed");
        assert_eq!(read.end.is_some(), is_end, "{}", path.display());
        assert_eq!(serde_json::to_value(read).unwrap(), stored, "{}", path.display());
    }
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
        ..v1::Attempt::default()
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
        comment: "for the report of week 48".into(),
        run_as_uid: 1000,
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

fn kept(path: &str, stored: bool) -> v1::KeptFile {
    v1::KeptFile {
        path: path.into(),
        blob: Some(v1::Blob { digest: format!("sha256:{}", "07".repeat(32)), size_bytes: 9 }),
        stored,
        executable: !stored,
        gone: false,
    }
}

fn tried_again() -> v1::Task {
    let gone = v1::KeptFile { gone: true, ..kept("log", true) };
    let first = v1::Attempt { outputs: vec![kept("half", true), gone], ..attempt(1, "exited") };
    let second = v1::Attempt { outputs_forgotten: 3, ..attempt(2, "lost") };
    v1::Task { attempts: 2, attempt_records: vec![first, second], ..waiting() }
}

fn finished() -> v1::Task {
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
            not_kept: vec![v1::NotKept { path: "out/pipe".into(), reason: "is a pipe".into() }],
        }),
        ..waiting()
    }
}

#[test]
fn tasks() {
    check::<_, Task>("task-waiting.json", waiting());
    check::<_, Task>("task-running.json", running());
    check::<_, Task>("task-finished.json", finished());
    check::<_, Task>("task-tried-again.json", tried_again());
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
    check::<_, Node>("node.json", node);
}

#[test]
fn the_cluster() {
    let peer = |id, name: &str, role: &str, lag| v1::Peer {
        id,
        name: name.into(),
        address: format!("10.0.0.{id}:7001"),
        role: role.into(),
        lag,
        state: if role == "leader" { role } else { "unreachable" }.into(),
        contact_ms: if role == "leader" { Some(0) } else { Some(5_300) },
        speaks: 5,
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
        can_lose: Some(0),
        outdated: None,
    };
    check::<_, Cluster>("cluster.json", reply.clone());
    let missing = "1 of 2 voters missing: b (silent for 5 s)".into();
    let outdated =
        Some(v1::Outdated { no_leader_since_ms: 1_790_000_000_000, as_of_ms: 1_789_999_999_000, missing });
    let (alarms, held_back_by, can_lose) = (vec![], vec![], None);
    let leaderless =
        v1::ClusterStatusReply { leader_id: 0, alarms, held_back_by, can_lose, outdated, ..reply };
    check::<_, Cluster>("cluster-leaderless.json", leaderless);
}

#[test]
fn who_calls() {
    let caller = v1::Caller {
        tenant: "physics".into(),
        role: "submit".into(),
        all_tenants: false,
        proof: "local_user".into(),
        uid: Some(1000),
        token_id: String::new(),
    };
    check::<_, Caller>("caller.json", caller);
}

#[test]
fn tokens() {
    let made = v1::CreateTokenReply {
        token: "stintat1-abc".into(),
        id: "00a1b2c3d4e5".into(),
        expires_at_ms: 1_790_000_000_000,
        tenant: "physics".into(),
        role: "submit".into(),
    };
    check::<_, Token>("token.json", made);
    let listed = v1::Token {
        id: "00a1b2c3d4e5".into(),
        tenant: String::new(),
        role: "operator".into(),
        expires_at_ms: 1_790_000_000_000,
        created_at_ms: 1_789_000_000_000,
        created_by: "admin (local_socket)".into(),
        comment: "nightly".into(),
    };
    check::<_, ListedToken>("listed-token.json", listed);
    let tenant = v1::Tenant {
        tenant: "physics".into(),
        max_priority: 80,
        weight: 3,
        uid: 200_000,
        unfinished: 2,
        finished: 40,
        images: 1,
        tokens: 1,
        allowed_images: vec!["ghcr.io/team-7/*".into()],
        dedicated: true,
    };
    check::<_, ListedTenant>("listed-tenant.json", tenant);
    check_document("token-revoked.json", &TokenRevoked { revoked: "00a1b2c3d4e5".into() });
}

#[test]
fn a_certificate_authority() {
    let changing = v1::Authority {
        cluster_id: "3f2a9c01d2e4b5a6".into(),
        fingerprint: "0f".repeat(32),
        phase: "changing".into(),
        since_ms: Some(1_790_000_000_000),
        old_until_ms: Some(1_790_604_800_000),
        waits_for: vec!["gpu-2".into()],
    };
    check::<_, Authority>("authority.json", changing);
}

#[test]
fn what_becomes_of_members() {
    let made = v1::CreateJoinTokenReply {
        token: "stint-1-abc".into(),
        expires_at_ms: 1_790_000_000_000,
        id: "00a1b2c3d4e5".into(),
        uses: Some(1),
    };
    check::<_, JoinToken>("join-token.json", made);
    let listed = v1::JoinToken {
        id: "00a1b2c3d4e5".into(),
        expires_at_ms: 1_790_000_000_000,
        uses: Some(2),
        uses_left: Some(1),
        used_by: vec!["gpu-7".into()],
    };
    check::<_, ListedJoinToken>("listed-join-token.json", listed);
    check_document("join-token-revoked.json", &JoinTokenRevoked { revoked: "00a1b2c3d4e5".into() });
    check::<_, LeaderTransferred>("leader-transferred.json", v1::TransferLeaderReply { leader_id: 2 });
    // Its answer says nothing: the client knows which node it asked for.
    let stored = std::fs::read_to_string(folder().join("node-removed.json")).unwrap();
    let document = NodeRemoved { removed: "gpu-7".into() };
    assert_eq!(serde_json::from_str::<NodeRemoved>(&stored).unwrap(), document);
    assert_eq!(serde_json::to_string_pretty(&document).unwrap() + "\n", stored);
}

/// A document that no message carries, as it is stored.
fn check_document<D: PartialEq + Debug + Serialize + DeserializeOwned>(name: &str, document: &D) {
    let path = folder().join(name);
    let today = serde_json::to_string_pretty(document).unwrap() + "\n";
    if !path.exists() && std::env::var_os("STINT_BLESS").is_some() {
        std::fs::write(&path, &today).unwrap();
    }
    let stored = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; STINT_BLESS=1 stores it", path.display()));
    assert_eq!(today, stored, "{name} is shown otherwise than it is stored");
    assert_eq!(serde_json::from_str::<D>(&stored).unwrap(), *document, "{name}");
}

#[test]
fn files_of_a_cluster_and_what_is_made_of_them() {
    let saved = ClusterSnapshot {
        format: 1,
        size_bytes: 40_960,
        sha256: "0f".repeat(32),
        cluster: "stint".into(),
        cluster_id: "3f2a9c01d2e4b5a6".into(),
        cluster_version: 5,
        index: 1_200,
        term: 7,
        as_of_ms: 1_790_000_000_000,
        saved_at_ms: 1_790_000_000_500,
        saved_by: 2,
        version: "0.1.0".into(),
        nodes: 3,
        queued: 4,
        running: 2,
        suspended: 1,
        finished: 90,
        images: 1,
        not_in_file: vec!["private keys".into()],
    };
    check_document("cluster-snapshot.json", &saved);
    let restored = ClusterRestored {
        data_dir: "/var/lib/stint".into(),
        cluster: "stint".into(),
        cluster_id: "77e0a1b2c3d4e5f6".into(),
        node_id: 10_004,
        index: 1_001_200,
        term: 1_007,
        waits_ms: 15_350,
        from: saved,
    };
    check_document("cluster-restored.json", &restored);
    let recovered = ClusterRecovered {
        data_dir: "/var/lib/stint".into(),
        cluster: "stint".into(),
        cluster_id: Some("77e0a1b2c3d4e5f6".into()),
        node_id: 2,
        committed_index: 1_198,
        last_index: 1_200,
        uncertain: 2,
        left_out: vec!["a".into(), "c".into()],
        queued: 4,
        running: 2,
        suspended: 1,
        finished: 90,
        waits_ms: 15_350,
        old_log: "/var/lib/stint/raft".into(),
        new_authority: false,
    };
    check_document("cluster-recovered.json", &recovered);
}

#[test]
fn the_settings() {
    let changed =
        v1::ChangedSetting { key: "classes.gpu.lease_ttl".into(), from: "15s".into(), to: "30s".into() };
    let change = v1::SettingsChange {
        revision: 3,
        at_ms: 1_000,
        role: "admin".into(),
        proof: "admin_certificate".into(),
        peer: "b".into(),
        settings: vec![changed],
    };
    let cluster = v1::ClusterSettings {
        name: "stint".into(),
        placement: "spread".into(),
        keep_finished: 200_000,
        keep_finished_ms: 604_800_000,
        max_live_tasks: 1_000_000,
        lease_margin_ms: 6_800,
        kill_margin_ms: 500,
        crash_loop_losses: 3,
        keep_for_gpus: true,
        tenant_uids: "200000-265535".into(),
    };
    let class = v1::ClassSettings {
        class: "gpu".into(),
        runtimes: vec!["crun".into(), "docker".into()],
        default_timeout_ms: 600_000,
        max_timeout_ms: 700_000,
        default_cpu_milli: 2_000,
        default_memory_bytes: 4 << 30,
        default_gpus: 1,
        max_gpus: 4,
        lease_ttl_ms: 30_000,
    };
    let tenants = vec![v1::TenantSettings {
        tenant: "team-7".into(),
        max_priority: 80,
        weight: 3,
        uid: Some(200_007),
        allowed_images: vec!["ghcr.io/team-7/*".into(), "stint://tool".into()],
        dedicated: true,
    }];
    let (cluster, classes, changes) = (Some(cluster), vec![class], vec![change]);
    check::<_, Settings>("settings.json", v1::Settings { revision: 3, cluster, classes, changes, tenants });
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
    check::<_, Explanation>("explain.json", reply);
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
    check::<_, Image>("image-stored.json", stored.clone());
    let docker = v1::Image {
        kind: "docker".into(),
        digest: String::new(),
        size_bytes: 0,
        reference: "ghcr.io/team/web:1".into(),
        nodes: vec![],
        ..stored
    };
    check::<_, Image>("image-docker.json", docker);
}
