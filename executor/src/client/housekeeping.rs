//! Keeps the logs of running attempts small and removes old work folders.

use std::sync::Arc;
use std::time::Duration;

use stint_protocol::LeaseId;
use tokio::time::{MissedTickBehavior, interval};

use super::attempt::AttemptState;
use super::lines::trouble;
use crate::client::state::ClientState;
use crate::host::{Executing, LogStream};
use crate::{limits, logs};

/// Folders removed in one round at most, so that logs are looked at in between.
const REMOVED_AT_ONCE: usize = 500;

/// Runs until the client goes.
pub async fn run(shared: Arc<ClientState>) {
    let mut ticks = interval(Duration::from_millis(limits::LOG_CHECK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (running, old) = (running(&shared), take_old(&shared));
        let shared = shared.clone();
        let work = move || {
            for lease in running {
                for stream in [LogStream::Stdout, LogStream::Stderr] {
                    let path = shared.output_folder(lease).0.join(stream.as_str());
                    if let Err(error) = logs::keep_small(&path, shared.settings.max_log_bytes)
                        && error.kind() != std::io::ErrorKind::NotFound
                    {
                        trouble!(warn, shared, lease, %error, "a log over its cap could not be made smaller");
                    }
                }
            }
            for lease in old {
                let _ = std::fs::remove_dir_all(shared.layout.attempt(lease));
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

fn running(shared: &ClientState) -> Vec<LeaseId> {
    let writes = |attempt: &AttemptState| attempt.stage.is_with(Executing::Watchdog);
    shared.lock().running.iter().filter(|(_, attempt)| writes(attempt)).map(|(lease, _)| *lease).collect()
}

/// The ended attempts that are over the count or the age that is kept.
fn take_old(shared: &ClientState) -> Vec<LeaseId> {
    let keep = shared.settings.keep_ended;
    let mut state = shared.lock();
    let mut old = Vec::new();
    while old.len() < REMOVED_AT_ONCE {
        let Some((since, lease)) = state.kept.front().copied() else { break };
        if state.kept.len() <= keep.count && logs::age(since) < Duration::from_millis(keep.age_ms) {
            break;
        }
        state.kept.pop_front();
        old.push(lease);
    }
    old
}
