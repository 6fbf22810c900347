//! Files of a task: what it gets before it starts, and what is kept of it after its end.

use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::blob::{Blob, Digest};
use crate::class::UnknownWord;
use crate::limits;
use crate::task::{InvalidSpec, refuse};

/// What a task gets and leaves beside its output streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TaskFiles {
    #[n(0)]
    pub inputs: Vec<InputFile>,
    #[n(1)]
    pub outputs: Vec<OutputPath>,
    #[n(2)]
    pub secrets: Vec<SecretUse>,
    /// After which ends its outputs are kept. None: after all.
    #[n(3)]
    #[cbor(default)]
    pub keep: Option<KeepOutputs>,
    /// Who keeps what it writes to stdout and stderr. None: its node.
    #[n(4)]
    #[cbor(default)]
    pub logs: Option<KeepLogs>,
    /// Whether the other peers keep the end of its output, too. None: they do.
    #[n(5)]
    #[cbor(default)]
    pub record: Option<bool>,
}

/// Who keeps all that a task writes to stdout and stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum KeepLogs {
    /// The node that runs it.
    #[n(0)]
    #[default]
    Node,
    /// The cluster, too, up to a bound.
    #[n(1)]
    Cluster,
}

impl KeepLogs {
    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            KeepLogs::Node => "node",
            KeepLogs::Cluster => "cluster",
        }
    }
}

impl FromStr for KeepLogs {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = [Self::Node, Self::Cluster].into_iter().find(|keep| keep.as_str() == word);
        known.ok_or_else(|| UnknownWord::new("logs_keep", word, "node, cluster"))
    }
}

/// After which ends of its attempts a task's outputs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum KeepOutputs {
    /// After each end of a program that ran.
    #[n(0)]
    #[default]
    Always,
    /// Only when the program succeeded.
    #[n(1)]
    Success,
}

impl KeepOutputs {
    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            KeepOutputs::Always => "always",
            KeepOutputs::Success => "success",
        }
    }
}

impl FromStr for KeepOutputs {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = [Self::Always, Self::Success].into_iter().find(|keep| keep.as_str() == word);
        known.ok_or_else(|| UnknownWord::new("keep", word, "always, success"))
    }
}

/// A file that lies in the work folder before the program starts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InputFile {
    /// Below the work folder.
    #[n(0)]
    pub path: String,
    #[n(1)]
    pub source: InputSource,
    /// The attempt does not start when the bytes are others.
    #[n(2)]
    pub digest: Option<Digest>,
    #[n(3)]
    pub executable: bool,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum InputSource {
    /// The bytes themselves.
    #[n(0)]
    Content(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        Vec<u8>,
    ),
    /// An absolute path on the node that runs it, below a folder that its operator opened to tasks.
    #[n(1)]
    File(#[n(0)] String),
    /// Bytes that the cluster keeps for the tenant.
    #[n(2)]
    Blob(#[n(0)] Blob),
}

/// A file or a folder of the work folder that is kept after the program ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutputPath {
    /// Below the work folder.
    #[n(0)]
    pub path: String,
    /// The task succeeds without it, too.
    #[n(1)]
    pub optional: bool,
}

/// A secret that the program may read: named here, its value is only on the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SecretUse {
    #[n(0)]
    pub name: String,
    /// The variable that holds the value. None: it is a file, whose path is in `{NAME}_FILE`.
    #[n(1)]
    pub variable: Option<String>,
}

/// A file that was kept of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeptFile {
    /// Below the work folder.
    #[n(0)]
    pub path: String,
    #[n(1)]
    pub blob: Blob,
    /// The cluster keeps its bytes. Otherwise only the node does that ran the attempt.
    #[n(2)]
    pub stored: bool,
    /// Whether it can be executed. None: it cannot, or an earlier version kept it.
    #[n(3)]
    #[cbor(default)]
    pub executable: Option<bool>,
    /// Its bytes stay with the cluster as long as the task is remembered: a mark of the replicated state, which no node sets.
    #[n(4)]
    #[cbor(default)]
    pub pinned: Option<bool>,
}

impl KeptFile {
    /// Whether the cluster keeps its bytes because of it.
    pub fn is_pinned(&self) -> bool {
        self.pinned == Some(true)
    }
}

/// A file among the outputs of an attempt that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NotKept {
    /// Below the work folder; bytes that are not UTF-8 are replaced.
    #[n(0)]
    pub path: String,
    #[n(1)]
    pub reason: String,
}

impl NotKept {
    /// With texts that are as long as a record of an attempt may hold.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        let most = limits::NOT_KEPT_TEXT_BYTES;
        Self { path: limits::clip_at(path.into(), most), reason: limits::clip_at(reason.into(), most) }
    }
}

