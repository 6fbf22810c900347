//! The executing side of a node: reports what it holds, does what the orders say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stint_executor::{Host, HostEvent, Launch, StopReason};
use stint_protocol::{BootMs, Incarnation, LeaseId, NodeId, Nonce, QuarantinedGpu};
use stint_scheduler::RegisterNode;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::limits;
use crate::peers::Later;
use crate::wire::{Grant, Launching, Orders, Report, ReportAnswer};

/// Door to whoever leads.
pub trait LeaderLink: Send + Sync + 'static {
    /// Sends a report to the leader; an error when there is none or it did not answer.
    fn report(&self, report: Report) -> Later<Result<ReportAnswer, String>>;
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

/// What has been heard so far.
#[derive(Default)]
struct Heard {
    sequence: u64,
    term: u64,
    answered: u64,
    /// For each lease, how long after a report it runs before its watchdog begins to stop it, in milliseconds.
    windows: BTreeMap<LeaseId, u64>,
    /// Quarantined devices that the leader knows of, and those that the report on its way tells of.
    quarantined: Vec<QuarantinedGpu>,
    telling: Vec<QuarantinedGpu>,
}

impl Heard {
    /// A report may be held for a third of the shortest window, so that one lost report loses no attempt.
    fn hold_ms(&self) -> u64 {
        let longest = limits::REPORT_HOLD.as_millis() as u64;
        self.windows.values().map(|window| window / 3).min().unwrap_or(longest).min(longest)
    }

    fn note_window(&mut self, grant: &Grant) {
        // A task may use half of its lease to stop; what was adopted after a restart counts as if it did.
        let grace = grant.launch.as_ref().map_or(grant.ttl_ms / 2, |launch| launch.spec.stop_grace_ms);
        let window = grant.ttl_ms.saturating_sub(grace + grant.kill_margin_ms);
        self.windows.entry(grant.lease).or_insert(window);
    }
}

