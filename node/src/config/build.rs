//! The configuration out of its layers: every key's value, or its default on this machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use stint_executor::{
    Bounds, ConfineSettings, CrunSettings, DockerSettings, MountSettings, ProcessSettings, WRITABLE_FOLDERS,
};
use stint_protocol::limits::{FEWEST_PIDS, LEAST_TMPFS_BYTES, MOST_PIDS, MOUNT_ROOTS};
use stint_protocol::{Class, ClassRules, Network, Runtime, version};
use stint_slurm_bridge::desk::Timing;

use super::convert::{
    absolute, absolute_file, absolute_folder, absolute_folders, at_least, boolean, bytes, cpus,
    docker_network, duration_ms, folders, gpu_source, gpu_tables, host_and_port, image_patterns,
    known_version, labels, listener, log_format, network, node_name, optional_text, or_zero, parsed, pull,
    raft_profile, submit_options, text, user_and_group, whole, words,
};
use super::layers::Layers;
use super::machine::data_dir_for;
use super::{
    ApiConfig, ClusterConfig, Config, ExecutorConfig, Gpus, HttpConfig, LogConfig, LogFormat, Machine,
    NodeConfig, Origin, PeersConfig, RaftConfig, RaftProfile, SlurmConfig,
};
use crate::blobs::{BlobSettings, DiskBounds};

/// Attempts a node runs at once for each of its cores, unless `executor.slots` says otherwise.
const SLOTS_PER_CORE: u64 = 8;

/// Changes of state, without the consensus library's running commentary.
const DEFAULT_FILTER: &str = "info,openraft=error";

/// Takes every value out of the layers, or its default.
pub(super) fn build(machine: &Machine, env: &BTreeMap<String, String>, layers: &mut Layers) -> Config {
    let name = layers.get("node.name", node_name).unwrap_or_else(|| machine.hostname.clone());
    let data_dir = layers.get("node.data_dir", absolute).unwrap_or_else(|| data_dir_for(machine.root, env));
    let socket = layers.get("api.socket", absolute).unwrap_or_else(|| data_dir.join("stint.sock"));
    Config {
        peers: build_peers(machine, layers),
        api: ApiConfig {
            listen: layers.get("api.listen", listener).unwrap_or_else(|| Some(loopback(7002))),
            socket,
        },
        http: HttpConfig {
            listen: layers.get("http.listen", listener).unwrap_or_else(|| Some(loopback(9097))),
        },
        log: LogConfig {
            format: layers.get("log.format", log_format).unwrap_or(LogFormat::Text),
            filter: layers
                .get("log.filter", optional_text)
                .filter(|filter| !filter.is_empty())
                .unwrap_or_else(|| DEFAULT_FILTER.into()),
        },
        raft: RaftConfig {
            profile: layers.get("raft.profile", raft_profile).unwrap_or(RaftProfile::Fast),
            snapshot_every_entries: layers
                .get("raft.snapshot_every_entries", whole(100, 10_000_000))
                .unwrap_or(50_000),
            extra_sync_delay_ms: layers.get("raft.extra_sync_delay_ms", whole(0, 10_000)).unwrap_or(0),
        },
        executor: build_executor(machine, layers),
        blobs: build_blobs(layers),
        cluster: ClusterConfig {
            name: layers.get("cluster.name", node_name).unwrap_or_else(|| "stint".into()),
            max_version: layers.get("cluster.max_version", known_version).unwrap_or(version::CURRENT),
        },
        classes: Class::ALL.into_iter().map(|class| (class, build_rules(class, layers))).collect(),
        node: NodeConfig { name, data_dir },
        origins: BTreeMap::new(),
    }
}

