//! The OCI bundle of a crun attempt, and the crun commands its init runs.
//!
//! crun runs *inside* the attempt's own pid namespace, under our init: whatever ends that init (the deadline, the death
//! of the watchdog) ends crun and the container with it, at any step. The container inherits the attempt's cgroup, so
//! crun makes none (`--cgroup-manager=disabled`) and needs no particular cgroup layout.
//!
//! The program runs as user 65534 without capabilities in pid, mount, ipc and uts namespaces of its own; it shares the
//! host's network. It is process 1 of its container: one that does not handle TERM is ended by KILL after the grace.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stint_protocol::LeaseId;

use crate::layout::{Layout, folder_name};
use crate::stages::secrets;
use crate::sys::spawn::Container;
use crate::wire::Order;

/// User and group of programs in containers: nobody.
pub const NOBODY: u32 = 65534;
/// What a program may see of a host that has no image: its system folders.
const HOST_FOLDERS: [&str; 8] = ["bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr"];
/// Empty folders of the root made for it.
const MOUNT_POINTS: [&str; 7] = ["dev", "proc", "sys", "tmp", "run", "var", "work"];

/// Where crun writes its messages for an attempt.
pub fn log_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    bundle_folder(layout, lease).join("crun.log")
}

fn bundle_folder(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("bundle")
}

/// Writes the bundle of an attempt and prepares the commands.
pub fn make(layout: &Layout, order: &Order) -> io::Result<Container> {
    let folder = bundle_folder(layout, order.lease);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let (root, mut mounts) = match &order.image {
        Some(image) => (PathBuf::from(image), Vec::new()),
        None => host_root(layout)?,
    };
    mounts.extend(own_mounts(layout, order));
    let config = config(order, &root, mounts);
    std::fs::write(folder.join("config.json"), serde_json::to_vec(&config)?)?;

    let crun = order.crun.as_deref().ok_or_else(|| io::Error::other("crun was not found on this node"))?;
    let (state, id) = (layout.crun_state(), folder_name(order.lease));
    let pid_file = folder.join("pid");
    let common = || {
        let root = flag("--root=", &state);
        let log = flag("--log=file:", &log_file(layout, order.lease));
        vec![text(crun), root, log, text("--cgroup-manager=disabled")]
    };
    let mut create = common();
    create.extend([text("create"), flag("--bundle=", &folder), flag("--pid-file=", &pid_file), text(&id)]);
    let mut start = common();
    start.extend([text("start"), text(&id)]);
    Ok(Container {
        create,
        start,
        env: vec![text("PATH=/usr/sbin:/usr/bin:/sbin:/bin")],
        pid_file: flag("", &pid_file),
        owner: (NOBODY, NOBODY),
    })
}

/// Removes what crun remembers of a container whose processes are gone. Not `crun delete`: it would look for the
/// container by a process id of a namespace that no longer exists.
pub fn remove(layout: &Layout, lease: LeaseId) {
    let _ = std::fs::remove_dir_all(layout.crun_state().join(folder_name(lease)));
    let _ = std::fs::remove_file(bundle_folder(layout, lease).join("pid"));
}

fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn flag(flag: &str, path: &Path) -> CString {
    CString::new([flag.as_bytes(), path.as_os_str().as_bytes()].concat()).unwrap_or_default()
}

/// An almost empty root into which the host's system folders are mounted read-only.
fn host_root(layout: &Layout) -> io::Result<(PathBuf, Vec<Value>)> {
    let root = layout.root().join("host-root");
    for name in MOUNT_POINTS {
        std::fs::create_dir_all(root.join(name))?;
    }
    // The program walks through it as another user.
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut mounts = Vec::new();
    for name in HOST_FOLDERS {
        let (host, inside) = (Path::new("/").join(name), root.join(name));
        if let Ok(target) = std::fs::read_link(&host) {
            match std::os::unix::fs::symlink(target, &inside) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        } else if host.is_dir() {
            std::fs::create_dir_all(&inside)?;
            mounts.push(json!({
                "destination": format!("/{name}"), "type": "bind", "source": host,
                "options": ["rbind", "ro", "nosuid", "nodev"],
            }));
        }
    }
    Ok((root, mounts))
}

fn own_mounts(layout: &Layout, order: &Order) -> Vec<Value> {
    let scratch = |path: &str, mode: &str, size: &str| {
        json!({
            "destination": path, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", format!("mode={mode}"), format!("size={size}")],
        })
    };
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        // Not `nodev`: crun makes null, zero, random and the like in it, and the program cannot make others.
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755", "size=64k"] }),
        scratch("/dev/shm", "1777", "64m"),
        scratch("/tmp", "1777", "512m"),
        json!({
            "destination": "/work", "type": "bind", "source": layout.attempt(order.lease).join("work"),
            "options": ["bind", "rw", "nosuid", "nodev"],
        }),
    ];
    if let Some(folder) = &order.secrets {
        mounts.push(scratch("/run", "755", "64k"));
        mounts.push(json!({
            "destination": secrets::INSIDE, "type": "bind", "source": folder,
            "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
        }));
    }
    mounts.extend(gpu_devices(&order.gpus).into_iter().map(|device| {
        json!({ "destination": &device, "type": "bind", "source": &device, "options": ["bind", "rw", "nosuid"] })
    }));
    mounts
}

/// Device files of the GPUs that are there; a GPU from the configuration has none.
fn gpu_devices(indexes: &[u32]) -> BTreeSet<PathBuf> {
    let shared = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];
    let own = indexes.iter().map(|index| PathBuf::from(format!("/dev/nvidia{index}")));
    let wanted = own.chain(shared.into_iter().filter(|_| !indexes.is_empty()).map(PathBuf::from));
    wanted.filter(|device| device.exists()).collect()
}

fn config(order: &Order, root: &Path, mounts: Vec<Value>) -> Value {
    let none: [&str; 0] = [];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": NOBODY, "gid": NOBODY },
            "args": order.command,
            "env": order.environment,
            "cwd": "/work",
            "capabilities": {
                "bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none,
            },
            "noNewPrivileges": true,
            "rlimits": [],
        },
        "root": { "path": root, "readonly": true },
        "hostname": "stint",
        "mounts": mounts,
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
