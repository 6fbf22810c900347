//! GPU devices of a container: from the Container Device Interface's files (JSON, kind `nvidia.com/gpu`) where the host has
//! them, else the device files that the driver is known to have.
//!
//! Hooks of such files are not run: they would write into a root file system that others use too. Folders of mounted
//! libraries are told to the loader by LD_LIBRARY_PATH instead.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use serde_json::Value;

use super::mount;
use crate::shim_api::inside::HOST_FOLDERS;
use crate::shim_api::request::StartRequest;

const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
const KIND: &str = "nvidia.com/gpu";
/// A longer file is none that a vendor's tool made.
const FILE_BYTES: u64 = 4 << 20;

/// What a container gets for its GPUs.
#[derive(Debug, Default, PartialEq)]
pub struct Devices {
    pub mounts: Vec<Mount>,
    /// `NAME=value`.
    pub env: Vec<String>,
}

/// The devices of a request.
pub fn devices(request: &StartRequest) -> Devices {
    if request.gpus.is_empty() {
        return Devices::default();
    }
    let of_host = request.root.is_none();
    let specs = FOLDERS.iter().flat_map(|folder| specs_in(Path::new(folder)));
    let wanted: Vec<[String; 2]> = request
        .gpus
        .iter()
        .enumerate()
        .map(|(at, index)| [request.gpu_ids.get(at).cloned().unwrap_or_default(), index.to_string()])
        .collect();
    specs
        .into_iter()
        .find_map(|spec| from_spec(&spec, &wanted, of_host))
        .unwrap_or_else(|| known(&request.gpus))
}

fn specs_in(folder: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    let small = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.len() <= FILE_BYTES);
    let read = |path: &PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok();
    files.iter().filter(|path| small(path)).filter_map(read).filter(|spec| spec["kind"] == KIND).collect()
}

/// What a file says of the wanted devices, each named by its id or its index; none when it lacks one of them.
fn from_spec(spec: &Value, wanted: &[[String; 2]], of_host: bool) -> Option<Devices> {
    let known = spec["devices"].as_array()?;
    let named = |name: &String| known.iter().find(|device| device["name"].as_str() == Some(name.as_str()));
    let mut edits = Vec::new();
    for [id, index] in wanted {
        edits.push(&named(id).or_else(|| named(index))?["containerEdits"]);
    }
    edits.push(&spec["containerEdits"]);
    let mut devices = Devices::default();
    let mut libraries = BTreeSet::new();
    for edit in edits {
        for node in list(&edit["deviceNodes"]) {
            let Some(path) = node["path"].as_str() else { continue };
            devices.add(device_mount(node["hostPath"].as_str().unwrap_or(path), path));
        }
        for mount in list(&edit["mounts"]) {
            devices.add_mount(mount, of_host, &mut libraries);
        }
        devices.env.extend(list(&edit["env"]).iter().filter_map(|pair| pair.as_str()).map(String::from));
    }
    if !libraries.is_empty() {
        devices.env.push(format!("LD_LIBRARY_PATH={}", libraries.into_iter().collect::<Vec<_>>().join(":")));
    }
    Some(devices)
}

/// What a file of these bytes would give.
#[cfg(any(test, feature = "fuzzing"))]
pub fn read(bytes: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Value>(bytes) else { return };
    let wanted = [["GPU-b".into(), "0".into()], [String::new(), "1".into()]];
    for of_host in [false, true] {
        let _ = from_spec(&spec, &wanted, of_host);
    }
}

impl Devices {
    fn add(&mut self, mount: Mount) {
        if !self.mounts.contains(&mount) {
            self.mounts.push(mount);
        }
    }

    fn add_mount(&mut self, mount: &Value, of_host: bool, libraries: &mut BTreeSet<String>) {
        let (Some(host), Some(inside)) = (mount["hostPath"].as_str(), mount["containerPath"].as_str()) else {
            return;
        };
        let in_host_folder =
            || HOST_FOLDERS.iter().any(|folder| Path::new(inside).starts_with(Path::new("/").join(folder)));
        // It is there already, and nothing can be added to what is mounted read-only.
        if of_host && in_host_folder() {
            return;
        }
        if inside.contains(".so")
            && let Some(folder) = Path::new(inside).parent()
        {
            libraries.insert(folder.display().to_string());
        }
        self.add(mount::bind(inside, host, &["rbind", "ro", "nosuid", "nodev"]));
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn device_mount(host: &str, inside: &str) -> Mount {
    mount::bind(inside, host, &["bind", "rw", "nosuid", "noexec"])
}

/// Device files of the GPUs that are there; a GPU from the configuration has none.
fn known(indexes: &[u32]) -> Devices {
    let shared = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];
    let own: BTreeSet<String> = indexes.iter().map(|index| format!("/dev/nvidia{index}")).collect();
    let all = own.into_iter().chain(shared.map(String::from));
    let mounts = all.filter(|device| Path::new(device).exists()).map(|device| device_mount(&device, &device));
    Devices { mounts: mounts.collect(), env: Vec::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({
            "cdiVersion": "0.6.0", "kind": KIND,
            "devices": [
                { "name": "0", "containerEdits": { "deviceNodes": [{ "path": "/dev/nvidia0" }] } },
                { "name": "GPU-b", "containerEdits": { "deviceNodes": [{ "path": "/dev/nvidia1", "hostPath": "/dev/x1" }] } },
                { "name": "all", "containerEdits": { "deviceNodes": [{ "path": "/dev/nvidia0" }, { "path": "/dev/nvidia1" }] } },
            ],
            "containerEdits": {
                "env": ["NVIDIA_VISIBLE_DEVICES=void"],
                "deviceNodes": [{ "path": "/dev/nvidiactl" }],
                "mounts": [{ "hostPath": "/host/libcuda.so.1", "containerPath": "/usr/lib/libcuda.so.1", "options": ["ro"] }],
                "hooks": [{ "hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook" }],
            },
        })
    }

    fn wanted(id: &str, index: u32) -> Vec<[String; 2]> {
        vec![[id.to_owned(), index.to_string()]]
    }

    #[test]
    fn a_device_is_found_by_its_id_or_its_index_and_no_other_comes_along() {
        let places = |devices: &Devices| -> Vec<String> {
            devices.mounts.iter().map(|m| m.destination().display().to_string()).collect()
        };
        let by_id = from_spec(&spec(), &wanted("GPU-b", 7), false).unwrap();
        assert_eq!(places(&by_id), ["/dev/nvidia1", "/dev/nvidiactl", "/usr/lib/libcuda.so.1"]);
        assert_eq!(by_id.mounts[0].source().as_deref(), Some(Path::new("/dev/x1")));
        assert_eq!(by_id.env, ["NVIDIA_VISIBLE_DEVICES=void", "LD_LIBRARY_PATH=/usr/lib"]);
        let by_index = from_spec(&spec(), &wanted("GPU-a", 0), true).unwrap();
        assert_eq!(
            places(&by_index),
            ["/dev/nvidia0", "/dev/nvidiactl"],
            "the host's libraries are there already"
        );
        assert_eq!(from_spec(&spec(), &wanted("GPU-c", 5), false), None);
    }

    #[test]
    fn files_of_other_kinds_and_broken_ones_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("a.json", "{ broken");
        put("b.json", r#"{ "kind": "vendor.com/net", "devices": [] }"#);
        put("c.yaml", "kind: nvidia.com/gpu");
        assert!(specs_in(folder.path()).is_empty());
        put("d.json", &spec().to_string());
        assert_eq!(specs_in(folder.path()), [spec()]);
    }
}
