//! The mock runtime: attempts without processes, inside the node. For tests, demonstrations and measurements of
//! everything around the execution. Its attempts end with the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{Allowance, AttemptEnd, BootMs, EndKind, LeaseId, Runtime as Kind};
use tokio::sync::mpsc;

use super::{HostCapabilities, NodeRuntime};
use crate::clock::boot_now;
use crate::host::{Executing, HostEvent, Launch, Publisher, StopReason};
use crate::refusal::Refusal;
use crate::settings::HostOptions;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::StartRequest;
use crate::stages::Staged;
use crate::watchdog::{Action, AttemptTimes, StopCause, Watchdog};

struct Mock;

pub fn open(_: Arc<HostOptions>, _: &Layout) -> Arc<dyn NodeRuntime> {
    Arc::new(Mock)
}

impl NodeRuntime for Mock {
    fn executing(&self) -> Executing {
        Executing::Node
    }

    fn probe(&self, _: HostCapabilities) -> Result<(), String> {
        Ok(())
    }

    fn allowance(&self, _: HostCapabilities) -> Allowance {
        Allowance::everything(Kind::Mock)
    }

    fn request(&self, _: &Launch, _: &Staged, _: HostCapabilities) -> Result<StartRequest, Refusal> {
        Err(Refusal::start_failed("a mock attempt is executed by its node, without the watchdog"))
    }
}

/// What the words of a mock command ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// None: until it is stopped.
    run_ms: Option<u64>,
    end: EndKind,
}

/// Reads `run=50ms`, `exit=3`, `signal=9`, `hang`, `fail_start`; a first word `mock` is the program's name.
pub fn parse(command: &[String]) -> Result<Script, String> {
    let mut script = Script { run_ms: Some(0), end: EndKind::Exited(0) };
    for word in command.iter().skip(usize::from(command.first().is_some_and(|w| w == "mock"))) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<i32>().map_err(|_| format!("{word:?}: {value:?} is not a number"));
        match key {
            "run" => {
                script.run_ms =
                    Some(parse_ms(value).ok_or_else(|| format!("{word:?}: write run=50ms or run=2s"))?)
            }
            "exit" => script.end = EndKind::Exited(number()?),
            "signal" => script.end = EndKind::Signalled(number()?),
            "hang" => script.run_ms = None,
            "fail_start" => script.end = EndKind::StartFailed,
            _ => {
                return Err(format!(
                    "the mock runtime does not know {word:?}: use run=50ms, exit=3, signal=9, hang, fail_start"
                ));
            }
        }
    }
    Ok(script)
}

fn parse_ms(text: &str) -> Option<u64> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok();
    }
    match text.strip_suffix('s') {
        Some(s) => s.parse::<u64>().ok()?.checked_mul(1000),
        None => text.parse().ok(),
    }
}

/// What the mock's task is told.
pub enum ToMock {
    Start {
        lease: LeaseId,
        command: Vec<String>,
        limits: AttemptTimes,
    },
    Renew(LeaseId, BootMs),
    Stop(LeaseId, StopReason),
    /// An end that came about without any execution.
    Publish(AttemptEnd),
}

/// The running mock attempts.
#[derive(Default)]
struct MockAttempts {
    watchdog: Watchdog,
    running: BTreeMap<LeaseId, (Script, BootMs)>,
    ends: BTreeSet<(BootMs, LeaseId)>,
    events: Vec<HostEvent>,
}

/// Runs mock attempts until the node's side is gone.
pub async fn run(publish: Publisher, mut inbox: mpsc::UnboundedReceiver<ToMock>) {
    const BATCH: usize = 1024;
    let (mut mock, mut batch) = (MockAttempts::default(), Vec::with_capacity(BATCH));
    loop {
        let wake = mock.next_wake().map(|at| Duration::from_millis(at.since(boot_now())));
        tokio::select! {
            received = inbox.recv_many(&mut batch, BATCH) => if received == 0 { return },
            () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
        }
        for message in batch.drain(..) {
            mock.on_message(message, boot_now());
        }
        mock.on_time(boot_now());
        let events = std::mem::take(&mut mock.events);
        if !events.is_empty() {
            publish(events).await;
        }
    }
}

