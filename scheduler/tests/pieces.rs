//! Snapshots that come in odd pieces, cut off or not at all, and those that contradict themselves.
#![allow(clippy::unwrap_used)]

#[path = "support/dripping.rs"]
mod dripping;
#[path = "support/stored.rs"]
mod stored;

use dripping::Dripping;
use minicbor::{Decoder, Encoder};
use stint_scheduler::*;
use stored::Stored;

/// Every snapshot that a version stored, by name.
fn snapshots() -> Vec<(String, Vec<u8>)> {
    let stored = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let names = stored.names().into_iter().filter(|name| name.starts_with("snapshot-"));
    let all: Vec<_> =
        names.map(|name| (name.clone(), stored.bytes(&name, || panic!("is missing")))).collect();
    assert!(all.len() >= 5, "the stored snapshots were not found");
    all
}

#[test]
fn a_snapshot_reads_the_same_in_whatever_pieces_it_comes() {
    for (name, bytes) in snapshots() {
        let whole = decode_snapshot(&bytes).unwrap();
        for most in [1, 2, 3, 7, 64, 1_000] {
            let read = read_snapshot(Dripping::new(&bytes, most)).unwrap();
            assert!(same(&read, &whole), "{name}, {most} bytes at a time");
            assert_eq!(digest(&read), digest(&whole), "{name}, {most} bytes at a time");
            check(&read).unwrap();
        }
    }
}

#[test]
fn a_snapshot_that_is_cut_anywhere_is_refused() {
    for (name, bytes) in snapshots() {
        for cut in 0..bytes.len() {
            let refused = read_snapshot(&bytes[..cut]).map(|_| ());
            assert!(matches!(refused, Err(SnapshotError::Malformed(_))), "{name}, cut at {cut}: {refused:?}");
        }
    }
}

#[test]
fn a_snapshot_that_cannot_be_got_to_its_end_is_refused() {
    for (name, bytes) in snapshots() {
        for cut in (0..bytes.len()).step_by(50) {
            let refused = read_snapshot(Dripping::failing_after(&bytes[..cut])).map(|_| ());
            assert!(matches!(refused, Err(SnapshotError::Input(_))), "{name}, broken at {cut}: {refused:?}");
        }
    }
}

/// The parts of a snapshot that has all of them, each as its bytes.
fn parts() -> Vec<Vec<u8>> {
    let (_, bytes) = snapshots().into_iter().find(|(name, _)| name == "snapshot-3.cbor").unwrap();
    let mut decoder = Decoder::new(&bytes);
    let count = decoder.array().unwrap().unwrap();
    let part = |_| {
        let start = decoder.position();
        decoder.skip().unwrap();
        bytes[start..decoder.position()].to_vec()
    };
    (0..count).map(part).collect()
}

fn whole(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes).array(parts.len() as u64).unwrap();
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// A list whose first item is there once more.
fn first_twice(list: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(list);
    let count = decoder.array().unwrap().unwrap();
    let start = decoder.position();
    decoder.skip().unwrap();
    let first = &list[start..decoder.position()];
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes).array(count + 1).unwrap();
    [&bytes[..], first, &list[start..]].concat()
}

#[test]
fn what_contradicts_itself_is_refused() {
    let sound = parts();
    assert!(read_snapshot(&whole(&sound)[..]).is_ok());
    let (tasks, history, nodes, keys, images, blobs, keeps) = (8, 9, 10, 11, 14, 15, 16);
    for (part, says) in [
        (tasks, "named"),
        (history, "is there twice"),
        (nodes, "is there twice"),
        (keys, "is there twice"),
        (images, "is there twice"),
        (blobs, "is there twice"),
        (keeps, "is kept twice"),
    ] {
        let mut parts = sound.clone();
        parts[part] = first_twice(&parts[part]);
        let refused = read_snapshot(&whole(&parts)[..]).map(|_| ()).unwrap_err();
        assert!(matches!(refused, SnapshotError::Broken(_)), "part {part}: {refused}");
        assert!(refused.to_string().contains(says), "part {part}: {refused}");
    }
    let none = vec![0x80];
    for (part, says) in [(nodes, "no member"), (7, "not in the table")] {
        let mut parts = sound.clone();
        parts[part] = none.clone();
        let refused = read_snapshot(&whole(&parts)[..]).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains(says), "part {part}: {refused}");
    }
    let refused = read_snapshot(&whole(&sound[..12])[..]).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("12 parts"), "{refused}");
}
