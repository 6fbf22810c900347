//! Commands and snapshots as released versions stored them (`tests/stored`). The number in the name of a command's
//! file is the command's; the one in a snapshot's name is the format.
#![allow(clippy::unwrap_used)]

#[path = "support/stored.rs"]
mod stored;

use std::collections::BTreeMap;

use stint_protocol::*;
use stint_scheduler::*;
use stored::{Stored, assert_reads, assert_same};

/// Every command there ever was, by number. A number stays with its command; one that is no longer used moves to
/// `RETIRED` and its file stays.
const COMMANDS: &[(u32, &str)] = &[
    (0, "configure"),
    (1, "submit"),
    (2, "cancel"),
    (3, "register-node"),
    (4, "record-ends"),
    (5, "commit-plan"),
    (6, "expire-leases"),
    (7, "set-node-mode"),
    (8, "remove-node"),
    (9, "admit"),
    (10, "add-join-token"),
    (11, "tick"),
    (12, "set-node-address"),
    (13, "announce"),
    (14, "raise-version"),
    (15, "register-image"),
    (16, "delete-image"),
    (17, "keep-blob"),
    (18, "forget-blob"),
    (19, "hold-blobs"),
    (20, "lose-blobs"),
    (21, "drop-blobs"),
    (22, "suspend"),
    (23, "wake"),
    (24, "update-settings"),
];
const RETIRED: &[(u32, &str)] = &[];
/// Commands that got fields since they were stored first, with the layout that is written today; files of the earlier
/// layouts stay, and are read.
const LAYOUTS: &[(u32, u32)] = &[(1, 5), (3, 4), (4, 4), (9, 2)];

/// Without a wildcard, so that a new command does not compile until it stands here; then it is missing in `COMMANDS`
/// and in `samples`.
fn name_of(command: &Command) -> &'static str {
    match command {
        Command::Configure(_) => "configure",
        Command::Submit(_) => "submit",
        Command::Cancel(_) => "cancel",
        Command::RegisterNode(_) => "register-node",
        Command::RecordEnds { .. } => "record-ends",
        Command::CommitPlan(_) => "commit-plan",
        Command::ExpireLeases(_) => "expire-leases",
        Command::SetNodeMode { .. } => "set-node-mode",
        Command::RemoveNode(_) => "remove-node",
        Command::Admit(_) => "admit",
        Command::AddJoinToken { .. } => "add-join-token",
        Command::Tick => "tick",
        Command::SetNodeAddress { .. } => "set-node-address",
        Command::SetNodeVersion { .. } => "announce",
        Command::RaiseVersion { .. } => "raise-version",
        Command::RegisterImage(_) => "register-image",
        Command::DeleteImage { .. } => "delete-image",
        Command::KeepBlob(_) => "keep-blob",
        Command::ForgetBlob { .. } => "forget-blob",
        Command::HoldBlobs { .. } => "hold-blobs",
        Command::LoseBlobs { .. } => "lose-blobs",
        Command::DropBlobs { .. } => "drop-blobs",
        Command::Suspend { .. } => "suspend",
        Command::Wake(_) => "wake",
        Command::UpdateSettings(_) => "update-settings",
    }
}

/// One of each command, with every field that may be absent given.
fn samples() -> Vec<Command> {
    vec![
        Command::Configure(settings()),
        Command::Submit(commented_submit()),
        Command::Cancel(TaskId(0x0190_a1b2_0000_7000_8000_0000_0001_0003)),
        Command::RegisterNode(RegisterNode {
            node: NodeId(300),
            incarnation: Incarnation(4),
            nonce: Nonce(u64::MAX),
            offer: NodeOffer { allows: Some(allows()), ..offer() },
            problems: problems(),
        }),
        Command::RecordEnds {
            node: NodeId(2),
            ends: ends().into_iter().chain(ends_with_outputs()).chain([end_with_usage()]).collect(),
        },
        Command::CommitPlan(Plan {
            assignments: vec![
                assignment(1, Runtime::Crun, &["GPU-1", "GPU-2"]),
                assignment(2, Runtime::Process, &[]),
            ],
        }),
        Command::ExpireLeases(vec![lease(1, 1), lease(2, 70_000)]),
        Command::SetNodeMode { node: NodeId(2), mode: NodeMode::Draining, within_ms: Some(600_000) },
        Command::RemoveNode(NodeId(3)),
        Command::Admit(admit(Version(2))),
        Command::AddJoinToken { hash: [0x70; 32], valid_ms: 3_600_000 },
        Command::Tick,
        Command::SetNodeAddress { node: NodeId(300), address: "gpu-7.example:7001".into() },
        Command::SetNodeVersion { node: NodeId(300), speaks: Version(2) },
        Command::RaiseVersion { to: Version(2) },
        Command::RegisterImage(register_image(7)),
        Command::DeleteImage { tenant: team(), image: ImageId(7 << 64) },
        Command::KeepBlob(KeepBlob {
            tenant: team(),
            blob: blob(8),
            keep_ms: 3_600_000,
            holders: vec![NodeId(2)],
        }),
        Command::ForgetBlob { tenant: team(), blob: blob(8).digest },
        Command::HoldBlobs { node: NodeId(300), blobs: vec![blob(7).digest, blob(8).digest] },
        Command::LoseBlobs { node: NodeId(300), blobs: vec![blob(7).digest] },
        Command::DropBlobs { blobs: vec![blob(9).digest] },
        Command::Suspend {
            task: TaskId(0x0190_a1b2_0000_7000_8000_0000_0001_0003),
            reason: SuspendReason::Paused,
            wake_at: Some(TimeMs(1_790_000_100_000)),
        },
        Command::Wake(TaskId(0x0190_a1b2_0000_7000_8000_0000_0001_0003)),
        Command::UpdateSettings(UpdateSettings { to: every_setting(), if_revision: Some(7), by: operator() }),
    ]
}

