//! Input that can be sent more than once: a file as it is; of a pipe a copy on the disk, in a file without a name that goes
//! with this process. Memory holds one buffer of it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stint_sdk::{Source, units};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::failure::Failure;

/// Bytes that are read at once.
const PART: usize = 1 << 20;
/// Stays free on the disk of the copy, for whatever else lives there.
const RESERVE: u64 = 64 << 20;
/// Longest time until a pipe ends: as long as sending it may take, a slow line's night.
const AT_MOST: Duration = Duration::from_secs(12 * 3_600);

/// Bytes with a known size.
pub struct Spool {
    file: Arc<File>,
    begin: u64,
    pub size: u64,
}

impl Spool {
    /// All of standard input, from where it stands.
    pub async fn of_stdin(read: impl Fn(u64) + Send + 'static) -> Result<Self, Failure> {
        let input = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        Self::receive(input, "standard input", read).await
    }

    /// All of a file, or of what can be read like one: a named pipe, a process' output in the shell's `<(…)`.
    pub async fn of_path(path: &Path, read: impl Fn(u64) + Send + 'static) -> Result<Self, Failure> {
        // Of a named pipe this waits for the one who writes.
        let input = match tokio::fs::File::open(path).await {
            Ok(input) => Ok(input.into_std().await),
            Err(e) => Err(e),
        };
        Self::receive(input, &path.display().to_string(), read).await
    }

    /// `name` is how users call it; `read` is told of bytes as they are copied.
    async fn receive(
        input: io::Result<File>,
        name: &str,
        read: impl Fn(u64) + Send + 'static,
    ) -> Result<Self, Failure> {
        let unreadable = |e: io::Error| Failure::Usage(format!("cannot read {name}: {e}"));
        let mut input = input.map_err(unreadable)?;
        let found = input.metadata().map_err(unreadable)?;
        if found.is_file() {
            let begin = input.stream_position().map_err(unreadable)?;
            let size = found.len().saturating_sub(begin);
            return Ok(Self { file: Arc::new(input), begin, size });
        }
        // A thread of its own: a pipe that gives nothing must not hold up the end of this process.
        let (done, copied) = oneshot::channel();
        let owned = name.to_owned();
        std::thread::spawn(move || done.send(copy(input, &owned, &folder(), read)));
        match timeout(AT_MOST, copied).await {
            Ok(Ok(copied)) => copied,
            Ok(Err(_)) => Err(Failure::Failed(format!("{name} was not read to its end"))),
            Err(_) => {
                let hours = AT_MOST.as_secs() / 3_600;
                Err(Failure::Failed(format!("{name} did not end within {hours} hours: register a file")))
            }
        }
    }

    /// Its bytes from the beginning.
    pub fn source(&self) -> Source {
        Box::pin(Reading { file: self.file.clone(), at: self.begin, end: self.begin + self.size, part: None })
    }
}

/// Where copies are: on a disk, not in a `/tmp` that may be memory.
fn folder() -> PathBuf {
    let chosen = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let usual = || Some(PathBuf::from("/var/tmp")).filter(|folder| folder.is_dir());
    chosen.or_else(usual).unwrap_or_else(std::env::temp_dir)
}

fn copy(mut input: impl Read, name: &str, folder: &Path, read: impl Fn(u64)) -> Result<Spool, Failure> {
    let unkept = |size: u64, why: &dyn std::fmt::Display| {
        let (folder, size) = (folder.display(), units::show_bytes(size));
        Failure::Failed(format!(
            "cannot keep {name} in {folder} ({why}, after {size}): set TMPDIR to a folder with room for all of it, or \
             register a file"
        ))
    };
    let mut file = tempfile::tempfile_in(folder).map_err(|e| unkept(0, &e))?;
    let (mut buffer, mut size) = (vec![0; PART], 0);
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(Spool { file: Arc::new(file), begin: 0, size }),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Failure::Failed(format!("cannot read {name}: {e}"))),
        };
        let free = free(&file).map_err(|e| unkept(size, &e))?;
        if free < RESERVE + count as u64 {
            let why = format!("{} are left on its disk", units::show_bytes(free));
            return Err(unkept(size, &why));
        }
        file.write_all(&buffer[..count]).map_err(|e| unkept(size, &e))?;
        size += count as u64;
        read(count as u64);
    }
}

fn free(file: &File) -> io::Result<u64> {
    let found = rustix::fs::fstatvfs(file)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// One reading of the bytes, with a place of its own: an earlier one may not have let go yet.
struct Reading {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// Bytes from `at` on.
    part: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl Reading {
    fn read_part(&self) -> JoinHandle<io::Result<Vec<u8>>> {
        let (file, at) = (self.file.clone(), self.at);
        let most = usize::try_from(self.end.saturating_sub(at)).unwrap_or(PART).min(PART);
        tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; most];
            let count = file.read_at(&mut bytes, at)?;
            bytes.truncate(count);
            Ok(bytes)
        })
    }
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut part = self.part.take().unwrap_or_else(|| self.read_part());
        match Pin::new(&mut part).poll(context) {
            Poll::Pending => {
                self.part = Some(part);
                Poll::Pending
            }
            Poll::Ready(read) => {
                let bytes = read.map_err(io::Error::other)??;
                // What finds no room is read again.
                let count = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..count]);
                self.at += count as u64;
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn all(spool: &Spool) -> Vec<u8> {
        let mut bytes = Vec::new();
        spool.source().read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn what_was_copied_can_be_read_again_and_again_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * PART + 5).map(|n| n as u8).collect();
        let spool = copy(&bytes[..], "it", folder.path(), |_| {}).unwrap();
        assert_eq!(spool.size, bytes.len() as u64);
        let mut begun = spool.source();
        begun.read_exact(&mut [0; 1000]).await.unwrap();
        assert!(
            all(&spool).await == bytes && all(&spool).await == bytes,
            "an unfinished reading is no matter"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_is_read_from_where_it_stands() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let spool = Spool { file: Arc::new(file), begin: 4, size: 6 };
        assert_eq!(all(&spool).await, b"456789");
    }

    #[test]
    fn a_folder_that_cannot_take_it_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let message = copy(&b"x"[..], "it", &missing, |_| {}).err().unwrap().to_string();
        assert!(
            message.contains(&missing.display().to_string()) && message.contains("set TMPDIR"),
            "{message}"
        );
    }
}
