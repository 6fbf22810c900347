//! What decodes bytes that other peers and disks hand in, as the fuzzer and the replay of its corpus call it.

use std::path::Path;
use std::sync::Arc;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};

use crate::log::disk::{Disk, OpenMode};
use crate::log::record::frame_raw;
use crate::log::recovery::{Recovered, recover};
use crate::log::segment::{Spares, header, segment_name};
use crate::simulated_disk::{DiskFaults, MemoryDisk};
use crate::types::Types;
use crate::wire::{self, Answer, Envelope, Request};

/// The name of a corpus, and what decodes it.
type Decoder = (&'static str, fn(&[u8]));

/// All of this crate.
pub const DECODERS: &[Decoder] =
    &[("raft-request", request), ("raft-answer", answer), ("raft-log", log), ("raft-snapshot", snapshot)];

#[derive(Debug, Default)]
struct NoFaults;

impl DiskFaults for NoFaults {}

/// A value that could be made, which is all that is asked.
fn converted<T>(_: T) {}

fn request(bytes: &[u8]) {
    let Ok(envelope) = wire::decode::<Envelope>(bytes) else { return };
    let again: Envelope = wire::decode(&wire::encode(&envelope)).expect("what was written is read");
    assert_eq!(again, envelope);
    match envelope.request {
        Request::Append(append) => converted(AppendEntriesRequest::<Types>::from(append)),
        Request::Vote(vote) | Request::PreVote(vote) => converted(VoteRequest::<Types>::from(vote)),
        Request::Transfer(transfer) => converted(TransferLeaderRequest::<Types>::from(transfer)),
        Request::Chunk(chunk) => converted(chunk.meta()),
    }
}

fn answer(bytes: &[u8]) {
    let Ok(answer) = wire::decode::<Answer>(bytes) else { return };
    let again: Answer = wire::decode(&wire::encode(&answer)).expect("what was written is read");
    assert_eq!(again, answer);
    let _ = answer.follows();
    match answer {
        Answer::Append(answer) => converted(AppendEntriesResponse::<Types>::from(answer)),
        Answer::Vote(answer) => converted(VoteResponse::<Types>::from(answer)),
        Answer::Transfer(answer) => converted(TransferLeaderResponse::<Types>::from(answer)),
        Answer::Chunk(_) => {}
    }
}

/// A log folder. Either the bytes are what follows a segment's header, or they are records (kind, length, payload), which
/// get their checksums here: no fuzzer finds those. Kind 255 begins the next segment.
fn log(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let mut segments = vec![header(1).to_vec()];
    if mode % 2 == 1 {
        segments[0].extend_from_slice(rest);
    } else {
        let mut rest = rest;
        while let [kind, length, after @ ..] = rest {
            let (payload, next) = after.split_at((*length as usize).min(after.len()));
            let seq = segments.len() as u64;
            match (kind, segments.last_mut()) {
                (255, _) => segments.push(header(seq + 1).to_vec()),
                (_, Some(segment)) => frame_raw(*kind, payload, seq, segment),
                (_, None) => {}
            }
            rest = next;
        }
    }
    let (disk, dir) = (MemoryDisk::<NoFaults>::default(), Path::new("/log"));
    let session = Arc::new(disk.session());
    for (at, segment) in segments.iter().enumerate() {
        write(&*session, &dir.join(segment_name(at as u64 + 1)), segment);
    }
    let open = || {
        let mut spares = Spares::new(session.clone(), dir.into(), 4_096);
        recover(&*session, dir, &mut spares, 1 << 16)
    };
    let Ok(found) = open() else { return };
    let indexes = |found: &Recovered| found.slots.iter().map(|slot| slot.id.index).collect::<Vec<_>>();
    assert!(indexes(&found).windows(2).all(|pair| pair[0] + 1 == pair[1]), "entries with a gap");
    let again = open().unwrap_or_else(|e| panic!("a log that was opened is opened again: {e}"));
    assert_eq!((again.bookmarks, indexes(&again)), (found.bookmarks, indexes(&found)));
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::Fresh).expect("a disk in memory");
    file.write_at(0, bytes).expect("a disk in memory");
    file.sync_data().expect("a disk in memory");
}

/// A snapshot's file. Either the bytes are the file, or its description, which gets a right head here.
fn snapshot(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let (disk, path) = (MemoryDisk::<NoFaults>::default(), Path::new("/snapshot"));
    let session = Arc::new(disk.session());
    let whole = |description: &[u8]| [crate::snapshot::head_around(description), b"body".to_vec()].concat();
    write(&*session, path, &if mode % 2 == 1 { rest.to_vec() } else { whole(rest) });
    let Ok((meta, body)) = crate::snapshot::read_file(session.clone(), path) else { return };
    let head = crate::snapshot::head(&meta, body.len, body.crc);
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut body.reader(), &mut content).expect("it was checked");
    write(&*session, path, &[head, content].concat());
    let (again, _) = crate::snapshot::read_file(session.clone(), path).expect("what was written is read");
    assert_eq!(again, meta);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn every_kept_input_is_decoded_or_refused() {
    replay::replay(DECODERS);
}
