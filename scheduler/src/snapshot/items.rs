//! The items of an encoding that comes in pieces, one after another.

use std::io::Read;

use minicbor::{Decode, Decoder};

use super::SnapshotError;

/// Bytes that are read at once. An item that is longer, such as a spec with files in it, is held whole.
const PIECE_BYTES: usize = 256 * 1024;

/// Decodes items from a reader. It holds the bytes of a piece, or of the longest item where that is longer.
pub(super) struct Items<R> {
    from: R,
    /// What is read: decoded up to `start`, filled up to `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Items<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: vec![0; PIECE_BYTES], start: 0, end: 0 }
    }

    /// The next item, whatever number of pieces it takes.
    pub fn next<T: for<'b> Decode<'b, ()>>(&mut self) -> Result<T, SnapshotError> {
        self.take(|decoder| decoder.decode())
    }

    /// The length of an array whose items come next.
    pub fn array(&mut self) -> Result<u64, SnapshotError> {
        let length = self.take(|decoder| decoder.array())?;
        length.ok_or_else(|| SnapshotError::Broken("an array does not say its length".into()))
    }

    /// Hands the items of an array to `add`, one by one.
    pub fn each<T: for<'b> Decode<'b, ()>>(
        &mut self,
        mut add: impl FnMut(T) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        (0..self.array()?).try_for_each(|_| add(self.next()?))
    }

    fn take<T>(
        &mut self,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, minicbor::decode::Error>,
    ) -> Result<T, SnapshotError> {
        loop {
            let mut decoder = Decoder::new(&self.buffer[self.start..self.end]);
            match decode(&mut decoder) {
                Ok(item) => {
                    self.start += decoder.position();
                    return Ok(item);
                }
                Err(error) if error.is_end_of_input() => {
                    if self.fill()? == 0 {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads more behind what is not decoded yet, which moves to the front; twice the room when an item needs it, so that
    /// a long one is not begun anew for every few bytes. 0: there is no more.
    fn fill(&mut self) -> Result<usize, SnapshotError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end * 2 > self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives some bytes at a time, which end within items.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let most = to.len().min(4_099).min(self.0.len());
            to[..most].copy_from_slice(&self.0[..most]);
            self.0 = &self.0[most..];
            Ok(most)
        }
    }

    fn texts(count: usize, length: usize) -> Vec<String> {
        (0..count).map(|at| format!("{at}{}", "x".repeat(length))).collect()
    }

    #[test]
    fn items_are_read_across_pieces_and_the_buffer_stays_small() {
        let written = texts(20_000, 100);
        let bytes = minicbor::to_vec(&written).unwrap();
        assert!(bytes.len() > 5 * PIECE_BYTES);
        let (mut items, mut read) = (Items::new(Slow(&bytes)), Vec::new());
        let add = |text: String| {
            read.push(text);
            Ok(())
        };
        items.each(add).unwrap();
        assert_eq!(read, written);
        assert_eq!(items.buffer.len(), PIECE_BYTES);
    }

    #[test]
    fn an_item_longer_than_a_piece_is_read_and_one_that_is_cut_off_is_an_error() {
        let written = texts(2, PIECE_BYTES * 3);
        let bytes = minicbor::to_vec(&written).unwrap();
        let mut items = Items::new(&bytes[..]);
        assert_eq!(items.next::<Vec<String>>().unwrap(), written);
        assert!(items.buffer.len() <= 4 * bytes.len());
        let mut cut = Items::new(&bytes[..bytes.len() - 1]);
        assert!(matches!(cut.next::<Vec<String>>(), Err(SnapshotError::Malformed(_))));
    }
}
