//! What attempts wrote last, read while their ends wait to be reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stint_executor::{Host, LastOutput};
use stint_protocol::limits::ENDING_TAIL_BYTES;
use stint_protocol::{AttemptEnd, LeaseId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::endings::summary;
use crate::limits;

/// A disk that hangs holds up no report: an end whose output is not read yet counts as held, and comes with the next one.
#[derive(Default)]
pub struct EndingReader {
    read: BTreeMap<LeaseId, LastOutput>,
    reading: BTreeSet<LeaseId>,
    tasks: JoinSet<(LeaseId, LastOutput)>,
}

impl EndingReader {
    /// Reads for the ends that the next report has room for, and waits a little for it.
    pub async fn look(&mut self, host: &Arc<dyn Host>) {
        let ends = host.unacknowledged();
        if ends.is_empty() && self.read.is_empty() {
            return;
        }
        let leases: BTreeSet<LeaseId> = ends.iter().map(|end| end.lease).collect();
        self.read.retain(|lease, _| leases.contains(lease));
        let next = ends.iter().take(limits::ENDS_PER_REPORT).map(|end| end.lease);
        let new: Vec<LeaseId> =
            next.filter(|lease| !self.read.contains_key(lease) && !self.reading.contains(lease)).collect();
        self.begin(new, host);
        let until = Instant::now() + limits::ENDING_WAIT;
        while !self.tasks.is_empty() {
            if timeout_at(until, self.finished()).await.is_err() {
                return;
            }
        }
    }

    fn begin(&mut self, leases: Vec<LeaseId>, host: &Arc<dyn Host>) {
        let readers = Arc::new(Semaphore::new(limits::ENDING_READERS));
        for lease in leases {
            if !host.may_have_written(lease) {
                self.read.insert(lease, LastOutput::default());
                continue;
            }
            self.reading.insert(lease);
            let (host, readers) = (host.clone(), readers.clone());
            self.tasks.spawn(async move {
                let read = async {
                    let _reader = readers.acquire().await;
                    host.last_output(lease, ENDING_TAIL_BYTES).await
                };
                (lease, timeout(limits::ENDING_READ, read).await.unwrap_or_default())
            });
        }
    }

    /// Whether some are still read.
    pub fn is_reading(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Returns when one more was read.
    pub async fn finished(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok((lease, last))) => {
                self.reading.remove(&lease);
                self.read.insert(lease, last);
            }
            // Nobody knows whose it was: all that were begun are reported without.
            Some(Err(_)) => {
                let lost = std::mem::take(&mut self.reading);
                self.read.extend(lost.into_iter().map(|lease| (lease, LastOutput::default())));
            }
            None => {}
        }
    }

    /// The ends that can be reported, with what their attempts wrote last; and the others.
    pub fn complete(&self, ends: Vec<AttemptEnd>) -> (Vec<AttemptEnd>, Vec<LeaseId>) {
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for mut end in ends {
            let Some(last) = self.read.get(&end.lease) else {
                waiting.push(end.lease);
                continue;
            };
            if let Some(summary) = summary::pack(last) {
                end.ending.get_or_insert_default().summary = Some(summary);
            }
            ready.push(end);
        }
        (ready, waiting)
    }
}
