//! What is shown to people: lines and tables, in which no name and no message of others steers the terminal.

use crate::table::Table;

/// Lines and tables, one below the other. All that is put in is escaped, also where a command forgets that others named it.
#[derive(Debug, Default)]
pub struct Text(Vec<Part>);

#[derive(Debug)]
enum Part {
    Line(String),
    Title(String),
    Table(Table),
}

impl Text {
    /// The same with something below it; an empty line is a gap.
    pub fn and(mut self, more: impl Into<Text>) -> Self {
        self.0.extend(more.into().0);
        self
    }

    /// The same with a line that stands out.
    pub fn and_title(mut self, title: &str) -> Self {
        self.0.push(Part::Title(escaped(title)));
        self
    }

    /// As it is written, each line ended.
    pub fn render(&self, color: bool) -> String {
        let part = |part: &Part| match part {
            Part::Title(title) if color => format!("\x1b[1m{title}\x1b[0m\n"),
            Part::Title(line) | Part::Line(line) => format!("{line}\n"),
            Part::Table(table) => table.render(color),
        };
        self.0.iter().map(part).collect()
    }
}

/// One line, whatever is in it.
impl From<&str> for Text {
    fn from(line: &str) -> Self {
        Self(vec![Part::Line(escaped(line))])
    }
}

impl From<String> for Text {
    fn from(line: String) -> Self {
        line.as_str().into()
    }
}

impl From<Table> for Text {
    fn from(table: Table) -> Self {
        Self(vec![Part::Table(table)])
    }
}

impl<T: Into<Text>> FromIterator<T> for Text {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        all.into_iter().fold(Self::default(), Text::and)
    }
}

/// Whether a terminal obeys it, or it hides or reorders what stands beside it: control characters, those of C1 among them,
/// ends of lines, directions of writing, and what is not seen at all.
fn steers(c: char) -> bool {
    let unseen = matches!(c, '\u{200b}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}');
    let directed = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}');
    c.is_control() || unseen || directed || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// A text on one line that steers nothing.
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// A JSON text that steers nothing and means the same. Its own ends of lines stay.
pub fn escaped_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && steers(c) {
            shown.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "a\u{1b}[2J\u{9b}2J\u{7f}\r\nstint: t-1 succeeded\t\u{202e}b\u{2066}\u{200b}\u{e0041}";

    #[test]
    fn what_steers_a_terminal_is_shown_and_the_rest_stays() {
        let shown = r"a\u{1b}[2J\u{9b}2J\u{7f}\r\nstint: t-1 succeeded\t\u{202e}b\u{2066}\u{200b}\u{e0041}";
        assert_eq!(escaped(HOSTILE), shown);
        // A mark of an accent, a joined emoji, other scripts, and what an escape looks like.
        let plain = "e\u{301} 👩\u{200d}🚀 データ نام \\u{1b} 'x' \"y\"";
        assert_eq!(escaped(plain), plain);
    }

    #[test]
    fn lines_titles_and_cells_are_escaped() {
        let mut table = Table::pairs();
        table.pair("name", HOSTILE);
        let text = Text::from(HOSTILE).and("").and_title(HOSTILE).and(table);
        let (plain, colored) = (text.render(false), text.render(true));
        assert_eq!(plain.lines().count(), 4, "{plain}");
        assert!(!plain.chars().any(|c| c != '\n' && steers(c)), "{plain:?}");
        let own = ["\x1b[0m", "\x1b[1m", "\x1b[2m"];
        let left = own.iter().fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(left, plain, "no color but its own");
    }

    #[test]
    fn json_means_the_same() {
        let json = serde_json::to_string_pretty(&[HOSTILE]).unwrap();
        let shown = escaped_json(&json);
        assert!(!shown.chars().any(|c| c != '\n' && steers(c)), "{shown:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [HOSTILE]);
    }
}
