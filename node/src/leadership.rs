//! What a leader decides from its clocks and its applied state: whether it leads, what an entry is stamped
//! with, and what it holds. Pure, as what calls it: `leader/core.rs`.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{BootMs, LeaseId, NodeId, TaskId, TimeMs};
use stint_scheduler::{
    Command, Plan, PlanInput, Planner, Rejection, StampedCommand, State, apply, overlooked,
};

use crate::applied_state::{Effect, LogEntry, Results};
use crate::lease_clock::{LeaseClock, StampRange};
use crate::limits;
use crate::mutations::{Mutation, planted};

/// One term in which a peer leads.
pub struct Leadership {
    pub term: u64,
    pub lease_clock: LeaseClock,
    pub wall_clock: WallClock,
    pub not_begun: NotBegun,
}

/// What each node told last of its attempts whose programs have not begun. Only what people see depends on it.
#[derive(Clone, Debug, Default)]
pub struct NotBegun(BTreeMap<NodeId, Vec<LeaseId>>);

impl NotBegun {
    /// What one report says.
    pub fn note(&mut self, node: NodeId, leases: Option<&Vec<LeaseId>>) {
        match leases.filter(|leases| !leases.is_empty()) {
            Some(leases) => drop(self.0.insert(node, leases.clone())),
            None => drop(self.0.remove(&node)),
        }
    }

    /// Those that still are leases.
    pub fn leases(&self, state: &State) -> Vec<LeaseId> {
        let of_node = |(node, leases): (&NodeId, &Vec<LeaseId>)| {
            let node = *node;
            leases.iter().copied().filter(move |lease| state.holds_on(node, *lease)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_node).take(limits::NOT_BEGUN).collect()
    }
}

/// Whether this machine's wall clock was set while it leads: the cluster's time goes with the leader's. Another leader has
/// a clock of its own, and begins with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock {
    /// Wall and boot clock of one moment before it was set.
    base: Option<(TimeMs, BootMs)>,
    /// By how much it was set, in milliseconds, ahead or (negative) behind; 0: it was not.
    stepped_ms: i64,
    /// When this leader last tried to hand over for it.
    tried: Option<BootMs>,
}

impl WallClock {
    /// The two clocks at one moment.
    pub fn look(&mut self, wall: TimeMs, now: BootMs) {
        let Some((wall_then, boot_then)) = self.base else {
            self.base = Some((wall, now));
            return;
        };
        let expected = wall_then.plus(now.since(boot_then));
        let step = wall.0 as i64 - expected.0 as i64;
        if step.unsigned_abs() > limits::CLOCK_STEP_MS {
            if self.stepped_ms == 0 {
                tracing::error!(step_ms = step, "the leader's wall clock was set: it hands over");
            }
            self.stepped_ms = step;
        } else {
            // It was slewed, or set right again.
            (self.base, self.stepped_ms) = (Some((wall, now)), 0);
        }
    }

    /// By how much it was set, if it was: ahead, or (negative) behind.
    pub fn stepped_ms(&self) -> Option<i64> {
        Some(self.stepped_ms).filter(|step| *step != 0)
    }

    /// Whether to hand over now: each true is one try.
    pub fn hands_over(&mut self, now: BootMs) -> bool {
        let due = self.tried.is_none_or(|at| now.since(at) >= limits::HAND_OVER_PAUSE_MS);
        let hands_over = self.stepped_ms != 0 && due;
        if hands_over {
            self.tried = Some(now);
        }
        hands_over
    }
}

/// Where a peer stands: by its own account, and in its log.
#[derive(Clone, Copy, Debug)]
pub struct RaftRole {
    /// It believes that it leads.
    pub leads: bool,
    /// The term it knows of.
    pub term: u64,
    /// The term of the last entry that it has applied.
    pub applied_term: u64,
}

/// What a peer knows of itself at one moment.
#[derive(Clone, Copy)]
pub struct PeerView<'a> {
    pub role: RaftRole,
    /// The state that it has applied, and up to which index.
    pub state: &'a State,
    pub index: u64,
    /// Its boot clock.
    pub now: BootMs,
}

