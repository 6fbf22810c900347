//! The executor's bounds, with unit and reason.

/// Default time between KILL and the end of a lease, in milliseconds: a namespace of a few thousand processes is gone
/// in well under this on a loaded machine.
pub const KILL_MARGIN_MS: u64 = 500;
/// Default bytes kept of each output stream.
pub const LOG_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of the beginning of a stream that the cap never drops: what a program says first explains most failures.
pub const LOG_HEAD_BYTES: u64 = 64 * 1024;
/// Bytes of one answer to `read_log` at most.
pub const LOG_CHUNK_BYTES: usize = 1024 * 1024;
/// How often the size of running logs is looked at, in milliseconds.
pub const LOG_CHECK_MS: u64 = 1000;
/// Bytes of output that are moved at once into a file: what a pipe holds.
pub const OUTPUT_READ_BYTES: usize = 64 * 1024;
/// How long the rest of an ended program's output may take into its file, in milliseconds: a disk under load takes the 128 KiB of two
/// pipes in a fraction of it.
pub const OUTPUT_DRAIN_MS: u64 = 5_000;
/// Pause of the thread that moves output when it cannot be told what there is to move, in milliseconds.
pub const OUTPUT_AGAIN_MS: u64 = 100;
/// Bytes of one frame between node and watchdog: ten thousand renewals, or a few hundred starts with large commands.
pub const FRAME_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of messages put into one frame, so that the other side can begin while more is coming.
pub const FRAME_TARGET_BYTES: usize = 256 * 1024;
/// Unsent bytes after which the watchdog drops a node that does not read; it gets everything anew when it is back.
pub const SHIM_BACKLOG_BYTES: usize = 64 * 1024 * 1024;
/// Attempts one watchdog holds at once: its shared board has this many slots.
pub const ATTEMPTS: usize = 16_384;
/// A watchdog with nothing to hold and no node leaves after this, in milliseconds.
pub const SHIM_IDLE_MS: u64 = 60_000;
/// KILL is repeated in this distance until the attempt is gone, in milliseconds (a fork may race with a kill).
pub const KILL_AGAIN_MS: u64 = 50;
/// A watchdog that answers nothing for this long is killed and replaced, in milliseconds; what it ran dies with it.
pub const SHIM_HUNG_MS: u64 = 5_000;
/// How long a starting watchdog may take until it listens, in milliseconds.
pub const SHIM_START_MS: u64 = 10_000;
/// The journal is rewritten when it has grown over this and is mostly acknowledged, in bytes.
pub const JOURNAL_BYTES: u64 = 1024 * 1024;
/// Ends lie unsynced for this long at most, in milliseconds. Only a crash of the whole machine can lose them.
pub const JOURNAL_SYNC_MS: u64 = 200;
/// How long a disk may take for a few bytes before it counts as hanging, in milliseconds: longer than a busy one takes to sync.
pub const DISK_TIMEOUT_MS: u64 = 20_000;
/// How long the file systems that a task mounts may take to answer, in milliseconds.
pub const MOUNT_LOOK_MS: u64 = 10_000;
/// A journal that could not be written, on a full disk, is tried again in this distance, in milliseconds.
pub const JOURNAL_AGAIN_MS: u64 = 500;
/// Default of processes and threads of one attempt: more than most programs have, and far from what a machine can.
pub const PIDS: u64 = 512;
/// Cgroups that wait for the next attempt of their sandbox folder at most: more than attempts start and end within a second.
pub const SPARE_CGROUPS: usize = 1024;
/// How long they wait, in milliseconds: a busy node starts the next attempt in a few.
pub const SPARE_CGROUP_MS: u64 = 1_000;
/// Bytes that may still be charged to one: what the kernel keeps at hand for each processor. More is a file that the
/// attempt read or wrote.
pub const SPARE_CGROUP_BYTES: u64 = 1 << 20;
/// Default size of a private `/tmp`, in bytes; what is in it counts as the attempt's memory.
pub const TMP_BYTES: u64 = 512 << 20;
/// Default size of a private `/dev/shm`, in bytes: Docker's.
pub const SHM_BYTES: u64 = 64 << 20;
/// Processes of an attempt whose CPU time is read before it is killed, where no cgroup counts it: a few hundredths of a
/// millisecond each.
pub const METERED_PROCESSES: usize = 64;
/// Open files of a program at first, and as many as it can have: what the kernel and most services use.
pub const OPEN_FILES: (u64, u64) = (1024, 65_536);
/// How long an attempt waits until nobody uses its GPU, in milliseconds: a driver takes down a large context in a second
/// or two. Then the device is quarantined and looked at again in this distance.
pub const GPU_FREE_MS: u64 = 5_000;
/// Distance of two looks while an attempt waits, in milliseconds.
pub const GPU_LOOK_MS: u64 = 100;
/// Bytes of the largest secret: a chain of certificates.
pub const SECRET_BYTES: usize = 64 * 1024;
/// Bytes of the smallest secret that can be hidden without hiding half of the output.
pub const SECRET_LEAST_BYTES: usize = 4;
/// How much of the end of a file is looked at for progress, in bytes.
pub const PROGRESS_TAIL_BYTES: u64 = 64 * 1024;
/// Bytes of one record of progress (docs/using/results.md#progress).
pub const PROGRESS_LINE_BYTES: usize = 8 * 1024;
/// How much of the end of a program's stdout is looked at for its result, in bytes.
pub const RESULT_TAIL_BYTES: usize = 256 * 1024;
/// Bytes of the result that a program says on a line of its stdout: with all else of an ending it goes through the log, to every peer.
pub const RESULT_LINE_BYTES: usize = 8 * 1024;
/// Outputs that are told as JSON beside it.
pub const SMALL_FILES: usize = 64;
/// Bytes of each of them on disk, where it may be indented, and as it is told.
pub const SMALL_FILE_READ_BYTES: u64 = 64 * 1024;
pub const SMALL_FILE_BYTES: usize = 8 * 1024;
/// Bytes of all of them together, with their names.
pub const SMALL_FILES_BYTES: usize = 12 * 1024;
/// Numbers that a record of progress may name.
pub const PROGRESS_METRICS: usize = 64;
/// Longest time that an attempt's files may take to be there, in milliseconds: an hour at the speed of a slow disk.
pub const STAGE_MS: u64 = 3_600_000;
/// Attempts whose outputs are kept at the same time.
pub const KEEPING_AT_ONCE: usize = 4;
/// How long keeping the outputs of an attempt may take, in milliseconds, where its task's timeout is shorter and the operator
/// set nothing: some gigabytes over a slow network.
pub const KEEP_LEAST_MS: u64 = 300_000;
/// How long keeping the output of an attempt with the cluster may take, in milliseconds.
pub const KEEP_LOGS_MS: u64 = 10_000;
/// How long it may take after the attempt was stopped, in milliseconds: a node that leaves waits for it.
pub const KEEP_AFTER_STOP_MS: u64 = 30_000;
/// Distance of two looks at its lease meanwhile, in milliseconds.
pub const KEEP_LEASE_LOOK_MS: u64 = 200;
/// Pauses between the tries to keep an output, in milliseconds.
pub const KEEP_PAUSES_MS: [u64; 4] = [250, 1_000, 4_000, 15_000];
/// Files of a tenant's program are private to it.
pub const UMASK: u32 = 0o077;

