//! The tables of keys in `docs/using/configuration.md` and of operations in `docs/using/access.md` are made from the code, and
//! cannot drift.
//! `STINT_BLESS=1 cargo nextest run -p stint-node --test reference` writes it anew; read the difference.

use std::path::PathBuf;

use stint_node::config::{KeyInfo, keys};
use stint_node::service::access::Operation;
use stint_protocol::Class;

const BEGIN: &str = "<!-- keys: made from node/src/config/sections.rs -->\n";
const END: &str = "<!-- end of keys -->\n";

const OPERATIONS_BEGIN: &str = "<!-- operations: made from node/src/service/access.rs -->\n";
const OPERATIONS_END: &str = "<!-- end of operations -->\n";

#[test]
fn the_page_has_every_key() {
    compare("configuration.md", BEGIN, END, &tables(&by_section(keys())));
}

#[test]
fn the_page_on_access_has_every_operation() {
    let row = |operation: &Operation| {
        let (own, others) = (operation.needs(), operation.needs_for_others());
        let others = others.map_or_else(String::new, |role| format!("`{role}`"));
        format!("| {operation} | `{own}` | {others} |\n")
    };
    let rows: String = Operation::ALL.iter().map(row).collect();
    let head = "| what | takes the role | about another tenant |\n|---|---|---|\n";
    compare("access.md", OPERATIONS_BEGIN, OPERATIONS_END, &format!("\n{head}{rows}\n"));
}

/// Holds what stands between two marks of a page against what it should be.
fn compare(page: &str, begin: &str, end: &str, expected: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/using").join(page);
    let page = std::fs::read_to_string(&path).expect("a page");
    let (before, rest) = page.split_once(begin).expect("the beginning of the table");
    let (table, after) = rest.split_once(end).expect("the end of the table");
    if std::env::var_os("STINT_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).expect("it is written");
    } else {
        assert!(table == expected, "the table is another one; STINT_BLESS=1 writes it anew:\n{expected}");
    }
}

#[test]
fn every_key_says_what_it_means() {
    for key in keys() {
        assert!(key.meaning.ends_with('.'), "{}: {:?} is no sentence", key.key, key.meaning);
        let texts = [&key.kind, &key.default, &key.meaning];
        assert!(texts.iter().all(|text| !text.contains('|')), "{}: \"|\" would break the table", key.key);
        assert!(key.flag.is_none_or(|flag| flag.starts_with("--") && flag.contains(' ')), "{:?}", key.flag);
    }
}

/// Sections in their order, each with its keys. Those of the classes are one section.
fn by_section(keys: Vec<KeyInfo>) -> Vec<(String, Vec<KeyInfo>)> {
    let mut sections: Vec<(String, Vec<KeyInfo>)> = Vec::new();
    for mut key in keys {
        let (section, name) = key.key.rsplit_once('.').expect("a section");
        let (section, name) = (section.to_owned(), name.to_owned());
        let class = section.strip_prefix("classes.").map(str::to_owned);
        let section = if class.is_some() { "classes.CLASS".to_owned() } else { section };
        key.key = name;
        if let Some(class) = class {
            let variable = format!("_{}_", class.to_uppercase());
            key.variables.iter_mut().for_each(|name| *name = name.replacen(&variable, "_CLASS_", 1));
            key.default = format!("{class}: {}", key.default);
        }
        match sections.iter_mut().find(|(known, _)| *known == section) {
            Some((_, rows)) => match rows.iter_mut().find(|row| row.key == key.key) {
                Some(row) => row.default = format!("{}; {}", row.default, key.default),
                None => rows.push(key),
            },
            None => sections.push((section, vec![key])),
        }
    }
    sections
}

fn tables(sections: &[(String, Vec<KeyInfo>)]) -> String {
    let tables = sections.iter().map(|(section, rows)| {
        let rows: String = rows.iter().map(row).collect();
        format!("\n### `[{section}]`\n\n| key | type | default | meaning | variable | flag |\n|---|---|---|---|---|---|\n{rows}")
    });
    tables.collect::<String>() + "\n"
}

fn row(info: &KeyInfo) -> String {
    let KeyInfo { key, kind, meaning, variables, .. } = info;
    let variables = variables.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let flag = info.flag.map_or_else(String::new, |flag| format!("`{flag}`"));
    let default = same_for_all(&info.default);
    format!("| `{key}` | {kind} | {default} | {meaning} | {variables} | {flag} |\n")
}

/// One default where every class has the same.
fn same_for_all(defaults: &str) -> String {
    let values: Vec<&str> =
        defaults.split("; ").filter_map(|part| part.split_once(": ")).map(|(_, v)| v).collect();
    match values.as_slice() {
        [first, rest @ ..] if values.len() == Class::ALL.len() && rest.iter().all(|value| value == first) => {
            (*first).to_owned()
        }
        _ => defaults.to_owned(),
    }
}
