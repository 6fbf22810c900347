//! What each tenant has of the cluster: who has the smallest share of what it uses most goes first.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use stint_protocol::{Resources, Tenant};

use super::room::Need;
use crate::node::Node;

/// A part of the cluster, in millionths.
pub(super) type Share = u64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    cpu_milli: u64,
    memory_bytes: u64,
    gpus: u64,
}

impl Amounts {
    fn new(resources: &Resources, gpus: u64) -> Self {
        Self { cpu_milli: resources.cpu_milli, memory_bytes: resources.memory_bytes, gpus }
    }

    fn add(&mut self, other: &Amounts) {
        self.cpu_milli += other.cpu_milli;
        self.memory_bytes += other.memory_bytes;
        self.gpus += other.gpus;
    }

    fn subtract(&mut self, other: &Amounts) {
        self.cpu_milli = self.cpu_milli.saturating_sub(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_sub(other.memory_bytes);
        self.gpus = self.gpus.saturating_sub(other.gpus);
    }
}

impl From<&Need> for Amounts {
    fn from(need: &Need) -> Self {
        Self::new(&need.resources, u64::from(need.gpus))
    }
}

#[derive(Default)]
struct TenantUse {
    /// Under leases.
    leased: Amounts,
    /// Given by the plan that is being made.
    planned: Amounts,
}

/// Tenants by a number that stays theirs while the planner lives.
#[derive(Default)]
pub(super) struct Tenants {
    numbers: BTreeMap<Tenant, usize>,
    uses: Vec<TenantUse>,
    /// Of all nodes.
    total: Amounts,
}

impl Tenants {
    pub(super) fn number(&mut self, tenant: &Tenant) -> usize {
        if let Some(number) = self.numbers.get(tenant) {
            return *number;
        }
        let number = self.uses.len();
        self.numbers.insert(tenant.clone(), number);
        self.uses.push(TenantUse::default());
        number
    }

    pub(super) fn leased(&mut self, tenant: usize, amounts: &Amounts) {
        self.uses[tenant].leased.add(amounts);
    }

    pub(super) fn released(&mut self, tenant: usize, amounts: &Amounts) {
        self.uses[tenant].leased.subtract(amounts);
    }

    pub(super) fn planned(&mut self, tenant: usize, amounts: &Amounts) {
        self.uses[tenant].planned.add(amounts);
    }

    /// A node offers something else, came or went: shares are parts of what all nodes offer.
    pub(super) fn node_changed(&mut self, before: Option<&Node>, now: Option<&Node>) {
        let whole = |node: &Node| Amounts::new(&node.offer.resources, node.offer.gpus.len() as u64);
        before.iter().for_each(|node| self.total.subtract(&whole(node)));
        now.iter().for_each(|node| self.total.add(&whole(node)));
    }

    /// A new plan is made: what the last one gave is leased by now, or was not given.
    pub(super) fn begin(&mut self) {
        self.uses.iter_mut().for_each(|tenant| tenant.planned = Amounts::default());
    }

    /// How the share of each tenant, by number, compares with this one.
    pub(super) fn compared_with(&self, share: Share) -> Vec<Ordering> {
        (0..self.uses.len()).map(|tenant| self.share(tenant).cmp(&share)).collect()
    }

    /// The largest part that the tenant has of any resource of the cluster.
    pub(super) fn share(&self, tenant: usize) -> Share {
        let TenantUse { leased, planned } = &self.uses[tenant];
        let part = |used: u64, total: u64| match total {
            0 => 0,
            total => (u128::from(used) * 1_000_000 / u128::from(total)) as Share,
        };
        let cpu = part(leased.cpu_milli + planned.cpu_milli, self.total.cpu_milli);
        let memory = part(leased.memory_bytes + planned.memory_bytes, self.total.memory_bytes);
        cpu.max(memory).max(part(leased.gpus + planned.gpus, self.total.gpus))
    }
}
