//! Snapshots: the state of each format is read as what it was, and today's is written as the same bytes.

use stint_protocol::*;
use stint_scheduler::*;

use crate::described::{IMAGES, describe, describe_images, described};
use crate::nodes::{allows, end_with_usage, lease, usage};
use crate::samples::{add_access_token, every_setting, new_authority, operator};
use crate::stored::{Stored, assert_same};
use crate::tasks::{blob, commented_submit, pinned, register_image, task_limits, team};

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

/// The state of before, with a join token for two nodes, with which one has joined.
fn with_limited_token() -> State {
    let mut state = with_comment();
    let hash = [0x72; 32];
    let admit = Admit {
        disk: [0xd3; 16],
        name: "gpu-8".into(),
        address: "10.0.0.8:7001".into(),
        token: Some(hash),
        speaks: Version(5),
    };
    for command in [Command::AddJoinToken { hash, valid_ms: 3_600_000, uses: Some(2) }, Command::Admit(admit)]
    {
        let now = state.time();
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    }
    state
}

#[test]
fn a_snapshot_with_a_limited_join_token_is_read_and_written_as_it_was_stored() {
    let name = "tokens-snapshot.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_limited_token()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    let tokens: Vec<(u8, Option<TokenLimit>)> =
        state.join_tokens().map(|(hash, token)| (hash[0], token.limit.clone())).collect();
    // Those of before let in any number, as ever.
    let limit = TokenLimit { uses: 2, used_by: vec![[0xd3; 16].into()] };
    assert_eq!(tokens, [(0x70, None), (0x71, None), (0x72, Some(limit))]);
    assert_same(name, &encode_snapshot(&state), &stored);
}

/// The state of before, with an access token.
pub fn with_access_token() -> State {
    let mut state = with_limited_token();
    let (now, command) = (state.time(), Command::AddAccessToken(add_access_token()));
    apply(&mut state, StampedCommand { now, command }).unwrap();
    check(&state).unwrap();
    state
}

#[test]
fn a_snapshot_with_an_access_token_is_read_and_written_as_it_was_stored() {
    let name = "access-snapshot.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_access_token()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    let token = state.access_token(&[0x73; 32]).unwrap();
    assert_eq!((token.tenant.as_ref(), token.role, &token.by), (Some(&team()), Role::Submit, &operator()));
    assert_eq!((token.created, token.comment.as_str()), (state.time(), "nightly"));
    assert_same(name, &encode_snapshot(&state), &stored);
}

/// The state of before, in which the authority changes and another change is not asked for.
fn with_new_authority() -> State {
    let mut state = with_access_token();
    let certify = Command::CertifyNode { node: NodeId(2), fingerprint: [0x74; 32].into() };
    let by = operator();
    let rotate = RotateAuthority { overlap_ms: 604_800_000, by };
    for command in [Command::RotateAuthority(rotate), Command::TrustAuthority(new_authority()), certify] {
        let now = state.time();
        apply(&mut state, StampedCommand { now, command }).unwrap();
        check(&state).unwrap();
    }
    state
}

#[test]
fn a_snapshot_with_another_authority_is_read_and_written_as_it_was_stored() {
    let name = "authority-snapshot.cbor";
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let stored = folder.bytes(name, || encode_snapshot(&with_new_authority()));
    let state = decode_snapshot(&stored).unwrap();
    check(&state).unwrap();
    let (authorities, since) = (state.authorities(), state.time());
    let old_until = Some(since.plus(604_800_000));
    let certified = vec![NodeId(2)];
    let current = Authority { new: new_authority(), since, by: operator(), old_until, certified };
    assert_eq!((&authorities.asked, &authorities.current), (&None, &Some(current)));
    assert_same(name, &encode_snapshot(&state), &stored);
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
