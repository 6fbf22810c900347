//! What an image says of how it is run, as it stands in images and beside what was unpacked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stint_executor::ImageConfig;

/// The part of an image's configuration that we use (OCI image specification; Docker writes the same).
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ImageConfigFile {
    #[serde(default)]
    config: Option<ContainerConfig>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    /// A set: each path has an empty object.
    volumes: Option<BTreeMap<String, Option<Empty>>>,
}

/// What a path of `Volumes` has.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Empty {}

impl From<ImageConfigFile> for ImageConfig {
    fn from(written: ImageConfigFile) -> Self {
        let running = written.config.unwrap_or_default();
        Self {
            entrypoint: running.entrypoint.unwrap_or_default(),
            command: running.cmd.unwrap_or_default(),
            environment: running.env.unwrap_or_default(),
            working_dir: running.working_dir.filter(|folder| folder.starts_with('/')),
            stop_signal: running.stop_signal.filter(|name| !name.is_empty()),
            volumes: running.volumes.unwrap_or_default().into_keys().collect(),
        }
    }
}

impl From<&ImageConfig> for ImageConfigFile {
    fn from(config: &ImageConfig) -> Self {
        Self {
            config: Some(ContainerConfig {
                entrypoint: Some(config.entrypoint.clone()),
                cmd: Some(config.command.clone()),
                env: Some(config.environment.clone()),
                working_dir: config.working_dir.clone(),
                stop_signal: config.stop_signal.clone(),
                volumes: Some(config.volumes.iter().map(|path| (path.clone(), Some(Empty {}))).collect()),
            }),
        }
    }
}
