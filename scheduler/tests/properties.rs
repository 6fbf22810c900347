//! Random histories: every invariant after every command, replicas equal, snapshots faithful, nothing lost.
#![allow(clippy::unwrap_used)]

#[path = "support/dripping.rs"]
mod dripping;
mod support;
#[path = "support/workflows.rs"]
mod workflows;

use std::collections::BTreeMap;

use dripping::Dripping;
use proptest::prelude::*;
use stint_protocol::*;
use stint_scheduler::*;

/// A step that is turned into a command against the state as it is.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        class: usize,
        count: u32,
        priority: u8,
        key: Option<u8>,
        retry: bool,
        image: Option<u8>,
        tenant: u8,
        name: Option<u8>,
    },
    Cancel(usize),
    Suspend {
        pick: usize,
        paused: bool,
        wake_ms: Option<u64>,
    },
    Wake(usize),
    Register {
        node: u64,
        slots: u32,
        gpus: u8,
        new_life: bool,
    },
    Plan {
        reachable: u8,
    },
    /// A plan that is carried out after settings changed.
    LatePlan {
        reachable: u8,
        which: usize,
        value: u64,
    },
    /// A plan that never becomes an entry.
    LosePlan {
        reachable: u8,
    },
    End {
        pick: usize,
        kind: usize,
        left: Vec<u8>,
    },
    StaleEnd {
        pick: usize,
    },
    Expire(usize),
    Mode {
        node: u64,
        mode: usize,
        within: Option<u64>,
    },
    Remove(u64),
    Wait(u64),
    Image {
        tenant: u8,
        name: u8,
        content: u8,
        holders: u8,
    },
    Delete(usize),
    Keep {
        tenant: u8,
        content: u8,
        keep_ms: u64,
        holders: u8,
    },
    Forget {
        tenant: u8,
        content: u8,
    },
    Hold {
        node: u64,
        content: u8,
    },
    Lose {
        node: u64,
        content: u8,
    },
    Drop,
    Settings {
        which: usize,
        value: u64,
        on: Option<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 1..6u32, 0..100u8, proptest::option::of(0..4u8), any::<bool>(), proptest::option::of(0..3u8), 0..2u8, proptest::option::weighted(0.4, 0..3u8))
            .prop_map(|(class, count, priority, key, retry, image, tenant, name)| Step::Submit { class, count, priority, key, retry, image, tenant, name }),
        2 => (0..64usize, any::<bool>(), proptest::option::of(0..200_000u64))
            .prop_map(|(pick, paused, wake_ms)| Step::Suspend { pick, paused, wake_ms }),
        1 => (0..64usize).prop_map(Step::Wake),
        1 => (0..64usize).prop_map(Step::Cancel),
        2 => (1..5u64, 0..4u32, 0..16u8, any::<bool>())
            .prop_map(|(node, slots, gpus, new_life)| Step::Register { node, slots, gpus, new_life }),
        5 => any::<u8>().prop_map(|reachable| Step::Plan { reachable }),
        1 => any::<u8>().prop_map(|reachable| Step::LosePlan { reachable }),
        6 => (0..64usize, 0..9usize, proptest::collection::vec(0..5u8, 0..3))
            .prop_map(|(pick, kind, left)| Step::End { pick, kind, left }),
        1 => (any::<u8>(), 0..15usize, 0..40u64)
            .prop_map(|(reachable, which, value)| Step::LatePlan { reachable, which, value }),
        1 => (0..64usize).prop_map(|pick| Step::StaleEnd { pick }),
        1 => (0..64usize).prop_map(Step::Expire),
        1 => (1..5u64, 0..3usize, proptest::option::of(0..5_000u64))
            .prop_map(|(node, mode, within)| Step::Mode { node, mode, within }),
        1 => (1..5u64).prop_map(Step::Remove),
        2 => (0..100_000u64).prop_map(Step::Wait),
        3 => (0..2u8, 0..3u8, 1..5u8, 0..16u8)
            .prop_map(|(tenant, name, content, holders)| Step::Image { tenant, name, content, holders }),
        1 => (0..8usize).prop_map(Step::Delete),
        1 => (0..2u8, 1..5u8, 0..200_000u64, 0..16u8)
            .prop_map(|(tenant, content, keep_ms, holders)| Step::Keep { tenant, content, keep_ms, holders }),
        1 => (0..2u8, 1..5u8).prop_map(|(tenant, content)| Step::Forget { tenant, content }),
        1 => (1..5u64, 1..5u8).prop_map(|(node, content)| Step::Hold { node, content }),
        1 => (1..5u64, 1..5u8).prop_map(|(node, content)| Step::Lose { node, content }),
        1 => Just(Step::Drop),
        3 => (0..15usize, 0..40u64, proptest::option::of(0..4u64))
            .prop_map(|(which, value, on)| Step::Settings { which, value, on }),
    ]
}

