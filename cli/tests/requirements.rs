//! The page that says which test shows which requirement names tests that are there.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

use std::path::Path;

const PAGE: &str = "docs/working-on/requirements.md";

/// Words between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read =
        |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let page = read(PAGE);
    let (mut named, mut rows) = (0, 0);
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| row")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [id, _, shown] = cells[..] else { panic!("a row of three cells: {row}") };
        rows += 1;
        let tests: Vec<(&str, &str)> = quoted(shown).filter_map(|word| word.split_once("::")).collect();
        let excused =
            ["not built", "measured", "another way", "all of"].iter().any(|word| shown.contains(word));
        assert!(!tests.is_empty() || excused, "{id} names neither a test nor what is missing");
        for (file, name) in tests {
            let source = read(file);
            let at =
                source.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("{id}: {file} has no {name}"));
            // A test, and one that runs.
            let above = source[..at].rfind('\n').map_or("", |end| &source[..end]);
            let before: Vec<&str> = above.lines().rev().take_while(|line| !line.trim().is_empty()).collect();
            let is_test = before
                .iter()
                .any(|line| line.trim().starts_with("#[test]") || line.contains("#[tokio::test"));
            assert!(
                is_test && !before.iter().any(|line| line.contains("#[ignore")),
                "{id}: {file}::{name} is no test that runs"
            );
            named += 1;
        }
    }
    assert!(rows > 25 && named > 40, "{rows} rows and {named} tests were read");
    for path in quoted(&page).filter(|word| word.contains('/') && !word.contains("::") && !word.contains(' '))
    {
        assert!(root.join(path).exists(), "{path} is not there");
    }
}
