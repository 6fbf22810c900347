//! The nodes that may get work, ordered by how well they suit, with what is free on each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stint_protocol::{
    Class, GpuId, LeaseId, NodeId, NodeRules, Runtime, SharedSpec, TaskSpec, Tenant, TimeMs,
};

use super::chunks::{Chunks, Summary};
use super::filter::{
    Rules, choose_runtime, fits_labels, forbidden, lets_have, names_anything, strangers, suited_runtimes,
    takes,
};
use super::room::{Need, Room};
use super::score::rank;
use crate::demand::Demand;
use crate::node::{Node, NodeMode};
use crate::state::State;

/// Nodes with a label are looked at one by one while they are no more than this; else all nodes by rank.
const FEW: usize = 64;

/// Classes, runtimes and rules, as nodes offer them.
type Kind = (Vec<Class>, Vec<Runtime>, Option<Box<NodeRules>>);

/// A lease on a node, and when it is over at the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub need: Need,
    pub since: TimeMs,
    pub until: TimeMs,
    pub gpus: Vec<GpuId>,
    pub runtime: Runtime,
    /// By its number.
    pub tenant: usize,
}

/// One node that may get work.
pub(super) struct PlanNode {
    pub node: Arc<Node>,
    pub room: Room,
    /// Free ones, as they are offered.
    pub gpus: Vec<GpuId>,
    group: usize,
    rank: u64,
}

/// Nodes with the same classes, runtimes and rules.
struct Group {
    classes: Vec<Class>,
    runtimes: Vec<Runtime>,
    rules: Option<Box<NodeRules>>,
    nodes: Chunks<(u64, NodeId), Room, Room>,
}

/// What is asked of a node.
pub(super) struct Wanted<'a> {
    pub state: &'a State,
    pub demand: &'a Demand,
    pub need: Need,
    /// Any spec with this demand.
    pub spec: &'a SharedSpec,
    /// Whose task it is, and by which number.
    pub tenant: (&'a Tenant, usize),
    /// Whether the rules of nodes count for it (`Nodes::rules_for`).
    pub rules: Rules,
    /// The time of the plan.
    pub now: TimeMs,
}

impl Wanted<'_> {
    /// Whose task it is, and what it asks for.
    fn asked(&self) -> (&Tenant, &TaskSpec) {
        (self.tenant.0, self.spec)
    }
}

/// A node that fits, and what the task would get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    pub node: NodeId,
    pub runtime: Runtime,
    pub gpus: Vec<GpuId>,
}

#[derive(Default)]
pub(super) struct Nodes {
    usable: BTreeMap<NodeId, PlanNode>,
    groups: Vec<Group>,
    group_of: BTreeMap<Kind, usize>,
    /// All nodes that registered, also those that get no work now: how many there are of a kind, and one of their offers.
    kinds: BTreeMap<Kind, (usize, Arc<Node>)>,
    labelled: BTreeMap<(String, String), BTreeSet<NodeId>>,
    leases: BTreeMap<NodeId, BTreeMap<(TimeMs, LeaseId), Running>>,
    /// Nodes on which more is free than when the blocked lines were last tried, by class.
    grown: [Chunks<NodeId, Room, Room>; Class::ALL.len()],
    /// Any of `grown`.
    grown_nodes: BTreeSet<NodeId>,
    /// Goes up whenever a node may get work that could not, or offers something else.
    pub offers: u64,
    /// The most that any node has in all, by class; and for which `offers` that is.
    totals: ([Room; Class::ALL.len()], u64),
}

impl Nodes {
    pub(super) fn get(&self, id: NodeId) -> Option<&PlanNode> {
        self.usable.get(&id)
    }

    pub(super) fn leases_of(&self, id: NodeId) -> impl Iterator<Item = &Running> {
        self.leases_by_end(id).map(|(_, running)| running)
    }

    /// The one that is over first comes first.
    pub(super) fn leases_by_end(&self, id: NodeId) -> impl Iterator<Item = (LeaseId, &Running)> {
        let leases = self.leases.get(&id).into_iter().flatten();
        leases.map(|((_, lease), running)| (*lease, running))
    }

    pub(super) fn lease(&mut self, node: NodeId, lease: LeaseId, running: Running) {
        self.leases.entry(node).or_default().insert((running.until, lease), running);
    }

    pub(super) fn release(&mut self, node: NodeId, lease: LeaseId, until: TimeMs) {
        let Some(leases) = self.leases.get_mut(&node) else { return };
        leases.remove(&(until, lease));
        if leases.is_empty() {
            self.leases.remove(&node);
        }
    }

