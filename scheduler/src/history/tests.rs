//! Blocks of finished tasks, beside a plain list of the same tasks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stint_protocol::{Class, ClassRules, EndKind, Outcome, TaskSpec, Tenant};

use super::*;

fn spec(number: usize) -> SharedSpec {
    let spec = TaskSpec::new(Class::CpuShort, vec!["program".into(), number.to_string()]);
    SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap())
}

/// Most are one tenant's.
fn tenant(index: u32) -> Tenant {
    match index % 600 {
        0 => Tenant::new("rare").unwrap(),
        n if n < 40 => Tenant::new("other").unwrap(),
        _ => Tenant::default_tenant(),
    }
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
        not_kept: None,
        usage: None,
    };
    let tenant = tenant(index);
    let (submitted_at, records) = (TimeMs(1), Box::default());
    let fields = FinishedFields { tenant, name: None, index, submitted_at, attempts: 1, records, outcome };
    EncodedTask::new(&FinishedTask { spec: spec.clone(), fields })
}

/// The id of the n-th task that finished: others came before than finished before.
fn id(n: u64) -> TaskId {
    TaskId(u128::from(n / 1_000 * 1_000 + n % 1_000 * 7 % 1_000))
}

/// Whoever asks for ten thousand tasks by their ids, in any order, does not wait for ten thousand blocks.
#[test]
fn tasks_that_are_packed_together_are_unpacked_together() {
    let (spec, mut history) = (spec(1), History::default());
    for n in 0..20_000_u64 {
        let (at, index) = (TimeMs(1_000 + n / 40), n as u32);
        history.insert((at, id(n)), tenant(index), task(&spec, at, index));
    }
    let unpacked = |look: &mut dyn FnMut()| {
        let before = block::UNPACKED.get();
        look();
        block::UNPACKED.get() - before
    };
    let ids: Vec<TaskId> = (0..20_000).map(id).collect();
    let blocks = history.blocks.len();
    let mut reader = Reader::of_named(&history);
    let mut all = || assert!(ids.iter().rev().all(|id| reader.get(id).is_some()));
    assert_eq!(unpacked(&mut all), blocks, "each once");
    // One of each block: no more of them stay in memory than the bound.
    let mut reader = Reader::of_named(&history);
    assert!(blocks > NAMED_BLOCKS && ids.iter().step_by(BLOCK).all(|id| reader.get(id).is_some()));
    assert!(reader.unpacked.len() <= NAMED_BLOCKS, "{} blocks stay unpacked", reader.unpacked.len());
    let mut tenants = || assert!(ids.iter().all(|id| history.tenant_of(id).is_some()));
    assert_eq!(unpacked(&mut tenants), 0, "whose a task is stands beside it");
    assert_eq!(history.tenant_of(&id(600)), Some(&tenant(600)));
    assert_eq!(history.tenant_of(&id(19_999)), Some(&tenant(19_999)));
    assert_eq!(history.tenant_of(&TaskId(5_000_000)), None);
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
        assert!(history.insert((at, id(n)), tenant(index), task.clone()));
        assert!(!history.insert((at, id(n)), tenant(index), task.clone()), "it is known");
        plain.push_back(((at, id(n)), task));
        if n > 20_000 {
            plain.make_contiguous().sort_by_key(|(at, _)| *at);
            let first = plain.pop_front().map(|((_, id), task)| (id, task));
            assert_eq!(history.remove_first(), first);
            assert_eq!(history.oldest_at(), plain.front().map(|((at, _), _)| *at));
        }
    }
    plain.make_contiguous().sort_by_key(|(at, _)| *at);
    assert_eq!(history.len(), plain.len());
    assert!(history.blocks.len() > 50, "most are packed");
    assert!(history.order().eq(plain.iter().map(|(at, _)| *at)));

    let by_id: BTreeMap<TaskId, EncodedTask> = plain.into_iter().map(|((_, id), task)| (id, task)).collect();
    assert!(history.iter().eq(by_id.iter().map(|(id, task)| (*id, task.clone()))));
    let before = id(25_000);
    let plain_before = || by_id.range(..before).rev().map(|(id, task)| (*id, task.clone()));
    assert!(history.before(before, None).eq(plain_before()));
    for of in ["rare", "other", "default", "nobody"] {
        let of = Tenant::new(of).unwrap();
        let plain = plain_before().filter(|(_, task)| task.unpack().fields.tenant == of);
        assert!(history.before(before, Some(&of)).eq(plain), "{of}");
    }
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

/// Ids in any order and of several tenants, beside a plain map; and pages that do not stay half empty.
#[test]
fn pages_of_ids_are_as_a_map_of_them() {
    let (mut index, mut plain) = (Index::default(), BTreeMap::new());
    // Now in order, now across all there is, as long tasks finish among short ones.
    let scattered = |n: u64| TaskId(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 2_000_000));
    for round in 0..400_u64 {
        let ids: BTreeSet<TaskId> = (0..256)
            .map(|n| {
                if round % 3 == 0 {
                    scattered(round * 256 + n)
                } else {
                    TaskId(u128::from(round * 5_000 + n))
                }
            })
            .filter(|id| !plain.contains_key(id))
            .collect();
        let tasks: Vec<_> = ids.iter().map(|id| (*id, round as u32, tenant(id.0 as u32))).collect();
        plain.extend(tasks.iter().map(|(id, block, tenant)| (*id, (*block, tenant.clone()))));
        index.insert(tasks);
        if round % 2 == 1 {
            let gone: Vec<TaskId> = plain
                .iter()
                .filter(|(_, (block, _))| u64::from(*block) == round / 2)
                .map(|(id, _)| *id)
                .collect();
            gone.iter().for_each(|id| drop(plain.remove(id)));
            index.remove(gone);
        }
        assert_eq!(index.len(), plain.len());
    }
    assert!(index.ids().eq(plain.keys().copied()));
    for probe in (0..2_000_000).step_by(331).map(TaskId) {
        assert_eq!(index.get(&probe), plain.get(&probe).map(|(block, _)| *block));
        assert_eq!(index.tenant_of(&probe), plain.get(&probe).map(|(_, tenant)| tenant));
        let range = probe..=TaskId(probe.0 + 900);
        assert_eq!(index.first_in(&range), plain.range(range.clone()).next().map(|(id, _)| *id));
    }
    for of in [None, Some(tenant(0)), Some(tenant(1)), Some(tenant(100))] {
        let before = TaskId(1_200_000);
        let wanted =
            plain.range(..before).rev().filter(|(_, (_, tenant))| of.as_ref().is_none_or(|of| of == tenant));
        assert!(index.ids_before(before, of.clone()).eq(wanted.map(|(id, _)| *id)), "{of:?}");
    }
    assert!(index.pages() * 128 < index.len(), "{} ids in {} pages", index.len(), index.pages());
    index.remove(plain.into_keys().collect());
    assert_eq!((index.len(), index.pages()), (0, 0));
}
