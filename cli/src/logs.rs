//! What a node says on stderr: events of its crates, and the words of the command itself, in one format.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use stint_node::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::failure::Failure;

/// Set once logs are JSON: what is read by a program has no line that is not.
static IN_JSON: AtomicBool = AtomicBool::new(false);

/// Why a filter cannot be used; none: it can.
pub fn problem_of(filter: &str) -> Option<String> {
    let wrong = EnvFilter::try_new(filter).err()?;
    Some(format!("{filter:?}: {wrong}; write for example info or info,stint::task=debug"))
}

/// From now on events go to stderr.
pub fn start(config: &LogConfig) -> Result<(), Failure> {
    let refuse =
        |_| Failure::Usage(format!("log.filter: {}", problem_of(&config.filter).unwrap_or_default()));
    let filter = EnvFilter::try_new(&config.filter).map_err(refuse)?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
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

/// Writes words of the command as a line of the log. A closed stderr is nobody to tell it to.
pub fn write(level: Level, words: &str) {
    let line =
        if IN_JSON.load(Ordering::Relaxed) { object_of(level, words) } else { format!("stint: {words}") };
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn object_of(level: Level, words: &str) -> String {
    let level = match level {
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    };
    let mut now = String::new();
    // A clock that cannot be written leaves the line without a time.
    let _ = SystemTime.format_time(&mut Writer::new(&mut now));
    let line = serde_json::json!({ "timestamp": now, "level": level, "message": words, "target": "stint" });
    line.to_string()
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
    }

    #[test]
    fn words_are_one_object_on_one_line() {
        let line = object_of(Level::Error, "two\nlines and a \"quote\"");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((line.lines().count(), &object["level"]), (1, &"ERROR".into()));
        assert_eq!(object["message"], "two\nlines and a \"quote\"");
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }
}