    /// Looks at a node again: at all of it.
    pub(super) fn refresh(&mut self, state: &State, id: NodeId, reachable: bool) {
        let now = state.node(id).filter(|node| reachable && may_get_work(state, node));
        let Some(node) = now else {
            self.take_out(id);
            self.not_grown(id);
            return;
        };
        let gpus = free_gpus(state, node);
        let room = Room::on_node(state.settings(), node, node.free(), node.free_slots(), gpus.len() as u32);
        let before = self.usable.get(&id);
        let same_offer = before.is_some_and(|before| before.node.offer == node.offer);
        let same_holds = before.is_some_and(|before| before.node.start_holds == node.start_holds);
        let grew = before.is_none_or(|before| room.grew_from(&before.room)) || !same_offer || !same_holds;
        if same_offer {
            self.set(state, id, node.clone(), room, gpus);
        } else {
            self.take_out(id);
            self.put_in(state, node.clone(), room, gpus);
            self.offers += 1;
        }
        if grew || self.grown_nodes.contains(&id) {
            self.mark_grown(id);
        }
    }

    fn put_in(&mut self, state: &State, node: Arc<Node>, room: Room, gpus: Vec<GpuId>) {
        let id = node.id;
        for (key, value) in &node.offer.labels {
            self.labelled.entry((key.clone(), value.clone())).or_default().insert(id);
        }
        let group = self.group_for(&node);
        let rank = rank(state.settings().placement, &node.offer, &room);
        self.groups[group].nodes.insert((rank, id), room);
        self.usable.insert(id, PlanNode { node, room, gpus, group, rank });
    }

    fn group_for(&mut self, node: &Node) -> usize {
        let kind = kind_of(node);
        let next = self.groups.len();
        let group = *self.group_of.entry(kind.clone()).or_insert(next);
        if group == next {
            let (classes, runtimes, rules) = kind;
            self.groups.push(Group { classes, runtimes, rules, nodes: Chunks::default() });
        }
        group
    }

    /// A node came, went or offers something else. When it was the last of its kind, what it alone allowed is allowed nowhere
    /// now, and any node may tell that to the tasks that waited for it.
    pub(super) fn note_offer(&mut self, before: Option<&Arc<Node>>, now: Option<&Arc<Node>>) {
        let registered = |node: &&Arc<Node>| node.incarnation.0 != 0;
        let (before, now) = (before.filter(registered), now.filter(registered));
        if before.map(|node| &node.offer) == now.map(|node| &node.offer) {
            return;
        }
        if let Some(node) = now {
            self.kinds.entry(kind_of(node)).or_insert_with(|| (0, node.clone())).0 += 1;
        }
        let Some(kind) = before.map(|node| kind_of(node)) else { return };
        let Some((count, _)) = self.kinds.get_mut(&kind) else { return };
        *count -= 1;
        if *count == 0 {
            self.kinds.remove(&kind);
            let all: Vec<NodeId> = self.usable.keys().copied().collect();
            all.into_iter().for_each(|id| self.mark_grown(id));
        }
    }

    /// Whether the rules of nodes count for a task: where none of them lets it have what it names, waiting is for nothing.
    pub(super) fn rules_for(&self, state: &State, tenant: &Tenant, spec: &TaskSpec) -> Rules {
        let allows = |(_, node): &(usize, Arc<Node>)| lets_have(state, &node.offer, (tenant, spec));
        Rules::for_task(!names_anything(spec) || self.kinds.values().any(allows))
    }

    fn take_out(&mut self, id: NodeId) {
        let Some(known) = self.usable.remove(&id) else { return };
        self.groups[known.group].nodes.remove(&(known.rank, id));
        for (key, value) in &known.node.offer.labels {
            let label = (key.clone(), value.clone());
            let Some(nodes) = self.labelled.get_mut(&label) else { continue };
            nodes.remove(&id);
            if nodes.is_empty() {
                self.labelled.remove(&label);
            }
        }
    }

    fn set(&mut self, state: &State, id: NodeId, node: Arc<Node>, room: Room, gpus: Vec<GpuId>) {
        let Some(known) = self.usable.get_mut(&id) else { return };
        let nodes = &mut self.groups[known.group].nodes;
        nodes.remove(&(known.rank, id));
        known.rank = rank(state.settings().placement, &node.offer, &room);
        (known.node, known.room, known.gpus) = (node, room, gpus);
        nodes.insert((known.rank, id), room);
    }

    /// Takes from a node what an attempt would get there. Whether more is left for tasks without GPUs than before: less is
    /// kept for the GPUs that are left.
    pub(super) fn give(&mut self, state: &State, fit: &Fit, need: &Need) -> bool {
        let Some(known) = self.usable.get(&fit.node) else { return false };
        let gpus: Vec<GpuId> = known.gpus.iter().filter(|id| !fit.gpus.contains(id)).cloned().collect();
        let (free, slots) = (known.room.free.minus(&need.resources), known.room.slots.saturating_sub(1));
        let room = Room::on_node(state.settings(), &known.node, free, slots, gpus.len() as u32);
        let (node, grew) = (known.node.clone(), room.grew_from(&known.room));
        self.set(state, fit.node, node, room, gpus);
        if grew || self.grown_nodes.contains(&fit.node) {
            self.mark_grown(fit.node);
        }
        grew
    }

