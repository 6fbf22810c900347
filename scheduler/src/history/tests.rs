//! Blocks of finished tasks, beside a plain list of the same tasks.

use std::collections::{BTreeMap, VecDeque};

use stint_protocol::{Class, ClassRules, EndKind, Outcome, TaskSpec, Tenant};

use super::*;

fn spec(number: usize) -> SharedSpec {
    let spec = TaskSpec::new(Class::CpuShort, vec!["program".into(), number.to_string()]);
    SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap())
}

fn task(spec: &SharedSpec, at: TimeMs, index: u32) -> EncodedTask {
    let outcome = Outcome {
        kind: EndKind::Exited(index as i32 % 3),
        message: format!("task {index}"),
        finished_at: at,
        attempt: 1,
        run_ms: 5,
        crash_loop: false,
        outputs: None,
        usage: None,
    };
    let tenant = Tenant::default_tenant();
    let (submitted_at, records) = (TimeMs(1), Box::default());
    let fields = FinishedFields { tenant, name: None, index, submitted_at, attempts: 1, records, outcome };
    EncodedTask::new(&FinishedTask { spec: spec.clone(), fields })
}

/// The id of the n-th task that finished: others came before than finished before.
fn id(n: u64) -> TaskId {
    TaskId(u128::from(n / 1_000 * 1_000 + n % 1_000 * 7 % 1_000))
}

/// Beside a plain list of the same tasks: whatever is packed or unpacked, all answers are the same.
#[test]
fn what_is_packed_is_as_if_it_were_not() {
    let specs: Vec<SharedSpec> = (0..3).map(spec).collect();
    let (mut history, mut plain) = (History::default(), VecDeque::new());
    for n in 0..30_000_u64 {
        // Several finish in one millisecond, also across blocks.
        let (at, index) = (TimeMs(1_000 + n / 40), n as u32);
        let task = task(&specs[n as usize % 3], at, index);
        assert!(history.insert((at, id(n)), task.clone()));
        assert!(!history.insert((at, id(n)), task.clone()), "it is known");
        plain.push_back(((at, id(n)), task));
        if n > 20_000 {
            plain.make_contiguous().sort_by_key(|(at, _)| *at);
            let first = plain.pop_front().map(|((_, id), task)| (id, task));
            assert_eq!(history.first(), plain.front().map(|_| ()).and(history.first()));
            assert_eq!(history.remove_first(), first);
        }
    }
    plain.make_contiguous().sort_by_key(|(at, _)| *at);
    assert_eq!(history.len(), plain.len());
    assert!(history.blocks.len() > 50, "most are packed");
    assert!(history.order().eq(plain.iter().map(|(at, _)| *at)));

    let by_id: BTreeMap<TaskId, EncodedTask> = plain.into_iter().map(|((_, id), task)| (id, task)).collect();
    assert!(history.iter().eq(by_id.iter().map(|(id, task)| (*id, task.clone()))));
    let before = id(25_000);
    assert!(history.before(before).eq(by_id.range(..before).rev().map(|(id, task)| (*id, task.clone()))));
    for n in (0..30_000).step_by(97) {
        let known = by_id.get(&id(n));
        assert_eq!((history.get(&id(n)).as_ref(), history.contains(&id(n))), (known, known.is_some()));
        if let Some(got) = history.get(&id(n)) {
            assert!(specs.iter().any(|spec| spec.ptr_eq(&got.spec)), "the spec is shared as before");
        }
    }
    let range = id(12_000)..=TaskId(u128::MAX);
    assert_eq!(history.first_in(range.clone()), by_id.range(range).next().map(|(id, _)| *id));
    while history.remove_first().is_some() {}
    assert_eq!((history.len(), history.index.len(), history.blocks.len()), (0, 0, 0));
}

/// A million take less than 60 MB with their indexes in `State`; the id and the place take most of it.
#[test]
fn a_packed_task_takes_little() {
    let spec = spec(0);
    let tasks: Vec<(FinishedAt, EncodedTask)> = (0..BLOCK as u32)
        .map(|n| ((TimeMs(u64::from(n)), id(n.into())), task(&spec, TimeMs(7), n)))
        .collect();
    let plain: usize = tasks.iter().map(|(_, task)| task.fields.len()).sum();
    let packed = Block::pack(&tasks).packed_bytes();
    assert!(packed * 4 < plain, "{packed} bytes instead of {plain}");
}
