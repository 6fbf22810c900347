//! From what the node wants to what the watchdog is told: the closed environment and the limits of an attempt.

use std::collections::BTreeMap;

use stint_protocol::Runtime;

use crate::client::state::Shared;
use crate::host::Launch;
use crate::wire::{Mode, Order};

/// Where programs are looked for when the task sets no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The order for one attempt.
pub fn make(shared: &Shared, launch: &Launch) -> Order {
    let spec = &launch.spec;
    let mode = match launch.runtime {
        Runtime::Crun => Mode::Crun,
        _ if shared.settings.sandbox => Mode::Sandboxed,
        _ => Mode::Direct,
    };
    let environment = environment(launch, mode);
    Order {
        lease: launch.lease,
        mode,
        command: spec.command.clone(),
        environment: environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        deadline: launch.deadline,
        grace_ms: spec.stop_grace_ms,
        kill_margin_ms: shared.settings.kill_margin_ms,
        run_timeout_ms: spec.timeout_ms,
        memory_bytes: spec.memory_bytes,
        cpu_milli: spec.cpu_milli,
        image: spec.image.clone().filter(|_| mode == Mode::Crun),
        crun: shared.crun.as_ref().map(|p| p.display().to_string()).filter(|_| mode == Mode::Crun),
        gpus: launch.gpus.iter().map(|g| g.index).collect(),
    }
}

/// Nothing of the node's own environment; the task's over the defaults, and Stint's over the task's.
/// Without a container HOME and TMPDIR are the work folder, which the watchdog chooses.
fn environment(launch: &Launch, mode: Mode) -> BTreeMap<String, String> {
    let inside: &[(&str, &str)] =
        if mode == Mode::Crun { &[("HOME", "/work"), ("TMPDIR", "/tmp")] } else { &[] };
    let defaults = [("PATH", PATH), ("LANG", "C.UTF-8")];
    let mut all: BTreeMap<String, String> = defaults
        .iter()
        .chain(inside)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    all.extend(launch.spec.env.clone());
    let ids: Vec<&str> = launch.gpus.iter().map(|g| g.id.as_str()).collect();
    // Without GPUs both say so: a program must not take a device that belongs to another attempt.
    all.insert("CUDA_VISIBLE_DEVICES".into(), ids.join(","));
    all.insert("NVIDIA_VISIBLE_DEVICES".into(), if ids.is_empty() { "void".into() } else { ids.join(",") });
    all.extend(launch.env.clone());
    all
}