    /// More may be free on this node for lines that were blocked.
    pub(super) fn mark_grown(&mut self, id: NodeId) {
        let Some(known) = self.usable.get(&id) else { return };
        self.grown_nodes.insert(id);
        for class in &known.node.offer.classes {
            self.grown[*class as usize].insert(id, known.room);
        }
    }

    fn not_grown(&mut self, id: NodeId) {
        if self.grown_nodes.remove(&id) {
            self.grown.iter_mut().for_each(|nodes| {
                nodes.remove(&id);
            });
        }
    }

    /// Every blocked line was tried.
    pub(super) fn forget_grown(&mut self) {
        self.grown_nodes.clear();
        self.grown = Default::default();
    }

    /// The most that is free on any node that offers the class; `grown`: of those on which more is free than before.
    pub(super) fn most_free(&self, class: Class, grown: bool) -> Option<Room> {
        if grown {
            return self.grown[class as usize].summary();
        }
        let offering = self.groups.iter().filter(|group| group.classes.contains(&class));
        let rooms = offering.filter_map(|group| group.nodes.summary());
        rooms.reduce(|mut most, room| {
            Summary::join(&mut most, &room);
            most
        })
    }

    /// Whether a node could ever hold it, as far as amounts and single labels tell.
    pub(super) fn possible(&mut self, demand: &Demand, need: &Need) -> bool {
        if self.totals.1 != self.offers {
            self.totals = (self.total_of_each_class(), self.offers);
        }
        self.totals.0[demand.class() as usize].may_hold(need) && self.labels_known(demand)
    }

    fn labels_known(&self, demand: &Demand) -> bool {
        demand.constraints().iter().all(|(k, v)| self.labelled.contains_key(&(k.clone(), v.clone())))
    }

    fn total_of_each_class(&self) -> [Room; Class::ALL.len()] {
        let mut totals: [Room; Class::ALL.len()] = Default::default();
        for known in self.usable.values() {
            let all = whole(&known.node);
            for class in &known.node.offer.classes {
                Summary::widen(&mut totals[*class as usize], &all);
            }
        }
        totals
    }

    /// The best node that fits now and on which the task is permitted. `grown`: only those on which more is free than before
    /// are meant, as all others were tried.
    pub(super) fn best(
        &self,
        wanted: &Wanted<'_>,
        grown: bool,
        permits: &dyn Fn(&Fit) -> bool,
    ) -> Option<Fit> {
        let few = if grown { Some(&self.grown_nodes) } else { None };
        let few = few.into_iter().chain(self.nodes_of_labels(wanted.demand)).min_by_key(|nodes| nodes.len());
        match few {
            Some(few) if few.len() <= FEW => self.best_of(few, wanted, permits),
            _ => self.best_by_rank(wanted, permits),
        }
    }

