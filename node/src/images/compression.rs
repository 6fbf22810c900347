//! How an archive or a layer is packed, told by its first bytes, and what it unpacks to, up to a bound.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::limits;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// Bytes that tell.
pub const TOLD_BY: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    pub fn detect(first: &[u8]) -> Self {
        match first {
            first if first.starts_with(GZIP) => Self::Gzip,
            first if first.starts_with(ZSTD) => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// Reads what is packed in `content`; fails beyond what an archive with `max_bytes` of files can take.
    pub fn decompress<'a>(
        self,
        content: impl BufRead + 'a,
        max_bytes: u64,
    ) -> io::Result<Box<dyn Read + 'a>> {
        let left = max_bytes.saturating_add(limits::IMAGE_ENTRIES * limits::IMAGE_HEADER_BYTES);
        Ok(match self {
            Self::Plain => Box::new(content),
            Self::Gzip => Box::new(Bounded { content: MultiGzDecoder::new(content), left }),
            Self::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(content)?;
                decoder.window_log_max(limits::ZSTD_WINDOW_LOG)?;
                Box::new(Bounded { content: decoder, left })
            }
        })
    }
}

/// A few packed bytes may be endless ones, which nobody reads to their end.
struct Bounded<R> {
    content: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other("it unpacks to more than its files may take (blobs.max_unpacked)")
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_up_to_a_bound() {
        let bounded = |left| Bounded { content: io::repeat(7).take(1_000), left };
        assert_eq!(bounded(1_000).read_to_end(&mut Vec::new()).unwrap(), 1_000);
        let refused = bounded(999).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(refused.to_string().contains("blobs.max_unpacked"), "{refused}");
    }
}
