//! What is wanted of a monitor: by the watchdog, as its signals say, or by the end of the lease, of which nobody tells.

use std::future::Future;
use std::os::fd::OwnedFd;

use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::{BootMs, LeaseId};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::log::log;
use crate::sys::{self, StatusSlot};

/// What is wanted of a monitor, the later the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    Run,
    Term,
    Kill,
    /// The lease is over, and the watchdog has not said so: it is stopped, frozen or starved.
    LeaseOver,
}

/// Does `work` for an attempt in a loop of its own, told what is wanted meanwhile; an exit code. `slot`: where its deadline
/// stands.
pub fn in_loop<F: Future<Output = ()>>(
    lease: LeaseId,
    slot: Option<&'static StatusSlot>,
    work: impl FnOnce(watch::Receiver<StopLevel>) -> F,
) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let signals = sys::awaitable(sys::signal_fd(&[libc::SIGTERM, libc::SIGUSR1])?)?;
            let (stop_sender, stop_level) = watch::channel(StopLevel::Run);
            let listening = tokio::spawn(listen(signals, stop_sender.clone()));
            let timer = sys::awaitable(sys::boot_timer()?)?;
            let watching = slot.map(|slot| tokio::spawn(watch_lease(timer, slot, stop_sender)));
            work(stop_level).await;
            listening.abort();
            watching.inspect(JoinHandle::abort);
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
            raise(&stop_sender, stop_level);
        }
        ready.clear_ready();
    }
}

fn raise(stop_sender: &watch::Sender<StopLevel>, stop_level: StopLevel) {
    stop_sender.send_if_modified(|now| std::mem::replace(now, stop_level.max(*now)) < stop_level);
}

/// Looks at the deadline when the one that is known has come: renewals cost nothing.
async fn watch_lease(
    timer: AsyncFd<OwnedFd>,
    slot: &'static StatusSlot,
    stop_sender: watch::Sender<StopLevel>,
) {
    loop {
        let dead_by = BootMs(slot.dead_by.load(SeqCst));
        if dead_by.0 > 0 && sys::boot_now() >= dead_by {
            return raise(&stop_sender, StopLevel::LeaseOver);
        }
        let set = sys::set_timer(timer.get_ref(), Some(dead_by).filter(|at| at.0 > 0));
        let (Ok(()), Ok(mut ready)) = (set, timer.readable().await) else { return };
        sys::drain(timer.get_ref());
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
