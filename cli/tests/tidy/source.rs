//! The files of this repository, and Rust code without its comments and texts.

use std::path::{Path, PathBuf};

/// Folders that are no part of the repository, or are made by others.
const SKIPPED: &[&str] = &["target", ".git", "fixtures", "stored", "corpus"];
/// What is text, by the end of a file's name; files without a dot are scripts.
const TEXT: &[&str] = &[
    "rs", "md", "toml", "txt", "proto", "py", "service", "html", "css", "js", "Makefile", "prepare", "run",
    "simulate", "slurm", "image", "fuzz",
];

/// One file, with its path from the repository's root.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    /// Whether it is a test and nothing else.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.contains("/tests/") || name.ends_with("_test.rs") || name == "tests.rs"
    }

    /// What it holds before the tests at its end.
    pub fn without_tests(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default()
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

/// Every text file, in order.
pub fn files() -> Vec<File> {
    let root = root();
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry of a folder").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.extend((!SKIPPED.contains(&&*name)).then_some(path));
            } else if TEXT.contains(&name.rsplit('.').next().unwrap_or_default()) {
                let text =
                    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let path = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(found.len() > 400, "the files of the repository were not found");
    found
}

/// The files of Rust among them.
pub fn rust() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// Rust code with a space for each character of comments and texts; lines stay where they are.
pub fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code: String = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_words(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment, text or character that begins here ends; `at` itself when none does.
fn end_of_words(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let next = rest.get(1).copied();
    match rest[0] {
        '/' if next == Some('/') => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        '/' if next == Some('*') => at + end_of_block(rest),
        '"' => at + end_of_text(rest),
        'r' if matches!(next, Some('"' | '#')) && !follows_a_word(chars, at) => at + end_of_raw_text(rest),
        '\'' => at + end_of_character(rest),
        _ => at,
    }
}

fn follows_a_word(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| chars[before]);
    before.is_some_and(|c| (c.is_alphanumeric() && c != 'b') || c == '_')
}

fn end_of_block(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn end_of_text(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn end_of_raw_text(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        // A raw name, such as `r#type`.
        return 0;
    }
    let body = 2 + hashes;
    let closes = |at: &usize| {
        rest[*at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (body..rest.len()).find(closes).map_or(rest.len(), |at| at + 1 + hashes)
}

/// A character; nothing of a lifetime.
fn end_of_character(rest: &[char]) -> usize {
    match rest {
        [_, '\\', ..] => 3 + rest[3..].iter().position(|c| *c == '\'').map_or(0, |end| end + 1),
        [_, _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Whether `name` stands in the code as a word of its own, or as several with one space between them.
pub fn has_word(code: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(is_word);
        let after = code[at + name.len()..].chars().next().is_some_and(is_word);
        !(before && name.starts_with(is_word) || after && name.ends_with(is_word))
    })
}

#[test]
fn comments_and_texts_are_no_code() {
    let text = "let a = 'x'; // fn b() {\nlet c = \"{ \\\" }\"; /* { /* } */ { */ f::<'a>(r#\"}\"#, br\"{\", '\\'', '{')";
    let code = code_of(text);
    assert_eq!(code.matches(['{', '}']).count(), 0, "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(code.contains("f::<'a>("), "{code}");
    assert!(has_word(&code, "let a") && !has_word(&code, "le") && !has_word("told_of", "told"));
}