struct Run {
    /// One for all plans, also for those on a state that lacks what the last one gave.
    planner: Planner,
    state: State,
    replica: State,
    now: u64,
    submits: u128,
    images: u128,
    accepted: u64,
    /// Each user number that was ever given, with the tenant that got it.
    uids: BTreeMap<u32, Tenant>,
}

impl Run {
    /// `current`: the cluster speaks the newest version, else the oldest.
    fn new(current: bool) -> Self {
        let mut run = Run {
            planner: Planner::default(),
            state: State::default(),
            replica: State::default(),
            now: 5_000,
            submits: 0,
            images: 0,
            accepted: 0,
            uids: BTreeMap::new(),
        };
        let mut settings = Settings { keep_finished: 50, ..Settings::default() };
        settings.classes[Class::CpuLong as usize].runtimes.insert(0, Runtime::Process);
        run.apply(Command::Configure(settings)).unwrap();
        run.apply(Command::AddJoinToken { hash: [1; 32], valid_ms: u64::MAX / 2, uses: None }).unwrap();
        for node in 1..5u8 {
            let admit = Admit {
                disk: [node; 16],
                name: format!("n{node}"),
                address: "a:1".into(),
                token: Some([1; 32]),
                speaks: if current { version::CURRENT } else { Version(u32::from(node % 2) + 1) },
            };
            run.apply(Command::Admit(admit)).unwrap();
        }
        if current {
            run.apply(Command::RaiseVersion { to: version::CURRENT }).unwrap();
        }
        run
    }

    fn apply(&mut self, command: Command) -> Result<Vec<Change>, Rejection> {
        let stamped = StampedCommand { now: TimeMs(self.now), command };
        let bytes = minicbor::to_vec(&stamped).unwrap();
        let result = apply(&mut self.state, stamped);
        let same = apply(&mut self.replica, minicbor::decode(&bytes).unwrap());
        assert_eq!(result, same, "a replica answers otherwise");
        check(&self.state).unwrap();
        result
    }

    /// Carries a plan out; each of its attempts is where its tenant's rules let it be.
    fn commit(&mut self, plan: Plan) {
        for change in self.apply(Command::CommitPlan(plan)).unwrap() {
            let Change::Leased { lease, node } = change else { continue };
            let tenant = self.state.tenant_of(lease.task).unwrap();
            self.assert_allowed(&tenant, &self.state.spec(lease.task).unwrap());
            self.assert_alone(&tenant, node);
        }
    }

    /// A dedicated tenant's attempt is on a node that names it alone, and nobody's is beside one of another such tenant's.
    fn assert_alone(&self, tenant: &Tenant, node: NodeId) {
        let is_dedicated = |tenant: &Tenant| self.state.settings().tenants.rules(tenant).dedicated;
        let names =
            self.state.node(node).unwrap().offer.rules.as_ref().and_then(|rules| rules.tenants.clone());
        let alone = names.is_some_and(|names| names == [tenant.as_str()]);
        assert!(alone || !is_dedicated(tenant), "{tenant} is dedicated, and starts on {node}");
        for lease in self.state.leases_of(node) {
            let other = self.state.tenant_of(lease.task).unwrap();
            let shares = other == *tenant || !(is_dedicated(tenant) || is_dedicated(&other));
            assert!(shares, "{tenant} starts on {node} beside {other}");
        }
    }

