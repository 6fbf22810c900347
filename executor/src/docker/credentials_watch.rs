//! Whether the file of credentials for registries can be used, looked at now and then: a node says so once, before a task
//! needs them. Never says anything of its content.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stint_protocol::Runtime;
use tokio::time::{MissedTickBehavior, interval};

use super::credentials::Credentials;
use crate::client::state::Shared;
use crate::host::HostEvent;
use crate::limits;

/// What is wrong with the file now, in words for the operator; none: nothing, or there is none.
#[derive(Default)]
pub struct Noted(Mutex<Option<String>>);

impl Noted {
    pub fn problem(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Whether that is something else than before.
    fn note(&self, problem: Option<String>) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(|e| e.into_inner());
        std::mem::replace(&mut *noted, problem.clone()) != problem
    }
}

/// Looks once, before anything is offered.
pub async fn look(shared: &Shared, noted: &Noted) {
    if let Some(file) = file(shared) {
        noted.note(problem_of(file).await);
    }
}

/// Goes on looking; tells the node when something changes. Runs until the client goes.
pub async fn run(shared: Arc<Shared>, noted: Arc<Noted>) {
    let Some(file) = file(&shared) else { return };
    let mut ticks = interval(Duration::from_millis(limits::CREDENTIALS_LOOK_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let problem = problem_of(file).await;
        if !noted.note(problem.clone()) {
            continue;
        }
        match problem {
            Some(problem) => tracing::warn!(%problem, "this node is limited"),
            None => {
                tracing::info!(file = %file.display(), "the credentials for registries can be used again")
            }
        }
        shared.publish(vec![HostEvent::RuntimesChanged]).await;
    }
}

fn file(shared: &Shared) -> Option<&Path> {
    let settings = &shared.settings;
    settings.docker.credentials.as_deref().filter(|_| settings.runtimes.contains(&Runtime::Docker))
}

async fn problem_of(file: &Path) -> Option<String> {
    let file = file.to_owned();
    // A disk that hangs holds up nobody else.
    let read = tokio::task::spawn_blocking(move || Credentials::read(&file).err());
    let error = read.await.ok().flatten()?;
    Some(format!(
        "runtime {}: {error} (executor.docker.credentials); images are pulled without them, and those that need them \
         are not",
        Runtime::Docker
    ))
}
