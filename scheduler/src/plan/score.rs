//! Which of the nodes that fit is best.

use stint_protocol::NodeOffer;

use super::room::Room;
use crate::settings::Placement;

/// Lower is better; ties go to the lower node id.
pub(super) fn rank(placement: Placement, offer: &NodeOffer, room: &Room) -> u64 {
    let part = |free: u64, total: u64| free.saturating_mul(1000).checked_div(total).unwrap_or(1000);
    let emptiness = part(room.free.cpu_milli, offer.resources.cpu_milli)
        .min(part(room.free.memory_bytes, offer.resources.memory_bytes))
        .min(part(u64::from(room.slots), u64::from(offer.slots)))
        .min(1000);
    match placement {
        Placement::BinPack => emptiness,
        Placement::Spread => 1000 - emptiness,
    }
}
