//! Every key of the configuration: its meaning, its default, and how it is written.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use stint_executor::{
    Bounds, ConfineOptions, CrunOptions, DiskLimits, DockerOptions, MountRules, OutputLimits, ProcessOptions,
    WRITABLE_FOLDERS,
};
use stint_protocol::limits::{FEWEST_PIDS, LEAST_TMPFS_BYTES, MOST_PIDS, MOUNT_ROOTS, NODE_TENANTS};
use stint_protocol::{Class, ClassRules, Role, Runtime, Tenant, Version, version};
use stint_slurm_bridge::controller::Timing;

use super::describe::{About, Classes, Inline, NoKey, Place, Section, Settings, Visitor, settings};
use super::formats::{AtMost, Bytes, Cores, List, OneWord, Optional, OrZero, Time, Whole, Words};
use super::gpus::{GPU_SOURCE, GPU_TABLES, Gpus};
use super::texts::{
    ABSOLUTE, ADDRESS, DEFAULT_FILTER, DOCKER_NETWORK, DOCKER_RUNTIME, FILE, FILTER, FOLDER, HOST_AND_PORT,
    IMAGE_PATTERN, KNOWN_VERSION, LABELS_TABLE, LISTENER, NODE_NAME, OPEN_FOLDER, PROGRAM, SUBMIT_OPTION,
    TENANT_NAME, TRUE_OR_FALSE, USER_AND_GROUP,
};
use super::users::{GROUP, RunAs, TENANT, USERS_TABLE, Users};
use super::{LogFormat, Machine, Origin, RaftProfile};
use crate::blobs::{BlobSettings, DiskBounds};
use crate::certificates::{ADMIN_LIFE, LIFE};

settings! {
    /// Everything a node is started with.
    pub struct Config on machine {
        pub node: NodeConfig = NodeConfig::on(machine) => Section;
        pub peers: PeersConfig = PeersConfig::on(machine) => Section;
        pub api: ApiConfig = ApiConfig::on(machine) => Section;
        pub http: HttpConfig = HttpConfig::on(machine) => Section;
        pub log: LogConfig = LogConfig::on(machine) => Section;
        pub raft: RaftConfig = RaftConfig::on(machine) => Section;
        pub executor: ExecutorConfig = ExecutorConfig::on(machine) => Section;
        pub artifacts: ArtifactsConfig = ArtifactsConfig::on(machine) => Section;
        pub secrets: SecretsConfig = SecretsConfig::on(machine) => Section;
        pub blobs: BlobSettings = default_blobs() => Section;
        pub cluster: ClusterConfig = ClusterConfig::on(machine) => Section;
        /// Rules by class. Used at bootstrap only; from then on they are replicated.
        pub classes: BTreeMap<Class, ClassRules> =
            Class::ALL.map(|class| (class, ClassRules::default_for(class))).into() => Classes;
        /// Where the values came from that are no defaults.
        pub(super) origins: BTreeMap<String, Origin> = BTreeMap::new() => NoKey;
    }
}

settings! {
    /// Who this node is and where its data lies.
    pub struct NodeConfig on machine {
        /// Name of the node: up to 63 letters, digits, `-`, `_` and `.`, unlike any other of the cluster.
        pub name: String = machine.hostname.clone(), "the host's name" => NODE_NAME, flag "--name NAME";
        /// Folder of all data.
        pub data_dir: PathBuf = machine.data_dir.clone(),
            "`/var/lib/stint`, or `~/.local/share/stint` when not root" => ABSOLUTE, flag "--data-dir DIR";
        /// Threads for requests, Raft and everything else of the node; tasks have processes of their own. Fewer leave more
        /// of a large machine to tasks.
        pub threads: usize = (machine.cores as usize).max(2), "one for each core, 2 at least" => Whole(2, 1024);
    }
}

