//! Workflow instances in scripts: `flow ID WHAT …`, and `again` for the same request once more. `by` is an attempt of the
//! instance's task, or `out` for a program outside.

use stint_protocol::*;
use stint_scheduler::*;

use super::Story;

/// The requests of a script.
#[derive(Default)]
pub struct Flows {
    requests: u64,
    last: Option<InstanceCommand>,
}

/// The command of a line; none: it only shows something.
pub fn command(story: &mut Story, args: &[&str]) -> Option<Command> {
    if args[0] == "again" {
        return story.flows.last.clone().map(|command| Command::Instance(Box::new(command)));
    }
    let (id, what, rest) = (InstanceId::new(args[1]).unwrap(), args[2], &args[3..]);
    let by = |word: &str| writer(&story.state, &id, word);
    let (by, act) = match what {
        "start" => (Writer::Outside, start(story)),
        "register" => {
            let checkpoint = rest.get(1).map(|id| checkpoint(id));
            (by(rest[0]), InstanceAct::Register { tenant: Tenant::default_tenant(), checkpoint })
        }
        "save" => {
            let (checkpoint, state) = (checkpoint(rest[1]), payload(rest[2]));
            (by(rest[0]), InstanceAct::Save { checkpoint, state })
        }
        "sleep" => {
            let (checkpoint, duration_ms) = (checkpoint(rest[1]), rest[2].parse().unwrap());
            (by(rest[0]), InstanceAct::Sleep { checkpoint, state: Payload::empty(), duration_ms })
        }
        "event" => {
            let payload = rest.get(2).map_or(Payload::empty(), |text| payload(text));
            let (kind, at) = (event(rest[1]), TimeMs(7));
            let event = InstanceEvent { kind, subtype: None, checkpoint: None, payload, at };
            (by(rest[0]), InstanceAct::Record { events: vec![event] })
        }
        "ack" => (by(rest[0]), InstanceAct::Acknowledge(signal(rest[1]))),
        "take" => (by(rest[0]), InstanceAct::TakeCustom(checkpoint(rest[1]))),
        "hibernate" => {
            let no = story.state.instance_named(&id).unwrap();
            let seen = story.state.instance(no).unwrap().calls;
            let calls = rest.get(1).map_or(seen, |calls| calls.parse().unwrap());
            (by(rest[0]), InstanceAct::Hibernate { calls })
        }
        "signal" => {
            (Writer::Outside, InstanceAct::Signal { kind: signal(rest[0]), payload: Payload::empty() })
        }
        "send" => {
            let (checkpoint, payload) = (checkpoint(rest[0]), payload(rest[1]));
            (Writer::Outside, InstanceAct::SendCustom { checkpoint, payload })
        }
        "stop" => (Writer::Outside, InstanceAct::Stop { grace_ms: None }),
        "resume" => (Writer::Outside, InstanceAct::Resume),
        other => panic!("no such thing is asked of an instance: {other}"),
    };
    story.flows.requests += 1;
    let command = InstanceCommand { id, request: story.flows.requests, by, holders: Vec::new(), act };
    story.flows.last = Some(command.clone());
    Some(Command::Instance(Box::new(command)))
}

/// `flows`: every instance that is known.
pub fn show(state: &State) -> String {
    let one = |(no, it): (InstanceNo, std::sync::Arc<Instance>)| {
        let steps: Vec<String> = state.checkpoints_of(no).map(|(id, _)| id.to_string()).collect();
        let events: Vec<&str> = state.events_of(no).map(|(_, event)| event.kind.as_str()).collect();
        let end = it.error.clone().or(it.output.as_ref().map(|output| format!("{output:?}")));
        let (steps, events) = (steps.join(" "), events.join(" "));
        format!("  {} {:?} {}, steps [{steps}], events [{events}]", it.id, it.state, end.unwrap_or_default())
    };
    state.instances().map(one).collect::<Vec<_>>().join("\n")
}

fn start(story: &mut Story) -> InstanceAct {
    let spec = TaskSpec::new(Class::CpuLong, vec!["flow".into()]);
    let spec = spec.resolve(story.state.settings().class(Class::CpuLong)).unwrap();
    story.submits += 1;
    let submit = Submit {
        tenant: Tenant::default_tenant(),
        first: TaskId(story.submits << 16),
        count: 1,
        name: None,
        spec: SharedSpec::new(spec),
        key: None,
        digest: 0,
        key_made_ms: None,
    };
    InstanceAct::Start(Box::new(StartInstance { submit, input: None, env: Default::default() }))
}

fn writer(state: &State, id: &InstanceId, word: &str) -> Writer {
    let Ok(attempt) = word.parse() else { return Writer::Outside };
    let instance = state.instance_named(id).and_then(|no| state.instance(no)).unwrap();
    Writer::Launch(LeaseId { task: instance.task.unwrap_or(TaskId(7 << 16)), attempt })
}

fn checkpoint(word: &str) -> CheckpointId {
    CheckpointId::given(word).unwrap()
}

fn payload(text: &str) -> Payload {
    Payload::inline(text.as_bytes()).unwrap()
}

fn signal(word: &str) -> SignalKind {
    let all = [SignalKind::Cancel, SignalKind::Pause, SignalKind::Resume];
    all.into_iter().find(|kind| kind.as_str() == word).unwrap()
}

fn event(word: &str) -> EventKind {
    let all = [EventKind::Completed, EventKind::Failed, EventKind::Suspended, EventKind::Custom];
    all.into_iter().find(|kind| kind.as_str() == word).unwrap()
}
