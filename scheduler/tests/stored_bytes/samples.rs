//! One of each command, and those whose layouts are no longer written, with the values that were stored.

use stint_protocol::*;
use stint_scheduler::*;

use crate::nodes::{allows, end_with_usage, ends, ends_with_outputs, lease, offer, problems};
use crate::tasks::{blob, commented_submit, files, limited_submit, pinned, register_image, submit, team};

/// One of each command, with every field that may be absent given.
pub fn samples() -> Vec<Command> {
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
        Command::AddJoinToken { hash: [0x70; 32], valid_ms: 3_600_000, uses: Some(3) },
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
        Command::RemoveJoinToken { hash: [0x70; 32] },
        Command::AddAccessToken(add_access_token()),
        Command::RemoveAccessToken { hash: [0x73; 32].into() },
        Command::RotateAuthority(RotateAuthority { overlap_ms: 604_800_000, by: operator() }),
        Command::TrustAuthority(new_authority()),
        Command::CertifyNode { node: NodeId(2), fingerprint: [0x74; 32].into() },
        Command::DropOldAuthority { force: true },
        Command::Instance(Box::new(crate::instances::start())),
    ]
}

pub fn new_authority() -> NewAuthority {
    NewAuthority {
        root: "-----BEGIN CERTIFICATE----- new".into(),
        fingerprint: [0x74; 32].into(),
        endorsement: "-----BEGIN CERTIFICATE----- new by old".into(),
        old_root: "-----BEGIN CERTIFICATE----- old".into(),
        cluster_id: "3f2a9c01d2e4b5a6".into(),
    }
}

pub fn add_access_token() -> AddAccessToken {
    AddAccessToken {
        hash: [0x73; 32].into(),
        tenant: Some(team()),
        role: Role::Submit,
        valid_ms: 3_600_000,
        by: operator(),
        comment: "nightly".into(),
    }
}

/// Files of layouts that are no longer written.
pub fn earlier() -> Vec<(&'static str, Command)> {
    vec![
        ("command-1-submit.cbor", Command::Submit(submit(None, None))),
        ("command-1-submit-3.cbor", Command::Submit(submit(Some(files()), Some(pinned())))),
        ("command-1-submit-4.cbor", Command::Submit(limited_submit())),
        (
            "command-10-add-join-token.cbor",
            Command::AddJoinToken { hash: [0x70; 32], valid_ms: 3_600_000, uses: None },
        ),
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

/// One of each, with values that none has at first.
pub fn every_setting() -> Vec<Setting> {
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

pub fn operator() -> ChangedBy {
    ChangedBy { role: "admin".into(), proof: "admin_certificate".into(), peer: NodeId(300) }
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
pub fn settings() -> Settings {
    let mut settings =
        Settings { cluster: "stored".into(), placement: Placement::Spread, ..Settings::default() };
    let slurm = &mut settings.classes[Class::GpuSlurm as usize];
    (slurm.max_gpus, slurm.max_timeout_ms) = (1, 86_400_000);
    settings
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
