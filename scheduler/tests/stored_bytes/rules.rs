//! Mounts, and rules of nodes and tenants: fields whose bytes lie in files of their own.

use stint_protocol::*;
use stint_scheduler::*;

use crate::nodes::{allows, ends_with_outputs, offer};
use crate::samples::{operator, settings};
use crate::stored::{Stored, assert_same};
use crate::tasks::{files, spec, submit, team};

#[test]
fn mounts_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let mount = |source: &str, target: Option<&str>, writable| HostMount {
        source: source.into(),
        target: target.map(Into::into),
        writable,
    };
    let mounts = vec![mount("/data", None, false), mount("/scratch/a", Some("/out"), true)];
    let limits = Some(Box::new(TaskLimits { mounts: Some(mounts), ..TaskLimits::default() }));
    let submit = submit(None, None);
    let spec = SharedSpec::new(TaskSpec { limits, ..TaskSpec::clone(&submit.spec) });
    let submit = Command::Submit(Submit { spec, ..submit });
    let root = |path: &str, writable, below| MountRoot { path: path.into(), writable, below };
    let roots = vec![root("/data", false, true), root("/scratch", true, false)];
    let allows = allows().into_iter().map(|allows| Allowance { mounts: Some(roots.clone()), ..allows });
    let register = Command::RegisterNode(RegisterNode {
        node: NodeId(300),
        incarnation: Incarnation(4),
        nonce: Nonce(7),
        offer: NodeOffer { allows: Some(allows.collect()), ..offer() },
        problems: Vec::new(),
    });
    for (name, command) in [("mounts-submit.cbor", submit), ("mounts-register-node.cbor", register)] {
        assert_eq!(command.needs(), version::TASK_LIMITS);
        folder.check(name, &command);
    }
}

/// What a node lets tasks name.
#[test]
fn rules_of_nodes_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let list = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
    let rules = NodeRules {
        docker_images: list(&["busybox", "ghcr.io/team/**"]),
        docker_by_digest: true,
        image_roots: list(&["/images"]),
        input_roots: list(&["/data"]),
        secrets: true,
        tenants: None,
        one_user: None,
        run_as: None,
    };
    let for_some = NodeRules { tenants: Some(list(&["team-7", "*"])), one_user: Some(true), ..rules.clone() };
    let for_users = NodeRules { run_as: Some(1_000), ..rules.clone() };
    let all = [
        ("rules-register-node.cbor", rules),
        ("tenants-register-node.cbor", for_some),
        ("run-as-register-node.cbor", for_users),
    ];
    for (name, rules) in all {
        let register = Command::RegisterNode(RegisterNode {
            node: NodeId(300),
            incarnation: Incarnation(4),
            nonce: Nonce(7),
            offer: NodeOffer { allows: Some(allows()), rules: Some(Box::new(rules)), ..offer() },
            problems: Vec::new(),
        });
        assert_eq!(register.needs(), version::NODE_RULES);
        folder.check(name, &register);
    }
}

/// The user of a machine that a task runs as.
#[test]
fn who_a_task_runs_as_is_read_and_written_as_it_was_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let spec = SharedSpec::new(TaskSpec { run_as: Some(1_000), ..spec() });
    let command = Command::Submit(Submit { spec, ..submit(None, None) });
    assert_eq!(command.needs(), version::RUN_AS);
    folder.check("run-as-submit.cbor", &command);
}

/// Rules of a tenant, and the settings of a state that has them.
#[test]
fn rules_of_tenants_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let rules = [TenantSetting::MaxPriority(80), TenantSetting::Weight(300)];
    let own = [Setting::CrashLoopLosses(5), Setting::KeepForGpus(false)];
    let to = rules.map(|rule| Setting::Tenant(team(), rule)).into_iter().chain(own).collect();
    let command = Command::UpdateSettings(UpdateSettings { to, if_revision: None, by: operator() });
    assert_eq!(command.needs(), version::TENANT_RULES);
    folder.check("tenants-update-settings.cbor", &command);
    let mut state = State::default();
    for command in [Command::Configure(settings()), command] {
        apply(&mut state, StampedCommand { now: TimeMs(1_790_000_000_000), command }).unwrap();
    }
    let name = "tenants-snapshot.cbor";
    let stored = folder.bytes(name, || encode_snapshot(&state));
    let read = decode_snapshot(&stored).unwrap();
    check(&read).unwrap();
    let rules = TenantRules { max_priority: 80, weight: 300, images: ImageList::default(), dedicated: false };
    assert_eq!(read.settings().tenants.iter().collect::<Vec<_>>(), [(&team(), &rules)]);
    let rules = ClusterRules { crash_loop_losses: 5, keep_for_gpus: false, ..ClusterRules::default() };
    assert_eq!(read.settings().rules, rules);
    assert_same(name, &encode_snapshot(&read), &stored);
}