/// One of each, with values that none has at first.
fn every_setting() -> Vec<Setting> {
    let rules = [
        ClassSetting::Runtimes(vec![Runtime::Docker, Runtime::Crun]),
        ClassSetting::DefaultTimeoutMs(700_000),
        ClassSetting::MaxTimeoutMs(7_200_000),
        ClassSetting::DefaultCpuMilli(2_500),
        ClassSetting::DefaultMemoryBytes(5 << 30),
        ClassSetting::DefaultGpus(2),
        ClassSetting::MaxGpus(4),
        ClassSetting::LeaseTtlMs(30_000),
    ];
    let own = [
        Setting::Placement(Placement::BinPack),
        Setting::KeepFinished(1_000),
        Setting::KeepFinishedMs(86_400_000),
        Setting::MaxLiveTasks(70_000),
    ];
    own.into_iter().chain(rules.map(|rule| Setting::Class(Class::Gpu, rule))).collect()
}

fn operator() -> ChangedBy {
    ChangedBy { role: "admin".into(), proof: "admin_certificate".into(), peer: NodeId(300) }
}

fn team() -> Tenant {
    Tenant::new("team-7").unwrap()
}

fn blob(number: u8) -> Blob {
    Blob { digest: Digest::from_bytes([number; 32]), size: u64::from(number) << 30 }
}

fn register_image(number: u8) -> RegisterImage {
    RegisterImage {
        id: ImageId(u128::from(number) << 64),
        tenant: team(),
        name: ImageName::new("team/tool:2").unwrap(),
        source: ImageSource::Executable(blob(number)),
        description: "what it does".into(),
        holders: vec![NodeId(1), NodeId(2)],
    }
}

fn pinned() -> PinnedImage {
    let RegisterImage { id, name, source, .. } = register_image(7);
    PinnedImage { id, name, source }
}

fn admit(speaks: Version) -> Admit {
    Admit {
        disk: [0xd1; 16],
        name: "gpu-7".into(),
        address: "10.0.0.7:7001".into(),
        token: Some([0x70; 32]),
        speaks,
    }
}

/// With the rules of the classes as they were when the files were written.
fn settings() -> Settings {
    let mut settings =
        Settings { cluster: "stored".into(), placement: Placement::Spread, ..Settings::default() };
    let slurm = &mut settings.classes[Class::GpuSlurm as usize];
    (slurm.max_gpus, slurm.max_timeout_ms) = (1, 86_400_000);
    settings
}

fn submit(files: Option<TaskFiles>, pinned: Option<PinnedImage>) -> Submit {
    Submit {
        tenant: team(),
        first: TaskId(0x0190_a1b2_0000_7000_8000_0000_0001_0000),
        count: 3,
        name: Some(TaskName::new("train.fold_2").unwrap()),
        spec: SharedSpec::new(TaskSpec { files: files.map(Box::new), pinned, ..spec() }),
        key: Some(IdempotencyKey::new("key-1").unwrap()),
        digest: 0xfeed_f00d_dead_beef,
        key_made_ms: Some(1_790_000_000_000),
    }
}

fn limited_submit() -> Submit {
    let submit = submit(Some(files()), Some(pinned()));
    let limits = Some(Box::new(task_limits()));
    Submit { spec: SharedSpec::new(TaskSpec { limits, ..TaskSpec::clone(&submit.spec) }), ..submit }
}

