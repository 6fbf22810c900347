//! The state of the cluster as a file, for whoever keeps it somewhere else.

use std::io::{self, Write};

use tokio::sync::mpsc;

use super::access::Operation;
use super::{Principal, Service, ServiceError};
use crate::snapshot_file::{self, Description};

/// Bytes of one part.
const PART_BYTES: usize = 256 * 1024;
/// Parts on their way to a client.
const PARTS_AHEAD: usize = 4;

type Part = Result<Vec<u8>, ServiceError>;

impl Service {
    /// The bytes of a file of the state, no older than this call; without a leader of this peer's own copy.
    pub async fn save_snapshot(&self, caller: &Principal) -> Result<mpsc::Receiver<Part>, ServiceError> {
        self.allow(caller, Operation::SaveSnapshot)?;
        self.read().await?;
        let view = self.node.applied.view();
        let description = Description {
            cluster: self.node.cluster.clone(),
            cluster_id: self.node.cluster_id()?,
            cluster_version: view.state.version(),
            index: view.at.index,
            term: view.at.term,
            saved_at: self.node.clock.wall(),
            saved_by: self.node.id,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
        tokio::task::spawn_blocking(move || {
            let mut parts = Parts { sender, gathered: Vec::with_capacity(PART_BYTES) };
            // The one way to fail is a client that is gone, which needs no error.
            let _ = snapshot_file::write(&description, &view.state, &mut parts);
        });
        Ok(receiver)
    }
}

/// Gathers bytes into parts, and waits for the client.
struct Parts {
    sender: mpsc::Sender<Part>,
    gathered: Vec<u8>,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gathered.len() >= PART_BYTES {
            self.flush()?;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.gathered, Vec::with_capacity(PART_BYTES));
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(Ok(part)).map_err(gone)
    }
}
