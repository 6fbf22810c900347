//! Keeps the logs of running attempts small, and removes what nobody needs of those that have ended.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use stint_protocol::LeaseId;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::attempt::AttemptState;
use super::lines::trouble;
use crate::client::state::ClientState;
use crate::host::{Executing, LogStream};
use crate::progress::FILE as PROGRESS_FILE;
use crate::shim_api::layout::Layout;
use crate::{limits, logs, stages};

/// Folders removed in one round at most.
const REMOVED_AT_ONCE: usize = 500;

/// Runs until the client goes.
pub async fn run(shared: Arc<ClientState>) {
    // Apart: who left millions of files takes long to remove, and logs grow meanwhile.
    tokio::join!(keep_logs_small(&shared), remove_files(&shared));
}

fn ticks() -> Interval {
    let mut ticks = interval(Duration::from_millis(limits::LOG_CHECK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn keep_logs_small(shared: &Arc<ClientState>) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let (running, shared) = (running(shared), shared.clone());
        let work = move || {
            for lease in running {
                for stream in [LogStream::Stdout, LogStream::Stderr] {
                    let path = shared.output_folder(lease).0.join(stream.as_str());
                    if let Err(error) = logs::keep_small(&path, shared.settings.max_log_bytes)
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        trouble!(warn, shared, lease, %error, "a log over its cap could not be made smaller");
                    }
                }
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

async fn remove_files(shared: &Arc<ClientState>) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let (ended, old, shared) = (take_ended(shared), take_old(shared), shared.clone());
        let work = move || {
            for lease in old {
                let _ = fs::remove_dir_all(shared.layout.attempt(lease));
            }
            for lease in ended {
                if let Err(error) = clear(&shared.layout, lease) {
                    trouble!(warn, shared, lease, %error, "its work folder stays until the attempt is old");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

fn running(shared: &ClientState) -> Vec<LeaseId> {
    let writes = |attempt: &AttemptState| attempt.stage.is_with(Executing::Watchdog);
    shared.lock().running.iter().filter(|(_, attempt)| writes(attempt)).map(|(lease, _)| *lease).collect()
}

/// Attempts whose ends the cluster has recorded since the last look, some at once.
fn take_ended(shared: &ClientState) -> Vec<LeaseId> {
    let mut state = shared.lock();
    let from = state.to_clear.len().saturating_sub(REMOVED_AT_ONCE);
    state.to_clear.split_off(from)
}

/// Removes what an attempt left for itself. Its streams, what it said last of its progress, and outputs that no other node has, stay.
fn clear(layout: &Layout, lease: LeaseId) -> io::Result<()> {
    let folder = layout.attempt(lease);
    let (work, packed) = (folder.join("work"), folder.join(stages::PACKED));
    let end = stages::finished(layout, lease);
    let outputs = end.iter().filter_map(|end| end.outputs.as_ref()).flat_map(|kept| kept.iter());
    for kept in outputs.filter(|kept| !kept.stored) {
        stages::outputs::hold(&work, &packed, &kept.path)?;
    }
    let entries = match fs::read_dir(&work) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let _ = fs::remove_dir_all(folder.join("bundle"));
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != PROGRESS_FILE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
