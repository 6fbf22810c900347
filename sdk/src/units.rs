//! Amounts as people write them: "15m", "512MiB", "1.5" cores. Shared by the command line and the configuration.

use std::time::Duration;

/// A text that is no amount; says what one looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {problem}")]
pub struct InvalidAmount {
    text: String,
    what: &'static str,
    problem: String,
}

const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads "90s", "1h30m", "1.5h", "250ms" or "0".
pub fn parse_duration(text: &str) -> Result<Duration, InvalidAmount> {
    let wrong = |problem: &str| InvalidAmount {
        text: text.into(),
        what: "duration",
        problem: format!("{problem}; write for example \"90s\", \"15m\" or \"1h30m\""),
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong("it is empty"));
    }
    let mut total_ms = 0u64;
    while !rest.is_empty() {
        let (number, unit, tail) = next_part(rest).ok_or_else(|| wrong("a number is missing"))?;
        let scale = find(DURATIONS, unit).ok_or_else(|| {
            wrong(if unit.is_empty() { "its unit is missing (ms, s, m, h, d)" } else { "unknown unit" })
        })?;
        let part = scaled(number, scale).ok_or_else(|| wrong("the number cannot be read or is too large"))?;
        total_ms = total_ms.checked_add(part).ok_or_else(|| wrong("it is too long"))?;
        rest = tail;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Reads "512MiB", "1.5 GB", "2G" and "2Gi" (= GiB), or plain bytes.
pub fn parse_bytes(text: &str) -> Result<u64, InvalidAmount> {
    let wrong = |problem: &str| InvalidAmount {
        text: text.into(),
        what: "amount of memory",
        problem: format!("{problem}; write for example \"512MiB\" or \"8GiB\""),
    };
    let (number, unit, tail) = next_part(text.trim()).ok_or_else(|| wrong("a number is missing"))?;
    let scale = byte_unit(unit).ok_or_else(|| wrong("unknown unit"))?;
    if !tail.is_empty() {
        return Err(wrong("something follows the unit"));
    }
    scaled(number, scale).ok_or_else(|| wrong("the number cannot be read or is too large"))
}

/// Reads a number of cores ("2", "0.5") into thousandths.
pub fn parse_cpus(text: &str) -> Result<u64, InvalidAmount> {
    let wrong = |problem: &str| InvalidAmount {
        text: text.into(),
        what: "number of cores",
        problem: format!("{problem}; write for example \"2\" or \"0.5\""),
    };
    let cores: f64 = text.trim().parse().map_err(|_| wrong("it cannot be read"))?;
    cpus_to_milli(cores).ok_or_else(|| wrong("it must be from 0.001 to 1000000"))
}

/// Cores to thousandths of a core; none when out of range.
pub fn cpus_to_milli(cores: f64) -> Option<u64> {
    (0.001..=1_000_000.0).contains(&cores).then(|| (cores * 1000.0).round() as u64)
}

/// "1h30m", "45s", "1.2s", "250ms": two units at most, for people.
pub fn show_duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..10 if ms % 1000 >= 100 => format!("{seconds}.{}s", ms % 1000 / 100),
        1..60 => format!("{seconds}s"),
        60..3600 => pair(seconds, 60, "m", 1, "s"),
        3600..86_400 => pair(seconds, 3600, "h", 60, "m"),
        _ => pair(seconds, 86_400, "d", 3600, "h"),
    }
}

/// The shortest text that `parse_duration` reads back exactly.
pub fn exact_duration(ms: u64) -> String {
    let whole = DURATIONS.iter().rev().find(|(_, scale)| ms.is_multiple_of(*scale));
    match whole {
        Some((unit, scale)) if ms > 0 => format!("{}{unit}", ms / scale),
        _ => "0".into(),
    }
}

/// "512MiB", "1.5GiB": one decimal, for people.
pub fn show_bytes(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, scale)| bytes >= *scale) {
        None => format!("{bytes}B"),
        Some((unit, scale)) if bytes.is_multiple_of(*scale) => format!("{}{unit}", bytes / scale),
        Some((unit, scale)) => format!("{:.1}{unit}", bytes as f64 / *scale as f64),
    }
}

/// The shortest text that `parse_bytes` reads back exactly.
pub fn exact_bytes(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// "2", "0.5": thousandths of a core as cores.
pub fn show_cpus(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}

fn pair(seconds: u64, large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match seconds % large / small {
        0 => format!("{}{large_unit}", seconds / large),
        rest => format!("{}{large_unit}{rest}{small_unit}", seconds / large),
    }
}

/// A number, its unit and what follows.
fn next_part(text: &str) -> Option<(&str, &str, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_end);
    (!number.is_empty()).then_some((number, unit, tail.trim_start()))
}

/// A bare letter means the binary unit, as in `docker run --memory 512m`.
fn byte_unit(unit: &str) -> Option<u64> {
    match unit {
        "" => Some(1),
        "k" | "K" | "Ki" => Some(1 << 10),
        "m" | "M" | "Mi" => Some(1 << 20),
        "g" | "G" | "Gi" => Some(1 << 30),
        "t" | "T" | "Ti" => Some(1 << 40),
        _ => find(SIZES, unit),
    }
}

fn find(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

fn scaled(number: &str, scale: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let value = number.parse::<f64>().ok()? * scale as f64;
    (value.is_finite() && value < 9.0e15).then(|| value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let cases = [("90s", 90_000), ("1h30m", 5_400_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0)];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text).unwrap().as_millis(), ms, "{text}");
        }
    }

    #[test]
    fn wrong_amounts_say_what_to_write() {
        let cases = [
            (parse_duration("60").unwrap_err(), "unit is missing"),
            (parse_duration("5 parsecs").unwrap_err(), "unknown unit"),
            (parse_duration("").unwrap_err(), "empty"),
            (parse_duration("99999999999999999999d").unwrap_err(), "too large"),
            (parse_bytes("8XB").unwrap_err(), "write for example \"512MiB\""),
            (parse_bytes("much").unwrap_err(), "number is missing"),
            (parse_bytes("1GiB2").unwrap_err(), "follows"),
            (parse_cpus("0").unwrap_err(), "0.001"),
            (parse_cpus("NaN").unwrap_err(), "0.001"),
        ];
        for (error, part) in cases {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let cases = [
            ("512MiB", 512 << 20),
            ("1.5 GiB", 3 << 29),
            ("2G", 2 << 30),
            ("2Gi", 2 << 30),
            ("1kB", 1000),
            ("7", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn exact_texts_read_back() {
        for ms in [0, 1, 999, 1000, 60_000, 90_000, 5_400_000, 86_400_000] {
            assert_eq!(parse_duration(&exact_duration(ms)).unwrap().as_millis() as u64, ms);
        }
        for bytes in [0, 1, 1023, 1024, 512 << 20, (8 << 30) + 1] {
            assert_eq!(parse_bytes(&exact_bytes(bytes)).unwrap(), bytes);
        }
    }

    #[test]
    fn amounts_are_shown_for_people() {
        let shown: Vec<String> =
            [12, 1_234, 12_345, 90_000, 5_400_000, 90_000_000].iter().map(|ms| show_duration(*ms)).collect();
        assert_eq!(shown, ["12ms", "1.2s", "12s", "1m30s", "1h30m", "1d1h"]);
        assert_eq!([show_bytes(100), show_bytes(3 << 29), show_bytes(4 << 30)], ["100B", "1.5GiB", "4GiB"]);
        assert_eq!([show_cpus(2000), show_cpus(500), show_cpus(1250)], ["2", "0.5", "1.25"]);
    }
}