fn build_peers(machine: &Machine, layers: &mut Layers) -> PeersConfig {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7001));
    let listen =
        layers.get("peers.listen", parsed::<SocketAddr>("an address like 0.0.0.0:7001")).unwrap_or(any);
    let advertise = layers.get("peers.advertise", host_and_port);
    let advertise = match advertise {
        Some(address) => address,
        None if layers.is_set("peers.advertise") => String::new(),
        None => derived_advertise(machine, listen).unwrap_or_else(|message| {
            layers.refuse("peers.advertise", &Origin::Default, message);
            String::new()
        }),
    };
    PeersConfig { listen, advertise }
}

/// The address others reach this node at, when there is only one that it can be.
fn derived_advertise(machine: &Machine, listen: SocketAddr) -> Result<String, String> {
    if !listen.ip().is_unspecified() {
        return Ok(listen.to_string());
    }
    match machine.addresses.as_slice() {
        [] => Ok(loopback(listen.port()).to_string()),
        [only] => Ok(SocketAddr::from((*only, listen.port())).to_string()),
        several => {
            let shown: Vec<String> = several.iter().map(|a| format!("{a}:{}", listen.port())).collect();
            Err(format!(
                "this machine has several addresses: set it (--advertise) to the one that the other peers reach ({}), \
                 or to 127.0.0.1:{} for a cluster on this machine alone",
                shown.join(", "),
                listen.port()
            ))
        }
    }
}

fn build_executor(machine: &Machine, layers: &mut Layers) -> ExecutorConfig {
    let cpu_milli = layers.get("executor.cpus", cpus).unwrap_or(machine.cores * 1000);
    let slots = cpu_milli.div_ceil(1000) * SLOTS_PER_CORE;
    ExecutorConfig {
        enabled: layers.get("executor.enabled", boolean).unwrap_or(true),
        classes: layers
            .get("executor.classes", words::<Class>)
            .unwrap_or_else(|| vec![Class::CpuShort, Class::CpuLong, Class::Gpu]),
        runtimes: layers
            .get("executor.runtimes", words::<Runtime>)
            .unwrap_or_else(|| vec![Runtime::Crun, Runtime::Docker]),
        sandbox: layers.get("executor.sandbox", boolean).unwrap_or(true),
        cpu_milli,
        memory_bytes: layers
            .get("executor.memory", bytes)
            .unwrap_or_else(|| (machine.memory_bytes / 10 * 9) >> 20 << 20),
        slots: layers.get("executor.slots", whole(1, 100_000)).unwrap_or(slots.clamp(1, 100_000)) as u32,
        gpus: build_gpus(layers),
        labels: layers.get("executor.labels", labels).unwrap_or_default(),
        crun_path: layers.get("executor.crun_path", text).unwrap_or_else(|| "crun".into()).into(),
        max_log_bytes: layers.get("executor.max_log_bytes", bytes).unwrap_or(16 << 20),
        kill_margin_ms: layers.get("executor.kill_margin_ms", whole(100, 60_000)).unwrap_or(500),
        docker: build_docker(layers),
        artifact_roots: layers.get("artifacts.roots", absolute_folders).unwrap_or_default(),
        secrets_dir: layers.get("secrets.dir", absolute_folder),
        crun: CrunSettings {
            confine: build_confine("crun", layers),
            roots: layers.get("executor.crun.roots", folders(usize::MAX)).unwrap_or_default(),
        },
        slurm: build_slurm(layers),
        mounts: MountSettings {
            readable: layers.get("executor.mounts.readable", folders(MOUNT_ROOTS / 2)).unwrap_or_default(),
            writable: layers.get("executor.mounts.writable", folders(MOUNT_ROOTS / 2)).unwrap_or_default(),
        },
        process: ProcessSettings {
            confine: build_confine("process", layers),
            writable: layers.get("executor.process.writable", folders(WRITABLE_FOLDERS)).unwrap_or_default(),
        },
    }
}