    fn a_lease(&self, pick: usize) -> Option<(NodeId, LeaseId)> {
        let leases: Vec<_> = self.state.leases().collect();
        leases.get(pick % leases.len().max(1)).copied()
    }

    fn take(&mut self, step: Step) {
        let before = self.state.finished_total();
        let mut finished = 0;
        if let Some(command) = self.command(step) {
            let asked = command.clone();
            let changes = self.apply(command).unwrap_or_default();
            if let (Command::Submit(Submit { tenant, first, .. }), false) = (asked, changes.is_empty()) {
                // A repetition is answered as it was, whatever the rules are now.
                self.state.spec(first).iter().for_each(|spec| self.assert_allowed(&tenant, spec));
            }
            for change in &changes {
                match change {
                    Change::Submitted { count, repeated: false, .. } => self.accepted += u64::from(*count),
                    Change::Finished { .. } => finished += 1,
                    _ => {}
                }
            }
        }
        assert_eq!(self.state.finished_total(), before + finished);
        let live = self.state.waiting() + self.state.suspended() + self.state.running();
        let known = live as u64 + self.state.finished_total();
        assert_eq!(known, self.accepted, "an accepted task is neither waiting, running nor finished");
        self.assert_lists();
        self.assert_uids();
    }

    /// A user number is one tenant's for ever, and a tenant's first one is its last.
    fn assert_uids(&mut self) {
        for (tenant, uid) in self.state.tenant_uids() {
            let first = self.uids.entry(uid).or_insert_with(|| tenant.clone());
            assert_eq!(first, tenant, "two tenants had user number {uid}");
        }
        assert_eq!(self.uids.len(), self.state.tenant_uids().count(), "a tenant got another user number");
    }

    /// A task is accepted, and starts, only with an image that its tenant may use.
    fn assert_allowed(&self, tenant: &Tenant, spec: &TaskSpec) {
        let images = self.state.settings().tenants.rules(tenant).images;
        let allowed = spec.image.as_ref().is_none_or(|image| images.allows(image));
        assert!(allowed, "{tenant} has {:?} of {images}", spec.image);
    }

    /// What a tenant lists is what is found among all tasks.
    fn assert_lists(&self) {
        let all = TaskId(u128::MAX);
        for tenant in [owner(0), owner(1)] {
            let own = self.state.tasks_before(all).filter(|(_, task)| task.fields.tenant == tenant);
            assert!(self.state.tasks_of(&tenant, all).map(|(id, _)| id).eq(own.map(|(id, _)| id)));
            let own = self.state.finished_before(all).filter(|(_, task)| task.fields.tenant == tenant);
            assert!(self.state.finished_of(&tenant, None, all).eq(own));
        }
    }

    fn a_task(&self, pick: usize) -> Option<TaskId> {
        let ids: Vec<TaskId> = self.state.tasks_before(TaskId(u128::MAX)).map(|(id, _)| id).collect();
        ids.get(pick % ids.len().max(1)).copied()
    }

