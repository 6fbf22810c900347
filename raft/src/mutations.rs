//! Every wrong behaviour that can be planted in this crate: a simulation must catch each one. Without the feature
//! `mutations`, which no release enables, `planted` is always false and the compiler removes what it guards.

/// A planted wrong behaviour; each has one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// An append is confirmed before it is on stable storage (`log.rs`).
    AckBeforeSync,
    /// A vote is not written down (`log.rs`).
    ForgetVote,
    /// What is read when a peer starts counts as stored, though a sync of its last run may have failed
    /// (`log/recovery.rs`).
    TrustWhatIsRead,
    /// A term may have several leaders, the one with the higher number after the other, as openraft's default has it
    /// (`types.rs`).
    SeveralLeadersATerm,
    /// A leader that lost its vote gets it back when it has reported to itself that it caught up (`membership.rs`).
    AwaitOwnReport,
}

#[cfg(feature = "mutations")]
pub(crate) mod leader_id;

#[cfg(feature = "mutations")]
mod active {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Is found in every program that can be made to behave wrongly, and in no other.
    pub static MARK: &str = "this program can be made to behave wrongly: mutations of stint-raft";

    /// Plants a wrong behaviour in this thread, or takes it back.
    pub fn plant(mutation: Option<Mutation>) {
        tracing::debug!(?mutation, MARK);
        PLANTED.set(mutation);
    }

    /// Whether this wrong behaviour is planted.
    pub fn planted(mutation: Mutation) -> bool {
        PLANTED.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use active::{plant, planted};

/// Never.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(crate) const fn planted(_: Mutation) -> bool {
    false
}
