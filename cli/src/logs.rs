//! What a node says on stderr: events of its crates, and the words of the command itself, in one format.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use stint_node::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::failure::Failure;
use crate::text::{escaped, escaped_json};

/// Set once logs are JSON: what is read by a program has no line that is not.
static IN_JSON: AtomicBool = AtomicBool::new(false);

/// What events of ours, and of the library that we see most of, begin their targets with.
const TARGETS: [&str; 8] = [
    "stint",
    "stint_cli",
    "stint_executor",
    "stint_node",
    "stint_protocol",
    "stint_raft",
    "stint_sdk",
    "openraft",
];

/// Why a filter cannot be used; none: it can.
pub fn problem_of(filter: &str) -> Option<String> {
    let Err(wrong) = EnvFilter::try_new(filter) else { return misspelt(filter) };
    Some(format!("{filter:?}: {wrong}; write for example info or info,stint::task=debug"))
}

/// A single word is a level, or else a target whose every event is shown: `nfo` would show none, and nothing else
/// either.
fn misspelt(filter: &str) -> Option<String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_target = |word: &str| TARGETS.contains(&word.split("::").next().unwrap_or(word));
    let single = |word: &&str| !word.is_empty() && !word.contains(['=', '[', ']', '{', '}', '"']);
    let message = filter.split(',').map(str::trim).filter(single);
    let wrong = message.into_iter().find(|word| !is_level(word) && !is_target(word))?;
    Some(format!(
        "{wrong:?} is neither a level (off, error, warn, info, debug, trace) nor a target of Stint's; for another \
         target give its level too: {wrong}=debug"
    ))
}

/// From now on events go to stderr.
pub fn start(config: &LogConfig) -> Result<(), Failure> {
    let refuse = |problem| Err(Failure::Usage(format!("log.filter: {problem}")));
    problem_of(&config.filter).map_or(Ok(()), refuse)?;
    let filter = EnvFilter::new(&config.filter);
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say with `eprintln!` that stderr cannot be written, as on a full disk, and that panics.
        .log_internal_errors(false)
        .with_ansi(!no_color && std::io::stderr().is_terminal());
    match config.format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => {
            IN_JSON.store(true, Ordering::Relaxed);
            logs.json().flatten_event(true).with_span_list(false).init();
            std::panic::set_hook(Box::new(|panic| write(Level::Error, &panic.to_string())));
        }
    }
    Ok(())
}

/// How grave the words of the command are.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// Writes words of the command as a line of the log, whatever is in them. A closed stderr is nobody to tell it to.
pub fn write(level: Level, message: &str) {
    write_lines(level, &[message]);
}

/// Writes words of the command that take several lines.
pub fn write_lines(level: Level, lines: &[impl AsRef<str>]) {
    let joined = |shown: fn(&str) -> String| {
        lines.iter().map(|line| shown(line.as_ref())).collect::<Vec<_>>().join("\n")
    };
    let said = match IN_JSON.load(Ordering::Relaxed) {
        true => object_of(level, &joined(str::to_owned)),
        false => format!("stint: {}", joined(escaped)),
    };
    let _ = writeln!(std::io::stderr(), "{said}");
}

fn object_of(level: Level, message: &str) -> String {
    let level = match level {
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    };
    let mut now = String::new();
    // A clock that cannot be written leaves the line without a time.
    let _ = SystemTime.format_time(&mut Writer::new(&mut now));
    let line = serde_json::json!({ "timestamp": now, "level": level, "message": message, "target": "stint" });
    escaped_json(&line.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_used_says_what_can() {
        assert_eq!(problem_of("info,stint::task=debug"), None);
        let problem = problem_of("stint_node=loud").unwrap();
        assert!(
            problem.contains("stint_node=loud") && problem.contains("info,stint::task=debug"),
            "{problem}"
        );
        for fine in [
            "off",
            "WARN",
            "0",
            "info,stint=trace",
            "stint_node,quinn=debug",
            "info,stint::task",
            "[submit{tenant}]=info",
        ] {
            assert_eq!(problem_of(fine), None, "{fine}");
        }
        for wrong in ["nfo", "info,stnt::task", "debg,openraft=error"] {
            let problem = problem_of(wrong).unwrap();
            assert!(problem.contains("off, error, warn, info, debug, trace"), "{problem}");
        }
    }

    #[test]
    fn words_are_one_object_on_one_line() {
        let line = object_of(Level::Error, "two\nlines and a \"quote\"");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((line.lines().count(), &object["level"]), (1, &"ERROR".into()));
        assert_eq!(object["message"], "two\nlines and a \"quote\"");
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(!object_of(Level::Info, "\u{9b}2J\u{202e}").contains(['\u{9b}', '\u{202e}']));
    }
}