    fn command(&mut self, step: Step) -> Option<Command> {
        match step {
            Step::Submit { class, count, priority, key, retry, image, tenant, name } => {
                let mut spec = TaskSpec::new(Class::ALL[class], vec!["true".into()]);
                spec.priority = priority;
                // Few demands, so that lines are shared, and some that fit only an empty node, or none.
                spec.cpu_milli = [0, 1_000, 3_000, 4_000, 9_000][usize::from(priority) % 5];
                spec.timeout_ms = [0, 5_000, 60_000][usize::from(priority) % 3];
                if priority % 7 == 0 {
                    spec.constraints.insert("zone".into(), ["a", "b"][usize::from(priority) % 2].into());
                }
                if priority % 11 == 3 {
                    let path = ["/data/f", "/home/f"][usize::from(priority) % 2].into();
                    let source = InputSource::File(path);
                    let inputs =
                        vec![InputFile { path: "f".into(), source, digest: None, executable: false }];
                    spec.files = Some(Box::new(TaskFiles { inputs, ..TaskFiles::default() }));
                }
                spec.retry.retry_failures = retry;
                spec.image = image.map(|name| format!("stint://i{name}"));
                let spec = spec.resolve(self.state.settings().class(Class::ALL[class])).unwrap();
                self.submits += 1;
                Some(Command::Submit(Submit {
                    tenant: owner(tenant),
                    first: TaskId(self.submits << 16),
                    count,
                    name: name.map(|name| TaskName::new(&format!("n{name}")).unwrap()),
                    digest: u64::from(count),
                    spec: SharedSpec::new(spec),
                    key: key.map(|k| IdempotencyKey::new(&format!("k{k}")).unwrap()),
                    key_made_ms: None,
                }))
            }
            Step::Cancel(pick) => self.a_task(pick).map(Command::Cancel),
            Step::Suspend { pick, paused, wake_ms } => {
                let reason = if paused { SuspendReason::Paused } else { SuspendReason::Sleep };
                let wake_at = wake_ms.map(|ms| TimeMs(self.now + ms));
                self.a_task(pick).map(|task| Command::Suspend { task, reason, wake_at })
            }
            Step::Wake(pick) => self.a_task(pick).map(Command::Wake),
            Step::Register { node, slots, gpus, new_life } => {
                let known = self.state.node(NodeId(node))?;
                let life = known.incarnation.0.max(1) + u64::from(new_life);
                Some(Command::RegisterNode(register(node, life, slots, gpus)))
            }
            Step::Plan { reachable } => {
                let reachable = (1..5u64).filter(|n| reachable & (1 << n) != 0).map(NodeId).collect();
                let input = PlanInput { reachable };
                let plan = self.planner.plan(&self.state, &input);
                let count = plan.assignments.len();
                let leases = self.state.running();
                for assignment in &plan.assignments {
                    // A task that names what no node allows is started to be told so; a deleted image says nothing.
                    let spec = TaskSpec::clone(&self.state.spec(assignment.task).unwrap());
                    let spec = SharedSpec::new(TaskSpec { files: None, ..spec });
                    let tenant = self.state.tenant_of(assignment.task).unwrap();
                    assert_eq!(never_fits(&self.state, &tenant, &spec), None, "it starts now");
                }
                self.commit(plan.clone());
                assert_eq!(self.state.running(), leases + count, "a fresh plan lost assignments");
                let missed = overlooked(&mut self.planner, &self.state, &input, &plan);
                assert_eq!(missed, None, "a task that fits waits");
                None
            }
            Step::LatePlan { reachable, which, value } => {
                let reachable = (1..5u64).filter(|n| reachable & (1 << n) != 0).map(NodeId).collect();
                let plan = self.planner.plan(&self.state, &PlanInput { reachable });
                let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(1) };
                let update = UpdateSettings { to: setting(which, value), if_revision: None, by };
                self.apply(Command::UpdateSettings(update)).ok();
                self.commit(plan);
                None
            }
            Step::LosePlan { reachable } => {
                let reachable = (1..5u64).filter(|n| reachable & (1 << n) != 0).map(NodeId).collect();
                self.planner.plan(&self.state, &PlanInput { reachable });
                None
            }
            Step::End { pick, kind, left } => {
                let (node, lease) = self.a_lease(pick)?;
                let outputs = Some(left.into_iter().map(output).collect());
                Some(Command::RecordEnds { node, ends: vec![AttemptEnd { outputs, ..end(lease, kind) }] })
            }
            Step::StaleEnd { pick } => {
                let (node, mut lease) = self.a_lease(pick)?;
                lease.attempt += 1;
                Some(Command::RecordEnds { node, ends: vec![end(lease, 0)] })
            }
            Step::Expire(pick) => self.a_lease(pick).map(|(_, lease)| Command::ExpireLeases(vec![lease])),
            Step::Mode { node, mode, within } => {
                let mode = [NodeMode::Ready, NodeMode::Cordoned, NodeMode::Draining][mode];
                Some(Command::SetNodeMode { node: NodeId(node), mode, within_ms: within })
            }
            Step::Remove(node) => Some(Command::RemoveNode(NodeId(node))),
            Step::Wait(ms) => {
                self.now += ms;
                Some(Command::Tick)
            }
            Step::Image { tenant, name, content, holders } => {
                self.images += 1;
                Some(Command::RegisterImage(RegisterImage {
                    id: ImageId(self.images),
                    tenant: owner(tenant),
                    name: ImageName::new(&format!("i{name}")).unwrap(),
                    source: ImageSource::Executable(blob(content)),
                    description: String::new(),
                    holders: holding(holders),
                }))
            }
            Step::Delete(pick) => {
                let tenant = owner(0);
                let images: Vec<ImageId> = self.state.images_after(&tenant, None).map(|i| i.id).collect();
                let image = *images.get(pick % images.len().max(1))?;
                Some(Command::DeleteImage { tenant, image })
            }
            Step::Keep { tenant, content, keep_ms, holders } => Some(Command::KeepBlob(KeepBlob {
                tenant: owner(tenant),
                blob: blob(content),
                keep_ms,
                holders: holding(holders),
            })),
            Step::Forget { tenant, content } => {
                Some(Command::ForgetBlob { tenant: owner(tenant), blob: blob(content).digest })
            }
            Step::Hold { node, content } => {
                Some(Command::HoldBlobs { node: NodeId(node), blobs: vec![blob(content).digest] })
            }
            Step::Lose { node, content } => {
                Some(Command::LoseBlobs { node: NodeId(node), blobs: vec![blob(content).digest] })
            }
            Step::Settings { which, value, on } => {
                let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(1) };
                let if_revision = on.map(|back| self.state.audit().revision.saturating_sub(back));
                let to = setting(which, value);
                Some(Command::UpdateSettings(UpdateSettings { to, if_revision, by }))
            }
            Step::Drop => {
                // All of them, as a leader of the past might have: only what is unused goes.
                Some(Command::DropBlobs { blobs: (1..5).map(|content| blob(content).digest).collect() })
            }
        }
    }
}

