//! What the node knows of one attempt that has not ended, and how that changes.

use std::sync::Arc;

use stint_protocol::BootMs;

use crate::attempt_stage::{AttemptStage, Executing, Execution};
use crate::host::StopReason;
use crate::shim_api::request::AttemptLabels;
use crate::shim_api::wire::WatchedAttempt;

/// An attempt that has not ended.
#[derive(Clone, Debug)]
pub struct AttemptState {
    pub stage: AttemptStage,
    /// Why it was asked to stop.
    pub stop: Option<StopReason>,
    /// Why it is killed for the disk that its files take.
    pub over_disk: Option<String>,
    pub deadline: BootMs,
    /// The sandbox folder it runs in, once the watchdog has said so.
    pub sandbox_dir: Option<u32>,
    /// Something is left to do after its end, before the node hears of it.
    pub finishes: bool,
    /// None: an earlier node launched it, and nobody remembers.
    pub labels: Option<Arc<AttemptLabels>>,
}

impl AttemptState {
    pub fn new(deadline: BootMs, stage: AttemptStage, labels: Option<Arc<AttemptLabels>>) -> Self {
        Self { stage, stop: None, over_disk: None, deadline, sandbox_dir: None, finishes: false, labels }
    }

    /// One that the watchdog of an earlier node holds.
    pub fn adopted(found: &WatchedAttempt, finishes: bool) -> Self {
        let running = &found.running;
        let execution = match (running.stopping, running.started) {
            (true, started) => Execution::Stopping { started },
            (false, true) => Execution::Running,
            (false, false) => Execution::Starting,
        };
        let stage = AttemptStage::With(Executing::Watchdog, execution);
        let labels = found.labels.clone().map(Arc::new);
        Self { sandbox_dir: found.sandbox_dir, finishes, ..Self::new(running.deadline, stage, labels) }
    }

    /// Whether it is being stopped, or will be as soon as somebody has it who can.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some() || matches!(self.stage, AttemptStage::With(_, Execution::Stopping { .. }))
    }

    /// It is to stop. Only the first reason counts.
    pub fn ask_to_stop(&mut self, reason: StopReason) {
        self.stop.get_or_insert(reason);
        self.note_stopping();
    }

    /// Whoever executes it stops it.
    pub fn note_stopping(&mut self) {
        if let AttemptStage::With(who, _) = self.stage {
            let started = self.stage.has_started();
            self.stage = AttemptStage::With(who, Execution::Stopping { started });
        }
    }

    /// Its program runs; false when that is known already.
    pub fn note_started(&mut self) -> bool {
        let AttemptStage::With(who, execution) = self.stage else { return false };
        let now = match execution {
            Execution::Starting => Execution::Running,
            Execution::Stopping { started: false } => Execution::Stopping { started: true },
            Execution::Running | Execution::Stopping { started: true } => return false,
        };
        self.stage = AttemptStage::With(who, now);
        true
    }

    /// Somebody has it now who executes it.
    pub fn hand_to(&mut self, who: Executing) {
        self.stage = AttemptStage::With(who, Execution::Starting);
        if self.stop.is_some() {
            self.note_stopping();
        }
    }

    /// Its program is gone and something is left to do; false when that is being done already.
    pub fn begin_finishing(&mut self) -> bool {
        std::mem::replace(&mut self.stage, AttemptStage::Finishing) != AttemptStage::Finishing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt_stage::Preparation;

    fn preparing() -> AttemptState {
        AttemptState::new(BootMs(1000), AttemptStage::Preparing(Preparation::Image), None)
    }

    fn said(attempt: &AttemptState) -> String {
        attempt.stage.to_string()
    }

    #[test]
    fn an_attempt_goes_from_its_files_to_the_watchdog_and_back_for_its_outputs() {
        let mut attempt = preparing();
        assert_eq!(said(&attempt), "preparing: its image");
        assert!(!attempt.note_started(), "nobody executes it");
        attempt.stage = AttemptStage::Outbox;
        attempt.hand_to(Executing::Watchdog);
        assert_eq!(said(&attempt), "with the watchdog: starting");
        assert!(attempt.note_started() && !attempt.note_started(), "a start is told once");
        assert_eq!((said(&attempt).as_str(), attempt.is_stopping()), ("with the watchdog: running", false));
        assert!(attempt.begin_finishing() && !attempt.begin_finishing());
        assert_eq!(said(&attempt), "finishing: its outputs");
    }

    #[test]
    fn a_stop_is_kept_until_somebody_has_the_attempt_who_can_stop_it() {
        let mut attempt = preparing();
        attempt.ask_to_stop(StopReason::Cancelled);
        attempt.ask_to_stop(StopReason::Drained);
        assert!(attempt.is_stopping() && said(&attempt).starts_with("preparing"));
        assert_eq!(attempt.stop, Some(StopReason::Cancelled), "the first reason stays");
        attempt.hand_to(Executing::Watchdog);
        assert_eq!(said(&attempt), "with the watchdog: stopping");
        assert!(!attempt.stage.has_started());
        assert!(attempt.note_started(), "it had begun before it was asked");
        assert!(attempt.stage.has_started() && said(&attempt) == "with the watchdog: stopping");
    }
}
