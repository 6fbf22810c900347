//! What a leader decides from its clocks and its applied state: whether it holds office, what an entry is stamped
//! with, and what it holds. Pure, as what calls it: `leader/core.rs`.

use std::collections::BTreeSet;

use stint_protocol::{BootMs, LeaseId, NodeId, TimeMs};
use stint_scheduler::{Command, PlanInput, Rejection, Stamped, State, apply, plan};

use crate::contacts::{Contacts, StampRange};
use crate::mutations::{Mutation, planted};
use crate::shared::Entry;

/// One term of office of a peer.
pub struct Office {
    pub term: u64,
    pub contacts: Contacts,
}

/// Where a peer stands: by its own account, and in its log.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// It believes that it leads.
    pub leads: bool,
    /// The term it knows of.
    pub term: u64,
    /// The term of the last entry that it has applied.
    pub applied_term: u64,
}

/// What a peer knows of itself at one moment.
#[derive(Clone, Copy)]
pub struct LeaderView<'a> {
    pub standing: Standing,
    /// The state that it has applied, and up to which index.
    pub state: &'a State,
    pub index: u64,
    /// Its boot clock.
    pub now: BootMs,
}

impl Office {
    /// Begins, keeps or ends an office. A peer holds it while it leads and an entry of its own term is applied
    /// (docs/internals/leases.md#new-leader); each term begins with no receipt times.
    pub fn hold<'o>(office: &'o mut Option<Office>, view: &LeaderView<'_>) -> Option<&'o mut Office> {
        let at = view.standing;
        let own_term = at.applied_term == at.term || planted(Mutation::ActBeforeOwnTermEntry);
        if !at.leads || !own_term {
            if !planted(Mutation::OldReceiptTimes) {
                *office = None;
            }
            return None;
        }
        if office.as_ref().is_none_or(|o| o.term != at.term) {
            tracing::info!(term = at.term, "this peer leads");
            let kept = office.take().filter(|_| planted(Mutation::OldReceiptTimes));
            let contacts =
                kept.map_or_else(|| Contacts::new(view.now, view.state.time()), |earlier| earlier.contacts);
            *office = Some(Office { term: at.term, contacts });
        }
        office.as_mut()
    }
}

/// Whether the cluster speaks all of these: a leader proposes nothing else.
pub fn speakable(state: &State, commands: &[Command]) -> Result<(), Rejection> {
    let needs = commands.iter().map(Command::needs).max().unwrap_or_default();
    if needs <= state.version() || planted(Mutation::IgnoreVersionGate) {
        return Ok(());
    }
    Err(state.held_back())
}

/// What the leader alone knows when it makes an entry.
pub struct Outlook {
    pub expired: Vec<LeaseId>,
    pub reachable: BTreeSet<NodeId>,
    pub range: StampRange,
    /// The leader's clock ticked; otherwise something else woke it.
    tick: bool,
}

impl Outlook {
    /// As the contacts are now. `expiry`: at a tick; looks for leases that ran out, which stops their renewal at once.
    pub fn of(contacts: &mut Contacts, state: &State, now: BootMs, expiry: bool) -> Self {
        let expired = if expiry { contacts.expire(state, now) } else { Vec::new() };
        let (reachable, range) = (contacts.reachable(now), contacts.stamp_range(now));
        Self { expired, reachable, range, tick: expiry }
    }
}

/// An entry to be proposed, if it holds any command.
pub struct Draft {
    pub entry: Entry,
    /// Leases it ends because they ran out.
    pub expired: usize,
    /// How far the wall clock is ahead of what an entry may be stamped with; then nothing is planned.
    pub ahead_ms: Option<u64>,
}

/// What the last plan was made of: as long as it is the same, there is nothing new to plan.
#[derive(Clone, PartialEq, Eq)]
struct Planned {
    index: u64,
    reachable: BTreeSet<NodeId>,
}

/// Makes entries one after another.
#[derive(Default)]
pub struct Drafts {
    planned: Option<Planned>,
}

impl Drafts {
    /// One entry on the state applied up to `index`: the batch, what the clock asks for, and the plan that follows
    /// from both.
    pub fn draft(
        &mut self,
        state: &State,
        index: u64,
        outlook: Outlook,
        wall: TimeMs,
        batch: Vec<Command>,
    ) -> Draft {
        let Outlook { expired, reachable, range, tick } = outlook;
        let (stamp, ahead_ms) = stamp(state, wall, range);
        let (mut commands, expired_count) = (batch, expired.len());
        // Behind the batch: an end that the node reports in the same entry says how its attempt ended. The other way
        // round it would count as lost.
        if !expired.is_empty() {
            commands.push(Command::ExpireLeases(expired));
        }
        // Time catches up with each entry: without any, a clock that was behind and is set right would stop planning
        // for good.
        let catches_up = ahead_ms.is_some() && tick && !state.nothing_waits();
        commands.extend(state.raisable_to().map(|to| Command::RaiseVersion { to }));
        if commands.is_empty() && (catches_up || state.drain_due(stamp)) {
            commands.push(Command::Tick);
        }
        let due = state.next_due().is_some_and(|due| due <= stamp);
        let seen = Planned { index, reachable };
        if ahead_ms.is_none() && (due || !commands.is_empty() || self.planned.as_ref() != Some(&seen)) {
            // Without a command, and with nothing that becomes due, the state stays as it is.
            let planned = if commands.is_empty() && !due {
                plan_on(state, &seen.reachable)
            } else {
                plan_after(state, stamp, &commands, &seen.reachable)
            };
            commands.extend(planned);
            self.planned = Some(seen);
        }
        Draft { entry: Entry { now: stamp, commands }, expired: expired_count, ahead_ms }
    }

