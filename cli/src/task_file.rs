//! Task files: TOML or JSON with the keys of the flags ([`Draft`]). Unknown keys are refused by name.

use std::io::Read as _;

use serde::de::value::Error as NoKeys;
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use stint_sdk::{suggest, units, v1};

use crate::draft::{Draft, milliseconds, parse_mount};
use crate::failure::Failure;
use crate::files;

/// Bytes of a task file: a command and its environment at their limit (256 KiB), twice over for the notation.
const MOST_BYTES: u64 = 1024 * 1024;

/// Reads a task file; `-` is stdin.
pub fn read(path: &str) -> Result<Draft, Failure> {
    let name = if path == "-" { "stdin" } else { path };
    let text =
        read_text(path).map_err(|e| Failure::Usage(format!("cannot read the task file {name}: {e}")))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(Failure::Usage(format!("{name}: a task file has at most {MOST_BYTES} bytes")));
    }
    parse(&text).map_err(|wrong| {
        let place = wrong.line().map_or_else(String::new, |line| format!("{line}:"));
        Failure::Usage(format!("{name}:{place} {wrong}"))
    })
}

fn read_text(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    match path {
        "-" => std::io::stdin().lock().take(MOST_BYTES + 1).read_to_string(&mut text)?,
        _ => std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?,
    };
    Ok(text)
}

/// Why a text is no task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("is no TOML: {}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    #[error("is no table of keys")]
    NoTable,
    /// The line is known in TOML.
    #[error("{key}: {problem}")]
    Key { line: Option<usize>, key: String, problem: String },
}

impl Unusable {
    pub(crate) fn line(&self) -> Option<usize> {
        match self {
            Unusable::Key { line, .. } => *line,
            _ => None,
        }
    }
}

/// JSON when it starts with `{`, else TOML.
pub(crate) fn parse(text: &str) -> Result<Draft, Unusable> {
    let is_json = text.trim_start().starts_with('{');
    let value: Value = if is_json { serde_json::from_str(text)? } else { toml::from_str(text)? };
    let Value::Object(entries) = &value else { return Err(Unusable::NoTable) };
    let known = keys_of::<Draft>();
    let wrong = |key: &String, problem| Unusable::Key {
        line: line_of(text, key).filter(|_| !is_json),
        key: key.clone(),
        problem,
    };
    if let Some(key) = entries.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(wrong(key, unknown(key, known)));
    }
    if let Some((key, _)) = entries.iter().find(|(_, value)| value.is_null()) {
        return Err(wrong(key, "null is no value: leave the key out".into()));
    }
    Draft::deserialize(&value).map_err(|whole| {
        // The error does not tell the key: the one that is wrong by itself.
        let alone = |(key, value): (&String, &Value)| {
            let only = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            Some(wrong(key, Draft::deserialize(only).err()?.to_string()))
        };
        entries.iter().find_map(alone).unwrap_or(Unusable::Json(whole))
    })
}

/// The line of a key in TOML.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let table = toml::de::DeTable::parse(text).ok()?;
    let (name, _) = table.get_ref().iter().find(|(name, _)| name.get_ref() == key)?;
    Some(text[..name.span().start].matches('\n').count() + 1)
}

fn unknown(key: &str, known: &[&str]) -> String {
    match suggest::hint(key, known.iter().copied()) {
        hint if hint.is_empty() => format!("unknown key; a task file knows {}", known.join(", ")),
        hint => format!("unknown key{hint}"),
    }
}

/// The keys of a struct, as serde knows them.
fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // It answers with an error once it has heard them.
    let _ = T::deserialize(Keys(&mut keys));
    keys
}

