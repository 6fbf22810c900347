//! Makes plans one after another, each from what changed since the last one.

mod follow;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use stint_protocol::{Class, GpuId, LeaseId, NodeId, TaskId, TimeMs};

use super::lines::{Envelope, LineId, Lines, Turn};
use super::nodes::{Fit, Nodes, Running, Wanted};
use super::reservation::{Holder, Kept, Reservation, reserve};
use super::room::Need;
use super::tenants::{Amounts, Tenants};
use super::{Assignment, PLAN_BYTES, Plan, PlanInput, UnfitReason};
use crate::node::{GpuRecord, Node};
use crate::settings::Settings;
use crate::state::{Line, LineKey, Place, State};
use crate::task::Task;

/// How often a plan looks again at lines that it tried, for what it freed itself. What is left after that waits for the next
/// plan, which its own entry brings.
const ROUNDS: usize = 8;

/// What a plan was made of.
#[derive(Default)]
struct Basis {
    settings: Arc<Settings>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    gpus: OrdMap<GpuId, GpuRecord>,
    leases: OrdSet<(NodeId, LeaseId)>,
    lines: OrdMap<LineKey, Line>,
    reachable: BTreeSet<NodeId>,
}

/// Whose lease it is, and when it is over at the latest.
struct LeaseUse {
    tenant: usize,
    amounts: Amounts,
    until: TimeMs,
}

/// Chooses what starts where. It keeps what it knows between plans, so that the work for one follows what changed; it may
/// be given any state, also one that lacks what its last plan gave. A new one plans the same, at the cost of looking at
/// everything.
#[derive(Default)]
pub struct Planner {
    basis: Basis,
    tenants: Tenants,
    pub(super) nodes: Nodes,
    pub(super) lines: Lines,
    leases: BTreeMap<LeaseId, LeaseUse>,
    /// Nodes that get nothing before a time, which are looked at again then.
    backing_off: BTreeSet<(TimeMs, NodeId)>,
    /// What the last plan gave away, on paper.
    touched_nodes: BTreeSet<NodeId>,
    touched_lines: BTreeSet<LineKey>,
    touched_leases: Vec<(NodeId, LeaseId, TimeMs)>,
    holders: [Holder; Class::ALL.len()],
    envelopes: [Option<Envelope>; Class::ALL.len()],
    /// The time of the last plan. A state on which a plan was tried may be later than the one that is looked at next.
    now: TimeMs,
    /// Nodes of which lines that were tried may get something now.
    again: BTreeSet<NodeId>,
}

impl std::fmt::Debug for Planner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planner").field("leases", &self.leases.len()).finish_non_exhaustive()
    }
}

impl Planner {
    /// What starts now: by priority, then the tenant that has least, then age (docs/internals/placement.md).
    pub fn plan(&mut self, state: &State, input: &PlanInput) -> Plan {
        self.follow(state, &input.reachable);
        let mut plan = Plan::default();
        // What a reservation no longer keeps, or a GPU that is taken, may let a line start that was tried before.
        for _ in 0..ROUNDS {
            self.serve_all(state, &mut plan);
            self.lines.settle();
            if plan.is_full() {
                return plan;
            }
            self.nodes.forget_grown();
            self.envelopes = Default::default();
            if self.again.is_empty() {
                return plan;
            }
            for node in std::mem::take(&mut self.again) {
                self.nodes.mark_grown(node);
            }
        }
        plan
    }

    fn serve_all(&mut self, state: &State, plan: &mut Plan) {
        let mut turns: BTreeSet<(Turn, usize)> = BTreeSet::new();
        for unit in self.lines.units() {
            turns.extend(self.next_of(unit).map(|turn| (turn, unit)));
        }
        let mut bytes: usize = plan.assignments.iter().map(Assignment::bytes).sum();
        while bytes < PLAN_BYTES
            && let Some((turn, unit)) = turns.pop_first()
        {
            // What was placed since may have taken its room, or raised its tenant's share.
            match self.next_of(unit) {
                Some(now) if now == turn => {
                    let assignment = self.serve(state, turn);
                    bytes += assignment.as_ref().map_or(0, Assignment::bytes);
                    plan.assignments.extend(assignment);
                }
                _ => {}
            }
            turns.extend(self.next_of(unit).map(|turn| (turn, unit)));
        }
    }

    fn next_of(&mut self, unit: usize) -> Option<Turn> {
        let class = self.lines.class_of(unit);
        let nodes = &self.nodes;
        let envelope = self.envelopes[class as usize].get_or_insert_with(|| Envelope {
            all: nodes.most_free(class, false),
            grown: nodes.most_free(class, true),
        });
        self.lines.next(unit, envelope, &self.tenants)
    }

