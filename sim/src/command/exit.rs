//! The exit codes, as --help lists them.

use stint_sim::Severity;

/// No rule was broken.
pub const FINE: u8 = 0;
/// A file cannot be read or written, or a process cannot be started.
pub const FAILED: u8 = 1;
/// The command line, a file or a name cannot be understood.
pub const USAGE: u8 = 2;
/// Whoever reads the output closed it: what shells say of a program that SIGPIPE ended. Nothing is known of what is left.
pub const CLOSED_PIPE: u8 = 128 + 13;
/// Something happened that never may.
pub const SAFETY: u8 = Severity::Safety as u8;
/// Something that must happen did not.
pub const LIVENESS: u8 = Severity::Liveness as u8;
/// Two runs of one seed gave different bytes.
pub const NOT_DETERMINISTIC: u8 = 12;
/// A panic, or a process that ended in no way of its own.
pub const CRASH: u8 = Severity::Crash as u8;

/// From bad to good.
const BY_GRAVITY: [u8; 4] = [SAFETY, CRASH, NOT_DETERMINISTIC, LIVENESS];

/// The gravest of many.
pub fn gravest(codes: impl IntoIterator<Item = u8>) -> u8 {
    let rank = |code: &u8| BY_GRAVITY.iter().position(|known| known == code).unwrap_or(BY_GRAVITY.len());
    codes.into_iter().filter(|code| *code != FINE).min_by_key(rank).unwrap_or(FINE)
}

/// What a code means, in a word.
pub fn word(code: u8) -> &'static str {
    match code {
        FINE => "fine",
        SAFETY => "safety",
        LIVENESS => "liveness",
        NOT_DETERMINISTIC => "not deterministic",
        _ => "crash",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_counts() {
        assert_eq!(gravest([]), FINE);
        assert_eq!(gravest([FINE, LIVENESS, SAFETY, CRASH]), SAFETY);
        assert_eq!(gravest([LIVENESS, NOT_DETERMINISTIC]), NOT_DETERMINISTIC);
    }
}
