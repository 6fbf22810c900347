//! Bounds of a node's queues, messages and waits, each with its unit and its reason.

use std::time::Duration;

pub use stint_protocol::limits::CLOCK_DRIFT_PERCENT;

/// Bytes of one message between peers: a full log entry, a snapshot chunk, with room for framing.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of requests of one peer that are on their way to this one on one connection: a fast network with a long way.
pub const REQUESTS_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// The same of answers.
pub const ANSWERS_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Calls of one peer at a time: a follower's requests for output are held for seconds each.
pub const CALLS_OF_A_PEER: u32 = 4_096;
/// Bytes of those calls, requests and answers: a hundred of the largest submits at once.
pub const CALL_BYTES_OF_A_PEER: usize = 256 * 1024 * 1024;
/// Connections with one peer's certificate: it needs two for each address that it knows this one by, and after a restart those of before
/// linger. The oldest goes.
pub const CONNECTIONS_OF_A_PEER: usize = 16;
/// How long a request may take to be here, and an answer to be taken: longer than any caller waits for one message.
pub const TRANSFER_DEADLINE: Duration = Duration::from_secs(30);
/// Connections whose caller has not shown a peer's certificate: handshakes and those that want to join. Enough for a thousand nodes that
/// find a new leader at the same moment; each takes some 50 KB.
pub const STRANGERS: usize = 1_024;
/// Those from one address: all peers of a test on one machine, and next to nothing of this one's memory.
pub const STRANGERS_OF_A_SOURCE: usize = 64;
/// From so many on, an address has to show that it is one (QUIC Retry), which takes a handshake one way there and back longer.
pub const STRANGERS_WITHOUT_RETRY: usize = 32;
/// How long a stranger has for its handshake and its question.
pub const STRANGER_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may wait for the answer: who joins waits no longer.
pub const STRANGER_ANSWER: Duration = Duration::from_secs(12);
/// Bytes that a stranger may ask with: a request to join has about 300.
pub const STRANGER_BYTES: usize = 4 * 1024;
/// First packets that nobody has looked at yet, and their bytes each and in all: each is looked at once it is here.
pub const INCOMING: usize = 1_024;
pub const INCOMING_BYTES: u64 = 64 * 1024;
pub const INCOMING_BYTES_IN_ALL: u64 = 8 * 1024 * 1024;
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
/// How often a peer looks whether its certificate is to be renewed and what becomes of the authority's key: a few comparisons.
pub const CERTIFICATE_LOOK: Duration = Duration::from_millis(500);
/// How often a peer that misses a leader asks others which authority the cluster has by now.
pub const AUTHORITY_QUESTION: Duration = Duration::from_secs(5);
/// How long a leader hears nothing of members without a certificate of the new authority before it counts them as away.
pub const AUTHORITY_PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits at most before it tries again what failed.
pub const CERTIFICATE_RETRY: Duration = Duration::from_secs(30);
/// One question for another certificate: who is asked may have to pass it on.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(8);
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
/// How often a long answer looks whether the token that asked for it is still valid.
pub const TOKEN_LOOK: Duration = Duration::from_secs(1);
/// Nodes of a cluster whose plans are made beside the node's other work: 10,000 take up to 0.3 s (docs/benchmarks.md), 500
/// some milliseconds.
pub const MANY_NODES: usize = 500;
/// How long a report that brings no news is held at least, however short leases are: nodes report ten times a second at most.
pub const LEAST_HOLD_MS: u64 = 100;
/// How long an attempt's program may take to begin before its node tells that it has not: most take some milliseconds.
pub const BEGIN_SOON_MS: u64 = 250;
/// Attempts whose programs have not begun that a leader names at once: 24 bytes each, a third of a message.
pub const NOT_BEGUN: usize = 100_000;
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
/// How long a peer whose log failed, or that is no member any more, may take to let go of its watchdog, its log and its
/// connections. It has promised nothing that it could still keep: attempts go on under the watchdog, the others elect, an operator waits for the end.
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
/// Nodes that may join with one join token at most: each is remembered in the state until the token is over.
pub const TOKEN_USES: u32 = 1_000;
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
/// Connections of each front at most: clients that wait hold one each. And the share of this process's open files that they
/// may be: half in all, so that the log, images and outputs have the other half.
pub const SOCKET_CONNECTIONS: FrontConnections = FrontConnections { most: 4_096, sixteenths: 3 };
pub const API_CONNECTIONS: FrontConnections = FrontConnections { most: 2_048, sixteenths: 3 };
pub const HTTP_CONNECTIONS: FrontConnections = FrontConnections { most: 256, sixteenths: 2 };
/// A user has no more than one in so many of the connections that the group's socket takes.
pub const USERS_SHARE: usize = 4;
/// Connections of a front that are being closed while others are taken already.
pub const CLOSING_CONNECTIONS: usize = 16;
/// Open files below which a peer says that its fronts have few connections.
pub const FEW_OPEN_FILES: u64 = 4_096;
/// Size of one file of the audit log, and how many older ones are kept: 80 MiB in all.
pub const AUDIT_FILE_BYTES: u64 = 16 * 1024 * 1024;
pub const AUDIT_FILES: u32 = 4;
/// Audit lines that wait for the disk; further ones are counted as missing.
pub const AUDIT_LINES_AHEAD: usize = 4_096;
/// Refusals of each kind that get audit lines of their own, each second.
pub const AUDIT_REFUSALS: u32 = 20;
/// How long a client may take from connecting to its first request, handshake included.
pub const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Bytes that a client may send until a request of it is let in: more than it can send ahead of an answer (the windows of an
/// upload), so that no known caller meets it.
pub const FIRST_REQUEST_BYTES: usize = 4 * UPLOAD_WINDOW_BYTES as usize;
/// How long a TLS handshake may take.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a client of HTTP may take for a request, and for taking the answer; answers come within seconds.
pub const HTTP_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of one request over HTTP: a line and headers, and no body.
pub const HTTP_REQUEST_BYTES: usize = 64 * 1024;
/// Requests of one gRPC connection at a time; a client waits with further ones.
pub const REQUESTS_OF_A_CONNECTION: u32 = 1_024;
/// Silence on a gRPC connection over TCP before it is probed, and how long the probe may take: longer than a client's own.
pub const CLIENT_PROBE: Duration = Duration::from_secs(30);
pub const CLIENT_PROBE_ANSWER: Duration = Duration::from_secs(20);
/// Pause before a front that could not take a connection tries again: no descriptor is free, say.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a front that is full says so.
pub const FULL_FRONT_LINE: Duration = Duration::from_secs(10);

/// How long a report waits for what attempts wrote that have just ended: reading it takes less than a millisecond. Later it goes without
/// those ends.
pub const ENDING_WAIT: Duration = Duration::from_millis(50);
/// How long an end waits for it, before it is reported without: a disk, or the folder of Slurm's nodes, hangs.
pub const ENDING_READ: Duration = Duration::from_secs(5);
/// Attempts whose output is read at once for it.
pub const ENDING_READERS: usize = 8;
/// Bytes of endings in one message between peers, about.
pub const ENDINGS_CHUNK_BYTES: usize = 256 * 1024;
/// Pause before endings that are lacking are asked for again.
pub const ENDINGS_RETRY: Duration = Duration::from_secs(10);
/// Distance of two looks for endings of tasks that are forgotten.
pub const ENDINGS_SWEEP: Duration = Duration::from_secs(3_600);
/// Longest pause before that.
pub const ENDINGS_LONGEST_RETRY: Duration = Duration::from_secs(3_600);
/// How long another peer has to give one ending.
pub const ENDING_ASK: Duration = Duration::from_millis(500);
/// How many other peers are asked for one that this peer lacks, and how many of them at once.
pub const ENDING_ASKED: usize = 16;
pub const ENDING_ASKED_AT_ONCE: usize = 4;
/// After how long somebody first looks whether the node that is asked for output still is there, and the distance of further looks.
pub const THERE_FIRST_LOOK: Duration = Duration::from_millis(20);
pub const THERE_LOOK: Duration = Duration::from_millis(100);

/// How many connections a front may have.
#[derive(Clone, Copy, Debug)]
pub struct FrontConnections {
    most: usize,
    sixteenths: u64,
}

impl FrontConnections {
    /// With so many files that this process may have open.
    pub fn within(self, open_files: u64) -> usize {
        let share = open_files / 16 * self.sixteenths;
        self.most.min(usize::try_from(share).unwrap_or(usize::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts_leave_half_of_the_open_files() {
        let fronts = [SOCKET_CONNECTIONS, API_CONNECTIONS, HTTP_CONNECTIONS];
        for files in [256, 1_024, 20_000, 1 << 20] {
            let all: usize = fronts.iter().map(|front| front.within(files)).sum();
            assert!(all as u64 <= files / 2, "{all} of {files}");
        }
        assert!(fronts.iter().all(|front| front.within(1 << 20) == front.most));
        assert_eq!(fronts.map(|front| front.within(1_024)), [192, 192, 128]);
    }
}