fn build_slurm(layers: &mut Layers) -> SlurmConfig {
    SlurmConfig {
        folder: layers.get("executor.slurm.folder", absolute_folder),
        bin: layers.get("executor.slurm.bin", absolute_folder),
        conf: layers.get("executor.slurm.conf", absolute_file),
        submit_options: layers.get("executor.slurm.submit_options", submit_options).unwrap_or_default(),
        user: layers.get("executor.slurm.user", user_and_group),
        poll_ms: layers.get("executor.slurm.poll", duration_ms).unwrap_or(Timing::default().list_ms),
    }
}

fn build_confine(runtime: &str, layers: &mut Layers) -> ConfineSettings {
    let base = ConfineSettings::default();
    let key = |name: &str| format!("executor.{runtime}.{name}");
    ConfineSettings {
        user: layers.get(&key("user"), user_and_group).unwrap_or(base.user),
        network: layers.get(&key("network"), network).unwrap_or(base.network),
        networks: layers.get(&key("networks"), words::<Network>).unwrap_or(base.networks),
        bounds: build_bounds(runtime, FEWEST_PIDS, layers),
    }
}

fn build_bounds(runtime: &str, fewest_pids: u64, layers: &mut Layers) -> Bounds {
    let base = Bounds::default();
    let key = |name: &str| format!("executor.{runtime}.{name}");
    let size = at_least(LEAST_TMPFS_BYTES);
    Bounds {
        pids: layers.get(&key("pids"), whole(fewest_pids, MOST_PIDS)).unwrap_or(base.pids),
        tmp_bytes: layers.get(&key("tmp_size"), &size).unwrap_or(base.tmp_bytes),
        shm_bytes: layers.get(&key("shm_size"), &size).unwrap_or(base.shm_bytes),
        swap_bytes: layers.get(&key("swap"), or_zero(bytes)).unwrap_or(base.swap_bytes),
    }
}

fn build_blobs(layers: &mut Layers) -> BlobSettings {
    let mut time = |key: &str, default_s: u64| {
        let given = layers.get(&format!("blobs.{key}"), duration_ms);
        given.map_or(Duration::from_secs(default_s), Duration::from_millis)
    };
    let (sweep_after, heal_after) = (time("sweep_after", 3_600), time("heal_after", 300));
    let (keep_files, keep_unpacked) = (time("keep_files", 7 * 24 * 3_600), time("keep_unpacked", 24 * 3_600));
    BlobSettings {
        copies: layers.get("blobs.copies", whole(1, 7)).unwrap_or(2) as usize,
        disk: DiskBounds {
            max_size: layers.get("blobs.max_size", bytes).unwrap_or(1 << 40),
            reserve: layers.get("blobs.reserve", bytes).unwrap_or(1 << 30),
        },
        sweep_after,
        heal_after,
        keep_files,
        max_unpacked: layers.get("blobs.max_unpacked", bytes).unwrap_or(64 << 30),
        keep_unpacked,
    }
}

fn build_docker(layers: &mut Layers) -> DockerSettings {
    let base = DockerSettings::default();
    let key = |name: &str| format!("executor.docker.{name}");
    DockerSettings {
        socket: layers.get(&key("socket"), absolute).unwrap_or(base.socket),
        allowed_images: layers.get(&key("allowed_images"), image_patterns).unwrap_or(base.allowed_images),
        require_digest: layers.get(&key("require_digest"), boolean).unwrap_or(base.require_digest),
        pull: layers.get(&key("pull"), pull).unwrap_or(base.pull),
        credentials: layers.get(&key("credentials"), absolute_file),
        network: layers.get(&key("network"), docker_network).unwrap_or(base.network),
        user: layers.get(&key("user"), user_and_group).unwrap_or(base.user),
        bounds: build_bounds("docker", 1, layers),
    }
}