fn commented_submit() -> Submit {
    let submit = limited_submit();
    let comment = Some("for the report of week 48".into());
    Submit { spec: SharedSpec::new(TaskSpec { comment, ..TaskSpec::clone(&submit.spec) }), ..submit }
}

fn task_limits() -> TaskLimits {
    TaskLimits {
        pids: Some(100),
        swap_bytes: Some(1 << 30),
        tmp_bytes: Some(2 << 30),
        shm_bytes: Some(8 << 30),
        network: Some(Network::Host),
        working_dir: Some("src".into()),
        mounts: None,
    }
}

fn allows() -> Vec<Allowance> {
    let crun = Allowance {
        runtime: Runtime::Crun,
        networks: vec![Network::None, Network::Host],
        pids: 512,
        tmp_bytes: 2 << 30,
        shm_bytes: 8 << 30,
        swap_bytes: 1 << 30,
        mounts: None,
    };
    vec![crun, Allowance::everything(Runtime::Mock)]
}

fn usage() -> Usage {
    Usage { cpu_ms: Some(1_500), peak_memory_bytes: Some(64 << 20), read_bytes: Some(0), written_bytes: None }
}

fn end_with_usage() -> AttemptEnd {
    let end = AttemptEnd::new(lease(30, 1), EndKind::Exited(0), String::new(), 2_000);
    AttemptEnd { usage: Some(Box::new(usage())), ..end }
}

fn problems() -> Vec<String> {
    vec!["memory limits are not enforced".into()]
}

fn spec() -> TaskSpec {
    TaskSpec {
        class: Class::Gpu,
        command: vec!["/bin/train".into(), "--epochs=3".into()],
        runtime: Some(Runtime::Docker),
        image: Some("registry.example/train:1".into()),
        env: pairs(&[("A", "1"), ("B", "")]),
        cpu_milli: 1_500,
        memory_bytes: 8 << 30,
        gpus: Some(GpuRequest { count: 2, model: Some("H200".into()), min_memory_bytes: 100 << 30 }),
        timeout_ms: 600_000,
        priority: 80,
        retry: RetryPolicy {
            max_attempts: 5,
            backoff_ms: 1_000,
            max_backoff_ms: 60_000,
            retry_failures: true,
        },
        on_lost: OnLost::Fail,
        constraints: pairs(&[("zone", "a")]),
        stop_grace_ms: 3_000,
        files: None,
        pinned: None,
        limits: None,
        comment: None,
    }
}

fn files() -> TaskFiles {
    let blob = Blob { digest: Digest::from_bytes([0xb1; 32]), size: 1 << 30 };
    let input = |path: &str, source| InputFile { path: path.into(), source, digest: None, executable: false };
    let checked = InputFile {
        digest: Some(blob.digest),
        executable: true,
        ..input("bin/run", InputSource::Content(b"#!".to_vec()))
    };
    let inputs = vec![
        checked,
        input("data", InputSource::File("/data/in".into())),
        input("model", InputSource::Blob(blob)),
    ];
    let outputs = vec![
        OutputPath { path: "out".into(), optional: false },
        OutputPath { path: "log".into(), optional: true },
    ];
    let secret = |name: &str, variable: Option<&str>| SecretUse {
        name: name.into(),
        variable: variable.map(String::from),
    };
    TaskFiles { inputs, outputs, secrets: vec![secret("token", None), secret("key", Some("API_KEY"))] }
}

