//! Signals that ask a command to end. Those that it was started without stay so, as `nohup` and shells want it.

use std::future::poll_fn;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(SignalKind);

impl Asked {
    /// Only to go away: the terminal was closed, or the user pressed Ctrl-\. Otherwise what was begun is to end.
    pub fn leaves(self) -> bool {
        self.0 == SignalKind::hangup() || self.0 == SignalKind::quit()
    }

    /// As shells say that a signal ended a program.
    pub fn exit_code(self) -> u8 {
        u8::try_from(128 + self.0.as_raw_value()).unwrap_or(u8::MAX)
    }
}

/// The signals that are waited for.
pub struct Signals(Vec<(SignalKind, Signal)>);

impl Signals {
    pub fn listen() -> Result<Self, Failure> {
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
        let all =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        let heeded = all.into_iter().filter(|kind| ignored >> (kind.as_raw_value() - 1) & 1 == 0);
        let listen = |kind| Ok((kind, signal(kind).map_err(Failure::Start)?));
        heeded.map(listen).collect::<Result<_, Failure>>().map(Self)
    }

    /// The next one; never ends when there is none.
    pub async fn next(&mut self) -> Asked {
        poll_fn(|context| {
            let came = self
                .0
                .iter_mut()
                .find_map(|(kind, signal)| signal.poll_recv(context).is_ready().then_some(Asked(*kind)));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// One bit for each signal that this process ignores, the first for signal 1.
fn ignored(status: &str) -> u64 {
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    digits.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_is_ignored() {
        assert_eq!(ignored("Name:\tstint\nSigBlk:\t0000000000000003\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored("Name:\tstint\n"), 0);
    }

    #[test]
    fn a_closed_terminal_only_leaves_and_ctrl_c_ends() {
        let of = |kind| (Asked(kind).leaves(), Asked(kind).exit_code());
        assert_eq!(of(SignalKind::interrupt()), (false, 130));
        assert_eq!(of(SignalKind::terminate()), (false, 143));
        assert_eq!(of(SignalKind::hangup()), (true, 129));
        assert_eq!(of(SignalKind::quit()), (true, 131));
    }
}
