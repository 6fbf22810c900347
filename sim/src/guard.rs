//! Ends a simulation that stands still: where something runs in a loop without a pause, virtual time never goes on and
//! no rule of the simulation is ever looked at again. The kernel counts processor time, which neither the simulated
//! clocks nor a loaded machine change.

/// Processor time that a piece of virtual time may take, in seconds: a simulated second takes 0.05 s in an optimized
/// build and up to 2 s in a debug one.
pub const LIMIT_S: u64 = 90;

/// The signal that ends such a process.
pub const SIGNAL: i32 = libc::SIGXCPU;

/// Virtual time has gone on: another `LIMIT_S` seconds of processor time are allowed from now on.
#[expect(unsafe_code, reason = "no safe wrapper of these two calls is among the dependencies")]
pub fn allow() {
    // SAFETY: both calls only read or write the plain structures handed to them, which live during the calls.
    unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &raw mut used) != 0
            || libc::getrlimit(libc::RLIMIT_CPU, &raw mut limit) != 0
        {
            return;
        }
        let seconds = used.ru_utime.tv_sec + used.ru_stime.tv_sec;
        let allowed = u64::try_from(seconds).unwrap_or(0) + LIMIT_S;
        // A stricter limit of whoever started this stays.
        limit.rlim_cur = limit.rlim_max.min(allowed);
        let _ = libc::setrlimit(libc::RLIMIT_CPU, &raw const limit);
    }
}