fn build_gpus(layers: &mut Layers) -> Gpus {
    let word = layers.get("executor.gpus", gpu_source);
    let listed = layers.get("executor.gpu", gpu_tables);
    match (word, listed) {
        (Some(_), Some(_)) => {
            let origin = layers.values["executor.gpus"].1.clone();
            layers.refuse(
                "executor.gpus",
                &origin,
                "GPUs are listed as [[executor.gpu]] too: keep one of both",
            );
            Gpus::None
        }
        (_, Some(list)) => Gpus::Listed(list),
        (word, None) => word.unwrap_or(Gpus::Auto),
    }
}

fn build_rules(class: Class, layers: &mut Layers) -> ClassRules {
    let base = ClassRules::default_for(class);
    let key = |name: &str| format!("classes.{class}.{name}");
    let max_timeout_ms = layers.get(&key("max_timeout"), duration_ms).unwrap_or(base.max_timeout_ms);
    let max_gpus = layers.get(&key("max_gpus"), whole(0, 64)).map_or(base.max_gpus, |n| n as u32);
    ClassRules {
        runtimes: layers.get(&key("runtimes"), words::<Runtime>).unwrap_or(base.runtimes),
        // A lower cap takes the default with it, unless that is set too.
        default_timeout_ms: layers
            .get(&key("default_timeout"), duration_ms)
            .unwrap_or(base.default_timeout_ms.min(max_timeout_ms)),
        max_timeout_ms,
        default_cpu_milli: layers
            .get(&key("default_cpus"), or_zero(cpus))
            .map_or(base.default_cpu_milli, |milli| milli.min(u64::from(u32::MAX)) as u32),
        default_memory_bytes: layers
            .get(&key("default_memory"), or_zero(bytes))
            .unwrap_or(base.default_memory_bytes),
        default_gpus: layers.get(&key("default_gpus"), whole(0, 64)).map_or(base.default_gpus, |n| n as u32),
        max_gpus,
        lease_ttl_ms: layers.get(&key("lease_ttl"), duration_ms).unwrap_or(base.lease_ttl_ms),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::{from_file, machine};

    #[test]
    fn defaults_come_from_the_machine() {
        let config = from_file("");
        assert_eq!(
            (config.node.name.as_str(), config.node.data_dir.to_str()),
            ("host", Some("/var/lib/stint"))
        );
        assert_eq!(config.peers.advertise, "10.0.0.1:7001");
        assert_eq!(config.api.socket.to_str(), Some("/var/lib/stint/stint.sock"));
        assert_eq!((config.executor.cpu_milli, config.executor.memory_bytes), (4000, 9 << 30));
        assert_eq!(config.executor.runtimes, [Runtime::Crun, Runtime::Docker]);
        assert_eq!(config.raft.profile, RaftProfile::Fast);
        assert!(config.executor.sandbox && config.check().is_empty(), "{:?}", config.check());
    }

    #[test]
    fn the_advertised_address_is_derived_only_when_there_is_one() {
        let with = |addresses: &[[u8; 4]], listen: &str| {
            let addresses = addresses.iter().map(|a| Ipv4Addr::from(*a)).collect();
            derived_advertise(&Machine { addresses, ..machine() }, listen.parse().unwrap())
        };
        assert_eq!(with(&[], "0.0.0.0:7001").unwrap(), "127.0.0.1:7001");
        assert_eq!(with(&[[10, 0, 0, 9]], "[::]:7001").unwrap(), "10.0.0.9:7001");
        let two = [[10, 0, 0, 9], [172, 17, 0, 1]];
        assert_eq!(with(&two, "10.0.0.9:7001").unwrap(), "10.0.0.9:7001");
        let message = with(&two, "0.0.0.0:7001").unwrap_err();
        assert!(message.contains("10.0.0.9:7001, 172.17.0.1:7001"), "{message}");
    }

    #[test]
    fn a_lower_cap_takes_the_default_timeout_with_it() {
        let rules = from_file("[classes.gpu]\nmax_timeout = \"1m\"").classes[&Class::Gpu].clone();
        assert_eq!((rules.default_timeout_ms, rules.max_timeout_ms), (60_000, 60_000));
    }
}
