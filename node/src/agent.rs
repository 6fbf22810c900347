//! The executing side of a node: reports what it holds, does what the orders say.

pub mod core;
mod endings;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stint_executor::{Host, HostEvent, RunningAttempt};
use stint_protocol::{BootMs, Incarnation, LeaseId, NodeId, Nonce};
use stint_scheduler::RegisterNode;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::agent::core::{AgentAction, AgentCore, Moment, Next};
use crate::agent::endings::EndingReader;
use crate::clock::Clock;
use crate::limits;
use crate::peers::BoxFuture;
use crate::wire::{Report, ReportAnswer};

/// Door to whoever leads.
pub trait LeaderLink: Send + Sync + 'static {
    /// Sends a report to the leader; an error when there is none or it did not answer.
    fn report(&self, report: Report) -> BoxFuture<Result<ReportAnswer, String>>;
}

/// One node as an executor.
pub struct Agent {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub nonce: Nonce,
    pub host: Arc<dyn Host>,
    pub clock: Arc<dyn Clock>,
    pub link: Arc<dyn LeaderLink>,
    /// What it offers, sent when the leader asks.
    pub offer: RegisterNode,
    /// Set while the node stops: nothing new starts.
    pub closing: Arc<AtomicBool>,
}

impl Agent {
    /// Reports until the task is dropped.
    pub async fn run(self, mut events: mpsc::Receiver<HostEvent>) {
        let news = Arc::new(Notify::new());
        let bell = news.clone();
        let runtimes_changed = Arc::new(AtomicBool::new(false));
        let changed = runtimes_changed.clone();
        // What the last report told of as not begun: the beginning of another one is no news.
        let late = Arc::new(Mutex::new(Vec::new()));
        let reported = late.clone();
        let listener = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    HostEvent::Started { lease, .. } if lock(&reported).contains(&lease) => {}
                    HostEvent::Started { .. } => continue,
                    HostEvent::RuntimesChanged => changed.store(true, Ordering::SeqCst),
                    HostEvent::Ended(_) | HostEvent::DevicesChanged => {}
                }
                bell.notify_one();
            }
        });
        let (node, incarnation, nonce) = (self.node, self.incarnation, self.nonce);
        let mut core = AgentCore::new(RegisterNode { node, incarnation, nonce, ..self.offer.clone() });
        let mut endings = EndingReader::default();
        loop {
            if runtimes_changed.swap(false, Ordering::SeqCst) {
                core.on_health(&self.host.health());
            }
            endings.look(&self.host).await;
            let report = self.report(&mut core, &endings);
            let (holds, sent) = (report.hold_ms > 0, report.sent);
            self.watch_late(&report, &late, &news);
            let call = timeout(limits::REPORT_DEADLINE, self.link.report(report));
            // News cut a held report short; one that brings news is never cut.
            let answer = tokio::select! {
                answer = call => answer.unwrap_or_else(|_| Err("the leader did not answer".into())),
                () = news.notified(), if holds => {
                    core.on_news();
                    continue;
                }
                () = endings.finished(), if holds && endings.is_reading() => {
                    core.on_news();
                    continue;
                }
            };
            match self.on_answer(&mut core, answer, sent) {
                Next::Report => {}
                Next::Pause => sleep(limits::RETRY_PAUSE).await,
                Next::Leave => {
                    listener.abort();
                    return;
                }
            }
        }
    }

    fn report(&self, core: &mut AgentCore, endings: &EndingReader) -> Report {
        core.on_devices(self.host.quarantined());
        // The clock first, then what ended: see `AgentCore::report`.
        let sent = self.clock.boot();
        let (ends, waiting) = endings.complete(self.host.unacknowledged());
        let mut running = self.host.running();
        // A lease that a report does not name is launched again.
        let stopping =
            |lease| RunningAttempt { lease, started: true, stopping: true, deadline: BootMs::default() };
        running.extend(waiting.into_iter().map(stopping));
        core.report(sent, ends, &running)
    }

    /// Has the beginning of what the report tells of as not begun count as news.
    fn watch_late(&self, report: &Report, late: &Mutex<Vec<LeaseId>>, news: &Notify) {
        let listed = report.not_begun.clone().unwrap_or_default();
        let any = !listed.is_empty();
        *lock(late) = listed;
        // One that began after the report was made, and before the listener knew of it.
        if any
            && self
                .host
                .running()
                .iter()
                .any(|attempt| attempt.started && lock(late).contains(&attempt.lease))
        {
            news.notify_one();
        }
    }

    fn on_answer(&self, core: &mut AgentCore, answer: Result<ReportAnswer, String>, sent: BootMs) -> Next {
        let closing = self.closing.load(Ordering::SeqCst);
        let moment = Moment { sent, now: self.clock.boot(), closing };
        let (acts, next) = core.on_answer(answer, moment, &self.host.running());
        acts.into_iter().for_each(|act| self.perform(act));
        next
    }

    fn perform(&self, act: AgentAction) {
        match act {
            AgentAction::Acknowledge(leases) => self.host.acknowledge(leases),
            AgentAction::Renew(renewals) => self.host.renew(renewals),
            AgentAction::Stop(lease, reason) => self.host.stop(lease, reason),
            AgentAction::Start(launch) => self.host.start(launch),
        }
    }
}

fn lock(late: &Mutex<Vec<LeaseId>>) -> MutexGuard<'_, Vec<LeaseId>> {
    late.lock().unwrap_or_else(PoisonError::into_inner)
}
