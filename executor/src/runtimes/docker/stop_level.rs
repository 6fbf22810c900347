//! What the watchdog wants of a monitor, as its signals say.

use std::future::Future;
use std::os::fd::OwnedFd;

use stint_protocol::LeaseId;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::log::log;
use crate::sys;

/// What the watchdog wants of a monitor, the later the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    Run,
    Term,
    Kill,
}

/// Does `work` for an attempt in a loop of its own, told what the watchdog wants meanwhile; an exit code.
pub fn in_loop<F: Future<Output = ()>>(
    lease: LeaseId,
    work: impl FnOnce(watch::Receiver<StopLevel>) -> F,
) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let signals = sys::awaitable(sys::signal_fd(&[libc::SIGTERM, libc::SIGUSR1])?)?;
            let (stop_sender, stop_level) = watch::channel(StopLevel::Run);
            let listening = tokio::spawn(listen(signals, stop_sender));
            work(stop_level).await;
            listening.abort();
            Ok(())
        })
    });
    match done {
        Ok(()) => 0,
        Err(e) => {
            log!(Monitor, lease, "it cannot go on: {e}");
            1
        }
    }
}

async fn listen(signals: AsyncFd<OwnedFd>, stop_sender: watch::Sender<StopLevel>) {
    while let Ok(mut ready) = signals.readable().await {
        for signal in sys::take_signals(signals.get_ref()) {
            let stop_level = if signal == libc::SIGTERM { StopLevel::Term } else { StopLevel::Kill };
            stop_sender.send_if_modified(|now| std::mem::replace(now, stop_level.max(*now)) < stop_level);
        }
        ready.clear_ready();
    }
}

/// Returns when at least this is wished.
pub async fn at_least(stop_level: &watch::Receiver<StopLevel>, least: StopLevel) {
    let mut stop_level = stop_level.clone();
    if stop_level.wait_for(|now| *now >= least).await.is_err() {
        std::future::pending::<()>().await;
    }
}