    /// Whether the last entry was applied is not known: what it planned is planned again.
    pub fn forget(&mut self) {
        self.planned = None;
    }
}

/// The entry's time, and how far the wall clock is beyond it. It may run ahead of elapsed boot time by at most
/// `TIME_JUMP_MS` an entry (docs/internals/leases.md#cluster-time). A clock that is behind does not hold the
/// cluster's time up: it goes on with boot time.
fn stamp(state: &State, wall: TimeMs, range: StampRange) -> (TimeMs, Option<u64>) {
    let wall = wall.max(state.time()).max(range.earliest);
    match range.latest {
        Some(latest) if wall > latest && state.configured() && !planted(Mutation::WallClockJump) => {
            (latest, Some(wall.since(latest)))
        }
        _ => (wall, None),
    }
}

/// What would be placed once the commands are applied: tried on a copy, so that a task may start with the entry
/// that accepts it.
fn plan_after(
    state: &State,
    now: TimeMs,
    commands: &[Command],
    reachable: &BTreeSet<NodeId>,
) -> Option<Command> {
    if state.nothing_waits() && !commands.iter().any(Command::may_queue) {
        return None;
    }
    let mut trial = state.clone();
    // The tick brings what is due by now into the queue, as the plan's own command will: without other commands
    // nothing else does.
    for command in commands.iter().cloned().chain([Command::Tick]) {
        // A rejection will come again when the entry is applied, and be answered then.
        let _ = apply(&mut trial, Stamped { now, command });
    }
    plan_on(&trial, reachable)
}

fn plan_on(state: &State, reachable: &BTreeSet<NodeId>) -> Option<Command> {
    let plan = plan(state, &PlanInput { reachable: reachable.clone() });
    (!plan.assignments.is_empty()).then_some(Command::CommitPlan(plan))
}

#[cfg(test)]
mod tests {
    use stint_protocol::{Class, ClassRules, SharedSpec, TaskId, TaskSpec, Tenant};
    use stint_scheduler::{Settings, Submit};

    use super::*;

    /// A cluster in which a task waits, as no node has joined.
    fn one_waits(now: TimeMs) -> State {
        let spec = TaskSpec::new(Class::CpuShort, vec!["true".into()]);
        let spec = spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap();
        let submit = Submit {
            tenant: Tenant::default_tenant(),
            first: TaskId(1 << 16),
            count: 1,
            name: None,
            spec: SharedSpec::new(spec),
            key: None,
            digest: 0,
            key_made_ms: None,
        };
        let mut state = State::default();
        for command in [Command::Configure(Settings::default()), Command::Submit(submit)] {
            apply(&mut state, Stamped { now, command }).unwrap();
        }
        state
    }

    /// What a leader proposes half a second after its last entry, when its wall clock shows `ahead_ms` more than it
    /// then showed.
    fn drafted(state: &State, ahead_ms: u64, tick: bool) -> Draft {
        let mut contacts = Contacts::new(BootMs(0), state.time());
        contacts.stamped(state.time(), BootMs(1_000));
        let outlook = Outlook::of(&mut contacts, state, BootMs(1_500), tick);
        Drafts::default().draft(state, 1, outlook, state.time().plus(ahead_ms), Vec::new())
    }

    #[test]
    fn a_clock_that_was_behind_and_is_set_right_is_caught_up_with_while_tasks_wait() {
        let waits = one_waits(TimeMs(1_000_000));
        let draft = drafted(&waits, 60_000, true);
        assert!(draft.ahead_ms.is_some());
        assert!(matches!(draft.entry.commands[..], [Command::Tick]), "{:?}", draft.entry);
        assert!(draft.entry.now > waits.time(), "the cluster's time goes on");
    }

    #[test]
    fn only_the_clock_writes_for_time_alone_and_only_while_tasks_wait() {
        let waits = one_waits(TimeMs(1_000_000));
        assert!(drafted(&waits, 60_000, false).entry.commands.is_empty(), "something else woke the leader");
        assert!(drafted(&waits, 500, true).entry.commands.is_empty(), "the clock is right");
        assert!(drafted(&State::default(), 60_000, true).entry.commands.is_empty(), "nothing waits");
    }
}
