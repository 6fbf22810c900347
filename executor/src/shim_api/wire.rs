//! What node and watchdog say to each other: frames of `[length u32][CBOR array of messages]` over a unix socket.

use minicbor::{Decode, Encode};
use stint_protocol::{AttemptEnd, BootMs, LeaseId};

use super::request::{AttemptLabels, StartRequest};
use crate::limits;

/// Grows when a message changes its form or its meaning: a node talks only to a watchdog of its own version.
pub const VERSION: u32 = 3;

/// Why a node stops an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum StopReason {
    #[n(0)]
    Cancelled,
    /// The cluster took the lease back.
    #[n(1)]
    LeaseOver,
    #[n(2)]
    Drained,
    /// Its files take too much of the disk.
    #[n(3)]
    DiskExceeded,
}

/// An attempt that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RunningAttempt {
    #[n(0)]
    pub lease: LeaseId,
    #[n(1)]
    pub started: bool,
    #[n(2)]
    pub stopping: bool,
    #[n(3)]
    pub deadline: BootMs,
}

/// An attempt that the watchdog holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WatchedAttempt {
    #[n(0)]
    pub running: RunningAttempt,
    /// The number of the sandbox folder it runs in; none: in its own folder.
    #[n(1)]
    pub sandbox_dir: Option<u32>,
    /// None: an earlier watchdog started it, and what is left of it is being killed.
    #[n(2)]
    pub labels: Option<AttemptLabels>,
}

/// What ends an attempt as a whole on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Sandbox {
    /// Each attempt has its own pid namespace, which dies with its init, which dies with the watchdog.
    #[n(0)]
    PidNamespace,
    /// Each attempt has its own cgroup, which the watchdog empties.
    #[n(1)]
    Cgroup,
    /// Session, process group and adopted children only: good enough for trusted programs, not for class `gpu`.
    #[n(2)]
    None,
}

/// From the node to the watchdog.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToShim {
    #[n(0)]
    Start(#[n(0)] Box<StartRequest>),
    #[n(1)]
    Renew(#[n(0)] LeaseId, #[n(1)] BootMs),
    #[n(2)]
    Stop(#[n(0)] LeaseId, #[n(1)] StopReason),
    #[n(3)]
    Acknowledge(#[n(0)] LeaseId),
    #[n(4)]
    Ping,
    /// The node goes and wants nothing to outlive it: stop everything, leave when empty.
    #[n(5)]
    Leave,
}

/// What the watchdog says first on every connection. In every version the version comes first: see `spoken_version`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub running: Vec<WatchedAttempt>,
    #[n(2)]
    pub ended: Vec<AttemptEnd>,
    #[n(3)]
    pub accounted: bool,
    /// What ends a sandboxed attempt as a whole here.
    #[n(4)]
    pub sandbox: Sandbox,
    #[n(5)]
    pub own_proc: bool,
    /// Memory limits are enforced.
    #[n(6)]
    pub memory_limits: bool,
    #[n(7)]
    pub problems: Vec<String>,
    /// It can shut sandboxed processes in.
    #[n(8)]
    pub jails: bool,
}

/// From the watchdog to the node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromShim {
    #[n(0)]
    Hello(#[n(0)] Hello),
    #[n(1)]
    Started(#[n(0)] LeaseId, #[n(1)] BootMs, #[n(2)] Option<u32>),
    #[n(2)]
    Ended(#[n(0)] AttemptEnd),
    #[n(3)]
    Pong,
}

/// Appends messages to `out` as frames.
pub fn put_frames<T: Encode<()>>(out: &mut Vec<u8>, messages: &[T]) {
    let mut rest = messages.iter().peekable();
    while rest.peek().is_some() {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut encoder = minicbor::Encoder::new(&mut *out);
        let _ = encoder.begin_array();
        while let Some(message) = rest.peek() {
            let _ = encoder.encode(message);
            rest.next();
            if encoder.writer().len() - start > limits::FRAME_TARGET_BYTES {
                break;
            }
        }
        let _ = encoder.end();
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Why bytes are not a frame of ours.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is over the limit")]
    TooLong(usize),
    #[error("the watchdog did not begin with a greeting")]
    NoGreeting,
    #[error("a frame does not decode: {0}")]
    Malformed(#[from] minicbor::decode::Error),
}

/// The version that a watchdog speaks, by the first frame that it sent; none: that is not here yet. Whatever follows in
/// it may be of a form that nobody here knows: every version's begins with `[[0, [[version, …`.
pub fn spoken_version(bytes: &[u8]) -> Result<Option<u32>, FrameError> {
    let Some(head) = bytes.get(..4).and_then(|head| <[u8; 4]>::try_from(head).ok()) else { return Ok(None) };
    let length = u32::from_be_bytes(head) as usize;
    if length > limits::FRAME_BYTES {
        return Err(FrameError::TooLong(length));
    }
    let Some(frame) = bytes.get(4..4 + length) else { return Ok(None) };
    let mut decoder = minicbor::Decoder::new(frame);
    // The frame's messages and the first of them.
    decoder.array()?;
    decoder.array()?;
    if decoder.u32()? != 0 {
        return Err(FrameError::NoGreeting);
    }
    // What the greeting holds, and its fields.
    decoder.array()?;
    decoder.array()?;
    Ok(Some(decoder.u32()?))
}

/// Takes all whole frames off the front of `bytes`.
pub fn take_frames<T: for<'b> Decode<'b, ()>>(bytes: &mut Vec<u8>) -> Result<Vec<T>, FrameError> {
    let mut messages = Vec::new();
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 4).and_then(|h| <[u8; 4]>::try_from(h).ok()) {
        let length = u32::from_be_bytes(head) as usize;
        if length > limits::FRAME_BYTES {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = bytes.get(at + 4..at + 4 + length) else { break };
        messages.extend(minicbor::decode::<Vec<T>>(body)?);
        at += 4 + length;
    }
    bytes.drain(..at);
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use stint_protocol::TaskId;

    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let messages: Vec<ToShim> = (0..20_000)
            .map(|n| ToShim::Renew(LeaseId { task: TaskId(n), attempt: 1 }, BootMs(n as u64)))
            .collect();
        let mut bytes = Vec::new();
        put_frames(&mut bytes, &messages);
        let (mut inbox, mut got) = (Vec::new(), Vec::new());
        for part in bytes.chunks(7777) {
            inbox.extend_from_slice(part);
            got.extend(take_frames::<ToShim>(&mut inbox).unwrap());
        }
        assert_eq!(got, messages);
        assert!(inbox.is_empty());
    }

    #[test]
    fn the_version_is_read_whatever_form_the_rest_has() {
        let frame = |write: &dyn Fn(&mut minicbor::Encoder<&mut Vec<u8>>)| {
            let mut body = Vec::new();
            write(&mut minicbor::Encoder::new(&mut body));
            [&(body.len() as u32).to_be_bytes()[..], &body].concat()
        };
        // A greeting that holds nothing but its version and a text.
        let strange = frame(&|e| {
            let _ = e.array(1).and_then(|e| e.array(2)?.u32(0)?.array(1)?.array(2)?.u32(99)?.str("strange"));
        });
        assert_eq!(spoken_version(&strange).unwrap(), Some(99));
        assert_eq!(spoken_version(&strange[..strange.len() - 1]).unwrap(), None, "not all of it is here");
        assert_eq!(spoken_version(&[]).unwrap(), None);
        let mut pong = Vec::new();
        put_frames(&mut pong, &[FromShim::Pong]);
        assert!(matches!(spoken_version(&pong), Err(FrameError::NoGreeting)));
    }
}