impl Leadership {
    /// Begins, keeps or ends a leadership. A peer has it while it believes that it leads and an entry of its own term is applied
    /// (docs/internals/leases.md#new-leader); each term begins with no receipt times.
    pub fn renew<'o>(
        leadership: &'o mut Option<Leadership>,
        view: &PeerView<'_>,
    ) -> Option<&'o mut Leadership> {
        let at = view.role;
        let own_term = at.applied_term == at.term || planted(Mutation::ActBeforeOwnTermEntry);
        if !at.leads || !own_term {
            if !planted(Mutation::OldReceiptTimes) {
                *leadership = None;
            }
            return None;
        }
        if leadership.as_ref().is_none_or(|o| o.term != at.term) {
            tracing::info!(term = at.term, "this peer leads");
            let kept = leadership.take().filter(|_| planted(Mutation::OldReceiptTimes));
            let lease_clock = kept
                .map_or_else(|| LeaseClock::new(view.now, view.state.time()), |earlier| earlier.lease_clock);
            *leadership = Some(Leadership {
                term: at.term,
                lease_clock,
                wall_clock: WallClock::default(),
                not_begun: NotBegun::default(),
            });
        }
        leadership.as_mut()
    }
}

/// Whether the cluster speaks all of these: a leader proposes nothing else.
pub fn check_version(state: &State, commands: &[Command]) -> Result<(), Rejection> {
    let needs = commands.iter().map(Command::needs).max().unwrap_or_default();
    if needs <= state.version() || planted(Mutation::IgnoreVersionGate) {
        return Ok(());
    }
    Err(state.version_too_low())
}

/// What the leader alone knows when it makes an entry.
pub struct TickInput {
    pub expired: Vec<LeaseId>,
    /// More leases ran out than one entry ends.
    pub more_expired: bool,
    pub reachable: BTreeSet<NodeId>,
    pub range: StampRange,
    /// The leader's clock ticked; otherwise something else woke it.
    tick: bool,
}

impl TickInput {
    /// As the lease clock is now. `expiry`: at a tick; looks for leases that ran out, which stops their renewal at once.
    pub fn read(lease_clock: &mut LeaseClock, state: &State, now: BootMs, expiry: bool) -> Self {
        let mut expired = if expiry { lease_clock.expire(state, now) } else { Vec::new() };
        let more_expired = expired.len() > limits::EXPIRED_PER_ENTRY;
        expired.truncate(limits::EXPIRED_PER_ENTRY);
        let (reachable, range) = (lease_clock.reachable(now), lease_clock.stamp_range(now));
        Self { expired, more_expired, reachable, range, tick: expiry }
    }
}

/// An entry to be proposed, if it holds any command.
pub struct NextEntry {
    pub entry: LogEntry,
    /// Leases it ends because they ran out.
    pub expired: usize,
    /// How far the wall clock is ahead of what an entry may be stamped with.
    pub ahead_ms: Option<u64>,
    /// What it does to the state it was made for, when planning had to find that out.
    pub effect: Option<Effect>,
}

/// What the last plan was made of: as long as it is the same, there is nothing new to plan.
#[derive(Clone, PartialEq, Eq)]
struct PlanBasis {
    index: u64,
    reachable: BTreeSet<NodeId>,
}

/// Makes entries one after another.
#[derive(Default)]
pub struct EntryBuilder {
    planned: Option<PlanBasis>,
    planner: Planner,
}

impl EntryBuilder {
    /// One entry on the state applied up to `index`: the batch, what the clock asks for, and the plan that follows
    /// from both.
    pub fn build(
        &mut self,
        state: &State,
        index: u64,
        input: TickInput,
        wall: TimeMs,
        batch: Vec<Command>,
    ) -> NextEntry {
        let TickInput { expired, reachable, range, tick, .. } = input;
        let (stamp, ahead_ms) = stamp(state, wall, range);
        let (mut commands, expired_count) = (batch, expired.len());
        // Behind the batch: an end that the node reports in the same entry says how its attempt ended. The other way
        // round it would count as lost.
        if !expired.is_empty() {
            commands.push(Command::ExpireLeases(expired));
        }
        // Time catches up with each entry: without any, a clock that was behind and is set right would stop planning
        // for good.
        let catches_up =
            ahead_ms.is_some() && tick && !state.nothing_waits() && !planted(Mutation::NeverCatchUp);
        commands.extend(state.upgradable_to().map(|to| Command::RaiseVersion { to }));
        if commands.is_empty() && (catches_up || state.stop_due(stamp)) {
            commands.push(Command::Tick);
        }
        let due = state.next_due().is_some_and(|due| due <= stamp);
        let seen = PlanBasis { index, reachable };
        let changed = self.planned.as_ref() != Some(&seen) && !planted(Mutation::PlanOnChangesOnly);
        // Also while the clock is ahead: what fits a node starts whatever the time is. These two faults need a leader that
        // waits then, as it once did.
        let waits = planted(Mutation::NeverCatchUp) || planted(Mutation::StampFromOldTerm);
        let may_plan = ahead_ms.is_none() || !waits;
        let mut effect = None;
        if may_plan && (due || !commands.is_empty() || changed) {
            // Without a command, and with nothing that becomes due, the state stays as it is.
            if commands.is_empty() && !due {
                commands.extend(self.plan_on(state, &seen.reachable));
            } else {
                effect = self.plan_after_commands(state, stamp, &mut commands, &seen.reachable);
            }
            self.planned = Some(seen);
        }
        NextEntry { entry: LogEntry { now: stamp, commands }, expired: expired_count, ahead_ms, effect }
    }

