//! How far a program says it is: lines of JSON, or `N/M`, in the file named by `STINT_PROGRESS_FILE`, or lines of its
//! stdout that begin with a marker (docs/using/results.md#progress). Looked at when somebody asks; nothing is kept in
//! memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use stint_protocol::limits::clip;

use crate::host::LogChunk;
use crate::limits;
use crate::stages::mask::Masks;

/// The file's name in the work folder.
pub const FILE: &str = ".stint-progress";
/// What a line of stdout begins with; the second is that of the published clients.
const MARKERS: [&str; 2] = ["__STINT_PROGRESS__:", "__DSPY_PROGRESS__:"];

/// The last thing that a program said about its progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// 0 to 100.
    pub percent: Option<f64>,
    pub step: Option<String>,
    pub current: Option<f64>,
    pub total: Option<f64>,
    pub message: Option<String>,
    pub eta_seconds: Option<f64>,
    pub metrics: BTreeMap<String, f64>,
}

/// What an attempt said last, its file before its stdout, with its secrets hidden. A record in which one stands where JSON
/// has no room for stars, as a number, is passed over.
pub fn read(folder: &Path, masks: Option<&Masks>) -> io::Result<Option<Progress>> {
    // Nobody knows its secrets any more, so nothing is known to hold none.
    if masks == Some(&Masks::Unknown) {
        return Ok(None);
    }
    let hidden = |mut bytes: Vec<u8>| {
        masks.map(|masks| masks.cover(&mut bytes));
        bytes
    };
    let parse = |line: &[u8]| parse(line, masks);
    let said = hidden(last_lines(&folder.join("work").join(FILE))?);
    if let Some(found) = said.rsplit(|byte| *byte == b'\n').find_map(parse) {
        return Ok(Some(found));
    }
    let printed = hidden(last_lines(&folder.join("stdout"))?);
    let marked = |line: &[u8]| {
        let text = std::str::from_utf8(line).ok()?;
        MARKERS.iter().find_map(|marker| parse(text.strip_prefix(marker)?.as_bytes()))
    };
    Ok(printed.rsplit(|byte| *byte == b'\n').find_map(marked))
}

/// Leaves of an attempt that has ended only what it said last, with its secrets hidden: nobody can hide them later.
pub fn keep_last(folder: &Path, masks: &Masks) -> io::Result<()> {
    let last = read(folder, Some(masks))?;
    let path = folder.join("work").join(FILE);
    // Whatever the program put there goes, and is not written through: it may be a link.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => return Ok(()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let Some(last) = last else { return Ok(()) };
    let mut line = serde_json::to_vec(&last)?;
    line.push(b'\n');
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all_at(&line, 0)
}

/// The end of a file up to its last line break: the line after it may not be whole yet. What is not there, or is no
/// plain file, says nothing.
fn last_lines(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ELOOP) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Vec::new());
    }
    let from = meta.size().saturating_sub(limits::PROGRESS_TAIL_BYTES);
    let mut bytes = vec![0; (meta.size() - from) as usize];
    let read = file.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    // The first line may have begun before.
    let first = if from > 0 {
        bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
    } else {
        0
    };
    Ok(bytes.split_off(first))
}

/// One record; none when it is not one.
pub(crate) fn parse(line: &[u8], masks: Option<&Masks>) -> Option<Progress> {
    let text = std::str::from_utf8(line).ok()?.trim();
    if text.is_empty() || text.len() > limits::PROGRESS_LINE_BYTES {
        return None;
    }
    let mut progress = match text.starts_with('{') {
        true => serde_json::from_str(text).ok()?,
        false => fraction(text)?,
    };
    progress.complete(masks)?;
    Some(progress)
}

/// `N/M`.
fn fraction(text: &str) -> Option<Progress> {
    let (current, total) = text.split_once('/')?;
    let number = |text: &str| text.trim().parse::<u64>().ok().map(|number| number as f64);
    Some(Progress { current: Some(number(current)?), total: Some(number(total)?), ..Progress::default() })
}

impl Progress {
    /// As `Host::progress` answers.
    pub fn to_chunk(&self) -> LogChunk {
        // Numbers and names: it always has a form in JSON.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        LogChunk { next_offset: bytes.len() as u64, bytes, complete: false }
    }

