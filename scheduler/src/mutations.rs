//! Every wrong behaviour that can be planted in this crate: a simulation must catch each one. Without the feature `mutations`,
//! which no release enables, `planted` is always false and the compiler removes what it guards.

/// A planted wrong behaviour; each has one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A task starts beside attempts of a tenant that shares its nodes with nobody, or one of that tenant beside others
    /// (`plan/filter.rs`).
    ShareDedicated,
    /// A tenant that shares its nodes with nobody starts on those of others, too (`plan/filter.rs`).
    LeaveDedicated,
    /// A request that saves a step and comes again is told that the step was there before (`apply/instance/checkpoint.rs`).
    RetryAnswersFound,
    /// A launch writes whose lease is over (`apply/instance.rs`).
    StaleLaunchWrites,
    /// A suspended task that was woken is woken again (`apply/suspend.rs`).
    WakeStaysIndexed,
    /// A second sleep on one checkpoint is over at once (`instance.rs`).
    SleepIgnoresOrdinal,
    /// The last word on how an instance ended counts, not the first (`apply/instance/end.rs`).
    EndOverwritten,
    /// What paused an instance pauses it again when it was resumed (`apply/instance/event.rs`).
    PauseSurvivesResume,
    /// A program is stopped for its sleep that has written since its node looked (`apply/instance/sleep.rs`).
    HibernateWhileBusy,
}

#[cfg(feature = "mutations")]
mod active {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Is found in every program that can be made to behave wrongly, and in no other.
    pub static MARK: &str = "this program can be made to behave wrongly: mutations of stint-scheduler";

    /// Plants a wrong behaviour in this thread, or takes it back.
    pub fn plant(mutation: Option<Mutation>) {
        std::hint::black_box(MARK);
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