fn ends_with_outputs() -> Vec<AttemptEnd> {
    let kept = |path: &str, stored| KeptFile {
        path: path.into(),
        blob: Blob { digest: Digest::from_bytes([0xb2; 32]), size: 7 },
        stored,
    };
    let end = |task, kind, outputs: Option<Box<[KeptFile]>>| AttemptEnd {
        lease: lease(task, 1),
        kind,
        message: String::new(),
        run_ms: 5,
        outputs,
        usage: None,
    };
    vec![
        end(20, EndKind::Exited(0), Some(vec![kept("out/a", true), kept("log", false)].into())),
        end(21, EndKind::OutputMissing, None),
        end(22, EndKind::OutputLost, None),
    ]
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn gpu(id: &str, index: u32) -> GpuInfo {
    GpuInfo { id: GpuId::new(id).unwrap(), model: "NVIDIA H200".into(), memory_bytes: 141 << 30, index }
}

fn offer() -> NodeOffer {
    NodeOffer {
        resources: Resources { cpu_milli: 16_000, memory_bytes: 64 << 30 },
        gpus: vec![gpu("GPU-1", 0), gpu("GPU-2", 1)],
        runtimes: Runtime::ALL.to_vec(),
        classes: Class::ALL.to_vec(),
        labels: pairs(&[("zone", "a")]),
        slots: 8,
        quarantined: vec![QuarantinedGpu { info: gpu("GPU-3", 2), used_by: "process 4711 (python3)".into() }],
        allows: None,
        rules: None,
    }
}

fn lease(task: u128, attempt: u32) -> LeaseId {
    LeaseId { task: TaskId(task << 16), attempt }
}

fn ends() -> Vec<AttemptEnd> {
    let kinds = [
        EndKind::Exited(0),
        EndKind::Exited(-1),
        EndKind::Signalled(11),
        EndKind::TimedOut,
        EndKind::OutOfMemory,
        EndKind::Cancelled,
        EndKind::Lost,
        EndKind::StartFailed,
        EndKind::NotRunnable,
        EndKind::Denied,
        EndKind::Drained,
    ];
    let end = |(at, kind): (usize, &EndKind)| {
        AttemptEnd::new(lease(at as u128, 1), kind.clone(), format!("end {at}"), 1_000 * at as u64)
    };
    kinds.iter().enumerate().map(end).collect()
}

fn assignment(task: u128, runtime: Runtime, gpus: &[&str]) -> Assignment {
    Assignment {
        task: TaskId(task << 16),
        node: NodeId(2),
        incarnation: Incarnation(1),
        runtime,
        gpus: gpus.iter().map(|id| GpuId::new(id).unwrap()).collect(),
    }
}

/// The number under which a command is written.
fn number_of(command: &Command) -> u32 {
    let bytes = minicbor::to_vec(command).unwrap();
    let mut decoder = minicbor::Decoder::new(&bytes);
    assert_eq!(decoder.array().unwrap(), Some(2), "a command is its number and its fields");
    decoder.u32().unwrap()
}

fn file_of(number: u32, name: &str) -> String {
    match LAYOUTS.iter().find(|(of, _)| *of == number) {
        Some((_, layout)) => format!("command-{number}-{name}-{layout}.cbor"),
        None => format!("command-{number}-{name}.cbor"),
    }
}

/// As a node registered before it said what it allows.
fn register() -> Command {
    Command::RegisterNode(RegisterNode {
        node: NodeId(300),
        incarnation: Incarnation(4),
        nonce: Nonce(u64::MAX),
        offer: offer(),
        problems: problems(),
    })
}

/// Files of layouts that are no longer written.
fn earlier() -> Vec<(&'static str, Command)> {
    vec![
        ("command-1-submit.cbor", Command::Submit(submit(None, None))),
        ("command-1-submit-3.cbor", Command::Submit(submit(Some(files()), Some(pinned())))),
        ("command-1-submit-4.cbor", Command::Submit(limited_submit())),
        ("command-3-register-node.cbor", register()),
        (
            "command-4-record-ends-2.cbor",
            Command::RecordEnds {
                node: NodeId(2),
                ends: ends().into_iter().chain(ends_with_outputs()).collect(),
            },
        ),
        ("command-4-record-ends.cbor", Command::RecordEnds { node: NodeId(2), ends: ends() }),
        ("command-9-admit.cbor", Command::Admit(admit(version::OLDEST))),
    ]
}

#[test]
fn commands_keep_their_numbers() {
    let found: Vec<(u32, &str)> = samples().iter().map(|c| (number_of(c), name_of(c))).collect();
    assert_eq!(found, COMMANDS, "a command's number is never changed, nor given to another command");
    let mut numbers: Vec<u32> = COMMANDS.iter().chain(RETIRED).map(|(number, _)| *number).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), COMMANDS.len() + RETIRED.len(), "two commands have one number");
}

#[test]
fn commands_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    for command in samples() {
        folder.check(&file_of(number_of(&command), name_of(&command)), &command);
    }
}

/// A leader proposes none of them before every peer understands it.
#[test]
fn what_has_to_do_with_images_needs_version_3() {
    for command in samples().iter().filter(|command| (15..=21).contains(&number_of(command))) {
        assert_eq!(command.needs(), version::IMAGES, "{command:?}");
    }
    let naming = |image: &str| {
        let spec = SharedSpec::new(TaskSpec { image: Some(image.into()), ..spec() });
        Command::Submit(Submit { spec, ..submit(None, None) }).needs()
    };
    assert_eq!(naming("registry.example/train:1"), version::OLDEST);
    assert_eq!(naming("stint://train"), version::IMAGES);
}

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
    };
    let register = Command::RegisterNode(RegisterNode {
        node: NodeId(300),
        incarnation: Incarnation(4),
        nonce: Nonce(7),
        offer: NodeOffer { allows: Some(allows()), rules: Some(Box::new(rules)), ..offer() },
        problems: Vec::new(),
    });
    assert_eq!(register.needs(), version::NODE_RULES);
    folder.check("rules-register-node.cbor", &register);
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
    let rules = TenantRules { max_priority: 80, weight: 300 };
    assert_eq!(read.settings().tenants.iter().collect::<Vec<_>>(), [(&team(), &rules)]);
    assert_eq!(read.settings().rules, ClusterRules { crash_loop_losses: 5, keep_for_gpus: false });
    assert_same(name, &encode_snapshot(&read), &stored);
}