settings! {
    /// Raft, reports and blobs between peers: QUIC with mutual TLS.
    pub struct PeersConfig on _machine {
        /// Where other peers connect to.
        pub listen: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7001)) =>
            ADDRESS, flag "--listen ADDRESS";
        /// The address that other peers use to reach this one. Port 0 stands for the port that was bound.
        pub advertise: String = String::new(), "the machine's address, when it has only one" =>
            HOST_AND_PORT, flag "--advertise HOST:PORT";
        /// How long the certificates of nodes are valid that this peer issues while it votes. They renew themselves.
        pub certificate_ttl_ms: u64 = LIFE.as_millis() as u64 => Time, key "certificate_ttl";
        /// The same of administrators' certificates. Each node renews the one in its folder.
        pub admin_certificate_ttl_ms: u64 = ADMIN_LIFE.as_millis() as u64 => Time, key "admin_certificate_ttl";
    }
}

settings! {
    /// The native gRPC API.
    pub struct ApiConfig on machine {
        /// gRPC over TCP with TLS, for access tokens and the administrator's certificate; `""` = off.
        pub listen: Option<SocketAddr> = loopback(7002) => LISTENER, flag "--api-listen ADDRESS";
        /// The local administrator's door; only the node's user may open it.
        pub socket: PathBuf = machine.data_dir.join("stint.sock"), "`stint.sock` in `node.data_dir`" => ABSOLUTE;
        /// A group of this machine whose members may call through a socket of their own.
        pub group: Option<String> = None => Optional(GROUP);
        /// The socket of that group. Its folder is made where it is missing, and must be one that the node's user alone changes.
        pub group_socket: PathBuf = GROUP_SOCKET.into() => ABSOLUTE;
        /// Tenant and role of users of this machine, as `alice = { tenant = "physics", role = "submit" }`. As a variable:
        /// `alice=physics:submit`.
        pub users: Users = Users::new() => USERS_TABLE;
        /// Role of members of the group who are not among `users`; without it they are refused.
        pub default_role: Option<Role> = None => Optional(OneWord);
        /// Tenant of members of the group who are not among `users`.
        pub default_tenant: Option<Tenant> = None, "`uid-` and the number of the user: each has a tenant of its own" =>
            Optional(TENANT);
    }
}

settings! {
    /// Health and metrics, in plain text.
    pub struct HttpConfig on _machine {
        /// Health and metrics (`/healthz`, `/readyz`, `/metrics`), in plain text; `""` = off.
        pub listen: Option<SocketAddr> = loopback(9097) => LISTENER, flag "--http-listen ADDRESS";
    }
}

settings! {
    /// What a node says on stderr.
    pub struct LogConfig on _machine {
        /// How logs are written: `text` for people, or `json`, one object a line.
        pub format: LogFormat = LogFormat::Text => OneWord, flag "--log-format FORMAT";
        /// Levels by target, as `info,stint::task=debug`.
        pub filter: String = DEFAULT_FILTER.into() => FILTER, variable "STINT_LOG";
    }
}

settings! {
    /// How peers agree.
    pub struct RaftConfig on _machine {
        /// How fast a lost leader is noticed, as heartbeat / election timeout in milliseconds: `fast` 50 / 125–225,
        /// `lan` 100 / 300–600 (where syncs stall), `tight` 30 / 100–150 (good disks only), `wan` 250 / 1000–2000
        /// (peers far apart).
        pub profile: RaftProfile = RaftProfile::Fast => OneWord;
        /// Log entries between two snapshots.
        pub snapshot_every_entries: u64 = 50_000 => Whole(100, 10_000_000);
        /// Added to every sync, to see how a slow disk would do; for benchmarks only.
        pub extra_sync_delay_ms: u64 = 0 => Whole(0, 10_000);
    }
}

