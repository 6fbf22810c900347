//! The result document, held against what is stored: programs read it, so that it never changes but by further keys.
//! `STINT_BLESS=1` writes a file that is not there yet, and never one that is.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use stint_protocol::api::TaskResult;
use stint_protocol::{
    AttemptEnd, Blob, Class, Digest, EndKind, GpuId, GpuInfo, Incarnation, KeptFile, LeaseId, NodeId,
    NodeOffer, Nonce, Resources, Runtime, SharedSpec, TaskId, TaskName, TaskSpec, Tenant, TimeMs, Usage,
    version,
};
use stint_scheduler::{
    Admit, Command, KeepBlob, PlanInput, RegisterNode, Settings, StampedCommand, State, Submit, apply, plan,
};

use super::document;
use super::last_words::{LastWords, Tail};

const TASK: TaskId = TaskId(0x0190_a1b2_0000_7000_8000_0000_0001_0000);

fn check(name: &str, result: &TaskResult) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/stored/api").join(name);
    let today = format!("{:#}\n", serde_json::to_value(result).unwrap());
    if !path.exists() && std::env::var_os("STINT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &today).unwrap();
    }
    let stored = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; STINT_BLESS=1 stores it", path.display()));
    assert_eq!(today, stored, "{name} is shown otherwise than it is stored");
}

struct World {
    state: State,
    now: u64,
}

impl World {
    /// One node, and one task that waits.
    fn with(spec: TaskSpec, name: Option<&str>) -> Self {
        let mut world = Self { state: State::default(), now: 1_000 };
        world.apply(Command::Configure(Settings::default()));
        let (name_of_node, address) = ("a".into(), "10.0.0.1:7001".into());
        let speaks = version::CURRENT;
        world.apply(Command::Admit(Admit {
            disk: [1; 16],
            name: name_of_node,
            address,
            token: None,
            speaks,
        }));
        let gpu = GpuInfo {
            id: GpuId::new("GPU-1").unwrap(),
            model: "H200".into(),
            memory_bytes: 1 << 30,
            index: 0,
        };
        let offer = NodeOffer {
            resources: Resources { cpu_milli: 8_000, memory_bytes: 64 << 30 },
            gpus: vec![gpu],
            runtimes: vec![Runtime::Process, Runtime::Crun],
            classes: Class::ALL.to_vec(),
            slots: 8,
            ..NodeOffer::default()
        };
        let (node, incarnation, nonce) = (NodeId(1), Incarnation(1), Nonce(1));
        world.apply(Command::RegisterNode(RegisterNode {
            node,
            incarnation,
            nonce,
            offer,
            problems: vec![],
        }));
        let spec = spec.clone().resolve(world.state.settings().class(spec.class)).unwrap();
        world.apply(Command::Submit(Submit {
            tenant: tenant(),
            first: TASK,
            count: 1,
            name: name.map(|name| TaskName::new(name).unwrap()),
            spec: SharedSpec::new(spec),
            key: None,
            digest: 1,
            key_made_ms: None,
        }));
        world
    }

    fn apply(&mut self, command: Command) {
        self.now += 1_000;
        apply(&mut self.state, StampedCommand { now: TimeMs(self.now), command }).unwrap();
    }

    /// The cluster has bytes that attempts leave.
    fn keep(&mut self, blob: Blob) {
        let keep = KeepBlob { tenant: tenant(), blob, keep_ms: 60_000, holders: vec![NodeId(1)] };
        let now = TimeMs(self.now);
        apply(&mut self.state, StampedCommand { now, command: Command::KeepBlob(keep) }).unwrap();
    }

    fn start(&mut self) {
        let plan = plan(&self.state, &PlanInput { reachable: BTreeSet::from([NodeId(1)]) });
        self.apply(Command::CommitPlan(plan));
        assert!(self.state.task(TASK).unwrap().leased().is_some());
    }

    fn end(&mut self, attempt: u32, end: impl FnOnce(LeaseId) -> AttemptEnd) {
        let lease = LeaseId { task: TASK, attempt };
        self.apply(Command::RecordEnds { node: NodeId(1), ends: vec![end(lease)] });
    }

    fn check(&self, name: &str, (stdout, stderr): (Tail, Tail), progress: Value) {
        self.check_all(name, LastWords { stdout, stderr, progress, ..LastWords::default() });
    }

    fn check_all(&self, name: &str, last_words: LastWords) {
        check(name, &document(&self.state, TASK, last_words).unwrap());
    }
}

fn tenant() -> Tenant {
    Tenant::new("team-7").unwrap()
}