#[test]
fn changes_of_settings_need_version_5() {
    let changing = samples().into_iter().find(|command| matches!(command, Command::UpdateSettings(_)));
    assert_eq!(changing.unwrap().needs(), version::SETTINGS);
}

#[test]
fn limits_of_tasks_need_version_4() {
    let before: Vec<Command> = earlier().into_iter().map(|(_, command)| command).collect();
    let (limited, now) = (Command::Submit(limited_submit()), samples());
    // The first ones offer every runtime there is, Slurm too, which no node did before version 4.
    let offers_slurm = |command: &Command| matches!(command, Command::RegisterNode(_));
    let mut others = before.iter().filter(|command| **command != limited && !offers_slurm(command));
    assert!(others.all(|command| command.needs() < version::TASK_LIMITS));
    for command in [&limited, &now[3], &now[4]] {
        assert_eq!(command.needs(), version::TASK_LIMITS, "{command:?}");
    }
}

#[test]
fn comments_of_tasks_need_version_5() {
    assert_eq!(samples()[1].needs(), version::COMMENTS);
}

/// What says that it is pinned and names no registered image is not.
#[test]
fn only_the_registry_pins() {
    let mut state = without_images();
    let Command::Submit(mut submit) = small_submit(8, Class::CpuShort) else { panic!("a submit") };
    submit.spec = SharedSpec::new(TaskSpec { pinned: Some(pinned()), ..TaskSpec::clone(&submit.spec) });
    let (now, first) = (state.time(), submit.first);
    apply(&mut state, StampedCommand { now, command: Command::Submit(submit) }).unwrap();
    check(&state).unwrap();
    assert_eq!(state.task(first).unwrap().spec.pinned, None);
}

#[test]
fn what_earlier_versions_stored_is_read() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    for (file, command) in earlier() {
        assert_reads(file, &folder.bytes(file, || panic!("{file} is missing")), &command);
    }
}

#[test]
fn every_command_is_stored_and_every_file_is_known() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let mut expected: Vec<String> =
        COMMANDS.iter().chain(RETIRED).map(|(number, name)| file_of(*number, name)).collect();
    expected.extend(earlier().iter().map(|(file, _)| file.to_string()));
    expected.extend([
        "snapshot-1.cbor".into(),
        "snapshot-2.cbor".into(),
        "snapshot-3.cbor".into(),
        "snapshot-4.cbor".into(),
        "snapshot-5.cbor".into(),
        "comment-snapshot.cbor".into(),
        "snapshot-6.cbor".into(),
        "rules-register-node.cbor".into(),
        "tenants-snapshot.cbor".into(),
        "tenants-update-settings.cbor".into(),
        "mounts-submit.cbor".into(),
        "mounts-register-node.cbor".into(),
    ]);
    expected.sort();
    assert_eq!(folder.names(), expected);
}

/// A submit under a key of its own: one named task, or two unnamed ones that share a spec.
fn small_submit(task: u128, class: Class) -> Command {
    let rules = ClassRules::default_for(class);
    let mut spec = TaskSpec::new(class, vec!["/bin/true".into()]);
    spec.retry.backoff_ms = 20_000;
    Command::Submit(Submit {
        tenant: Tenant::new("team-7").unwrap(),
        first: TaskId(task << 16),
        count: if class == Class::CpuLong { 2 } else { 1 },
        name: (class != Class::CpuLong).then(|| TaskName::new(&format!("task-{task}")).unwrap()),
        spec: SharedSpec::new(spec.resolve(&rules).unwrap()),
        key: Some(IdempotencyKey::new(&format!("key-{task}")).unwrap()),
        digest: task as u64,
        key_made_ms: None,
    })
}

