//! Log entries and messages between peers as released versions wrote them (`tests/stored`), so that a newer peer goes on
//! with an older one's log and the two can talk while a cluster is upgraded peer by peer.
#![allow(clippy::unwrap_used)]

#[path = "../../scheduler/tests/support/stored.rs"]
mod stored;

use minicbor::bytes::ByteArray;
use stint_node::applied_state::LogEntry;
use stint_node::blobs::message::{BlobChunk, OfferAnswer, OfferBlob, ReadBlob, RegistryRequest};
use stint_node::wire::{
    CallKind, EndingsAnswer, ForwardAnswer, Grant, KeptEnding, Launching, LeaderView, Orders, ReadEndings,
    ReadLog, Refusal, RefusalCode, Reply, Report, ReportAnswer, Request,
};
use stint_protocol::*;
use stint_scheduler::{
    AddAccessToken, Admit, ChangedBy, ClassSetting, Command, KeepBlob, NodeMode, RegisterImage, RegisterNode,
    RotateAuthority, Setting, StopReason, Submit, UpdateSettings,
};
use stored::{Stored, assert_reads};

fn stored() -> Stored {
    Stored::of_crate(env!("CARGO_MANIFEST_DIR"))
}

fn task() -> TaskId {
    TaskId(0x0190_a1b2_0000_7000_8000_0000_0001_0000)
}

fn lease() -> LeaseId {
    LeaseId { task: task(), attempt: 2 }
}

fn spec() -> SharedSpec {
    SharedSpec::new(TaskSpec::new(Class::CpuShort, vec!["/bin/true".into()]))
}

fn gpu() -> GpuInfo {
    GpuInfo { id: GpuId::new("GPU-1").unwrap(), model: "H200".into(), memory_bytes: 141 << 30, index: 3 }
}

fn end() -> AttemptEnd {
    AttemptEnd::new(lease(), EndKind::Exited(3), "exit code 3".into(), 12)
}

fn end_with_usage() -> AttemptEnd {
    let usage = Usage { cpu_ms: Some(7), peak_memory_bytes: Some(1 << 20), ..Usage::default() };
    AttemptEnd { usage: Some(Box::new(usage)), ..end() }
}

fn limited_spec() -> SharedSpec {
    let limits = TaskLimits { pids: Some(64), network: Some(Network::None), ..TaskLimits::default() };
    SharedSpec::new(TaskSpec { limits: Some(Box::new(limits)), ..TaskSpec::clone(&spec()) })
}

#[test]
fn a_log_entry_is_read_and_written_as_it_was_stored() {
    stored().check("entry-4.cbor", &entry(Version(4), end_with_usage()));
    // As it was written before peers said what they speak, and before attempts said what they used.
    for (file, speaks) in [("entry-1.cbor", version::OLDEST), ("entry-2.cbor", Version(2))] {
        let earlier = stored().bytes(file, || panic!("is missing"));
        assert_reads(file, &earlier, &entry(speaks, end()));
    }
}

/// An entry has no `PartialEq`, but its form for debugging shows every field.
fn entry(speaks: Version, end: AttemptEnd) -> LogEntry {
    let (name, address) = ("n1".into(), "10.0.0.1:7001".into());
    let commands = vec![
        Command::Admit(Admit { disk: [1; 16], name, address, token: Some([2; 32]), speaks }),
        Command::RecordEnds { node: NodeId(2), ends: vec![end] },
        Command::SetNodeMode { node: NodeId(2), mode: NodeMode::Draining, within_ms: Some(60_000) },
        Command::Tick,
    ];
    LogEntry { now: TimeMs(1_790_000_000_123), commands }
}

#[test]
fn a_report_is_read_and_written_as_it_was_stored() {
    let allows = Some(vec![Allowance::everything(Runtime::Mock)]);
    stored().check("report-4.cbor", &report(allows, end_with_usage()));
    let allows = Some(vec![Allowance::everything(Runtime::Mock)]);
    let begun_late = Report { not_begun: Some(vec![lease()]), ..report(allows, end_with_usage()) };
    stored().check("report-5.cbor", &begun_late);
    // As it was sent before nodes said what they allow.
    let first = stored().bytes("report-1.cbor", || panic!("is missing"));
    assert_reads("report-1.cbor", &first, &report(None, end()));
}

