//! Every bound of the client, with its unit and its reason.

use std::time::Duration;

/// Opening a connection: a peer on the same continent answers within a few round trips.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One try of one call at one address: ten times a slow commit, so that a stuck peer does not eat the whole call.
pub const TRY_TIMEOUT: Duration = Duration::from_secs(10);
/// One call with all its tries: several failovers of the slowest profile (`wan`, about 4 s each).
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Passes over all addresses while a peer answers "not now": with the waits below about 6 s, more than a failover takes.
pub const ROUNDS: u32 = 7;
/// One try at another address once a peer answered from its own copy: a peer with a leader answers sooner.
pub const ASK_ANOTHER: Duration = Duration::from_millis(400);
/// The same once a peer refused for want of a leader: another one may take as long as a slow commit.
pub const ASK_ANOTHER_TO_WRITE: Duration = Duration::from_secs(3);
/// Passes when no address could be reached at all: nobody is there, so say so soon (0.3 s).
pub const ROUNDS_WITHOUT_CONTACT: u32 = 3;
/// First wait between two passes; it doubles each time.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest a server waits in one `Wait` call (stint.proto).
pub const WAIT_PAGE: Duration = Duration::from_secs(30);
/// What one `Wait` may take beyond the wait itself: the way there and back.
pub const WAIT_SLACK: Duration = Duration::from_secs(5);
/// The least time between two `Wait` calls, when a server answers early that nothing is finished.
pub const WAIT_PAUSE: Duration = Duration::from_millis(50);
/// Sending one image, of any size: a slow line's night. A connection that is silent is noticed by keep-alive.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(12 * 3_600);
/// Bytes of one message of an image.
pub const UPLOAD_PART_BYTES: usize = 1024 * 1024;
/// Silence on a connection before it is probed, and how long the probe may take.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Times one log stream is taken up again at another address without a byte of progress between.
pub const LOG_RECONNECTS: u32 = 5;
/// Bytes of one answer: a page of 10,000 tasks with eight attempts each.
pub const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of a message of a peer that is shown in an error.
pub const MESSAGE_BYTES: usize = 4096;
