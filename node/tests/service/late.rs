//! An attempt that has its lease and has not come to its node yet: it wrote nothing so far, and nothing of it is lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stint_executor::{
    AttemptStage, AttemptStatus, Executing, Execution, Host, HostHealth, Launch, LogChunk, LogError,
    LogFuture, LogStream, RunningAttempt, StopReason,
};
use stint_node::service::{LogPart, LogsAsked, ServiceError};
use stint_protocol::{AttemptEnd, BootMs, Class, Incarnation, LeaseId, NodeOffer, Nonce, Resources, Runtime};
use stint_scheduler::{Command, PlanInput, RegisterNode, plan};

use super::{NODE, World, administrator, logs, team};

/// A host to which the attempt comes after so many looks at its output.
#[derive(Default)]
struct Late {
    looks_before: AtomicUsize,
    here: Mutex<Option<LeaseId>>,
}

impl Late {
    fn look(&self, lease: LeaseId) -> LogFuture {
        let here = self.here.lock().unwrap().is_some();
        if !here && self.looks_before.fetch_sub(1, SeqCst) == 1 {
            *self.here.lock().unwrap() = Some(lease);
        }
        Box::pin(async move {
            if !here {
                return Err(LogError::NotFound(lease));
            }
            Ok(LogChunk { bytes: b"begun\n".to_vec(), next_offset: 6, complete: true })
        })
    }
}

impl Host for Late {
    fn start(&self, _: Launch) {}
    fn renew(&self, _: Vec<(LeaseId, BootMs)>) {}
    fn stop(&self, _: LeaseId, _: StopReason) {}
    fn acknowledge(&self, _: Vec<LeaseId>) {}
    fn running(&self) -> Vec<RunningAttempt> {
        Vec::new()
    }
    fn attempts(&self) -> Vec<AttemptStatus> {
        let stage = AttemptStage::With(Executing::Watchdog, Execution::Running);
        let of = |lease| AttemptStatus { stage, ..AttemptStatus::ended(lease) };
        self.here.lock().unwrap().map(of).into_iter().collect()
    }
    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        Vec::new()
    }
    fn read_log(&self, lease: LeaseId, _: LogStream, offset: u64, _: usize) -> LogFuture {
        assert_eq!(offset, 0, "it was complete");
        self.look(lease)
    }
    fn log_tail(&self, lease: LeaseId, _: LogStream, _: usize) -> LogFuture {
        self.look(lease)
    }
    fn health(&self) -> HostHealth {
        unreachable!("nobody asks for it")
    }
}

impl World {
    /// The task has its lease, and this host has not got it.
    async fn leased(host: Arc<Late>) -> Self {
        let world = Self::with_a_task().await;
        assert!(world.node.output.host.set(host).is_ok());
        let offer = NodeOffer {
            resources: Resources { cpu_milli: 8_000, memory_bytes: 64 << 30 },
            runtimes: vec![Runtime::Process],
            classes: Class::ALL.to_vec(),
            slots: 8,
            ..NodeOffer::default()
        };
        let (incarnation, nonce, problems) = (Incarnation(1), Nonce(1), Vec::new());
        let register = RegisterNode { node: NODE, incarnation, nonce, offer, problems };
        world.node.leader.propose(vec![Command::RegisterNode(register)]).await.unwrap();
        let planned =
            plan(&world.node.applied.view().state, &PlanInput { reachable: BTreeSet::from([NODE]) });
        assert_eq!(planned.assignments.len(), 1);
        world.node.leader.propose(vec![Command::CommitPlan(planned)]).await.unwrap();
        world
    }

    async fn read(&self, follow: bool) -> Vec<Result<LogPart, ServiceError>> {
        let asked = LogsAsked { stream: Some(LogStream::Stdout), follow, ..logs() };
        let mut parts = self.service.logs(&administrator(), asked).await.unwrap();
        let mut all = Vec::new();
        let reading = async {
            while let Some(part) = parts.recv().await {
                all.push(part);
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the stream ends");
        all
    }
}

#[tokio::test]
async fn its_output_is_empty_and_not_lost() {
    let host = Arc::new(Late { looks_before: AtomicUsize::new(usize::MAX), ..Late::default() });
    let world = World::leased(host).await;
    assert!(world.read(false).await.is_empty());
    let result = world.service.result(&administrator(), &team(), "job").await.unwrap();
    assert_eq!(result.logs.stdout_tail.as_deref(), Some(""));
    assert_eq!(result.logs.problem, None);
    world.stop().await;
}

#[tokio::test]
async fn who_follows_it_reads_all_that_it_writes() {
    for looks in [1, 2, 5] {
        let host = Arc::new(Late { looks_before: AtomicUsize::new(looks), ..Late::default() });
        let world = World::leased(host).await;
        let parts: Vec<_> = world.read(true).await.into_iter().map(Result::unwrap).collect();
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes.clone()).collect();
        assert_eq!(bytes, b"begun\n", "after {looks} looks");
        assert!(parts.iter().all(|part| part.note.is_none()));
        world.stop().await;
    }
}