settings! {
    /// What this node runs and how.
    pub struct ExecutorConfig on machine {
        /// Whether this node runs tasks.
        pub enabled: bool = true => TRUE_OR_FALSE;
        /// Classes of tasks that it runs.
        pub classes: Vec<Class> = vec![Class::CpuShort, Class::CpuLong, Class::Gpu] => Words;
        /// What may execute tasks, in order of preference. Those that are not installed are left out at start, with a
        /// message.
        pub runtimes: Vec<Runtime> = vec![Runtime::Crun, Runtime::Docker] => Words, flag "--runtimes LIST";
        /// Tenants whose tasks it takes; `["*"]` takes those of all, also where processes of all tenants are one user.
        pub tenants: Vec<String> = Vec::new(), "all; processes only of one tenant where all would be one user" =>
            AtMost(NODE_TENANTS, List(TENANT_NAME));
        /// As whom programs run: the user of the task's tenant, or the user of the machine who submitted the task through the socket of
        /// a group (`api.group`). `user` counts on the peer that takes the submit and on the node, which must be root.
        pub run_as: RunAs = RunAs::Tenant => OneWord;
        /// The least number of a user that programs run as with `run_as = "user"`.
        pub run_as_min_uid: u32 = 1000 => Whole(1, 4_294_967_293);
        /// Whether the process runtime confines what it starts.
        pub sandbox: bool = true => TRUE_OR_FALSE;
        /// Cores for tasks.
        pub cpu_milli: u64 = machine.cores * 1000, "the machine's" => Cores, key "cpus";
        /// Memory for tasks.
        pub memory_bytes: u64 = (machine.memory_bytes / 10 * 9) >> 20 << 20, "nine tenths of the machine's" =>
            Bytes(1), key "memory";
        /// Attempts at once.
        pub slots: u32 = 1, "8 for each core of `executor.cpus`" => Whole(1, 100_000);
        /// `auto`: the driver is asked (NVML). To list GPUs write `[[executor.gpu]]` tables instead.
        pub gpus: Gpus = Gpus::Auto => GPU_SOURCE;
        /// Labels that tasks may ask for with constraints.
        pub labels: BTreeMap<String, String> = BTreeMap::new() => LABELS_TABLE, flag "--labels LIST";
        /// The program crun: a path, or a name that is looked up in `PATH`.
        pub crun_path: PathBuf = "crun".into() => PROGRAM;
        /// Kept of each of stdout and stderr of an attempt.
        pub max_log_bytes: u64 = 16 << 20 => Bytes(1);
        pub outputs: OutputLimits = OutputLimits::default() => Inline;
        /// Milliseconds kept at the end of a lease for the kill itself.
        pub kill_margin_ms: u64 = 500 => Whole(100, 60_000);
        /// How long its disk may take for a few bytes. One that takes longer hangs: the node offers no runtimes until it answers.
        pub disk_timeout_ms: u64 = 20_000 => Time, key "disk_timeout";
        pub disk: DiskLimits = DiskLimits { attempt_bytes: 0, reserve_bytes: 1 << 30 } => Inline;
        pub docker: DockerOptions = DockerOptions::default() => Section;
        pub crun: CrunOptions = CrunOptions::default() => Section;
        pub process: ProcessOptions = ProcessOptions::default() => Section;
        /// What tasks may mount.
        pub mounts: MountRules = MountRules::default() => Section;
        pub slurm: SlurmConfig = SlurmConfig::on(machine) => Section;
    }
    also {
        /// The GPUs of this node, one table each: `id` (as `nvidia-smi -L` shows it), `model`, `memory`, `index`, and for
        /// tests `in_use_file`.
        gpus => GPU_TABLES, key "gpu";
    }
}