/// What the stored snapshot holds, in words. That the state was made by commands does not matter here: what they do may
/// change, what was stored may not.
fn describe(state: &State) -> Vec<String> {
    let mut lines = vec![state.version().to_string()];
    lines.push(format!(
        "{} {:?} at {}: {} queued, {} wait, {} run, {} finished ever",
        state.settings().cluster,
        state.settings().placement,
        state.time().0,
        Class::ALL.into_iter().map(|class| state.queued(class)).sum::<usize>(),
        state.waiting(),
        state.running(),
        state.finished_total()
    ));
    for node in state.nodes() {
        let backoff = node.backing_off(state.time()).map(|backoff| (backoff.tasks, backoff.message.clone()));
        let (mode, gpus, running) = (node.mode, node.offer.gpus.len(), node.running);
        let by = node.drain_by.map(|at| at.0);
        let facts = format!("{mode:?} by {by:?}, {gpus} GPUs, runs {running}, held {backoff:?}");
        lines.push(format!("{:?} speaks {}, {facts}", node.id, node.speaks.0));
    }
    for (id, task) in state.tasks_before(TaskId(u128::MAX)) {
        let (name, fields) = (task.fields.name.as_ref().map(TaskName::as_str), &task.fields);
        let (records, starts) = (fields.records.len(), fields.failed_starts);
        let leased = task.leased().map(|leased| (leased.node, &leased.gpus, leased.is_cancelled()));
        let facts = format!("{:?} index {}, leased {leased:?}", task.spec.class, fields.index);
        lines.push(format!("{id} {name:?} {facts}, {records} ended, {starts} failed starts"));
    }
    for (id, task) in state.finished_before(TaskId(u128::MAX)) {
        lines.push(format!("{id} {}: {}", task.fields.outcome.as_str(), task.fields.outcome.message));
    }
    lines.push(format!("join token valid: {}", state.join_token_valid(&[0x71; 32])));
    lines
}

/// What the snapshots hold; the first one knows of no versions.
fn described(version: u32) -> Vec<String> {
    let nodes = [
        "Draining by Some(1790003600220), 0 GPUs, runs 0, held None",
        "Ready by None, 2 GPUs, runs 1, held Some((3, \"the disk is full\"))",
    ];
    let nodes = nodes.iter().zip(1..).map(|(facts, id)| format!("node {id} speaks {version}, {facts}"));
    let mut lines = vec![format!("version {version}")];
    let more = u32::from(version == 3);
    let (queued, wait) = (2 + more, 5 + more);
    lines.push(format!(
        "stored Spread at 1790000000230: {queued} queued, {wait} wait, 1 run, 1 finished ever"
    ));
    lines.extend(nodes);
    lines.extend((version == 3).then(|| TASK_7.to_string()));
    lines.extend(TASKS.iter().map(|line| line.to_string()));
    lines
}

const TASK_7: &str = "00000000-0000-0000-0000-000000070000 Some(\"task-7\") CpuShort index 0, leased None, 0 ended, 0 failed starts";
const TASKS: &[&str] = &[
    "00000000-0000-0000-0000-000000060000 Some(\"task-6\") CpuShort index 0, leased None, 1 ended, 1 failed starts",
    "00000000-0000-0000-0000-000000050000 Some(\"task-5\") CpuShort index 0, leased None, 1 ended, 1 failed starts",
    "00000000-0000-0000-0000-000000040001 None CpuLong index 1, leased None, 0 ended, 0 failed starts",
    "00000000-0000-0000-0000-000000040000 None CpuLong index 0, leased None, 0 ended, 0 failed starts",
    "00000000-0000-0000-0000-000000030000 Some(\"task-3\") CpuShort index 0, leased None, 1 ended, 1 failed starts",
    "00000000-0000-0000-0000-000000010000 Some(\"task-1\") Gpu index 0, leased Some((node 2, [\"GPU-1\"], true)), 0 ended, 0 failed starts",
    "00000000-0000-0000-0000-000000020000 failed: exit code 3",
    "join token valid: true",
];

/// The layout before versions is read; its cluster and its members speak the oldest one.
#[test]
fn a_snapshot_without_versions_is_read() {
    let stored =
        Stored::of_crate(env!("CARGO_MANIFEST_DIR")).bytes("snapshot-1.cbor", || panic!("is missing"));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    assert_eq!(describe(&state), described(1));
}

/// The layout before images is read; there are none in it.
#[test]
fn a_snapshot_without_images_is_read() {
    let state = without_images();
    check(&state).unwrap();
    assert_eq!(describe(&state), described(2));
    assert_eq!(describe_images(&state), Vec::<String>::new());
}

fn without_images() -> State {
    let stored =
        Stored::of_crate(env!("CARGO_MANIFEST_DIR")).bytes("snapshot-2.cbor", || panic!("is missing"));
    decode_snapshot(&stored).unwrap()
}

