//! The lines of waiting tasks, as the planner keeps them: which to try next, and which were tried for nothing.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdSet;
use stint_protocol::{Class, SharedSpec};

use super::chunks::Chunks;
use super::nodes::Nodes;
use super::room::{Need, Room};
use super::tenants::{Share, Tenants};
use crate::state::{Line, LineKey, Place, State};

/// A line's number, which stays its own while it has tasks.
pub(super) type LineId = usize;
/// Where a line stands among those of its unit: by its first task.
type Head = (u8, u64, LineId);

/// The order in which lines are served: higher priority, then the tenant that has less, then the older task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub rank: u8,
    pub share: Share,
    pub sequence: u64,
    pub line: LineId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineStatus {
    /// Not tried since it came.
    Fresh,
    /// No node fitted when it was tried: only nodes on which more is free than then can.
    Blocked,
    /// Tried by the plan that is being made, for nothing.
    Tried,
    /// No node that may get work could ever hold it, or its tenant may not use its image.
    Impossible,
}

pub(super) struct PlanLine {
    pub key: LineKey,
    pub need: Need,
    /// Of one of its tasks, which all mean the same to a node.
    pub spec: SharedSpec,
    /// Tasks that the plan has not placed.
    pub places: OrdSet<Place>,
    pub tenant: usize,
    /// Its tenant may not use its image, as long as the settings are these.
    barred: bool,
    unit: usize,
    status: LineStatus,
    head: Head,
}

/// The lines of one tenant and class.
struct Unit {
    tenant: usize,
    class: Class,
    fresh: Chunks<Head, Need, Need>,
    blocked: Chunks<Head, Need, Need>,
    tried: BTreeSet<Head>,
}

#[derive(Default)]
pub(super) struct Lines {
    lines: BTreeMap<LineId, PlanLine>,
    by_key: BTreeMap<LineKey, LineId>,
    next: LineId,
    units: Vec<Unit>,
    unit_of: BTreeMap<(usize, Class), usize>,
    impossible: BTreeSet<LineId>,
    /// What nodes offered when the impossible ones were looked at.
    offers: u64,
}

/// The most that is free, for lines that were not tried and for those that were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Envelope {
    pub all: Option<Room>,
    pub grown: Option<Room>,
}

impl Lines {
    pub(super) fn get(&self, line: LineId) -> Option<&PlanLine> {
        self.lines.get(&line)
    }

    pub(super) fn id_of(&self, key: &LineKey) -> Option<LineId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn units(&self) -> std::ops::Range<usize> {
        0..self.units.len()
    }

    pub(super) fn class_of(&self, unit: usize) -> Class {
        self.units[unit].class
    }

    /// Takes a line as the state has it: new, changed, or gone.
    pub(super) fn refresh(
        &mut self,
        state: &State,
        (tenants, nodes): (&mut Tenants, &mut Nodes),
        key: &LineKey,
        now: Option<&Line>,
    ) {
        let first = now.and_then(|line| line.0.get_min().copied());
        let (Some(now), Some(first)) = (now, first) else {
            self.forget(key);
            return;
        };
        if let Some(id) = self.id_of(key) {
            self.put(id, now.0.clone(), &first);
            return;
        }
        let Some(task) = state.task(first.task) else { return };
        let tenant = tenants.number(&key.tenant);
        let unit = self.unit(tenant, key.demand.class());
        let id = self.next;
        self.next += 1;
        let need = Need::from_demand(&key.demand);
        let head = (first.rank, first.sequence, id);
        self.by_key.insert(key.clone(), id);
        let barred = state.settings().tenants.check_image(&key.tenant, &task.spec).is_err();
        let possible = !barred && nodes.possible(&key.demand, &need);
        let status = if possible { LineStatus::Fresh } else { LineStatus::Impossible };
        if status == LineStatus::Impossible {
            self.impossible.insert(id);
        }
        let (key, spec, places) = (key.clone(), task.spec.clone(), now.0.clone());
        let line = PlanLine { key, need, spec, places, tenant, barred, unit, status, head };
        self.units[unit].put_in(&line);
        self.lines.insert(id, line);
    }

    fn unit(&mut self, tenant: usize, class: Class) -> usize {
        let next = self.units.len();
        let unit = *self.unit_of.entry((tenant, class)).or_insert(next);
        if unit == next {
            let (fresh, blocked) = (Chunks::default(), Chunks::default());
            self.units.push(Unit { tenant, class, fresh, blocked, tried: BTreeSet::new() });
        }
        unit
    }

    fn forget(&mut self, key: &LineKey) {
        let Some(id) = self.by_key.remove(key) else { return };
        let Some(line) = self.lines.remove(&id) else { return };
        self.units[line.unit].take_out(&line);
        self.impossible.remove(&id);
    }