settings! {
    impl DockerOptions {
        /// Socket of the Docker daemon.
        socket => ABSOLUTE;
        /// Patterns of images that may run; none may unless one fits.
        allowed_images => List(IMAGE_PATTERN);
        /// Whether images must be named by digest.
        require_digest => TRUE_OR_FALSE;
        /// When an image is pulled: `missing` = when the daemon does not have it.
        pull => OneWord;
        /// File of credentials for registries, as `docker login` writes it, that only the node's user can read.
        credentials => Optional(FILE);
        /// Network of containers: `none`, `bridge` or one of the daemon's; never the host's.
        network => DOCKER_NETWORK;
        /// One of the daemon's runtimes, such as `runsc` of gVisor.
        runtime, "the daemon's default" => Optional(DOCKER_RUNTIME);
        /// User and group of every program of all tenants, in numbers; never root.
        user, "each tenant has its own" => Optional(USER_AND_GROUP);
        /// Processes and threads of one attempt.
        bounds.pids => Whole(1, MOST_PIDS);
        /// Size of `/tmp`.
        bounds.tmp_bytes => Bytes(LEAST_TMPFS_BYTES), key "tmp_size";
        /// Size of `/dev/shm`.
        bounds.shm_bytes => Bytes(LEAST_TMPFS_BYTES), key "shm_size";
        /// Swap that a task may ask for beyond its memory.
        bounds.swap_bytes => OrZero(Bytes(1)), key "swap";
    }
}

settings! {
    impl CrunOptions {
        /// Folders under which a task's root file system may lie; none = no task brings one.
        roots => List(OPEN_FOLDER);
        confine => Inline;
    }
}

settings! {
    impl ProcessOptions {
        /// Folders of the host that programs may write in, as far as their user may.
        writable => AtMost(WRITABLE_FOLDERS, List(OPEN_FOLDER));
        confine => Inline;
    }
}

settings! {
    impl ConfineOptions {
        /// User and group of every program of all tenants, in numbers; never root. Counts when the node is root.
        user, "each tenant has its own" => Optional(USER_AND_GROUP);
        /// Network of tasks that ask for none.
        network => OneWord;
        /// Networks that a task may ask for, beside `none` and `network`.
        networks => Words;
        bounds => Inline;
    }
}

settings! {
    impl Bounds {
        /// Processes and threads of one attempt; a task may ask for fewer.
        pids => Whole(FEWEST_PIDS, MOST_PIDS);
        /// Size of `/tmp`; a task may ask for less.
        tmp_bytes => Bytes(LEAST_TMPFS_BYTES), key "tmp_size";
        /// Size of `/dev/shm`; a task may ask for less.
        shm_bytes => Bytes(LEAST_TMPFS_BYTES), key "shm_size";
        /// Swap that a task may ask for beyond its memory.
        swap_bytes => OrZero(Bytes(1)), key "swap";
    }
}

settings! {
    impl OutputLimits {
        /// Size of one file that is kept as an output, its holes included.
        file_bytes => Bytes(1), key "max_output_file_bytes";
        /// Size of all files that are kept of one attempt.
        all_bytes => Bytes(1), key "max_output_bytes";
        /// How long keeping the outputs of an attempt may take, where the task's timeout is shorter.
        keep_ms => Time, key "output_timeout";
    }
}

settings! {
    impl DiskLimits {
        /// Size of an attempt's files on the node's disk; an attempt that has more is killed. 0 = no limit.
        attempt_bytes => OrZero(Bytes(1)), key "max_disk_bytes";
        /// Stays free on the node's disk, or a twentieth of a smaller one. Below it nothing starts, and the attempt whose
        /// files take the most is killed. 0 = nothing is kept free.
        reserve_bytes => OrZero(Bytes(1)), key "disk_reserve";
    }
}

settings! {
    impl MountRules {
        /// Folders of this host that tasks may mount for reading.
        readable => AtMost(MOUNT_ROOTS / 2, List(OPEN_FOLDER));
        /// Folders of this host that tasks may mount for reading and writing.
        writable => AtMost(MOUNT_ROOTS / 2, List(OPEN_FOLDER));
    }
}

