//! What decodes bytes of watchdogs, disks, programs, images and operators, as the fuzzer and the replay of its corpus call
//! it.

use std::path::Path;

use minicbor::{Decode, Encode};
use stint_protocol::AttemptEnd;

use crate::progress;
use crate::runtimes::{crun, docker::credentials};
use crate::shim;
use crate::shim_api::layout::{folder_name, parse_folder_name};
use crate::shim_api::wire::{self, FromShim, ToShim};
use crate::stages::StageRecord;
use crate::stages::mask::Masks;

/// The name of a corpus, and what decodes it.
type Decoder = (&'static str, fn(&[u8]));

/// All of this crate.
pub const DECODERS: &[Decoder] = &[
    ("watchdog-request", messages::<ToShim>),
    ("watchdog-answer", answer),
    ("watchdog-journal", journal),
    ("stage-record", stage_record),
    ("progress", progress),
    ("masks", masks),
    ("docker-credentials", docker_credentials),
    ("cdi", cdi),
    ("elf", elf),
];

/// The bytes as they come over the socket, and as the body of a frame whose length is right.
fn messages<T>(bytes: &[u8])
where
    T: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + std::fmt::Debug,
{
    let framed = [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    for mut inbox in [bytes.to_vec(), framed] {
        let Ok(messages) = wire::take_frames::<T>(&mut inbox) else { continue };
        let mut written = Vec::new();
        wire::put_frames(&mut written, &messages);
        let again = wire::take_frames::<T>(&mut written).expect("what was written is read");
        assert_eq!(again, messages);
        assert!(written.is_empty());
    }
}

fn answer(bytes: &[u8]) {
    let _ = wire::spoken_version(bytes);
    messages::<FromShim>(bytes);
}

/// The bytes as a journal, and as records (length, body), which get their checksums here.
fn journal(bytes: &[u8]) {
    let mut whole = Vec::new();
    let mut rest = bytes;
    while let [length, after @ ..] = rest {
        let (body, next) = after.split_at((*length as usize).min(after.len()));
        whole.extend_from_slice(&(body.len() as u32).to_be_bytes());
        whole.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
        whole.extend_from_slice(body);
        rest = next;
    }
    for bytes in [bytes, &whole] {
        let past = shim::replay_journal(bytes, "this boot");
        assert!(past.open.keys().all(|lease| parse_folder_name(&folder_name(*lease)) == Some(*lease)));
    }
}

/// The files that stand in an attempt's folder.
fn stage_record(bytes: &[u8]) {
    if let Ok(record) = minicbor::decode::<StageRecord>(bytes) {
        let written = minicbor::to_vec(&record).expect("encoding to memory");
        assert_eq!(minicbor::decode::<StageRecord>(&written).expect("what was written is read"), record);
    }
    if let Ok(end) = minicbor::decode::<AttemptEnd>(bytes) {
        let written = minicbor::to_vec(&end).expect("encoding to memory");
        assert_eq!(minicbor::decode::<AttemptEnd>(&written).expect("what was written is read"), end);
    }
    let _ = std::str::from_utf8(bytes).map(parse_folder_name);
}

/// Lines of a program, with a secret in them and without.
fn progress(bytes: &[u8]) {
    let masks = Masks::for_values(&[b"p4ss\"w0rd".to_vec(), b"40712345678".to_vec()]);
    for line in bytes.split(|byte| *byte == b'\n') {
        for masks in [None, Some(&masks)] {
            let Some(said) = progress::parse(line, masks) else { continue };
            let chunk = said.to_chunk();
            serde_json::from_slice::<progress::Progress>(&chunk.bytes).expect("what was written is read");
            let shown = [said.message, said.step].into_iter().flatten().collect::<String>();
            let hidden = masks.is_none() || !shown.contains("p4ss\"w0rd") && !shown.contains("40712345678");
            assert!(hidden, "a secret is shown: {shown:?}");
        }
    }
}

/// A secret (length, value), and the output that it may stand in.
fn masks(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (value, text) = rest.split_at((*length as usize).min(rest.len()));
    let masks = Masks::for_values(&[value.to_vec()]);
    let mut covered = text.to_vec();
    let found = masks.cover(&mut covered);
    assert_eq!(covered.len(), text.len(), "offsets stay as they are");
    assert_eq!(found, covered != text || value.iter().all(|byte| *byte == b'*') && found);
    let stars = |bytes: &[u8]| bytes.iter().all(|byte| *byte == b'*');
    if value.len() >= crate::limits::SECRET_LEAST_BYTES && !value.contains(&b'*') {
        assert!(!covered.windows(value.len()).any(|window| window == value && !stars(window)));
    }
    let _ = masks.hide(String::from_utf8_lossy(text).into_owned());
}

fn docker_credentials(bytes: &[u8]) {
    let Ok(read) = credentials::Credentials::parse(Path::new("/config.json"), bytes) else { return };
    for registry in ["docker.io", "registry.example:5000", ""] {
        let _ = read.for_registry(registry);
    }
}

fn cdi(bytes: &[u8]) {
    crun::read_cdi(bytes);
}

fn elf(bytes: &[u8]) {
    crun::read_elf(bytes);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn every_kept_input_is_decoded_or_refused() {
    replay::replay(DECODERS);
}
