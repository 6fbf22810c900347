//! What the history of finished tasks may weigh.
#![allow(clippy::unwrap_used)]

use stint_protocol::*;
use stint_scheduler::*;

fn run(state: &mut State, command: Command) {
    let now = TimeMs(state.time().0 + 10);
    apply(state, StampedCommand { now, command }).unwrap();
}

fn heavy(task: u128) -> Command {
    let mut spec = TaskSpec::new(Class::CpuShort, vec!["/bin/true".into()]);
    let source = InputSource::Content(vec![7; limits::INLINE_BYTES]);
    let inputs = vec![InputFile { path: "a".into(), source, digest: None, executable: false }];
    spec.files = Some(Box::new(TaskFiles { inputs, ..TaskFiles::default() }));
    Command::Submit(Submit {
        tenant: Tenant::default_tenant(),
        first: TaskId(task),
        count: 1,
        name: None,
        spec: SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap()),
        key: None,
        digest: 0,
        key_made_ms: None,
    })
}

#[test]
fn heavy_tasks_are_forgotten_before_they_fill_the_memory() {
    let mut state = State::default();
    run(&mut state, Command::Configure(Settings::default()));
    let admit =
        |speaks| Admit { disk: [1; 16], name: "n1".into(), address: "a:1".into(), token: None, speaks };
    run(&mut state, Command::Admit(admit(version::CURRENT)));
    run(&mut state, Command::RaiseVersion { to: version::TASK_FILES });
    let many = limits::HISTORY_BYTES / limits::INLINE_BYTES as u64 + 50;
    for task in 0..u128::from(many) {
        run(&mut state, heavy(task));
        run(&mut state, Command::Cancel(TaskId(task)));
    }
    check(&state).unwrap();
    assert!(state.finished(TaskId(0)).is_none() && state.finished(TaskId(u128::from(many) - 1)).is_some());
    let weight: u64 = state.finished_before(TaskId(u128::MAX)).map(|(_, task)| task.weight()).sum();
    assert!(weight <= limits::HISTORY_BYTES && weight > limits::HISTORY_BYTES / 10 * 9, "{weight}");
    assert_eq!(state.finished_total(), many);
}

/// A state in which so many tasks have run and written something, or nothing.
fn ran(tasks: u32, wrote: bool) -> State {
    let mut state = State::default();
    run(&mut state, Command::Configure(Settings::default()));
    let speaks = version::CURRENT;
    let (name, address) = ("n1".into(), "a:1".into());
    run(&mut state, Command::Admit(Admit { disk: [1; 16], name, address, token: None, speaks }));
    let (node, incarnation) = (NodeId(1), Incarnation(1));
    let offer = NodeOffer {
        resources: Resources { cpu_milli: 1 << 30, memory_bytes: 1 << 50 },
        runtimes: vec![Runtime::Mock],
        classes: vec![Class::CpuShort],
        slots: 1 << 20,
        ..NodeOffer::default()
    };
    let (nonce, problems) = (Nonce(1), Vec::new());
    run(&mut state, Command::RegisterNode(RegisterNode { node, incarnation, nonce, offer, problems }));
    let mut spec = TaskSpec::new(Class::CpuShort, vec!["true".into()]);
    spec.runtime = Some(Runtime::Mock);
    let spec = SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap());
    for batch in 0..u128::from(tasks / 1_000) {
        let first = TaskId(batch << 16);
        let (tenant, spec) = (Tenant::default_tenant(), spec.clone());
        let submit =
            Submit { tenant, first, count: 1_000, name: None, spec, key: None, digest: 0, key_made_ms: None };
        run(&mut state, Command::Submit(submit));
        let ids = (0..1_000).map(|index| TaskId(first.0 + index));
        let assign = |task| Assignment { task, node, incarnation, runtime: Runtime::Mock, gpus: Vec::new() };
        run(&mut state, Command::CommitPlan(Plan { assignments: ids.clone().map(assign).collect() }));
        let end = |task: TaskId| {
            let summary =
                (0..2_048u128).map(|n| (task.0 >> (n % 8)) as u8 ^ (n * n) as u8).collect::<Vec<u8>>();
            let ending = Ending { summary: Some(summary.into()), ..Ending::default() };
            let end = AttemptEnd::new(LeaseId { task, attempt: 1 }, EndKind::Exited(0), String::new(), 5);
            AttemptEnd { ending: wrote.then(|| Box::new(ending)), ..end }
        };
        run(&mut state, Command::RecordEnds { node, ends: ids.map(end).collect() });
    }
    assert_eq!(state.finished_total(), u64::from(tasks));
    state
}

/// What attempts wrote lies on disks: a peer's memory does not grow with it. The history holds what snapshots do.
#[test]
fn endings_are_no_part_of_what_a_finished_task_weighs() {
    const TASKS: u32 = 20_000;
    let bytes = |wrote| encode_snapshot(&ran(TASKS, wrote)).len();
    let (silent, wrote) = (bytes(false), bytes(true));
    assert!(wrote - silent <= TASKS as usize * 6, "{silent} bytes and {wrote}");
    let state = ran(1_000, true);
    check(&state).unwrap();
    let (id, task) = state.finished_before(TaskId(u128::MAX)).next().unwrap();
    assert!(task.fields.records[0].ending.is_some(), "{id}");
}
