//! Work that takes long, done where it holds up nothing else.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Tasks of which a request is answered at once, without a thread for it: a millisecond of work.
const FEW: usize = 256;

/// Runs what takes long. Everything else that this thread would do goes to another one meanwhile, where there may be one:
/// reports, answers and the log go on.
pub fn beside_other_work<R>(work: impl FnOnce() -> R) -> R {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => block_in_place(work),
    }
}

/// The same where there is enough to do: something for each of so many tasks.
pub fn beside_other_work_if_many<R>(tasks: usize, work: impl FnOnce() -> R) -> R {
    if tasks > FEW { beside_other_work(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::time::interval;

    use super::*;

    /// One thread for everything.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_takes_long_holds_up_nothing_else() {
        let (over, mut seen) = (Arc::new(Notify::new()), 0);
        let ends = over.clone();
        let work = tokio::spawn(async move {
            beside_other_work(|| std::thread::sleep(Duration::from_millis(500)));
            ends.notify_one();
        });
        // As tasks of the same thread, after it has begun.
        let others = tokio::spawn(async move {
            let mut tick = interval(Duration::from_millis(10));
            loop {
                tokio::select! {
                    biased;
                    () = over.notified() => return seen,
                    _ = tick.tick() => seen += 1,
                }
            }
        });
        work.await.unwrap();
        assert!(others.await.unwrap() >= 5, "nothing else was done");
    }
}
