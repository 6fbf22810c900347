//! What each tenant has of the cluster: who has the smallest share of what it uses most, for its weight, goes first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use stint_protocol::{Resources, Tenant};

use super::room::Need;
use crate::node::Node;
use crate::settings::Settings;

/// A part of the cluster for a weight of 1, in millionths of millionths.
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

const WHOLE: u128 = 1_000_000_000_000;

struct TenantUse {
    weight: u32,
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
    settings: Arc<Settings>,
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
        let weight = self.settings.tenants.rules(tenant).weight;
        self.uses.push(TenantUse { weight, leased: Amounts::default(), planned: Amounts::default() });
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

    /// A new plan is made, under settings that give every known tenant the weight that it has: what the last one gave is
    /// leased by now, or was not given.
    pub(super) fn begin(&mut self, settings: &Arc<Settings>) {
        self.settings = settings.clone();
        self.uses.iter_mut().for_each(|tenant| tenant.planned = Amounts::default());
    }

    /// How the share of each tenant, by number, compares with this one.
    pub(super) fn compared_with(&self, share: Share) -> Vec<Ordering> {
        (0..self.uses.len()).map(|tenant| self.share(tenant).cmp(&share)).collect()
    }

    /// The largest part that the tenant has of any resource of the cluster, for each of its weight.
    pub(super) fn share(&self, tenant: usize) -> Share {
        let TenantUse { weight, leased, planned } = &self.uses[tenant];
        let part = |used: u64, total: u64| match u128::from(total) * u128::from(*weight) {
            0 => 0,
            parts => (u128::from(used) * WHOLE / parts) as Share,
        };
        let cpu = part(leased.cpu_milli + planned.cpu_milli, self.total.cpu_milli);
        let memory = part(leased.memory_bytes + planned.memory_bytes, self.total.memory_bytes);
        cpu.max(memory).max(part(leased.gpus + planned.gpus, self.total.gpus))
    }
}
