//! Columns for people: as wide as their widest cell, two spaces apart, nothing cut off.

use crate::text::escaped;

/// Rows under a header, or pairs without one.
#[derive(Clone, Debug, Default)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A text and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

/// What a word means to the reader; shown as a color on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Good => Some("32"),
            Tone::Busy => Some("36"),
            Tone::Bad => Some("31"),
            Tone::Faint => Some("2"),
        }
    }
}

impl Cell {
    /// A cell with a tone; an empty text is shown as `-`, and what would steer a terminal as its number.
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        let text = escaped(&text.into());
        Self { text: if text.is_empty() { "-".into() } else { text }, tone }
    }

    fn painted(&self, color: bool) -> String {
        match self.tone.code().filter(|_| color) {
            Some(code) => format!("\x1b[{code}m{}\x1b[0m", self.text),
            None => self.text.clone(),
        }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::new(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::new(text, Tone::Plain)
    }
}

impl Table {
    /// A table with these column names.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Pairs of a name and a value.
    pub fn pairs() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) -> &mut Self {
        self.rows.push(cells);
        self
    }

    /// Adds a named value, unless it is empty.
    pub fn pair(&mut self, name: &str, value: impl Into<Cell>) -> &mut Self {
        let value = value.into();
        if value.text != "-" {
            self.rows.push(vec![Cell::new(name, Tone::Faint), value]);
        }
        self
    }

    /// The table as text, each line ended.
    pub fn render(&self, color: bool) -> String {
        let header: Vec<Cell> = self.header.iter().map(|name| Cell::new(*name, Tone::Faint)).collect();
        let lines = || std::iter::once(&header).chain(&self.rows).filter(|row| !row.is_empty());
        let columns = lines().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| lines().filter_map(|row| row.get(column)).map(Cell::width).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        lines().map(|row| line(row, &widths, color)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize], color: bool) -> String {
    let mut text = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        text.push_str(&cell.painted(color));
        if index + 1 < row.len() {
            text.push_str(&" ".repeat(width - cell.width() + 2));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut table = Table::new(&["ID", "STATE"]);
        table.row(vec!["a".into(), Cell::new("running", Tone::Busy)]);
        table.row(vec!["long-id".into(), "".into()]);
        assert_eq!(table.render(false), "ID       STATE\na        running\nlong-id  -\n");
    }

    #[test]
    fn color_does_not_count_as_width() {
        let mut table = Table::pairs();
        table.pair("state", Cell::new("failed", Tone::Bad)).pair("nothing", "");
        assert_eq!(table.render(true), "\x1b[2mstate\x1b[0m  \x1b[31mfailed\x1b[0m\n");
    }
}
