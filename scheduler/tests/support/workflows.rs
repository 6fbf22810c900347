//! Random histories of workflow instances: the first state of a step stays, an instance ends once, nobody writes for a launch
//! that is over, and nothing is left of what is forgotten.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stint_protocol::*;
use stint_scheduler::*;

use super::{Run, Step, blob, end, holding, owner, step};

/// A step of a workflow; its instance is one of three.
#[derive(Clone, Debug)]
enum Flow {
    Start {
        which: usize,
        tenant: u8,
        image: Option<u8>,
        input: u8,
    },
    Write {
        which: usize,
        by: By,
        write: Write,
    },
    Signal {
        which: usize,
        kind: usize,
    },
    Send {
        which: usize,
        id: usize,
        content: u8,
    },
    Stop(usize),
    Resume(usize),
    Hibernate {
        which: usize,
        idle: bool,
    },
    Silent(usize),
    Left {
        which: usize,
        left: usize,
    },
    CancelTask(usize),
    /// The last command once more, as it was.
    Again,
}

/// What programs ask.
#[derive(Clone, Debug)]
enum Write {
    Register { tenant: u8, at: Option<usize> },
    Save { id: usize, content: u8, stored: bool },
    Try { id: usize },
    Sleep { id: usize, ms: u64 },
    Record { kind: usize, stored: bool },
    Acknowledge(usize),
    Take(usize),
}

#[derive(Clone, Copy, Debug)]
enum By {
    Launch,
    /// One of an attempt before or behind.
    Stale,
    Outside,
}

fn flow() -> impl Strategy<Value = Flow> {
    let by = prop_oneof![12 => Just(By::Launch), 1 => Just(By::Stale), 1 => Just(By::Outside)];
    let write = prop_oneof![
        4 => (prop_oneof![8 => Just(0u8), 1 => Just(1u8)], proptest::option::weighted(0.2, 0..3usize)).prop_map(|(tenant, at)| Write::Register { tenant, at }),
        6 => (0..3usize, any::<u8>(), any::<bool>()).prop_map(|(id, content, stored)| Write::Save { id, content, stored }),
        1 => (0..3usize).prop_map(|id| Write::Try { id }),
        4 => (0..3usize, 0..50_000u64).prop_map(|(id, ms)| Write::Sleep { id, ms }),
        4 => (0..16usize, proptest::bool::weighted(0.3)).prop_map(|(kind, stored)| Write::Record { kind, stored }),
        2 => (0..3usize).prop_map(Write::Acknowledge),
        2 => (0..3usize).prop_map(Write::Take),
    ];
    let which = || 0..3usize;
    prop_oneof![
        6 => (which(), prop_oneof![8 => Just(0u8), 1 => Just(1u8)], proptest::option::weighted(0.2, 0..3u8), any::<u8>())
            .prop_map(|(which, tenant, image, input)| Flow::Start { which, tenant, image, input }),
        40 => (which(), by, write).prop_map(|(which, by, write)| Flow::Write { which, by, write }),
        6 => (which(), 0..3usize).prop_map(|(which, kind)| Flow::Signal { which, kind }),
        2 => (which(), 0..3usize, any::<u8>()).prop_map(|(which, id, content)| Flow::Send { which, id, content }),
        1 => which().prop_map(Flow::Stop),
        4 => which().prop_map(Flow::Resume),
        8 => (which(), proptest::bool::weighted(0.9)).prop_map(|(which, idle)| Flow::Hibernate { which, idle }),
        1 => which().prop_map(Flow::Silent),
        2 => (which(), 0..6usize).prop_map(|(which, left)| Flow::Left { which, left }),
        1 => which().prop_map(Flow::CancelTask),
        5 => Just(Flow::Again),
    ]
}

#[derive(Clone, Debug)]
enum Either {
    Flow(Flow),
    Step(Step),
}

fn either() -> impl Strategy<Value = Either> {
    let plan = any::<u8>().prop_map(|reachable| Step::Plan { reachable: reachable | 0b110 });
    let kinds = prop_oneof![2 => 5..7usize, 1 => Just(8usize), 1 => 0..9usize];
    let left = proptest::collection::vec(0..5u8, 0..3);
    let end =
        (0..64usize, kinds, left).prop_map(|(pick, kind, left)| Either::Step(Step::End { pick, kind, left }));
    prop_oneof![
        12 => flow().prop_map(Either::Flow),
        4 => plan.prop_map(Either::Step),
        1 => end,
        2 => (0..60_000u64).prop_map(|ms| Either::Step(Step::Wait(ms))),
        1 => step().prop_map(Either::Step),
    ]
}

fn checkpoint(id: usize) -> CheckpointId {
    CheckpointId::given(["one", "two", "tick"][id]).unwrap()
}

