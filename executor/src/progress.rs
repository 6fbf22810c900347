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

/// What an attempt said last, its file before its stdout.
pub fn read(folder: &Path) -> io::Result<Option<Progress>> {
    let said = last_lines(&folder.join("work").join(FILE))?;
    if let Some(found) = said.rsplit(|byte| *byte == b'\n').find_map(parse) {
        return Ok(Some(found));
    }
    let printed = last_lines(&folder.join("stdout"))?;
    let marked = |line: &[u8]| {
        let text = std::str::from_utf8(line).ok()?;
        MARKERS.iter().find_map(|marker| parse(text.strip_prefix(marker)?.as_bytes()))
    };
    Ok(printed.rsplit(|byte| *byte == b'\n').find_map(marked))
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
fn parse(line: &[u8]) -> Option<Progress> {
    let text = std::str::from_utf8(line).ok()?.trim();
    if text.is_empty() || text.len() > limits::PROGRESS_LINE_BYTES {
        return None;
    }
    let mut progress = match text.starts_with('{') {
        true => serde_json::from_str(text).ok()?,
        false => fraction(text)?,
    };
    progress.complete()?;
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

    /// Fills in the share from the numbers; none when they make no sense.
    fn complete(&mut self) -> Option<()> {
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
        self.message = self.message.take().map(clip);
        self.step = self.step.take().map(clip);
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
        read(attempt(file, stdout).path()).unwrap().and_then(|progress| progress.percent)
    }

    #[test]
    fn the_last_whole_record_counts() {
        assert_eq!(percent("{\"percent\": 10}\n3/4\n", ""), Some(75.0));
        assert_eq!(percent("1/4\n{\"percent\": 5", ""), Some(25.0), "a line that is being written");
        assert_eq!(percent("", "a\n__DSPY_PROGRESS__:{\"current\":1,\"total\":2}\nb\n"), Some(50.0));
        assert_eq!(percent("1/10\n", "__STINT_PROGRESS__:9/10\n"), Some(10.0), "the file comes first");
        let said =
            read(attempt("{\"step\":\"load\",\"metrics\":{\"loss\":0.5}}\n", "").path()).unwrap().unwrap();
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
        assert_eq!(read(folder.path()).unwrap(), None);
    }
}
