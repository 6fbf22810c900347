//! `config.json`: the process, its mounts and namespaces, as the OCI runtime specification has them.

use std::path::Path;

use serde_json::{Value, json};

use super::cdi::Devices;
use super::rootfs::RootFs;
use crate::limits;
use crate::shim::bundle::{bundle_folder, mount_place};
use crate::shim::seccomp;
use crate::shim_api::inside::{SECRETS, WORK};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Confinement, GivenMount, Order};
use crate::sys;
use crate::working_dir;

/// User and group of programs when the node, of an earlier version, names none: nobody.
const NOBODY: u32 = 65534;
/// Paths that show the host, each hidden where it exists.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user and group of an order's program.
pub fn user(order: &Order) -> (u32, u32) {
    order.confinement.as_ref().map_or((NOBODY, NOBODY), |c| (c.user, c.group))
}

/// The whole document.
pub fn config(layout: &Layout, order: &Order, root: &RootFs, devices: Devices) -> Value {
    let none: [&str; 0] = [];
    let (uid, gid) = user(order);
    let named = |pair: &String, name: &str| pair.split_once('=').is_some_and(|(n, _)| n == name);
    let unset = |pair: &&String| {
        pair.split_once('=').is_some_and(|(n, _)| !order.environment.iter().any(|e| named(e, n)))
    };
    let of_secrets = order.secret_variables(SECRETS);
    let env: Vec<&String> =
        order.environment.iter().chain(&of_secrets).chain(devices.env.iter().filter(unset)).collect();
    let mut mounts = root.mounts.clone();
    mounts.extend(own_mounts(&layout.attempt(order.lease).join("work"), order.confinement.as_deref()));
    mounts.extend(order.secrets.as_ref().map(|given| {
        json!({
            "destination": SECRETS, "type": "bind", "source": given.folder,
            "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
        })
    }));
    mounts.extend(devices.mounts);
    mounts.extend(host_mounts(order, &bundle_folder(layout, order.lease)));
    let working_dir = order.working_dir.as_deref().map(|wanted| working_dir::inside(wanted, WORK));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": uid, "gid": gid },
            "args": order.command,
            "env": env,
            "cwd": working_dir.unwrap_or_else(|| root.working_dir.clone()),
            "capabilities": {
                "bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none,
            },
            "noNewPrivileges": true,
            "rlimits": rlimits(),
        },
        "root": { "path": root.path, "readonly": true },
        "hostname": "stint",
        "mounts": mounts,
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" },
            ],
            "seccomp": seccomp::profile(),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

fn rlimits() -> Value {
    let (first, most) = sys::open_files(limits::OPEN_FILES);
    json!([
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        { "type": "RLIMIT_NOFILE", "soft": first, "hard": most },
    ])
}

fn own_mounts(work: &Path, confinement: Option<&Confinement>) -> Vec<Value> {
    let (tmp, shm) =
        confinement.map_or((limits::TMP_BYTES, limits::SHM_BYTES), |c| (c.tmp_bytes, c.shm_bytes));
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let size = |bytes: u64| format!("size={bytes}");
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        // Not `nodev`: crun makes null, zero, random and the like in it, and the program cannot make others.
        mount("/dev", "tmpfs", &["nosuid", "noexec", "mode=755", "size=64k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1777", &size(shm)]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777", &size(tmp)]),
        json!({
            "destination": "/work", "type": "bind", "source": work, "options": ["bind", "rw", "nosuid", "nodev"],
        }),
    ]
}

/// What the init lays into the bundle's folder before crun runs.
fn host_mounts(order: &Order, bundle: &Path) -> Vec<Value> {
    let mount = |(number, mount): (usize, &GivenMount)| {
        let access = if mount.writable { "rw" } else { "ro" };
        json!({
            "destination": mount.target, "type": "bind", "source": mount_place(bundle, number),
            "options": ["rbind", access, "nosuid", "nodev"],
        })
    };
    order.mounts.iter().enumerate().map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::bundle::rootfs;
    use crate::shim_api::request::{AttemptLabels, Mode, Root};
    use stint_protocol::{BootMs, Class, LeaseId, Network, Runtime, TaskId, Tenant};

    fn order() -> Order {
        Order {
            lease: LeaseId { task: TaskId(1), attempt: 1 },
            mode: Mode::Crun,
            command: vec!["/binary".into()],
            environment: vec!["A=own".into()],
            deadline: BootMs(0),
            grace_ms: 0,
            kill_margin_ms: 0,
            run_timeout_ms: 0,
            memory_bytes: 1 << 20,
            cpu_milli: 1000,
            crun: Some("/usr/bin/crun".into()),
            gpus: Vec::new(),
            docker: None,
            root: Some(Box::new(Root::Folder("/image".into(), Some("/srv".into())))),
            confinement: Some(Box::new(Confinement {
                user: 1001,
                group: 1002,
                pids: 64,
                network: Network::None,
                tmp_bytes: 1 << 20,
                shm_bytes: 2 << 20,
                writable: Vec::new(),
            })),
            gpu_ids: Vec::new(),
            own_folder: false,
            secrets: None,
            swap_bytes: 0,
            working_dir: None,
            mounts: Vec::new(),
            labels: AttemptLabels {
                tenant: Tenant::default_tenant(),
                class: Class::CpuShort,
                task_name: None,
                runtime: Runtime::Crun,
                image: None,
            },
        }
    }

    #[test]
    fn a_container_gets_what_its_order_says() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, mut order) = (Layout::new(folder.path()), order());
        let root = rootfs::make(&layout, &order, folder.path()).unwrap();
        let env = vec!["A=device".to_owned(), "B=device".to_owned()];
        let config = config(&layout, &order, &root, Devices { mounts: Vec::new(), env });
        let process = &config["process"];
        assert_eq!((&process["user"]["uid"], &process["user"]["gid"]), (&json!(1001), &json!(1002)));
        assert_eq!((&process["cwd"], &process["noNewPrivileges"]), (&json!("/srv"), &json!(true)));
        assert_eq!(process["env"], json!(["A=own", "B=device"]), "the task's own variables win");
        let sized = |place: &str| {
            let mount =
                config["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == place).unwrap();
            mount["options"].as_array().unwrap().last().unwrap().clone()
        };
        assert_eq!((sized("/tmp"), sized("/dev/shm")), (json!("size=1048576"), json!("size=2097152")));
        assert_eq!(config["root"]["readonly"], json!(true));
        order.working_dir = Some("src".into());
        let config = super::config(&layout, &order, &root, Devices { mounts: Vec::new(), env: Vec::new() });
        assert_eq!(
            config["process"]["cwd"],
            json!("/work/src"),
            "the task's own place wins over the image's"
        );
    }
}
