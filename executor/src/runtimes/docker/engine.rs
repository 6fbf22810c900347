//! The Docker daemon of this machine: connecting, removing, and what its errors mean.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::RemoveContainerOptions;
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::limits;

/// Why a call failed.
#[derive(Clone, Debug)]
pub enum EngineError {
    /// Nobody answers at the socket, or not any more.
    Unreachable(String),
    /// The daemon has the call, and did not answer in time.
    Late(String),
    /// The daemon answered and refused: HTTP status and its words.
    Said(u16, String),
}

impl EngineError {
    /// No answer came.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, EngineError::Unreachable(_) | EngineError::Late(_))
    }

    /// Whether the daemon was away, or may have been: one that goes ends its containers. A call that was cut off says nothing
    /// of the daemon.
    pub async fn tells_of_absence(&self, socket: &str) -> bool {
        matches!(self, EngineError::Late(_)) || self.is_unreachable() && !is_there(socket).await
    }

    pub fn status(&self) -> u16 {
        if let EngineError::Said(status, _) = self { *status } else { 0 }
    }

    /// What was said, or why nobody answers.
    pub fn message(&self) -> &str {
        match self {
            EngineError::Unreachable(message)
            | EngineError::Late(message)
            | EngineError::Said(_, message) => message,
        }
    }
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::Said(status_code, message)
            }
            Error::DockerStreamError { error } => EngineError::Said(500, error),
            Error::RequestTimeoutError => {
                EngineError::Late(format!("it did not answer within {} s", limits::DOCKER_CALL_S))
            }
            other => EngineError::Unreachable(with_causes(&other)),
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = next.source();
    }
    message
}

/// Connects and settles on a version of the API that both sides speak.
pub async fn connect(socket: &str) -> Result<Docker, EngineError> {
    let docker = Docker::connect_with_unix(socket, limits::DOCKER_CALL_S, API_DEFAULT_VERSION)?;
    let docker = docker.negotiate_version().await?;
    Ok(docker.with_request_modifier(|mut request| {
        let found = request.headers().get(CREDENTIALS_HEADER).and_then(|sent| sent.to_str().ok());
        if let Some(written) = found.map(for_urls).and_then(|text| text.try_into().ok()) {
            request.headers_mut().insert(CREDENTIALS_HEADER, written);
        }
        request
    }))
}

/// Credentials for a registry.
const CREDENTIALS_HEADER: &str = "x-registry-auth";

/// In the alphabet of base64 that the daemon reads. bollard writes the other one, and the daemon goes on without what it
/// cannot read, which shows with some passwords only.
fn for_urls(base64: &str) -> String {
    base64.replace('+', "-").replace('/', "_")
}

/// Makes a call that may be made again, until it has an answer. An error: the daemon refused, is not there, or has not
/// answered for long.
pub async fn insist<T, F>(socket: &str, call: impl Fn() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let since = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let result = call().await;
        let is_unanswered = matches!(&result, Err(fault) if fault.is_unreachable());
        let is_over = since.elapsed() > Duration::from_millis(limits::DOCKER_INSIST_MS);
        if !is_unanswered || is_over || !is_there(socket).await {
            return result;
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// The process that listens at the daemon's socket. None: nobody does, or somebody else listens for it, as systemd may.
pub async fn listener(socket: &str) -> Option<i32> {
    let connection = timeout(Duration::from_millis(limits::DOCKER_PING_MS), UnixStream::connect(socket));
    connection.await.ok()?.ok()?.peer_cred().ok()?.pid().filter(|pid| *pid > 1)
}

/// Whether somebody listens at the socket: a daemon that is merely slow does, also one that takes no connection.
pub async fn is_there(socket: &str) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let connected = UnixStream::connect(socket).await;
    connected.map_or_else(|error| ![ConnectionRefused, NotFound].contains(&error.kind()), |_| true)
}

/// Whether the processes of the daemon are seen from here, as those of its containers then are.
pub async fn is_in_reach(socket: &str) -> bool {
    let Ok(connection) = UnixStream::connect(socket).await else { return true };
    // The kernel tells a process that has no number in our pid namespace as 0.
    connection.peer_cred().is_ok_and(|peer| peer.pid() != Some(0))
}

/// Kills and removes a container with its anonymous volumes. Ok: there is none of this name any more.
pub async fn remove(docker: &Docker, name: &str) -> Result<(), EngineError> {
    let options = RemoveContainerOptions { force: true, v: true, link: false };
    match docker.remove_container(name, Some(options)).await.map_err(EngineError::from) {
        Err(fault) if fault.status() == 404 => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_is_told_by_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock").display().to_string();
        assert_eq!(listener(&socket).await, None);
        let _listens = tokio::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(listener(&socket).await, Some(std::process::id() as i32));
    }
}
