//! Workflow instances: each thing that is asked about one keeps its number, and a snapshot with instances is read.

use std::collections::BTreeMap;

use stint_protocol::*;
use stint_scheduler::*;

use crate::snapshots::with_access_token;
use crate::stored::{Stored, assert_same};
use crate::tasks::{blob, submit};

fn id() -> InstanceId {
    InstanceId::new("order-7@shop").unwrap()
}

fn checkpoint(text: &str) -> CheckpointId {
    CheckpointId::given(text).unwrap()
}

fn payload(text: &str) -> Payload {
    Payload::inline(text.as_bytes()).unwrap()
}

fn launch(attempt: u32) -> Writer {
    Writer::Launch(LeaseId { task: TaskId(40 << 16), attempt })
}

fn command(number: u64, by: Writer, act: InstanceAct) -> InstanceCommand {
    InstanceCommand { id: id(), request: number, by, holders: vec![NodeId(2)], act }
}

pub fn start() -> InstanceCommand {
    let spec = SharedSpec::new(TaskSpec { priority: 40, ..TaskSpec::clone(&submit(None, None).spec) });
    let (first, key) = (TaskId(40 << 16), None);
    let submit = Submit { first, count: 1, name: None, key, key_made_ms: None, spec, ..submit(None, None) };
    let env: BTreeMap<String, String> = [("STAGE".into(), "test".into())].into();
    let start = StartInstance { submit, input: Some(Payload::Blob(blob(8))), env };
    command(0x1001, Writer::Outside, InstanceAct::Start(Box::new(start)))
}

fn event(kind: EventKind, subtype: Option<&str>, payload: Payload) -> InstanceEvent {
    let (subtype, checkpoint) = (subtype.map(String::from), Some(checkpoint("charge")));
    InstanceEvent { kind, subtype, checkpoint, payload, at: TimeMs(1_790_000_000_777) }
}

/// One of each, by name; the number in a file's name is the act's.
fn acts() -> Vec<(&'static str, InstanceCommand)> {
    let failed = FailedTry { number: 2, error: Some("connection refused".into()) };
    let events = vec![
        event(EventKind::Custom, Some("charged"), payload("{\"sum\":7}")),
        event(EventKind::Completed, None, payload("done")),
    ];
    let tenant = Tenant::new("team-7").unwrap();
    vec![
        ("start", start()),
        (
            "register",
            command(2, launch(1), InstanceAct::Register { tenant, checkpoint: Some(checkpoint("charge")) }),
        ),
        (
            "save",
            command(
                3,
                launch(1),
                InstanceAct::Save { checkpoint: checkpoint("charge"), state: payload("7") },
            ),
        ),
        (
            "report-try",
            command(4, launch(1), InstanceAct::ReportTry { checkpoint: checkpoint("ship"), failed }),
        ),
        ("record", command(5, launch(1), InstanceAct::Record { events })),
        (
            "sleep",
            command(
                6,
                launch(1),
                InstanceAct::Sleep {
                    checkpoint: checkpoint("tick"),
                    state: payload(""),
                    duration_ms: 90_000,
                },
            ),
        ),
        (
            "signal",
            command(
                7,
                Writer::Outside,
                InstanceAct::Signal { kind: SignalKind::Pause, payload: payload("why") },
            ),
        ),
        ("acknowledge", command(8, launch(1), InstanceAct::Acknowledge(SignalKind::Pause))),
        (
            "send-custom",
            command(
                9,
                Writer::Outside,
                InstanceAct::SendCustom { checkpoint: checkpoint("approve"), payload: payload("yes") },
            ),
        ),
        ("take-custom", command(10, launch(1), InstanceAct::TakeCustom(checkpoint("approve")))),
        ("stop", command(11, Writer::Outside, InstanceAct::Stop { grace_ms: Some(5_000) })),
        ("resume", command(12, Writer::Outside, InstanceAct::Resume)),
        ("hibernate", command(13, launch(1), InstanceAct::Hibernate { calls: 7 })),
        ("fail-silent", command(14, Writer::Outside, InstanceAct::FailSilent { calls: 7 })),
    ]
}

/// The names of all files of this module.
pub fn files() -> Vec<String> {
    let acts = acts().into_iter().enumerate();
    let mut files: Vec<String> = acts.map(|(number, (name, _))| file(number, name)).collect();
    files.extend(["instances-snapshot.cbor".into(), "instances-record-ends.cbor".into()]);
    files
}