fn payload(content: u8, stored: bool) -> Payload {
    if stored { Payload::Blob(blob(content % 4 + 1)) } else { Payload::inline(&[content; 9]).unwrap() }
}

/// What must stay as it once was.
#[derive(Default)]
struct Kept {
    states: BTreeMap<(InstanceNo, CheckpointId), (Payload, u64)>,
    ends: BTreeMap<InstanceNo, (InstanceStatus, Option<Payload>, Option<String>)>,
}

struct Flows {
    run: Run,
    kept: Kept,
    requests: u64,
    last: Option<InstanceCommand>,
    /// Which instances of theirs the three are at: an id is in use until its instance is forgotten.
    rounds: [u32; 3],
}

impl Flows {
    fn command(&mut self, which: usize, by: Writer, act: InstanceAct) -> InstanceCommand {
        self.requests += 1;
        InstanceCommand { id: self.named(which), request: self.requests, by, holders: holding(0b11), act }
    }

    fn named(&self, which: usize) -> InstanceId {
        InstanceId::new(&format!("flow-{which}.{}", self.rounds[which])).unwrap()
    }

    fn instance(&self, which: usize) -> Option<(InstanceNo, std::sync::Arc<Instance>)> {
        let no = self.run.state.instance_named(&self.named(which))?;
        Some((no, self.run.state.instance(no).unwrap()))
    }

    fn writer(&self, which: usize, by: By) -> Writer {
        let task = self.instance(which).and_then(|(_, instance)| instance.task);
        let Some(id) = task.filter(|_| !matches!(by, By::Outside)) else { return Writer::Outside };
        let attempt = self.run.state.task(id).map_or(7, |task| task.fields.attempts);
        let attempt = if matches!(by, By::Stale) { attempt ^ 1 } else { attempt };
        Writer::Launch(LeaseId { task: id, attempt })
    }

    fn take(&mut self, either: Either) {
        match either {
            Either::Step(step) => self.run.take(step),
            Either::Flow(Flow::Again) => {
                if let Some(command) = self.last.clone() {
                    self.again(command);
                }
            }
            Either::Flow(flow) => {
                if let Some(command) = self.turn(flow) {
                    // What was refused may be in order later.
                    let accepted = self.carry_out(command.clone());
                    self.last = Some(command).filter(|_| accepted);
                }
            }
        }
        self.look();
    }

    fn turn(&mut self, flow: Flow) -> Option<InstanceCommand> {
        let outside = Writer::Outside;
        Some(match flow {
            Flow::Start { which, tenant, image, input } => {
                if self.instance(which).is_some_and(|(_, known)| known.state.is_ended()) {
                    self.rounds[which] += 1;
                }
                let start = self.start(tenant, image, input);
                self.command(which, outside, InstanceAct::Start(Box::new(start)))
            }
            Flow::Write { which, by, write } => {
                let by = self.writer(which, by);
                let act = act_of(write, self.run.now);
                self.command(which, by, act)
            }
            Flow::Signal { which, kind } => {
                let kind = [SignalKind::Cancel, SignalKind::Pause, SignalKind::Resume][kind];
                self.command(which, outside, InstanceAct::Signal { kind, payload: payload(1, false) })
            }
            Flow::Send { which, id, content } => {
                let (checkpoint, payload) = (checkpoint(id), payload(content, content.is_multiple_of(3)));
                self.command(which, outside, InstanceAct::SendCustom { checkpoint, payload })
            }
            Flow::Stop(which) => self.command(which, outside, InstanceAct::Stop { grace_ms: Some(1_000) }),
            Flow::Resume(which) => self.command(which, outside, InstanceAct::Resume),
            Flow::Hibernate { which, idle } => {
                let calls = self.instance(which)?.1.calls + u32::from(!idle);
                let by = self.writer(which, By::Launch);
                self.command(which, by, InstanceAct::Hibernate { calls })
            }
            Flow::Silent(which) => {
                let calls = self.instance(which)?.1.calls;
                self.command(which, outside, InstanceAct::FailSilent { calls })
            }
            Flow::Left { which, left } => {
                let Writer::Launch(lease) = self.writer(which, By::Launch) else { return None };
                let node = self.run.state.task(lease.task)?.leased()?.node;
                let left = Some(Box::new(left_of(left)));
                let ends = vec![AttemptEnd { left, ..end(lease, 0) }];
                self.run.apply(Command::RecordEnds { node, ends }).unwrap();
                return None;
            }
            Flow::CancelTask(which) => {
                let task = self.instance(which)?.1.task?;
                self.run.apply(Command::Cancel(task)).unwrap();
                return None;
            }
            Flow::Again => return None,
        })
    }

