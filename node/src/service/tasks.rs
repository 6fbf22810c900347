//! Tasks: looked up, waited for, cancelled, explained. Submitting and listing have files of their own.

mod begun;
mod list;
mod runtime;
mod submit;

use std::time::Duration;

use stint_protocol::api::{self, Waited};
use stint_protocol::{LeaseId, TaskId, Tenant};
use stint_scheduler::{State, explain};
use tokio::time::Instant;

pub use list::{TaskFilter, TaskPage};
pub use submit::{AcceptedTasks, NewTasks};

use super::access::Operation;
use super::freshness::ClusterView;
use super::{Principal, Service, ServiceError, documents};
use crate::blocking::beside_other_work_if_many;
use crate::limits;
use crate::wire::{Refusal, RefusalCode, Reply, Request};

/// What to wait for.
pub struct Wait {
    pub tenant: Tenant,
    /// Ids or names.
    pub tasks: Vec<String>,
    /// None: as long as one request may last.
    pub timeout: Option<Duration>,
    /// Until one of them is finished, not all.
    pub any: bool,
}

impl Service {
    /// One task, by id or name.
    pub async fn task(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        task: &str,
    ) -> Result<api::Task, ServiceError> {
        let scope = self.allow_in(caller, Operation::GetTask, tenant)?;
        let state = self.read().await?;
        let id = scope.find_task(&state, task)?;
        let mut document = documents::task(&state, id).ok_or(ServiceError::TaskGone)?;
        self.mark_unbegun(&state, &[id], std::slice::from_mut(&mut document)).await;
        Ok(document)
    }

    /// Answers when every named task is finished (or one of them), or when the wait is over.
    pub async fn wait(&self, caller: &Principal, wait: Wait) -> Result<Waited, ServiceError> {
        let scope = self.allow_in(caller, Operation::WaitForTasks, &wait.tenant)?;
        let began = Instant::now();
        let state = self.read().await?;
        let named = wait.tasks.len();
        let ids = beside_other_work_if_many(named, || scope.find_tasks(&state, &wait.tasks))?;
        drop(state);
        let mut open = ids.clone();
        let most = wait.timeout.unwrap_or(limits::WAIT_MOST);
        let done = |state: &State| all_or_any(state, &mut open, wait.any);
        // What looking for a leader took is a part of the wait.
        let finished = self.wait_until(&ids, most.saturating_sub(began.elapsed()), done).await?;
        let state = self.node.applied.view().state;
        let mut tasks = beside_other_work_if_many(named, || documents::tasks(&state, &ids));
        if !finished {
            self.mark_unbegun(&state, &ids, &mut tasks).await;
        }
        Ok(Waited { finished, tasks })
    }

    /// Asks for the end of tasks; what they have become by then.
    pub async fn cancel(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        tasks: &[String],
    ) -> Result<Vec<api::Task>, ServiceError> {
        let scope = self.allow_in(caller, Operation::CancelTasks, tenant)?;
        let state = self.read().await?;
        let ids = beside_other_work_if_many(tasks.len(), || scope.find_tasks(&state, tasks))?;
        drop(state);
        let state = match self.ask(Request::Cancel(ids.clone())).await? {
            Reply::Done { index } => self.node.leader_client.read_at(index).await?,
            _ => self.read().await?,
        };
        Ok(beside_other_work_if_many(tasks.len(), || documents::tasks(&state, &ids)))
    }

    /// Why a task waits, and what would let it start; or where its attempt is.
    pub async fn explain(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        task: &str,
    ) -> Result<api::Explanation, ServiceError> {
        let scope = self.allow_in(caller, Operation::ExplainTask, tenant)?;
        let ClusterView { state, reachable, alarms, .. } = self.cluster_view().await?;
        let id = scope.find_task(&state, task)?;
        let explained = explain(&state, id, &reachable).ok_or(ServiceError::TaskGone)?;
        let reason = |r: stint_scheduler::NodeReason| api::NodeReason {
            node_id: r.node.0,
            node: r.name,
            missing: r.missing,
        };
        let mut summary = explained.summary;
        if let Some(stage) = self.unless_away(self.stage(&state, id)).await.flatten() {
            summary = format!("{summary}, where it is {stage}");
        }
        let waits = state.task(id).is_some_and(|task| task.leased().is_none());
        if let Some(mark) = self.outdated() {
            summary = format!(
                "nothing starts without a leader ({}); as this peer knew it last: {summary}",
                mark.missing
            );
        } else if let Some(alarm) = alarms.first().filter(|_| waits) {
            // Nothing is placed while it lasts, whatever the planner would do.
            summary = format!("nothing starts while this lasts: {alarm}. Without it: {summary}");
        }
        Ok(api::Explanation {
            summary,
            ahead_in_queue: explained.ahead,
            nodes: explained.nodes.into_iter().map(reason).collect(),
            advice: explained.advice,
        })
    }

    /// Where the attempt that has the task's lease is on its node; none: none has it, or its node does not say.
    async fn stage(&self, state: &State, id: TaskId) -> Option<String> {
        let task = state.task(id)?;
        let (node, attempt) = (task.leased()?.node, task.fields.attempts);
        self.node.output.stage(node, LeaseId { task: id, attempt }).await
    }

    /// Waits until `done` holds for the state, which only changes of these tasks can bring about, or the time is over;
    /// answers whether it held.
    pub(super) async fn wait_until(
        &self,
        tasks: &[TaskId],
        wait: Duration,
        done: impl FnMut(&State) -> bool,
    ) -> Result<bool, ServiceError> {
        let until = Instant::now() + wait.min(limits::WAIT_MOST);
        let waited = self.node.applied.wait_for(tasks, until, done).await;
        Ok(waited.map_err(|full| Refusal::new(RefusalCode::Full, full.to_string()))?)
    }
}

/// Whether all (or any) of `open` are finished; those that are leave it, so that each look is short.
fn all_or_any(state: &State, open: &mut Vec<TaskId>, any: bool) -> bool {
    let before = open.len();
    while let Some(last) = open.last() {
        if state.task(*last).is_some() {
            break;
        }
        open.pop();
    }
    if !any {
        return open.is_empty();
    }
    open.len() < before || open.is_empty() || open.iter().any(|id| state.task(*id).is_none())
}