    /// Places the first task of a line, or notes that no node fits.
    fn serve(&mut self, state: &State, turn: Turn) -> Option<Assignment> {
        let Some(fit) = self.find(state, turn) else {
            self.lines.tried(turn.line);
            return None;
        };
        let line = self.lines.get(turn.line)?;
        let (need, tenant, key) = (line.need, line.tenant, line.key.clone());
        let longest_ms = key.demand.longest_ms();
        let task = line.places.get_min()?.task;
        let incarnation = self.nodes.get(fit.node)?.node.incarnation;
        if self.nodes.give(state, &fit, &need) {
            self.again.insert(fit.node);
        }
        // Under a number that no attempt has: the lease itself is known when the plan is carried out.
        let (lease, until) = (LeaseId { task, attempt: u32::MAX }, self.now.plus(longest_ms));
        self.nodes.lease(
            fit.node,
            lease,
            Running { need, since: self.now, until, gpus: fit.gpus.clone(), runtime: fit.runtime, tenant },
        );
        self.touched_leases.push((fit.node, lease, until));
        self.tenants.planned(tenant, &Amounts::from(&need));
        self.lines.placed(turn.line);
        self.touched_nodes.insert(fit.node);
        self.touched_lines.insert(key);
        self.envelopes = Default::default();
        self.note_served(tenant);
        Some(Assignment { task, node: fit.node, incarnation, runtime: fit.runtime, gpus: fit.gpus })
    }

    /// The best node for the first task of a line. One that failed to start it lately comes after all others.
    fn find(&mut self, state: &State, turn: Turn) -> Option<Fit> {
        let grown = self.lines.is_blocked(turn.line);
        let line = self.lines.get(turn.line)?;
        let task = state.task(line.places.get_min()?.task)?;
        let (key, need, number) = (line.key.clone(), line.need, line.tenant);
        let over_at = self.now.plus(key.demand.longest_ms());
        let spec = task.spec.clone();
        let wanted = Wanted {
            state,
            demand: &key.demand,
            need,
            spec: &spec,
            tenant: (&key.tenant, number),
            rules: self.nodes.rules_for(state, &key.tenant, &spec),
            now: self.now,
        };
        let failed = |node: NodeId| task.fields.failed_to_start_on(node);
        let mut reserved = false;
        loop {
            let permits = |fit: &Fit| !reserved || self.permitted(state, turn, fit, &need, over_at);
            let untried = |fit: &Fit| !failed(fit.node) && permits(fit);
            let first = self.nodes.best(&wanted, grown, &untried);
            let found = match first {
                None if !task.fields.records.is_empty() => self.nodes.best(&wanted, grown, &permits),
                first => first,
            }?;
            // Reservations are made only when somebody could be in their way.
            if reserved || !self.reserve_before(state, turn) {
                return Some(found);
            }
            if self.permitted(state, turn, &found, &need, over_at) {
                return Some(found);
            }
            reserved = true;
        }
    }

    fn permitted(&self, state: &State, turn: Turn, fit: &Fit, need: &Need, over_at: TimeMs) -> bool {
        let before = self.reservations_before(turn);
        before.into_iter().all(|kept| kept.permits(&self.nodes, state, fit, need, over_at))
    }

    fn reservations_before(&self, turn: Turn) -> impl Iterator<Item = &Reservation> {
        let before = self
            .holders
            .iter()
            .filter(move |holder| holder.turn.is_some_and(|first| first < turn && first.line != turn.line));
        before.filter_map(|holder| holder.reservation.as_ref())
    }

    /// Makes the reservations of those that come before; whether there is any.
    fn reserve_before(&mut self, state: &State, turn: Turn) -> bool {
        for class in Class::ALL {
            while let Some(first) = self.holders[class as usize].turn
                && first < turn
                && !self.holders[class as usize].looked
            {
                self.reserve(state, class, first.line);
            }
        }
        self.reservations_before(turn).next().is_some()
    }

    /// Looks for a place for the line that is served first of a class. One that no node could ever hold makes room for the
    /// next.
    fn reserve(&mut self, state: &State, class: Class, line: LineId) {
        let Some(known) = self.lines.get(line) else { return };
        let wanted = Wanted {
            state,
            demand: &known.key.demand,
            need: known.need,
            spec: &known.spec,
            tenant: (&known.key.tenant, known.tenant),
            rules: self.nodes.rules_for(state, &known.key.tenant, &known.spec),
            now: self.now,
        };
        let place = reserve(&self.nodes, &wanted, line);
        let turn = self.holders[class as usize].turn;
        let holder = &mut self.holders[class as usize];
        match place {
            Kept::Never => {
                self.lines.found_impossible(line);
                *holder = Holder { turn: self.lines.first_of(class, &self.tenants), ..Holder::default() };
            }
            Kept::Unknown => holder.looked = true,
            Kept::At(kept) => {
                holder.looked = true;
                holder.shares = turn.map_or_else(Vec::new, |turn| self.tenants.compared_with(turn.share));
                holder.reservation = Some(kept);
            }
        }
    }

    /// A line got a node: another one may be first of its class, and of the others of its tenant, now.
    fn note_served(&mut self, tenant: usize) {
        for class in Class::ALL {
            let first = self.holders[class as usize].turn.and_then(|first| self.lines.get(first.line));
            if first.is_none_or(|first| first.tenant == tenant) {
                self.find_holder(class);
            }
        }
    }