/// Images and nodes of tenants: each rule alone, and one whose others are as at first.
#[test]
fn images_and_nodes_of_tenants_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let images: ImageList = "ghcr.io/team/*,stint://tool".parse().unwrap();
    let other = Tenant::new("team-8").unwrap();
    let to = vec![
        Setting::Tenant(team(), TenantSetting::Images(images.clone())),
        Setting::Tenant(other.clone(), TenantSetting::Images(ImageList::default())),
        Setting::Tenant(other.clone(), TenantSetting::Dedicated(true)),
    ];
    let command = Command::UpdateSettings(UpdateSettings { to, if_revision: None, by: operator() });
    assert_eq!(command.needs(), version::TENANT_RULES);
    folder.check("tenant-images-update-settings.cbor", &command);
    let mut state = State::default();
    for command in [Command::Configure(settings()), command] {
        apply(&mut state, StampedCommand { now: TimeMs(1_790_000_000_000), command }).unwrap();
    }
    let name = "tenant-images-snapshot.cbor";
    let stored = folder.bytes(name, || encode_snapshot(&state));
    let read = decode_snapshot(&stored).unwrap();
    check(&read).unwrap();
    let at_first = |tenant: &Tenant| TenantRules::default_for(tenant);
    let expected = [
        (team(), TenantRules { images, ..at_first(&team()) }),
        (other.clone(), TenantRules { dedicated: true, ..at_first(&other) }),
    ];
    let rules = read.settings().tenants.iter().map(|(tenant, rules)| (tenant.clone(), rules.clone()));
    assert_eq!(rules.collect::<Vec<_>>(), expected);
    assert_same(name, &encode_snapshot(&read), &stored);
}

/// User numbers of tenants, and the range that they come from.
#[test]
fn uids_of_tenants_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let range = UidRange { first: 300_000, last: 300_999 };
    let to = vec![Setting::TenantUids(range)];
    let command = Command::UpdateSettings(UpdateSettings { to, if_revision: None, by: operator() });
    folder.check("uids-update-settings.cbor", &command);
    let of = |tenant: &str, number: u128| {
        let spec = SharedSpec::new(TaskSpec { priority: 50, ..spec() });
        let (tenant, first) = (Tenant::new(tenant).unwrap(), TaskId(number << 16));
        Command::Submit(Submit { tenant, first, name: None, key: None, spec, ..submit(None, None) })
    };
    let admit = Admit {
        disk: [1; 16],
        name: "gpu-1".into(),
        address: "10.0.0.1:7001".into(),
        token: None,
        speaks: version::TENANT_UIDS,
    };
    let made = || {
        let mut state = State::default();
        for command in
            [Command::Configure(settings()), Command::Admit(admit), of("team-7", 1), command, of("team-8", 2)]
        {
            apply(&mut state, StampedCommand { now: TimeMs(1_790_000_000_000), command }).unwrap();
        }
        encode_snapshot(&state)
    };
    let name = "uids-snapshot.cbor";
    let stored = folder.bytes(name, made);
    let mut read = decode_snapshot(&stored).unwrap();
    check(&read).unwrap();
    let uids: Vec<(&str, u32)> = read.tenant_uids().map(|(tenant, uid)| (tenant.as_str(), uid)).collect();
    assert_eq!(uids, [("team-7", 200_000), ("team-8", 300_000)]);
    assert_eq!(read.settings().rules.tenant_uids, range);
    assert_same(name, &encode_snapshot(&read), &stored);
    // It goes on behind the last one.
    let stamped = StampedCommand { now: read.time(), command: of("team-9", 3) };
    apply(&mut read, stamped).unwrap();
    assert_eq!(read.tenant_uid(&Tenant::new("team-9").unwrap()), Some(300_001));
}

/// After which ends outputs are kept, which of them are executable, and which were not kept.
#[test]
fn outputs_of_all_ends_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let submit = submit(None, None);
    let files = Some(Box::new(TaskFiles { keep: Some(KeepOutputs::Success), ..files() }));
    let spec = SharedSpec::new(TaskSpec { files, ..TaskSpec::clone(&submit.spec) });
    let submit = Command::Submit(Submit { spec, ..submit });
    let mut end = AttemptEnd { kind: EndKind::TimedOut, ..ends_with_outputs().remove(0) };
    end.outputs.iter_mut().flatten().take(1).for_each(|kept| kept.executable = Some(true));
    end.not_kept = Some(vec![NotKept::new("out/pipe", "is a pipe")].into());
    let ends = Command::RecordEnds { node: NodeId(1), ends: vec![end] };
    for (name, command) in [("outputs-submit.cbor", submit), ("outputs-record-ends.cbor", ends)] {
        assert_eq!(command.needs(), version::OUTPUTS_OF_ALL_ENDS);
        folder.check(name, &command);
    }
}

fn ending() -> Ending {
    let blob = |byte| Some(Blob { digest: Digest::from_bytes([byte; 32]), size: 70_000 });
    Ending { summary: Some(vec![1, 2, 3].into()), stdout: blob(7), stderr: blob(8) }
}