/// Some of them do not fit together.
fn setting(which: usize, value: u64) -> Vec<Setting> {
    let long = |rule| Setting::Class(Class::CpuLong, rule);
    match which {
        0 => vec![Setting::Placement([Placement::BinPack, Placement::Spread][value as usize % 2])],
        1 => vec![Setting::KeepFinished(value)],
        2 => vec![Setting::KeepFinishedMs(value * 5_000)],
        3 => vec![Setting::MaxLiveTasks(value)],
        // Long enough for the grace that a task has when it names none.
        4 => vec![long(ClassSetting::LeaseTtlMs((4 + value) * 1_000)), Setting::KeepFinished(50)],
        5 => {
            vec![long(ClassSetting::Runtimes(vec![[Runtime::Process, Runtime::Docker][value as usize % 2]]))]
        }
        6 => vec![Setting::Class(Class::CpuShort, ClassSetting::DefaultGpus(value as u32 % 2))],
        10 => vec![Setting::KeepForGpus(value.is_multiple_of(2))],
        11 => vec![Setting::CrashLoopLosses(value as u32 % 6)],
        12 => {
            let first = 5_000 + value as u32 % 3;
            vec![Setting::TenantUids(UidRange { first, last: first + value as u32 % 2 })]
        }
        7 => vec![Setting::Tenant(owner(value as u8 % 2), TenantSetting::MaxPriority(3 * value as u8))],
        8 => vec![Setting::Tenant(owner(value as u8 % 2), TenantSetting::Weight(value as u32))],
        14 => {
            vec![Setting::Tenant(owner(value as u8 % 2), TenantSetting::Dedicated(!value.is_multiple_of(3)))]
        }
        13 => {
            let list =
                ["any", "stint://i0", "stint://i*@sha256:01*", "stint://i1,busybox"][value as usize / 2 % 4];
            vec![Setting::Tenant(owner(value as u8 % 2), TenantSetting::Images(list.parse().unwrap()))]
        }
        _ => vec![Setting::Class(Class::Gpu, ClassSetting::LeaseTtlMs(value * 10_000))],
    }
}

