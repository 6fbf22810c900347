//! What a node says on stderr: events of its crates, and the words of the command itself, in one format.

use std::io::IsTerminal as _;
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
        }
    }
    Ok(())
}

/// Words of the command as a line of the log.
pub fn line_of(words: &str) -> String {
    if !IN_JSON.load(Ordering::Relaxed) {
        return format!("stint: {words}");
    }
    let mut now = String::new();
    // A clock that cannot be written leaves the line without a time.
    let _ = SystemTime.format_time(&mut Writer::new(&mut now));
    let line = serde_json::json!({ "timestamp": now, "level": "INFO", "message": words, "target": "stint" });
    line.to_string()
}
