//! How many attempts of a runtime start at a time. Docker's daemon takes a second of processor time for a container that it
//! starts; two hundred at once leave none to renew their leases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stint_protocol::{LeaseId, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// Who has not started by then makes room for the next: it may pull a large image, or its registry may not answer.
const TURN: Duration = Duration::from_secs(5);

/// The attempts that are starting, of runtimes that start few at a time.
#[derive(Default)]
pub struct Turns {
    places: BTreeMap<Runtime, Arc<Semaphore>>,
    taken: Mutex<BTreeMap<LeaseId, OwnedSemaphorePermit>>,
}

impl Turns {
    /// So many at a time of each of these.
    pub fn new(places: impl IntoIterator<Item = (Runtime, usize)>) -> Self {
        let places = places.into_iter().map(|(runtime, most)| (runtime, Arc::new(Semaphore::new(most))));
        Self { places: places.collect(), taken: Mutex::default() }
    }

    /// Whether attempts of this runtime wait for their turn.
    pub fn are_of(&self, runtime: Runtime) -> bool {
        self.places.contains_key(&runtime)
    }

    /// Returns when it is an attempt's turn, in the order in which they asked. It ends with `over`, or after `TURN`.
    pub async fn wait(self: &Arc<Self>, runtime: Runtime, lease: LeaseId) {
        let Some(places) = self.places.get(&runtime) else { return };
        // Nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, place);
        let turns = self.clone();
        tokio::spawn(async move {
            sleep(TURN).await;
            turns.over(lease);
        });
    }

    /// An attempt has started, or ended.
    pub fn over(&self, lease: LeaseId) {
        if self.places.is_empty() {
            return;
        }
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::TaskId;
    use tokio::time::timeout;

    use super::*;

    fn lease(task: u128) -> LeaseId {
        LeaseId { task: TaskId(task), attempt: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_start_at_a_time_in_order_and_who_takes_long_holds_up_nobody() {
        let turns = Arc::new(Turns::new([(Runtime::Docker, 2)]));
        let soon = Duration::from_millis(1);
        let is_turn = async |task| timeout(soon, turns.wait(Runtime::Docker, lease(task))).await.is_ok();
        assert!(is_turn(1).await && is_turn(2).await && !is_turn(3).await);
        turns.wait(Runtime::Process, lease(9)).await;
        turns.over(lease(2));
        assert!(is_turn(3).await && !is_turn(4).await);
        // Neither starts: their turns end by themselves.
        sleep(TURN).await;
        assert!(is_turn(4).await && is_turn(5).await && !is_turn(6).await);
    }
}
