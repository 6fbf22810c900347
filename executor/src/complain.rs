//! What the watchdog and its keepers have to say, into the file that is their standard error.

use std::fmt;
use std::io::Write;

/// Writes a line. `eprintln!` would end the process when it cannot be written, as on a full disk, and with the watchdog
/// everything that it holds.
pub fn line(words: fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(format_args!("{words}\n"));
}

macro_rules! complain {
    ($($words:tt)*) => { crate::complain::line(format_args!($($words)*)) };
}

pub(crate) use complain;
