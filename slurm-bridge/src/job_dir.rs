//! The real job folder: a folder on a file system that Slurm's nodes see at the same path.
//!
//! `FOLDER/OWNER/TASK.ATTEMPT/` holds `record` (for this node alone), `script`, `go` (written here, read by the
//! job) and `job/`, which is the job's: `ask`, `exit`, `stdout`, `stderr`, `work/`. What the job wrote is read with care:
//! it may be anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use minicbor::{Decode, Encode};
use rustix::fs::OFlags;
use stint_executor::{KeepEnded, Launch, LogChunk, LogError, LogStream, read_progress};
use stint_protocol::{LeaseId, TaskId};
use tokio::sync::Semaphore;

use crate::doors::{
    BoxFuture, JobCommand, JobDir, JobId, JobRecord, JobReport, ProgramExit, StoppedBy, TimeGrant,
};
use crate::limits;
use crate::script;

/// How one node uses the folder.
#[derive(Clone, Debug)]
pub struct JobDirOptions {
    /// As Slurm's nodes see it, too.
    pub folder: PathBuf,
    /// The identity of this node's data folder: other nodes and clusters may use the same folder.
    pub owner: String,
    /// Who jobs run as, when that is not who this node runs as.
    pub user: Option<(u32, u32)>,
    pub keep_ended: KeepEnded,
}

/// The job folder; a copy is the same one.
#[derive(Clone)]
pub struct SharedJobDir(Arc<Inner>);

struct Inner {
    settings: JobDirOptions,
    root: PathBuf,
    boot: String,
    /// The last revision written of each attempt's record and grant.
    written: Mutex<BTreeMap<(LeaseId, &'static str), u64>>,
    /// Folders that may go, by when they were marked, in seconds since 1970.
    marked: Mutex<BTreeSet<(i64, LeaseId)>>,
    /// Bounds the threads that wait for the file system.
    hands: Arc<Semaphore>,
}

/// A record with the boot that its times belong to.
#[derive(Encode, Decode)]
pub(crate) struct ReadJob {
    #[n(0)]
    boot: String,
    #[n(1)]
    record: JobRecord,
}

/// What lay in the job folder.
pub struct LeftJobs {
    pub records: Vec<JobRecord>,
    /// False: some of it cannot be accounted for.
    pub accounted: bool,
    /// What that is.
    pub lost: Vec<LeaseId>,
}

/// Where the kernel says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The name of an attempt's folder.
fn name_of(lease: LeaseId) -> String {
    format!("{}.{}", lease.task, lease.attempt)
}

/// Reads such a name.
pub fn lease_of(name: &str) -> Option<LeaseId> {
    let (task, attempt) = name.rsplit_once('.')?;
    Some(LeaseId { task: task.parse::<TaskId>().ok()?, attempt: attempt.parse().ok()? })
}

impl SharedJobDir {
    /// As [`SharedJobDir::open`], for a file system that may hang: an error after this time.
    pub fn open_within(settings: JobDirOptions, time: Duration) -> Result<(Self, LeftJobs), String> {
        let folder = settings.folder.clone();
        let (send, result) = mpsc::sync_channel(1);
        let open = move || {
            // Nobody may be there any more.
            let _ = send.send(Self::open(settings));
        };
        std::thread::Builder::new()
            .name("slurm-folder".into())
            .spawn(open)
            .map_err(|e| format!("a thread for the folder that Slurm's nodes see: {e}"))?;
        result.recv_timeout(time).unwrap_or_else(|_| {
            Err(format!(
                "executor.slurm.folder {} does not answer within {} s: see that its file system is mounted and its \
                 server is up, then start this node again",
                folder.display(),
                time.as_secs()
            ))
        })
    }

