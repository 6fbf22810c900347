//! GPUs of a node: asked of the driver, none, or listed one by one.

use std::path::PathBuf;

use stint_executor::FixedGpu;
use stint_protocol::{GpuId, GpuInfo};
use stint_sdk::{suggest, units};
use toml::{Table, Value};

use super::describe::Format;
use super::formats::{Bytes, Misfit, Whole};
use super::texts::{CustomFormat, text};

/// Where the GPUs of a node come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Gpus {
    /// Asked of the driver (NVML).
    Auto,
    None,
    /// `[[executor.gpu]]` tables.
    Listed(Vec<FixedGpu>),
}

pub const GPU_SOURCE: CustomFormat<Gpus> =
    CustomFormat { kind: "auto, none", read: source, show: show_source };
pub const GPU_TABLES: CustomFormat<Gpus> =
    CustomFormat { kind: "list of tables", read: tables, show: show_tables };

/// The keys of a table.
const KEYS: [&str; 5] = ["id", "model", "memory", "index", "in_use_file"];

fn source(value: &Value) -> Result<Gpus, Misfit> {
    match value.as_str() {
        Some("auto") => Ok(Gpus::Auto),
        Some("none") => Ok(Gpus::None),
        _ => {
            let advice = "to list GPUs write [[executor.gpu]] tables";
            Err(format!("{value} is neither \"auto\" nor \"none\"; {advice}").into())
        }
    }
}

fn show_source(gpus: &Gpus) -> Option<Value> {
    match gpus {
        Gpus::Auto => Some("auto".into()),
        Gpus::None => Some("none".into()),
        Gpus::Listed(_) => None,
    }
}

fn tables(value: &Value) -> Result<Gpus, Misfit> {
    let tables = value.as_array().ok_or("is a list: write [[executor.gpu]] and its keys below")?;
    let mut gpus: Vec<FixedGpu> = Vec::new();
    for (position, table) in tables.iter().enumerate() {
        let gpu = gpu(position, table.as_table().ok_or("is a list of tables: write [[executor.gpu]]")?)?;
        if gpus.iter().any(|known| known.info.id == gpu.info.id) {
            Err(format!("the id {:?} stands there twice: each device is listed once", gpu.info.id))?;
        }
        gpus.push(gpu);
    }
    Ok(Gpus::Listed(gpus))
}

fn gpu(position: usize, table: &Table) -> Result<FixedGpu, Misfit> {
    if let Some(wrong) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        Err(format!("unknown key {wrong:?}{}", suggest::hint(wrong, KEYS)))?;
    }
    let id =
        table.get("id").ok_or("an id is missing: write the device's UUID as `nvidia-smi -L` shows it")?;
    let index = table.get("index").map(|value| Whole(0, 255).read(value)).transpose()?;
    let info = GpuInfo {
        id: GpuId::new(&text(id)?).map_err(|e| e.to_string())?,
        model: table.get("model").map(text).transpose()?.unwrap_or_default(),
        memory_bytes: table.get("memory").map(|value| Bytes(1).read(value)).transpose()?.unwrap_or(0),
        index: index.unwrap_or(position as u32),
    };
    let in_use_file = table.get("in_use_file").map(text).transpose()?.map(PathBuf::from);
    Ok(FixedGpu { info, in_use_file })
}

fn show_tables(gpus: &Gpus) -> Option<Value> {
    let Gpus::Listed(list) = gpus else { return None };
    Some(Value::Array(list.iter().map(show_gpu).collect()))
}

fn show_gpu(gpu: &FixedGpu) -> Value {
    let FixedGpu { info: GpuInfo { id, model, memory_bytes, index }, in_use_file } = gpu;
    let keys: [(&str, Option<Value>); 5] = [
        ("id", Some(id.as_str().into())),
        // What is not known is left out: nobody could write it.
        ("model", Some(model.as_str()).filter(|model| !model.is_empty()).map(Value::from)),
        ("memory", Some(*memory_bytes).filter(|bytes| *bytes > 0).map(|b| units::exact_bytes(b).into())),
        ("index", Some(i64::from(*index).into())),
        ("in_use_file", in_use_file.as_ref().map(|file| file.to_string_lossy().into_owned().into())),
    ];
    Value::Table(keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}
