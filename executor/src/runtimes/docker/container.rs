//! What the daemon is asked to create: the task inside, everything that could reach the host taken away.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigLogConfig, ImageConfig, Mount,
    MountBindOptions, MountType, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::pull::FoundImage;
use super::{LABEL_EXECUTOR, LABEL_LEASE, init_report};
use crate::shim_api::inside::{END, INIT, LABEL, SECRETS, WORK};
use crate::shim_api::layout::{Layout, folder_name};
use crate::shim_api::request::{DockerRequest, StartRequest};
use crate::{image_config, limits, sys, working_dir};

/// What is executed, as `docker run` puts it together: the image's entry point, and behind it the task's command, or the image's own
/// when the task has none (`root::command` has the same for images that crun runs).
pub fn command(request: &StartRequest, image: &ImageConfig) -> Vec<String> {
    let default = image.cmd.iter().flatten().filter(|_| request.command.is_empty());
    image.entrypoint.iter().flatten().chain(&request.command).chain(default).cloned().collect()
}

/// The signal that asks an image's program to end.
pub fn stop_signal(image: &ImageConfig) -> i32 {
    image.stop_signal.as_deref().and_then(image_config::signal_number).unwrap_or(libc::SIGTERM)
}

/// Folders of an image that its program may write in.
pub fn volumes(image: &ImageConfig) -> Vec<String> {
    image_config::volumes(image.volumes.iter().flatten())
}

/// The container of a request, of an image that is already here.
pub fn body(
    layout: &Layout,
    request: &StartRequest,
    docker: &DockerRequest,
    image: &FoundImage,
) -> ContainerCreateBody {
    let mut env = request.environment.clone();
    env.extend(request.secret_variables(SECRETS));
    env.push(format!("{LABEL}={}", layout.attempt(request.lease).display()));
    let of_task = request.working_dir.as_deref().map(|dir| working_dir::inside(dir, WORK));
    let of_image = || image.config.working_dir.clone().filter(|dir| dir.starts_with('/'));
    let working_dir = of_task.or_else(of_image).unwrap_or_else(|| WORK.into());
    ContainerCreateBody {
        image: Some(image.id.clone()),
        // It is process 1, and starts the program.
        entrypoint: Some(vec![INIT.into(), END.into()]),
        cmd: Some(command(request, &image.config)),
        // An attempt ends when its program does, and nobody asks how it feels until then.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        env: Some(env),
        user: Some(format!("{}:{}", docker.user, docker.group)),
        working_dir: Some(working_dir),
        hostname: Some("stint".into()),
        labels: Some(labels(layout, request, docker)),
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(false),
        tty: Some(false),
        host_config: Some(host_config(layout, request, docker, &volumes(&image.config))),
        ..ContainerCreateBody::default()
    }
}

fn labels(layout: &Layout, request: &StartRequest, docker: &DockerRequest) -> HashMap<String, String> {
    let own = [
        ("stint.managed-by".to_owned(), "stint".to_owned()),
        (LABEL_EXECUTOR.to_owned(), layout.root().display().to_string()),
        (LABEL_LEASE.to_owned(), folder_name(request.lease)),
        ("stint.task".to_owned(), request.lease.task.to_string()),
        ("stint.attempt".to_owned(), request.lease.attempt.to_string()),
    ];
    docker.labels.iter().cloned().chain(own).collect()
}

