//! From what the node wants to what the watchdog is told: the closed environment and the limits of an attempt.

use std::collections::BTreeMap;
use std::path::Path;

use stint_protocol::Runtime;

use crate::client::state::Shared;
use crate::confine;
use crate::host::Launch;
use crate::observer::Rule;
use crate::refusal::Refusal;
use crate::root;
use crate::runtimes::docker::image::{Reference, Refused};
use crate::runtimes::docker::{LABEL_CLASS, LABEL_TENANT};
use crate::shim_api::inside::HOST_FOLDERS;
use crate::shim_api::request::{DockerOrder, GivenMount, Mode, Order, Root};
use crate::stages::Staged;
use crate::store::ImageFiles;
use crate::working_dir;

/// Where programs are looked for when the task sets no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The order for one attempt; `staged` is what was prepared for it.
pub fn make(shared: &Shared, launch: &Launch, staged: &Staged) -> Result<Order, Refusal> {
    let spec = &launch.spec;
    let mode = match launch.runtime {
        Runtime::Crun => Mode::Crun,
        Runtime::Docker => Mode::Docker,
        _ if shared.settings.sandbox => Mode::Sandboxed,
        _ => Mode::Direct,
    };
    let image = root::resolve(&shared.settings.crun, spec, mode, staged.image.as_ref());
    if image.as_ref().is_err_and(Refusal::is_denied) {
        shared.observe(|observer| observer.denied(Rule::CrunRoots));
    }
    let image = image?;
    let image = image.as_ref();
    let root = root::of(image).map(Box::new);
    confine::check(&shared.settings, spec, launch.runtime, shared.jails())?;
    let asked = spec.limits.as_deref();
    let working_dir = asked.and_then(|limits| limits.working_dir.clone());
    let working_dir = match (&working_dir, root.as_deref()) {
        (Some(wanted), None | Some(Root::Executable(_))) if mode == Mode::Crun => {
            if staged.mounts.iter().any(|mount| Path::new(wanted).starts_with(&mount.target)) {
                Some(wanted.clone())
            } else {
                let place = working_dir::in_shared_root(wanted, root.is_none());
                Some(place.map_err(Refusal::not_runnable)?)
            }
        }
        _ => working_dir,
    };
    let mounts = staged.mounts.clone();
    // crun makes the place of a mount, as root, and the host's folders become read-only only after that.
    if let (Mode::Crun, None | Some(Root::Executable(_))) = (mode, root.as_deref()) {
        let of_host = |mount: &&GivenMount| {
            HOST_FOLDERS.iter().any(|name| Path::new(&mount.target).starts_with(Path::new("/").join(name)))
        };
        if let Some(mount) = mounts.iter().find(of_host) {
            let advice = "without an image the host's system folders are there: name another target";
            return Err(Refusal::not_runnable(format!("{}: {advice}", mount.target)));
        }
    }
    let confinement = confine::of(&shared.settings, spec, mode).map(Box::new);
    let mut environment = environment(launch, mode, image);
    environment.extend(staged.environment.iter().cloned());
    let docker = (mode == Mode::Docker).then(|| docker(shared, launch)).transpose()?.map(Box::new);
    Ok(Order {
        lease: launch.lease,
        mode,
        command: root::command(spec, image),
        environment: environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        deadline: launch.deadline,
        grace_ms: spec.stop_grace_ms,
        kill_margin_ms: shared.settings.kill_margin_ms,
        run_timeout_ms: spec.timeout_ms,
        memory_bytes: spec.memory_bytes,
        cpu_milli: spec.cpu_milli,
        crun: shared.crun.as_ref().map(|p| p.display().to_string()).filter(|_| mode == Mode::Crun),
        gpus: launch.gpus.iter().map(|g| g.index).collect(),
        docker,
        root,
        confinement,
        gpu_ids: launch.gpus.iter().map(|g| g.id.as_str().to_owned()).collect(),
        own_folder: staged.own_folder,
        secrets: staged.secrets.clone().map(Box::new),
        swap_bytes: asked.and_then(|limits| limits.swap_bytes).unwrap_or(0),
        working_dir,
        mounts,
        labels: launch.labels(),
    })
}