/// What an attempt wrote last, and what a task wants to become of its output.
#[test]
fn endings_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let submit = submit(None, None);
    let files = |logs, record| Some(Box::new(TaskFiles { logs, record, ..files() }));
    let of = |files| {
        let spec = SharedSpec::new(TaskSpec { files, ..TaskSpec::clone(&submit.spec) });
        Command::Submit(Submit { spec, ..submit.clone() })
    };
    let end = AttemptEnd { ending: Some(Box::new(ending())), ..ends_with_outputs().remove(0) };
    for (name, command) in [
        ("endings-submit-logs.cbor", of(files(Some(KeepLogs::Cluster), None))),
        ("endings-submit-record.cbor", of(files(None, Some(false)))),
        ("endings-record-ends.cbor", Command::RecordEnds { node: NodeId(1), ends: vec![end] }),
    ] {
        assert_eq!(command.needs(), version::ENDINGS);
        folder.check(name, &command);
    }
}

/// The record of an attempt has the number of what it wrote.
#[test]
fn a_snapshot_with_an_ending_is_read_and_written_as_it_was_stored() {
    let name = "endings-snapshot.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_ending()));
    let state = decode_snapshot(&stored).unwrap();
    let (_, task) = state.finished_before(TaskId(u128::MAX)).next().unwrap();
    let number = task.fields.records[0].ending.unwrap();
    assert!(number < state.next_number());
    assert_same(name, &encode_snapshot(&state), &stored);
}

fn with_ending() -> State {
    let mut state = with_task();
    let end = AttemptEnd::new(LeaseId { task: TASK, attempt: 1 }, EndKind::Exited(0), String::new(), 5);
    let ends = vec![AttemptEnd { ending: Some(Box::new(ending())), ..end }];
    let changes = plan_and_end(&mut state, 1, ends);
    let kept =
        |change: &Change| matches!(change, Change::EndingKept { ending: kept, .. } if **kept == ending());
    assert!(changes.iter().any(kept), "{changes:?}");
    state
}

/// The record of an attempt has what it left, and a mark at those files whose bytes stay.
#[test]
fn a_snapshot_with_outputs_of_attempts_is_read_and_written_as_it_was_stored() {
    let name = "attempts-snapshot.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_outputs()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    let (_, task) = state.finished_before(TaskId(u128::MAX)).next().unwrap();
    let pinned = |files: &[KeptFile]| files.iter().map(|file| file.is_pinned()).collect::<Vec<_>>();
    assert_eq!(pinned(task.fields.records[0].outputs()), [true, false]);
    assert_eq!(pinned(&task.fields.outcome.outputs.unwrap()), [true, false]);
    assert_same(name, &encode_snapshot(&state), &stored);
}

fn with_outputs() -> State {
    let mut state = with_task();
    let blob = |byte| Blob { digest: Digest::from_bytes([byte; 32]), size: 7 };
    let keep = KeepBlob { tenant: team(), blob: blob(1), keep_ms: 1_000, holders: vec![NodeId(1)] };
    run(&mut state, Command::KeepBlob(keep));
    let kept = |byte| KeptFile {
        path: format!("out/{byte}"),
        blob: blob(byte),
        stored: true,
        executable: None,
        pinned: None,
    };
    for (attempt, kind) in [(1, EndKind::Drained), (2, EndKind::Exited(0))] {
        let end = AttemptEnd::new(LeaseId { task: TASK, attempt }, kind, String::new(), 5);
        let outputs = Some([kept(1), kept(2)].into());
        plan_and_end(&mut state, attempt, vec![AttemptEnd { outputs, ..end }]);
    }
    state
}

const TASK: TaskId = TaskId(7 << 16);

fn run(state: &mut State, command: Command) -> Vec<Change> {
    apply(state, StampedCommand { now: TimeMs(1_790_000_000_000), command }).unwrap()
}

/// A cluster of one node that speaks version 5, and a task that waits.
fn with_task() -> State {
    let mut state = State::default();
    run(&mut state, Command::Configure(Settings::default()));
    let (name, address, speaks) = ("n1".into(), "10.0.0.1:7001".into(), Version(5));
    run(&mut state, Command::Admit(Admit { disk: [1; 16], name, address, token: None, speaks }));
    let (node, incarnation, nonce, problems) = (NodeId(1), Incarnation(1), Nonce(4), Vec::new());
    let register = RegisterNode { node, incarnation, nonce, offer: offer(), problems };
    run(&mut state, Command::RegisterNode(register));
    let spec = TaskSpec::new(Class::CpuShort, vec!["/bin/true".into()]);
    let spec = SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap());
    let (count, name, key, key_made_ms) = (1, None, None, None);
    let submit = Submit { tenant: team(), first: TASK, count, name, spec, key, digest: 0, key_made_ms };
    run(&mut state, Command::Submit(submit));
    state
}

fn plan_and_end(state: &mut State, attempt: u32, ends: Vec<AttemptEnd>) -> Vec<Change> {
    let (node, incarnation, runtime) = (NodeId(1), Incarnation(1), Runtime::Crun);
    let assignment = Assignment { task: TASK, node, incarnation, runtime, gpus: Vec::new() };
    run(state, Command::CommitPlan(Plan { assignments: vec![assignment] }));
    assert!(state.leases().any(|(_, lease)| lease.attempt == attempt));
    run(state, Command::RecordEnds { node, ends })
}