    /// Which line of a class is served first now; a reservation of the same one stays. Whoever is served while another line comes
    /// before knows by that that no node fits the other one.
    fn find_holder(&mut self, class: Class) {
        let turn = self.lines.first_of(class, &self.tenants);
        let before = std::mem::take(&mut self.holders[class as usize]);
        let mut holder = Holder { turn, ..Holder::default() };
        let Some(kept) = before.reservation else {
            self.holders[class as usize] = holder;
            return;
        };
        let mut frees = true;
        if let Some(turn) = turn {
            holder.shares = self.tenants.compared_with(turn.share);
            let untouched = !self.touched_nodes.contains(&kept.node) && self.nodes.get(kept.node).is_some();
            let same_order = before
                .turn
                .is_some_and(|before| (turn.rank, turn.sequence) <= (before.rank, before.sequence))
                && holder.shares == before.shares;
            let stays = untouched && turn.line == kept.line;
            // Otherwise somebody comes before it who did not when it was tried there.
            frees = !stays || !same_order;
            holder.reservation = stays.then(|| kept.clone());
            holder.looked = stays;
        }
        self.holders[class as usize] = holder;
        if frees {
            self.give_up(Some(kept.node));
        }
    }

    /// What was kept on a node may be free for others.
    fn give_up(&mut self, node: Option<NodeId>) {
        if let Some(node) = node {
            self.nodes.mark_grown(node);
            self.again.insert(node);
            self.envelopes = Default::default();
        }
    }

    /// The reservation that keeps a task from starting so, if any.
    pub(super) fn kept_from(&mut self, state: &State, line: LineId, fit: &Fit) -> Option<&Reservation> {
        let turn = self.lines.turn(line, &self.tenants)?;
        self.reserve_before(state, turn);
        let known = self.lines.get(line)?;
        let (need, over_at) = (known.need, self.now.plus(known.key.demand.longest_ms()));
        let mut before = self.reservations_before(turn);
        before.find(|kept| !kept.permits(&self.nodes, state, fit, &need, over_at))
    }

    /// Why a node on which a waiting task fits does not take it, when the plan that was just made does not start it.
    pub(crate) fn taken(&mut self, state: &State, task: &Task, node: NodeId) -> Option<UnfitReason> {
        let line = self.lines.id_of(&LineKey::from_task(task))?;
        let known = self.nodes.get(node)?;
        let (need, spec) = (Need::from_demand(&task.demand), &task.spec);
        let tenant = (&task.fields.tenant, self.lines.get(line)?.tenant);
        let rules = self.nodes.rules_for(state, tenant.0, spec);
        let wanted = Wanted { state, demand: &task.demand, need, spec, tenant, rules, now: self.now };
        let fit = self.nodes.fit(known, &wanted);
        if known.is_held_for(&wanted) {
            return Some(UnfitReason::OnTrial);
        }
        let Some(fit) = fit else {
            let kept = known.room.may_hold(&need) && !known.room.holds(&need);
            let gpus = known.room.gpus;
            return Some(if kept { UnfitReason::KeptForGpus { gpus } } else { UnfitReason::Given });
        };
        let kept = self.kept_from(state, line, &fit).cloned();
        let reserved = kept.and_then(|kept| {
            let task = self.lines.get(kept.line)?.places.get_min()?.task;
            Some(UnfitReason::Reserved { task, left_ms: kept.at.since(state.time()) })
        });
        Some(reserved.unwrap_or(UnfitReason::Given))
    }

    /// Where and when a task starts at the latest, if it is the next one of its class.
    pub(crate) fn expected(&mut self, state: &State, task: &Task) -> Option<(NodeId, TimeMs)> {
        let line = self.lines.id_of(&LineKey::from_task(task))?;
        let class = task.spec.class;
        let first = self.lines.get(line)?.places.get_min()?;
        if first.sequence != task.fields.sequence || self.holders[class as usize].turn?.line != line {
            return None;
        }
        if !self.holders[class as usize].looked {
            self.reserve(state, class, line);
        }
        let kept = self.holders[class as usize].reservation.as_ref().filter(|kept| kept.line == line);
        kept.map(|kept| (kept.node, kept.at))
    }

    /// Waiting tasks that are served before this one, before anything is planned.
    pub(crate) fn ahead(
        &mut self,
        state: &State,
        reachable: &BTreeSet<NodeId>,
        id: TaskId,
        task: &Task,
    ) -> u64 {
        self.follow(state, reachable);
        let share = |key: &LineKey, tenants: &mut Tenants| {
            let tenant = tenants.number(&key.tenant);
            tenants.share(tenant)
        };
        let (own, own_key) = (Place::from_task(id, task), LineKey::from_task(task));
        let own_share = share(&own_key, &mut self.tenants);
        let before = state.queue.lines.iter().map(|(key, line)| {
            let others = share(key, &mut self.tenants);
            let before =
                |place: &&Place| (place.rank, others, place.sequence) < (own.rank, own_share, own.sequence);
            line.0.iter().take_while(before).count() as u64
        });
        before.sum()
    }
}
