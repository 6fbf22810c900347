//! Inputs, outputs and secrets of a task as users write them, as flags or in a task file.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Map, Value};
use stint_protocol::limits;
use stint_sdk::v1;
use stint_sdk::v1::input_file::Source;

/// `PATH=SOURCE`: a local file, `file:///path` on the node, or `sha256:DIGEST/BYTES`.
pub fn input(text: &str) -> Result<v1::InputFile, String> {
    let (path, source) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not PATH=SOURCE, for example in.csv=data.csv"))?;
    let plain = |source| v1::InputFile { path: path.into(), source: Some(source), ..Default::default() };
    if let Some(file) = source.strip_prefix("file://") {
        return Ok(plain(Source::File(file.into())));
    }
    if source.starts_with("sha256:") {
        return Ok(plain(Source::Blob(blob(source)?)));
    }
    local(path, source)
}

/// A file of this machine, sent along with the task.
pub fn local(path: &str, file: &str) -> Result<v1::InputFile, String> {
    let failed = |e: std::io::Error| format!("cannot read {file}: {e}");
    let opened = File::open(file).map_err(failed)?;
    let executable = opened.metadata().map_err(failed)?.permissions().mode() & 0o111 != 0;
    let (mut bytes, most) = (Vec::new(), limits::INLINE_BYTES);
    opened.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        let advice = "put it on the nodes and name it with file:///, or let a task leave it as an output";
        return Err(format!("{file} is over {most} bytes, the most that goes with a task: {advice}"));
    }
    let source = Some(Source::Content(bytes));
    Ok(v1::InputFile { path: path.into(), source, executable, ..Default::default() })
}

/// `sha256:DIGEST/BYTES`, as `stint outputs` shows it.
fn blob(text: &str) -> Result<v1::Blob, String> {
    let wrong = || format!("{text:?} is not sha256:DIGEST/BYTES, as `stint outputs` shows it");
    let (digest, size) = text.split_once('/').ok_or_else(wrong)?;
    Ok(v1::Blob { digest: digest.into(), size_bytes: size.parse().map_err(|_| wrong())? })
}

/// `NAME`, or `NAME=VARIABLE`.
pub fn secret(text: &str) -> Result<v1::SecretUse, String> {
    let (name, variable) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() || (text.contains('=') && variable.is_empty()) {
        return Err(format!("{text:?} is neither NAME nor NAME=VARIABLE"));
    }
    Ok(v1::SecretUse { name: name.into(), variable: variable.into() })
}

/// A path that the task must leave.
pub fn output(path: &str) -> Result<v1::OutputPath, Infallible> {
    Ok(v1::OutputPath { path: path.into(), optional: false })
}

/// A path that the task may leave.
pub fn optional_output(path: &str) -> Result<v1::OutputPath, Infallible> {
    Ok(v1::OutputPath { path: path.into(), optional: true })
}

/// `inputs` of a task file.
pub fn inputs_of(value: &Value) -> Result<Vec<v1::InputFile>, String> {
    let example = "a list: write [{ path = \"in.csv\", local = \"data.csv\" }]";
    let one = |item: &Value| {
        let table = Table::from_item(
            item,
            &["path", "content", "local", "file", "blob", "digest", "executable"],
            example,
        )?;
        let path = table.text("path")?.ok_or("an input has no path")?;
        let sources =
            [table.text("content")?, table.text("local")?, table.text("file")?, table.text("blob")?];
        let mut input = match sources {
            [Some(text), None, None, None] => with_source(path, Source::Content(text.into_bytes())),
            [None, Some(file), None, None] => local(&path, &file)?,
            [None, None, Some(file), None] => with_source(path, Source::File(file)),
            [None, None, None, Some(text)] => with_source(path, Source::Blob(blob(&text)?)),
            _ => return Err(format!("{path:?}: give one of content, local, file and blob")),
        };
        input.digest = table.text("digest")?.unwrap_or_default();
        input.executable = table.flag("executable")?.unwrap_or(input.executable);
        Ok(input)
    };
    items(value, example)?.iter().map(one).collect()
}

fn with_source(path: String, source: Source) -> v1::InputFile {
    v1::InputFile { path, source: Some(source), ..Default::default() }
}

