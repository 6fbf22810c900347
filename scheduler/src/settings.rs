//! Replicated settings: the same on every peer, changed only through the log.

use minicbor::{Decode, Encode};
use stint_protocol::{Class, ClassRules};

/// How a node is chosen among those that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Placement {
    /// Fill one node before the next, so that large tasks still find room.
    #[n(0)]
    #[default]
    BinPack,
    /// The emptiest node first.
    #[n(1)]
    Spread,
}

/// What a cluster is bootstrapped with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    #[n(0)]
    pub cluster: String,
    /// Rules by class, in the order of `Class::ALL`.
    #[n(1)]
    pub classes: Vec<ClassRules>,
    #[n(2)]
    pub placement: Placement,
    /// Finished tasks kept at most.
    #[n(3)]
    pub keep_finished: u64,
    /// How long a finished task is kept, in milliseconds.
    #[n(4)]
    pub keep_finished_ms: u64,
    /// What the leader waits beyond a lease's length before it counts it as over, in milliseconds
    /// (docs/internals/leases.md#length-and-margin: election timeout + drift + kill margin).
    #[n(5)]
    pub lease_margin_ms: u64,
    /// Part of the lease's end that is kept for the kill itself, in milliseconds.
    #[n(6)]
    pub kill_margin_ms: u64,
    /// Tasks that may wait or run at once; a submit beyond is refused.
    #[n(7)]
    pub max_live_tasks: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster: "stint".into(),
            classes: Class::ALL.into_iter().map(ClassRules::default_for).collect(),
            placement: Placement::default(),
            keep_finished: 200_000,
            keep_finished_ms: 7 * 24 * 3_600_000,
            lease_margin_ms: 1_500,
            kill_margin_ms: 500,
            max_live_tasks: stint_protocol::limits::LIVE_TASKS,
        }
    }
}

impl Settings {
    /// The rules of one class.
    pub fn class(&self, class: Class) -> &ClassRules {
        &self.classes[class as usize]
    }
}
