//! What one peer's certificate may take of this peer: connections, calls and their bytes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};

use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;

use crate::connection_limit::ConnectionLimit;
use crate::limits;

/// The shares of all peers that are connected, by certificate.
#[derive(Default)]
pub struct Shares(Mutex<BTreeMap<Vec<u8>, Weak<Share>>>);

impl Shares {
    /// The one share of all connections with this certificate.
    pub fn share_for(&self, certificate: &CertificateDer<'_>) -> Arc<Share> {
        let mut shares = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(share) = shares.get(certificate.as_ref()).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Share::default());
        shares.insert(certificate.to_vec(), Arc::downgrade(&share));
        share
    }
}

/// What one peer takes.
pub struct Share {
    pub connections: Arc<ConnectionLimit>,
    pub calls: Arc<Semaphore>,
    bytes: AtomicUsize,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            connections: ConnectionLimit::new(limits::CONNECTIONS_OF_A_PEER, usize::MAX),
            calls: Arc::new(Semaphore::new(limits::CALLS_OF_A_PEER as usize)),
            bytes: AtomicUsize::new(0),
        }
    }
}

impl Share {
    /// No bytes yet, for one call.
    pub fn bytes(self: &Arc<Self>) -> CallBytes {
        CallBytes { share: self.clone(), count: 0 }
    }
}

/// Bytes of one call that are in memory, as long as this is.
pub struct CallBytes {
    share: Arc<Share>,
    count: usize,
}

impl CallBytes {
    /// So many more; false when that is more than a peer may have. Nobody waits for room: what is on its way would fill the
    /// window of those who have it.
    pub fn grow(&mut self, by: usize) -> bool {
        let grown = self.share.bytes.fetch_update(SeqCst, SeqCst, |before| {
            before.checked_add(by).filter(|before| *before <= limits::CALL_BYTES_OF_A_PEER)
        });
        self.count += if grown.is_ok() { by } else { 0 };
        grown.is_ok()
    }
}

impl Drop for CallBytes {
    fn drop(&mut self) {
        self.share.bytes.fetch_sub(self.count, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_all_calls_of_a_certificate_are_bounded_together() {
        let shares = Shares::default();
        let (one, other) = (CertificateDer::from(vec![1]), CertificateDer::from(vec![2]));
        let (mut first, mut second) = (shares.share_for(&one).bytes(), shares.share_for(&one).bytes());
        assert!(first.grow(limits::CALL_BYTES_OF_A_PEER) && !second.grow(1));
        assert!(shares.share_for(&other).bytes().grow(1));
        drop(first);
        assert!(second.grow(1));
        drop(second);
        let _other = shares.share_for(&CertificateDer::from(vec![3]));
        assert_eq!(shares.0.lock().unwrap().len(), 1, "peers that are gone are forgotten");
    }
}