    /// Makes this node's part of the folder and reads what lies there. Errors are in words for the operator.
    pub fn open(settings: JobDirOptions) -> Result<(Self, LeftJobs), String> {
        let root = settings.folder.join(&settings.owner);
        let failed = |what: &str, e: &io::Error| format!("{what} {}: {e}", root.display());
        fs::metadata(&settings.folder).map_err(|e| {
            format!(
                "executor.slurm.folder {}: {e}: make it, on a file system that Slurm's nodes see at the same path",
                settings.folder.display()
            )
        })?;
        // A folder that was not there before may be another one than last time, or not mounted.
        let is_new = !root.is_dir();
        let made = fs::DirBuilder::new().mode(0o711).create(&root);
        match made {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("making the folder that Slurm's nodes see,", &e));
            }
            _ => {}
        }
        let boot = fs::read_to_string(BOOT_ID).map_err(|e| format!("reading {BOOT_ID}: {e}"))?;
        let job_dir = Self(Arc::new(Inner {
            settings,
            root: root.clone(),
            boot: boot.trim().into(),
            written: Mutex::default(),
            marked: Mutex::default(),
            hands: Arc::new(Semaphore::new(limits::FILES)),
        }));
        fs::set_permissions(&root, Permissions::from_mode(0o711)).map_err(|e| failed("opening", &e))?;
        let mut found = job_dir.read_all().map_err(|e| failed("reading the folder", &e))?;
        found.accounted &= !is_new;
        Ok((job_dir, found))
    }

    fn read_all(&self) -> io::Result<LeftJobs> {
        let mut found = LeftJobs { records: Vec::new(), accounted: true, lost: Vec::new() };
        for slurm_job in fs::read_dir(&self.0.root)? {
            let path = slurm_job?.path();
            let named = path.file_name().and_then(|name| lease_of(name.to_str()?));
            let Some(lease) = named else { continue };
            if let Ok(mark) = fs::metadata(path.join("done")) {
                self.marked().insert((mark.mtime(), lease));
                continue;
            }
            match self.read(lease) {
                Ok(Some(stored)) if stored.boot == self.0.boot || stored.record.end.is_some() => {
                    found.records.push(stored.record);
                }
                // Nothing was handed over before there is a record, so it may go; one that is given again is made anew.
                Ok(None) => self.give_up(&[lease]),
                // Of another boot its times mean nothing; what runs there ends when its time is over.
                Ok(Some(_)) | Err(_) => {
                    found.accounted = false;
                    found.lost.push(lease);
                }
            }
        }
        Ok(found)
    }

    fn read(&self, lease: LeaseId) -> io::Result<Option<ReadJob>> {
        let bytes = match fs::read(self.folder(lease).join("record")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let stored: ReadJob = minicbor::decode(&bytes)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        // What is written from now on is later.
        self.in_order((lease, "record"), stored.record.revision, || Ok(()))?;
        Ok(Some(stored))
    }

    /// Writes, unless a later revision was written: nobody else writes meanwhile.
    fn in_order(
        &self,
        (lease, what): (LeaseId, &'static str),
        revision: u64,
        write: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut written = self.0.written.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let last = written.entry((lease, what)).or_default();
        if revision < *last {
            return Ok(());
        }
        write()?;
        *last = revision;
        Ok(())
    }

    /// The folder of an attempt.
    pub fn folder(&self, lease: LeaseId) -> PathBuf {
        self.0.root.join(name_of(lease))
    }

    /// The script of an attempt.
    pub fn script(&self, lease: LeaseId) -> PathBuf {
        self.folder(lease).join("script")
    }

    fn make(&self, launch: &Launch) -> io::Result<()> {
        let folder = self.folder(launch.lease);
        if folder.join("record").exists() {
            return Ok(());
        }
        // Nothing was handed over of what has no record; what lies there may be anything by now.
        if folder.exists() {
            self.marked().retain(|(_, other)| *other != launch.lease);
            fs::remove_dir_all(&folder)?;
        }
        let job = folder.join("job");
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&folder)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(job.join("work"))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o711))?;
        let text = script::text(launch, &folder.to_string_lossy());
        fs::write(folder.join("script"), text)?;
        fs::set_permissions(folder.join("script"), Permissions::from_mode(0o500))?;
        if let Some((uid, gid)) = self.0.settings.user {
            for path in [folder.join("script"), job.join("work"), job] {
                lchown(path, Some(uid), Some(gid))?;
            }
        }
        Ok(())
    }

    fn write_record(&self, record: JobRecord) -> io::Result<()> {
        let (lease, revision) = (record.lease, record.revision);
        let folder = self.folder(lease);
        let stored = ReadJob { boot: self.0.boot.clone(), record };
        let bytes = minicbor::to_vec(&stored).map_err(io::Error::other)?;
        self.in_order((lease, "record"), revision, || {
            let new = folder.join("record.new");
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(new, folder.join("record"))?;
            File::open(folder)?.sync_all()
        })
    }

    /// Writes over the line in place: who opens the file sees the old one or the new one, also over NFS, where a new
    /// file under an old name may stay unseen for a minute.
    fn write_grant(&self, lease: LeaseId, grant: TimeGrant) -> io::Result<()> {
        let order = match grant.command {
            JobCommand::Run => "run",
            JobCommand::Term => "term",
            JobCommand::Kill => "kill",
        };
        let line = format!("{} {} {order} .", grant.number, grant.left_ms / 1_000);
        let path = self.folder(lease).join("go");
        self.in_order((lease, "go"), grant.revision, || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.write_all_at(format!("{line:<63}\n").as_bytes(), 0)?;
            file.sync_data()
        })
    }

    /// Marks folders of which nothing can be said any more: they go with those of ended attempts.
    pub fn give_up(&self, lost: &[LeaseId]) {
        for lease in lost {
            if let Err(e) = self.mark(*lease) {
                tracing::warn!(%lease, error = %e, "the folder of a lost attempt could not be marked");
            }
        }
    }

    fn marked(&self) -> MutexGuard<'_, BTreeSet<(i64, LeaseId)>> {
        self.0.marked.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Marks a folder as one that may go; answers when, by the clock of the file system.
    fn mark(&self, lease: LeaseId) -> io::Result<i64> {
        let path = self.folder(lease).join("done");
        fs::write(&path, "")?;
        let at = fs::metadata(&path)?.mtime();
        self.marked().insert((at, lease));
        Ok(at)
    }

    fn read_report(&self, lease: LeaseId) -> io::Result<JobReport> {
        let job = self.folder(lease).join("job");
        Ok(report(line(&job.join("ask"))?, line(&job.join("exit"))?))
    }

    fn read_output(
        &self,
        lease: LeaseId,
        stream: LogStream,
        from: From,
        max: usize,
    ) -> Result<LogChunk, LogError> {
        let path = self.folder(lease).join("job").join(stream.as_str());
        let mut file = match open_foreign(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(LogError::NotFound(lease)),
            opened => opened.map_err(|source| LogError::Read { lease, source })?,
        };
        let read = |file: &mut File| -> io::Result<LogChunk> {
            let size = file.metadata()?.len();
            let start = match from {
                From::Offset(offset) => offset.min(size),
                From::Tail => size.saturating_sub(max as u64),
            };
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(max as u64).read_to_end(&mut bytes)?;
            let next_offset = start + bytes.len() as u64;
            Ok(LogChunk { bytes, next_offset, complete: next_offset >= size })
        };
        read(&mut file).map_err(|source| LogError::Read { lease, source })
    }

    /// Marks the folder as one that may go, and removes those that have been marked for long enough.
    fn retire(&self, lease: LeaseId) -> io::Result<()> {
        let mut written = self.0.written.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        written.retain(|(other, _), _| *other != lease);
        drop(written);
        let now = self.mark(lease)?;
        let keep = self.0.settings.keep_ended;
        let oldest = now - Duration::from_millis(keep.age_ms).as_secs() as i64;
        loop {
            let next = {
                let mut marked = self.marked();
                let surplus = marked.len() > keep.count;
                match marked.first() {
                    Some((at, _)) if surplus || *at < oldest => marked.pop_first(),
                    _ => None,
                }
            };
            // One that stays is looked at again by the next process.
            let Some((_, lease)) = next else { return Ok(()) };
            match fs::remove_dir_all(self.folder(lease)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%lease, error = %e, "the folder of an ended attempt stays");
                }
                _ => {}
            }
        }
    }
}

