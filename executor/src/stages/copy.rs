//! Copies and hashes files in pieces, so that a stop is heeded within a piece and memory stays small.

use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use stint_protocol::{Blob, Digest};

use super::holes::HoleReader;

const PIECE_BYTES: usize = 256 * 1024;

/// Reads to the end, hands each piece on, and tells digest and size. `Interrupted`: it was stopped.
pub fn pump(from: &mut impl Read, into: &mut impl Write, is_stopped: &dyn Fn() -> bool) -> io::Result<Blob> {
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE_BYTES]);
    loop {
        if is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hash.update(&piece[..read]);
        into.write_all(&piece[..read])?;
        size += read as u64;
    }
    Ok(Blob { digest: Digest::from_bytes(hash.finalize().into()), size })
}

/// Digest and size of a file. `Interrupted`: it was stopped.
pub fn blob_of(path: &Path, is_stopped: &dyn Fn() -> bool) -> io::Result<Blob> {
    pump(&mut HoleReader::open(path)?, &mut io::sink(), is_stopped)
}
