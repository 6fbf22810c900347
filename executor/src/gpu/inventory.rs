//! Which GPUs this machine has, and that only one node of the machine offers each.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use stint_protocol::{GpuId, GpuInfo};

use crate::sys;

/// Where the inventory comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GpuSource {
    /// NVIDIA's library, loaded at run time; absent = no GPUs.
    Nvml,
    /// These, for tests and simulated devices.
    Fixed(Vec<FixedGpu>),
    #[default]
    None,
}

/// A device that a configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedGpu {
    pub info: GpuInfo,
    /// While this file is there the device counts as used by what the file says; for tests.
    pub in_use_file: Option<PathBuf>,
}

/// Why the inventory is unknown.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error("asking NVML about {what}: {source}; does `nvidia-smi` work on this machine?")]
    Nvml {
        what: String,
        #[source]
        source: NvmlError,
    },
    #[error("NVML gives a GPU the id {0:?}, which is not a UUID")]
    Id(String),
}

/// The GPUs of this machine. No library and no driver mean none, said once in the log.
pub fn detect_gpus(source: &GpuSource) -> Result<Vec<GpuInfo>, GpuError> {
    match source {
        GpuSource::None => Ok(Vec::new()),
        GpuSource::Fixed(gpus) => Ok(gpus.iter().map(|gpu| gpu.info.clone()).collect()),
        GpuSource::Nvml => ask_nvml(),
    }
}

fn ask_nvml() -> Result<Vec<GpuInfo>, GpuError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| GpuError::Nvml { what, source }
    };
    let nvml = match load_nvml() {
        Ok(nvml) => nvml,
        Err(
            e @ (NvmlError::LibloadingError(_) | NvmlError::DriverNotLoaded | NvmlError::LibraryNotFound),
        ) => {
            tracing::info!(reason = %e, "no NVIDIA GPUs offered: NVML is not usable here");
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed("its devices")(e)),
    };
    let count = nvml.device_count().map_err(failed("the number of devices"))?;
    (0..count).map(|index| describe(&nvml, index).map_err(failed(&format!("device {index}")))?).collect()
}

/// Distributions without development packages have the library only under its version 1 name.
pub(super) fn load_nvml() -> Result<Nvml, NvmlError> {
    match Nvml::init() {
        Err(NvmlError::LibloadingError(_)) => Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init(),
        other => other,
    }
}

fn describe(nvml: &Nvml, index: u32) -> Result<Result<GpuInfo, GpuError>, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let uuid = device.uuid()?;
    let (model, memory_bytes) = (device.name()?, device.memory_info()?.total);
    let info = |id| GpuInfo { id, model, memory_bytes, index };
    Ok(GpuId::new(&uuid).map(info).map_err(|_| GpuError::Id(uuid)))
}

/// Holds the locks of the GPUs a node offers; they go when it is dropped or its process ends.
#[derive(Debug, Default)]
pub struct GpuLocks {
    _files: Vec<File>,
}

/// Locks each GPU for this process under `folder` (for all nodes of the machine the same, `/run/stint` by default).
/// Gives those that were free, and for each other one why it is not offered.
pub fn lock_gpus(folder: &Path, gpus: Vec<GpuInfo>) -> (Vec<GpuInfo>, Vec<String>, GpuLocks) {
    let (mut offered, mut problems, mut locks) = (Vec::new(), Vec::new(), GpuLocks::default());
    for gpu in gpus {
        let path = folder.join(format!("gpu-{}.lock", gpu.id.as_str().replace(':', "_")));
        match lock(folder, &path) {
            Ok(Some(file)) => {
                locks._files.push(file);
                offered.push(gpu);
            }
            Ok(None) => problems.push(format!("GPU {} is offered by another node of this machine", gpu.id)),
            Err(e) => {
                problems.push(format!("GPU {} is not offered: locking {}: {e}", gpu.id, path.display()))
            }
        }
    }
    (offered, problems, locks)
}

fn lock(folder: &Path, path: &PathBuf) -> io::Result<Option<File>> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    Ok(sys::lock_exclusive(&file)?.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_offered_by_one_node_of_a_machine() {
        let folder = tempfile::tempdir().unwrap();
        let gpu = GpuInfo { id: GpuId::new("GPU-1").unwrap(), model: "T".into(), memory_bytes: 1, index: 0 };
        let (offered, problems, locks) = lock_gpus(folder.path(), vec![gpu.clone()]);
        assert_eq!((offered.len(), problems.len()), (1, 0));
        let (offered, problems, _) = lock_gpus(folder.path(), vec![gpu.clone()]);
        assert_eq!(offered, []);
        assert!(problems[0].contains("another node"), "{problems:?}");
        drop(locks);
        assert_eq!(lock_gpus(folder.path(), vec![gpu]).0.len(), 1);
    }

    #[test]
    fn a_machine_without_nvml_has_no_gpus() {
        match detect_gpus(&GpuSource::Nvml) {
            Ok(gpus) => println!("{} GPUs found", gpus.len()),
            Err(e) => panic!("{e}"),
        }
    }
}
