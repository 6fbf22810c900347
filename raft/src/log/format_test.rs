//! The stored and sent forms, byte for byte. A change here breaks data folders and mixed clusters: make a new version.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use super::record::{Bookmarks, Frame, Record};
use super::segment::header;
use crate::types::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Membership, Payload, PeerInfo, SnapshotMeta,
    StoredMembership, Vote,
};
use crate::wire::{self, Answer, AppendAnswer, ChunkAnswer, EncodedChunk, Envelope, Request};

fn id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(3), index }
}

fn vote() -> Vote {
    Vote { leader_id: LeaderId { term: 3, voted_for: 2 }, committed: true }
}

fn membership() -> Membership {
    let info = |n: u64| PeerInfo { addr: format!("h{n}:1"), disk_id: format!("d{n}") };
    let peers = BTreeMap::from([(1, info(1)), (2, info(2))]);
    Membership::new(vec![BTreeSet::from([1])], peers).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn framed(record: &Record) -> String {
    let mut bytes = Vec::new();
    record.encode().frame(5, 64, 32, &mut bytes);
    // A frame is only valid in its own place.
    let mut segment = vec![0; 64];
    segment.extend_from_slice(&bytes);
    let frame = Frame::parse(5, &segment, 64).unwrap();
    assert_eq!((frame.record().unwrap(), frame.len, frame.synced_to), (record.clone(), bytes.len(), 32));
    assert!(Frame::parse(6, &segment, 64).is_none(), "of another segment");
    assert!(Frame::parse(5, &bytes, 0).is_none(), "at another offset");
    for at in 0..bytes.len().min(16 + record_len(&bytes)) {
        let mut damaged = segment.clone();
        damaged[64 + at] ^= 1;
        assert!(Frame::parse(5, &damaged, 64).is_none(), "byte {at} is not checked");
    }
    hex(&bytes)
}

fn record_len(frame: &[u8]) -> usize {
    u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize
}

#[test]
fn a_segment_header_keeps_its_form() {
    assert_eq!(hex(&header(5)), "5354494e544c4f47010000000000000005000000000000000542912a00000000");
}

#[test]
fn records_keep_their_form() {
    let normal = EntryPayload::Normal(Payload(Bytes::from_static(b"hi")));
    let state = Bookmarks { vote: Some(vote()), purged: Some(id(1)), committed: None, last: Some(id(4)) };
    let records = [
        (Record::Sealed, "000000002000000001010000cd25954e"),
        (Record::State(state), "0c00000020000000020100000b79d9c284830302f5820301f682030400000000"),
        (
            Record::Entry(Entry { log_id: id(7), payload: EntryPayload::Blank }),
            "07000000200000000301000006c491308282030782008000",
        ),
        (
            Record::Entry(Entry { log_id: id(7), payload: normal }),
            "0a00000020000000030100006f74333082820307820181426869000000000000",
        ),
        (
            Record::Entry(Entry { log_id: id(7), payload: EntryPayload::Membership(membership()) }),
            "200000002000000003010000d84033588282030782028182818101a201826468313a3162643102826468323a31626432",
        ),
        (Record::Vote(vote()), "040000002000000004010000d920e7da830302f500000000"),
        (Record::Committed(Some(id(7))), "040000002000000005010000b71c2d038182030700000000"),
        (Record::Purged(id(7)), "0300000020000000060100001bf0013b8203070000000000"),
        (Record::Truncated(None), "01000000200000000701000096ced50c8000000000000000"),
    ];
    for (record, expected) in records {
        assert_eq!(framed(&record), expected, "{record:?}");
    }
}

#[test]
fn requests_and_answers_keep_their_form() {
    let envelope = |request| Envelope { cluster: "c".into(), from: 1, to: 2, to_disk: "d2".into(), request };
    let entries = vec![Entry { log_id: id(7), payload: EntryPayload::Blank }];
    let append =
        AppendEntriesRequest { vote: vote(), prev_log_id: Some(id(6)), entries, leader_commit: Some(id(5)) };
    let ballot = VoteRequest::new(vote(), Some(id(7)));
    let chunk = EncodedChunk {
        vote: vote().into(),
        last: Some(id(7).into()),
        membership: (&StoredMembership::new(Some(id(0)), membership())).into(),
        total: 3,
        total_crc: 9,
        offset: 1,
        bytes: Payload(Bytes::from_static(b"yz")),
        crc: 8,
    };
    let requests = [
        (Request::Append(append.into()), "01856163010262643282008184830302f58203068182820307820080820305"),
        (Request::Vote(ballot.clone().into()), "01856163010262643282018183830302f5820307f4"),
        (Request::PreVote(ballot.into()), "01856163010262643282028183830302f5820307f4"),
        (
            Request::Chunk(chunk),
            "01856163010262643282048188830302f58203078282030082818101a201826468313a3162643102826468323a3162643203090142797a08",
        ),
    ];
    for (request, expected) in requests {
        let envelope = envelope(request);
        let bytes = wire::encode(&envelope);
        assert_eq!(hex(&bytes), expected, "{envelope:?}");
        assert_eq!(wire::decode::<Envelope>(&bytes).unwrap(), envelope);
    }
    let answers = [
        (Answer::Append(AppendAnswer::Success), "01820081820080"),
        (Answer::Append(AppendAnswer::HigherVote(vote().into())), "01820081820381830302f5"),
        (Answer::Chunk(ChunkAnswer::Next(4)), "0182038182008104"),
        (Answer::Chunk(ChunkAnswer::Damaged), "01820381820280"),
    ];
    for (answer, expected) in answers {
        let bytes = wire::encode(&answer);
        assert_eq!(hex(&bytes), expected, "{answer:?}");
        assert_eq!(wire::decode::<Answer>(&bytes).unwrap(), answer);
    }
}

#[test]
fn a_snapshot_head_keeps_its_form() {
    let meta = SnapshotMeta {
        last_log_id: Some(id(7)),
        last_membership: StoredMembership::new(Some(id(0)), membership()),
    };
    // As the first version wrote it, with a length that took as few bytes as it could; the body follows.
    let first = "5354494e54534e500100000027000000ec8c2ca200000000848203078282030082818101a201826468313a3162643102826468323a31626432041a263fc950626f6479";
    let crc = crc32c::crc32c(b"body");
    let today = hex(&crate::snapshot::head(&meta, 4, crc)) + &hex(b"body");
    assert_eq!(
        today,
        "5354494e54534e50010000002f000000aa13ec3b00000000848203078282030082818101a201826468313a3162643102826468323a316264321b00000000000000041a263fc950626f6479"
    );
    for written in [first.to_owned(), today] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot-00000000000000000007-00000000000000000003.snap");
        std::fs::write(&path, unhex(&written)).unwrap();
        let disk = Arc::new(crate::log::disk::RealDisk);
        let (found, body) = crate::snapshot::read_file(disk, &path).unwrap();
        assert_eq!(found, meta);
        let mut bytes = Vec::new();
        body.reader().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"body");
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
