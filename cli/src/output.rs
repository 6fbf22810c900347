//! Where words go: data to stdout in the format asked for, talk to stderr.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::logs::{self, Level};
use crate::table::Table;

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

    /// Shows `json`, or `table` for people, or `ids` alone.
    pub fn show(
        &self,
        json: &impl Serialize,
        ids: impl IntoIterator<Item = String>,
        table: impl FnOnce() -> Table,
    ) -> std::io::Result<()> {
        self.show_text(json, ids, || table().render(self.color))
    }

    /// As `show`, with the text for people already laid out.
    pub fn show_text(
        &self,
        json: &impl Serialize,
        ids: impl IntoIterator<Item = String>,
        text: impl FnOnce() -> String,
    ) -> std::io::Result<()> {
        match self.format {
            Format::Json => print(&(serde_json::to_string_pretty(json)? + "\n")),
            Format::Quiet => print(&ids.into_iter().map(|id| id + "\n").collect::<String>()),
            Format::Table => print(&text()),
        }
    }
}

/// Writes to stdout; unlike `print!` it reports a closed pipe instead of panicking.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says something to the user.
pub fn talk(line: &str) {
    logs::write(Level::Info, line);
}
