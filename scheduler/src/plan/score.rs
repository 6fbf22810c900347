//! Which of the nodes that fit is best.

use stint_protocol::{NodeId, NodeOffer, Resources};

use crate::settings::Placement;

/// Higher is better; ties go to the lower node id.
pub(crate) fn score(placement: Placement, offer: &NodeOffer, free: &Resources, slots: u32) -> u64 {
    let part = |free: u64, total: u64| free.saturating_mul(1000).checked_div(total).unwrap_or(1000);
    let emptiness = part(free.cpu_milli, offer.resources.cpu_milli)
        .min(part(free.memory_bytes, offer.resources.memory_bytes))
        .min(part(u64::from(slots), u64::from(offer.slots)));
    match placement {
        Placement::BinPack => 1000 - emptiness.min(1000),
        Placement::Spread => emptiness,
    }
}

/// Orders candidates: best score first, then the lower id.
pub(crate) fn better(a: (u64, NodeId), b: (u64, NodeId)) -> bool {
    a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)
}
