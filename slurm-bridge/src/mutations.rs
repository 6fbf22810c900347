//! Every wrong behaviour that can be planted in this crate: a simulation must catch each one. Without the
//! feature `mutations`, which no release enables, `planted` is always false and the compiler removes what it guards.

/// A planted wrong behaviour; each has one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// What was told to end ended because of that, however it ended (`job.rs`).
    AlwaysObeyed,
    /// Slurm's word for how a program ended counts before everything that its job wrote is seen (`job.rs`).
    SlurmSpeaksFirst,
    /// A job that Slurm cancelled before it ran ended because of that, though an earlier run of it may have ended by
    /// itself (`job.rs`).
    CancelledBeforeItRan,
    /// A restarted node gives a job as long as it itself waits for its leader (`controller.rs`).
    GrantWhileWaiting,
}

#[cfg(feature = "mutations")]
mod active {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Is found in every program that can be made to behave wrongly, and in no other.
    pub static MARK: &str = "this program can be made to behave wrongly: mutations of stint-slurm-bridge";

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
