//! What the daemon is asked to create: the task inside, everything that could reach the host taken away.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountBindOptions, MountType,
    RestartPolicy, RestartPolicyNameEnum,
};

use super::{LABEL_EXECUTOR, LABEL_LEASE};
use crate::shim_api::inside::{LABEL, SECRETS, WORK};
use crate::shim_api::layout::{Layout, folder_name};
use crate::shim_api::request::{DockerRequest, StartRequest};
use crate::working_dir;

/// The container of a request, of an image that is already here.
pub fn body(
    layout: &Layout,
    request: &StartRequest,
    docker: &DockerRequest,
    image: String,
) -> ContainerCreateBody {
    let mut env = request.environment.clone();
    env.extend(request.secret_variables(SECRETS));
    env.push(format!("{LABEL}={}", layout.attempt(request.lease).display()));
    let working_dir =
        request.working_dir.as_deref().map_or_else(|| WORK.into(), |dir| working_dir::inside(dir, WORK));
    ContainerCreateBody {
        image: Some(image),
        // The task's command replaces the image's whole command line; without one the image's own runs.
        entrypoint: (!request.command.is_empty()).then(|| request.command.clone()),
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
        // Only the one volume that we name: an image's own would be left behind on the host.
        host_config: Some(host_config(layout, request, docker)),
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

fn host_config(layout: &Layout, request: &StartRequest, docker: &DockerRequest) -> HostConfig {
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
        ipc_mode: Some("private".into()),
        shm_size: Some(amount(shm)),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), scratch)])),
        mounts: Some(mounts(layout, request)),
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

/// The work folder, and the secrets when there are some.
fn mounts(layout: &Layout, request: &StartRequest) -> Vec<Mount> {
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
    std::iter::once(bind(work, WORK, false)).chain(secrets).chain(given).collect()
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
