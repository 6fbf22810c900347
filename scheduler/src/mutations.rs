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