impl Agent {
    /// Reports until the task is dropped.
    pub async fn run(self, mut events: mpsc::Receiver<HostEvent>) {
        let news = Arc::new(Notify::new());
        let bell = news.clone();
        let listener = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if matches!(event, HostEvent::Ended(_) | HostEvent::DevicesChanged) {
                    bell.notify_one();
                }
            }
        });
        let mut heard = Heard::default();
        let mut register = true;
        let mut at_once = false;
        loop {
            let report = self.report(&mut heard, register, at_once);
            let holds = report.hold_ms > 0;
            let sent = report.sent;
            let call = timeout(limits::REPORT_DEADLINE, self.link.report(report));
            // News cut a held report short; one that brings news is never cut.
            let answer = tokio::select! {
                answer = call => answer.unwrap_or_else(|_| Err("the leader did not answer".into())),
                () = news.notified(), if holds => {
                    at_once = true;
                    continue;
                }
            };
            at_once = false;
            match answer {
                Ok(ReportAnswer::Orders(orders)) => {
                    register = false;
                    at_once = orders.more;
                    self.obey(orders, sent, &mut heard);
                }
                Ok(ReportAnswer::Register) => register = true,
                Ok(ReportAnswer::NotLeader(_)) => sleep(limits::RETRY_PAUSE).await,
                Ok(ReportAnswer::Stale(why)) => {
                    tracing::error!(%why, "this node may not execute; stopping what it holds");
                    self.stop_everything();
                    listener.abort();
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "no leader took the report");
                    sleep(limits::RETRY_PAUSE).await;
                }
            }
        }
    }

    fn report(&self, heard: &mut Heard, register: bool, at_once: bool) -> Report {
        heard.sequence += 1;
        heard.telling = self.host.quarantined();
        let register = register || heard.telling != heard.quarantined;
        // The clock first: what is true of the lists below is true of a later moment.
        let sent = self.clock.boot();
        let mut ends = self.host.unacknowledged();
        let unreported: BTreeSet<LeaseId> =
            ends.iter().skip(limits::ENDS_PER_REPORT).map(|e| e.lease).collect();
        ends.truncate(limits::ENDS_PER_REPORT);
        let hold = !(at_once || register || !ends.is_empty());
        let mut held: Vec<(LeaseId, bool)> = self.host.held().iter().map(|h| (h.lease, h.stopping)).collect();
        held.extend(unreported.into_iter().map(|lease| (lease, true)));
        Report {
            node: self.node,
            incarnation: self.incarnation,
            nonce: self.nonce,
            sequence: heard.sequence,
            sent,
            register: register.then(|| self.offer_without(&heard.telling)),
            held,
            ends,
            hold_ms: if hold { heard.hold_ms() } else { 0 },
        }
    }

    /// What this node offers while somebody else uses these devices.
    fn offer_without(&self, quarantined: &[QuarantinedGpu]) -> RegisterNode {
        let mut register = self.offer.clone();
        register.offer.gpus.retain(|gpu| quarantined.iter().all(|other| other.info.id != gpu.id));
        register.offer.quarantined = quarantined.to_vec();
        register
    }

    /// Does what fresh orders say; others are dropped (DESIGN §5, rule 6).
    fn obey(&self, orders: Orders, sent: BootMs, heard: &mut Heard) {
        let mine = orders.incarnation == self.incarnation && orders.nonce == self.nonce;
        let fresh =
            orders.term >= heard.term && orders.answers == heard.sequence && orders.answers > heard.answered;
        if !mine || !fresh {
            tracing::debug!(term = orders.term, answers = orders.answers, "orders dropped");
            return;
        }
        heard.term = orders.term;
        heard.answered = orders.answers;
        heard.quarantined = std::mem::take(&mut heard.telling);
        self.host.acknowledge(orders.recorded.clone());
        let held: BTreeMap<LeaseId, bool> = self.host.held().iter().map(|h| (h.lease, h.stopping)).collect();
        let granted: BTreeSet<LeaseId> = orders.grants.iter().map(|g| g.lease).collect();
        heard.windows.retain(|lease, _| granted.contains(lease));
        orders.grants.iter().for_each(|grant| heard.note_window(grant));
        let renewals = orders.grants.iter().filter(|g| held.contains_key(&g.lease));
        self.host.renew(renewals.map(|g| (g.lease, sent.plus(g.ttl_ms))).collect());
        for (lease, stopping) in &held {
            if !granted.contains(lease) && !stopping {
                self.host.stop(*lease, StopReason::LeaseOver);
            }
        }
        for grant in orders.grants {
            self.follow(grant, sent, &held);
        }
    }

    fn follow(&self, grant: Grant, sent: BootMs, held: &BTreeMap<LeaseId, bool>) {
        let deadline = sent.plus(grant.ttl_ms);
        match (held.get(&grant.lease), grant.launch) {
            (Some(false), _) if grant.cancelled => self.host.stop(grant.lease, StopReason::Cancelled),
            (None, Some(launch)) if self.may_start(deadline, grant.kill_margin_ms) => {
                self.host.start(self.launch(grant.lease, launch, deadline));
                if grant.cancelled {
                    self.host.stop(grant.lease, StopReason::Cancelled);
                }
            }
            _ => {}
        }
    }

    /// An attempt starts only while its lease has time left, and not on a node that stops.
    fn may_start(&self, deadline: BootMs, kill_margin_ms: u64) -> bool {
        !self.closing.load(Ordering::SeqCst) && self.clock.boot() < deadline.minus(kill_margin_ms)
    }

    fn launch(&self, lease: LeaseId, launching: Launching, deadline: BootMs) -> Launch {
        let mut env = BTreeMap::from([
            ("STINT_TASK_ID".to_string(), lease.task.to_string()),
            ("STINT_ATTEMPT".to_string(), lease.attempt.to_string()),
            ("STINT_INDEX".to_string(), launching.index.to_string()),
            ("STINT_TENANT".to_string(), launching.tenant.to_string()),
            ("STINT_CLASS".to_string(), launching.spec.class.to_string()),
            ("STINT_NODE_ID".to_string(), self.node.to_string()),
        ]);
        if let Some(name) = launching.name {
            env.insert("STINT_TASK_NAME".to_string(), name.to_string());
        }
        let Launching { tenant, spec, runtime, gpus, .. } = launching;
        Launch { lease, tenant, spec, runtime, gpus, deadline, env }
    }

    fn stop_everything(&self) {
        for held in self.host.held() {
            self.host.stop(held.lease, StopReason::LeaseOver);
        }
    }
}
