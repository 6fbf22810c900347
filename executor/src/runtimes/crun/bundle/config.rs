//! `config.json`: the process, its mounts and namespaces, as the OCI runtime specification has them.

use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use stint_protocol::limits::NOBODY;

use super::cdi::Devices;
use super::mount;
use super::rootfs::RootFs;
use crate::limits;
use crate::runtimes::crun::bundle::{REFUSALS, bundle_folder, mount_place};
use crate::runtimes::crun::seccomp;
use crate::shim_api::inside::{INIT, SECRETS, WORK};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Confinement, ResolvedMount, StartRequest};
use crate::sys;
use crate::working_dir;

/// The pid namespace is the attempt's own, with its init (docs/using/crun.md#what-a-program-gets).
const NAMESPACES: [LinuxNamespaceType; 4] =
    [LinuxNamespaceType::Mount, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts, LinuxNamespaceType::Cgroup];
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

/// The user and group of a request's program; nobody, when the node names none.
pub fn user(request: &StartRequest) -> (u32, u32) {
    request.confinement.as_ref().map_or((NOBODY, NOBODY), |c| (c.user, c.group))
}

/// The whole document. What the crate's types hold unless told otherwise is an example of a container that may do
/// more than ours: every field that such an example fills is set here.
pub fn config(
    layout: &Layout,
    request: &StartRequest,
    root: &RootFs,
    devices: Devices,
) -> Result<Spec, OciSpecError> {
    let process = process(request, root, &devices.env)?;
    let mut mounts = root.mounts.clone();
    // First: what lies below one of them comes over it.
    mounts.extend(volumes(layout, request));
    mounts.push(mount::bind(INIT, layout.container_init(), &["bind", "ro", "nosuid", "nodev"]));
    mounts.extend(own_mounts(&layout.attempt(request.lease).join("work"), request.confinement.as_deref()));
    mounts.extend(
        request
            .secrets
            .as_ref()
            .map(|given| mount::bind(SECRETS, &given.folder, &["bind", "ro", "nosuid", "nodev", "noexec"])),
    );
    mounts.extend(devices.mounts);
    mounts.extend(host_mounts(request, &bundle_folder(layout, request.lease)));
    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .process(process)
        .root(RootBuilder::default().path(&root.path).readonly(true).build()?)
        .hostname("stint")
        .mounts(mounts)
        .linux(linux()?)
        .build()?;
    spec.set_annotations(None);
    Ok(spec)
}

fn process(request: &StartRequest, root: &RootFs, of_devices: &[String]) -> Result<Process, OciSpecError> {
    let (uid, gid) = user(request);
    let mut user = UserBuilder::default().uid(uid).gid(gid);
    if let Some(confinement) = request.confinement.as_ref().filter(|rules| !rules.groups.is_empty()) {
        user = user.additional_gids(confinement.groups.clone());
    }
    let named = |pair: &String, name: &str| pair.split_once('=').is_some_and(|(n, _)| n == name);
    let unset = |pair: &&String| {
        pair.split_once('=').is_some_and(|(n, _)| !request.environment.iter().any(|e| named(e, n)))
    };
    let of_secrets = request.secret_variables(SECRETS);
    let env = request.environment.iter().chain(&of_secrets).chain(of_devices.iter().filter(unset));
    let working_dir = request.working_dir.as_deref().map(|wanted| working_dir::inside(wanted, WORK));
    ProcessBuilder::default()
        .terminal(false)
        .user(user.build()?)
        .args(
            [INIT.to_owned(), REFUSALS.to_string()]
                .into_iter()
                .chain(request.command.clone())
                .collect::<Vec<_>>(),
        )
        .env(env.cloned().collect::<Vec<_>>())
        .cwd(working_dir.unwrap_or_else(|| root.working_dir.clone()))
        .capabilities(no_capabilities()?)
        .no_new_privileges(true)
        .rlimits(rlimits()?)
        .build()
}

fn no_capabilities() -> Result<LinuxCapabilities, OciSpecError> {
    LinuxCapabilitiesBuilder::default()
        .bounding(Capabilities::new())
        .effective(Capabilities::new())
        .permitted(Capabilities::new())
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
}

