//! Every wrong behaviour that can be planted in this crate: a simulation must catch each one. Without the
//! feature `mutations`, which no release enables, `planted` is always false and the compiler removes what it guards.

/// A planted wrong behaviour; each has one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A lease that was decided to be over is renewed all the same (`lease_clock.rs`).
    RenewAfterRevoke,
    /// The leader waits for the length of the lease only: no drift, no margin (`lease_clock.rs`).
    SkipDriftMargin,
    /// A peer that leads again goes on with the receipt times of its earlier term (`leadership.rs`).
    OldReceiptTimes,
    /// An entry is stamped with the wall clock, however far it jumped (`leadership.rs`).
    WallClockJump,
    /// A node obeys orders of an earlier term, for another process, or for an earlier report (`agent/core.rs`).
    StaleOrders,
    /// A peer that leads acts before an entry of its own term is applied (`leadership.rs`).
    ActBeforeOwnTermEntry,
    /// A node's new incarnation frees the leases of the earlier one at once (`reports/session.rs`).
    ReleaseOnNewIncarnation,
    /// A leader renews leases without asking a quorum (`leader/quorum.rs`).
    RenewWithoutQuorum,
    /// A read shows what its peer has applied, whoever leads (`leader_client.rs`).
    StaleRead,
    /// A leader proposes what the cluster's version lacks (`leadership.rs`).
    IgnoreVersionGate,
    /// An attempt is launched without the devices that its node no longer offers (`orders.rs`).
    LaunchWithoutDevices,
    /// A leader plans only when there are commands: what becomes free without one stays idle (`leadership.rs`).
    PlanOnChangesOnly,
    /// A leader keeps what an entry does as it was found out before the entry's plan (`leadership.rs`).
    EffectWithoutPlan,
    /// A new leader renews a lease before it has looked how long it may already be (`lease_clock.rs`).
    RenewUnseen,
    /// A new leader takes its predecessor's last entry for as old as its own leadership (`lease_clock.rs`).
    StampFromOldTerm,
    /// An entry's time counts from when it was written, however long that took (`leader/core.rs`).
    StampWhenWritten,
    /// What was refused carries time ahead as what became an entry does (`leader/core.rs`).
    StampRefused,
    /// A leader whose clock was set right waits for its time to catch up, and writes nothing for that
    /// (`leadership.rs`).
    NeverCatchUp,
}

#[cfg(feature = "mutations")]
mod active {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Is found in every program that can be made to behave wrongly, and in no other.
    pub static MARK: &str = "this program can be made to behave wrongly: mutations of stint-node";

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