    /// Whether it has planned nothing yet that it could start from.
    pub fn is_new(&self) -> bool {
        self.planned.is_none()
    }

    /// Whether the last entry was applied is not known: what it planned is planned again.
    pub fn forget(&mut self) {
        self.planned = None;
    }

    /// For simulators, which look after each turn: a waiting task that fits on a node and that the last plan left waiting.
    pub fn overlooked(&mut self, state: &State, reachable: &BTreeSet<NodeId>) -> Option<(TaskId, NodeId)> {
        let input = PlanInput { reachable: reachable.clone() };
        overlooked(&mut self.planner, state, &input, &Plan::default())
    }

    /// Adds the plan for the time when the commands are applied: they are tried on a copy, so that a task may start with the
    /// entry that accepts it. Answers what all of them do.
    fn plan_after_commands(
        &mut self,
        state: &State,
        now: TimeMs,
        commands: &mut Vec<Command>,
        reachable: &BTreeSet<NodeId>,
    ) -> Option<Effect> {
        if state.nothing_waits() && !commands.iter().any(Command::may_queue) {
            return None;
        }
        let mut trial = state.clone();
        // A rejection will come again when the entry is applied, and be answered then.
        let try_one = |trial: &mut State, command| apply(trial, StampedCommand { now, command });
        let mut results: Results =
            commands.iter().map(|command| try_one(&mut trial, command.clone())).collect();
        let plan = if commands.is_empty() {
            // The tick brings what is due by now into the queue, as the plan's own command will: nothing else does.
            let mut due = trial.clone();
            let _ = try_one(&mut due, Command::Tick);
            self.plan_on(&due, reachable)?
        } else {
            let Some(plan) = self.plan_on(&trial, reachable) else {
                return Some(Effect { state: trial, results });
            };
            plan
        };
        if !planted(Mutation::EffectWithoutPlan) {
            results.push(try_one(&mut trial, plan.clone()));
        }
        commands.push(plan);
        Some(Effect { state: trial, results })
    }

    fn plan_on(&mut self, state: &State, reachable: &BTreeSet<NodeId>) -> Option<Command> {
        let plan = self.planner.plan(state, &PlanInput { reachable: reachable.clone() });
        (!plan.assignments.is_empty()).then_some(Command::CommitPlan(plan))
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

#[cfg(test)]
mod tests {
    use stint_protocol::{
        Class, ClassRules, Incarnation, NodeOffer, Nonce, Resources, Runtime, SharedSpec, TaskId, TaskSpec,
        Tenant, version,
    };
    use stint_scheduler::{Admit, RegisterNode, Settings, Submit};

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
            apply(&mut state, StampedCommand { now, command }).unwrap();
        }
        state
    }

    /// The same, with a node that has room for it.
    fn one_fits() -> (State, NodeId) {
        let mut state = one_waits(TimeMs(1_000_000));
        let (name, address, node) = ("a".into(), "a:1".into(), NodeId(1));
        let admit = Admit { disk: [1; 16], name, address, token: None, speaks: version::CURRENT };
        let offer = NodeOffer {
            resources: Resources { cpu_milli: 4_000, memory_bytes: 8 << 30 },
            runtimes: vec![Runtime::Process],
            classes: vec![Class::CpuShort],
            slots: 4,
            ..NodeOffer::default()
        };
        let (incarnation, nonce, problems) = (Incarnation(1), Nonce(1), vec![]);
        let register = RegisterNode { node, incarnation, nonce, offer, problems };
        for command in [Command::Admit(admit), Command::RegisterNode(register)] {
            apply(&mut state, StampedCommand { now: TimeMs(1_000_000), command }).unwrap();
        }
        (state, node)
    }