/// The state of before, of a cluster that was raised to version 3 and has images: one that is listed, one that was
/// replaced and is used, and bytes that are kept, lost, and unused.
fn with_images() -> State {
    let mut state = without_images();
    let mut run = |command: Command| {
        let now = state.time();
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    };
    for node in 1..=2 {
        run(Command::SetNodeVersion { node: NodeId(node), speaks: Version(3) });
    }
    run(Command::RaiseVersion { to: Version(3) });
    run(Command::RegisterImage(register_image(7)));
    let Command::Submit(mut submit) = small_submit(7, Class::CpuShort) else { panic!("a submit") };
    let image = Some("stint://team/tool:2".into());
    submit.spec = SharedSpec::new(TaskSpec { image, ..TaskSpec::clone(&submit.spec) });
    run(Command::Submit(submit));
    run(Command::RegisterImage(register_image(8)));
    let keep = |number, keep_ms| {
        let holders = vec![NodeId(2)];
        Command::KeepBlob(KeepBlob { tenant: team(), blob: blob(number), keep_ms, holders })
    };
    run(keep(8, 3_600_000));
    run(keep(9, 7_200_000));
    run(Command::ForgetBlob { tenant: team(), blob: blob(9).digest });
    run(Command::LoseBlobs { node: NodeId(1), blobs: vec![blob(8).digest] });
    state
}

fn describe_images(state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for (id, task) in state.tasks_before(TaskId(u128::MAX)) {
        let pinned = task.spec.pinned.as_ref().and_then(|pinned| state.image(pinned.id));
        lines
            .extend(pinned.map(|image| format!("{id} uses {:x}, listed {}", image.id.0 >> 64, image.listed)));
    }
    for image in state.images_after(&team(), None) {
        lines.push(format!("{:x} {} listed: {}", image.id.0 >> 64, image.name, image.description));
    }
    for (digest, record) in state.blobs() {
        let (number, kept) = (digest.bytes()[0], state.tenant_has(&team(), digest));
        lines.push(format!(
            "blob {number} on {:?}, unused {:?}, kept {kept}",
            record.holders, record.unused_since
        ));
    }
    lines
}

const IMAGES: &[&str] = &[
    "00000000-0000-0000-0000-000000070000 uses 7, listed false",
    "8 team/tool:2 listed: what it does",
    "blob 7 on [node 1, node 2], unused None, kept true",
    "blob 8 on [node 2], unused None, kept true",
    "blob 9 on [node 2], unused Some(TimeMs(1790000000230)), kept false",
];

#[test]
fn a_snapshot_is_read_and_written_as_it_was_stored() {
    let name = "snapshot-3.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_images()));
    let mut state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    assert_eq!(describe(&state), described(3));
    assert_eq!(describe_images(&state), IMAGES);
    assert_same(name, &encode_snapshot(&state), &stored);

    // The keys are there too: a submit under one of them is repeated, not done again.
    let again = StampedCommand { now: state.time(), command: small_submit(4, Class::CpuLong) };
    let repeated = Change::Submitted { first: TaskId(4 << 16), count: 2, repeated: true };
    assert_eq!(apply(&mut state, again).unwrap(), [repeated]);
}

/// The state of before, of a cluster that was raised to version 4: a node that says what it allows, a task with limits,
/// and one that told what it used.
fn with_limits() -> State {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let mut state = decode_snapshot(&folder.bytes("snapshot-3.cbor", || panic!("is missing"))).unwrap();
    let holder = state.node(NodeId(2)).unwrap();
    let register = RegisterNode {
        node: holder.id,
        incarnation: holder.incarnation,
        nonce: holder.nonce,
        offer: NodeOffer { allows: Some(allows()), ..holder.offer.clone() },
        problems: Vec::new(),
    };
    let Command::Submit(mut submit) = small_submit(9, Class::CpuShort) else { panic!("a submit") };
    let limits = Some(Box::new(task_limits()));
    submit.spec = SharedSpec::new(TaskSpec { limits, ..TaskSpec::clone(&submit.spec) });
    let end = AttemptEnd { lease: lease(1, 1), ..end_with_usage() };
    for command in [
        Command::SetNodeVersion { node: NodeId(1), speaks: Version(4) },
        Command::SetNodeVersion { node: NodeId(2), speaks: Version(4) },
        Command::RaiseVersion { to: Version(4) },
        Command::RegisterNode(register),
        Command::Submit(submit),
        Command::RecordEnds { node: NodeId(2), ends: vec![end] },
    ] {
        let now = state.time();
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    }
    state
}

