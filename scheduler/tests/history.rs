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
