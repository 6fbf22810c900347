//! What an operator was told is sent is seen by the program's next step, unless it was replaced, acknowledged or made void;
//! what paused an instance is gone when it is resumed; a custom signal is given to each launch once.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{CheckpointId, EventKind, InstanceId, Payload, SignalKind, TimeMs, Writer};
use stint_scheduler::{InstanceAct, InstanceChange, Saved};

use super::Committed;

#[derive(Default)]
pub struct Signals {
    pending: BTreeMap<InstanceId, SignalKind>,
    resumed: BTreeMap<InstanceId, TimeMs>,
    /// The newest custom signal of each step, by the request that sent it.
    sent: BTreeMap<(InstanceId, CheckpointId), u64>,
    /// Which of them each launch has got, and by which request.
    given: BTreeMap<(InstanceId, CheckpointId, u64, u32), u64>,
    requests: BTreeSet<u64>,
}

impl Signals {
    pub fn committed(&mut self, it: &Committed<'_>, now: TimeMs) -> Result<(), String> {
        let Some(changes) = it.changes else { return Ok(()) };
        let id = &it.command.id;
        let ended = changes.iter().any(|change| matches!(change, InstanceChange::Ended { .. }));
        let first = self.requests.insert(it.command.request);
        match &it.command.act {
            InstanceAct::Signal { .. } if first => {
                let no = it.state.instance_named(id).and_then(|no| it.state.instance(no));
                match no.and_then(|instance| instance.pending_signal().map(|signal| signal.kind)) {
                    Some(kind) => self.pending.insert(id.clone(), kind),
                    None => self.pending.remove(id),
                };
            }
            InstanceAct::Resume if first => {
                self.pending.remove(id);
                self.resumed.insert(id.clone(), now);
            }
            InstanceAct::Record { events } if events.iter().any(|e| e.kind == EventKind::Suspended) => {
                self.pending.remove(id);
            }
            InstanceAct::Acknowledge(_) | InstanceAct::Hibernate { .. } | InstanceAct::Stop { .. } => {
                self.pending.remove(id);
            }
            InstanceAct::SendCustom { checkpoint, .. } if first && !changes.is_empty() => {
                self.sent.insert((id.clone(), checkpoint.clone()), it.command.request);
            }
            InstanceAct::Save { checkpoint, .. } => {
                for change in changes {
                    let InstanceChange::Saved(saved) = change else { continue };
                    self.seen(id, saved)?;
                    self.got(it, checkpoint, saved.custom.as_ref())?;
                }
            }
            InstanceAct::TakeCustom(checkpoint) => {
                for change in changes {
                    let InstanceChange::Custom { payload, .. } = change else { continue };
                    self.got(it, checkpoint, payload.as_ref())?;
                }
            }
            _ => {}
        }
        if ended {
            self.pending.remove(id);
            self.sent.retain(|(of, _), _| of != id);
        }
        Ok(())
    }

    /// What a program sees with a step.
    fn seen(&self, id: &InstanceId, saved: &Saved) -> Result<(), String> {
        let shown = saved.signal.as_ref();
        if let Some(wanted) = self.pending.get(id).filter(|wanted| shown.is_none_or(|s| s.kind != **wanted)) {
            return Err(format!("{id} was sent {}, and its next step shows {shown:?}", wanted.as_str()));
        }
        let resumed = self.resumed.get(id);
        let old = shown.filter(|s| s.kind == SignalKind::Pause && resumed.is_some_and(|at| s.at < *at));
        match old {
            Some(pause) => Err(format!("{id} was resumed, and is told to pause since {}", pause.at.0)),
            None => Ok(()),
        }
    }

    /// What a program gets of what was sent to its step.
    fn got(
        &mut self,
        it: &Committed<'_>,
        checkpoint: &CheckpointId,
        payload: Option<&Payload>,
    ) -> Result<(), String> {
        let Writer::Launch(lease) = it.command.by else { return Ok(()) };
        let id = it.command.id.clone();
        let Some(version) = self.sent.get(&(id.clone(), checkpoint.clone())).copied() else { return Ok(()) };
        let key = (id.clone(), checkpoint.clone(), version, lease.attempt);
        let given = self.given.get(&key).copied();
        let is_due = given.is_none_or(|by| by == it.command.request);
        if is_due != payload.is_some() {
            return Err(format!(
                "attempt {} of {id} asks for what was sent to {checkpoint}, was given it by {given:?}, and gets {payload:?}",
                lease.attempt
            ));
        }
        if payload.is_some() {
            self.given.insert(key, it.command.request);
        }
        Ok(())
    }
}
