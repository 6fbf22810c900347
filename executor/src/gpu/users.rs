//! Which processes use a GPU. An attempt is given a device only when nobody does
//! (docs/internals/leases.md#clear-device): what a driver or a process outside every sandbox left behind must not meet
//! the next holder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nvml_wrapper::Nvml;
use stint_protocol::GpuId;

use super::inventory::{GpuSource, load_nvml};

/// Longest name of a process that is shown, in bytes.
const NAME_BYTES: usize = 80;

/// Asks who uses a device.
pub enum GpuUsers {
    /// NVIDIA's library.
    Nvml(Box<Nvml>),
    /// Devices of tests: in use while their file is there; it names the user.
    Files(BTreeMap<GpuId, PathBuf>),
    /// Nobody can tell: no device is ever found in use.
    Unknown,
}

impl GpuUsers {
    /// For devices of this source.
    pub fn for_source(source: &GpuSource) -> Self {
        match source {
            GpuSource::None => Self::Unknown,
            GpuSource::Nvml => load_nvml().map_or(Self::Unknown, |nvml| Self::Nvml(Box::new(nvml))),
            GpuSource::Fixed(gpus) => {
                let file = |gpu: &super::FixedGpu| Some((gpu.info.id.clone(), gpu.in_use_file.clone()?));
                Self::Files(gpus.iter().filter_map(file).collect())
            }
        }
    }

    /// Whether this can tell anything about the device.
    pub fn can_tell(&self, gpu: &GpuId) -> bool {
        match self {
            Self::Nvml(_) => true,
            Self::Files(files) => files.contains_key(gpu),
            Self::Unknown => false,
        }
    }

    /// Who uses the device now, in words; none when nobody does. A device that cannot be asked counts as used. Blocks
    /// for some milliseconds.
    pub fn user_of(&self, gpu: &GpuId) -> Option<String> {
        match self {
            Self::Nvml(nvml) => nvml_user(nvml, gpu).unwrap_or_else(|error| Some(format!("NVML: {error}"))),
            Self::Files(files) => std::fs::read_to_string(files.get(gpu)?).ok(),
            Self::Unknown => None,
        }
    }
}

fn nvml_user(nvml: &Nvml, gpu: &GpuId) -> Result<Option<String>, nvml_wrapper::error::NvmlError> {
    let processes = nvml.device_by_uuid(gpu.as_str())?.running_compute_processes()?;
    let Some(first) = processes.first() else { return Ok(None) };
    let name = nvml.sys_process_name(first.pid, NAME_BYTES).unwrap_or_default();
    let more = match processes.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Ok(Some(format!("process {} {name}{more}", first.pid)))
}
