//! What programs write, on its way from their pipes into the files of their attempts.
//!
//! One thread moves all of it, so that neither much output nor a slow disk makes the watchdog late. It never moves anything with
//! splice(2): that keeps the pipe locked while it waits for the disk, and a program that writes then could not be killed. After its
//! start it allocates nothing and takes no lock but that of the attempt whose output it moves, because the watchdog forks.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{CWD, OFlags, openat};
use rustix::io::{Errno, ioctl_fionread, read};

use crate::limits;
use crate::sys::spawn::OutputPipes;

/// Places are made so many at a time.
const CHUNK: usize = 256;
const CHUNKS: usize = limits::ATTEMPTS / CHUNK;
/// Streams that are looked at in one turn.
const AT_ONCE: usize = 64;
const STACK_BYTES: usize = 128 * 1024;

/// The output of all attempts of a watchdog.
pub struct Outputs {
    shared: Arc<Shared>,
    made: u32,
    free: Vec<u32>,
    /// Given up while the thread was busy with them; free once it is not.
    abandoned: Vec<u32>,
}

/// What became of the output of an attempt that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub bytes: u64,
    /// Why, where the disk said it.
    pub error: Option<Errno>,
    /// The disk did not take the rest in time.
    pub is_late: bool,
}

struct Shared {
    epoll: OwnedFd,
    /// Counts what was moved for attempts that end.
    moved: OwnedFd,
    chunks: [OnceLock<Box<[Place]>>; CHUNKS],
}

/// One attempt at a time.
#[derive(Default)]
struct Place {
    /// Its attempt has ended: the watchdog waits for the rest.
    is_ending: AtomicBool,
    output: Mutex<Option<Box<[Stream; 2]>>>,
}

/// Standard output or standard error of an attempt.
struct Stream {
    pipe: OwnedFd,
    path: CString,
    /// Opened with the first byte.
    file: Option<File>,
    /// Where the next byte goes.
    at: u64,
    /// Bytes that came out of the pipe.
    taken: u64,
    /// How many there will have been when everything is out that was in the pipe at the end of the attempt. What an escaped process
    /// writes after that holds nothing up.
    ends_at: Option<u64>,
    /// Bytes that were not written, and of them those that the file does not say yet.
    lost: u64,
    unsaid: u64,
    error: Option<Errno>,
    /// Nobody has the other end open at the moment.
    is_closed: bool,
}

