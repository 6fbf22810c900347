//! Real time. The simulator replaces the clocks of the C library in its whole program, also where nothing is simulated:
//! `std::time::Instant` stands still here. So the kernel is asked by file.

use std::time::Duration;

/// Measures from when it was made, to a hundredth of a second.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Duration);

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        Self(uptime())
    }

    /// Time since then.
    pub fn elapsed(&self) -> Duration {
        uptime().saturating_sub(self.0)
    }
}

/// Since the machine was started; zero where the kernel does not tell.
fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(60));
        let elapsed = watch.elapsed();
        assert!((Duration::from_millis(40)..Duration::from_secs(20)).contains(&elapsed), "{elapsed:?}");
    }
}