/// `outputs` of a task file.
pub fn outputs_of(value: &Value) -> Result<Vec<v1::OutputPath>, String> {
    let example = "a list: write [\"model.bin\", { path = \"log\", optional = true }]";
    let one = |item: &Value| {
        if let Value::String(path) = item {
            return Ok(v1::OutputPath { path: path.clone(), optional: false });
        }
        let table = Table::from_item(item, &["path", "optional"], example)?;
        let path = table.text("path")?.ok_or("an output has no path")?;
        Ok(v1::OutputPath { path, optional: table.flag("optional")?.unwrap_or(false) })
    };
    items(value, example)?.iter().map(one).collect()
}

/// `secrets` of a task file.
pub fn secrets_of(value: &Value) -> Result<Vec<v1::SecretUse>, String> {
    let example = "a list: write [\"token\", { name = \"db\", variable = \"DB_PASSWORD\" }]";
    let one = |item: &Value| {
        if let Value::String(name) = item {
            return Ok(v1::SecretUse { name: name.clone(), variable: String::new() });
        }
        let table = Table::from_item(item, &["name", "variable"], example)?;
        let name = table.text("name")?.ok_or("a secret has no name")?;
        Ok(v1::SecretUse { name, variable: table.text("variable")?.unwrap_or_default() })
    };
    items(value, example)?.iter().map(one).collect()
}

fn items<'a>(value: &'a Value, example: &str) -> Result<&'a [Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{value} is not {example}"))
}

/// A table of a list, whose keys are all known.
struct Table<'a>(&'a Map<String, Value>);

impl<'a> Table<'a> {
    fn from_item(item: &'a Value, known: &[&str], example: &str) -> Result<Self, String> {
        let table = item.as_object().ok_or_else(|| format!("{item} does not belong into {example}"))?;
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            Some(wrong) => Err(format!("unknown key {wrong:?}: {} are known", known.join(", "))),
            None => Ok(Self(table)),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, String> {
        let text = |value: &Value| {
            value.as_str().map(String::from).ok_or_else(|| format!("{key}: {value} is not a text"))
        };
        self.0.get(key).map(text).transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        let flag = |value: &Value| {
            value.as_bool().ok_or_else(|| format!("{key}: {value} is neither true nor false"))
        };
        self.0.get(key).map(flag).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_input_comes_from_here_from_the_node_or_from_the_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("run.sh");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let here = input(&format!("bin/run={}", script.display())).unwrap();
        assert!(here.executable && here.path == "bin/run");
        assert_eq!(here.source, Some(Source::Content(b"#!/bin/sh\n".to_vec())));
        assert_eq!(input("a=file:///data/x").unwrap().source, Some(Source::File("/data/x".into())));
        let kept = input("a=sha256:00/17").unwrap().source;
        assert_eq!(kept, Some(Source::Blob(v1::Blob { digest: "sha256:00".into(), size_bytes: 17 })));
        for wrong in ["a", "a=sha256:00", "a=sha256:00/x", "a=/does/not/exist"] {
            assert!(input(wrong).is_err(), "{wrong}");
        }
        std::fs::write(&script, vec![0; limits::INLINE_BYTES + 1]).unwrap();
        assert!(input(&format!("a={}", script.display())).unwrap_err().contains("file:///"));
    }

    #[test]
    fn a_task_file_says_the_same_as_flags() {
        assert_eq!(
            inputs_of(&json!([{"path": "a", "file": "/x"}])).unwrap(),
            [input("a=file:///x").unwrap()]
        );
        assert_eq!(
            outputs_of(&json!(["a", {"path": "b", "optional": true}])).unwrap(),
            [output("a").unwrap(), optional_output("b").unwrap()]
        );
        assert_eq!(
            secrets_of(&json!(["t", {"name": "db", "variable": "DB"}])).unwrap(),
            [secret("t").unwrap(), secret("db=DB").unwrap()]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (inputs_of(&json!("a")).unwrap_err(), "is not a list"),
            (inputs_of(&json!([{"path": "a"}])).unwrap_err(), "one of content, local, file and blob"),
            (inputs_of(&json!([{"path": "a", "file": "/x", "content": "y"}])).unwrap_err(), "one of"),
            (inputs_of(&json!([{"path": "a", "uri": "/x"}])).unwrap_err(), "unknown key \"uri\""),
            (inputs_of(&json!([{"file": "/x"}])).unwrap_err(), "has no path"),
            (outputs_of(&json!([{"path": "a", "optional": 1}])).unwrap_err(), "neither true nor false"),
            (secrets_of(&json!([7])).unwrap_err(), "does not belong"),
            (secret("=X").unwrap_err(), "neither NAME"),
            (secret("x=").unwrap_err(), "neither NAME"),
        ];
        for (problem, part) in cases {
            assert!(problem.contains(part), "{problem}");
        }
    }
}
