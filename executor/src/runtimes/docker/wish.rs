//! What the watchdog wants of a keeper, as its signals say.

use std::future::Future;
use std::os::fd::OwnedFd;

use stint_protocol::LeaseId;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::complain::complain;
use crate::sys;

/// What the watchdog wants of a keeper, the later the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    Run,
    Term,
    Kill,
}

/// Does `work` for an attempt in a loop of its own, told what the watchdog wants meanwhile; an exit code.
pub fn in_loop<F: Future<Output = ()>>(lease: LeaseId, work: impl FnOnce(watch::Receiver<Wish>) -> F) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let signals = sys::awaitable(sys::signal_fd(&[libc::SIGTERM, libc::SIGUSR1])?)?;
            let (wisher, wish) = watch::channel(Wish::Run);
            let listening = tokio::spawn(listen(signals, wisher));
            work(wish).await;
            listening.abort();
            Ok(())
        })
    });
    match done {
        Ok(()) => 0,
        Err(e) => {
            complain!(Keeper, lease, "it cannot go on: {e}");
            1
        }
    }
}

async fn listen(signals: AsyncFd<OwnedFd>, wisher: watch::Sender<Wish>) {
    while let Ok(mut ready) = signals.readable().await {
        for signal in sys::take_signals(signals.get_ref()) {
            let wish = if signal == libc::SIGTERM { Wish::Term } else { Wish::Kill };
            wisher.send_if_modified(|now| std::mem::replace(now, wish.max(*now)) < wish);
        }
        ready.clear_ready();
    }
}

/// Returns when at least this is wished.
pub async fn at_least(wish: &watch::Receiver<Wish>, least: Wish) {
    let mut wish = wish.clone();
    if wish.wait_for(|now| *now >= least).await.is_err() {
        std::future::pending::<()>().await;
    }
}