    fn nodes_of_labels(&self, demand: &Demand) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        demand.constraints().iter().filter_map(|(k, v)| self.labelled.get(&(k.clone(), v.clone())))
    }

    fn best_of(
        &self,
        nodes: &BTreeSet<NodeId>,
        wanted: &Wanted<'_>,
        permits: &dyn Fn(&Fit) -> bool,
    ) -> Option<Fit> {
        let known = nodes.iter().filter_map(|id| self.usable.get(id));
        let fits = known.filter_map(|known| Some(((known.rank, known.node.id), self.fit(known, wanted)?)));
        fits.filter(|(_, fit)| permits(fit)).min_by_key(|(place, _)| *place).map(|(_, fit)| fit)
    }

    fn best_by_rank(&self, wanted: &Wanted<'_>, permits: &dyn Fn(&Fit) -> bool) -> Option<Fit> {
        let suited = suited_runtimes(wanted.state, wanted.spec);
        let meant = self.groups.iter().filter(|group| {
            let allowed = |runtime: Runtime| {
                let may = || forbidden(group.rules.as_deref(), runtime, wanted.spec).is_empty();
                group.runtimes.contains(&runtime) && (wanted.rules == Rules::Ignored || may())
            };
            let runs = group.nodes.summary().is_some() && group.classes.contains(&wanted.demand.class());
            let takes = || takes(wanted.state, group.rules.as_deref(), wanted.tenant.0);
            runs && takes() && suited.clone().any(allowed)
        });
        let best = meant.filter_map(|group| {
            let mut fit = None;
            let found = group.nodes.find(
                |most| most.may_hold(&wanted.need),
                |(_, id), room| {
                    fit = room
                        .holds(&wanted.need)
                        .then(|| self.fit(self.usable.get(id)?, wanted))
                        .flatten()
                        .filter(permits);
                    fit.is_some()
                },
            );
            found.map(|(place, _)| *place).zip(fit)
        });
        best.min_by_key(|(place, _)| *place).map(|(_, fit)| fit)
    }

    /// What the task would get on a node, if it fits there, next to what runs there, and the node is not held for its kind.
    pub(super) fn fit(&self, known: &PlanNode, wanted: &Wanted<'_>) -> Option<Fit> {
        let fit = known.fit(wanted)?;
        let (tenant, number) = wanted.tenant;
        if strangers(wanted.state, fit.node, tenant).next().is_some() {
            return None;
        }
        if known.node.start_holds().is_empty() {
            return Some(fit);
        }
        let tried = |since: TimeMs| {
            let mut running = self.leases_of(fit.node);
            running.any(|r| r.tenant == number && r.runtime == fit.runtime && r.since > since)
        };
        let backs_off = known.node.hold(wanted.now, fit.runtime, tenant).is_some();
        let on_trial = known.node.on_trial(wanted.now, fit.runtime, tenant);
        (!backs_off && !on_trial.is_some_and(|backoff| tried(backoff.at))).then_some(fit)
    }

    /// Every node that may get work.
    pub(super) fn iter(&self) -> impl Iterator<Item = &PlanNode> {
        self.usable.values()
    }
}

impl PlanNode {
    /// What the task would get here, if it fits.
    fn fit(&self, wanted: &Wanted<'_>) -> Option<Fit> {
        if !self.room.holds(&wanted.need) || !self.suits(wanted.demand) {
            return None;
        }
        let runtime = choose_runtime(wanted.state, &self.node, wanted.asked(), wanted.rules).ok()?;
        let gpus = match wanted.demand.gpus() {
            None => Vec::new(),
            Some(request) => {
                let fitting =
                    |id: &&GpuId| self.node.offer.gpus.iter().any(|g| g.id == **id && request.accepts(g));
                self.gpus.iter().filter(fitting).take(request.count as usize).cloned().collect()
            }
        };
        (gpus.len() == wanted.need.gpus as usize).then_some(Fit { node: self.node.id, runtime, gpus })
    }

    fn suits(&self, demand: &Demand) -> bool {
        self.node.offer.classes.contains(&demand.class()) && fits_labels(&self.node, demand.constraints())
    }

    /// Whether it could take the task if nothing else ran here.
    pub(super) fn could_hold(&self, wanted: &Wanted<'_>) -> bool {
        let fitting = |request: &stint_protocol::GpuRequest| {
            self.node.offer.gpus.iter().filter(|gpu| request.accepts(gpu)).count() as u32
        };
        whole(&self.node).may_hold(&wanted.need)
            && self.suits(wanted.demand)
            && wanted.demand.gpus().is_none_or(|request| fitting(request) >= request.count)
            && choose_runtime(wanted.state, &self.node, wanted.asked(), wanted.rules).is_ok()
    }

    /// Whether the node failed to start tasks of this kind, and gets none or one at a time.
    pub(super) fn is_held_for(&self, wanted: &Wanted<'_>) -> bool {
        let Ok(runtime) = choose_runtime(wanted.state, &self.node, wanted.asked(), wanted.rules) else {
            return false;
        };
        let (node, now, tenant) = (&self.node, wanted.now, wanted.tenant.0);
        node.hold(now, runtime, tenant).is_some() || node.on_trial(now, runtime, tenant).is_some()
    }
}

fn kind_of(node: &Node) -> Kind {
    let (mut classes, mut runtimes) = (node.offer.classes.clone(), node.offer.runtimes.clone());
    classes.sort_unstable();
    runtimes.sort_unstable();
    (classes, runtimes, node.offer.rules.clone())
}

/// All that a node has.
fn whole(node: &Node) -> Room {
    let all = node.offer.resources;
    Room { free: all, open: all, unkept: all, slots: node.offer.slots, gpus: node.offer.gpus.len() as u32 }
}

fn may_get_work(state: &State, node: &Node) -> bool {
    let registered = node.incarnation.0 != 0;
    registered && node.mode == NodeMode::Ready && node.backing_off(state.time()).is_none()
}

fn free_gpus(state: &State, node: &Node) -> Vec<GpuId> {
    let free = |id: &&GpuId| state.gpu(id).is_some_and(|record| record.free_on(node.id).is_some());
    node.offer.gpus.iter().map(|gpu| &gpu.id).filter(free).cloned().collect()
}