fn linux() -> Result<Linux, OciSpecError> {
    let namespace = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let mut linux = LinuxBuilder::default()
        .namespaces(NAMESPACES.into_iter().map(namespace).collect::<Result<Vec<_>, _>>()?)
        .seccomp(seccomp::profile()?)
        .masked_paths(texts(&MASKED))
        .readonly_paths(texts(&READ_ONLY))
        .build()?;
    // The attempt's cgroup has them.
    linux.set_resources(None);
    Ok(linux)
}

fn rlimits() -> Result<Vec<PosixRlimit>, OciSpecError> {
    let (first, most) = sys::open_files(limits::OPEN_FILES);
    let limit =
        |kind, soft: u64, hard: u64| PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
    Ok(vec![limit(PosixRlimitType::RlimitCore, 0, 0)?, limit(PosixRlimitType::RlimitNofile, first, most)?])
}

fn own_mounts(work: &Path, confinement: Option<&Confinement>) -> Vec<Mount> {
    let (tmp, shm) =
        confinement.map_or((limits::TMP_BYTES, limits::SHM_BYTES), |c| (c.tmp_bytes, c.shm_bytes));
    let size = |bytes: u64| format!("size={bytes}");
    vec![
        // Only its own processes: the init of the attempt is a copy of the watchdog.
        mount::fresh("/proc", "proc", &["nosuid", "noexec", "nodev", "hidepid=2"]),
        // Not `nodev`: crun makes null, zero, random and the like in it, and the program cannot make others.
        mount::fresh("/dev", "tmpfs", &["nosuid", "noexec", "mode=755", "size=64k"]),
        mount::fresh(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        mount::fresh("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1777", &size(shm)]),
        mount::fresh("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
        mount::fresh("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount::fresh("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777", &size(tmp)]),
        mount::bind("/work", work, &["bind", "rw", "nosuid", "nodev"]),
    ]
}

/// Folders of an image that its program may write in, on the disk that the attempt has.
fn volumes(layout: &Layout, request: &StartRequest) -> Vec<Mount> {
    let laid = |(number, place): (usize, &String)| {
        mount::bind(place, layout.volume(request.lease, number), &["bind", "rw", "nosuid", "nodev"])
    };
    request.volumes.iter().enumerate().map(laid).collect()
}

/// What the init lays into the bundle's folder before crun runs.
fn host_mounts(request: &StartRequest, bundle: &Path) -> Vec<Mount> {
    let mount = |(number, given): (usize, &ResolvedMount)| {
        let access = if given.writable { "rw" } else { "ro" };
        mount::bind(&given.target, mount_place(bundle, number), &["rbind", access, "nosuid", "nodev"])
    };
    request.mounts.iter().enumerate().map(mount).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::runtimes::crun::bundle::rootfs;
    use crate::shim_api::request::{AttemptLabels, GivenSecrets, Mode, Root};
    use stint_protocol::{BootMs, Class, LeaseId, Network, Runtime, TaskId, Tenant};

    fn request() -> StartRequest {
        StartRequest {
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
                groups: vec![1003, 1004],
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
            stop_signal: None,
            volumes: Vec::new(),
        }
    }

    fn document(layout: &Layout, request: &StartRequest, root: &RootFs, devices: Devices) -> Value {
        serde_json::to_value(config(layout, request, root, devices).unwrap()).unwrap()
    }

    /// Every path of a document with its value.
    fn fields(document: &Value, path: &str, into: &mut Vec<(String, Value)>) {
        let of_list = document.as_array().into_iter().flatten().enumerate();
        let of_object = document.as_object().into_iter().flatten();
        let below = of_list.map(|(at, value)| (at.to_string(), value));
        let below: Vec<_> = below.chain(of_object.map(|(name, value)| (name.clone(), value))).collect();
        if below.is_empty() {
            into.push((path.to_owned(), document.clone()));
        }
        for (name, value) in below {
            fields(value, &format!("{path}/{name}"), into);
        }
    }

    /// A request with everything that a request can ask for.
    fn full() -> (StartRequest, RootFs, Devices) {
        let given = |source: &str, target: &str, writable| ResolvedMount {
            source: source.into(),
            target: target.into(),
            writable,
            folder: true,
        };
        let secrets = GivenSecrets {
            folder: "/run/stint/secrets/t1".into(),
            variables: vec![("KEY_FILE".into(), "key".into())],
        };
        let request = StartRequest {
            secrets: Some(Box::new(secrets)),
            confinement: request()
                .confinement
                .map(|own| Box::new(Confinement { groups: Vec::new(), ..*own })),
            working_dir: Some("src".into()),
            mounts: vec![given("/srv/data", "/data", false), given("/srv/out", "/out", true)],
            volumes: vec!["/var/cache".into()],
            ..request()
        };
        let shared = ["rbind", "ro", "nosuid", "nodev"];
        let root = RootFs {
            path: "/bundle/layer/root".into(),
            mounts: vec![
                mount::bind("/usr", "/usr", &shared),
                mount::bind("/binary", "/images/program", &["bind", "ro", "nosuid", "nodev"]),
            ],
            overlay: None,
            working_dir: "/srv".into(),
        };
        let devices = Devices {
            mounts: vec![
                mount::bind("/dev/nvidia0", "/dev/nvidia0", &["bind", "rw", "nosuid", "noexec"]),
                mount::bind("/usr/lib/libcuda.so.1", "/host/libcuda.so.1", &shared),
            ],
            env: vec!["A=device".into(), "B=device".into()],
        };
        (request, root, devices)
    }

    /// The stored document was made when each field was written by hand. A field that is new in ours comes from the
    /// crate's examples, and may open a container.
    #[test]
    fn the_document_has_the_fields_of_the_stored_one_and_no_other() {
        let stored = include_str!("../../../../tests/stored/bundle-config.json");
        let mut stored: Value = serde_json::from_str(stored).unwrap();
        // Of the machine that the test runs on.
        let (soft, hard) = sys::open_files(limits::OPEN_FILES);
        stored["process"]["rlimits"][1] = json!({ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard });
        let arch = std::env::consts::ARCH.to_uppercase();
        stored["linux"]["seccomp"]["architectures"] = json!([format!("SCMP_ARCH_{arch}")]);
        let (request, root, devices) = full();
        let made = document(&Layout::new(Path::new("/var/lib/stint")), &request, &root, devices);
        let listed = |document: &Value| {
            let mut listed = Vec::new();
            fields(document, "", &mut listed);
            listed
        };
        let (stored, made) = (listed(&stored), listed(&made));
        let only = |of: &[(String, Value)], other: &[(String, Value)]| -> Vec<_> {
            of.iter().filter(|field| !other.contains(field)).cloned().collect()
        };
        assert_eq!((only(&stored, &made), only(&made, &stored)), (Vec::new(), Vec::new()), "(gone, new)");
    }

    #[test]
    fn a_container_gets_what_its_order_says() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, mut request) = (Layout::new(folder.path()), request());
        let root = rootfs::make(&layout, &request, folder.path()).unwrap();
        let env = vec!["A=device".to_owned(), "B=device".to_owned()];
        let config = document(&layout, &request, &root, Devices { mounts: Vec::new(), env });
        let process = &config["process"];
        assert_eq!((&process["user"]["uid"], &process["user"]["gid"]), (&json!(1001), &json!(1002)));
        assert_eq!(process["user"]["additionalGids"], json!([1003, 1004]));
        assert_eq!((&process["cwd"], &process["noNewPrivileges"]), (&json!("/srv"), &json!(true)));
        assert_eq!(process["env"], json!(["A=own", "B=device"]), "the task's own variables win");
        let sized = |place: &str| {
            let mount =
                config["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == place).unwrap();
            mount["options"].as_array().unwrap().last().unwrap().clone()
        };
        assert_eq!((sized("/tmp"), sized("/dev/shm")), (json!("size=1048576"), json!("size=2097152")));
        assert_eq!(config["root"]["readonly"], json!(true));
        request.working_dir = Some("src".into());
        let config = document(&layout, &request, &root, Devices { mounts: Vec::new(), env: Vec::new() });
        assert_eq!(
            config["process"]["cwd"],
            json!("/work/src"),
            "the task's own place wins over the image's"
        );
    }
}