impl Outputs {
    /// Starts the thread. It gets the signals that its maker has blocked.
    pub fn open() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            moved: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            chunks: [const { OnceLock::new() }; CHUNKS],
        });
        // Here, where allocating is allowed. As much as a pipe holds.
        let mut buffer = vec![0; limits::OUTPUT_READ_BYTES];
        let moving = shared.clone();
        let thread = thread::Builder::new().name("stint-output".into()).stack_size(STACK_BYTES);
        thread.spawn(move || moving.run(&mut buffer))?;
        Ok(Self { shared, made: 0, free: Vec::new(), abandoned: Vec::new() })
    }

    /// Can be read when `finish` may say more than before.
    pub fn moved(&self) -> RawFd {
        self.shared.moved.as_raw_fd()
    }

    /// Takes note of that.
    pub fn on_moved(&self) {
        let _ = read(&self.shared.moved, &mut [0; 8]);
    }

    /// Keeps what an attempt writes in this folder; answers the number by which it is known here.
    pub fn keep(&mut self, folder: &Path, pipes: OutputPipes) -> io::Result<u32> {
        self.reclaim();
        let number = self.free.pop().map_or_else(|| self.shared.make(&mut self.made), Ok)?;
        let stream = |pipe: OwnedFd, name: &str| -> io::Result<Stream> {
            let path = CString::new(folder.join(name).as_os_str().as_bytes())?;
            Ok(Stream::new(pipe, path))
        };
        let streams = Box::new([stream(pipes.stdout, "stdout")?, stream(pipes.stderr, "stderr")?]);
        let place = self.shared.place(number).ok_or(io::ErrorKind::NotFound)?;
        place.is_ending.store(false, SeqCst);
        let mut output = lock(&place.output);
        let streams = output.insert(streams);
        let added = (0..).zip(streams.iter()).try_for_each(|(index, stream)| {
            let data = epoll::EventData::new_u64(u64::from(number) * 2 + index);
            epoll::add(&self.shared.epoll, &stream.pipe, data, epoll::EventFlags::IN)
        });
        if let Err(e) = added {
            self.shared.close(output);
            self.free.push(number);
            return Err(e.into());
        }
        Ok(number)
    }

    /// Nothing of the attempt runs any more: closes its files once everything is in them that it has written. None: not yet.
    pub fn finish(&mut self, number: u32) -> Option<Lost> {
        let Some(place) = self.shared.place(number) else { return Some(Lost::default()) };
        // Before the lock is tried: if the thread has it now, it looks at this after it has let go.
        place.is_ending.store(true, SeqCst);
        let mut output = try_lock(&place.output)?;
        let streams = output.as_mut()?;
        if !streams.each_mut().into_iter().map(Stream::is_drained).fold(true, |all, one| all & one) {
            return None;
        }
        let lost = streams.iter().fold(Lost::default(), |lost, stream| stream.add_to(lost));
        self.shared.close(output);
        self.free.push(number);
        Some(lost)
    }

    /// The same, but with what is there by now.
    pub fn give_up(&mut self, number: u32) -> Lost {
        let mut lost = self.finish(number);
        if lost.is_none() {
            self.abandoned.push(number);
            lost = Some(Lost { is_late: true, ..Lost::default() });
        }
        lost.unwrap_or_default()
    }

    /// What was given up is closed when the thread is not busy with it any more: a number of a descriptor that it uses must not come to
    /// mean another file.
    fn reclaim(&mut self) {
        let (shared, free) = (&self.shared, &mut self.free);
        self.abandoned.retain(|number| {
            let output = shared.place(*number).and_then(|place| try_lock(&place.output));
            let Some(output) = output else { return true };
            shared.close(output);
            free.push(*number);
            false
        });
    }
}

