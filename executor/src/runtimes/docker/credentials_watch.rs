//! Whether the file of credentials for registries can be used, looked at now and then: a node says so once, before a task
//! needs them. Never says anything of its content.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stint_protocol::Runtime;
use tokio::time::{MissedTickBehavior, interval};

use super::credentials::Credentials;
use crate::host::{HostEvent, Publisher};
use crate::limits;

/// The file, and what is wrong with it now, in words for the operator.
#[derive(Debug)]
pub struct CredentialsWatch {
    file: PathBuf,
    problem: Mutex<Option<String>>,
}

impl CredentialsWatch {
    pub fn new(file: PathBuf) -> Self {
        Self { file, problem: Mutex::default() }
    }

    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether that is something else than before.
    fn note(&self, problem: Option<String>) -> bool {
        let mut noted = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *noted, problem.clone()) != problem
    }

    /// Looks once, before anything is offered.
    pub async fn look(&self) {
        self.note(problem_of(&self.file).await);
    }

    /// Goes on looking; tells the node when something changes. Runs until the client goes.
    pub async fn run(self: Arc<Self>, publish: Publisher) {
        let mut ticks = interval(Duration::from_millis(limits::CREDENTIALS_LOOK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let problem = problem_of(&self.file).await;
            if !self.note(problem.clone()) {
                continue;
            }
            match problem {
                Some(problem) => tracing::warn!(%problem, "this node is limited"),
                None => {
                    let file = self.file.display();
                    tracing::info!(%file, "the credentials for registries can be used again");
                }
            }
            publish(vec![HostEvent::RuntimesChanged]).await;
        }
    }
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
