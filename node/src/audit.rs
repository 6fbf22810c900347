//! Who asked this peer for what, from where, and whether it may: a file beside the log, in lines of JSON. It is bounded, and
//! no trouble with its disk stops the peer.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::limits;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditLine {
    /// In milliseconds since 1970.
    pub at_ms: u64,
    pub allowed: bool,
    /// As which the caller was let in: `local_user 1000`; none: it was not.
    pub who: Option<String>,
    pub tenant: Option<String>,
    pub role: Option<String>,
    /// The machine that it called from; none: this one.
    pub from: Option<SocketAddr>,
    /// What it asked for; none: it did not come to that.
    pub operation: Option<String>,
    /// The tenant that it asked about.
    pub of: Option<String>,
    /// Why it was refused.
    pub why: Option<String>,
}

/// Where lines go. They are written by a thread of their own, so that nobody waits for the disk.
pub struct AuditLog {
    lines: SyncSender<String>,
    /// Lines that are missing, as the disk is slow or too much was refused at once.
    missed: AtomicU64,
    /// Refusals in this second, of each kind.
    refusals: Mutex<[(Option<Instant>, u32); 3]>,
}

/// What was refused. Each kind has a bound of its own: who asks for little in vain does not hide who tried more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A caller that was not let in.
    Stranger,
    Reading,
    Changing,
}

impl AuditLog {
    /// Lines go to this file; what does not fit any more to ones beside it, of which the oldest goes.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let (lines, taken) = sync_channel(limits::AUDIT_LINES_AHEAD);
        std::thread::Builder::new().name("audit".into()).spawn(move || Writer::new(path).run(&taken))?;
        Ok(Self { lines, missed: AtomicU64::new(0), refusals: Mutex::default() })
    }

    /// Adds a line.
    pub fn add(&self, line: &AuditLine) {
        let missed = self.missed.swap(0, Relaxed);
        let text = serde_json::to_string(line).unwrap_or_default();
        let text = match missed {
            0 => text + "\n",
            missed => format!("{{\"missed_lines\":{missed}}}\n{text}\n"),
        };
        match self.lines.try_send(text) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => drop(self.missed.fetch_add(missed + 1, Relaxed)),
        }
    }

    /// Adds a refusal: so many a second, so that who asks in vain does not push out what others did.
    pub fn add_refusal(&self, refused: Refused, line: &AuditLine) {
        let mut all = self.refusals.lock().unwrap_or_else(|e| e.into_inner());
        let (since, count) = &mut all[refused as usize];
        if since.is_none_or(|since| since.elapsed() >= Duration::from_secs(1)) {
            (*since, *count) = (Some(Instant::now()), 0);
        }
        *count += 1;
        match *count > limits::AUDIT_REFUSALS {
            true => drop(self.missed.fetch_add(1, Relaxed)),
            false => self.add(line),
        }
    }
}

/// Writes lines until nobody sends any.
struct Writer {
    path: PathBuf,
    file: Option<(File, u64)>,
    said: Option<Instant>,
}

impl Writer {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, said: None }
    }

    fn run(mut self, lines: &Receiver<String>) {
        while let Ok(mut text) = lines.recv() {
            text.extend(lines.try_iter().take(limits::AUDIT_LINES_AHEAD));
            if let Err(error) = self.write(&text) {
                self.file = None;
                if self.said.is_none_or(|said| said.elapsed() >= limits::FULL_FRONT_LINE) {
                    self.said = Some(Instant::now());
                    tracing::warn!(file = %self.path.display(), %error, "audit lines cannot be written and are missing");
                }
            }
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(open(&self.path)?);
        }
        let Some((file, size)) = &mut self.file else { return Ok(()) };
        file.write_all(text.as_bytes())?;
        *size += text.len() as u64;
        if *size >= limits::AUDIT_FILE_BYTES {
            self.file = None;
            rotate(&self.path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// `audit.jsonl` becomes `audit.jsonl.1`, that `audit.jsonl.2`, and so on.
fn rotate(path: &Path) -> io::Result<()> {
    let older = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    for number in (1..limits::AUDIT_FILES).rev() {
        match std::fs::rename(older(number), older(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, older(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn line(number: usize) -> AuditLine {
        AuditLine {
            at_ms: number as u64,
            allowed: false,
            who: None,
            tenant: None,
            role: None,
            from: Some(([10, 0, 0, 1], 9).into()),
            operation: None,
            of: None,
            why: Some("x".repeat(1_000)),
        }
    }

    fn until(holds: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < until, "it does not come to that");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn lines_are_the_owners_alone_and_the_files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut writer = Writer::new(path.clone());
        let text = serde_json::to_string(&line(7)).unwrap() + "\n";
        let lines = limits::AUDIT_FILE_BYTES as usize / text.len() + 1;
        for _ in 0..lines * (limits::AUDIT_FILES as usize + 3) {
            writer.write(&text).unwrap();
        }
        let files: Vec<u64> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert!(files.len() <= limits::AUDIT_FILES as usize + 1, "{files:?}");
        assert!(files.iter().all(|size| *size <= limits::AUDIT_FILE_BYTES + text.len() as u64), "{files:?}");
        let first = folder.path().join("audit.jsonl.1");
        assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
        let read: serde_json::Value =
            serde_json::from_str(std::fs::read_to_string(first).unwrap().lines().next().unwrap()).unwrap();
        assert_eq!((&read["at_ms"], &read["from"]), (&7.into(), &"10.0.0.1:9".into()));
    }

    #[test]
    fn a_disk_that_fails_stops_nothing_and_lines_come_again_when_it_is_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone/audit.jsonl");
        let log = AuditLog::open(path.clone()).unwrap();
        log.add(&line(1));
        std::thread::sleep(Duration::from_millis(20));
        std::fs::create_dir(folder.path().join("gone")).unwrap();
        until(|| {
            log.add(&line(2));
            path.exists()
        });
    }

    #[test]
    fn refusals_push_out_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = AuditLog::open(path.clone()).unwrap();
        let began = Instant::now();
        (0..1_000).for_each(|number| log.add_refusal(Refused::Reading, &line(number)));
        log.add_refusal(Refused::Changing, &line(4_000));
        let seconds = began.elapsed().as_secs() as usize + 1;
        log.add(&line(5_000));
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        until(|| read().contains("\"at_ms\":5000"));
        let text = read();
        assert!(
            text.lines().count() <= seconds * limits::AUDIT_REFUSALS as usize + 3,
            "{}",
            text.lines().count()
        );
        assert!(text.contains("\"missed_lines\":") && text.contains("\"at_ms\":4000"), "{text}");
    }
}
