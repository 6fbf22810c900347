//! Task files: TOML or JSON with the keys of the flags. Unknown keys are refused by name.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;
use stint_sdk::{suggest, units};

use crate::draft::Draft;
use crate::failure::Failure;
use crate::files;
use crate::limits::parse_mount;

/// The keys of a task file.
const KEYS: &[&str] = &[
    "class",
    "name",
    "tenant",
    "count",
    "command",
    "runtime",
    "image",
    "cpus",
    "memory",
    "gpus",
    "gpu_model",
    "gpu_memory",
    "timeout",
    "stop_grace",
    "priority",
    "env",
    "constraints",
    "retries",
    "retry_failures",
    "on_lost",
    "idempotency_key",
    "inputs",
    "outputs",
    "secrets",
    "pids",
    "network",
    "tmp_size",
    "shm_size",
    "swap",
    "workdir",
    "mounts",
];
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
    parse(&text).map_err(|problem| Failure::Usage(format!("{name}: {problem}")))
}

fn read_text(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    match path {
        "-" => std::io::stdin().lock().take(MOST_BYTES + 1).read_to_string(&mut text)?,
        _ => std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?,
    };
    Ok(text)
}

/// JSON when it starts with `{`, else TOML.
fn parse(text: &str) -> Result<Draft, String> {
    let is_json = text.trim_start().starts_with('{');
    let value: Value = if is_json {
        serde_json::from_str(text).map_err(|e| format!("is no JSON: {e}"))?
    } else {
        toml::from_str(text).map_err(|e| format!("is no TOML: {}", e.to_string().trim_end()))?
    };
    let Value::Object(entries) = value else { return Err("is no table of keys".into()) };
    let mut draft = Draft::default();
    for (key, value) in &entries {
        set(&mut draft, key, value).map_err(|problem| format!("{key}: {problem}"))?;
    }
    Ok(draft)
}

fn set(draft: &mut Draft, key: &str, value: &Value) -> Result<(), String> {
    match key {
        "class" => draft.class = Some(text(value)?),
        "name" => draft.name = Some(text(value)?),
        "tenant" => draft.tenant = Some(text(value)?),
        "count" => draft.count = Some(number(value)?),
        "command" => draft.command = words(value)?,
        "runtime" => draft.runtime = Some(text(value)?),
        "image" => draft.image = Some(text(value)?),
        "cpus" => draft.cpu_milli = Some(cpus(value)?),
        "memory" => draft.memory_bytes = Some(bytes(value)?),
        "gpus" => draft.gpus = Some(number(value)?),
        "gpu_model" => draft.gpu_model = Some(text(value)?),
        "gpu_memory" => draft.gpu_memory_bytes = Some(bytes(value)?),
        "timeout" => draft.timeout_ms = Some(duration_ms(value)?),
        "stop_grace" => draft.stop_grace_ms = Some(duration_ms(value)?),
        "priority" => draft.priority = Some(number(value)?),
        "env" => draft.env = pairs(value)?,
        "constraints" => draft.constraints = pairs(value)?,
        "retries" => draft.retries = Some(number(value)?),
        "retry_failures" => {
            draft.retry_failures = Some(value.as_bool().ok_or_else(|| wrong(value, "true or false"))?);
        }
        "on_lost" => draft.on_lost = Some(text(value)?),
        "idempotency_key" => draft.idempotency_key = Some(text(value)?),
        "inputs" => draft.inputs = files::inputs_of(value)?,
        "outputs" => draft.outputs = files::outputs_of(value)?,
        "secrets" => draft.secrets = files::secrets_of(value)?,
        "pids" => draft.limits.pids = Some(number(value)?),
        "network" => draft.limits.network = Some(text(value)?),
        "tmp_size" => draft.limits.tmp_size = Some(bytes(value)?),
        "shm_size" => draft.limits.shm_size = Some(bytes(value)?),
        "swap" => draft.limits.swap = Some(bytes(value)?),
        "workdir" => draft.limits.workdir = Some(text(value)?),
        "mounts" => {
            let mounts = words(value)?;
            draft.limits.mounts = mounts.iter().map(|text| parse_mount(text)).collect::<Result<_, _>>()?;
        }
        _ => return Err(unknown(key)),
    }
    Ok(())
}

fn unknown(key: &str) -> String {
    match suggest::hint(key, KEYS.iter().copied()) {
        hint if hint.is_empty() => format!("unknown key; a task file knows {}", KEYS.join(", ")),
        hint => format!("unknown key{hint}"),
    }
}

fn wrong(value: &Value, what: &str) -> String {
    format!("{value} is not {what}")
}

fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(String::from).ok_or_else(|| wrong(value, "a text"))
}

fn number(value: &Value) -> Result<u32, String> {
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| wrong(value, "a whole number, 0 or more"))
}

fn words(value: &Value) -> Result<Vec<String>, String> {
    let what = "a list of texts: write [\"program\", \"argument\"]";
    let items = value.as_array().ok_or_else(|| wrong(value, what))?;
    items.iter().map(|item| item.as_str().map(String::from).ok_or_else(|| wrong(item, "a text"))).collect()
}

fn cpus(value: &Value) -> Result<u64, String> {
    match value {
        Value::String(text) => units::parse_cpus(text).map_err(|e| e.to_string()),
        _ => {
            let milli = value.as_f64().and_then(units::cpus_to_milli);
            milli.ok_or_else(|| wrong(value, "a number of cores: write for example 2 or 0.5"))
        }
    }
}

fn bytes(value: &Value) -> Result<u64, String> {
    match value {
        Value::String(text) => units::parse_bytes(text).map_err(|e| e.to_string()),
        _ => value.as_u64().ok_or_else(|| wrong(value, "an amount of memory: write for example \"512MiB\"")),
    }
}

fn duration_ms(value: &Value) -> Result<u64, String> {
    let text =
        value.as_str().ok_or_else(|| wrong(value, "a duration: write for example \"15m\", in quotes"))?;
    units::parse_duration(text).map(|d| d.as_millis() as u64).map_err(|e| e.to_string())
}

fn pairs(value: &Value) -> Result<BTreeMap<String, String>, String> {
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
        assert_eq!((draft.cpu_milli, draft.memory_bytes), (Some(1500), Some(512 << 20)));
        assert_eq!((draft.timeout_ms, draft.gpu_memory_bytes), (Some(900_000), Some(40 << 30)));
        assert_eq!(draft.env["THREADS"], "4");
        assert_eq!((draft.limits.pids, draft.limits.tmp_size), (Some(100), Some(1 << 30)));
    }

    #[test]
    fn every_key_is_known_to_the_reader() {
        for key in KEYS {
            let problem = set(&mut Draft::default(), key, &Value::Null).unwrap_err();
            assert!(!problem.contains("unknown key"), "{key}: {problem}");
        }
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
        ];
        for (text, part) in cases {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(part), "{text:?}: {problem}");
        }
    }
}
