//! A file of the whole state of a cluster, to come back from when all peers are lost. It holds what is replicated and
//! nothing else: no private key, no certificate, no token but its hash, no bytes of images or outputs.
//!
//! ```text
//! byte 0   "STINTSAV"
//!      8   format version, u32 LE
//!     12   length of the description, u32 LE
//!     16   description (CBOR)
//!          the state, in the encoding of snapshots
//!          SHA-256 of all before, 32 bytes, to the end of the file
//! ```

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};
use stint_protocol::{NodeId, TimeMs, Version, api};
use stint_raft::Position;
use stint_scheduler::{SnapshotError, State, read_snapshot, write_snapshot};

pub(crate) const MAGIC: &[u8; 8] = b"STINTSAV";
/// The format this version writes. Older ones stay readable; a newer one is refused.
const FORMAT: u32 = 1;
/// Bytes before the description.
const FIXED_BYTES: usize = 16;
/// Bytes of the longest description that is read: a name of a cluster and some numbers.
const DESCRIPTION_BYTES: u32 = 64 * 1024;
pub(crate) const SUM_BYTES: u64 = 32;
/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// What it takes to come back and no file has.
const NOT_IN_FILE: [&str; 4] = [
    "private keys and certificates: a restore makes new ones, and peers and users enrol again",
    "bytes of images and of inputs: images are registered again",
    "outputs, logs and endings of tasks: they are on the nodes",
    "values of secrets, and the configuration of each node",
];

/// What the file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Description {
    #[n(0)]
    pub cluster: String,
    #[n(1)]
    pub cluster_id: String,
    #[n(2)]
    pub cluster_version: Version,
    #[n(3)]
    pub index: u64,
    #[n(4)]
    pub term: u64,
    /// By the clock of the peer that writes it.
    #[n(5)]
    pub saved_at: TimeMs,
    #[n(6)]
    pub saved_by: NodeId,
    /// Of the program that writes it.
    #[n(7)]
    pub version: String,
}

/// Bytes that are no file this version can read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    #[error("{action} {}: {source}{}", path.display(), stint_raft::advice(source))]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no file of `stint cluster snapshot save`", .0.display())]
    Foreign(PathBuf),
    #[error("{} has format {found}; this version reads up to {FORMAT}: use a newer stint", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "{} is damaged or cut short: its SHA-256 is not the one at its end. Use another copy",
        .0.display()
    )]
    Damaged(PathBuf),
    #[error("{}: {source}", path.display())]
    State { path: PathBuf, source: SnapshotError },
    #[error("{}: its description cannot be read: {source}", path.display())]
    Description { path: PathBuf, source: minicbor::decode::Error },
}

/// A file that was read and checked.
pub struct SavedState {
    pub description: Description,
    pub state: State,
    /// What `stint cluster snapshot inspect` shows.
    pub document: api::ClusterSnapshot,
}

impl SavedState {
    /// Where in the log the state stood.
    pub fn at(&self) -> Position {
        Position { index: self.description.index, term: self.description.term }
    }
}

/// Writes a whole file, in many small pieces that `to` should gather.
pub fn write(description: &Description, state: &State, to: impl Write) -> io::Result<()> {
    let mut to = Summing { to: BufWriter::with_capacity(PIECE_BYTES, to), hash: Sha256::new() };
    let text = minicbor::to_vec(description).map_err(io::Error::other)?;
    to.write_all(MAGIC)?;
    to.write_all(&FORMAT.to_le_bytes())?;
    to.write_all(&(text.len() as u32).to_le_bytes())?;
    to.write_all(&text)?;
    write_snapshot(state, &mut to)?;
    let Summing { mut to, hash } = to;
    to.write_all(&hash.finalize())?;
    to.flush()
}

struct Summing<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads a file and checks all of it, its sum first.
pub fn read(path: &Path) -> Result<SavedState, SnapshotFileError> {
    let failed = |source| SnapshotFileError::Io { action: "reading", path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let sum = check_sum(path, &mut file, size)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut from = BufReader::with_capacity(PIECE_BYTES, file.take(size - SUM_BYTES));
    let (format, description) = read_description(path, &mut from)?;
    let state =
        read_snapshot(&mut from).map_err(|source| SnapshotFileError::State { path: path.into(), source })?;
    let document = document(format, size, &sum, &description, &state);
    Ok(SavedState { description, state, document })
}

/// The sum at the end of the file, which is the one of what is before it.
fn check_sum(path: &Path, file: &mut File, size: u64) -> Result<[u8; 32], SnapshotFileError> {
    let failed = |source| SnapshotFileError::Io { action: "reading", path: path.into(), source };
    let mut start = [0; MAGIC.len()];
    if size < FIXED_BYTES as u64 + SUM_BYTES {
        // Whatever it is, it is not whole.
        let read = file.read(&mut start).map_err(failed)?;
        let ours = read == MAGIC.len() && start == *MAGIC;
        return Err(if ours { SnapshotFileError::Damaged } else { SnapshotFileError::Foreign }(path.into()));
    }
    file.read_exact(&mut start).map_err(failed)?;
    if start != *MAGIC {
        return Err(SnapshotFileError::Foreign(path.into()));
    }
    let mut hash = Sha256::new();
    hash.update(start);
    let (mut left, mut piece) = (size - SUM_BYTES - MAGIC.len() as u64, vec![0; PIECE_BYTES]);
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        file.read_exact(&mut piece[..len]).map_err(failed)?;
        hash.update(&piece[..len]);
        left -= len as u64;
    }
    let mut sum = [0; SUM_BYTES as usize];
    file.read_exact(&mut sum).map_err(failed)?;
    let own: [u8; 32] = hash.finalize().into();
    if own == sum { Ok(sum) } else { Err(SnapshotFileError::Damaged(path.into())) }
}