fn report(allows: Option<Vec<Allowance>>, end: AttemptEnd) -> Report {
    let offer = NodeOffer {
        resources: Resources { cpu_milli: 16_000, memory_bytes: 64 << 30 },
        gpus: vec![gpu()],
        runtimes: Runtime::ALL.to_vec(),
        classes: Class::ALL.to_vec(),
        labels: [("zone".to_string(), "a".to_string())].into(),
        slots: 8,
        quarantined: vec![QuarantinedGpu { info: gpu(), used_by: "process 4711 (python3)".into() }],
        allows,
        rules: None,
    };
    let register = RegisterNode {
        node: NodeId(2),
        incarnation: Incarnation(3),
        nonce: Nonce(4),
        offer,
        problems: vec!["no crun".into()],
    };
    Report {
        node: NodeId(2),
        incarnation: Incarnation(3),
        nonce: Nonce(4),
        sequence: 5,
        sent: BootMs(6_000_000),
        register: Some(register),
        running: vec![(lease(), true)],
        ends: vec![end],
        hold_ms: 1_000,
        not_begun: None,
    }
}

fn orders(spec: SharedSpec, stop: StopReason) -> ReportAnswer {
    orders_for(None, spec, stop)
}

fn orders_for(tenant_uid: Option<u32>, spec: SharedSpec, stop: StopReason) -> ReportAnswer {
    let launch = Launching {
        tenant: Tenant::new("team-7").unwrap(),
        spec,
        runtime: Runtime::Crun,
        gpus: vec![gpu()],
        index: 7,
        name: Some(TaskName::new("train").unwrap()),
        tenant_uid,
    };
    let grant =
        Grant { lease: lease(), ttl_ms: 10_000, kill_margin_ms: 500, stop: Some(stop), launch: Some(launch) };
    ReportAnswer::Orders(Orders {
        term: 9,
        incarnation: Incarnation(3),
        nonce: Nonce(4),
        answers: 5,
        grants: vec![grant],
        recorded: vec![lease()],
        more: true,
    })
}

#[test]
fn the_answers_to_a_report_are_read_and_written_as_they_were_stored() {
    let reasons = [("cancelled", StopReason::Cancelled), ("drained", StopReason::Drained)];
    for (name, stop) in reasons {
        let file = format!("report-answer-5-orders-{name}.cbor");
        stored().check(&file, &orders(limited_spec(), stop));
    }
    let with_uid = orders_for(Some(200_007), limited_spec(), StopReason::Cancelled);
    stored().check("report-answer-5-orders-uid.cbor", &with_uid);
    // As they were sent while cancelled and drained could both be said.
    for (file, spec) in
        [("report-answer-1-orders.cbor", spec()), ("report-answer-4-orders.cbor", limited_spec())]
    {
        let both = stored().bytes(file, || panic!("{file} is missing"));
        assert_reads(file, &both, &orders(spec, StopReason::Cancelled));
    }
    let answers = [
        ("not-leader", ReportAnswer::NotLeader(Some(NodeId(1)))),
        ("register", ReportAnswer::Register),
        ("stale", ReportAnswer::Stale("a newer process runs".into())),
    ];
    for (name, answer) in answers {
        stored().check(&format!("report-answer-1-{name}.cbor"), &answer);
    }
}

