//! Which programs have not begun: the leader knows it from the reports of nodes, the replicated state does not.

use std::collections::BTreeSet;

use stint_protocol::{Class, LeaseId, TaskId, TaskStatus, api};
use stint_scheduler::{State, Task};
use tokio::time::timeout;

use crate::limits;
use crate::service::{Service, documents};
use crate::wire::{Reply, Request};

/// Leases whose programs have not begun, as far as anybody tells.
#[derive(Default)]
pub struct Unbegun(BTreeSet<LeaseId>);

impl Unbegun {
    /// Where a live task stands.
    pub fn status(&self, id: TaskId, task: &Task) -> TaskStatus {
        let lease = LeaseId { task: id, attempt: task.fields.attempts };
        match documents::listed_state(task) {
            TaskStatus::Running if self.0.contains(&lease) => match task.spec.class {
                Class::GpuSlurm => TaskStatus::Pending,
                _ => TaskStatus::Starting,
            },
            other => other,
        }
    }

    /// Puts into documents of tasks what the state that they were made of does not know.
    pub fn mark<'a>(&self, state: &State, tasks: impl IntoIterator<Item = (TaskId, &'a mut api::Task)>) {
        if self.0.is_empty() {
            return;
        }
        for (id, document) in tasks {
            if let Some(task) = state.task(id) {
                document.state = self.status(id, task).as_str().into();
            }
        }
    }
}

impl Service {
    /// Asks the leader, unless nothing of what is looked at has a lease. A leader that does not say in time, or runs an
    /// earlier program, leaves all that has a lease as running.
    pub(super) async fn unbegun(&self, leased: bool) -> Unbegun {
        if !leased || self.outdated().is_some() {
            return Unbegun::default();
        }
        let asked = self.node.leader_client.ask(Request::NotBegun);
        match timeout(limits::OUTAGE_READ, asked).await {
            Ok(Ok(Reply::NotBegun(leases))) => Unbegun(leases.into_iter().collect()),
            _ => Unbegun::default(),
        }
    }

    /// The same for tasks that were looked up.
    pub(super) async fn mark_unbegun(&self, state: &State, ids: &[TaskId], documents: &mut [api::Task]) {
        let has_lease = |id: &TaskId| state.task(*id).is_some_and(|task| task.leased().is_some());
        let unbegun = self.unbegun(ids.iter().any(has_lease)).await;
        let parsed = documents.iter_mut().filter_map(|task| Some((task.id.parse().ok()?, task)));
        unbegun.mark(state, parsed);
    }
}