    /// Fills in the share from the numbers; none when they make no sense. Texts are cut after secrets are hidden: what JSON
    /// wrote in another way is itself only now.
    fn complete(&mut self, masks: Option<&Masks>) -> Option<()> {
        let sensible = |number: &f64| number.is_finite() && *number >= 0.0;
        let numbers = [self.percent, self.current, self.total, self.eta_seconds];
        let right = numbers.iter().flatten().all(sensible)
            && self.percent.is_none_or(|percent| percent <= 100.0)
            && self.current.zip(self.total).is_none_or(|(current, total)| current <= total);
        if !right || self.metrics.len() > limits::PROGRESS_METRICS {
            return None;
        }
        if let (None, Some(current), Some(total)) = (self.percent, self.current, self.total) {
            self.percent = Some(if total > 0.0 { current / total * 100.0 } else { 100.0 });
        }
        let hide = |text: String| masks.map_or(text.clone(), |masks| masks.hide(text));
        self.message = self.message.take().map(|text| clip(hide(text)));
        self.step = self.step.take().map(|text| clip(hide(text)));
        let metrics = std::mem::take(&mut self.metrics);
        self.metrics = metrics.into_iter().map(|(name, value)| (hide(name), value)).collect();
        (self.percent.is_some() || self.step.is_some() || self.message.is_some()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(file: &str, stdout: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        std::fs::write(folder.path().join("work").join(FILE), file).unwrap();
        std::fs::write(folder.path().join("stdout"), stdout).unwrap();
        folder
    }

    fn percent(file: &str, stdout: &str) -> Option<f64> {
        read(attempt(file, stdout).path(), None).unwrap().and_then(|progress| progress.percent)
    }

    #[test]
    fn the_last_whole_record_counts() {
        assert_eq!(percent("{\"percent\": 10}\n3/4\n", ""), Some(75.0));
        assert_eq!(percent("1/4\n{\"percent\": 5", ""), Some(25.0), "a line that is being written");
        assert_eq!(percent("", "a\n__DSPY_PROGRESS__:{\"current\":1,\"total\":2}\nb\n"), Some(50.0));
        assert_eq!(percent("1/10\n", "__STINT_PROGRESS__:9/10\n"), Some(10.0), "the file comes first");
        let said = read(attempt("{\"step\":\"load\",\"metrics\":{\"loss\":0.5}}\n", "").path(), None)
            .unwrap()
            .unwrap();
        assert_eq!((said.step.as_deref(), said.metrics["loss"], said.percent), (Some("load"), 0.5, None));
    }

    #[test]
    fn records_without_sense_are_passed_over() {
        let wrong =
            "7/3\n{\"percent\": 120}\n{\"percent\": -1}\nhello\n{}\n{\"percent\": \"x\"}\n-1/3\n\u{e9}\n";
        assert_eq!(percent(&format!("1/2\n{wrong}"), ""), Some(50.0));
        assert_eq!(percent(wrong, ""), None);
        let long =
            format!("1/2\n{{\"percent\":3,\"message\":\"{}\"}}\n", "x".repeat(limits::PROGRESS_LINE_BYTES));
        assert_eq!(percent(&long, ""), Some(50.0));
    }

    #[test]
    fn only_the_end_of_a_long_file_is_read_and_no_link_is_followed() {
        let long = format!("{}9/10\n", "1/10\n".repeat(100_000));
        assert_eq!(percent(&long, ""), Some(90.0));
        let folder = attempt("", "");
        let file = folder.path().join("work").join(FILE);
        std::fs::remove_file(&file).unwrap();
        std::fs::write(folder.path().join("other"), "1/2\n").unwrap();
        std::os::unix::fs::symlink("../other", &file).unwrap();
        assert_eq!(read(folder.path(), None).unwrap(), None);
    }

    #[test]
    fn secrets_are_hidden_however_json_writes_them() {
        let masks = Masks::for_values(&[b"p4ss\"w0rd".to_vec(), b"40712345678".to_vec()]);
        let said = |file: &str| read(attempt(file, "").path(), Some(&masks)).unwrap();
        let message = |file: &str| said(file).unwrap().message.unwrap();
        assert_eq!(
            message(
                r#"{"message":"it is p4ss\"w0rd"}
"#
            ),
            "it is *********"
        );
        assert_eq!(
            message(
                r#"{"message":"\u0070\u0034ss\"w0rd"}
"#
            ),
            "*********"
        );
        let long = "x".repeat(1_020);
        assert!(
            !message(&format!("{{\"message\":\"{long}p4ss\\\"w0rd\"}}\n")).contains("p4ss"),
            "cut within one"
        );
        let named = said("{\"percent\":1,\"metrics\":{\"40712345678\":1}}\n").unwrap();
        assert_eq!(named.metrics.keys().collect::<Vec<_>>(), ["***********"]);
        assert_eq!(said("{\"percent\":1,\"current\":40712345678}\n"), None);
        assert_eq!(read(attempt("1/2\n", "").path(), Some(&Masks::Unknown)).unwrap(), None);
    }

    #[test]
    fn what_is_left_of_an_attempt_holds_no_secret_and_no_link_is_written_through() {
        let masks = Masks::for_values(&[b"p4ss\"w0rd".to_vec()]);
        let marked = "__STINT_PROGRESS__:{\"message\":\"p4ss\\\"w0rd\"}\n";
        let folder = attempt("", marked);
        let file = folder.path().join("work").join(FILE);
        let target = folder.path().join("other");
        std::fs::write(&target, "p4ss\"w0rd 1/2\n").unwrap();
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("../other", &file).unwrap();
        keep_last(folder.path(), &masks).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "p4ss\"w0rd 1/2\n");
        let after = read(folder.path(), None).unwrap().unwrap();
        assert_eq!(after.message.as_deref(), Some("*********"), "also what stdout says in another way");
        keep_last(folder.path(), &Masks::Unknown).unwrap();
        assert!(!file.exists());
        std::fs::create_dir(&file).unwrap();
        keep_last(folder.path(), &masks).unwrap();
    }
}
