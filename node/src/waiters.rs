//! Requests that wait for tasks: what is applied about a task wakes those that wait for it, and nobody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use stint_protocol::TaskId;
use stint_scheduler::Change;
use tokio::sync::Notify;

use crate::limits;

/// So many tasks are waited for that no more can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this peer waits for {0} tasks already: ask another peer, wait for fewer tasks, or retry in a moment"
)]
pub struct WaitsFull(usize);

/// Who waits for which tasks.
#[derive(Default)]
pub struct Waiters(Mutex<WaiterTable>);

#[derive(Default)]
struct WaiterTable {
    /// By task and waiter: each waiter stands once with every task that it waits for.
    waits: BTreeMap<(TaskId, u64), Arc<Notify>>,
    next: u64,
}

/// One that waits, from its registration until it is dropped.
pub struct Waiter {
    waiters: Arc<Waiters>,
    number: u64,
    tasks: Vec<TaskId>,
    woken: Arc<Notify>,
}

impl Waiters {
    /// Registers one that waits for these tasks. It looks at the state afterwards: what is applied from now on wakes it.
    pub fn register(self: &Arc<Self>, tasks: &[TaskId]) -> Result<Waiter, WaitsFull> {
        let woken = Arc::new(Notify::new());
        let mut book = self.lock();
        if book.waits.len() + tasks.len() > limits::WAITED_TASKS {
            return Err(WaitsFull(book.waits.len()));
        }
        let number = book.next;
        book.next += 1;
        book.waits.extend(tasks.iter().map(|task| ((*task, number), woken.clone())));
        Ok(Waiter { waiters: self.clone(), number, tasks: tasks.to_vec(), woken })
    }

    /// Wakes those who wait for one of these tasks.
    pub fn wake(&self, tasks: &[TaskId]) {
        let book = self.lock();
        if book.waits.is_empty() {
            return;
        }
        for task in tasks {
            book.waits.range((*task, 0)..=(*task, u64::MAX)).for_each(|(_, woken)| woken.notify_one());
        }
    }

    /// Wakes everybody: the state is another one.
    pub fn wake_all(&self) {
        self.lock().waits.values().for_each(|woken| woken.notify_one());
    }