/// Folders of an image that its program may write in because the image says so: images have one or two.
pub const VOLUMES: usize = 32;
/// How often an init looks at its deadline while a program is being executed, in milliseconds.
pub const EXECUTE_LOOK_MS: i32 = 100;
/// Seconds a call to the Docker daemon may take.
pub const DOCKER_CALL_S: u64 = 30;
/// Distance of two tries to clear away a container, in milliseconds.
pub const DOCKER_AGAIN_MS: u64 = 100;
/// How often a monitor that hears nothing looks whether the daemon is there, in milliseconds.
pub const DOCKER_LOOK_MS: u64 = 500;
/// A daemon may be away for this long while a container runs on, in milliseconds: an upgrade of its package.
pub const DOCKER_AWAY_MS: u64 = 30_000;
/// How long the rest of an ended container's output may take to arrive, in milliseconds.
pub const DOCKER_DRAIN_MS: u64 = 5_000;
/// How long the daemon may take to notice that a container ended, in milliseconds.
pub const DOCKER_SETTLE_MS: u64 = 10_000;
/// How long a start that the daemon has and does not answer is waited for after its call, in milliseconds: a daemon that is
/// busy for minutes does what it was asked when it can.
pub const DOCKER_LATE_START_MS: u64 = 120_000;
/// How long a start whose call was cut off is waited for, in milliseconds.
pub const DOCKER_CUT_START_MS: u64 = 2_000;
/// How often at most a daemon is asked what became of a start that it did not answer, in milliseconds.
pub const DOCKER_ASK_MS: u64 = 1_000;
/// How often a container is made anew for a start that was certainly not done.
pub const DOCKER_STARTS: u32 = 3;
/// How long a call before the start, which may be made again, is tried while the daemon is there, in milliseconds.
pub const DOCKER_INSIST_MS: u64 = 60_000;
/// How long a monitor tries to remove its container before it leaves that to the node's sweep, in milliseconds.
pub const DOCKER_REMOVE_MS: u64 = 3_000;
/// A monitor that still has not left so long after the first KILL is killed itself, and another one clears up, in
/// milliseconds.
pub const MONITOR_HUNG_MS: u64 = 60_000;
/// How often the node asks whether its Docker daemon is there, in milliseconds.
pub const DOCKER_PING_MS: u64 = 2_000;
/// Users who are looked up at once: each look-up runs a program of the machine's, and a directory that does not answer keeps it.
pub const USER_LOOK_UPS: usize = 8;
/// How long this machine's directory of users (LDAP and the like) may take to say who a user is, in milliseconds; waiting for a turn
/// is a part of it.
pub const USER_LOOK_UP_MS: u64 = 10_000;
/// Groups of a user beside its own: more than directories of users have, and a message's worth. The kernel takes 65,536.
pub const GROUPS: usize = 4_096;
/// How often the node looks for containers that nobody accounts for, in milliseconds.
pub const DOCKER_SWEEP_MS: u64 = 30_000;
/// How often an image is tried to be pulled in one attempt.
pub const PULL_TRIES: u32 = 3;
/// How often a node is refused the image of one task before it ends the task: the scheduler comes back to it only when
/// no other node has room, which once may be chance.
pub const PULL_REFUSALS: u32 = 3;
/// Earlier attempts of a task that are looked at for that.
pub const PULL_LOOK_BACK: usize = 100;
/// First pause between two tries, in milliseconds; four times as long after each.
pub const PULL_PAUSE_MS: u64 = 500;
/// A pull of which nothing is heard for this long has failed, in milliseconds.
pub const PULL_QUIET_MS: u64 = 60_000;
/// Distance of two lines about a pull, in milliseconds.
pub const PULL_SAY_MS: u64 = 2_000;
/// Layers of an image whose progress is added up.
pub const PULL_LAYERS: usize = 256;
/// Bytes of a file of credentials for registries: some hundred of them.
pub const CREDENTIALS_BYTES: u64 = 1024 * 1024;
/// How often the node looks whether that file can be used, in milliseconds.
pub const CREDENTIALS_LOOK_MS: u64 = 2_000;
/// Longest time from an attempt's launch to its program's start under Docker, in milliseconds: bounds pulls.
pub const DOCKER_START_MS: u64 = 3_600_000;