    fn put(&mut self, id: LineId, places: OrdSet<Place>, first: &Place) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.places = places;
        let head = (first.rank, first.sequence, id);
        if line.head != head {
            let unit = &mut self.units[line.unit];
            unit.take_out(line);
            // It is served earlier than when it was tried: what was kept for others then may be its own now.
            if head < line.head && line.status == LineStatus::Blocked {
                line.status = LineStatus::Fresh;
            }
            line.head = head;
            unit.put_in(line);
        }
    }

    /// The plan placed the first task of the line.
    pub(super) fn placed(&mut self, id: LineId) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.places.remove_min();
        let Some(first) = line.places.get_min().copied() else {
            let key = line.key.clone();
            self.forget(&key);
            return;
        };
        let unit = &mut self.units[line.unit];
        unit.take_out(line);
        line.head = (first.rank, first.sequence, id);
        unit.put_in(line);
    }

    /// The plan found no node for the line.
    pub(super) fn tried(&mut self, id: LineId) {
        self.move_to(id, LineStatus::Tried);
    }

    /// No node could hold it.
    pub(super) fn found_impossible(&mut self, id: LineId) {
        self.move_to(id, LineStatus::Impossible);
        self.impossible.insert(id);
    }

    fn move_to(&mut self, id: LineId, status: LineStatus) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let unit = &mut self.units[line.unit];
        unit.take_out(line);
        line.status = status;
        unit.put_in(line);
    }

    pub(super) fn is_blocked(&self, id: LineId) -> bool {
        self.get(id).is_some_and(|line| line.status == LineStatus::Blocked)
    }

    /// Nodes offer something else: what was impossible may be possible now.
    pub(super) fn look_again(&mut self, nodes: &mut Nodes) {
        if self.offers == nodes.offers {
            return;
        }
        self.offers = nodes.offers;
        for id in std::mem::take(&mut self.impossible) {
            let Some(line) = self.lines.get(&id) else { continue };
            if !line.barred && nodes.possible(&line.key.demand, &line.need) {
                self.move_to(id, LineStatus::Fresh);
            } else {
                self.impossible.insert(id);
            }
        }
    }

    /// A plan is done: what it tried waits for nodes to grow.
    pub(super) fn settle(&mut self) {
        for unit in 0..self.units.len() {
            for (_, _, id) in std::mem::take(&mut self.units[unit].tried) {
                if let Some(line) = self.lines.get_mut(&id) {
                    line.status = LineStatus::Blocked;
                    self.units[unit].put_in(line);
                }
            }
        }
    }

    /// The next line of a unit to be tried.
    pub(super) fn next(&self, unit: usize, envelope: &Envelope, tenants: &Tenants) -> Option<Turn> {
        let unit = &self.units[unit];
        let first = |lines: &Chunks<Head, Need, Need>, most: &Option<Room>| {
            let most = most.as_ref()?;
            lines.find(|least| most.may_hold(least), |_, need| most.holds(need)).map(|(head, _)| *head)
        };
        let fresh = first(&unit.fresh, &envelope.all);
        let blocked = first(&unit.blocked, &envelope.grown);
        fresh.into_iter().chain(blocked).min().map(|head| unit.turn(head, tenants))
    }

    /// The line of a class that is served before all others of it.
    pub(super) fn first_of(&self, class: Class, tenants: &Tenants) -> Option<Turn> {
        let of_class = self.units.iter().filter(|unit| unit.class == class);
        let first = of_class.filter_map(|unit| {
            let head = |lines: &Chunks<Head, Need, Need>| lines.iter().next().map(|(head, _)| *head);
            let heads = [head(&unit.fresh), head(&unit.blocked), unit.tried.first().copied()];
            heads.into_iter().flatten().min().map(|head| unit.turn(head, tenants))
        });
        first.min()
    }

    /// Where a line stands now.
    pub(super) fn turn(&self, id: LineId, tenants: &Tenants) -> Option<Turn> {
        self.get(id).map(|line| self.units[line.unit].turn(line.head, tenants))
    }
}

impl Unit {
    fn turn(&self, (rank, sequence, line): Head, tenants: &Tenants) -> Turn {
        Turn { rank, share: tenants.share(self.tenant), sequence, line }
    }

    fn put_in(&mut self, line: &PlanLine) {
        match line.status {
            LineStatus::Fresh => self.fresh.insert(line.head, line.need),
            LineStatus::Blocked => self.blocked.insert(line.head, line.need),
            LineStatus::Tried => {
                self.tried.insert(line.head);
            }
            LineStatus::Impossible => {}
        }
    }

    fn take_out(&mut self, line: &PlanLine) {
        match line.status {
            LineStatus::Fresh => {
                self.fresh.remove(&line.head);
            }
            LineStatus::Blocked => {
                self.blocked.remove(&line.head);
            }
            LineStatus::Tried => {
                self.tried.remove(&line.head);
            }
            LineStatus::Impossible => {}
        }
    }
}
