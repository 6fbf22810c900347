//! Join tokens: who shows the secret of one may join. Only its SHA-256 is kept.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use stint_protocol::{NodeId, TimeMs};

/// What is kept of a token, under the hash of its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    pub expires: TimeMs,
    /// How many nodes may join with it; none: any number, as it was before there was a limit.
    pub limit: Option<TokenLimit>,
}

/// How many nodes may join with a token, and who did.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TokenLimit {
    #[n(0)]
    pub uses: u32,
    /// Data folders that were let in, in the order of their joining.
    #[n(1)]
    pub used_by: Vec<ByteArray<16>>,
}

impl TokenLimit {
    /// How many more nodes may join with it.
    pub fn left(&self) -> u32 {
        self.uses.saturating_sub(u32::try_from(self.used_by.len()).unwrap_or(u32::MAX))
    }

    /// Whether this data folder, of the member `known`, was let in by it: a joiner that did not get the answer asks again,
    /// and that is no other use. One that was removed since joins anew.
    pub fn counted(&self, disk: &[u8; 16], known: Option<NodeId>) -> bool {
        known.is_some() && self.used_by.iter().any(|used| **used == *disk)
    }
}

/// A token as a snapshot has it. Without a limit it is what it was before there was one.
#[derive(Encode, Decode)]
pub(crate) struct StoredToken {
    #[n(0)]
    pub hash: ByteArray<32>,
    #[n(1)]
    pub expires: TimeMs,
    #[n(2)]
    #[cbor(default)]
    pub limit: Option<TokenLimit>,
}