/// Where a piece of output begins.
#[derive(Clone, Copy)]
enum From {
    Offset(u64),
    Tail,
}

/// Opens what a job made: a regular file and nothing else, and never waits for it.
fn open_foreign(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other(format!("{} is no regular file", path.display())))
}

/// What a job says in its files.
pub(crate) fn report(ask: Option<String>, exit: Option<String>) -> JobReport {
    let ask = ask.and_then(|line| {
        let (number, job) = line.split_once(' ')?;
        Some((number.parse().ok()?, JobId(job.parse().ok()?)))
    });
    let exit = exit.and_then(|line| match line.split_once(' ') {
        Some((word @ ("code" | "told" | "slurm"), code)) => {
            let by = match word {
                "told" => StoppedBy::Node,
                "slurm" => StoppedBy::Slurm,
                _ => StoppedBy::Itself,
            };
            Some(ProgramExit::Code { code: code.parse().ok()?, by })
        }
        _ if line == "missing" => Some(ProgramExit::NotRunnable),
        Some(("late", _)) => Some(ProgramExit::OutOfTime),
        _ => None,
    });
    JobReport { ask, exit }
}

/// The line of a file that a job wrote; none when there is none yet.
fn line(path: &Path) -> io::Result<Option<String>> {
    let file = match open_foreign(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(limits::LINE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(whole_line(&bytes))
}

/// A line that is whole.
pub(crate) fn whole_line(bytes: &[u8]) -> Option<String> {
    String::from_utf8_lossy(bytes).trim_end().strip_suffix(" .").map(str::to_owned)
}

/// Does it on a thread that may wait.
fn blocking<T: Send + 'static>(
    job_dir: &SharedJobDir,
    work: impl FnOnce(&SharedJobDir) -> T + Send + 'static,
    lost: impl FnOnce() -> T + Send + 'static,
) -> BoxFuture<T> {
    let job_dir = job_dir.clone();
    Box::pin(async move {
        // Held by the thread, also after whoever asked went away: a folder that hangs takes so many threads and no more.
        let hand = job_dir.0.hands.clone().acquire_owned().await;
        let work = move || {
            let _hand = hand;
            work(&job_dir)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| lost())
    })
}

fn with_error_text<T: Send + 'static>(
    job_dir: &SharedJobDir,
    what: &'static str,
    lease: LeaseId,
    work: impl FnOnce(&SharedJobDir) -> io::Result<T> + Send + 'static,
) -> BoxFuture<Result<T, String>> {
    let message = move |job_dir: &SharedJobDir, e: io::Error| {
        format!("{what} in {}: {e}", job_dir.folder(lease).display())
    };
    let done = move |job_dir: &SharedJobDir| work(job_dir).map_err(|e| message(job_dir, e));
    blocking(job_dir, done, move || Err(format!("{what}: the node stops")))
}