fn owner(tenant: u8) -> Tenant {
    [Tenant::default_tenant(), Tenant::new("other").unwrap()][usize::from(tenant)].clone()
}

fn blob(content: u8) -> Blob {
    Blob { digest: Digest::from_bytes([content; 32]), size: content.into() }
}

/// What an attempt left: bytes that the cluster has or not, as it happens, and some that its node alone has.
fn output(content: u8) -> KeptFile {
    let (path, stored) = (format!("out/{content}"), content > 0);
    // A node's word for it counts for nothing.
    let pinned = content.is_multiple_of(2).then_some(true);
    KeptFile { path, blob: blob(content), stored, executable: None, pinned }
}

fn holding(holders: u8) -> Vec<NodeId> {
    (1..5u64).filter(|node| holders & (1 << (node - 1)) != 0).map(NodeId).collect()
}

fn register(node: u64, life: u64, slots: u32, gpus: u8) -> RegisterNode {
    let gpu = |n: u8| GpuInfo {
        id: GpuId::new(&format!("G{n}")).unwrap(),
        model: "x".into(),
        memory_bytes: 1,
        index: 0,
    };
    let offer = NodeOffer {
        resources: Resources { cpu_milli: 4_000, memory_bytes: 6 << 30 },
        gpus: (0..4).filter(|n| gpus & (1 << n) != 0).map(gpu).collect(),
        runtimes: vec![Runtime::Process, Runtime::Crun],
        classes: Class::ALL.to_vec(),
        labels: [("zone".to_owned(), ["a", "c"][node as usize % 2].to_owned())].into(),
        slots,
        rules: (node > 2).then(|| {
            let input_roots = ["/data", "/home"][..(node as usize - 2)].iter().map(|root| root.to_string());
            // One that takes tasks of one tenant, or of whoever came first as a process.
            let tenants = (slots == 2).then(|| vec![owner(node as u8 - 3).to_string()]);
            let one_user = (slots == 3).then_some(true);
            let input_roots = input_roots.collect();
            Box::new(NodeRules { input_roots, tenants, one_user, ..NodeRules::default() })
        }),
        ..NodeOffer::default()
    };
    RegisterNode {
        node: NodeId(node),
        incarnation: Incarnation(life),
        nonce: Nonce(life),
        offer,
        problems: vec![],
    }
}

fn end(lease: LeaseId, kind: usize) -> AttemptEnd {
    use EndKind::*;
    let kinds =
        [Exited(0), Exited(1), Signalled(9), TimedOut, OutOfMemory, Lost, StartFailed, NotRunnable, Drained];
    AttemptEnd::new(lease, kinds[kind].clone(), String::new(), 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_every_invariant(
        steps in proptest::collection::vec(step(), 1..120),
        piece in 1..300usize,
        current in any::<bool>(),
    ) {
        let mut run = Run::new(current);
        for step in steps {
            run.take(step);
        }
        prop_assert_eq!(digest(&run.state), digest(&run.replica));
        let bytes = encode_snapshot(&run.state);
        let mut restored = decode_snapshot(&bytes).unwrap();
        prop_assert_eq!(digest(&restored), digest(&run.state));
        prop_assert!(same(&restored, &read_snapshot(Dripping::new(&bytes, piece)).unwrap()));
        // It goes on as the one it was taken from.
        let all = PlanInput { reachable: (1..5).map(NodeId).collect() };
        let later = StampedCommand { now: TimeMs(run.now + 100_000), command: Command::Tick };
        apply(&mut restored, later.clone()).unwrap();
        apply(&mut run.state, later).unwrap();
        prop_assert_eq!(plan(&restored, &all), plan(&run.state, &all));
    }
}
