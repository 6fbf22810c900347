//! The door between an execution host and the bytes that a cluster keeps: images, inputs, outputs.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use stint_protocol::{Blob, Tenant};

/// What an attempt runs, on this host's disk. Nobody writes there while an attempt may use it. Programs run as another
/// user: a file is readable and executable by everybody (0755), and so is a root folder; the folders above need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageFiles {
    /// One executable file.
    Executable(PathBuf),
    /// A folder with a root file system, and what the image says of how to run it.
    Root { folder: PathBuf, config: Arc<ImageConfig> },
}

/// What an image says of how it is run; a task's own words win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Comes before the task's command.
    pub entrypoint: Vec<String>,
    /// Runs when the task names no command.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Absolute, inside.
    pub working_dir: Option<String>,
    /// The name or number of the signal that asks its program to end.
    pub stop_signal: Option<String>,
    /// Folders that its program writes in.
    pub volumes: Vec<String>,
}

/// Why bytes could not be had or kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nobody has it, it is another tenant's, or it is not what its name says: no retry helps.
    #[error("{0}")]
    Wrong(String),
    /// Peers out of reach, a full or broken disk: another attempt may have it.
    #[error("{0}")]
    Unavailable(String),
}

/// A boxed future, for the door.
pub type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// DOOR: the cluster's bytes, as an execution host sees them. Implemented by a node; a host has none in a test that
/// needs none.
pub trait Store: Send + Sync + 'static {
    /// Makes a tenant's registered image present on this host, fetched, checked and unpacked. `image` is what the
    /// task's spec says. It stays at least until `release` was called as often as this answered.
    fn image(&self, tenant: &Tenant, image: &str) -> StoreFuture<ImageFiles>;
    /// The attempt that used the image has ended.
    fn release(&self, tenant: &Tenant, image: &str);
    /// Makes a tenant's blob present on this host: a file that is only read, whose bytes were checked. It stays long
    /// enough to be copied or linked at once.
    fn fetch(&self, tenant: &Tenant, blob: Blob) -> StoreFuture<PathBuf>;
    /// Stores the bytes of a file for a tenant, on as many peers as the cluster's rules say, before it answers.
    fn keep(&self, tenant: &Tenant, file: PathBuf) -> StoreFuture<Blob>;
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cluster's store")
    }
}