impl MockAttempts {
    fn next_wake(&self) -> Option<BootMs> {
        let end = self.ends.first().map(|(at, _)| *at);
        [end, self.watchdog.next_wake()].into_iter().flatten().min()
    }

    fn on_message(&mut self, message: ToMock, now: BootMs) {
        match message {
            ToMock::Start { lease, command, limits } => self.start(lease, &command, limits, now),
            ToMock::Renew(lease, deadline) => self.watchdog.renew(lease, deadline),
            ToMock::Stop(lease, reason) => self.watchdog.stop(lease, reason.into()),
            ToMock::Publish(end) => self.events.push(HostEvent::Ended(end)),
        }
    }

    fn start(&mut self, lease: LeaseId, command: &[String], limits: AttemptTimes, now: BootMs) {
        let refuse =
            |kind, message: &str| HostEvent::Ended(AttemptEnd::new(lease, kind, message.to_owned(), 0));
        let script = match parse(command) {
            Ok(script) => script,
            Err(message) => return self.events.push(refuse(EndKind::NotRunnable, &message)),
        };
        if script.end == EndKind::StartFailed {
            return self.events.push(refuse(EndKind::StartFailed, "the mock was told to fail its start"));
        }
        if !Watchdog::may_start(&limits, now) {
            return self.events.push(refuse(EndKind::Lost, "its lease was over before it could be started"));
        }
        self.events.push(HostEvent::Started { lease, at: now });
        if script.run_ms == Some(0) {
            return self.events.push(refuse(script.end, ""));
        }
        self.watchdog.start(lease, limits);
        if let Some(run_ms) = script.run_ms {
            self.ends.insert((now.plus(run_ms), lease));
        }
        self.running.insert(lease, (script, now));
    }

    fn on_time(&mut self, now: BootMs) {
        while let Some((at, lease)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            self.ends.remove(&(at, lease));
            self.end(lease, None, now);
        }
        for action in self.watchdog.tick(now) {
            let (Action::Term(lease, why) | Action::Kill(lease, why)) = action;
            self.end(lease, Some(why), now);
        }
    }

    fn end(&mut self, lease: LeaseId, why: Option<StopCause>, now: BootMs) {
        self.watchdog.exited(lease);
        let Some((script, started)) = self.running.remove(&lease) else { return };
        if let Some(run_ms) = script.run_ms {
            self.ends.remove(&(started.plus(run_ms), lease));
        }
        let kind = why.map_or(script.end, StopCause::end_kind);
        let end = AttemptEnd::new(lease, kind, String::new(), now.since(started));
        self.events.push(HostEvent::Ended(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn scripts_are_read_and_unknown_words_are_refused() {
        let script = |run_ms, end| Ok(Script { run_ms, end });
        assert_eq!(parse(&split_words("")), script(Some(0), EndKind::Exited(0)));
        assert_eq!(parse(&split_words("mock run=50ms exit=3")), script(Some(50), EndKind::Exited(3)));
        assert_eq!(parse(&split_words("run=2s signal=9")), script(Some(2000), EndKind::Signalled(9)));
        assert_eq!(parse(&split_words("hang")), script(None, EndKind::Exited(0)));
        assert!(parse(&split_words("sleep 5")).unwrap_err().contains("does not know \"sleep\""));
        assert!(parse(&split_words("run=soon")).unwrap_err().contains("run=50ms"));
    }

    #[test]
    fn a_hanging_mock_ends_when_its_lease_does() {
        let (mut mock, lease) =
            (MockAttempts::default(), LeaseId { task: stint_protocol::TaskId(1), attempt: 1 });
        let limits = AttemptTimes {
            deadline: BootMs(1000),
            grace_ms: 100,
            kill_margin_ms: 100,
            run_timeout_ms: 50_000,
            started_at: BootMs(0),
        };
        mock.on_message(ToMock::Start { lease, command: split_words("hang"), limits }, BootMs(0));
        mock.on_time(BootMs(799));
        assert_eq!(mock.events.len(), 1, "started only");
        mock.on_time(BootMs(800));
        let end = AttemptEnd::new(lease, EndKind::Lost, String::new(), 800);
        assert_eq!(mock.events[1], HostEvent::Ended(end));
        assert_eq!(mock.next_wake(), None);
    }
}
