//! Takes over what changed since the last plan: nodes, leases and lines, each from the difference of two states.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::ordset::DiffItem as SetDiffItem;
use stint_protocol::{Class, LeaseId, NodeId};

use super::{Basis, LeaseUse, Planner};
use crate::node::GpuRecord;
use crate::plan::nodes::Running;
use crate::plan::room::Need;
use crate::plan::tenants::Amounts;
use crate::state::State;

impl Planner {
    /// Takes over what changed since the last plan.
    pub(super) fn follow(&mut self, state: &State, reachable: &BTreeSet<NodeId>) {
        if !Arc::ptr_eq(&self.basis.settings, state.settings()) && self.basis.settings != *state.settings() {
            *self = Self::default();
        }
        self.envelopes = Default::default();
        self.now = state.time();
        self.tenants.begin(state.settings());
        for (node, lease, until) in std::mem::take(&mut self.touched_leases) {
            self.nodes.release(node, lease, until);
        }
        let mut nodes = std::mem::take(&mut self.touched_nodes);
        let due = self.follow_nodes(state, reachable, &mut nodes);
        self.follow_leases(state);
        for id in &nodes {
            self.nodes.refresh(state, *id, reachable.contains(id));
            let Some(node) = state.node(*id) else { continue };
            let holds = node.holds_in_force(state.time()).map(|hold| hold.backoff.until);
            let until = node.backing_off(state.time()).map(|backoff| backoff.until).into_iter().chain(holds);
            self.backing_off.extend(until.map(|until| (until, *id)));
        }
        due.into_iter().for_each(|id| self.nodes.mark_grown(id));
        self.follow_lines(state);
        self.basis = Basis {
            settings: state.settings().clone(),
            nodes: state.nodes.clone(),
            gpus: state.gpus.clone(),
            leases: state.leases.clone(),
            lines: state.queue.lines.clone(),
            reachable: std::mem::take(&mut self.basis.reachable),
        };
        if self.basis.reachable != *reachable {
            self.basis.reachable = reachable.clone();
        }
        self.touched_nodes = nodes;
        for class in Class::ALL {
            self.find_holder(class);
        }
        self.touched_nodes.clear();
    }

    /// Collects the nodes of which anything may have changed; answers those that are no longer held.
    fn follow_nodes(
        &mut self,
        state: &State,
        reachable: &BTreeSet<NodeId>,
        changed: &mut BTreeSet<NodeId>,
    ) -> BTreeSet<NodeId> {
        for item in self.basis.nodes.diff(&state.nodes) {
            let (id, before, now) = match item {
                DiffItem::Add(id, now) => (id, None, Some(now)),
                DiffItem::Update { old: (id, before), new: (_, now) } => (id, Some(before), Some(now)),
                DiffItem::Remove(id, before) => (id, Some(before), None),
            };
            self.tenants.node_changed(before.map(|node| &**node), now.map(|node| &**node));
            self.nodes.note_offer(before, now);
            changed.insert(*id);
        }
        let offering =
            |record: &GpuRecord| record.offered_by.iter().map(|(node, _)| *node).collect::<Vec<_>>();
        for item in self.basis.gpus.diff(&state.gpus) {
            match item {
                DiffItem::Add(_, record) | DiffItem::Remove(_, record) => changed.extend(offering(record)),
                DiffItem::Update { old: (_, before), new: (_, now) } => {
                    changed.extend(offering(before));
                    changed.extend(offering(now));
                }
            }
        }
        if self.basis.reachable != *reachable {
            changed.extend(self.basis.reachable.symmetric_difference(reachable));
        }
        let mut due = BTreeSet::new();
        while let Some((until, id)) =
            self.backing_off.first().copied().filter(|(until, _)| *until <= state.time())
        {
            self.backing_off.remove(&(until, id));
            due.insert(id);
        }
        changed.extend(due.iter().copied());
        due
    }

    fn follow_leases(&mut self, state: &State) {
        let before = std::mem::take(&mut self.basis.leases);
        for item in before.diff(&state.leases) {
            match item {
                SetDiffItem::Remove((node, lease)) => self.forget_lease(*node, *lease),
                SetDiffItem::Add((node, lease)) => self.know_lease(state, *node, *lease),
            }
        }
    }

    fn forget_lease(&mut self, node: NodeId, lease: LeaseId) {
        let Some(known) = self.leases.remove(&lease) else { return };
        self.tenants.released(known.tenant, &known.amounts);
        self.nodes.release(node, lease, known.until);
    }

    fn know_lease(&mut self, state: &State, node: NodeId, lease: LeaseId) {
        let Some(task) = state.task(lease.task) else { return };
        let Some(leased) = task.leased() else { return };
        let (need, until) = (Need::from_demand(&task.demand), leased.since.plus(task.demand.longest_ms()));
        let (tenant, amounts) = (self.tenants.number(&task.fields.tenant), Amounts::from(&need));
        self.tenants.leased(tenant, &amounts);
        self.nodes.lease(
            node,
            lease,
            Running {
                need,
                since: leased.since,
                until,
                gpus: leased.gpus.clone(),
                runtime: leased.runtime,
                tenant,
            },
        );
        self.leases.insert(lease, LeaseUse { tenant, amounts, until });
    }

    fn follow_lines(&mut self, state: &State) {
        let now = &state.queue.lines;
        let before = std::mem::take(&mut self.basis.lines);
        for item in before.diff(now) {
            let (key, line) = match item {
                DiffItem::Add(key, line) | DiffItem::Update { new: (key, line), .. } => (key, Some(line)),
                DiffItem::Remove(key, _) => (key, None),
            };
            self.lines.refresh(state, (&mut self.tenants, &mut self.nodes), key, line);
        }
        for key in std::mem::take(&mut self.touched_lines) {
            self.lines.refresh(state, (&mut self.tenants, &mut self.nodes), &key, now.get(&key));
        }
        self.lines.look_again(&mut self.nodes);
    }
}
