//! Drives the writer: from a thread of its own, or from a task in simulation. Drains the queue, syncs once, confirms.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use tokio::sync::{Notify, watch};

use super::disk::Disk;
use super::segment::{Spares, make_spare};
use super::writer::{Pending, Writer};
use super::{Done, lock};
use crate::error::{OpenError, StorageFailure};
use crate::options::{QUEUED_LOG_BYTES, RaftOptions, SyncDelay};

/// Records that wait for the writer.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer's thread.
    work: Condvar,
    /// Wakes the writer's task.
    work_async: Notify,
    /// Wakes those who wait for room.
    room: Notify,
    failure: watch::Sender<Option<StorageFailure>>,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    records: Vec<Pending>,
    done: Vec<Done>,
    bytes: usize,
    /// The commit mark, written when something else is.
    committed: Option<Pending>,
    closed: bool,
}

/// What one sync will cover.
struct Batch {
    records: Vec<Pending>,
    done: Vec<Done>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            work_async: Notify::new(),
            room: Notify::new(),
            failure: watch::Sender::new(None),
            ended: watch::Sender::new(false),
        }
    }

    /// Returns when less than the limit is queued, or the log failed.
    pub(crate) async fn room(&self) {
        loop {
            // Asked for before the look: only those who ask already are woken, and room that is made in between would
            // not be heard of.
            let notified = self.room.notified();
            if lock(&self.state).bytes < QUEUED_LOG_BYTES || self.failure.borrow().is_some() {
                return;
            }
            notified.await;
        }
    }

    /// Adds records; `done` is told when they and all before are stable. After a failure it is told at once.
    pub(crate) fn push(&self, records: Vec<Pending>, done: Option<Done>) {
        if let Err((failure, done)) = self.try_push(records, done) {
            done.into_iter().for_each(|done| done(Err(failure.clone())));
            return;
        }
        self.wake();
    }

    fn try_push(
        &self,
        records: Vec<Pending>,
        done: Option<Done>,
    ) -> Result<(), (StorageFailure, Option<Done>)> {
        let mut state = lock(&self.state);
        if let Err(failure) = self.failure() {
            return Err((failure, done));
        }
        if state.closed {
            return Err((StorageFailure("the log is closed".into()), done));
        }
        state.bytes += records.iter().map(|record| record.encoded.framed_len()).sum::<usize>();
        state.records.extend(records);
        state.done.extend(done);
        Ok(())
    }

    pub(crate) fn set_committed(&self, record: Pending) {
        lock(&self.state).committed = Some(record);
    }

    /// Reports a storage failure: the log takes nothing more.
    pub(crate) fn fail(&self, failure: StorageFailure) {
        let first = self.failure.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| failure.clone());
            first
        });
        if first {
            tracing::error!(error = %failure, "storage failed: this peer stops taking part");
        }
        self.room.notify_waiters();
        self.wake();
    }

    pub(crate) fn failures(&self) -> watch::Receiver<Option<StorageFailure>> {
        self.failure.subscribe()
    }

    /// Lets the writer end once the queue is empty.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.wake();
    }

    /// Returns when the writer has ended: everything queued is stable (or failed) and the folder is free.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn wake(&self) {
        self.work.notify_one();
        self.work_async.notify_one();
    }

    /// Everything queued, or `None` when there is nothing.
    fn take(&self, state: &mut MutexGuard<'_, State>) -> Option<Batch> {
        // A mark alone is not worth a sync; at the end it is, as the next start applies the log up to it.
        let last_words = state.closed && state.committed.is_some();
        if state.records.is_empty() && state.done.is_empty() && !last_words {
            return None;
        }
        let mut records = std::mem::take(&mut state.records);
        // Behind the entries, for it may name one of them: after a crash in between, a mark without its entry keeps
        // the peer from starting.
        records.extend(state.committed.take());
        state.bytes = 0;
        Some(Batch { records, done: std::mem::take(&mut state.done) })
    }

    /// The next batch, or `None` when the log was closed and is empty. Blocks.
    fn next(&self) -> Option<Batch> {
        let mut state = lock(&self.state);
        loop {
            if let Some(batch) = self.take(&mut state) {
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    async fn next_async(&self) -> Option<Batch> {
        loop {
            let woken = self.work_async.notified();
            {
                let mut state = lock(&self.state);
                if let Some(batch) = self.take(&mut state) {
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            woken.await;
        }
    }

    fn finish(&self, batch: Batch, result: Result<(), StorageFailure>) {
        if let Err(failure) = &result {
            self.fail(failure.clone());
        }
        for done in batch.done {
            done(result.clone());
        }
        self.room.notify_waiters();
    }

    fn failure(&self) -> Result<(), StorageFailure> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }
}

pub(crate) struct Driver {
    writer: Writer,
    queue: Arc<Queue>,
    delay: SyncDelay,
    /// Holds the folder until the writer ends.
    _guard: Box<dyn Send + Sync>,
}

impl Drop for Driver {
    /// The writer ends when the log is closed, or because it panicked: then the log must not look alive.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.fail(StorageFailure("the log's writer ended: a fault of this program".into()));
        }
    }
}

impl Driver {
    /// Starts the writer and returns its queue.
    pub(crate) fn start(
        writer: Writer,
        spares: Arc<Mutex<Spares>>,
        disk: Arc<dyn Disk>,
        options: &RaftOptions,
        guard: Box<dyn Send + Sync>,
    ) -> Result<Arc<Queue>, OpenError> {
        let queue = Arc::new(Queue::new());
        let driver = Self { writer, queue: queue.clone(), delay: options.sync_delay.clone(), _guard: guard };
        if options.inline_io {
            tokio::spawn(driver.run_task());
            return Ok(queue);
        }
        let maker = SpareMaker::start(disk, spares, options.segment_bytes)?;
        let run = move || driver.run_thread(maker);
        std::thread::Builder::new().name("raft-log".into()).spawn(run).map_err(no_thread)?;
        Ok(queue)
    }

    fn run_thread(mut self, maker: SpareMaker) {
        let queue = self.queue.clone();
        while let Some(batch) = queue.next() {
            let result = self.commit(&batch.records);
            queue.finish(batch, result);
            if self.writer.wants_spare() {
                maker.ask();
            }
        }
        drop(maker);
        self.end();
    }

    fn commit(&mut self, records: &[Pending]) -> Result<(), StorageFailure> {
        // The batch before may be missing from the file: what is written behind such a gap would be confirmed and
        // never found again.
        self.queue.failure()?;
        self.writer.write(records)?;
        let delay = self.delay.next();
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        self.writer.sync()
    }

    async fn run_task(mut self) {
        let queue = self.queue.clone();
        while let Some(batch) = queue.next_async().await {
            let result = self.commit_async(&batch.records).await;
            queue.finish(batch, result);
        }
        self.end();
    }

    /// As `commit`; the time a sync takes is simulated, and a crash meanwhile finds the data unsynced.
    async fn commit_async(&mut self, records: &[Pending]) -> Result<(), StorageFailure> {
        self.queue.failure()?;
        self.writer.write(records)?;
        let delay = self.delay.next();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.writer.sync()
    }

    fn end(self) {
        let queue = self.queue.clone();
        // Before the end is told: this holds the lock of the folder, which whoever waits for the end opens anew.
        drop(self);
        queue.ended.send_replace(true);
    }
}

/// Fills spare segments ahead of need, so that the writer does not wait for it. Its thread ends before this is gone.
struct SpareMaker {
    ask: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SpareMaker {
    fn start(disk: Arc<dyn Disk>, spares: Arc<Mutex<Spares>>, bytes: u64) -> Result<Self, OpenError> {
        let (ask, asked) = sync_channel::<()>(1);
        let make = move || -> io::Result<()> {
            if !lock(&spares).wants_more() {
                return Ok(());
            }
            let (temporary, spare) = lock(&spares).plan();
            make_spare(disk.as_ref(), bytes, &temporary, &spare)?;
            lock(&spares).add(spare);
            Ok(())
        };
        let run = move || {
            while asked.recv().is_ok() {
                // Not fatal, and not tried again: the writer makes its own segments, and meets a full disk itself.
                if let Err(error) = make() {
                    tracing::warn!(%error, "log segments are not made ahead any more");
                    return;
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("raft-log-spare".into()).spawn(run).map_err(no_thread)?;
        Ok(Self { ask: Some(ask), thread: Some(thread) })
    }

    fn ask(&self) {
        if let Some(ask) = &self.ask {
            let _ = ask.try_send(());
        }
    }
}

impl Drop for SpareMaker {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn no_thread(source: io::Error) -> OpenError {
    OpenError::Start(format!("no thread for the log: {source}"))
}