impl Lost {
    /// None: all of it is kept.
    pub fn message(self) -> Option<String> {
        let what = "some of its output could not be kept";
        let count = if self.bytes > 0 { format!(" ({} bytes)", self.bytes) } else { String::new() };
        match self.error {
            Some(error) => Some(format!("{what}{count}: {}", io::Error::from(error))),
            None => self.is_late.then(|| format!("{what}: its disk did not take it in time")),
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock<T>(of: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match of.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Shared {
    fn place(&self, number: u32) -> Option<&Place> {
        let number = number as usize;
        self.chunks.get(number / CHUNK)?.get()?.get(number % CHUNK)
    }

    /// A place that nobody had.
    fn make(&self, made: &mut u32) -> io::Result<u32> {
        let number = *made;
        let chunk = self.chunks.get(number as usize / CHUNK);
        let chunk = chunk.ok_or_else(|| io::Error::other("the watchdog keeps as much output as it can"))?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| Place::default()).collect());
        *made += 1;
        Ok(number)
    }

    fn close(&self, mut output: MutexGuard<'_, Option<Box<[Stream; 2]>>>) {
        for stream in output.take().into_iter().flat_map(|streams| *streams) {
            // Closing it would not do: a forked child may have it open, too.
            let _ = epoll::delete(&self.epoll, &stream.pipe);
        }
    }

    /// The life of the thread.
    fn run(&self, buffer: &mut [u8]) {
        let mut events = [MaybeUninit::uninit(); AT_ONCE];
        loop {
            match epoll::wait(&self.epoll, &mut events, None) {
                Ok((ready, _)) => ready.iter().for_each(|event| self.move_one(event.data.u64(), buffer)),
                Err(Errno::INTR) => {}
                // It is our own and stays open, so this does not happen; and it must not make a processor busy for ever.
                Err(_) => thread::sleep(std::time::Duration::from_millis(limits::OUTPUT_AGAIN_MS)),
            }
        }
    }

    /// Moves what one stream has, up to the size of the buffer: then it is the others' turn.
    fn move_one(&self, event: u64, buffer: &mut [u8]) {
        let Some(place) = u32::try_from(event / 2).ok().and_then(|number| self.place(number)) else { return };
        let mut output = lock(&place.output);
        if let Some(stream) = output.as_mut().and_then(|streams| streams.get_mut((event % 2) as usize))
            && let Some(flags) = stream.take(buffer)
        {
            let _ = epoll::modify(&self.epoll, &stream.pipe, epoll::EventData::new_u64(event), flags);
        }
        drop(output);
        if place.is_ending.load(SeqCst) {
            let _ = rustix::io::write(&self.moved, &1u64.to_ne_bytes());
        }
    }
}

impl Stream {
    fn new(pipe: OwnedFd, path: CString) -> Self {
        Self {
            pipe,
            path,
            file: None,
            at: 0,
            taken: 0,
            ends_at: None,
            lost: 0,
            unsaid: 0,
            error: None,
            is_closed: false,
        }
    }

    /// Whether everything is out that was in the pipe when this was first asked.
    fn is_drained(&mut self) -> bool {
        let left = ioctl_fionread(&self.pipe).unwrap_or(0);
        let ends_at = *self.ends_at.get_or_insert(self.taken.saturating_add(left));
        // A process that reads from it may have taken some.
        left == 0 || self.taken >= ends_at
    }

    fn add_to(&self, lost: Lost) -> Lost {
        Lost { bytes: lost.bytes + self.lost, error: lost.error.or(self.error), is_late: false }
    }

    /// Takes what is there, once. Answers for what to wait from now on, where that changes: for an end that nobody writes into, the
    /// kernel would say again and again that it is closed, while a process that reads from it may still open it for writing.
    fn take(&mut self, buffer: &mut [u8]) -> Option<epoll::EventFlags> {
        let read = read(&self.pipe, &mut *buffer);
        if let Ok(count @ 1..) = read {
            self.taken += count as u64;
            self.write(buffer.get(..count).unwrap_or_default());
        }
        let was_closed = self.is_closed;
        self.is_closed = match read {
            Ok(count) => count == 0,
            Err(_) => was_closed,
        };
        let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
        (self.is_closed != was_closed).then_some(if self.is_closed { once } else { epoll::EventFlags::IN })
    }

    /// Writes to the file. What it does not take, as on a full disk, is dropped, so that no disk stops a program; the file says how much
    /// when it takes something again.
    fn write(&mut self, bytes: &[u8]) {
        let written = self.open().and_then(|()| self.say_lost()).map(|()| self.append(bytes));
        let written = match written {
            Ok((written, error)) => {
                self.error = self.error.or(error);
                written
            }
            Err(error) => {
                self.error = self.error.or(Some(error));
                0
            }
        };
        let lost = (bytes.len() - written) as u64;
        self.lost += lost;
        self.unsaid += lost;
    }

    fn open(&mut self) -> Result<(), Errno> {
        if self.file.is_none() {
            let file = File::from(open_log(&self.path)?);
            self.at = file.metadata().map_err(errno)?.len();
            self.file = Some(file);
        }
        Ok(())
    }

    /// Says in the file how much of what was before is not there.
    fn say_lost(&mut self) -> Result<(), Errno> {
        if self.unsaid == 0 {
            return Ok(());
        }
        let mut line = [0; 96];
        let mut rest = &mut line[..];
        let said = write!(rest, "\n[stint: {} bytes dropped, they could not be written]\n", self.unsaid);
        let (left, before) = (rest.len(), self.at);
        let length = line.len() - left;
        let (written, error) = self.append(line.get(..length).unwrap_or_default());
        match error {
            None if said.is_ok() && written == length => {
                self.unsaid = 0;
                Ok(())
            }
            error => {
                // A part of it would be taken for the program's.
                self.at = before;
                let _ = self.file.as_ref().map(|file| file.set_len(before));
                Err(error.unwrap_or(Errno::IO))
            }
        }
    }

    /// Answers how much was written, and why not more.
    fn append(&mut self, bytes: &[u8]) -> (usize, Option<Errno>) {
        let Some(file) = &self.file else { return (0, None) };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match file.write_at(rest, self.at) {
                Ok(0) => return (written, Some(Errno::IO)),
                Ok(count) => {
                    written += count;
                    self.at += count as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (written, Some(errno(e))),
            }
        }
        (written, None)
    }
}

/// By a call that takes a C string: another one would allocate for a long path. A link is none of ours.
fn open_log(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(CWD, path, flags, 0o600.into())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::OutputPipes;

    fn stream(path: &Path) -> Stream {
        let pipe = std::io::pipe().unwrap().0.into();
        Stream::new(pipe, CString::new(path.as_os_str().as_bytes()).unwrap())
    }

    #[test]
    fn a_file_says_what_could_not_be_written_before_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut stream = stream(Path::new("/dev/full"));
        stream.write(b"12345");
        stream.write(b"678");
        assert_eq!((stream.lost, stream.error), (8, Some(Errno::NOSPC)));
        let path = folder.path().join("stdout");
        (stream.file, stream.at) = (Some(File::create(&path).unwrap()), 0);
        stream.write(b"more\n");
        stream.write(b"and more\n");
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "\n[stint: 8 bytes dropped, they could not be written]\nmore\nand more\n");
        let lost = stream.add_to(Lost::default());
        let message = "some of its output could not be kept (8 bytes): No space left on device (os error 28)";
        assert_eq!(lost.message().as_deref(), Some(message));
        assert_eq!(Lost::default().message(), None);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("stdout"), folder.path().join("other"));
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let mut stream = stream(&path);
        stream.write(b"12345");
        assert!(stream.lost == 5 && !other.exists());
    }

    /// One that somebody still has open is closed in the end all the same, and one that was closed can be opened again.
    #[test]
    fn what_is_in_the_pipes_at_the_end_is_kept_and_no_more_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut outputs = Outputs::open().unwrap();
        for _ in 0..3 {
            let ((stdout, mut writer), (stderr, other)) =
                (std::io::pipe().unwrap(), std::io::pipe().unwrap());
            for pipe in [&stdout, &stderr] {
                rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).unwrap();
            }
            let again = std::fs::read_link(format!("/proc/self/fd/{}", stderr.as_raw_fd())).unwrap();
            assert!(again.to_str().unwrap().starts_with("pipe:"));
            let stderr_path = format!("/proc/self/fd/{}", stderr.as_raw_fd());
            let pipes = OutputPipes { stdout: stdout.into(), stderr: stderr.into() };
            let number = outputs.keep(folder.path(), pipes).unwrap();
            drop(other);
            thread::sleep(std::time::Duration::from_millis(20));
            let mut other = std::fs::OpenOptions::new().write(true).open(stderr_path).unwrap();
            writer.write_all(&[b'o'; 100_000]).unwrap();
            other.write_all(&[b'e'; 100_000]).unwrap();
            let began = std::time::Instant::now();
            let lost = loop {
                match outputs.finish(number) {
                    Some(lost) => break lost,
                    None => assert!(began.elapsed().as_secs() < 10, "it never ends"),
                }
            };
            assert_eq!(lost, Lost::default());
            for name in ["stdout", "stderr"] {
                let path = folder.path().join(name);
                assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_000);
                std::fs::remove_file(path).unwrap();
            }
            assert!(writer.write_all(b"x").is_err(), "nobody reads it any more");
        }
        assert_eq!((outputs.made, outputs.free.len()), (1, 1), "one place was used again and again");
    }
}
