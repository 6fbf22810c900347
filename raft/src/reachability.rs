//! Says once when a peer cannot be reached, and once when it is again: openraft would warn at every heartbeat.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{PeerId, PeerInfo};

/// A peer that answers nothing for this long is said to be out of reach: one lost heartbeat is no news.
const SILENCE: Duration = Duration::from_secs(1);

/// Peers that answer nothing now.
#[derive(Default)]
pub(crate) struct PeerReachability(Mutex<BTreeMap<PeerId, Silent>>);

struct Silent {
    since: Instant,
    said: bool,
}

impl PeerReachability {
    fn silent(&self) -> MutexGuard<'_, BTreeMap<PeerId, Silent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer answered.
    pub(crate) fn answered(&self, peer: PeerId, info: &PeerInfo) {
        if let Some(Silent { since, said: true }) = self.silent().remove(&peer) {
            let seconds = since.elapsed().as_secs();
            tracing::info!(peer, address = %info.addr, seconds, "the peer is reached again");
        }
    }

    /// A call to the peer had no answer.
    pub(crate) fn failed(&self, peer: PeerId, info: &PeerInfo, error: &dyn std::fmt::Display) {
        let mut silent = self.silent();
        let known = silent.entry(peer).or_insert_with(|| Silent { since: Instant::now(), said: false });
        if !known.said && known.since.elapsed() >= SILENCE {
            known.said = true;
            tracing::warn!(peer, address = %info.addr, %error, "the peer cannot be reached");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_out_of_reach_after_a_second_of_silence_until_it_answers() {
        let (reachability, info) = (PeerReachability::default(), PeerInfo::default());
        let said =
            |reachability: &PeerReachability| reachability.silent().get(&7).is_some_and(|silent| silent.said);
        reachability.failed(7, &info, &"refused");
        tokio::time::advance(SILENCE / 2).await;
        reachability.failed(7, &info, &"refused");
        assert!(!said(&reachability));
        tokio::time::advance(SILENCE / 2).await;
        reachability.failed(7, &info, &"refused");
        assert!(said(&reachability));
        reachability.answered(7, &info);
        reachability.failed(7, &info, &"refused");
        assert!(!said(&reachability));
    }
}
