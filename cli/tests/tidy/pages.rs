//! Links, anchors and paths: what pages and comments name is there, and the map of modules names every module.

use std::collections::BTreeSet;

use crate::source::{File, files, root, rust};

/// The page that names every module, below this heading.
const MAP: &str = "docs/internals/README.md";
const MAP_BEGINS: &str = "\n## The modules\n";

/// Pages, and where else paths and anchors are named.
fn pages() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".md")).collect()
}

/// A page without what stands between fences, which are examples.
fn prose(page: &str) -> String {
    page.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// Words between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Targets of links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// What a `#…` of this page may name: its headings, as GitHub names them, and its anchors.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page);
    let headings =
        headings.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#')));
    let own = page.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    headings.chain(own).collect()
}

fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// What is wrong with a page of the repository that is named, with an anchor or without.
fn broken(page: &str, anchor: Option<&str>) -> Option<String> {
    let path = root().join(page);
    if !path.exists() {
        return Some(format!("{page} is not there"));
    }
    let anchor = anchor?;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    (!anchors(&text).contains(anchor)).then(|| format!("{page} has no anchor {anchor}"))
}

/// A link of a page, as a path from the root.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn links_lead_somewhere() {
    let (mut wrong, mut all) = (Vec::new(), 0);
    for page in pages() {
        for link in links(&prose(&page.text)).filter(|link| !link.contains("://")) {
            all += 1;
            let (target, anchor) =
                link.split_once('#').map_or((link, None), |(page, anchor)| (page, Some(anchor)));
            let target = if target.is_empty() { page.path.clone() } else { resolve(&page.path, target) };
            wrong.extend(broken(&target, anchor).map(|why| format!("{}: {why}", page.path)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all > 60, "only {all} links were found");
}

/// Pages of this repository that comments and pages name by their path, with or without an anchor.
#[test]
fn pages_that_are_named_are_there() {
    let (mut wrong, mut all) = (Vec::new(), 0);
    for file in files() {
        for (at, _) in file.text.match_indices("docs/") {
            if file.text[..at].ends_with(|c: char| c.is_alphanumeric() || "/.-_".contains(c)) {
                continue;
            }
            let end = |c: char| !(c.is_alphanumeric() || "/.-_#".contains(c));
            let named = file.text[at..].split(end).next().unwrap_or_default().trim_end_matches('.');
            let (page, anchor) =
                named.split_once('#').map_or((named, None), |(page, anchor)| (page, Some(anchor)));
            all += 1;
            wrong.extend(broken(page, anchor).map(|why| format!("{}: {why}", file.path)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all > 60, "only {all} names of pages were found");
}

/// What stands between backquotes and begins with a folder of the repository: `PATH`, `FOLDER/*.END` or `PATH::NAME`.
#[test]
fn paths_and_names_of_code_are_there() {
    let entries = std::fs::read_dir(root()).expect("the root");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let first: Vec<String> =
        names.filter(|name| root().join(name).is_dir() && !["target", ".git"].contains(&&**name)).collect();
    let (mut wrong, mut all) = (Vec::new(), 0);
    for page in pages() {
        let text = prose(&page.text);
        let is_path = |word: &&str| {
            let begins =
                first.iter().any(|name| word.strip_prefix(&**name).is_some_and(|rest| rest.starts_with('/')));
            begins && !word.contains([' ', '{', '<', '[']) && !word.contains("NNNN")
        };
        for word in quoted(&text).filter(is_path) {
            all += 1;
            wrong.extend(missing(word).map(|why| format!("{}: {why}", page.path)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all > 200, "only {all} paths were found");
}

fn missing(word: &str) -> Option<String> {
    let (path, name) = word.split_once("::").map_or((word, None), |(path, name)| (path, Some(name)));
    if let Some((folder, end)) = path.split_once('*') {
        let folder = root().join(folder);
        let has = std::fs::read_dir(&folder).is_ok_and(|mut all| {
            all.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(end)))
        });
        return (!has).then(|| format!("{path} names nothing"));
    }
    let file = root().join(path);
    if !file.exists() {
        return Some(format!("{path} is not there"));
    }
    let name = name?.trim_end_matches("()");
    let name = name.rsplit("::").next().unwrap_or(name);
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let kinds = ["fn", "struct", "enum", "trait", "const", "type", "mod"];
    let is_defined = |kind: &&str| crate::source::has_word(&text, &format!("{kind} {name}"));
    (!kinds.iter().any(is_defined)).then(|| format!("{path} defines no {name}"))
}

#[test]
fn each_decision_has_a_number_of_its_own() {
    let mut numbers = BTreeSet::new();
    for page in pages().iter().filter(|page| page.path.starts_with("docs/decisions/")) {
        let name = page.path.trim_start_matches("docs/decisions/");
        let (number, _) = name.split_once('-').unwrap_or((name, ""));
        assert!(page.text.starts_with(&format!("# {number}")), "{name} does not begin with its number");
        assert!(
            numbers.insert(number.to_owned()),
            "{number} is the number of two decisions: {name} gets the next"
        );
    }
    assert!(numbers.len() > 10, "the decisions were not found");
}

/// A line of the map stands for a file and for the folder of the same name.
#[test]
fn the_map_names_every_module() {
    let page = std::fs::read_to_string(root().join(MAP)).unwrap_or_else(|e| panic!("{MAP}: {e}"));
    let (_, map) = page.split_once(MAP_BEGINS).expect("a map");
    let map = map.split("\n## ").next().unwrap_or_default();
    // Each line begins with its files; what its words name besides is checked as every path.
    let lines = map.lines().map(str::trim_start).filter(|line| line.starts_with("- `"));
    let rooms: BTreeSet<&str> = lines.flat_map(rooms_of).collect();
    let is_in = |file: &File| {
        let path = &*file.path;
        rooms.iter().any(|room| path == *room || is_below(path, room))
    };
    let unnamed =
        rust().into_iter().filter(|file| file.path.contains("src/") && !file.path.contains("/tests/"));
    let unnamed: Vec<String> = unnamed.filter(|file| !is_in(file)).map(|file| file.path).collect();
    assert!(unnamed.is_empty(), "{MAP} does not name: {unnamed:#?}");
    let gone: Vec<&&str> = rooms.iter().filter(|room| !root().join(room).exists()).collect();
    assert!(gone.is_empty(), "{MAP} names what is not there: {gone:#?}");
    let halls: Vec<&&str> =
        rooms.iter().filter(|room| room.ends_with("src/") || room.ends_with("src")).collect();
    assert!(halls.is_empty(), "a crate has rooms: {halls:#?}");
}

fn is_below(path: &str, room: &str) -> bool {
    let folder = room.strip_suffix(".rs").or_else(|| room.strip_suffix('/'));
    folder.is_some_and(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
}

/// The files that a line begins with: `- `A`, `B`: …`.
fn rooms_of(line: &str) -> Vec<&str> {
    quoted(line.split(": ").next().unwrap_or_default()).collect()
}