#[test]
fn forwarded_requests_are_read_and_written_as_they_were_stored() {
    let submit = |spec| Submit {
        tenant: Tenant::new("team-7").unwrap(),
        first: task(),
        count: 2,
        name: Some(TaskName::new("train").unwrap()),
        spec,
        key: Some(IdempotencyKey::new("key-1").unwrap()),
        digest: 0xfeed_f00d_dead_beef,
        key_made_ms: Some(1_790_000_000_000),
    };
    let mode = Request::SetNodeMode { node: NodeId(2), mode: NodeMode::Draining, within_ms: Some(60_000) };
    let requests = [
        ("submit", Request::Submit(submit(spec()))),
        ("cancel", Request::Cancel(vec![task()])),
        ("set-node-mode", mode),
        ("remove-node", Request::RemoveNode(NodeId(2))),
        (
            "create-join-token-5",
            Request::CreateJoinToken { hash: ByteArray::from([3; 32]), valid_ms: 60_000, uses: Some(3) },
        ),
        ("read-index", Request::ReadIndex),
        ("leader-view", Request::LeaderView),
        ("admit-2", admit(Version(2))),
        ("enlist", Request::Enlist(NodeId(2))),
        ("transfer-leader", Request::TransferLeader(Some(NodeId(3)))),
        ("readdress-2", readdress(Version(2))),
        ("registry", Request::Registry(RegistryRequest::Register(register_image()))),
        ("update-settings", Request::UpdateSettings(update_settings())),
        ("revoke-join-token", Request::RevokeJoinToken { hash: ByteArray::from([3; 32]) }),
        ("create-access-token", Request::CreateAccessToken(access_token())),
        ("revoke-access-token", Request::RevokeAccessToken { hash: ByteArray::from([3; 32]) }),
        ("not-begun", Request::NotBegun),
        (
            "rotate-authority",
            Request::RotateAuthority(RotateAuthority { overlap_ms: 60_000, by: administrator() }),
        ),
        ("drop-old-authority", Request::DropOldAuthority { force: true }),
        ("certify-node", Request::CertifyNode { node: NodeId(2), fingerprint: ByteArray::from([4; 32]) }),
    ];
    for (number, (name, request)) in requests.iter().enumerate() {
        stored().check(&format!("request-{number}-{name}.cbor"), request);
    }
    stored().check("request-0-submit-4.cbor", &Request::Submit(submit(limited_spec())));
    let commented = TaskSpec { comment: Some("why".into()), ..TaskSpec::clone(&limited_spec()) };
    stored().check("request-0-submit-5.cbor", &Request::Submit(submit(SharedSpec::new(commented))));
}

fn administrator() -> ChangedBy {
    ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(2) }
}

fn access_token() -> AddAccessToken {
    AddAccessToken {
        hash: ByteArray::from([3; 32]),
        tenant: Some(Tenant::new("team-7").unwrap()),
        role: Role::Submit,
        valid_ms: 60_000,
        by: ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(2) },
        comment: "nightly".into(),
    }
}

fn update_settings() -> UpdateSettings {
    let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(2) };
    let to = vec![Setting::Class(Class::Gpu, ClassSetting::MaxGpus(4)), Setting::KeepFinished(7)];
    UpdateSettings { to, if_revision: Some(3), by }
}

/// As they were sent before peers said what they speak, and before join tokens had a limit.
#[test]
fn forwarded_requests_of_before_are_read() {
    let earlier = [
        (
            "request-4-create-join-token.cbor",
            Request::CreateJoinToken { hash: ByteArray::from([3; 32]), valid_ms: 60_000, uses: None },
        ),
        ("request-7-admit.cbor", admit(version::OLDEST)),
        ("request-10-readdress.cbor", readdress(version::OLDEST)),
    ];
    for (file, request) in earlier {
        assert_reads(file, &stored().bytes(file, || panic!("{file} is missing")), &request);
    }
}

fn admit(speaks: Version) -> Request {
    Request::Admit {
        token: ByteArray::from([2; 32]),
        disk: ByteArray::from([1; 16]),
        name: "n2".into(),
        address: "10.0.0.2:7001".into(),
        speaks,
    }
}

fn readdress(speaks: Version) -> Request {
    Request::SetNodeAddress { node: NodeId(2), address: "10.0.0.8:7001".into(), speaks }
}

#[test]
fn answers_to_forwarded_requests_are_read_and_written_as_they_were_stored() {
    let view = LeaderView {
        leader: NodeId(1),
        index: 70_000,
        reachable: vec![NodeId(1), NodeId(2)],
        lag: vec![(NodeId(2), 12)],
        alarms: vec!["the clock is behind".into()],
        contacts: None,
    };
    let with_contacts = LeaderView { contacts: Some(vec![(NodeId(2), 40)]), ..view.clone() };
    let reply = ForwardAnswer::Reply(Reply::LeaderView(with_contacts));
    stored().check("reply-4-leader-view-contacts.cbor", &reply);
    let replies = [
        ("submitted", Reply::Submitted { first: task(), count: 2, repeated: true }),
        ("done", Reply::Done { index: 70_000 }),
        ("join-token", Reply::JoinToken { expires: TimeMs(1_790_000_000_000) }),
        ("index", Reply::Index(70_000)),
        ("leader-view", Reply::LeaderView(view)),
        ("admitted", Reply::Admitted(NodeId(3))),
        ("leader", Reply::Leader(NodeId(1))),
        ("image", Reply::Image { image: ImageId(7 << 64), index: 70_000 }),
        ("not-begun", Reply::NotBegun(vec![lease()])),
    ];
    for (number, (name, reply)) in replies.into_iter().enumerate() {
        stored().check(&format!("reply-{number}-{name}.cbor"), &ForwardAnswer::Reply(reply));
    }
    let refused = Refusal::new(RefusalCode::Unknown, "it may or may not have been done");
    stored().check("forward-answer-1-refused.cbor", &ForwardAnswer::Refused(refused));
    let elsewhere = ForwardAnswer::NotLeader(Some((NodeId(1), "10.0.0.1:7001".into())));
    stored().check("forward-answer-2-not-leader.cbor", &elsewhere);
}