    /// What a leader proposes half a second after its last entry, when its wall clock shows `ahead_ms` more than it
    /// then showed.
    fn drafted(state: &State, ahead_ms: u64, tick: bool) -> NextEntry {
        let mut lease_clock = LeaseClock::new(BootMs(0), state.time());
        lease_clock.stamped(state.time(), BootMs(1_000));
        let input = TickInput::read(&mut lease_clock, state, BootMs(1_500), tick);
        EntryBuilder::default().build(state, 1, input, state.time().plus(ahead_ms), Vec::new())
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
    fn a_clock_that_was_set_is_told_from_one_that_is_slewed() {
        let mut clock = WallClock::default();
        let mut look = |wall: u64, boot: u64| {
            clock.look(TimeMs(1_000_000 + wall), BootMs(boot));
            (clock.stepped_ms(), clock.hands_over(BootMs(boot)))
        };
        assert_eq!(look(0, 0), (None, false));
        assert_eq!(look(2_200, 200), (None, false), "two seconds of slewing");
        assert_eq!(look(4_400, 400), (None, false), "and two more");
        assert_eq!(look(3_604_600, 600), (Some(3_600_000), true), "an hour ahead");
        assert_eq!(look(3_604_800, 800), (Some(3_600_000), false), "tried a moment ago");
        let again = limits::HAND_OVER_PAUSE_MS + 600;
        assert_eq!(look(3_604_000 + again, again), (Some(3_600_000), true));
        assert_eq!(look(4_000 + again + 200, again + 200), (None, false), "set right again");
    }

    /// What a leader proposes next, with one more task that arrives.
    fn drafted_with_a_submit(state: &State) -> NextEntry {
        let mut lease_clock = LeaseClock::new(BootMs(0), state.time());
        let (node, nonce) = (NodeId(1), Nonce(1));
        lease_clock.heard(node, nonce, BootMs(1_400));
        let input = TickInput::read(&mut lease_clock, state, BootMs(1_500), false);
        let (id, task) = state.tasks_before(TaskId(u128::MAX)).next().unwrap();
        let submit = Submit {
            tenant: Tenant::default_tenant(),
            first: TaskId(id.0 + (1 << 16)),
            count: 1,
            name: None,
            spec: task.spec.clone(),
            key: None,
            digest: 0,
            key_made_ms: None,
        };
        EntryBuilder::default().build(state, 1, input, state.time().plus(1), vec![Command::Submit(submit)])
    }

    #[test]
    fn what_an_entry_does_is_found_out_once() {
        let (state, _) = one_fits();
        let draft = drafted_with_a_submit(&state);
        let [Command::Submit(_), Command::CommitPlan(plan)] = &draft.entry.commands[..] else {
            panic!("{:?}", draft.entry)
        };
        assert_eq!(plan.assignments.len(), 2, "the task that arrives starts with the entry that accepts it");
        let effect = draft.effect.expect("it had to be found out for the plan");
        let mut applied = state.clone();
        assert_eq!(draft.entry.carry_out(&mut applied), effect.results);
        assert!(stint_scheduler::same(&applied, &effect.state));
        assert_eq!(applied.running(), 2);
    }

    /// A leader behind whose back the clock was set goes on planning: what it may give out does not depend on the time.
    #[test]
    fn what_fits_a_node_starts_while_the_clock_is_ahead() {
        let (state, node) = one_fits();
        let mut lease_clock = LeaseClock::new(BootMs(0), state.time());
        lease_clock.stamped(state.time(), BootMs(1_000));
        lease_clock.heard(node, Nonce(1), BootMs(1_000));
        let input = TickInput::read(&mut lease_clock, &state, BootMs(1_500), true);
        let wall = state.time().plus(3_600_000);
        let draft = EntryBuilder::default().build(&state, 1, input, wall, Vec::new());
        assert!(draft.ahead_ms.is_some());
        let placed =
            |command: &Command| matches!(command, Command::CommitPlan(plan) if !plan.assignments.is_empty());
        assert!(draft.entry.commands.iter().any(placed), "{:?}", draft.entry);
        assert_eq!(draft.entry.now, state.time().plus(500 + limits::TIME_JUMP_MS), "time does not jump");
    }

    #[test]
    fn only_the_clock_writes_for_time_alone_and_only_while_tasks_wait() {
        let waits = one_waits(TimeMs(1_000_000));
        assert!(drafted(&waits, 60_000, false).entry.commands.is_empty(), "something else woke the leader");
        assert!(drafted(&waits, 500, true).entry.commands.is_empty(), "the clock is right");
        assert!(drafted(&State::default(), 60_000, true).entry.commands.is_empty(), "nothing waits");
    }
}
