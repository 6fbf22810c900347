//! What stands in front of a snapshot's body in its file. Its length is known before the body is.
//!
//! ```text
//! byte 0   "STINTSNP"
//!      8   format version, u32 LE
//!     12   length of the description, u32 LE
//!     16   CRC32C of bytes 0..16 and the description, u32 LE
//!     20   zero, u32
//!     24   description (CBOR): where it stands in the log, membership, length and CRC32C of the body
//!          body: the machine's bytes, to the end of the file
//! ```

use std::path::Path;

use minicbor::{Decode, Encode, Encoder};

use crate::codec::{self, EncodedLogId, EncodedStoredMembership};
use crate::error::OpenError;
use crate::log::disk::DiskFile;
use crate::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"STINTSNP";
const FORMAT_VERSION: u32 = 1;
/// Bytes before the description.
const FIXED_BYTES: usize = 24;

#[derive(Debug, Clone, PartialEq, Eq, Decode)]
struct Description {
    #[n(0)]
    last: Option<EncodedLogId>,
    #[n(1)]
    membership: EncodedStoredMembership,
    #[n(2)]
    body_len: u64,
    #[n(3)]
    body_crc: u32,
}

impl<C> Encode<C> for Description {
    /// The body's length and checksum take eight and four bytes, whatever they are: the body is written before they are
    /// known, behind room for a head of this length. The first versions wrote them as short as they could.
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(4)?;
        self.last.encode(e, context)?;
        self.membership.encode(e, context)?;
        let mut numbers = [0x1b, 0, 0, 0, 0, 0, 0, 0, 0, 0x1a, 0, 0, 0, 0];
        numbers[1..9].copy_from_slice(&self.body_len.to_be_bytes());
        numbers[10..].copy_from_slice(&self.body_crc.to_be_bytes());
        e.writer_mut().write_all(&numbers).map_err(minicbor::encode::Error::write)
    }
}

/// What a file says of itself.
pub(super) struct Head {
    pub meta: SnapshotMeta,
    /// Where in the file the body begins.
    pub start: u64,
    pub body_len: u64,
    pub body_crc: u32,
}

/// The head of a body of this length and checksum. Its own length does not depend on them.
pub(crate) fn head(meta: &SnapshotMeta, body_len: u64, body_crc: u32) -> Vec<u8> {
    let (last, membership) = (meta.last_log_id.map(Into::into), (&meta.last_membership).into());
    around(&codec::encode(&Description { last, membership, body_len, body_crc }))
}

/// The head with this description.
pub(crate) fn around(description: &[u8]) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    head.extend_from_slice(&(description.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), description);
    head.extend_from_slice(&crc.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(description);
    head
}

/// Reads and checks a file's head, and that its body is as long as the head says.
pub(super) fn read(path: &Path, file: &dyn DiskFile) -> Result<Head, OpenError> {
    let failed = |source| OpenError::io("read snapshot", path, source);
    let file_len = file.len().map_err(failed)?;
    let fixed = file.read_at(0, FIXED_BYTES).map_err(failed)?;
    let word = |at: usize| {
        let word = fixed.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_le_bytes).ok_or_else(|| corrupt(path, "it ends within its header"))
    };
    if fixed.get(..8) != Some(MAGIC.as_slice()) {
        return Err(corrupt(path, "it does not start as a snapshot"));
    }
    let (version, len, crc, _zero) = (word(8)?, u64::from(word(12)?), word(16)?, word(20)?);
    if version > FORMAT_VERSION {
        let path = path.to_path_buf();
        return Err(OpenError::NewerFormat { path, found: version, known: FORMAT_VERSION });
    }
    let start = FIXED_BYTES as u64 + len;
    // Before it is read: a length that was damaged must not ask for memory that the file does not fill.
    if file_len < start {
        return Err(corrupt(path, "it ends within its description"));
    }
    let description = file.read_at(FIXED_BYTES as u64, len as usize).map_err(failed)?;
    if crc32c::crc32c_append(crc32c::crc32c(&fixed[..16]), &description) != crc {
        return Err(corrupt(path, "its header fails its checksum"));
    }
    let Description { last, membership, body_len, body_crc } =
        minicbor::decode(&description).map_err(|e| corrupt(path, &e.to_string()))?;
    if start.checked_add(body_len) != Some(file_len) {
        return Err(corrupt(path, "its body is not as long as its header says"));
    }
    let meta = SnapshotMeta { last_log_id: last.map(Into::into), last_membership: membership.into() };
    Ok(Head { meta, start, body_len, body_crc })
}

pub(super) fn corrupt(path: &Path, what: &str) -> OpenError {
    OpenError::Corrupt { path: path.to_path_buf(), offset: 0, what: what.into() }
}
