//! One process of a peer: a runtime of its own, so that it can be killed, stopped (as by SIGSTOP) and continued while
//! its machine, its network card and the world go on.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{advance, sleep};

use crate::peer::Failed;

type Main = Pin<Box<dyn Future<Output = Result<(), Failed>>>>;

/// A running or stopped process. Dropped: killed at once.
pub struct Process {
    /// None once the runtime is being taken down: tasks are dropped while it can still be entered.
    main: Option<Main>,
    runtime: Runtime,
    stopped_at_ms: Option<u64>,
}

impl Process {
    /// Begins; nothing runs before the first step.
    pub fn start(main: impl Future<Output = Result<(), Failed>> + 'static) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.unwrap_or_else(|e| panic!("a runtime without threads: {e}"));
        // Rounds the runtime's clock to whole milliseconds.
        runtime.block_on(async { sleep(Duration::from_millis(1)).await });
        Self { main: Some(Box::pin(main)), runtime, stopped_at_ms: None }
    }

    /// Runs for one step of the world, if not stopped. Answers how the process ended by itself.
    pub fn step(&mut self, step: Duration) -> Option<Result<(), Failed>> {
        let main = self.main.as_mut().filter(|_| self.stopped_at_ms.is_none())?;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                ended = main => Some(ended),
                () = sleep(step) => None,
            }
        })
    }

    /// Takes the processor away from it.
    pub fn stop(&mut self, now_ms: u64) {
        self.stopped_at_ms.get_or_insert(now_ms);
    }

    /// Gives it back. After SIGSTOP the monotonic clock has gone on, so that every timer that is over fires at once;
    /// a suspended machine's has not.
    pub fn go_on(&mut self, now_ms: u64, clock_went_on: bool) {
        if let Some(at) = self.stopped_at_ms.take().filter(|_| clock_went_on) {
            self.runtime.block_on(async { advance(Duration::from_millis(now_ms - at)).await });
        }
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped_at_ms.is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.main.take();
    }
}
