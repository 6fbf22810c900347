//! Words that are no names any more, because another one says it, and words that must not stand in the repository.

use crate::source::{File, code_of, files, has_word, rust};

/// A name that code must not have, and what to write.
struct Banned {
    /// As it would stand in the code; several words have one space between them.
    name: &'static str,
    instead: &'static str,
}

/// Names that were given up. A name enters this list with the commit that takes its last use away.
const BANNED: &[Banned] = &[
    Banned { name: "mod utils", instead: "a module named for its subject" },
    Banned { name: "mod util", instead: "a module named for its subject" },
    Banned { name: "mod helpers", instead: "a module named for its subject" },
    Banned { name: "mod misc", instead: "a module named for its subject" },
    Banned { name: "mod common", instead: "a module named for its subject" },
    Banned { name: "ask_the_leader", instead: "`leader_client`" },
    Banned { name: "enum Where", instead: "`AttemptStage`" },
    Banned { name: "fn of", instead: "a verb that says what comes of it: `from_task`, `read`, `hint_for`" },
    Banned { name: "told", instead: "what it is: a message, a state, a result" },
    Banned { name: "words", instead: "what they are: a message, arguments, names" },
    Banned { name: "held", instead: "what it is: `running`, `leased`, `backing_off`" },
    Banned { name: "Office", instead: "`Leadership`, or what it is a span of" },
    Banned { name: "Contacts", instead: "`LeaseClock`, `PeerReachability`" },
    Banned { name: "Outlook", instead: "`TickInput`" },
    Banned { name: "Standing", instead: "`RaftRole`" },
    Banned { name: "Drafts", instead: "`EntryBuilder`" },
    Banned { name: "Onlooker", instead: "`MetricsObserver`" },
    Banned { name: "Sheet", instead: "`FreeCapacity`" },
    Banned { name: "Desk", instead: "`JobController`, or what serves there" },
    Banned { name: "Shelf", instead: "`JobDir`, `ImageCache`" },
    Banned { name: "Glance", instead: "`Poll`" },
    Banned { name: "stray", instead: "`orphan`" },
    Banned { name: "Dice", instead: "`SeededRng`" },
    Banned { name: "dice", instead: "`rng`" },
    Banned { name: "Keeper", instead: "`ContainerMonitor`" },
    Banned { name: "Homes", instead: "`SandboxDirs`" },
    Banned { name: "doomed", instead: "`pending_removal`" },
    Banned { name: "complain", instead: "`log`" },
    Banned { name: "assemble", instead: "`build`" },
    Banned { name: "Ward", instead: "`HostModel`" },
    Banned { name: "Weather", instead: "`LinkFaults`" },
    Banned { name: "Referee", instead: "`Oracle`" },
];

/// Words by which comments and pages once referred to pages that no reader of this repository has. In two halves, so that
/// this file does not hold them itself.
const ELSEWHERE: &[(&str, &str)] = &[
    ("DESIGN", ".md"),
    ("DESIGN", " section"),
    ("DECISIONS", ".md"),
    ("FIND", "INGS"),
    ("HOUSE", ".md"),
    ("STYLE", ".md"),
    ("LESSONS", ".md"),
    ("ANCHORS", ".md"),
    ("RUNTARA", ".md"),
    ("ORCHESTRATOR", ".md"),
    ("RAFT-AND-", "SIM"),
    ("SLURM", ".md"),
    ("env-", "runner"),
    ("\u{a7}", ""),
];

#[test]
fn given_up_names_do_not_come_back() {
    let mut found = Vec::new();
    for file in rust() {
        let code = code_of(&file.text);
        for banned in BANNED.iter().filter(|banned| has_word(&code, banned.name)) {
            found.push(format!("{}: `{}`: write {}", file.path, banned.name, banned.instead));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn nothing_refers_to_pages_that_are_not_here() {
    let mut found = Vec::new();
    for file in files() {
        for (one, two) in ELSEWHERE {
            let word = format!("{one}{two}");
            found.extend(lines_with(&file, |line| line.contains(&word)));
        }
        // A rule by its number alone: of which page?
        found.extend(lines_with(&file, |line| {
            names_a_number(line, "rule ") || names_a_number(line, "rules ")
        }));
    }
    assert!(found.is_empty(), "name a page of this repository and its anchor, or say it: {found:#?}");
}

fn lines_with(file: &File, is: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = file.text.lines().enumerate().filter(|(_, line)| is(line));
    lines.map(|(number, line)| format!("{}:{}: {}", file.path, number + 1, line.trim())).collect()
}

fn names_a_number(line: &str, word: &str) -> bool {
    let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    line.match_indices(word).any(|(at, _)| digit(&line[at + word.len()..]))
}
