//! The last stop of an attempt: its own init ends it when its lease is over, though its node and its watchdog are both
//! stopped, frozen or starved. Nothing here allocates, locks or unwinds.

use std::ptr;
use std::sync::atomic::Ordering::SeqCst;

use libc::c_int;

use crate::sys::{StatusSlot, boot_now};

/// A timer of this init. It is set to the deadline that is known, and looks at the slot only when that has come: renewals cost
/// it nothing.
#[derive(Clone, Copy)]
pub(super) struct LeaseTimer {
    id: c_int,
    slot: &'static StatusSlot,
}

impl LeaseTimer {
    /// None: this kernel has no such timer. From here on ALRM is blocked.
    pub(super) fn arm(slot: &'static StatusSlot) -> Option<Self> {
        // By system calls: what the C library does for a timer may allocate.
        // SAFETY: `set`, `event` and `id` are valid; a `sigevent` of zeros is one.
        let id = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGALRM);
            libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = libc::SIGALRM;
            let mut id: c_int = 0;
            let made =
                libc::syscall(libc::SYS_timer_create, libc::CLOCK_BOOTTIME, &raw mut event, &raw mut id);
            if made < 0 {
                return None;
            }
            id
        };
        let timer = Self { id, slot };
        timer.look();
        Some(timer)
    }

    /// Ends the attempt, all of it, when its lease is over: pid 1 takes its namespace with it. Else waits for the deadline as it
    /// is now. No signal could do that: the kernel keeps those of a process's own timer from the first of a namespace.
    pub(super) fn look(self) {
        let dead_by = self.slot.dead_by.load(SeqCst);
        if dead_by == 0 {
            return;
        }
        if boot_now().0 >= dead_by {
            self.slot.ended.store(boot_now().0, SeqCst);
            self.slot.phase.store(5, SeqCst);
            // SAFETY: never returns.
            unsafe { libc::_exit(0) }
        }
        // SAFETY: a structure of integers that lives through the call.
        unsafe {
            let mut time: libc::itimerspec = std::mem::zeroed();
            time.it_value.tv_sec = (dead_by / 1000) as libc::time_t;
            time.it_value.tv_nsec = (dead_by % 1000 * 1_000_000).max(1) as libc::c_long;
            let none = ptr::null_mut::<libc::itimerspec>();
            libc::syscall(libc::SYS_timer_settime, self.id, libc::TIMER_ABSTIME, &raw const time, none);
        }
    }
}

/// Waits for one of these signals, and for the deadline besides.
pub(super) fn wait_for_signal(timer: Option<LeaseTimer>, signals: &[c_int]) -> c_int {
    loop {
        // SAFETY: `set` is initialised before use; all of these signals are blocked here.
        let signal = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
            libc::sigaddset(&mut set, libc::SIGALRM);
            libc::sigwaitinfo(&set, ptr::null_mut())
        };
        match (signal, timer) {
            (libc::SIGALRM, Some(timer)) => timer.look(),
            (libc::SIGALRM, None) => {}
            _ => return signal,
        }
    }
}
