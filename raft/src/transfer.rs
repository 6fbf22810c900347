//! Receives a snapshot in pieces, from one leader at a time, and hands it to openraft when it is whole and intact.

use std::io;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::Mutex;

use crate::error::HandleError;
use crate::machine::StateMachine;
use crate::options::MAX_SNAPSHOT_BYTES;
use crate::snapshot::{Body, Incoming, Snapshots};
use crate::types::{Core, Snapshot, Vote};
use crate::wire::{ChunkAnswer, EncodedChunk};

/// What one transfer is known by: pieces of another one begin anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    leader: crate::codec::EncodedVote,
    last: Option<crate::codec::EncodedLogId>,
    total: u64,
    crc: u32,
}

impl Identity {
    fn from_chunk(chunk: &EncodedChunk) -> Self {
        Self { leader: chunk.vote, last: chunk.last, total: chunk.total, crc: chunk.total_crc }
    }
}

#[derive(Default)]
struct State {
    partial: Option<(Identity, Incoming)>,
    /// The last one installed, so that a repeated last piece does not send everything again.
    installed: Option<(Identity, Vote)>,
}

/// The receiving side. One piece is handled at a time, installation included.
pub(crate) struct Receiver {
    snapshots: Arc<Snapshots>,
    state: Mutex<State>,
}

impl Receiver {
    pub(crate) fn new(snapshots: Arc<Snapshots>) -> Self {
        Self { snapshots, state: Mutex::default() }
    }

    pub(crate) async fn receive<M: StateMachine>(
        &self,
        core: &Core<M>,
        chunk: EncodedChunk,
    ) -> Result<ChunkAnswer, HandleError> {
        let mut state = self.state.lock().await;
        let known: Vote = core.metrics().borrow_watched().vote;
        if known > Vote::from(chunk.vote) {
            state.partial = None;
            return Ok(ChunkAnswer::Done(known.into()));
        }
        let identity = Identity::from_chunk(&chunk);
        if let Some((_, vote)) = state.installed.as_ref().filter(|(installed, _)| *installed == identity) {
            return Ok(ChunkAnswer::Done((*vote).into()));
        }
        if chunk.total > MAX_SNAPSHOT_BYTES {
            return Err(HandleError::Malformed(format!("a snapshot of {} bytes is too large", chunk.total)));
        }
        let added = state.add(&self.snapshots, &identity, &chunk).await;
        match added.map_err(|error| HandleError::Stopped(error.to_string()))? {
            Added::Partly(next) => Ok(ChunkAnswer::Next(next)),
            Added::Damaged => Ok(ChunkAnswer::Damaged),
            Added::Whole(body) => {
                let vote = install(core, &chunk, body).await?;
                state.installed = Some((identity, vote));
                Ok(ChunkAnswer::Done(vote.into()))
            }
        }
    }
}

enum Added {
    Partly(u64),
    Damaged,
    Whole(Body),
}

impl State {
    /// Puts a piece into the file. One whose caller went away meanwhile comes again, to the same place.
    async fn add(
        &mut self,
        snapshots: &Snapshots,
        identity: &Identity,
        chunk: &EncodedChunk,
    ) -> io::Result<Added> {
        if self.partial.as_ref().is_none_or(|(known, _)| known != identity) {
            self.partial = None;
            let incoming = snapshots.receive(chunk.meta(), chunk.total, chunk.total_crc).await?;
            self.partial = Some((identity.clone(), incoming));
        }
        let Some((_, incoming)) = &mut self.partial else { return Ok(Added::Damaged) };
        let piece = &chunk.bytes.0;
        let fits = chunk.offset == incoming.have && incoming.have + piece.len() as u64 <= chunk.total;
        if !fits || crc32c::crc32c(piece) != chunk.crc {
            return Ok(Added::Partly(incoming.have));
        }
        snapshots.append(incoming, piece).await?;
        if incoming.have < chunk.total {
            return Ok(Added::Partly(incoming.have));
        }
        let whole = self.partial.take().map(|(_, incoming)| incoming.finish(snapshots.inline_io()));
        Ok(whole.filter(|body| body.crc == chunk.total_crc).map_or(Added::Damaged, Added::Whole))
    }
}

