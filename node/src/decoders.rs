//! What decodes bytes of peers, clients, operators and makers of images, as the fuzzer and the replay of its corpus call
//! it.

mod images;
mod texts;

use minicbor::{Decode, Encode};
use stint_scheduler::{Settings, State, decode_snapshot, read_snapshot, same, write_snapshot};

use crate::applied_state::LogEntry;
use crate::blobs::message::{BlobChunk, OfferAnswer, OfferBlob, ReadBlob};
use crate::config::{Config, Machine};
use crate::wire::{self, CallKind};
use crate::{pki, snapshot_file};

/// The name of a corpus, and what decodes it.
type Decoder = (&'static str, fn(&[u8]));

/// All of this crate.
pub const DECODERS: &[Decoder] = &[
    ("peer-request", peer_request),
    ("peer-answer", peer_answer),
    ("log-entry", log_entry),
    ("cluster-state", cluster_state),
    ("snapshot-file", snapshot_file),
    ("grpc", crate::front::decoders::grpc),
    ("configuration", configuration),
    ("certificates", certificates),
    ("image", images::image),
    ("texts", texts::texts),
    ("documents", texts::documents),
];

/// What is read is written, read and written to the same.
pub(crate) fn round<T: Encode<()> + for<'b> Decode<'b, ()>>(bytes: &[u8]) {
    let Ok(message) = wire::decode::<T>(bytes) else { return };
    let written = wire::encode(&message);
    let again = wire::decode::<T>(&written).expect("what was written is read");
    assert_eq!(wire::encode(&again), written);
}

/// A call: its number, and its message.
fn peer_request(bytes: &[u8]) {
    let Some((number, body)) = bytes.split_first() else { return };
    match CallKind::from_number(*number) {
        Some(CallKind::Report) => round::<wire::Report>(body),
        Some(CallKind::Forward) => round::<wire::Request>(body),
        Some(CallKind::ReadLog) => round::<wire::ReadLog>(body),
        Some(CallKind::Join) => round::<wire::Join>(body),
        Some(CallKind::OfferBlob) => round::<OfferBlob>(body),
        Some(CallKind::ReadBlob) => round::<ReadBlob>(body),
        Some(CallKind::Renew) => round::<wire::Renew>(body),
        Some(CallKind::AuthorityKey) => round::<wire::KeyQuestion>(body),
        Some(CallKind::ReadEndings) => round::<wire::ReadEndings>(body),
        Some(CallKind::RenewAdmin) => round::<pki::CertificateRequest>(body),
        Some(CallKind::KeepNextKey) => round::<pki::Authority>(body),
        Some(CallKind::Authorities) => {}
        // The decoders of Raft are those of its crate.
        Some(CallKind::RaftControl | CallKind::RaftAppend | CallKind::RaftSnapshot) | None => {}
    }
}

/// The number of a call, and its answer.
fn peer_answer(bytes: &[u8]) {
    let Some((number, body)) = bytes.split_first() else { return };
    match CallKind::from_number(*number) {
        Some(CallKind::Report) => round::<wire::ReportAnswer>(body),
        Some(CallKind::Forward) => round::<wire::ForwardAnswer>(body),
        Some(CallKind::ReadLog) => round::<wire::LogAnswer>(body),
        Some(CallKind::Join) => round::<wire::JoinAnswer>(body),
        Some(CallKind::OfferBlob) => round::<OfferAnswer>(body),
        Some(CallKind::ReadBlob) => round::<BlobChunk>(body),
        Some(CallKind::Renew) => round::<wire::RenewAnswer>(body),
        Some(CallKind::AuthorityKey) => round::<wire::KeyAnswer>(body),
        Some(CallKind::ReadEndings) => round::<wire::EndingsAnswer>(body),
        Some(CallKind::RenewAdmin | CallKind::Authorities) => round::<String>(body),
        Some(CallKind::KeepNextKey) => {}
        Some(CallKind::RaftControl | CallKind::RaftAppend | CallKind::RaftSnapshot) | None => {}
    }
}

/// An entry of the log, carried out on a state that has only its settings.
fn log_entry(bytes: &[u8]) {
    round::<LogEntry>(bytes);
    let Ok(entry) = minicbor::decode::<LogEntry>(bytes) else { return };
    let _ = entry.needs();
    let mut state = State::default();
    let configure = stint_scheduler::Command::Configure(Settings::default());
    LogEntry { now: stint_protocol::TimeMs(1), commands: vec![configure] }.carry_out(&mut state);
    entry.carry_out(&mut state);
}

/// A state as it comes in snapshots of peers and in files of operators.
fn cluster_state(bytes: &[u8]) {
    let Ok(state) = read_snapshot(bytes) else { return };
    let mut written = Vec::new();
    write_snapshot(&state, &mut written).expect("writing to memory");
    let again = read_snapshot(&written[..]).expect("what was written is read");
    assert!(same(&state, &again), "what was written is another state");
    let _ = decode_snapshot(bytes);
}

/// A file of `stint cluster snapshot save` behind its magic number, with the sum that it should have.
fn snapshot_file(bytes: &[u8]) {
    let Ok((description, state)) = snapshot_file::read_summed(bytes) else { return };
    let mut written = Vec::new();
    snapshot_file::write(&description, &state, &mut written).expect("writing to memory");
    let body = &written[snapshot_file::MAGIC.len()..written.len() - snapshot_file::SUM_BYTES as usize];
    let (again, _) = snapshot_file::read_summed(body).expect("what was written is read");
    assert_eq!(again, description);
}

/// `stint.toml`.
fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let machine = Machine {
        hostname: "host".into(),
        cores: 4,
        memory_bytes: 10 << 30,
        data_dir: "/var/lib/stint".into(),
        addresses: vec![std::net::Ipv4Addr::new(10, 0, 0, 1)],
    };
    let Ok(config) = Config::from_text(&machine, text) else { return };
    let shown = config.to_toml();
    if let Err(e) = Config::from_text(&machine, &shown) {
        panic!("what `--print-config` prints is no configuration: {e}\n{shown}");
    }
}

/// The certificate of a caller, and what a joiner is told of its cluster's authority.
fn certificates(bytes: &[u8]) {
    let certificate = bytes.to_vec().into();
    let _ =
        (pki::node_of(&certificate), pki::admin_of(&certificate), pki::carries(&certificate, "peer.stint"));
    let _ = (pki::Validity::read(&certificate), pki::key_of(&certificate));
    let text = String::from_utf8_lossy(bytes).into_owned();
    let root = pki::Root(text.clone());
    if root.fingerprint().is_ok() {
        let _ = (root.cluster_id(), root.node_behind(&certificate), root.for_clients());
        let _ = (root.for_old_clients(), root.has_become(&root));
        let _ = pki::peer_server(&root, &pki::Identity { certificate: text.clone(), key: text });
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn every_kept_input_is_decoded_or_refused() {
    replay::replay(DECODERS);
}
