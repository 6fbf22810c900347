//! What the watchdog is told of every attempt, whatever executes it: its closed environment and its limits.

use std::collections::BTreeMap;

use crate::host::Launch;
use crate::root;
use crate::settings::HostOptions;
use crate::shim_api::request::{Mode, StartRequest};
use crate::stages::Staged;
use crate::store::ImageFiles;
use crate::{sys, users};

/// Where programs are looked for when the task sets no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What programs are given that run on the host's system or in an image of the cluster's.
pub const DEFAULTS: [(&str, &str); 2] = [("PATH", PATH), ("LANG", "C.UTF-8")];
/// What programs in a container find. Others have the work folder for it, which the watchdog chooses.
pub const INSIDE: [(&str, &str); 3] =
    [("HOME", "/work"), ("TMPDIR", "/tmp"), ("STINT_PROGRESS_FILE", "/work/.stint-progress")];

/// The request for an attempt, without what only its runtime knows. `defaults` stand in its environment unless its image or
/// its task says otherwise.
pub fn common<'a>(
    settings: &HostOptions,
    launch: &Launch,
    staged: &Staged,
    image: Option<&ImageFiles>,
    mode: Mode,
    defaults: impl IntoIterator<Item = &'a (&'a str, &'a str)>,
) -> StartRequest {
    let spec = &launch.spec;
    let asked = spec.limits.as_deref();
    let name = has_own_user(mode).then(|| users::name_for(launch));
    let home = users::home_among(&staged.mounts, launch);
    let mut environment = environment(launch, image, defaults, (name, home));
    environment.extend(staged.environment.iter().cloned());
    StartRequest {
        lease: launch.lease,
        mode,
        command: root::command(spec, image),
        environment: environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        deadline: launch.deadline,
        grace_ms: spec.stop_grace_ms,
        kill_margin_ms: settings.kill_margin_ms,
        run_timeout_ms: spec.timeout_ms,
        memory_bytes: spec.memory_bytes,
        cpu_milli: spec.cpu_milli,
        crun: None,
        gpus: launch.gpus.iter().map(|gpu| gpu.index).collect(),
        gpu_ids: launch.gpus.iter().map(|gpu| gpu.id.as_str().to_owned()).collect(),
        docker: None,
        root: root::root_for(image).map(Box::new),
        confinement: None,
        own_folder: staged.own_folder,
        secrets: staged.secrets.clone().map(Box::new),
        swap_bytes: asked.and_then(|limits| limits.swap_bytes).unwrap_or(0),
        working_dir: asked.and_then(|limits| limits.working_dir.clone()),
        mounts: staged.mounts.clone(),
        labels: launch.labels(),
        stop_signal: root::stop_signal(image),
        volumes: root::volumes(image),
    }
}

/// Whether its program runs as another user than the node.
fn has_own_user(mode: Mode) -> bool {
    mode != Mode::Direct && sys::effective_ids().0 == 0
}

/// Nothing of the node's own environment; the task's over the defaults, and Stint's over the task's. Name and home are its user's:
/// of a tenant's no list of users has them.
fn environment<'a>(
    launch: &Launch,
    image: Option<&ImageFiles>,
    defaults: impl IntoIterator<Item = &'a (&'a str, &'a str)>,
    (name, home): (Option<String>, Option<String>),
) -> BTreeMap<String, String> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut all: BTreeMap<String, String> = defaults.into_iter().map(own).collect();
    all.extend(name.into_iter().flat_map(|name| ["USER", "LOGNAME"].map(|of| (of.to_owned(), name.clone()))));
    all.extend(root::environment(image));
    all.extend(home.map(|home| ("HOME".to_owned(), home)));
    all.extend(launch.spec.env.clone());
    let ids: Vec<&str> = launch.gpus.iter().map(|gpu| gpu.id.as_str()).collect();
    // Without GPUs both say so: a program must not take a device that belongs to another attempt.
    all.insert("CUDA_VISIBLE_DEVICES".into(), ids.join(","));
    all.insert("NVIDIA_VISIBLE_DEVICES".into(), if ids.is_empty() { "void".into() } else { ids.join(",") });
    all.extend(launch.env.clone());
    all
}
