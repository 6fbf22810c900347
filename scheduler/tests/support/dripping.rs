//! Bytes that come a few at a time.

use std::io::{Error, Read, Result};

pub struct Dripping<'a> {
    bytes: &'a [u8],
    most: usize,
    /// What happens when all are there.
    fails: bool,
}

impl<'a> Dripping<'a> {
    /// At most this many at a time.
    pub fn new(bytes: &'a [u8], most: usize) -> Self {
        Self { bytes, most, fails: false }
    }

    /// After these bytes there is no end but an error.
    #[allow(dead_code, reason = "not every test that includes this file has a use for it")]
    pub fn failing_after(bytes: &'a [u8]) -> Self {
        Self { bytes, most: 100, fails: true }
    }
}

impl Read for Dripping<'_> {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        if self.bytes.is_empty() && self.fails {
            return Err(Error::other("the disk is broken"));
        }
        let most = self.most.min(to.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(most);
        to[..most].copy_from_slice(now);
        self.bytes = later;
        Ok(most)
    }
}