async fn install<M: StateMachine>(
    core: &Core<M>,
    chunk: &EncodedChunk,
    body: Body,
) -> Result<Vote, HandleError> {
    let snapshot = Snapshot { meta: chunk.meta(), snapshot: body };
    let installed = core.install_full_snapshot(chunk.vote.into(), snapshot).await;
    installed.map(|response| response.vote).map_err(|error| HandleError::Stopped(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::driver::Queue;
    use crate::test_disk::MemoryDisk;
    use crate::types::{CommittedLeaderId, LeaderId, LogId, Payload, StoredMembership};

    const WHOLE: &[u8] = b"a body that comes in two pieces";

    fn vote(term: u64) -> crate::codec::EncodedVote {
        Vote { leader_id: LeaderId { term, voted_for: 1 }, committed: true }.into()
    }

    fn chunk(offset: usize, bytes: &'static [u8]) -> EncodedChunk {
        EncodedChunk {
            vote: vote(3),
            last: Some(LogId { leader_id: CommittedLeaderId::new(3), index: 9 }.into()),
            membership: (&StoredMembership::default()).into(),
            total: WHOLE.len() as u64,
            total_crc: crc32c::crc32c(WHOLE),
            offset: offset as u64,
            crc: crc32c::crc32c(bytes),
            bytes: Payload(bytes.into()),
        }
    }

    struct Side {
        disk: MemoryDisk,
        snapshots: Snapshots,
        state: State,
    }

    impl Side {
        fn new() -> Self {
            let disk = MemoryDisk::default();
            let session = Arc::new(disk.session());
            let snapshots = Snapshots::open(session, "/data".into(), true, Arc::new(Queue::new())).unwrap();
            Self { disk, snapshots, state: State::default() }
        }

        /// `Ok` with the whole body, or what the leader is told.
        async fn take(&mut self, chunk: EncodedChunk) -> Result<Body, ChunkAnswer> {
            let identity = Identity::from_chunk(&chunk);
            match self.state.add(&self.snapshots, &identity, &chunk).await.unwrap() {
                Added::Partly(next) => Err(ChunkAnswer::Next(next)),
                Added::Damaged => Err(ChunkAnswer::Damaged),
                Added::Whole(body) => Ok(body),
            }
        }

        fn files(&self) -> usize {
            use crate::log::disk::Disk;
            self.disk.session().list(std::path::Path::new("/data")).unwrap().len()
        }
    }

    #[tokio::test]
    async fn a_piece_is_taken_once_in_its_place_and_undamaged() {
        let mut side = Side::new();
        let (first, second) = WHOLE.split_at(10);
        let next = |at| Some(ChunkAnswer::Next(at));
        assert_eq!(side.take(chunk(10, second)).await.err(), next(0), "the first one is missing");
        assert_eq!(side.take(chunk(0, first)).await.err(), next(10));
        assert_eq!(side.take(chunk(0, first)).await.err(), next(10), "it is there already");
        let damaged =
            EncodedChunk { bytes: Payload(b"another text of 21 by".as_slice().into()), ..chunk(10, second) };
        assert_eq!(side.take(damaged).await.err(), next(10));
        let body = side.take(chunk(10, second)).await.unwrap();
        let mut read = Vec::new();
        io::Read::read_to_end(&mut body.reader(), &mut read).unwrap();
        assert_eq!(read, WHOLE);
        drop(body);
        assert_eq!(side.files(), 0, "nobody made it a snapshot");
    }

    #[tokio::test]
    async fn a_whole_that_is_not_what_its_leader_named_is_thrown_away() {
        let mut side = Side::new();
        let other = b"a body that comes as something!".as_slice();
        let wrong = EncodedChunk { total_crc: crc32c::crc32c(WHOLE), ..chunk(0, other) };
        assert_eq!(side.take(wrong).await.err(), Some(ChunkAnswer::Damaged));
        assert_eq!(side.files(), 0);
        // Another leader's begins anew.
        let (first, second) = WHOLE.split_at(10);
        assert_eq!(side.take(chunk(0, first)).await.err(), Some(ChunkAnswer::Next(10)));
        let of_another = EncodedChunk { vote: vote(4), ..chunk(10, second) };
        assert_eq!(side.take(of_another).await.err(), Some(ChunkAnswer::Next(0)));
        assert_eq!(side.files(), 1, "the file of the first leader is gone");
    }
}
