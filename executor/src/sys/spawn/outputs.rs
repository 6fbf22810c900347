//! Pipes for the output of programs, and how the inits of attempts come by their ends.
//!
//! An init shares the watchdog's table of descriptors until it makes one of its own, which holds the first few only. So there are
//! *places* among those, each for the two ends of one start. A place is the next start's as soon as its init has its own table.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::SeqCst;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};

use super::StatusPage;

/// Starts whose inits have no table of their own yet. Beyond that an init gets a copy of the whole table.
const PLACES: usize = 16;

/// The ends from which a program's output is read: two pipes, so that none has to wait for the other, and neither is changed by what
/// is set on the other.
#[derive(Debug)]
pub struct OutputPipes {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// The ends into which a program writes.
#[derive(Debug)]
pub(super) struct WriteEnds {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl WriteEnds {
    pub(super) fn numbers(&self) -> [RawFd; 2] {
        [self.stdout.as_raw_fd(), self.stderr.as_raw_fd()]
    }
}

/// Makes both pipes. Their size is the kernel's (64 KiB), which is what is moved at once. A watchdog that is not root shares a budget of
/// pages with all that its user runs (`pipe-user-pages-soft`), and larger pipes would soon leave the others with two pages each. Root has no
/// such limit.
pub(super) fn make() -> io::Result<(OutputPipes, WriteEnds)> {
    let one = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Of this end alone: a program may read from its pipe, too, and nobody is to wait for what it took.
        fcntl_setfl(&read, OFlags::NONBLOCK)?;
        Ok((read, write))
    };
    let ((stdout, stdout_end), (stderr, stderr_end)) = (one()?, one()?);
    Ok((OutputPipes { stdout, stderr }, WriteEnds { stdout: stdout_end, stderr: stderr_end }))
}

#[derive(Debug)]
struct Place {
    ends: WriteEnds,
    /// The slot of the attempt whose init may still need them.
    user: Option<u32>,
}

/// Descriptors with low numbers.
#[derive(Debug)]
pub(super) struct Places(Vec<Place>);

impl Places {
    pub(super) fn reserve(null: &OwnedFd) -> io::Result<Self> {
        let place = || -> io::Result<Place> {
            let ends =
                WriteEnds { stdout: fcntl_dupfd_cloexec(null, 3)?, stderr: fcntl_dupfd_cloexec(null, 3)? };
            Ok(Place { ends, user: None })
        };
        (0..PLACES).map(|_| place()).collect::<io::Result<_>>().map(Self)
    }

    /// The highest number of them.
    pub(super) fn last(&self) -> RawFd {
        self.0.iter().flat_map(|place| place.ends.numbers()).max().unwrap_or(0)
    }

    /// Puts the ends of an attempt's start where its init finds them, and answers the numbers. None: there is no place.
    pub(super) fn put(
        &mut self,
        index: u32,
        ends: &WriteEnds,
        slots: &StatusPage,
    ) -> io::Result<Option<[RawFd; 2]>> {
        // An earlier attempt of this slot is over.
        let has_own = |user: u32| user == index || slots.slot(user).has_own_descriptors.load(SeqCst) != 0;
        let Some(place) = self.0.iter_mut().find(|place| place.user.is_none_or(has_own)) else {
            return Ok(None);
        };
        place.user = None;
        dup3(&ends.stdout, &mut place.ends.stdout, DupFlags::CLOEXEC)?;
        dup3(&ends.stderr, &mut place.ends.stderr, DupFlags::CLOEXEC)?;
        place.user = Some(index);
        Ok(Some(place.ends.numbers()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_once_its_init_has_a_table_of_its_own() {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (mut places, slots) = (Places::reserve(&null).unwrap(), StatusPage::new(PLACES + 2).unwrap());
        let (_read, ends) = make().unwrap();
        let mut put = |index: u32| places.put(index, &ends, &slots).unwrap();
        let first = put(0);
        let others: Vec<_> = (1..PLACES as u32).map(&mut put).collect();
        assert!(first.is_some() && others.iter().all(|place| place.is_some() && *place != first));
        assert_eq!(put(PLACES as u32), None, "all of them may still be needed");
        assert_eq!(put(0), first, "who had it is over");
        slots.slot(3).has_own_descriptors.store(1, SeqCst);
        assert_eq!(put(PLACES as u32), others[2]);
    }
}
