//! How a container's program ended, as the first program of the container says it in a file of the attempt: Docker tells a
//! signal and an execution that failed as exit codes, which a program can have too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, lchown};
use std::path::PathBuf;

use stint_protocol::LeaseId;

use crate::shim_api::layout::Layout;

/// Numbers of `executor/src/sys/container_init.rs`.
const COULD_NOT_EXECUTE: i32 = 1;
const ENDED: i32 = 2;
/// One of them, and the number that belongs to it.
const RECORD_BYTES: usize = 8;

/// What the first program says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitReport {
    /// The program could not be executed, with this error number.
    NotExecuted(i32),
    /// The raw wait status of the program.
    Ended(i32),
}

/// Where it says so.
pub fn file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("container-end")
}

/// Makes the file, which says nothing yet. Its room is taken now: a full disk must not hide how a program ended.
pub fn make(layout: &Layout, lease: LeaseId, (user, group): (u32, u32)) -> io::Result<()> {
    let file = file(layout, lease);
    let mut made = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&file)?;
    made.write_all(&[0; RECORD_BYTES])?;
    lchown(&file, Some(user), Some(group))
}

/// What it says. None: nothing, because the first program was killed before it could.
pub fn read(layout: &Layout, lease: LeaseId) -> Option<InitReport> {
    // No more: the program may have written there, too, before the first program did.
    let mut record = [0; RECORD_BYTES];
    File::open(file(layout, lease)).ok()?.read_exact(&mut record).ok()?;
    parse(&record)
}

fn parse(bytes: &[u8]) -> Option<InitReport> {
    let number = |at: usize| Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match (number(0)?, number(4)?) {
        (COULD_NOT_EXECUTE, error) => Some(InitReport::NotExecuted(error)),
        (ENDED, status) => Some(InitReport::Ended(status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_says_nothing_is_no_report() {
        let record = |kind: i32, value: i32| [kind.to_ne_bytes(), value.to_ne_bytes()].concat();
        assert_eq!(parse(&record(0, 0)), None);
        assert_eq!(parse(&record(7, 0)), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(&record(1, 2)), Some(InitReport::NotExecuted(2)));
        assert_eq!(parse(&record(2, 9)), Some(InitReport::Ended(9)));
    }
}