    fn start(&mut self, tenant: u8, image: Option<u8>, input: u8) -> StartInstance {
        let mut spec = TaskSpec::new(Class::CpuLong, vec!["true".into()]);
        spec.cpu_milli = 1_000;
        spec.retry.retry_failures = input.is_multiple_of(2);
        spec.image = image.map(|name| format!("stint://i{name}"));
        let spec = spec.resolve(self.run.state.settings().class(Class::CpuLong)).unwrap();
        self.run.submits += 1;
        let submit = Submit {
            tenant: owner(tenant),
            first: TaskId(self.run.submits << 16),
            count: 1,
            name: None,
            digest: 0,
            spec: SharedSpec::new(spec),
            key: None,
            key_made_ms: None,
        };
        let env = [("A".to_owned(), "b".repeat(input.into()))].into();
        StartInstance { submit, input: Some(payload(input, input.is_multiple_of(3))), env }
    }

    /// The same command again answers the same, and changes nothing that anybody sees.
    fn again(&mut self, command: InstanceCommand) {
        let before = self.run.state.clone();
        let Ok(changes) = self.run.apply(Command::Instance(Box::new(command.clone()))) else { return };
        let is_start = |change: &Change| matches!(change, Change::Instance(InstanceChange::Started { .. }));
        for change in changes.iter().filter(|change| is_start(change)) {
            let Change::Instance(InstanceChange::Started { no, repeated }) = change else { continue };
            assert!(*repeated || before.instance(*no).is_none(), "{command:?} started twice");
        }
        self.accept(&changes);
        self.keep(&command, &changes);
        let Some(no) = self.run.state.instance_named(&command.id).filter(|no| before.instance(*no).is_some())
        else {
            return;
        };
        let seen = |state: &State| {
            let it = state.instance(no).unwrap();
            (it.state, it.counts.checkpoints, it.counts.custom_signals, it.output.clone(), it.counts.bytes)
        };
        let is_new = before.time() != self.run.state.time();
        assert!(is_new || seen(&before) == seen(&self.run.state), "{command:?} was carried out twice");
    }

    /// Answers whether it was accepted.
    fn carry_out(&mut self, command: InstanceCommand) -> bool {
        let stale = match command.by {
            Writer::Launch(lease) => !self.run.state.holds(lease),
            Writer::Outside => false,
        };
        let before = digest(&self.run.state);
        let passed = self.run.state.time() != TimeMs(self.run.now);
        match self.run.apply(Command::Instance(Box::new(command.clone()))) {
            Ok(changes) => {
                assert!(!stale, "a launch that is over wrote: {command:?}");
                self.accept(&changes);
                self.keep(&command, &changes);
                true
            }
            Err(refused) => {
                let same = passed || before == digest(&self.run.state);
                assert!(same, "{command:?} was refused and changed something: {refused}");
                false
            }
        }
    }

    fn accept(&mut self, changes: &[Change]) {
        let submitted = |change: &&Change| matches!(change, Change::Submitted { repeated: false, .. });
        self.run.accepted += changes.iter().filter(submitted).count() as u64;
    }

    /// What a program was told is so for ever.
    fn keep(&mut self, command: &InstanceCommand, changes: &[Change]) {
        for change in changes {
            let (InstanceAct::Save { checkpoint, .. } | InstanceAct::Sleep { checkpoint, .. }) = &command.act
            else {
                continue;
            };
            let no = self.run.state.instance_named(&command.id).unwrap();
            match change {
                Change::Instance(InstanceChange::Saved(saved)) => {
                    let InstanceAct::Save { state, .. } = &command.act else { panic!("{command:?}") };
                    let key = (no, checkpoint.clone());
                    let first = self.kept.states.entry(key).or_insert((state.clone(), command.request));
                    let own = first.1 == command.request;
                    assert_eq!(saved.found, (!own).then(|| first.0.clone()), "{command:?}");
                }
                Change::Instance(InstanceChange::Slept { .. }) => {
                    let InstanceAct::Sleep { state, .. } = &command.act else { panic!("{command:?}") };
                    let key = (no, checkpoint.clone());
                    self.kept.states.entry(key).or_insert((state.clone(), command.request));
                }
                _ => {}
            }
        }
    }

    /// What was kept is what is there.
    fn look(&mut self) {
        let state = &self.run.state;
        self.kept.states.retain(|(no, _), _| state.instance(*no).is_some());
        self.kept.ends.retain(|no, _| state.instance(*no).is_some());
        for ((no, id), (payload, _)) in &self.kept.states {
            assert_eq!(state.checkpoint(*no, id).map(|kept| &kept.state), Some(payload), "{no:?} {id}");
        }
        for (no, instance) in state.instances() {
            if instance.state.is_ended() {
                let end = (instance.state.status(), instance.output.clone(), instance.error.clone());
                let first = self.kept.ends.entry(no).or_insert_with(|| end.clone());
                assert_eq!(*first, end, "instance {} ended twice", instance.id);
            }
        }
    }
}