fn file(number: usize, name: &str) -> String {
    format!("instance-{number}-{name}.cbor")
}

#[test]
fn what_is_asked_about_instances_keeps_its_number_and_is_read_as_it_was_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    for (number, (name, command)) in acts().into_iter().enumerate() {
        let bytes = minicbor::to_vec(&command.act).unwrap();
        let mut decoder = minicbor::Decoder::new(&bytes);
        // An act without fields is its number and an empty list.
        let found = decoder.array().and_then(|_| decoder.u32()).unwrap();
        assert_eq!(found as usize, number, "{name}");
        folder.check(&file(number, name), &Command::Instance(Box::new(command)));
    }
}

#[test]
fn instances_need_version_5() {
    for (name, command) in acts() {
        assert_eq!(Command::Instance(Box::new(command)).needs(), version::INSTANCES, "{name}");
    }
    let lease = LeaseId { task: TaskId(40 << 16), attempt: 1 };
    let ends = left_ends(lease);
    for end in &ends {
        assert_eq!(
            Command::RecordEnds { node: NodeId(2), ends: vec![end.clone()] }.needs(),
            version::INSTANCES
        );
    }
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    folder.check("instances-record-ends.cbor", &Command::RecordEnds { node: NodeId(2), ends });
}

fn left_ends(lease: LeaseId) -> Vec<AttemptEnd> {
    let left = [
        LeftResult::Completed(Some(payload("{}"))),
        LeftResult::Failed("no such order".into()),
        LeftResult::Suspended,
        LeftResult::Sleeping { checkpoint: checkpoint("tick"), wake_after_ms: 60_000 },
        LeftResult::Cancelled,
    ];
    let end = |kind, left| AttemptEnd { left, ..AttemptEnd::new(lease, kind, String::new(), 5) };
    let mut ends: Vec<AttemptEnd> =
        left.map(|left| end(EndKind::Exited(0), Some(Box::new(left)))).into_iter().collect();
    ends.push(end(EndKind::Cut, None));
    ends
}

/// The state of before, with one instance that waits, one that sleeps in its program, outside, and one that has ended.
fn with_instances() -> State {
    let mut state = with_access_token();
    let mut run = |id: &str, number, act| {
        let id = InstanceId::new(id).unwrap();
        let (by, holders) = (Writer::Outside, vec![NodeId(2)]);
        let command = InstanceCommand { id, request: number, by, holders, act };
        let now = state.time();
        let command = Command::Instance(Box::new(command));
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    };
    run("order-7@shop", 0x1001, start().act);
    run("order-7@shop", 2, acts()[8].1.act.clone());
    run("order-7@shop", 3, acts()[6].1.act.clone());
    for (id, number) in [("out-1", 10), ("out-2", 30)] {
        let tenant = Tenant::new("team-7").unwrap();
        run(id, number, InstanceAct::Register { tenant, checkpoint: None });
        for at in [2, 3, 5] {
            run(id, number + at, acts()[at as usize].1.act.clone());
        }
    }
    run("out-2", 40, acts()[4].1.act.clone());
    state
}

#[test]
fn a_snapshot_with_instances_is_read_and_written_as_it_was_stored() {
    let name = "instances-snapshot.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_instances()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    assert!(same(&state, &with_instances()));
    let find = |id: &str| state.instance_named(&InstanceId::new(id).unwrap()).unwrap();
    let (waits, sleeps, ended) = (find("order-7@shop"), find("out-1"), find("out-2"));
    let instance = state.instance(waits).unwrap();
    assert_eq!(instance.given.input, Some(Payload::Blob(blob(8))));
    assert_eq!(instance.pending_signal().unwrap().payload, payload("why"));
    assert_eq!(state.custom_signal(waits, &checkpoint("approve")).unwrap().payload, payload("yes"));
    let until = state.time().plus(90_000);
    assert_eq!(state.sleep(sleeps, &checkpoint("tick")).unwrap().until, Some(until));
    let ids: Vec<String> = state.checkpoints_of(sleeps).map(|(id, _)| id.to_string()).collect();
    assert_eq!(ids, ["tick", "ship::retry::2", "charge"]);
    let instance = state.instance(ended).unwrap();
    assert_eq!((instance.state, &instance.output), (InstanceState::Completed, &Some(payload("done"))));
    let kinds: Vec<&str> = state.events_of(ended).map(|(_, event)| event.kind.as_str()).collect();
    assert_eq!(kinds, ["completed", "custom", "started"]);
    assert_same(name, &encode_snapshot(&state), &stored);
}