/// What of an attempt is Docker's, checked against what the operator allows and what the lease gives.
fn docker(shared: &Shared, launch: &Launch) -> Result<DockerOrder, Refusal> {
    let settings = &shared.settings.docker;
    let Some(image) = &launch.spec.image else {
        return Err(Refusal::not_runnable("docker needs an image: give one, or use another runtime"));
    };
    let image = Reference::parse(image).map_err(|e| Refusal::not_runnable(e.to_string()))?;
    let allowed = image.check(&settings.allowed_images, settings.require_digest);
    allowed.map_err(|e| {
        let rule = if matches!(e, Refused::NoDigest(_)) { Rule::RequireDigest } else { Rule::AllowedImages };
        shared.observe(|observer| observer.denied(rule));
        Refusal::denied(e.to_string())
    })?;
    let gpus: Vec<String> = launch.gpus.iter().map(|gpu| gpu.id.as_str().to_owned()).collect();
    if gpus.len() != launch.spec.leased_gpus() as usize {
        let message = format!("its lease holds {} GPUs and not {}", gpus.len(), launch.spec.leased_gpus());
        return Err(Refusal::start_failed(message));
    }
    let known = |label: &str, variable: &str| Some((label.to_owned(), launch.env.get(variable)?.clone()));
    let labels = [known("stint.node", "STINT_NODE_ID"), known(LABEL_CLASS, "STINT_CLASS")];
    let tenant = (LABEL_TENANT.to_owned(), launch.tenant.to_string());
    let asked = launch.spec.limits.as_deref();
    let bounds = settings.bounds.given(asked);
    Ok(DockerOrder {
        socket: settings.socket.display().to_string(),
        image: image.full(),
        pull: settings.pull,
        network: confine::docker_network(settings, asked),
        user: settings.user.0,
        group: settings.user.1,
        pids: bounds.pids,
        gpus,
        labels: labels.into_iter().flatten().chain([tenant]).collect(),
        tmp_bytes: bounds.tmp_bytes,
        shm_bytes: bounds.shm_bytes,
        credentials: settings.credentials.as_ref().map(|path| path.display().to_string()),
    })
}

/// Nothing of the node's own environment; the task's over the defaults, and Stint's over the task's.
/// Without a container HOME and TMPDIR are the work folder, which the watchdog chooses.
fn environment(launch: &Launch, mode: Mode, image: Option<&ImageFiles>) -> BTreeMap<String, String> {
    let contained = matches!(mode, Mode::Crun | Mode::Docker);
    let inside: &[(&str, &str)] = if contained {
        &[("HOME", "/work"), ("TMPDIR", "/tmp"), ("STINT_PROGRESS_FILE", "/work/.stint-progress")]
    } else {
        &[]
    };
    // A Docker image says itself where its programs are.
    let defaults: &[(&str, &str)] =
        if mode == Mode::Docker { &[] } else { &[("PATH", PATH), ("LANG", "C.UTF-8")] };
    let mut all: BTreeMap<String, String> = defaults
        .iter()
        .chain(inside)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    all.extend(root::environment(image));
    all.extend(launch.spec.env.clone());
    let ids: Vec<&str> = launch.gpus.iter().map(|g| g.id.as_str()).collect();
    // Without GPUs both say so: a program must not take a device that belongs to another attempt.
    all.insert("CUDA_VISIBLE_DEVICES".into(), ids.join(","));
    all.insert("NVIDIA_VISIBLE_DEVICES".into(), if ids.is_empty() { "void".into() } else { ids.join(",") });
    all.extend(launch.env.clone());
    all
}