struct Keys<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Keys<'_> {
    type Error = NoKeys;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoKeys> {
        Err(NoKeys::custom("it is no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NoKeys> {
        *self.0 = fields;
        Err(NoKeys::custom("only its keys were asked for"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// What serde calls for the value of a key.
macro_rules! values {
    ($($name:ident: $type:ty = $read:expr;)*) => {$(
        pub fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
            $read(&Value::deserialize(from)?).map_err(D::Error::custom)
        }
    )*};
}

values! {
    number: Option<u32> = |value: &Value| read_number(value).map(Some);
    cpus: Option<u64> = |value: &Value| read_cpus(value).map(Some);
    bytes: Option<u64> = |value: &Value| read_bytes(value).map(Some);
    duration_ms: Option<u64> = |value: &Value| read_duration_ms(value).map(Some);
    texts: Vec<String> = read_words;
    pairs: Vec<(String, String)> = read_pairs;
    mounts: Vec<v1::HostMount> = read_mounts;
    inputs: Vec<v1::InputFile> = files::inputs_of;
    outputs: Vec<v1::OutputPath> = files::outputs_of;
    secrets: Vec<v1::SecretUse> = files::secrets_of;
}

fn wrong(value: &Value, what: &str) -> String {
    format!("{value} is not {what}")
}

fn read_number(value: &Value) -> Result<u32, String> {
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| wrong(value, "a whole number, 0 or more"))
}

fn read_words(value: &Value) -> Result<Vec<String>, String> {
    let what = "a list of texts: write [\"program\", \"argument\"]";
    let items = value.as_array().ok_or_else(|| wrong(value, what))?;
    items.iter().map(|item| item.as_str().map(String::from).ok_or_else(|| wrong(item, "a text"))).collect()
}

fn read_cpus(value: &Value) -> Result<u64, String> {
    match value {
        Value::String(text) => units::parse_cpus(text).map_err(|e| e.to_string()),
        _ => {
            let milli = value.as_f64().and_then(units::cpus_to_milli);
            milli.ok_or_else(|| wrong(value, "a number of cores: write for example 2 or 0.5"))
        }
    }
}

fn read_bytes(value: &Value) -> Result<u64, String> {
    match value {
        Value::String(text) => units::parse_bytes(text).map_err(|e| e.to_string()),
        _ => value.as_u64().ok_or_else(|| wrong(value, "an amount of memory: write for example \"512MiB\"")),
    }
}

fn read_duration_ms(value: &Value) -> Result<u64, String> {
    let text =
        value.as_str().ok_or_else(|| wrong(value, "a duration: write for example \"15m\", in quotes"))?;
    milliseconds(text).map_err(|e| e.to_string())
}

fn read_pairs(value: &Value) -> Result<Vec<(String, String)>, String> {
    let entries = value.as_object().ok_or_else(|| wrong(value, "a table of names and values"))?;
    entries.iter().map(|(name, value)| Ok((name.clone(), scalar(name, value)?))).collect()
}

/// Numbers and booleans are meant as their text: `THREADS = 4`.
fn scalar(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(format!("{name}: {}", wrong(value, "a text"))),
    }
}

fn read_mounts(value: &Value) -> Result<Vec<v1::HostMount>, String> {
    read_words(value)?.iter().map(|text| parse_mount(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
class = "gpu"
command = ["python", "train.py"]
cpus = 1.5
memory = "512MiB"
gpu_memory = "40GiB"
timeout = "15m"
retries = 2
retry_failures = true
pids = 100
network = "none"
tmp_size = "1GiB"
workdir = "src"
[env]
THREADS = 4
[constraints]
zone = "a"
"#;
    const JSON: &str = r#"{"class":"gpu","command":["python","train.py"],"cpus":"1.5","memory":536870912,
        "gpu_memory":"40GiB","timeout":"900s","retries":2,"retry_failures":true,
        "pids":100,"network":"none","tmp_size":"1GiB","workdir":"src","env":{"THREADS":"4"},
        "constraints":{"zone":"a"}}"#;

    #[test]
    fn toml_and_json_say_the_same() {
        let draft = parse(TOML).unwrap();
        assert_eq!(draft, parse(JSON).unwrap());
        assert_eq!((draft.cpus, draft.memory), (Some(1500), Some(512 << 20)));
        assert_eq!((draft.timeout, draft.gpu_memory), (Some(900_000), Some(40 << 30)));
        assert_eq!(draft.env, [("THREADS".to_owned(), "4".to_owned())]);
        assert_eq!((draft.pids, draft.tmp_size), (Some(100), Some(1 << 30)));
    }

    #[test]
    fn a_wrong_key_is_named_with_its_line() {
        let wrong = parse("# a task\nclass = \"gpu\"\n\nmemory = \"8XB\"\n").unwrap_err();
        assert_eq!((wrong.line(), wrong.to_string().starts_with("memory: ")), (Some(4), true), "{wrong}");
        let wrong = parse("class = \"gpu\"\n[enf]\nA = 1\n").unwrap_err();
        assert_eq!(
            (wrong.line(), wrong.to_string().as_str()),
            (Some(2), "enf: unknown key (did you mean \"env\"?)")
        );
        assert_eq!(parse("{\"count\": -1}").unwrap_err().line(), None);
        let known = keys_of::<Draft>();
        assert!(known.contains(&"tenant") && known.contains(&"mounts"), "{known:?}");
        assert!(!known.contains(&"optional_outputs"), "a flag alone: {known:?}");
    }

    #[test]
    fn wrong_files_say_what_to_change() {
        let cases = [
            ("memroy = \"1GiB\"", "memroy: unknown key (did you mean \"memory\"?)"),
            ("shm_sizes = 1", "did you mean \"shm_size\"?"),
            ("pids = \"many\"", "whole number"),
            ("retry-failures = true", "did you mean \"retry_failures\"?"),
            ("colour = 1", "a task file knows class, name"),
            ("timeout = 15", "write for example \"15m\", in quotes"),
            ("memory = \"8XB\"", "unknown unit"),
            ("command = \"echo hi\"", "write [\"program\", \"argument\"]"),
            ("count = -1", "whole number"),
            ("class = ", "is no TOML"),
            ("{\"class\": }", "is no JSON"),
            ("env = { A = [1] }", "env: A: [1] is not a text"),
            ("class = 7", "class: invalid type: integer `7`, expected a string"),
            ("retry_failures = 1", "expected a boolean"),
            ("{\"name\": null}", "name: null is no value"),
            ("mounts = [\":\"]", "mounts: \":\" is no mount"),
            ("inputs = [{ path = \"a\" }]", "inputs: \"a\": give one of"),
        ];
        for (text, part) in cases {
            let problem = parse(text).unwrap_err().to_string();
            assert!(problem.contains(part), "{text:?}: {problem}");
        }
    }
}
