//! The tasks of each tenant, so that what one tenant asks for does not look at those of the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdSet;
use stint_protocol::{Class, TaskId, Tenant, TimeMs};

use super::State;
use crate::access_token::AccessToken;
use crate::task::{FinishedTask, Task};

/// The tasks of one tenant, by age. There is none without a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TenantTasks {
    pub live: OrdSet<TaskId>,
    /// How many are finished and not forgotten.
    pub finished: u64,
}

/// How much the cluster has of a tenant, beside its rules and its user number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantHoldings {
    /// Tasks that wait or run.
    pub unfinished: u64,
    /// Tasks that are finished and not forgotten.
    pub finished: u64,
    /// Listed images.
    pub images: u64,
    /// Tokens that are valid.
    pub tokens: u64,
}

impl State {
    /// The tenants that have anything but a user number, by name.
    pub fn known_tenants(&self, now: TimeMs) -> BTreeSet<Tenant> {
        let tokens = self.access_tokens.values().filter(|token| token.expires > now);
        let rules = self.settings.tenants.iter().map(|(tenant, _)| tenant.clone());
        rules
            .chain(self.tenants.keys().cloned())
            .chain(self.image_names.keys().map(|(tenant, _)| tenant.clone()))
            .chain(tokens.filter_map(|token| token.tenant.clone()))
            .collect()
    }

    /// What the cluster has of a tenant.
    pub fn holdings(&self, tenant: &Tenant, now: TimeMs) -> TenantHoldings {
        let tasks = self.tenants.get(tenant);
        let images = self.image_names.keys().filter(|(of, _)| of == tenant).count();
        let is_its = |token: &&AccessToken| token.expires > now && token.tenant.as_ref() == Some(tenant);
        TenantHoldings {
            unfinished: tasks.map_or(0, |tasks| tasks.live.len() as u64),
            finished: tasks.map_or(0, |tasks| tasks.finished),
            images: images as u64,
            tokens: self.access_tokens.values().filter(is_its).count() as u64,
        }
    }

    /// A tenant's tasks that wait or run and are older than `before`, newest first.
    pub fn tasks_of<'a>(
        &'a self,
        tenant: &Tenant,
        before: TaskId,
    ) -> impl Iterator<Item = (TaskId, &'a Arc<Task>)> + use<'a> {
        let ids = self.tenants.get(tenant).map(|tasks| tasks.live.range(..before).rev());
        ids.into_iter().flatten().filter_map(|id| Some((*id, self.tasks.get(id)?)))
    }

    /// A tenant's finished tasks older than `before`, of one class or of all, newest first.
    pub fn finished_of<'a>(
        &'a self,
        tenant: &Tenant,
        class: Option<Class>,
        before: TaskId,
    ) -> impl Iterator<Item = (TaskId, FinishedTask)> + use<'a> {
        let known = self.history.before(before, Some(tenant));
        let wanted = known.filter(move |(_, task)| class.is_none_or(|class| task.spec.class == class));
        wanted.map(|(id, task)| (id, task.unpack()))
    }

    /// A tenant has one more live task.
    pub(crate) fn tenant_accepted(&mut self, tenant: &Tenant, id: TaskId) {
        self.tasks_of_tenant(tenant).live.insert(id);
    }

    /// A tenant's task is finished.
    pub(crate) fn tenant_finished(&mut self, tenant: &Tenant, id: TaskId) {
        let tasks = self.tasks_of_tenant(tenant);
        tasks.live.remove(&id);
        tasks.finished += 1;
    }

    /// A tenant's finished task is forgotten.
    pub(crate) fn tenant_forgot(&mut self, tenant: &Tenant) {
        let Some(tasks) = self.tenants.get_mut(tenant) else { return };
        tasks.finished -= 1;
        if tasks.live.is_empty() && tasks.finished == 0 {
            self.tenants.remove(tenant);
        }
    }

    fn tasks_of_tenant(&mut self, tenant: &Tenant) -> &mut TenantTasks {
        self.tenants.entry(tenant.clone()).or_default()
    }
}
