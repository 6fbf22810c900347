//! Every bound on what crosses a border, with its unit and its reason.

/// Fewest processes and threads that an attempt can be limited to: starting a container takes a few.
pub const FEWEST_PIDS: u64 = 16;
/// Most of them: Linux has no higher process ids.
pub const MOST_PIDS: u64 = 4_194_304;
/// Smallest `/tmp` or `/dev/shm` of an attempt, in bytes: a few pages, and never 0, which the kernel takes for no limit.
pub const LEAST_TMPFS_BYTES: u64 = 64 << 10;
/// Bytes of a tenant's name: a DNS label, so that it can be one.
pub const TENANT_BYTES: usize = 63;
/// Bytes of a task's name: fits a file name together with an attempt number.
pub const TASK_NAME_BYTES: usize = 128;
/// Bytes of a task's comment: a paragraph, as an image's description; every peer has it in memory.
pub const COMMENT_BYTES: usize = 1024;
/// Bytes of an image's name: as a task's.
pub const IMAGE_NAME_BYTES: usize = 128;
/// Bytes of an image's description: a paragraph.
pub const IMAGE_DESCRIPTION_BYTES: usize = 1024;
/// Bytes of a Docker reference that is kept under a name: registry, path, tag and digest at their longest.
pub const IMAGE_REFERENCE_BYTES: usize = 512;
/// Images in the replicated state, those that were replaced and are still used included: some tens of MiB.
pub const IMAGES: usize = 100_000;
/// Blobs that tenants keep for a time, in the replicated state.
pub const KEPT_BLOBS: usize = 1_000_000;
/// How long a tenant may have a blob kept at most, in milliseconds: a year.
pub const KEEP_BLOB_MS: u64 = 365 * 24 * 3_600_000;
/// Kept files that are remembered of the attempts of tasks that are not finished: each stands in the memory of every peer, with its
/// path and the record of its bytes in some hundred bytes.
pub const EARLIER_OUTPUTS: u64 = 500_000;
/// Bytes that the record of one blob takes in the memory of every peer, about.
pub const BLOB_RECORD_BYTES: usize = 256;
/// Blobs that one command names at most: 1,000 digests are 40 KiB.
pub const BLOBS_PER_COMMAND: usize = 1_000;
/// Bytes of an idempotency key: two UUIDs and some words.
pub const IDEMPOTENCY_KEY_BYTES: usize = 128;
/// Bytes of a GPU's id: NVIDIA's MIG UUIDs have about 50.
pub const GPU_ID_BYTES: usize = 96;
/// Arguments of a command.
pub const COMMAND_ARGUMENTS: usize = 1024;
/// Bytes of a command and its environment together: a quarter of a log entry, so that a batch still fits.
pub const COMMAND_AND_ENVIRONMENT_BYTES: usize = 256 * 1024;
/// Variables of a task's environment.
pub const ENVIRONMENT_VARIABLES: usize = 1024;
/// Files a task may be given; more come in an archive.
pub const INPUTS: usize = 256;
/// Bytes of a task's inputs that its spec holds itself: with its command and environment still half of a log entry.
pub const INLINE_BYTES: usize = 256 * 1024;
/// Files and folders a task may name as outputs.
pub const OUTPUTS: usize = 64;
/// Files kept of one attempt under their own names, which go through the log; more are kept as one archive for each folder.
pub const KEPT_FILES: usize = 256;
/// Files kept of one attempt, those in archives included: each is opened and read.
pub const PACKED_FILES: usize = 10_000;
/// Files of one attempt that are named as not kept; the others are counted.
pub const NOT_KEPT: usize = 32;
/// Bytes of the path, and of the reason, of each of them.
pub const NOT_KEPT_TEXT_BYTES: usize = 256;
/// Folders and files of its node that a task may mount.
pub const MOUNTS: usize = 16;
/// Folders and files that a node may let tasks mount.
pub const MOUNT_ROOTS: usize = 32;
/// Bytes of one path.
pub const PATH_BYTES: usize = 1024;
/// Bytes of one part of a path: more than file systems take.
pub const PATH_PART_BYTES: usize = 255;
/// Bytes of the paths of all files kept of one attempt.
pub const KEPT_PATH_BYTES: usize = 32 * 1024;
/// Secrets a task may use.
pub const SECRETS: usize = 32;
/// Labels a task may require or a node may offer.
pub const LABELS: usize = 64;
/// Bytes of one label's key or value.
pub const LABEL_BYTES: usize = 128;
/// Attempts a retry policy may ask for.
pub const MAX_ATTEMPTS: u32 = 100;
/// Longest backoff between two attempts, in milliseconds: one hour.
pub const MAX_BACKOFF_MS: u64 = 3_600_000;
/// Tasks of one submit request: a million-element sweep is 100 requests.
pub const TASKS_PER_SUBMIT: u32 = 10_000;
/// Tasks that may wait or run in the whole cluster: all of them are in every peer's memory.
pub const LIVE_TASKS: u64 = 1_000_000;
/// Bytes of specs that may wait or run in the whole cluster: all of them are in every peer's memory.
pub const LIVE_SPEC_BYTES: u64 = 512 * 1024 * 1024;
/// Bytes that finished tasks may take on every peer; beyond, the oldest are forgotten before their time.
pub const HISTORY_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes of a message that tells a user why something ended.
pub const MESSAGE_BYTES: usize = 4096;
/// Attempts whose record a task keeps in the replicated state; older ones are counted only.
pub const ATTEMPT_RECORDS: usize = 8;
/// Idempotency keys remembered at most; when full, submits with a key are refused, never forgotten early.
pub const IDEMPOTENCY_KEYS: usize = 1_000_000;
/// How long an idempotency key lives at least, in milliseconds (docs/internals/leases.md#idempotency-keys).
pub const DEDUPE_WINDOW_MS: u64 = 24 * 3_600_000;
/// An attempt that was lost counts against its task only when its node was lost so soon after its start, in milliseconds, apart from
/// the time that the leader waits for a lease: what a task does to its node it does soon.
pub const LOST_SOON_MS: u64 = 60_000;
/// A task that ran for so long before it was lost is no danger to nodes, in milliseconds: its earlier losses are forgotten.
pub const LOSSES_FORGOTTEN_MS: u64 = 3_600_000;
/// Tries after which files that no node has are taken for files that are nowhere: an outage of some seconds passes.
pub const FILES_MISSING_TRIES: u32 = 3;
/// The least memory that a task may ask for, in bytes: no runtime starts a program in less (Docker's own bound).
pub const LEAST_MEMORY_BYTES: u64 = 6 * 1024 * 1024;
/// The least CPU that a task may ask for, in thousandths of a core (Docker's own bound).
pub const LEAST_CPU_MILLI: u64 = 10;
/// Losses of its node after which a task fails as `crash_loop` (docs/internals/leases.md#losses).
pub const CRASH_LOOP_LOSSES: u32 = 3;
/// The highest number of losses that can be set: a task that takes a node down takes down no more than so many.
pub const CRASH_LOOP_MOST: u64 = 1_000;
/// Starts of one task that nodes may fail before it is given up: the nodes' own faults do not count as attempts.
pub const FAILED_STARTS: u32 = 10;
/// Tasks in a row that a node fails to start before it gets no more for a while.
pub const FAILED_STARTS_OF_A_NODE: u32 = 3;
/// Tenants for which a node fails to start tasks with a runtime before all others get none with it either: then it is not their
/// tasks' fault.
pub const HELD_TENANTS: usize = 2;
/// Pairs of runtime and tenant of which a node's failed starts are remembered; the oldest one is forgotten for a new one. Each
/// has a message of `MESSAGE_BYTES` at most, and a node's record is copied with each lease there.
pub const HOLDS_OF_A_NODE: usize = 16;
/// How long it then gets none, in milliseconds; doubled each time a try fails again, up to the second number.
pub const NODE_HOLD_MS: (u64, u64) = (5_000, 300_000);
/// The clocks of two machines drift apart by at most this part of the elapsed time
/// (docs/internals/leases.md#length-and-margin): 1 %, a hundred times what a crystal does, because virtual machines
/// are worse.
pub const CLOCK_DRIFT_PERCENT: u64 = 1;
/// Longest lease that a class can be given while the cluster runs, in milliseconds: a day. A task of a lost node waits
/// for as long before it runs elsewhere.
pub const LEASE_MS: u64 = 24 * 3_600_000;
/// Finished tasks that can be kept; `HISTORY_BYTES` bounds them, too.
pub const KEEP_FINISHED: u64 = 10_000_000;
/// How long finished tasks can be kept, in milliseconds: a year.
pub const KEEP_FINISHED_MS: u64 = 365 * 24 * 3_600_000;
/// Longest rules of a node for images and folders, as it offers them: they stand in the log and in every peer's memory.
pub const NODE_RULES_BYTES: usize = 16 * 1024;
/// Highest priority of a task.
pub const MAX_PRIORITY: u8 = 100;
/// Highest priority of the tasks of a tenant that nobody gave another one: what a task has that names none.
pub const TENANT_MAX_PRIORITY: u8 = 50;
/// Heaviest weight of a tenant.
pub const TENANT_WEIGHT: u32 = 10_000;
/// Numbers of users that tenants are given unless the cluster has others: above those of people on most machines, and as many
/// as a range for containers commonly has.
pub const TENANT_UIDS: (u32, u32) = (200_000, 265_535);
/// Least and highest number of a user that a tenant may be given. Systems have the ones below for their own services, and the
/// kernel takes the highest for signed.
pub const TENANT_UID_BOUNDS: (u32, u32) = (1_000, 2_000_000_000);
/// Numbers of users in the range for tenants: every peer keeps those that were given.
pub const TENANT_UIDS_MOST: u32 = 1 << 20;
/// The user who is nobody: the kernel shows it for those whom it cannot name, and programs without a user of their own run as it.
pub const NOBODY: u32 = 65_534;
/// Tenants that a node can name as those whose tasks it takes: they stand in its offer.
pub const NODE_TENANTS: usize = 128;
/// Patterns of images that a tenant's rules can name.
pub const TENANT_IMAGES: usize = 32;
/// Bytes of a tenant's patterns of images, with what separates them: every peer keeps those of all tenants in memory, and one answer shows
/// them.
pub const TENANT_IMAGES_BYTES: usize = 1024;
/// Tenants that can have rules of their own: the table is copied with each change of settings.
pub const TENANTS_WITH_RULES: usize = 4_096;
/// Changes of settings that the cluster remembers: some months of an operator's work, a few KiB.
pub const SETTINGS_CHANGES: usize = 64;
/// Tasks one page of a listing shows at most.
pub const LIST_PAGE: usize = 10_000;