#[test]
fn a_log_read_is_read_and_written_as_it_was_stored() {
    let read = ReadLog {
        lease: lease(),
        stderr: true,
        offset: 1 << 33,
        wait_ms: 5_000,
        file: None,
        tail: None,
        progress: None,
        stage: None,
    };
    stored().check("read-log-1.cbor", &read);
}

#[test]
fn what_peers_say_of_endings_is_read_and_written_as_it_was_stored() {
    stored().check("read-endings-1.cbor", &ReadEndings { from: 70_000, lease: Some(lease()) });
    let ending = Ending { summary: Some(vec![1, 2, 3].into()), stdout: Some(blob()), stderr: None };
    let endings = vec![KeptEnding { number: 70_000, lease: lease(), ending }];
    stored().check("endings-answer-1.cbor", &EndingsAnswer { endings, next: Some(70_001), whole: true });
}

fn blob() -> Blob {
    Blob { digest: Digest::from_bytes([7; 32]), size: 7 << 30 }
}

fn register_image() -> RegisterImage {
    RegisterImage {
        id: ImageId(7 << 64),
        tenant: Tenant::new("team-7").unwrap(),
        name: ImageName::new("team/tool:2").unwrap(),
        source: ImageSource::Rootfs(blob()),
        description: "what it does".into(),
        holders: vec![NodeId(1), NodeId(2)],
    }
}

#[test]
fn what_peers_say_of_stored_bytes_is_read_and_written_as_it_was_stored() {
    let tenant = Tenant::new("team-7").unwrap();
    let keep = KeepBlob { tenant: tenant.clone(), blob: blob(), keep_ms: 60_000, holders: vec![NodeId(2)] };
    let requests = [
        ("register", RegistryRequest::Register(register_image())),
        ("delete", RegistryRequest::Delete { tenant, image: ImageId(7 << 64) }),
        ("keep", RegistryRequest::Keep(keep)),
        ("lose", RegistryRequest::Lose { node: NodeId(2), blobs: vec![blob().digest] }),
    ];
    for (number, (name, request)) in requests.iter().enumerate() {
        stored().check(&format!("registry-request-{number}-{name}.cbor"), request);
    }
    let holders = vec![(NodeId(2), "10.0.0.2:7001".into())];
    stored().check("offer-blob-1.cbor", &OfferBlob { blob: blob(), holders });
    stored().check("offer-answer-0-held.cbor", &OfferAnswer::Held);
    stored().check("offer-answer-1-failed.cbor", &OfferAnswer::Failed("the disk is full".into()));
    let read = ReadBlob { digest: blob().digest, offset: 1 << 33, length: 1 << 20 };
    stored().check("read-blob-1.cbor", &read);
    stored().check("blob-chunk-0-bytes.cbor", &BlobChunk::Bytes(vec![1, 2, 3].into()));
    stored().check("blob-chunk-1-missing.cbor", &BlobChunk::Missing("it has not".into()));
}

#[test]
fn the_kinds_of_calls_keep_their_numbers() {
    use CallKind::*;
    let kinds = [
        (1, RaftControl),
        (2, RaftAppend),
        (3, RaftSnapshot),
        (4, Report),
        (5, Forward),
        (6, ReadLog),
        (7, Join),
        (8, OfferBlob),
        (9, ReadBlob),
        (10, Renew),
        (11, AuthorityKey),
        (12, ReadEndings),
        (13, RenewAdmin),
        (14, KeepNextKey),
        (15, Authorities),
    ];
    for (number, kind) in kinds {
        assert_eq!(kind as u8, number, "{kind:?}: a number is never changed, nor given to another call");
        assert_eq!(CallKind::from_number(number), Some(kind));
    }
    let known = (0..=u8::MAX).filter(|number| CallKind::from_number(*number).is_some());
    assert_eq!(known.count(), kinds.len(), "a new call has its number here too");
}