    /// Tasks that are waited for, each counted once for everyone who does.
    pub fn len(&self) -> usize {
        self.lock().waits.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, WaiterTable> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Waiter {
    /// Waits until something about its tasks was applied since it was registered, or since this last returned.
    pub async fn woken(&self) {
        // One that nobody awaits yet keeps the wake-up for when somebody does: none is lost between two looks.
        self.woken.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut book = self.waiters.lock();
        for task in &self.tasks {
            book.waits.remove(&(*task, self.number));
        }
    }
}

/// The task that a change concerns. Of a submit nobody waits for the tasks yet: their ids are in its answer.
pub fn task_of(change: &Change) -> Option<TaskId> {
    match change {
        Change::Leased { lease, .. }
        | Change::StopAsked { lease, .. }
        | Change::Released { lease, .. }
        | Change::EndingKept { lease, .. } => Some(lease.task),
        Change::Queued { task } | Change::Suspended { task } | Change::Finished { task, .. } => Some(*task),
        Change::Submitted { .. }
        | Change::NodeChanged { .. }
        | Change::Admitted { .. }
        | Change::JoinTokenAdded { .. }
        | Change::JoinTokenRemoved
        | Change::AccessTokenAdded { .. }
        | Change::AccessTokenRemoved
        | Change::AuthorityChanged
        | Change::VersionRaised { .. }
        | Change::ImageRegistered { .. }
        | Change::ImageDeleted { .. }
        | Change::BlobsChanged
        | Change::SettingsChanged { .. }
        | Change::Instance(_)
        | Change::Configured => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use stint_protocol::{Class, ClassRules, SharedSpec, TaskSpec, Tenant, TimeMs, version};
    use stint_raft::{Position, StateMachine};
    use stint_scheduler::{Command, Settings, Submit};
    use tokio::time::{Duration, Instant};

    use super::*;
    use crate::applied_state::{AppliedState, LogEntry, NodeStateMachine};
    use crate::wire::encode;

    const WAITERS: u32 = 10_000;

    fn nth(index: u32) -> TaskId {
        TaskId((1 << 16) + u128::from(index))
    }

    fn submit() -> Command {
        let spec = TaskSpec::new(Class::CpuShort, vec!["true".into()]);
        let spec = spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap();
        let (tenant, spec) = (Tenant::default_tenant(), SharedSpec::new(spec));
        let (first, count, name, key, key_made_ms) = (nth(0), WAITERS, None, None, None);
        Command::Submit(Submit { tenant, first, count, name, spec, key, digest: 0, key_made_ms })
    }

    /// A state of 10,000 waiting tasks.
    fn machine() -> (Arc<AppliedState>, NodeStateMachine) {
        let shared = AppliedState::new(version::CURRENT).unwrap();
        let mut machine = NodeStateMachine(shared.clone());
        enter(&mut machine, 1, vec![Command::Configure(Settings::default()), submit()]);
        assert_eq!(shared.view().state.waiting(), WAITERS as usize);
        (shared, machine)
    }

    fn enter(machine: &mut NodeStateMachine, index: u64, commands: Vec<Command>) {
        let entry = LogEntry { now: TimeMs(1_000), commands };
        machine.apply(Position { index, term: 1 }, &encode(&entry)).unwrap();
        machine.batch_done();
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < deadline, "{what} within a minute");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_entry_about_one_task_wakes_the_one_of_10_000_that_waits_for_it() {
        let (shared, mut machine) = machine();
        let looks = Arc::new(AtomicUsize::new(0));
        let wait_for = |index| {
            let (shared, looks, task) = (shared.clone(), looks.clone(), nth(index));
            tokio::spawn(async move {
                let until = Instant::now() + Duration::from_secs(600);
                let done = |state: &stint_scheduler::State| {
                    looks.fetch_add(1, Ordering::Relaxed);
                    state.task(task).is_none()
                };
                shared.wait_for(&[task], until, done).await
            })
        };
        let mut waits: Vec<_> = (0..WAITERS).map(wait_for).collect();
        until("all wait", || looks.load(Ordering::Relaxed) == WAITERS as usize).await;
        assert_eq!(shared.waiters.len(), WAITERS as usize);

        enter(&mut machine, 2, vec![Command::Cancel(nth(7_777))]);
        assert_eq!(waits.remove(7_777).await.unwrap(), Ok(true));
        // Whoever else was woken has looked by now: they were woken before the one that is done here was awaited.
        tokio::task::yield_now().await;
        assert_eq!(looks.load(Ordering::Relaxed), WAITERS as usize + 1);
        assert_eq!(shared.waiters.len(), WAITERS as usize - 1);

        // An entry about no task wakes none, another state all of them.
        enter(&mut machine, 3, vec![Command::Tick]);
        tokio::task::yield_now().await;
        assert_eq!(looks.load(Ordering::Relaxed), WAITERS as usize + 1);
        shared.waiters.wake_all();
        until("all look again", || looks.load(Ordering::Relaxed) == 2 * WAITERS as usize).await;

        waits.iter().for_each(|wait| wait.abort());
        until("all are gone", || shared.waiters.is_empty()).await;
    }

    #[tokio::test]
    async fn what_is_applied_between_registration_and_waiting_is_not_missed() {
        let (shared, mut machine) = machine();
        let waiter = shared.waiters.register(&[nth(1), nth(2)]).unwrap();
        enter(&mut machine, 2, vec![Command::Cancel(nth(2))]);
        tokio::time::timeout(Duration::from_secs(60), waiter.woken()).await.unwrap();
    }

    #[test]
    fn what_is_waited_for_is_bounded() {
        let waiters = Arc::new(Waiters::default());
        let tasks: Vec<TaskId> = (0..limits::WAITED_TASKS as u128).map(TaskId).collect();
        let many = waiters.register(&tasks).unwrap();
        assert!(waiters.register(&[TaskId(0)]).is_err());
        drop(many);
        assert!(waiters.is_empty() && waiters.register(&[TaskId(0)]).is_ok());
    }
}
