//! What an image says of how it is run, as it stands in images and beside what was unpacked.

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
}

impl From<ImageConfigFile> for ImageConfig {
    fn from(written: ImageConfigFile) -> Self {
        let running = written.config.unwrap_or_default();
        Self {
            entrypoint: running.entrypoint.unwrap_or_default(),
            command: running.cmd.unwrap_or_default(),
            environment: running.env.unwrap_or_default(),
            working_dir: running.working_dir.filter(|folder| folder.starts_with('/')),
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
            }),
        }
    }
}
