//! A container's output into the attempt's files: as it comes, a frame at a time, so memory stays flat.

use std::fs::File;
use std::io::Write;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::AttachContainerOptions;
use futures_util::{Stream, StreamExt};

use super::engine::Fault;

/// The two output files of an attempt.
#[derive(Debug)]
pub struct Files {
    pub stdout: File,
    pub stderr: File,
}

impl Files {
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { stdout: self.stdout.try_clone()?, stderr: self.stderr.try_clone()? })
    }
}

/// Follows the output of a container from now on. The answer ends with the container, the daemon, or the outputs.
pub async fn attach(
    docker: &Docker,
    name: &str,
) -> Result<impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + 'static, Fault> {
    let options = AttachContainerOptions {
        stream: true,
        stdout: true,
        stderr: true,
        ..AttachContainerOptions::default()
    };
    Ok(docker.attach_container(name, Some(options)).await?.output)
}

/// Writes everything into the files; answers the first reason for which something was lost. A full disk never stops
/// the program: what cannot be written is dropped.
pub async fn pump(
    mut output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Unpin,
    mut files: Files,
) -> Option<std::io::Error> {
    let mut lost = None;
    while let Some(Ok(part)) = output.next().await {
        let (file, bytes) = match &part {
            LogOutput::StdErr { message } => (&mut files.stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                (&mut files.stdout, message)
            }
        };
        if let Err(e) = file.write_all(bytes) {
            lost.get_or_insert(e);
        }
    }
    lost
}
