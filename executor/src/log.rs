//! What the watchdog and its monitors have to say, into the file that is their standard error: a line each, with the time
//! and, where it is about an attempt, its lease.

use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stint_protocol::LeaseId;

/// Who speaks.
#[derive(Clone, Copy, Debug)]
pub enum LogSource {
    Watchdog,
    /// Of a Docker container.
    Monitor,
}

impl LogSource {
    fn as_str(self) -> &'static str {
        match self {
            LogSource::Watchdog => "watchdog",
            LogSource::Monitor => "monitor",
        }
    }
}

/// Writes a line. `eprintln!` would end the process when it cannot be written, as on a full disk, and with the watchdog
/// everything that it holds.
pub fn line(who: LogSource, lease: Option<LeaseId>, message: fmt::Arguments<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let _ = std::io::stderr().write_all(written(now, who, lease, message).as_bytes());
}

fn written(now: Duration, who: LogSource, lease: Option<LeaseId>, message: fmt::Arguments<'_>) -> String {
    let about = lease.map(|LeaseId { task, attempt }| format!(" task={task} attempt={attempt}"));
    let (who, pid, about) = (who.as_str(), std::process::id(), about.unwrap_or_default());
    // What others said, such as the Docker daemon, may have several lines.
    let message = message.to_string().replace(['\n', '\r'], " ");
    format!("{} {who} pid={pid}{about}: {message}\n", rfc3339(now))
}

/// A time after 1970 in UTC. No crate: the watchdog has none for it, and leap seconds do not matter here.
fn rfc3339(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let micros = since_1970.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of so many days after 1970-01-01. Years begin in March here, so that the odd day is their last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, of_era) = (days / 146_097, days % 146_097); // 400 years
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// `log!(Watchdog, "message {e}")`, or with the lease that it is about: `log!(Monitor, lease, "message {e}")`.
macro_rules! log {
    ($who:ident, $message:literal $($rest:tt)*) => {
        crate::log::line(crate::log::LogSource::$who, None, format_args!($message $($rest)*))
    };
    ($who:ident, $lease:expr, $message:literal $($rest:tt)*) => {
        crate::log::line(crate::log::LogSource::$who, Some($lease), format_args!($message $($rest)*))
    };
}

pub(crate) use log;

#[cfg(test)]
mod tests {
    use stint_protocol::TaskId;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(rfc3339(Duration::from_micros(1_500_042)), "1970-01-01T00:00:01.500042Z");
    }

    #[test]
    fn each_complaint_is_one_line_with_its_lease() {
        let lease = LeaseId { task: TaskId(7), attempt: 3 };
        let pid = std::process::id();
        let of = |who, lease| written(Duration::ZERO, who, lease, format_args!("a\nb"));
        let expected =
            format!("1970-01-01T00:00:00.000000Z monitor pid={pid} task={} attempt=3: a b\n", lease.task);
        assert_eq!(of(LogSource::Monitor, Some(lease)), expected);
        assert_eq!(
            of(LogSource::Watchdog, None),
            format!("1970-01-01T00:00:00.000000Z watchdog pid={pid}: a b\n")
        );
    }
}
