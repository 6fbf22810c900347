//! What is kept of an attempt's output on every peer, so that its node need not be asked.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::blob::Blob;

/// What an attempt wrote last, as its node reports it with the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Ending {
    /// The ends of its streams and its last progress, compressed; who reads it knows the form.
    #[n(0)]
    pub summary: Option<ByteVec>,
    /// All of its stdout as far as the cluster keeps it, where its task wants that.
    #[n(1)]
    pub stdout: Option<Blob>,
    #[n(2)]
    pub stderr: Option<Blob>,
}

impl Ending {
    /// Bytes it takes in a message or in the log, about.
    pub fn weight(&self) -> usize {
        let blobs = usize::from(self.stdout.is_some()) + usize::from(self.stderr.is_some());
        8 + self.summary.as_ref().map_or(0, |summary| summary.len()) + blobs * 48
    }
}
