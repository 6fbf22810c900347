//! A place kept for the first line of a class while no node fits it: others may use it only so that they delay it by
//! nothing (docs/internals/placement.md#reservations).

use std::cmp::Ordering;
use std::collections::BTreeSet;

use stint_protocol::{GpuId, GpuRequest, LeaseId, NodeId, TimeMs};

use super::filter::strangers;
use super::lines::{LineId, Turn};
use super::nodes::{Fit, Nodes, PlanNode, Running, Wanted};
use super::room::{Need, Room};
use crate::state::State;

/// A node for a line, from a time on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    pub line: LineId,
    pub node: NodeId,
    /// When enough is free there at the latest.
    pub at: TimeMs,
    need: Need,
    gpus: Option<GpuRequest>,
}

/// The line of a class that is served first, and what is kept for it once that was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Holder {
    pub turn: Option<Turn>,
    pub reservation: Option<Reservation>,
    /// A place was looked for, whether or not there is one.
    pub looked: bool,
    /// How the share of each tenant compares with that of the line's own.
    pub shares: Vec<Ordering>,
}

/// What there is for a line.
pub(super) enum Kept {
    At(Reservation),
    /// A node could hold it, and nobody can say when.
    Unknown,
    /// No node could ever hold it.
    Never,
}

/// The node on which the line starts first, going by when what runs there is over at the latest.
pub(super) fn reserve(nodes: &Nodes, wanted: &Wanted<'_>, line: LineId) -> Kept {
    let mut best: Option<(TimeMs, NodeId)> = None;
    let mut able = false;
    for known in nodes.iter().filter(|known| known.could_hold(wanted)) {
        able = true;
        // A place there is no use to it, and would be in the way of others.
        if known.is_held_for(wanted) {
            continue;
        }
        if let Some(at) = free_at(nodes, known, wanted, best.map(|(at, _)| at)) {
            best = Some((at, known.node.id));
        }
    }
    let gpus = wanted.demand.gpus().cloned();
    match best {
        Some((at, node)) => Kept::At(Reservation { line, node, at, need: wanted.need, gpus }),
        None if able => Kept::Unknown,
        None => Kept::Never,
    }
}

/// When enough is free on the node for the need, and nothing runs there that its tenant shares no node with, if before `earlier`.
fn free_at(nodes: &Nodes, known: &PlanNode, wanted: &Wanted<'_>, earlier: Option<TimeMs>) -> Option<TimeMs> {
    let sooner = |at: TimeMs| earlier.is_none_or(|earlier| at < earlier);
    let (now, request) = (wanted.now, wanted.demand.gpus());
    let mut left = Left::now(known, request);
    let mut strange: BTreeSet<LeaseId> = strangers(wanted.state, known.node.id, wanted.tenant.0).collect();
    if strange.is_empty() && left.holds(&wanted.need) {
        return sooner(now).then_some(now);
    }
    for (lease, running) in nodes.leases_by_end(known.node.id) {
        let at = running.until.max(now);
        if !sooner(at) {
            return None;
        }
        left.add(wanted.state, known, request, running);
        strange.remove(&lease);
        if strange.is_empty() && left.holds(&wanted.need) {
            return Some(at);
        }
    }
    None
}

/// What is left of a node at some time.
struct Left {
    room: Room,
    /// GPUs of the kind that is asked for.
    fitting: u32,
}

impl Left {
    fn now(known: &PlanNode, request: Option<&GpuRequest>) -> Self {
        Self { room: known.room, fitting: fitting(known, request, &known.gpus) }
    }

    fn holds(&self, need: &Need) -> bool {
        self.room.holds(need) && self.fitting >= need.gpus
    }

    /// This attempt is over.
    fn add(&mut self, state: &State, known: &PlanNode, request: Option<&GpuRequest>, over: &Running) {
        let (free, slots) = (self.room.free.plus(&over.need.resources), self.room.slots + 1);
        self.room =
            Room::on_node(state.settings(), &known.node, free, slots, self.room.gpus + over.need.gpus);
        self.fitting += fitting(known, request, &over.gpus);
    }

    /// What an attempt takes that would get these GPUs; none if that is more than there is.
    fn without(
        &self,
        state: &State,
        known: &PlanNode,
        request: Option<&GpuRequest>,
        need: &Need,
        gpus: &[GpuId],
    ) -> Option<Self> {
        let free = self.room.free.holds(&need.resources).then(|| self.room.free.minus(&need.resources))?;
        let (slots, left) = (self.room.slots.checked_sub(1)?, self.room.gpus.checked_sub(need.gpus)?);
        let room = Room::on_node(state.settings(), &known.node, free, slots, left);
        Some(Self { room, fitting: self.fitting.checked_sub(fitting(known, request, gpus))? })
    }
}

fn fitting(known: &PlanNode, request: Option<&GpuRequest>, gpus: &[GpuId]) -> u32 {
    let Some(request) = request else { return 0 };
    let accepted = known.node.offer.gpus.iter().filter(|gpu| request.accepts(gpu) && gpus.contains(&gpu.id));
    accepted.count() as u32
}

impl Reservation {
    /// Whether a task may start so, which is over at this time at the latest, without a delay for the line: it is over before, or what is left then is enough for
    /// both.
    pub(super) fn permits(
        &self,
        nodes: &Nodes,
        state: &State,
        fit: &Fit,
        need: &Need,
        over_at: TimeMs,
    ) -> bool {
        if fit.node != self.node || over_at < self.at {
            return true;
        }
        let Some(known) = nodes.get(fit.node) else { return true };
        let request = self.gpus.as_ref();
        let mut left = Left::now(known, request);
        for over in nodes.leases_of(fit.node).filter(|running| running.until <= self.at) {
            left.add(state, known, request, over);
        }
        left.without(state, known, request, need, &fit.gpus).is_some_and(|left| left.holds(&self.need))
    }
}