fn act_of(write: Write, now: u64) -> InstanceAct {
    match write {
        Write::Register { tenant, at } => {
            InstanceAct::Register { tenant: owner(tenant), checkpoint: at.map(checkpoint) }
        }
        Write::Save { id, content, stored } => {
            InstanceAct::Save { checkpoint: checkpoint(id), state: payload(content, stored) }
        }
        Write::Try { id } => {
            let failed = FailedTry { number: 2, error: Some("no route".into()) };
            InstanceAct::ReportTry { checkpoint: checkpoint(id), failed }
        }
        Write::Sleep { id, ms } => {
            let state = payload(ms as u8, ms.is_multiple_of(5));
            InstanceAct::Sleep { checkpoint: checkpoint(id), state, duration_ms: ms }
        }
        Write::Record { kind, stored } => {
            use EventKind::*;
            let kind = [Heartbeat, Completed, Failed, Suspended, Suspended, Suspended]
                .get(kind)
                .copied()
                .unwrap_or(Custom);
            let payload = payload(kind as u8, stored);
            let event =
                InstanceEvent { kind, subtype: Some("s".into()), checkpoint: None, payload, at: TimeMs(now) };
            InstanceAct::Record { events: vec![event.clone(), event] }
        }
        Write::Acknowledge(kind) => {
            InstanceAct::Acknowledge([SignalKind::Cancel, SignalKind::Pause, SignalKind::Resume][kind])
        }
        Write::Take(id) => InstanceAct::TakeCustom(checkpoint(id)),
    }
}

fn left_of(left: usize) -> LeftResult {
    match left {
        0 => LeftResult::Completed(Some(payload(7, true))),
        1 => LeftResult::Failed("why".into()),
        2 => LeftResult::Suspended,
        3 => LeftResult::Cancelled,
        4 => LeftResult::Completed(None),
        _ => LeftResult::Sleeping { checkpoint: checkpoint(2), wake_after_ms: 9_000 },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn workflow_instances_keep_what_they_promise(
        steps in proptest::collection::vec(either(), 1..150),
        piece in 1..300usize,
    ) {
        let mut run = Run::new(true);
        for node in 1..4 {
            run.apply(Command::RegisterNode(super::register(node, 1, 4, 0))).unwrap();
        }
        let mut flows = Flows { run, kept: Kept::default(), requests: 0, last: None, rounds: [0; 3] };
        // Two that the cluster starts, and one outside.
        for which in 0..2 {
            flows.take(Either::Flow(Flow::Start { which, tenant: 0, image: None, input: 7 }));
        }
        flows.take(Either::Step(Step::Plan { reachable: 0b1110 }));
        for which in 0..3 {
            let write = Write::Register { tenant: 0, at: None };
            flows.take(Either::Flow(Flow::Write { which, by: By::Launch, write }));
        }
        for step in steps {
            flows.take(step);
        }
        let mut run = flows.run;
        prop_assert_eq!(digest(&run.state), digest(&run.replica));
        let bytes = encode_snapshot(&run.state);
        let restored = decode_snapshot(&bytes).unwrap();
        prop_assert_eq!(digest(&restored), digest(&run.state));
        prop_assert!(same(&restored, &run.state));
        prop_assert!(same(&restored, &read_snapshot(super::Dripping::new(&bytes, piece)).unwrap()));
        // A cluster that begins anew from it is as sound.
        let mut anew = restored.clone();
        begin_anew(&mut anew, Some(NodeId(1)), TimeMs(run.now));
        check(&anew).unwrap();
        // When all has ended and is forgotten, nothing is left of it.
        for (_, instance) in run.state.clone().instances() {
            let act = match instance.task {
                Some(_) => InstanceAct::Stop { grace_ms: None },
                None => InstanceAct::FailSilent { calls: instance.calls },
            };
            let id = instance.id.clone();
            let command = InstanceCommand { id, request: u64::MAX, by: Writer::Outside, holders: vec![], act };
            let _ = run.apply(Command::Instance(Box::new(command)));
        }
        for (node, lease) in run.state.clone().leases() {
            run.apply(Command::RecordEnds { node, ends: vec![end(lease, 0)] }).unwrap();
        }
        run.now += 60 * 24 * 3_600_000;
        for _ in 0..20 {
            run.apply(Command::Tick).unwrap();
        }
        let left: Vec<_> = run.state.instances().filter(|(_, it)| it.task.is_some()).collect();
        prop_assert!(left.is_empty(), "{:?}", left);
        let bytes: u64 = run.state.instances().map(|(_, it)| it.counts.bytes).sum();
        prop_assert_eq!(run.state.durable_bytes(), bytes);
    }
}
