//! Which part of this crate may use which: each only those that stand before it. And where `unsafe` may stand.
#![allow(clippy::unwrap_used)] // a source file that cannot be read fails the test

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From what knows nothing of the others to what knows them.
const PARTS: [&str; 27] = [
    "limits",
    "log",
    "refusal",
    "attempt_stage",
    "sys",
    "clock",
    "usage",
    "shim_api",
    "watchdog",
    "labels",
    "working_dir",
    "image_config",
    "host",
    "gpu",
    "store",
    "observer",
    "users",
    "settings",
    "logs",
    "mounts",
    "confine",
    "root",
    "stages",
    "said",
    "progress",
    "runtimes",
    "shim",
];
/// The node's side knows everything but the watchdog's, which only the messages of `shim_api` reach.
const NODE: &str = "client";

/// Every source file with the part that it belongs to.
fn sources() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
            let part = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
            files.push((part, path));
        }
    }
    assert!(files.len() > 50, "the crate's files were not found");
    files
}

/// The parts that a text names: after each `crate::` a name, or several in braces.
fn named(text: &str) -> BTreeSet<String> {
    let word =
        |text: &str| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap().to_owned();
    let mut found = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => {
                found.extend(list.split('}').next().unwrap().split(',').map(|part| word(part.trim())))
            }
            None => found.extend([word(rest)]),
        }
    }
    found
}

#[test]
fn each_part_uses_only_those_below_it() {
    let rank = |part: &str| PARTS.iter().position(|known| *known == part);
    for (part, path) in
        sources().iter().filter(|(part, _)| !["lib", "bin", "decoders"].contains(&part.as_str()))
    {
        let own = if part == NODE { Some(PARTS.len()) } else { rank(part) };
        let own = own.unwrap_or_else(|| panic!("{part} is new: say which parts it may use"));
        for other in named(&std::fs::read_to_string(path).unwrap()) {
            let below = rank(&other).is_some_and(|rank| rank < own) && !(part == NODE && other == "shim");
            assert!(below || other == *part, "{} uses {other}, which is above {part}", path.display());
        }
    }
}

/// What prepares attempts: the node's side alone, which tells the watchdog what came of it.
const PREPARES: [&str; 10] =
    ["client", "confine", "gpu", "logs", "mounts", "root", "settings", "stages", "store", "users"];
/// The node's files in the folders of runtimes; all others there are the watchdog's.
const NODES_FILES: [&str; 8] = [
    "runtimes.rs",
    "runtimes/request.rs",
    "runtimes/process.rs",
    "runtimes/crun.rs",
    "runtimes/mock.rs",
    "runtimes/docker/runtime.rs",
    "runtimes/docker/watch.rs",
    "runtimes/docker/credentials_watch.rs",
];

#[test]
fn the_watchdog_prepares_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = 0;
    for (part, path) in sources().into_iter().filter(|(part, _)| ["runtimes", "shim"].contains(&&**part)) {
        if NODES_FILES.iter().any(|file| path == root.join(file)) {
            continue;
        }
        all += 1;
        for other in named(&std::fs::read_to_string(&path).unwrap()) {
            assert!(!PREPARES.contains(&&*other), "{} of {part} uses {other}", path.display());
        }
    }
    assert!(all > 30, "only {all} files of the watchdog's side were found");
}

/// A mode is of one runtime, and only its folder knows which; the rest asks for what the runtime does.
#[test]
fn nobody_else_asks_for_a_mode() {
    for (part, path) in sources().into_iter().filter(|(part, _)| part != "runtimes") {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("Mode::"), "{} of {part} tells modes apart", path.display());
    }
}

#[test]
fn unsafe_code_stands_in_one_folder() {
    for (part, path) in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let opens = text.contains(concat!("allow(unsafe", "_code)"));
        assert_eq!(opens, path.ends_with("src/sys.rs"), "{}: part {part}", path.display());
    }
}