settings! {
    /// How a node hands tasks to Slurm.
    pub struct SlurmConfig on _machine {
        /// Folder that this node and Slurm's nodes see at the same path; needed for the runtime slurm.
        pub folder: Option<PathBuf> = None => Optional(FOLDER);
        /// Folder of `sbatch`, `squeue` and `scancel`.
        pub bin: Option<PathBuf> = None, "they are looked up in `PATH`" => Optional(FOLDER);
        /// Slurm's own configuration (`SLURM_CONF`).
        pub conf: Option<PathBuf> = None, "Slurm's default" => Optional(FILE);
        /// Further options of `sbatch`, one word each, as `--partition=gpu`.
        pub submit_options: Vec<String> = Vec::new() => List(SUBMIT_OPTION);
        /// User and group that jobs run as, in numbers; needed where this node is root.
        pub user: Option<(u32, u32)> = None => Optional(USER_AND_GROUP);
        /// Time between two lists of all jobs.
        pub poll_ms: u64 = Timing::default().list_ms => Time, key "poll";
    }
}

settings! {
    /// Inputs from this node's disks.
    pub struct ArtifactsConfig on _machine {
        /// Folders of this host whose files tasks may name as inputs.
        pub roots: Vec<PathBuf> = Vec::new() => List(FOLDER);
    }
}

settings! {
    /// Secrets from this node's disk.
    pub struct SecretsConfig on _machine {
        /// Folder with a file `TENANT/NAME` for each secret.
        pub dir: Option<PathBuf> = None => Optional(FOLDER);
    }
}

settings! {
    impl BlobSettings {
        /// Peers that have each blob before it is acknowledged, as far as there are as many voters.
        copies => Whole(1, 7);
        disk => Inline;
        /// How long bytes stay that nothing refers to.
        sweep_after => Time;
        /// How long a peer may be silent before what it has is copied elsewhere.
        heal_after => Time;
        /// How long a file that an attempt left with the cluster is kept, when its task is forgotten before.
        keep_files => Time;
        /// Size of one unpacked image.
        max_unpacked => Bytes(1);
        /// How long an unpacked image stays on a node that does not use it.
        keep_unpacked => Time;
    }
}

settings! {
    impl DiskBounds {
        /// Size of one blob: an image or a file.
        max_size => Bytes(1);
        /// Stays free on the disk, for the log: uploads and copies are refused below it.
        reserve => Bytes(1);
    }
}

fn default_blobs() -> BlobSettings {
    const HOUR: Duration = Duration::from_secs(3_600);
    BlobSettings {
        copies: 2,
        disk: DiskBounds { max_size: 1 << 40, reserve: 1 << 30 },
        sweep_after: HOUR,
        heal_after: HOUR / 12,
        keep_files: HOUR * 24 * 7,
        max_unpacked: 64 << 30,
        keep_unpacked: HOUR * 24,
    }
}

settings! {
    /// The cluster that this node belongs to.
    pub struct ClusterConfig on _machine {
        /// Name of the cluster. Used at bootstrap only.
        pub name: String = "stint".into() => NODE_NAME;
        /// The highest version that this peer may speak: set it during an upgrade, and remove it when every peer runs the
        /// new program.
        pub max_version: Version = version::CURRENT => KNOWN_VERSION;
    }
}

settings! {
    impl ClassRules {
        /// Runtimes that may execute the class, in order of preference.
        runtimes => Words;
        /// Run time of an attempt when the task names none; no more than `max_timeout`.
        default_timeout_ms => Time, key "default_timeout";
        /// Longest run time that a task may ask for.
        max_timeout_ms => Time, key "max_timeout";
        /// Cores when the task names none; 0 leaves them to Slurm.
        default_cpu_milli => OrZero(Cores), key "default_cpus";
        /// Memory when the task names none; 0 leaves it to Slurm.
        default_memory_bytes => OrZero(Bytes(1)), key "default_memory";
        /// Whole GPUs when the task names no number.
        default_gpus => Whole(0, 64);
        /// Most whole GPUs that a task may ask for.
        max_gpus => Whole(0, 64);
        /// Length of a lease: how long an attempt goes on without word from the leader.
        lease_ttl_ms => Time, key "lease_ttl";
    }
}

/// Where the command line looks for it, too.
pub const GROUP_SOCKET: &str = "/run/stint/stint.sock";

fn loopback(port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
