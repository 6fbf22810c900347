//! Lists of tasks, newest first, page by page.

use std::cmp::Reverse;

use stint_protocol::{Class, TaskId, TaskStatus, Tenant, api, limits};
use stint_scheduler::State;

use super::begun::Unbegun;
use crate::blocking::beside_other_work_if_many;
use crate::service::access::Operation;
use crate::service::{Principal, Service, ServiceError, documents};

/// Rows of a page when no limit is given.
const DEFAULT_ROWS: usize = 100;

/// Which tasks to list.
pub struct TaskFilter {
    pub tenant: Tenant,
    /// None: every state.
    pub state: Option<TaskStatus>,
    pub class: Option<Class>,
    /// Those older than this one.
    pub before: Option<TaskId>,
    /// Rows of the page; 0: the usual number.
    pub limit: usize,
}

impl TaskFilter {
    /// How many tasks are looked at for a page: any number of them, where only some are wanted.
    fn looks_at(&self) -> usize {
        if self.state.is_some() || self.class.is_some() { usize::MAX } else { self.limit }
    }

    fn may_list_leased(&self) -> bool {
        let leased = [TaskStatus::Starting, TaskStatus::Pending, TaskStatus::Running];
        self.state.is_none_or(|wanted| leased.contains(&wanted))
    }
}

/// A page of tasks.
#[derive(Debug, Default)]
pub struct TaskPage {
    pub tasks: Vec<api::Task>,
    /// Give it as `before` for the next page.
    pub next: Option<TaskId>,
}

impl Service {
    /// One page of a tenant's tasks.
    pub async fn list_tasks(
        &self,
        caller: &Principal,
        filter: &TaskFilter,
    ) -> Result<TaskPage, ServiceError> {
        let scope = self.allow_in(caller, Operation::ListTasks, &filter.tenant)?;
        let state = self.read().await?;
        let unbegun = self.unbegun(filter.may_list_leased() && state.running() > 0).await;
        let Some(tenant) = scope.listed() else { return Ok(TaskPage::default()) };
        Ok(beside_other_work_if_many(filter.looks_at(), || page(&state, tenant, filter, &unbegun)))
    }
}

fn page(state: &State, tenant: &Tenant, filter: &TaskFilter, unbegun: &Unbegun) -> TaskPage {
    let limit = match filter.limit {
        0 => DEFAULT_ROWS,
        n => n.min(limits::LIST_PAGE),
    };
    let before = filter.before.unwrap_or(TaskId(u128::MAX));
    let (class, wanted) = (filter.class, filter.state);
    let live = state
        .tasks_of(tenant, before)
        .filter(|(_, task)| class.is_none_or(|class| task.spec.class == class))
        .filter(|(id, task)| wanted.is_none_or(|wanted| unbegun.status(*id, task) == wanted))
        .map(|(id, task)| (id, documents::live_task(state, id, task)))
        .take(limit + 1);
    let lists_finished = wanted.is_none_or(|wanted| wanted == TaskStatus::Finished);
    let finished = lists_finished.then(|| state.finished_of(tenant, class, before)).into_iter().flatten();
    let finished =
        finished.take(limit + 1).map(|(id, task)| (id, documents::finished_task(state, id, &task)));
    let mut rows: Vec<(TaskId, api::Task)> = live.chain(finished).collect();
    rows.sort_by_key(|(id, _)| Reverse(*id));
    let more = rows.len() > limit;
    rows.truncate(limit);
    unbegun.mark(state, rows.iter_mut().map(|(id, task)| (*id, task)));
    let next = rows.last().filter(|_| more).map(|(id, _)| *id);
    let tasks = rows.into_iter().map(|(_, task)| documents::without_earlier_outputs(task));
    TaskPage { tasks: tasks.collect(), next }
}
