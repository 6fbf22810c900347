//! Files of one subject, functions that can be seen at once, and a first line that says what a file is.

use crate::source::{File, code_of, rust};

/// Lines of a file; blank ones and tests at its end are not counted.
const FILE_LINES: usize = 500;
/// Lines of a function from its name to its last brace.
const FUNCTION_LINES: usize = 75;

/// Files that may be longer, each with its reason. One that is no longer needed fails the test.
const LONG_FILES: &[(&str, &str)] = &[];
/// Functions that may be longer (`FILE::NAME`), each with its reason. One that is no longer needed fails the test.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("scheduler/tests/properties.rs::command", "one arm for each kind of step of a random history"),
    ("executor/tests/docker/registry.rs::registry", "a whole registry, for the tests of pulls"),
];

/// A function with a body, and its lines.
struct Function {
    name: String,
    lines: usize,
}

#[test]
fn files_have_one_subject() {
    let sources: Vec<File> = rust().into_iter().filter(|file| !file.is_test()).collect();
    let lines = |file: &File| file.without_tests().lines().filter(|line| !line.trim().is_empty()).count();
    let long = sources.iter().filter(|file| lines(file) > FILE_LINES);
    let long = long.map(|file| file.path.clone()).collect();
    compare("files", &format!("over {FILE_LINES} lines: look for the second subject"), long, LONG_FILES);
}

#[test]
fn functions_can_be_seen_at_once() {
    let mut long = Vec::new();
    let mut all = 0;
    for file in rust() {
        let found = functions(&code_of(&file.text));
        all += found.len();
        let over = found.iter().filter(|function| function.lines > FUNCTION_LINES);
        long.extend(over.map(|function| format!("{}::{}", file.path, function.name)));
    }
    assert!(all > 4_000, "only {all} functions were found");
    compare("functions", &format!("over {FUNCTION_LINES} lines"), long, LONG_FUNCTIONS);
}

#[test]
fn every_file_says_first_what_it_is() {
    let silent = rust().into_iter().filter(|file| !file.text.starts_with("//! "));
    let silent: Vec<String> = silent.map(|file| file.path).collect();
    assert!(
        silent.is_empty(),
        "these files do not begin with a line `//! …` that says what they are: {silent:#?}"
    );
}

fn compare(what: &str, fault: &str, found: Vec<String>, allowed: &[(&str, &str)]) {
    let is_allowed = |path: &String| allowed.iter().any(|(known, _)| known == path);
    let new: Vec<&String> = found.iter().filter(|path| !is_allowed(path)).collect();
    assert!(new.is_empty(), "{what} {fault}: {new:#?}");
    for (path, reason) in allowed {
        assert!(!reason.is_empty(), "{path} is an exception without a reason");
        assert!(found.iter().any(|one| one == path), "{path} is no exception any more: take it off the list");
    }
}

fn functions(code: &str) -> Vec<Function> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = code.match_indices("fn ").filter(|(at, _)| !code[..*at].ends_with(is_word));
    starts.filter_map(|(at, _)| function(&code[at..])).collect()
}

/// The function whose `fn` begins this; none when it is a type or has no body.
fn function(code: &str) -> Option<Function> {
    let name: String = code[3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let body = body_of(code).filter(|_| !name.is_empty())?;
    let mut depth = 0;
    for (at, c) in code[body..].char_indices() {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return Some(Function { name, lines: code[..=body + at].lines().count() });
        }
    }
    None
}

/// Where the body begins; none when a `;` comes first. One between brackets is an array's.
fn body_of(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            // A type between somebody else's brackets.
            return None;
        }
    }
    None
}

#[test]
fn functions_are_measured_from_name_to_last_brace() {
    let code =
        "fn a() {\n  if x {\n  }\n}\npub const fn b(c: [u8; 2]) -> fn(u8) { d() }\ntrait T { fn e(); }\n";
    let found: Vec<(String, usize)> = functions(code).into_iter().map(|f| (f.name, f.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 4), ("b".to_owned(), 1)]);
}