impl SecretUse {
    /// The variable with the path of the secret's file: `db-password` is in `DB_PASSWORD_FILE`.
    pub fn file_variable(&self) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        self.name.chars().map(word).chain("_FILE".chars()).collect()
    }

    /// The variable that it sets.
    pub fn sets(&self) -> String {
        self.variable.clone().unwrap_or_else(|| self.file_variable())
    }
}

impl TaskFiles {
    /// Whether there is anything.
    pub fn is_empty(&self) -> bool {
        let plain = self.keep.is_none() && self.logs.is_none() && self.record.is_none();
        plain && self.inputs.is_empty() && self.outputs.is_empty() && self.secrets.is_empty()
    }

    /// Whether it says what becomes of the output streams.
    pub fn says_of_logs(&self) -> bool {
        self.logs.is_some() || self.record.is_some()
    }

    /// Without words for what is the default anyhow.
    pub(crate) fn without_defaults(mut self) -> Self {
        let leaves = !self.outputs.is_empty();
        self.keep = self.keep.filter(|keep| leaves && *keep != KeepOutputs::default());
        self.logs = self.logs.filter(|logs| *logs != KeepLogs::default());
        self.record = self.record.filter(|record| !record);
        self
    }

    /// Bytes it takes in memory, about.
    pub fn weight(&self) -> usize {
        let input = |input: &InputFile| {
            input.path.len()
                + 120
                + match &input.source {
                    InputSource::Content(bytes) => bytes.len(),
                    InputSource::File(path) => path.len(),
                    InputSource::Blob(_) => 0,
                }
        };
        let outputs = self.outputs.iter().map(|output| output.path.len() + 48);
        let secrets = self.secrets.iter().map(|secret| secret.name.len() + 96);
        self.inputs.iter().map(input).chain(outputs).chain(secrets).sum()
    }

    /// Refuses what cannot be done, or could reach out of the work folder.
    pub(crate) fn check(&self) -> Result<(), InvalidSpec> {
        self.check_inputs()?;
        check_number("outputs", self.outputs.len(), limits::OUTPUTS)?;
        let outputs: Vec<&str> = self.outputs.iter().map(|output| output.path.as_str()).collect();
        outputs.iter().try_for_each(|path| check_path("outputs", path))?;
        check_apart("outputs", &outputs)?;
        if self.logs == Some(KeepLogs::Cluster) && self.record == Some(false) {
            return refuse(
                "logs_keep",
                "is cluster, and record is false: one says to keep the output, the other not to",
            );
        }
        self.check_secrets()
    }

    fn check_inputs(&self) -> Result<(), InvalidSpec> {
        check_number("inputs", self.inputs.len(), limits::INPUTS)?;
        let paths: Vec<&str> = self.inputs.iter().map(|input| input.path.as_str()).collect();
        paths.iter().try_for_each(|path| check_path("inputs", path))?;
        check_apart("inputs", &paths)?;
        let inline = |input: &InputFile| match &input.source {
            InputSource::Content(bytes) => bytes.len(),
            _ => 0,
        };
        let bytes: usize = self.inputs.iter().map(inline).sum();
        if bytes > limits::INLINE_BYTES {
            let most = limits::INLINE_BYTES;
            let advice = "name a file on the nodes, or keep it in the cluster first";
            return refuse("inputs", format!("hold {bytes} bytes inline; {most} at most: {advice}"));
        }
        for input in &self.inputs {
            if let InputSource::File(path) = &input.source {
                let plain = path.starts_with('/') && path.split('/').skip(1).all(is_plain);
                if !plain || path.len() > limits::PATH_BYTES {
                    let wanted = "an absolute path without . and ..";
                    return refuse("inputs", format!("file {path:?} of {:?} is not {wanted}", input.path));
                }
            }
        }
        Ok(())
    }

    fn check_secrets(&self) -> Result<(), InvalidSpec> {
        check_number("secrets", self.secrets.len(), limits::SECRETS)?;
        for (at, secret) in self.secrets.iter().enumerate() {
            if !is_secret_name(&secret.name) {
                let rule = "1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.', not beginning with '.'";
                return refuse("secrets", format!("{:?} is no name of a secret: {rule}", secret.name));
            }
            if let Some(variable) = &secret.variable
                && (variable.is_empty() || variable.contains(['=', '\0']) || variable.starts_with("STINT_"))
            {
                let rule = "not empty, no '=', not beginning with STINT_";
                return refuse("secrets", format!("{variable:?} cannot be a variable's name: {rule}"));
            }
            let other = |other: &SecretUse| other.name == secret.name || other.sets() == secret.sets();
            if self.secrets[..at].iter().any(other) {
                return refuse("secrets", format!("{:?}, or its variable, stands there twice", secret.name));
            }
        }
        Ok(())
    }
}