impl JobDir for SharedJobDir {
    fn prepare(&self, launch: &Launch) -> BoxFuture<Result<(), String>> {
        let launch = launch.clone();
        with_error_text(self, "making the script", launch.lease, move |job_dir| job_dir.make(&launch))
    }

    fn store(&self, record: JobRecord) -> BoxFuture<Result<(), String>> {
        with_error_text(self, "writing the record", record.lease, move |job_dir| job_dir.write_record(record))
    }

    fn read_report(&self, lease: LeaseId) -> BoxFuture<Result<JobReport, String>> {
        with_error_text(self, "reading what its job wrote", lease, move |job_dir| job_dir.read_report(lease))
    }

    fn grant(&self, lease: LeaseId, grant: TimeGrant) -> BoxFuture<Result<(), String>> {
        with_error_text(self, "giving its job time", lease, move |job_dir| job_dir.write_grant(lease, grant))
    }

    fn forget(&self, lease: LeaseId) -> BoxFuture<Result<(), String>> {
        with_error_text(self, "marking its end", lease, move |job_dir| job_dir.retire(lease))
    }

    fn read_log(
        &self,
        lease: LeaseId,
        stream: LogStream,
        offset: u64,
        max: usize,
    ) -> BoxFuture<Result<LogChunk, LogError>> {
        let read =
            move |job_dir: &SharedJobDir| job_dir.read_output(lease, stream, From::Offset(offset), max);
        blocking(self, read, move || Err(LogError::NotFound(lease)))
    }

    fn progress(&self, lease: LeaseId) -> BoxFuture<Result<LogChunk, LogError>> {
        let read = move |job_dir: &SharedJobDir| {
            let failed = |source| LogError::Read { lease, source };
            let said = read_progress(&job_dir.folder(lease).join("job"), None).map_err(failed)?;
            Ok(said.map_or_else(LogChunk::default, |said| said.to_chunk()))
        };
        blocking(self, read, move || Err(LogError::NotFound(lease)))
    }

    fn log_tail(
        &self,
        lease: LeaseId,
        stream: LogStream,
        max: usize,
    ) -> BoxFuture<Result<LogChunk, LogError>> {
        let read = move |job_dir: &SharedJobDir| job_dir.read_output(lease, stream, From::Tail, max);
        blocking(self, read, move || Err(LogError::NotFound(lease)))
    }
}
