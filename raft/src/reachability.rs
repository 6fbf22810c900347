//! When this peer last heard of the others, and of a leader. Says once when a peer cannot be reached, and once when it is
//! again: openraft would warn at every heartbeat.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{PeerId, PeerInfo};

/// A peer that answers nothing for this long is said to be out of reach: one lost heartbeat is no news.
const SILENCE: Duration = Duration::from_secs(1);

/// Peers that answer nothing now, and when each last gave a sign of life.
pub(crate) struct PeerReachability {
    silent: Mutex<BTreeMap<PeerId, Silent>>,
    heard: Mutex<BTreeMap<PeerId, Instant>>,
    /// The last word of a leader, or of a quorum that followed this one; at first when this peer was opened.
    led: Mutex<Instant>,
}

impl Default for PeerReachability {
    fn default() -> Self {
        Self { silent: Mutex::default(), heard: Mutex::default(), led: Mutex::new(Instant::now()) }
    }
}

struct Silent {
    since: Instant,
    said: bool,
}

impl PeerReachability {
    fn silent(&self) -> MutexGuard<'_, BTreeMap<PeerId, Silent>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer sent something: an answer, or a request of its own.
    pub(crate) fn heard(&self, peer: PeerId) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, Instant::now());
    }

    /// How long ago each other peer gave a sign of life; those that never did are missing.
    pub(crate) fn contacts(&self) -> BTreeMap<PeerId, Duration> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().map(|(peer, at)| (*peer, at.elapsed())).collect()
    }

    /// A leader that this peer follows was heard now; or so long ago a quorum followed this peer.
    pub(crate) fn led(&self, ago: Duration) {
        let mut led = self.led.lock().unwrap_or_else(PoisonError::into_inner);
        *led = Instant::now().checked_sub(ago).map_or(*led, |at| at.max(*led));
    }

    /// How long ago there was a leader, as far as this peer knows.
    pub(crate) fn leader_silence(&self) -> Duration {
        self.led.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The peer answered.
    pub(crate) fn answered(&self, peer: PeerId, info: &PeerInfo) {
        self.heard(peer);
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

    #[tokio::test(start_paused = true)]
    async fn contacts_and_the_silence_of_leaders_grow_until_the_next_word() {
        let reachability = PeerReachability::default();
        assert!(reachability.contacts().is_empty());
        reachability.heard(7);
        tokio::time::advance(SILENCE).await;
        assert_eq!(reachability.contacts(), BTreeMap::from([(7, SILENCE)]));
        assert_eq!(reachability.leader_silence(), SILENCE, "there was none since it was opened");
        reachability.led(SILENCE / 4);
        assert_eq!(reachability.leader_silence(), SILENCE / 4);
        reachability.led(SILENCE / 2);
        assert_eq!(reachability.leader_silence(), SILENCE / 4, "an older word is no news");
        reachability.heard(7);
        assert_eq!(reachability.contacts(), BTreeMap::from([(7, Duration::ZERO)]));
    }
}