/// Whether this can name a secret, and a file.
pub fn is_secret_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(fits)
}

/// Whether a part of a path names something in its folder.
fn is_plain(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains('\0') && part.len() <= limits::PATH_PART_BYTES
}

fn check_number(field: &'static str, number: usize, most: usize) -> Result<(), InvalidSpec> {
    if number <= most { Ok(()) } else { refuse(field, format!("are {number}; {most} at most")) }
}

fn check_path(field: &'static str, path: &str) -> Result<(), InvalidSpec> {
    if path.len() <= limits::PATH_BYTES && path.split('/').all(is_plain) {
        return Ok(());
    }
    let shown: String = path.chars().take(80).collect();
    let most = limits::PATH_PART_BYTES;
    let rule = format!("no leading /, no . or .., no NUL, no part of more than {most} bytes");
    refuse(field, format!("{shown:?} is not a path below the work folder: {rule}"))
}

/// No path is another one, or lies below it.
fn check_apart(field: &'static str, paths: &[&str]) -> Result<(), InvalidSpec> {
    let mut sorted: Vec<Vec<&str>> = paths.iter().map(|path| path.split('/').collect()).collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
        None => Ok(()),
        Some(pair) => {
            let (above, below) = (pair[0].join("/"), pair[1].join("/"));
            refuse(field, format!("{above:?} and {below:?} are one, or one lies in the other: keep one"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(path: &str, source: InputSource) -> InputFile {
        InputFile { path: path.into(), source, digest: None, executable: false }
    }

    fn content(path: &str) -> InputFile {
        input(path, InputSource::Content(vec![0; 8]))
    }

    fn secret(name: &str, variable: Option<&str>) -> SecretUse {
        SecretUse { name: name.into(), variable: variable.map(String::from) }
    }

    #[test]
    fn what_could_leave_the_work_folder_is_refused() {
        for path in ["", "/etc/passwd", "..", "a/../../b", "a//b", "./a", "a/", "nul\0", &"x".repeat(5000)] {
            let inputs = TaskFiles { inputs: vec![content(path)], ..TaskFiles::default() };
            assert!(inputs.check().unwrap_err().to_string().contains("below the work folder"), "{path:?}");
            let outputs = vec![OutputPath { path: path.into(), optional: true }];
            let outputs = TaskFiles { outputs, ..TaskFiles::default() };
            assert!(outputs.check().unwrap_err().to_string().contains("below the work folder"), "{path:?}");
        }
        for path in ["relative", "/a/../b", "/", "//a"] {
            let file = input("a", InputSource::File(path.into()));
            let files = TaskFiles { inputs: vec![file], ..TaskFiles::default() };
            assert!(files.check().unwrap_err().to_string().contains("absolute path"), "{path:?}");
        }
    }

    #[test]
    fn files_that_overwrite_each_other_are_refused() {
        let refused = |paths: &[&str]| {
            let inputs = paths.iter().map(|path| content(path)).collect();
            TaskFiles { inputs, ..TaskFiles::default() }.check().is_err()
        };
        assert!(refused(&["a", "b", "a"]) && refused(&["a/b", "a"]) && refused(&["a", "a-b", "a/b"]));
        assert!(!refused(&["a/b", "a/c", "ab", "a-b"]));
    }

    #[test]
    fn too_much_inline_is_refused() {
        let large = input("a", InputSource::Content(vec![0; limits::INLINE_BYTES]));
        let mut files = TaskFiles { inputs: vec![large], ..TaskFiles::default() };
        files.check().unwrap();
        assert!(files.weight() > limits::INLINE_BYTES);
        files.inputs.push(content("b"));
        assert!(files.check().unwrap_err().to_string().contains("bytes inline"));
    }

    #[test]
    fn secrets_are_named_and_set_one_variable_each() {
        let check =
            |secrets: &[SecretUse]| TaskFiles { secrets: secrets.to_vec(), ..TaskFiles::default() }.check();
        assert_eq!(secret("db-password.v2", None).sets(), "DB_PASSWORD_V2_FILE");
        check(&[secret("a", None), secret("b", Some("A")), secret("c.d", None)]).unwrap();
        for wrong in ["", ".hidden", "a/b", "ä", &"x".repeat(65)] {
            assert!(check(&[secret(wrong, None)]).is_err(), "{wrong:?}");
        }
        assert!(check(&[secret("a", None), secret("a", Some("B"))]).is_err());
        assert!(check(&[secret("a-b", None), secret("a.b", None)]).is_err(), "both would be A_B_FILE");
        assert!(check(&[secret("a", Some("STINT_TASK_ID"))]).is_err());
    }
}