fn kept(path: &str, byte: u8, stored: bool) -> KeptFile {
    let blob = Blob { digest: Digest::from_bytes([byte; 32]), size: 9 };
    KeptFile { path: path.into(), blob, stored, executable: None, pinned: None }
}

fn tail(text: &str) -> Tail {
    Tail { text: Some(text.into()), truncated: false, problem: None }
}

fn spec(class: Class) -> TaskSpec {
    TaskSpec::new(class, vec!["/bin/true".into()])
}

#[test]
fn of_a_task_that_waits_and_then_runs() {
    let comment = Some("for the report of week 48".into());
    let mut world = World::with(TaskSpec { comment, ..spec(Class::Gpu) }, Some("train-7"));
    world.check("result-waiting.json", Default::default(), Value::Null);
    world.start();
    let away =
        Tail { problem: Some("node a keeps this output and cannot be asked now".into()), ..Tail::default() };
    let progress = json!({ "percent": 12.5, "step": "fit", "metrics": { "loss": 0.5 } });
    world.check("result-running.json", (tail("begun\n"), away), progress);
}

#[test]
fn of_a_task_that_succeeded_with_outputs() {
    let mut world = World::with(spec(Class::CpuShort), None);
    world.start();
    world.keep(kept("model.bin", 7, true).blob);
    let outputs: Box<[KeptFile]> = Box::new([kept("model.bin", 7, true), kept("log/err.txt", 8, false)]);
    let usage = Usage { cpu_ms: Some(7), peak_memory_bytes: Some(1 << 20), ..Usage::default() };
    world.end(1, |lease| AttemptEnd {
        outputs: Some(outputs),
        usage: Some(Box::new(usage)),
        ..AttemptEnd::new(lease, EndKind::Exited(0), String::new(), 900)
    });
    let cut = Tail { truncated: true, ..tail("the end of much\n") };
    world.check("result-succeeded.json", (cut, tail("")), Value::Null);
}

/// What the first attempt left is told with it. What nobody has is said to be gone.
#[test]
fn of_a_task_that_was_tried_again() {
    let mut spec = spec(Class::CpuShort);
    spec.retry.retry_failures = true;
    let mut world = World::with(spec, None);
    world.start();
    world.keep(kept("half", 7, true).blob);
    let left = |files: Vec<KeptFile>, kind| {
        move |lease| AttemptEnd {
            outputs: Some(files.into()),
            ..AttemptEnd::new(lease, kind, String::new(), 900)
        }
    };
    let first = vec![kept("half", 7, true), kept("lost", 8, true), kept("log", 9, false)];
    world.end(1, left(first, EndKind::Exited(3)));
    world.now += 60_000;
    world.apply(Command::Tick);
    world.start();
    world.end(2, left(vec![kept("whole", 6, true)], EndKind::Exited(0)));
    world.check("result-tried-again.json", Default::default(), Value::Null);
}

/// What a program says its result is, on its stdout and in files that are small JSON.
#[test]
fn of_a_task_that_says_its_result() {
    let mut world = World::with(spec(Class::CpuShort), None);
    world.start();
    world.end(1, |lease| AttemptEnd::new(lease, EndKind::Exited(0), String::new(), 900));
    let said = json!({ "score": 0.75, "answers": ["a", "b"] });
    let files = [("out/metrics.json".to_owned(), json!({ "loss": 0.5 }))].into();
    let stdout = tail("__STINT_RESULT__:{\"score\":0.75,\"answers\":[\"a\",\"b\"]}\n");
    world.check_all(
        "result-said.json",
        LastWords { stdout, stderr: tail(""), said, files, ..LastWords::default() },
    );
}

#[test]
fn of_tasks_that_failed() {
    let mut world = World::with(spec(Class::CpuShort), None);
    world.start();
    world.end(1, |lease| AttemptEnd::new(lease, EndKind::Exited(3), String::new(), 900));
    world.check("result-failed.json", (tail(""), tail("no such file\n")), Value::Null);

    let mut world = World::with(spec(Class::CpuShort), None);
    world.start();
    world.end(1, |lease| AttemptEnd::new(lease, EndKind::Signalled(11), String::new(), 900));
    world.check("result-signalled.json", Default::default(), Value::Null);
}

/// The last attempt's words are not why it ended.
#[test]
fn of_a_task_that_was_cancelled_while_it_waited_for_its_next_attempt() {
    let mut world = World::with(spec(Class::CpuShort), None);
    world.start();
    world.end(1, |lease| AttemptEnd::new(lease, EndKind::StartFailed, "the disk is full".into(), 0));
    world.check("result-retrying.json", (tail(""), tail("first try\n")), Value::Null);
    world.apply(Command::Cancel(TASK));
    world.check("result-cancelled.json", (tail(""), tail("first try\n")), Value::Null);
}
