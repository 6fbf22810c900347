//! Where words go: data to stdout in the format asked for, talk to stderr.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::logs::{self, Level};
use crate::text::{Text, escaped, escaped_json};

/// How data is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one object or array a command; fields are only added.
    Json,
    /// Ids only, one a line.
    Quiet,
}

/// Writes the data of one command.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub format: Format,
    pub color: bool,
}

impl Output {
    /// Colors only on a terminal, and not when `NO_COLOR` is set (no-color.org).
    pub fn new(format: Format) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { format, color: wanted && std::io::stdout().is_terminal() }
    }

    /// Shows `json`, or `text` for people, or `ids` alone.
    pub fn show<T: Into<Text>>(
        &self,
        json: &impl Serialize,
        ids: impl IntoIterator<Item = String>,
        text: impl FnOnce() -> T,
    ) -> std::io::Result<()> {
        match self.format {
            Format::Json => print_json(&(serde_json::to_string_pretty(json)? + "\n")),
            Format::Quiet => print(&ids.into_iter().map(|id| escaped(&id) + "\n").collect::<String>()),
            Format::Table => print_text(text(), self.color),
        }
    }
}

/// Writes lines and tables.
pub fn print_text(text: impl Into<Text>, color: bool) -> std::io::Result<()> {
    print(&text.into().render(color))
}

/// Writes lines of JSON.
pub fn print_json(json: &str) -> std::io::Result<()> {
    print(&escaped_json(json))
}

/// Writes to stdout; unlike `print!` it reports a closed pipe instead of panicking.
fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says something to the user.
pub fn talk(line: &str) {
    logs::write(Level::Info, line);
}

/// Says something that takes several lines.
pub fn talk_lines(lines: &[String]) {
    logs::write_lines(Level::Info, lines);
}