fn read_description(path: &Path, from: &mut impl Read) -> Result<(u32, Description), SnapshotFileError> {
    let failed = |source| SnapshotFileError::Io { action: "reading", path: path.into(), source };
    let mut fixed = [0; FIXED_BYTES];
    from.read_exact(&mut fixed).map_err(failed)?;
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (format, len) = (word(8), word(12));
    if format > FORMAT {
        return Err(SnapshotFileError::Newer { path: path.into(), found: format });
    }
    if len > DESCRIPTION_BYTES {
        return Err(SnapshotFileError::Damaged(path.into()));
    }
    let mut text = vec![0; len as usize];
    from.read_exact(&mut text).map_err(failed)?;
    let description = minicbor::decode(&text);
    let description =
        description.map_err(|source| SnapshotFileError::Description { path: path.into(), source })?;
    Ok((format, description))
}

/// What stands between the magic number and the sum of a file.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_summed(bytes: &[u8]) -> Result<(Description, State), SnapshotFileError> {
    let path = Path::new("state");
    let mut from = MAGIC.chain(bytes);
    let (format, description) = read_description(path, &mut from)?;
    let state =
        read_snapshot(&mut from).map_err(|source| SnapshotFileError::State { path: path.into(), source })?;
    let _ = document(format, bytes.len() as u64, &[0; 32], &description, &state);
    Ok((description, state))
}

fn document(
    format: u32,
    size: u64,
    sum: &[u8; 32],
    description: &Description,
    state: &State,
) -> api::ClusterSnapshot {
    let Description { cluster, cluster_id, cluster_version, index, term, saved_at, saved_by, version } =
        description.clone();
    api::ClusterSnapshot {
        format,
        size_bytes: size,
        sha256: sum.iter().map(|byte| format!("{byte:02x}")).collect(),
        cluster,
        cluster_id,
        cluster_version: cluster_version.0,
        index,
        term,
        as_of_ms: state.time().0,
        saved_at_ms: saved_at.0,
        saved_by: saved_by.0,
        version,
        nodes: state.nodes().count() as u64,
        queued: state.waiting() as u64,
        running: state.running() as u64,
        suspended: state.suspended() as u64,
        finished: state.remembered() as u64,
        images: state.listed_images() as u64,
        not_in_file: NOT_IN_FILE.map(str::to_owned).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use stint_scheduler::same;

    use super::*;

    fn description() -> Description {
        Description {
            cluster: "stint".into(),
            cluster_id: "3f2a9c01d2e4b5a6".into(),
            cluster_version: Version(5),
            index: 12,
            term: 3,
            saved_at: TimeMs(1_000),
            saved_by: NodeId(2),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn a_file_reads_back_and_every_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, state) = (dir.path().join("saved"), State::default());
        let mut bytes = Vec::new();
        write(&description(), &state, &mut bytes).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let read_back = read(&path).unwrap();
        assert_eq!(read_back.description, description());
        assert!(same(&read_back.state, &state));
        assert_eq!(read_back.document.size_bytes, bytes.len() as u64);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            std::fs::write(&path, &changed).unwrap();
            assert!(read(&path).is_err(), "byte {at} was changed and nobody noticed");
        }
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(read(&path).is_err(), "{len} bytes of {} were taken for whole", bytes.len());
        }
    }

    #[test]
    fn what_is_no_such_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("saved");
        std::fs::write(&path, "a text that is long enough to be taken for a file with a sum at its end")
            .unwrap();
        assert!(matches!(read(&path), Err(SnapshotFileError::Foreign(_))));
        let mut newer = Vec::new();
        write(&description(), &State::default(), &mut newer).unwrap();
        newer[8] = 2;
        let end = newer.len() - SUM_BYTES as usize;
        let sum = Sha256::digest(&newer[..end]);
        newer[end..].copy_from_slice(&sum);
        std::fs::write(&path, &newer).unwrap();
        assert!(matches!(read(&path), Err(SnapshotFileError::Newer { found: 2, .. })));
    }
}
