//! Bounds of a node's queues, messages and waits, each with its unit and its reason.

use std::time::Duration;

pub use stint_protocol::limits::CLOCK_DRIFT_PERCENT;

/// Bytes of one message between peers: a full log entry, a snapshot chunk, with room for framing.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Requests that may wait for the leader's next entry; beyond it submits are pushed back.
pub const PROPOSALS: usize = 4_096;
/// Bytes of one entry of the log. `BATCH_BYTES`, `EXPIRED_PER_ENTRY` leases and the largest plan together stay below it.
pub const ENTRY_BYTES: usize = 1024 * 1024;
/// Leases that one entry ends because they ran out, 31 bytes each at most. What is left comes with the next entry.
pub const EXPIRED_PER_ENTRY: usize = 2_048;
/// Bytes of commands in one entry: under the log's entry bound with room for the plan.
pub const BATCH_BYTES: usize = 512 * 1024;
/// Commands in one entry, so that applying one never takes long.
pub const BATCH_COMMANDS: usize = 1_024;
/// How long a request looks for a leader before it answers `unavailable`.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(8);
/// One try at forwarding a request: shorter than the whole, so that a dead leader is found out.
pub const FORWARD_DEADLINE: Duration = Duration::from_secs(3);
/// A peer that gave no sign of life for this long counts as unreachable: twenty heartbeats of the quickest profile.
pub const PEER_SILENCE: Duration = Duration::from_secs(1);
/// The same without a leader, where voters hear of each other at elections alone: two of them, and no less than this.
pub const VOTER_SILENCE: Duration = Duration::from_millis(700);
/// How long no leader may be there at most before reads are answered from a peer's own copy.
pub const READ_PATIENCE: Duration = Duration::from_millis(750);
/// How long one read waits at most for a leader that a majority may elect: its answer is there within a second.
pub const READ_WAIT: Duration = Duration::from_millis(900);
/// How long beyond an election no leader may be there, and no majority, before writes are refused.
pub const WRITE_PATIENCE: Duration = Duration::from_millis(900);
/// How long no leader may be there before a peer asks the others whether it is still a member.
pub const LONELY: Duration = Duration::from_secs(3);
/// How often a peer looks whether it is still a member.
pub const REMOVED_LOOK: Duration = Duration::from_secs(1);
/// How often a request that waits looks whether there is a leader.
pub const OUTAGE_LOOK: Duration = Duration::from_millis(50);
/// How long an answer from a peer's own copy waits for what another node keeps.
pub const OUTAGE_READ: Duration = Duration::from_millis(500);
/// Pause before a request that found no leader tries again: a fraction of an election.
pub const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Pause before a peer looks again whether the cluster knows where it is reached and what it speaks.
pub const ANNOUNCE_PAUSE: Duration = Duration::from_millis(500);
/// How long the leader holds a report that brings no news: the heartbeat of nodes, a tenth of a short lease.
pub const REPORT_HOLD: Duration = Duration::from_millis(1_000);
/// A report's answer beyond its hold: covers a commit with slow disks.
pub const REPORT_DEADLINE: Duration = Duration::from_millis(2_500);
/// A node silent for this long gets no new work (three missed reports).
pub const CONTACT_MS: u64 = 3_500;
/// How often the leader looks for leases that ran out.
pub const EXPIRY_TICK: Duration = Duration::from_millis(200);
/// A handshake with a peer; shorter than an operator's patience, longer than any handshake on a busy machine.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Wait for a quorum's confirmation of leadership.
pub const BARRIER_DEADLINE: Duration = Duration::from_secs(2);
/// How long a peer whose log failed may take to let go of its watchdog, its log and its connections. It has promised
/// nothing that it could still keep: attempts go on under the watchdog, the others elect, an operator waits for the end.
pub const STOP_AFTER_FAILURE: Duration = Duration::from_secs(3);
/// Longest that one wait request is held open (clients ask again).
pub const WAIT_MOST: Duration = Duration::from_secs(30);
/// Tasks that requests wait for at one peer, each counted for every request: about 100 bytes each.
pub const WAITED_TASKS: usize = 500_000;
/// Bytes of log read at once.
pub const LOG_CHUNK_BYTES: usize = 256 * 1024;
/// How long a log read waits for new bytes while following.
pub const LOG_WAIT: Duration = Duration::from_secs(5);
/// When a followed log is looked at again after nothing was there, at first: what is short ends soon.
pub const LOG_FIRST_POLL: Duration = Duration::from_millis(1);
/// How often a followed log is looked at in the long run; a slow reader never slows a task.
pub const LOG_POLL: Duration = Duration::from_millis(40);
/// Bytes of a blob that one call between peers carries: large enough for the wire, small enough for a window of them.
pub const BLOB_CHUNK_BYTES: usize = 512 * 1024;
/// Chunks of one blob on their way at a time: hides the way there and back, and bounds memory.
pub const CHUNKS_IN_FLIGHT: usize = 4;
/// One chunk: a slow disk and a slow network, and soon enough for another peer to be asked.
pub const CHUNK_DEADLINE: Duration = Duration::from_secs(10);
/// Parts of a blob that wait for the disk; beyond it the sender waits.
pub const PARTS_AHEAD: usize = 2;
/// Bytes written between two looks at the free space of the disk: far less than its reserve.
pub const MEASURE_DISK_BYTES: u64 = 64 * 1024 * 1024;
/// Blobs that clients send to one peer at a time.
pub const UPLOADS: usize = 8;
/// Blobs that one peer fetches at a time.
pub const PULLS: usize = 4;
/// A peer that is asked to fetch a blob has this long, and longer by its size at the slowest rate that is waited for.
pub const OFFER_DEADLINE: Duration = Duration::from_secs(60);
pub const SLOWEST_COPY_BYTES_PER_S: u64 = 4 * 1024 * 1024;
/// How often a peer looks after the bytes of the cluster while it leads.
pub const BLOB_ROUND: Duration = Duration::from_secs(1);
/// How often a peer looks whether it has the bytes that it should have.
pub const BLOB_AUDIT: Duration = Duration::from_secs(30);
/// Blobs that get another copy in one round: healing goes on beside the work.
pub const HEALED_A_ROUND: usize = 4;
/// Bytes that a client may have on their way on one stream.
pub const UPLOAD_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// How long a client may pause in the middle of an upload.
pub const UPLOAD_PAUSE: Duration = Duration::from_secs(60);
/// Rows of one page of images at most.
pub const IMAGES_PAGE: usize = 1_000;
/// Files, folders and links of one image: a large distribution has some 300,000.
pub const IMAGE_ENTRIES: u64 = 2_000_000;
/// Bytes that one of them takes in an archive beside its content: a header, its padding, and a long name.
pub const IMAGE_HEADER_BYTES: u64 = 2 * 1024;
/// Bytes of headers, long names and attributes of one entry of an archive, all of which are read into memory: the kernel
/// allows 64 KiB of attributes of a kind, and the map of a sparse file takes 512 bytes for 21 pieces.
pub const IMAGE_RECORDS_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes from which on the kernel takes no path and no target of a link.
pub const IMAGE_PATH_BYTES: usize = 4096;
/// Memory for the names of an archive in layers while its own few are looked for.
pub const IMAGE_NAMES_BYTES: usize = 64 * 1024 * 1024;
/// Memory that one of them costs beside its letters.
pub const IMAGE_NAME_COSTS: usize = 64;
/// Memory for unpacking one zstd layer, as a power of two: 128 MiB, the most that zstd itself asks for unless told.
pub const ZSTD_WINDOW_LOG: u32 = 27;
/// Links followed on the way to one path, as the kernel does.
pub const LINKS_FOLLOWED: u32 = 40;
/// Layers of one image: Docker has 127 at most.
pub const IMAGE_LAYERS: usize = 512;
/// Bytes of a description inside an image (manifest, configuration).
pub const IMAGE_JSON_BYTES: u64 = 8 * 1024 * 1024;
/// How often unpacked images that nobody uses are looked for.
pub const IMAGE_CACHE_ROUND: Duration = Duration::from_secs(5);
/// Ends of one report: the rest goes with the next.
pub const ENDS_PER_REPORT: usize = 1_024;
/// Bytes of the ends of one report: they become one command, which shares a log entry with others.
pub const END_BYTES_PER_REPORT: usize = 256 * 1024;
/// Launches in one answer to a report: the rest goes with the next.
pub const LAUNCHES_PER_ORDERS: usize = 512;
/// Voters of a cluster at most; further peers join as learners.
pub const VOTERS: usize = 7;
/// A wall clock that goes otherwise than boot time by more than this between two looks was set: twice what an entry may
/// carry time ahead, and more than a leap second.
pub const CLOCK_STEP_MS: u64 = 2_000;
/// How long a leader waits until another one leads: an election.
pub const HAND_OVER: Duration = Duration::from_secs(1);
/// Pause before a leader whose wall clock was set tries again to hand over, in milliseconds.
pub const HAND_OVER_PAUSE_MS: u64 = 5_000;
/// State time may run ahead of elapsed boot time by this much an entry, in milliseconds
/// (docs/internals/leases.md#cluster-time).
pub const TIME_JUMP_MS: u64 = 1_000;
