//! What others named steers no terminal, and what a program wrote is copied as it is.

use stint_sdk::v1;
use tonic::Status;

use crate::World;
use crate::fake::{chunk, finished, running};

/// What a task, a node or another user could name to steer the terminal of whoever looks, or to forge a line.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\u{202e}y\u{2066}\u{7f}\rz\nstint: forged";

/// A peer all of whose names and messages are hostile.
fn hostile() -> World {
    let text = || HOSTILE.to_owned();
    let mut task = finished(running("t", 2), "start_failed", 125);
    (task.name, task.comment, task.node_name, task.class) = (text(), text(), text(), text());
    task.command = vec![text(), text()];
    let outcome = task.outcome.as_mut().unwrap();
    outcome.message = text();
    let blob = Some(v1::Blob::default());
    outcome.outputs = vec![v1::KeptFile { path: text(), blob, stored: true, executable: false, gone: false }];
    outcome.not_kept = vec![v1::NotKept { path: text(), reason: text() }];
    let (end, message, node_name) = (text(), text(), text());
    let gpus = vec![text()];
    task.attempt_records =
        vec![v1::Attempt { number: 1, end, message, node_name, gpus, ..Default::default() }];
    let world = World::with_task([task.clone()]);
    let fake = &world.fake;
    *fake.tasks.lock().unwrap() = vec![v1::Task { state: "running".into(), ..task }];
    let gpu = v1::Gpu { id: text(), model: text(), state: text(), holder: text(), ..Default::default() };
    *fake.nodes.lock().unwrap() = vec![v1::Node {
        id: 1,
        name: text(),
        address: text(),
        state: "draining".into(),
        gpus: vec![gpu],
        runtimes: vec![text()],
        labels: [(text(), text())].into(),
        problems: vec![text()],
        ..Default::default()
    }];
    let peer = v1::Peer { id: 1, name: text(), address: text(), role: text(), ..Default::default() };
    let held_back_by = vec![v1::HeldBack { name: text(), speaks: 1 }];
    *fake.cluster.lock().unwrap() = v1::ClusterStatusReply {
        cluster: text(),
        peers: vec![peer],
        alarms: vec![text()],
        held_back_by,
        ..Default::default()
    };
    let reason = v1::NodeReason { node_id: 1, node_name: text(), missing: vec![text()] };
    *fake.explain.lock().unwrap() =
        v1::ExplainReply { summary: text(), nodes: vec![reason], advice: vec![text()], ..Default::default() };
    let (description, reference) = (text(), text());
    let image =
        v1::Image { name: "tool".into(), description, reference, nodes: vec![text()], ..Default::default() };
    *fake.images.lock().unwrap() = vec![image];
    *fake.result.lock().unwrap() = serde_json::json!({ "message": HOSTILE }).to_string();
    *fake.warning.lock().unwrap() = text();
    world
}

/// Nothing of it steers, and no line is forged.
fn prove_tame(args: &[&str], said: &str) {
    let steers = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}".contains(c));
    assert!(!said.chars().any(steers), "{args:?}: {said:?}");
    assert!(!said.lines().any(|line| line.starts_with("stint: forged")), "{args:?}: {said}");
}

#[tokio::test]
async fn what_others_named_steers_no_terminal() {
    let commands: [(&[&str], &str); 15] = [
        (&["ps", "--all"], "table json"),
        (&["status", "t"], "table json"),
        (&["outputs", "t"], "table json quiet"),
        (&["explain", "t"], "table json"),
        (&["wait", "t"], "table json"),
        (&["cancel", "t"], "table json"),
        (&["result", "t"], "table"),
        (&["nodes"], "table json"),
        (&["node", "status", "1"], "table json"),
        (&["node", "drain", "a"], "table json"),
        (&["cluster", "status"], "table json"),
        (&["image", "ls"], "table json"),
        (&["image", "show", "tool"], "table json"),
        (&["submit", "--", "true"], "table json quiet"),
        (&["run", "--", "true"], "table"),
    ];
    for (args, formats) in commands {
        for format in formats.split(' ') {
            let done = hostile().stint(&[args, &["-o", format]].concat()).await;
            let shown = if args[0] == "submit" || args[0] == "run" { &done.stderr } else { &done.stdout };
            assert!(
                shown.contains(r"\u{1b}[2J") || shown.contains(r"\u001b[2J"),
                "{args:?}: {shown}{}",
                done.stderr
            );
            prove_tame(args, &done.stdout);
            prove_tame(args, &done.stderr);
        }
    }
    let world = hostile();
    world.fake.fail_next([Status::invalid_argument(HOSTILE)]);
    let done = world.stint(&["ps"]).await;
    assert!(done.code == 1 && done.stderr.contains(r"\u{9b}31m"), "{}", done.stderr);
    prove_tame(&["a refusal"], &done.stderr);
}

/// The other side of it: a program's output is the program's.
#[tokio::test]
async fn what_a_program_wrote_is_not_escaped() {
    let world = hostile();
    let script = || vec![chunk("stdout", 0, HOSTILE), chunk("stderr", 0, HOSTILE)];
    world.fake.logs.lock().unwrap().extend([script(), script()]);
    let done = world.stint(&["logs", "--attempt", "1", "t"]).await;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), (HOSTILE, HOSTILE));
    let done = world.stint(&["run", "--", "true"]).await;
    assert_eq!(done.stdout, HOSTILE);
    // The words of the command beside it are not the program's.
    assert_eq!(done.stderr.matches(HOSTILE).count(), 1, "{:?}", done.stderr);
}
