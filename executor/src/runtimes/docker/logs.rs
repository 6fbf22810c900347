//! A container's output into the attempt's files: as it comes, a frame at a time, so memory stays flat.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, lchown};
use std::path::Path;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::AttachContainerOptions;
use futures_util::{Stream, StreamExt};

use stint_protocol::LeaseId;

use super::engine::EngineError;
use super::init_report;
use crate::shim_api::inside::WORK;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{DockerRequest, StartRequest};
use crate::working_dir;

/// The two output files of an attempt.
#[derive(Debug)]
pub struct LogFiles {
    pub stdout: File,
    pub stderr: File,
}

impl LogFiles {
    /// Makes an attempt's folder: its work folder, where it starts, where its end is told, and its output files.
    pub fn make(layout: &Layout, request: &StartRequest, docker: &DockerRequest) -> io::Result<Self> {
        let folder = layout.attempt(request.lease);
        let work = folder.join("work");
        DirBuilder::new().recursive(true).mode(0o700).create(&work)?;
        let own = |folder: &Path| lchown(folder, Some(docker.user), Some(docker.group));
        own(&work)?;
        for folder in working_dir::to_be_made(request.working_dir.as_deref(), WORK, &work) {
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                Err(_) if !folder.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
                Err(_) => {}
                Ok(()) => own(&folder)?,
            }
        }
        init_report::make(layout, request.lease, (docker.user, docker.group))?;
        let open =
            |name: &str| OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(name));
        Ok(Self { stdout: open("stdout")?, stderr: open("stderr")? })
    }

    /// Makes the folders that an image wants to be written in. They are its program's.
    pub fn make_volumes(
        layout: &Layout,
        lease: LeaseId,
        docker: &DockerRequest,
        number: usize,
    ) -> io::Result<()> {
        for number in 0..number {
            let folder = layout.volume(lease, number);
            DirBuilder::new().recursive(true).mode(0o755).create(&folder)?;
            lchown(&folder, Some(docker.user), Some(docker.group))?;
        }
        Ok(())
    }

    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { stdout: self.stdout.try_clone()?, stderr: self.stderr.try_clone()? })
    }
}

/// Follows the output of a container from now on. The answer ends with the container, the daemon, or the outputs.
pub async fn attach(
    docker: &Docker,
    name: &str,
) -> Result<impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + 'static, EngineError> {
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
    mut files: LogFiles,
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