#[test]
fn a_snapshot_with_limits_is_read_and_written_as_it_was_stored() {
    let name = "snapshot-4.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_limits()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    assert_eq!(state.version(), Version(4));
    assert_eq!(state.node(NodeId(2)).unwrap().offer.allows, Some(allows()));
    assert_eq!(state.task(TaskId(9 << 16)).unwrap().spec.limits, Some(Box::new(task_limits())));
    let outcome = &state.finished(TaskId(1 << 16)).unwrap().fields.outcome;
    assert_eq!(outcome.usage, Some(Box::new(usage())));
    assert_same(name, &encode_snapshot(&state), &stored);
}

/// The state of before, in which a task sleeps and another one is paused.
fn with_suspended() -> State {
    let mut state = with_limits();
    let command = |task, reason, wake_at| Command::Suspend { task, reason, wake_at };
    for command in [
        command(TaskId(9 << 16), SuspendReason::Sleep, Some(TimeMs(1_790_000_900_000))),
        command(TaskId(7 << 16), SuspendReason::Paused, None),
    ] {
        assert!(command.needs() > version::CURRENT, "nobody can ask for it yet");
        let now = state.time();
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    }
    state
}

#[test]
fn a_snapshot_with_suspended_tasks_is_read_and_written_as_it_was_stored() {
    let name = "snapshot-5.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_suspended()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    let since = TimeMs(1_790_000_000_230);
    let suspended = |reason, wake_at| TaskState::Suspended { reason, since, wake_at };
    let state_of = |task: u128| state.task(TaskId(task << 16)).unwrap().fields.state.clone();
    assert_eq!(state_of(9), suspended(SuspendReason::Sleep, Some(TimeMs(1_790_000_900_000))));
    assert_eq!(state_of(7), suspended(SuspendReason::Paused, None));
    assert_eq!(state.suspended(), 2);
    assert_same(name, &encode_snapshot(&state), &stored);
}

/// The state of before, of a cluster that was raised to version 5, with a task that says what it is for.
fn with_comment() -> State {
    let mut state = with_suspended();
    let Command::Submit(mut submit) = small_submit(10, Class::CpuShort) else { panic!("a submit") };
    let comment = commented_submit().spec.comment.clone();
    submit.spec = SharedSpec::new(TaskSpec { comment, ..TaskSpec::clone(&submit.spec) });
    for command in [
        Command::SetNodeVersion { node: NodeId(1), speaks: Version(5) },
        Command::SetNodeVersion { node: NodeId(2), speaks: Version(5) },
        Command::RaiseVersion { to: Version(5) },
        Command::Submit(submit),
    ] {
        let now = state.time();
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    }
    state
}

/// The state of before, in which every setting was changed, one of them twice.
fn with_changed_settings() -> State {
    let mut state = with_suspended();
    let again = vec![Setting::Class(Class::Gpu, ClassSetting::LeaseTtlMs(20_000))];
    for to in [every_setting(), again] {
        let now = state.time();
        let command = Command::UpdateSettings(UpdateSettings { to, if_revision: None, by: operator() });
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    }
    state
}

#[test]
fn a_snapshot_with_a_comment_is_read_and_written_as_it_was_stored() {
    let name = "comment-snapshot.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_comment()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    assert_eq!(state.version(), Version(5));
    assert_eq!(state.task(TaskId(10 << 16)).unwrap().spec.comment, commented_submit().spec.comment);
    assert_same(name, &encode_snapshot(&state), &stored);
}

#[test]
fn a_snapshot_with_changed_settings_is_read_and_written_as_it_was_stored() {
    let name = "snapshot-6.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_changed_settings()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    let (settings, audit) = (state.settings(), state.audit());
    assert_eq!((audit.revision, audit.changes.len()), (2, 2));
    assert_eq!(audit.changes[0].settings.len(), every_setting().len());
    let last = &audit.changes[1];
    assert_eq!((&last.by, last.revision, last.at), (&operator(), 2, TimeMs(1_790_000_000_230)));
    let ttl = |ms| Setting::Class(Class::Gpu, ClassSetting::LeaseTtlMs(ms));
    assert_eq!(last.settings, [ChangedSetting { from: ttl(30_000), to: ttl(20_000) }]);
    let now: Vec<Setting> = every_setting().iter().map(|setting| setting.current(settings)).collect();
    assert_eq!(now[..11], every_setting()[..11]);
    // A new leader waits for a lease as long as it ever was.
    assert_eq!(
        (settings.class(Class::Gpu).lease_ttl_ms, state.longest_lease_ms(Class::Gpu)),
        (20_000, 30_000)
    );
    assert_same(name, &encode_snapshot(&state), &stored);
}
