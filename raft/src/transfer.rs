//! Receives a snapshot in pieces, from one leader at a time, and hands it to openraft when it is whole and intact.

use bytes::{Bytes, BytesMut};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::Mutex;

use crate::error::HandleError;
use crate::machine::Machine;
use crate::settings::MAX_SNAPSHOT_BYTES;
use crate::types::{Core, Snapshot, Vote};
use crate::wire::{ChunkAnswer, ChunkCode};

/// What one transfer is known by: pieces of another one begin anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    leader: crate::codec::VoteCode,
    last: Option<crate::codec::LogIdCode>,
    total: u64,
    crc: u32,
}

impl Identity {
    fn of(chunk: &ChunkCode) -> Self {
        Self { leader: chunk.vote, last: chunk.last, total: chunk.total, crc: chunk.total_crc }
    }
}

#[derive(Default)]
struct State {
    partial: Option<(Identity, BytesMut)>,
    /// The last one installed, so that a repeated last piece does not send everything again.
    installed: Option<(Identity, Vote)>,
}

/// The receiving side. One piece is handled at a time, installation included.
#[derive(Default)]
pub(crate) struct Receiver(Mutex<State>);

impl Receiver {
    pub(crate) async fn receive<M: Machine>(
        &self,
        core: &Core<M>,
        chunk: ChunkCode,
    ) -> Result<ChunkAnswer, HandleError> {
        let mut state = self.0.lock().await;
        let known: Vote = core.metrics().borrow_watched().vote;
        if known > Vote::from(chunk.vote) {
            state.partial = None;
            return Ok(ChunkAnswer::Done(known.into()));
        }
        let identity = Identity::of(&chunk);
        if let Some((_, vote)) = state.installed.as_ref().filter(|(installed, _)| *installed == identity) {
            return Ok(ChunkAnswer::Done((*vote).into()));
        }
        if chunk.total > MAX_SNAPSHOT_BYTES {
            return Err(HandleError::Malformed(format!("a snapshot of {} bytes is too large", chunk.total)));
        }
        match state.add(&identity, &chunk) {
            Added::Partly(next) => Ok(ChunkAnswer::Next(next)),
            Added::Damaged => Ok(ChunkAnswer::Damaged),
            Added::Whole(bytes) => {
                let vote = install(core, &chunk, bytes).await?;
                state.installed = Some((identity, vote));
                Ok(ChunkAnswer::Done(vote.into()))
            }
        }
    }
}

enum Added {
    Partly(u64),
    Damaged,
    Whole(Bytes),
}

impl State {
    fn add(&mut self, identity: &Identity, chunk: &ChunkCode) -> Added {
        if self.partial.as_ref().is_none_or(|(known, _)| known != identity) {
            self.partial = Some((identity.clone(), BytesMut::new()));
        }
        let Some((_, bytes)) = &mut self.partial else { return Added::Damaged };
        let have = bytes.len() as u64;
        let piece = &chunk.bytes.0;
        let fits = chunk.offset == have && have + piece.len() as u64 <= chunk.total;
        if !fits || crc32c::crc32c(piece) != chunk.crc {
            return Added::Partly(have);
        }
        bytes.extend_from_slice(piece);
        if (bytes.len() as u64) < chunk.total {
            return Added::Partly(bytes.len() as u64);
        }
        let whole = self.partial.take().map(|(_, bytes)| bytes.freeze()).unwrap_or_default();
        if crc32c::crc32c(&whole) == chunk.total_crc { Added::Whole(whole) } else { Added::Damaged }
    }
}

async fn install<M: Machine>(core: &Core<M>, chunk: &ChunkCode, bytes: Bytes) -> Result<Vote, HandleError> {
    let snapshot = Snapshot { meta: chunk.meta(), snapshot: bytes };
    let installed = core.install_full_snapshot(chunk.vote.into(), snapshot).await;
    installed.map(|response| response.vote).map_err(|error| HandleError::Stopped(error.to_string()))
}