fn host_config(
    layout: &Layout,
    request: &StartRequest,
    docker: &DockerRequest,
    volumes: &[String],
) -> HostConfig {
    let amount = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let memory = amount(request.memory_bytes);
    // Owned by the user too: runc gives it the mode of the image's folder, whatever is asked.
    let owner = format!("uid={},gid={}", docker.user, docker.group);
    let tmp = docker.tmp_bytes;
    let scratch = format!("rw,nosuid,nodev,noexec,mode=1777,size={tmp},{owner}");
    let shm = docker.shm_bytes;
    HostConfig {
        memory: Some(memory),
        // Memory and swap together.
        memory_swap: Some(amount(request.memory_bytes.saturating_add(request.swap_bytes))),
        nano_cpus: Some(amount(request.cpu_milli.saturating_mul(1_000_000))),
        pids_limit: Some(amount(docker.pids)),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        readonly_rootfs: Some(true),
        network_mode: Some(docker.network.clone()),
        runtime: docker.runtime.clone(),
        group_add: (!docker.groups.is_empty()).then(|| docker.groups.iter().map(u32::to_string).collect()),
        ipc_mode: Some("private".into()),
        shm_size: Some(amount(shm)),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), scratch)])),
        ulimits: Some(ulimits()),
        mounts: Some(mounts(layout, request, volumes)),
        // We follow the output ourselves; the daemon keeps no second copy that nobody would bound.
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            ..RestartPolicy::default()
        }),
        device_requests: (!docker.gpus.is_empty()).then(|| vec![devices(&docker.gpus)]),
        ..HostConfig::default()
    }
}

/// Those of every program that a node runs.
fn ulimits() -> Vec<ResourcesUlimits> {
    let (first, most) = sys::open_files(limits::OPEN_FILES);
    let amount = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let limit = |name: &str, soft: u64, hard: u64| ResourcesUlimits {
        name: Some(name.into()),
        soft: Some(amount(soft)),
        hard: Some(amount(hard)),
    };
    vec![limit("nofile", first, most), limit("core", 0, 0)]
}

/// The work folder, the first program and where it reports, the secrets when there are some, and what the image says that it
/// writes in: a volume of the daemon's own would be left behind on the host, without a limit.
fn mounts(layout: &Layout, request: &StartRequest, volumes: &[String]) -> Vec<Mount> {
    let work = layout.attempt(request.lease).join("work").display().to_string();
    let bind = |source: String, target: &str, read_only: bool| Mount {
        target: Some(target.into()),
        source: Some(source),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    };
    let secrets = request.secrets.as_ref().map(|given| bind(given.folder.clone(), SECRETS, true));
    let given = request.mounts.iter();
    // Engines before 25 would let a program write in what is mounted below something that it may only read.
    let alone = |mount: Mount| Mount {
        bind_options: mount
            .read_only
            .filter(|read_only| *read_only)
            .map(|_| MountBindOptions { non_recursive: Some(true), ..MountBindOptions::default() }),
        ..mount
    };
    let given = given.map(|mount| alone(bind(mount.source.clone(), &mount.target, !mount.writable)));
    let shown = |path: std::path::PathBuf| path.display().to_string();
    let own = [
        bind(work, WORK, false),
        bind(shown(layout.container_init()), INIT, true),
        bind(shown(init_report::file(layout, request.lease)), END, false),
    ];
    // Where a task mounts something itself, that is there.
    let is_free = |place: &String| request.mounts.iter().all(|mount| mount.target != *place);
    let volumes = volumes.iter().enumerate().filter(|(_, place)| is_free(place));
    let volumes =
        volumes.map(|(number, place)| bind(shown(layout.volume(request.lease, number)), place, false));
    own.into_iter().chain(volumes).chain(secrets).chain(given).collect()
}

fn devices(gpus: &[String]) -> DeviceRequest {
    DeviceRequest {
        driver: Some(String::new()),
        count: Some(0),
        device_ids: Some(gpus.to_vec()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        options: None,
    }
}

/// Whether the daemon's container gets exactly the devices of the lease.
pub fn has_exactly(host: Option<&HostConfig>, gpus: &[String]) -> bool {
    let requests = host.and_then(|host| host.device_requests.as_deref()).unwrap_or_default();
    let given: Vec<&String> = requests.iter().flat_map(|r| r.device_ids.iter().flatten()).collect();
    let wildcard = requests.iter().any(|r| r.count.unwrap_or(0) != 0);
    !wildcard && given.len() == gpus.len() && gpus.iter().all(|gpu| given.contains(&gpu))
}
