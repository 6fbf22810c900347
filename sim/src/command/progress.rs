//! How far a campaign is, on stderr: one line that changes on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use stint_sdk::units;

use crate::command::state::State;
use crate::command::stopwatch::Stopwatch;

/// Between two lines where they stay.
const PLAIN_EVERY: Duration = Duration::from_secs(30);
/// Between two changes of a line on a terminal.
const TERMINAL_EVERY: Duration = Duration::from_millis(300);

/// Tells how far it is.
pub struct Progress {
    began: Stopwatch,
    done_before: u64,
    seeds: u64,
    terminal: bool,
    last_shown: Stopwatch,
    shown: bool,
}

impl Progress {
    /// Of a campaign that begins or goes on now.
    pub fn new(seeds: u64, state: &State) -> Self {
        let (began, terminal) = (Stopwatch::start(), std::io::stderr().is_terminal());
        Self { began, done_before: state.done, seeds, terminal, last_shown: began, shown: false }
    }

    /// Real time since this run began.
    pub fn spent(&self) -> Duration {
        self.began.elapsed()
    }

    /// Another seed is done.
    pub fn step(&mut self, state: &State) {
        let every = if self.terminal { TERMINAL_EVERY } else { PLAIN_EVERY };
        if self.last_shown.elapsed() < every {
            return;
        }
        self.last_shown = Stopwatch::start();
        let line = self.line(state);
        if self.terminal {
            self.shown = true;
            eprint!("\r\x1b[2K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Takes the changing line away, so that something else can be said.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[2K");
        }
    }

    fn line(&self, state: &State) -> String {
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        let rate = (state.done - self.done_before) as f64 / minutes.max(0.001);
        format!(
            "{} of {} seeds, {rate:.0} a minute, {} simulated, {} bad",
            state.done,
            self.seeds,
            hours(state.simulated_ms),
            state.bad.len()
        )
    }
}

/// Simulated time in words.
pub fn hours(ms: u64) -> String {
    if ms >= 3_600_000 { format!("{:.1} h", ms as f64 / 3.6e6) } else { units::show_duration(ms) }
}