/// Cuts a message at `MESSAGE_BYTES`, on a character's border.
pub fn clip(message: String) -> String {
    clip_at(message, MESSAGE_BYTES)
}

/// Cuts a text at so many bytes, on a character's border.
pub fn clip_at(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
/// Access tokens that are valid at a time: the table is copied with each change of it.
pub const ACCESS_TOKENS: usize = 4_096;
/// Bytes of the comment of an access token.
pub const TOKEN_COMMENT_BYTES: usize = 256;
/// Bytes of the end of each output stream that every peer keeps of an attempt: the last words of a program.
pub const ENDING_TAIL_BYTES: usize = 4 * 1024;
/// Bytes of each output stream of an attempt that the cluster keeps, where its task wants that.
pub const CLUSTER_LOG_BYTES: usize = 1024 * 1024;
/// Bytes of the id of a workflow instance: a UUID with some words, and the name of a folder.
pub const INSTANCE_ID_BYTES: usize = 128;
/// Bytes of a checkpoint's id, as a program gives it: a function's name and its key.
pub const CHECKPOINT_ID_BYTES: usize = 512;
/// Bytes of a payload of an instance that the log and the state hold themselves; longer ones are stored as blobs first.
pub const INLINE_PAYLOAD_BYTES: usize = 16 * 1024;
/// Bytes of the payload of an event that the log and the state hold themselves.
pub const INLINE_EVENT_BYTES: usize = 4 * 1024;
/// Checkpoints of one instance, the tries of its steps included.
pub const CHECKPOINTS: u32 = 10_000;
/// Bytes of payloads of all instances that every peer holds in memory.
pub const DURABLE_BYTES: u64 = 512 * 1024 * 1024;
/// Events that are kept of one instance; the oldest ones go.
pub const EVENTS_KEPT: u32 = 1_000;
/// Events of one command, and the bytes of all of them: half of a log entry.
pub const EVENTS_PER_COMMAND: usize = 256;
/// Bytes of the events of one command.
pub const EVENT_BYTES_PER_COMMAND: usize = 256 * 1024;
/// Custom signals that are kept for one instance, each for another checkpoint.
pub const CUSTOM_SIGNALS: u32 = 1_000;
/// Requests of an instance that are remembered, so that one that comes again is told from a new one: as many as a program may
/// have on their way at a time.
pub const INSTANCE_REQUESTS: usize = 16;
/// Variables of an instance beside those of its image, and their bytes.
pub const INSTANCE_VARIABLES_BYTES: usize = 32 * 1024;
/// Suspended tasks that one command wakes at most; the next one goes on.
pub const WAKES_PER_COMMAND: usize = 1_024;
/// How long an instance that runs outside the cluster is kept after its end, in milliseconds: a week. One that the cluster
/// started is forgotten with its task.
pub const KEEP_OUTSIDE_MS: u64 = 7 * 24 * 3_600_000;
/// Hours of which the ends of instances are counted for each tenant: a month.
pub const INSTANCE_HOURS: u64 = 31 * 24;
/// How long a program may go on after it said how its instance ended, in milliseconds.
pub const LINGER_MS: u64 = 30_000;
