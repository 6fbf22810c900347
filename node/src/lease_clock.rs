//! What the leader alone knows, and loses when its term ends: who reported when, and when each lease is over by its own
//! waiting (docs/internals/leases.md#leader-waits-longer and #revoke-first). Pure: times come in.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{BootMs, Class, LeaseId, NodeId, Nonce, TaskId, TaskSpec, TimeMs};
use stint_scheduler::State;

use crate::limits;
use crate::mutations::{Mutation, planted};

/// The leader's clocks for one term.
pub struct LeaseClock {
    /// When this peer's own-term entry was applied: every lease is counted afresh from here.
    since: BootMs,
    /// The state's time then.
    begun: TimeMs,
    heard: BTreeMap<NodeId, (BootMs, Nonce)>,
    over_at: BTreeMap<LeaseId, BootMs>,
    /// Decided to revoke: never renewed again, before the log agrees.
    revoked: BTreeSet<LeaseId>,
    /// The last entry's time and when it was stamped with it: wall and boot clock of one moment.
    stamped: Option<(TimeMs, BootMs)>,
}

/// The times an entry may be stamped with: a leader's clock that is behind does not hold the cluster's time up, one
/// that jumped ahead does not drag it along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StampRange {
    pub earliest: TimeMs,
    /// None before the first entry of a term: how old the entries before it are, nobody can say (an outage, a
    /// restart's replay, a commit that took long).
    pub latest: Option<TimeMs>,
}

/// How long after the last possible renewal a lease may still be held: its length, what two clocks may drift
/// apart over it, and the margin.
fn full_length(state: &State, ttl_ms: u64) -> u64 {
    if planted(Mutation::SkipDriftMargin) {
        return ttl_ms;
    }
    ttl_ms + (ttl_ms * limits::CLOCK_DRIFT_PERCENT).div_ceil(100) + state.margin_beside_drift_ms()
}

/// How long a grant lasts: as the class has it now, and long enough for a task that was accepted when leases were longer
/// and may take longer to stop (docs/internals/leases.md#changed-length).
pub fn length_ms(state: &State, spec: &TaskSpec) -> u64 {
    state.settings().class(spec.class).lease_ttl_ms.max(spec.least_lease_ms())
}

/// How long a lease may be that this leader did not grant itself: an earlier one may have granted it under other settings
/// (docs/internals/leases.md#changed-length).
fn longest_ms(state: &State, spec: &TaskSpec) -> u64 {
    state.longest_lease_ms(spec.class).max(spec.least_lease_ms())
}

/// How long any attempt may still hold a lease that was granted under this state, or soon after it, when nobody renews it
/// any more. Jobs of Slurm count only where there is a task for one: their leases are long.
pub fn longest_wait_ms(state: &State) -> u64 {
    let classes = Class::ALL.into_iter().filter(|class| *class != Class::GpuSlurm);
    let classes = classes.map(|class| state.longest_lease_ms(class));
    let tasks = state.tasks_before(TaskId(u128::MAX)).map(|(_, task)| longest_ms(state, &task.spec));
    full_length(state, classes.chain(tasks).max().unwrap_or(0))
}

fn is_fresh(heard: BootMs, now: BootMs) -> bool {
    now.since(heard) <= limits::CONTACT_MS
}

impl LeaseClock {
    /// A new term, begun at this time of the cluster.
    pub fn new(since: BootMs, begun: TimeMs) -> Self {
        Self {
            since,
            begun,
            heard: BTreeMap::new(),
            over_at: BTreeMap::new(),
            revoked: BTreeSet::new(),
            stamped: planted(Mutation::StampFromOldTerm).then_some((begun, since)),
        }
    }

    /// What an entry may be stamped with now.
    pub fn stamp_range(&self, now: BootMs) -> StampRange {
        match self.stamped {
            Some((time, at)) => {
                let earliest = time.plus(now.since(at));
                StampRange { earliest, latest: Some(earliest.plus(limits::TIME_JUMP_MS)) }
            }
            None => StampRange { earliest: self.begun.plus(now.since(self.since)), latest: None },
        }
    }

    /// An entry was stamped.
    pub fn stamped(&mut self, time: TimeMs, now: BootMs) {
        self.stamped = Some((time, now));
    }

    /// A report came in. Registering counts as contact.
    pub fn heard(&mut self, node: NodeId, nonce: Nonce, now: BootMs) {
        self.heard.insert(node, (now, nonce));
    }

    /// Nodes that may get work: under a new leader none, until it has reported to this one.
    pub fn reachable(&self, now: BootMs) -> BTreeSet<NodeId> {
        self.heard.iter().filter(|(_, (at, _))| is_fresh(*at, now)).map(|(node, _)| *node).collect()
    }

    /// Whether a node reported lately.
    pub fn reaches(&self, node: NodeId, now: BootMs) -> bool {
        self.heard.get(&node).is_some_and(|(at, _)| is_fresh(*at, now))
    }

    /// Whether orders sent now may renew the lease: it is neither over nor being taken back.
    pub fn may_renew(&self, lease: LeaseId, now: BootMs) -> bool {
        let over = self.over_at.get(&lease).is_some_and(|at| *at <= now);
        !(self.revoked.contains(&lease) || over) || planted(Mutation::RenewAfterRevoke)
    }

    /// Whether the lease may be renewed by orders sent now; if so, the leader waits for the whole length anew, from when the
    /// report arrived that they answer: the node counts from when it sent that one.
    pub fn renew(
        &mut self,
        state: &State,
        lease: LeaseId,
        ttl_ms: u64,
        arrived: BootMs,
        now: BootMs,
    ) -> bool {
        if !self.may_renew(lease, now) {
            return false;
        }
        if !self.over_at.contains_key(&lease) && !planted(Mutation::RenewUnseen) {
            self.first_seen(state, lease, now);
        }
        let over = arrived.plus(full_length(state, ttl_ms));
        // Never earlier, also when the length was made shorter: orders that do not arrive leave the node with what it
        // was granted before.
        let at = self.over_at.entry(lease).or_insert(over);
        *at = (*at).max(over);
        true
    }

    /// Leases that ran out. Deciding so stops their renewal at once.
    pub fn expire(&mut self, state: &State, now: BootMs) -> Vec<LeaseId> {
        self.over_at.retain(|lease, _| state.holds(*lease));
        self.revoked.retain(|lease| state.holds(*lease));
        // Only leases that are held are left: as many as there are means the same ones.
        if self.over_at.len() < state.running() {
            state.leases().for_each(|(_, lease)| self.first_seen(state, lease, now));
        }
        let over: Vec<LeaseId> = self.over_at.iter().filter(|(_, at)| **at <= now).map(|(l, _)| *l).collect();
        self.revoked.extend(over.iter().copied());
        over
    }

    /// Looks at a lease that may be new here: it may have been granted at any time up to now.
    fn first_seen(&mut self, state: &State, lease: LeaseId, now: BootMs) {
        let Some(task) = state.task(lease.task) else { return };
        let Some(leased) = task.leased() else { return };
        // What the log has since this term began, no earlier leader granted.
        let ttl_ms = match leased.since > self.begun {
            true => length_ms(state, &task.spec),
            false => longest_ms(state, &task.spec),
        };
        let length = full_length(state, ttl_ms);
        self.over_at.entry(lease).or_insert(now.max(self.since).plus(length));
    }
}

#[cfg(test)]
pub mod tests {
    use stint_protocol::{Class, TaskId};
    use stint_scheduler::Settings;

    use super::*;

    pub const LEASE: LeaseId = LeaseId { task: TaskId(1 << 16), attempt: 1 };

    /// With a second beside the drift over the longest lease, which is that of `gpu_slurm`.
    fn settings() -> Settings {
        let drift_ms = Settings::default().class(Class::GpuSlurm).lease_ttl_ms / 100;
        Settings { lease_margin_ms: 1_000 + drift_ms, ..Settings::default() }
    }

    #[test]
    fn the_leader_waits_longer_than_the_lease() {
        let mut lease_clock = LeaseClock::new(BootMs(0), TimeMs(0));
        assert!(lease_clock.renew(&placed(), LEASE, 10_000, BootMs(50), BootMs(50)));
        assert_eq!(lease_clock.over_at[&LEASE], BootMs(50 + 10_000 + 100 + 1_000));
    }

    /// A task of a lost node waits for its own lease, not for the ten minutes that a job of Slurm has.
    #[test]
    fn the_margin_is_that_of_the_lease_and_not_of_the_longest_one() {
        let state = placed();
        assert_eq!(full_length(&state, 3_000), 3_000 + 30 + 1_000);
        assert_eq!(full_length(&state, 600_000), 600_000 + 6_000 + 1_000);
        let mut settings = settings();
        settings.lease_margin_ms = 0;
        let mut bare = State::default();
        let configure = stint_scheduler::Command::Configure(settings);
        let stamped = stint_scheduler::StampedCommand { now: TimeMs(1), command: configure };
        stint_scheduler::apply(&mut bare, stamped).unwrap();
        assert_eq!(
            full_length(&bare, 3_000),
            3_000 + 30 + 500,
            "the kill takes its time whatever the margin"
        );
    }

    /// A report may be held for long before it is answered, and its node die meanwhile.
    #[test]
    fn a_renewal_is_counted_from_the_report_and_never_makes_a_lease_shorter() {
        let mut lease_clock = LeaseClock::new(BootMs(0), TimeMs(0));
        let state = placed();
        assert!(lease_clock.renew(&state, LEASE, 10_000, BootMs(50), BootMs(1_050)));
        assert_eq!(lease_clock.over_at[&LEASE], BootMs(1_050 + 11_100), "seen for the first time");
        assert!(lease_clock.renew(&state, LEASE, 10_000, BootMs(1_060), BootMs(2_060)));
        assert_eq!(lease_clock.over_at[&LEASE], BootMs(1_060 + 11_100));
        assert!(lease_clock.renew(&state, LEASE, 10_000, BootMs(1_000), BootMs(2_070)));
        assert_eq!(lease_clock.over_at[&LEASE], BootMs(1_060 + 11_100));
    }

    #[test]
    fn a_lease_that_is_over_or_revoked_is_never_renewed() {
        let mut lease_clock = LeaseClock::new(BootMs(0), TimeMs(0));
        lease_clock.renew(&placed(), LEASE, 10_000, BootMs(0), BootMs(0));
        assert!(!lease_clock.renew(&placed(), LEASE, 10_000, BootMs(11_100), BootMs(11_100)));
        lease_clock.revoked.insert(LEASE);
        assert!(!lease_clock.renew(&placed(), LEASE, 10_000, BootMs(5), BootMs(5)));
    }

    #[test]
    fn time_goes_on_with_boot_time_and_may_jump_a_second_beyond_it() {
        let mut lease_clock = LeaseClock::new(BootMs(50_000), TimeMs(900_000));
        let range = lease_clock.stamp_range(BootMs(60_000));
        assert_eq!(range, StampRange { earliest: TimeMs(910_000), latest: None });
        lease_clock.stamped(TimeMs(1_000_000), BootMs(60_000));
        let range = lease_clock.stamp_range(BootMs(67_000));
        assert_eq!(range, StampRange { earliest: TimeMs(1_007_000), latest: Some(TimeMs(1_008_000)) });
    }

    #[test]
    fn silent_nodes_get_nothing() {
        let mut lease_clock = LeaseClock::new(BootMs(0), TimeMs(0));
        lease_clock.heard(NodeId(1), Nonce(1), BootMs(1_000));
        assert!(lease_clock.reachable(BootMs(1_000 + limits::CONTACT_MS)).contains(&NodeId(1)));
        assert!(lease_clock.reachable(BootMs(1_001 + limits::CONTACT_MS)).is_empty());
    }

    /// A state in which node 1 holds `LEASE`.
    pub fn placed() -> State {
        use stint_protocol::*;
        use stint_scheduler::*;
        let mut state = State::default();
        let mut run = |command| apply(&mut state, StampedCommand { now: TimeMs(1), command }).unwrap();
        run(Command::Configure(settings()));
        let (name, address) = ("a".into(), "a:1".into());
        run(Command::Admit(Admit { disk: [1; 16], name, address, token: None, speaks: version::CURRENT }));
        let offer = NodeOffer {
            resources: Resources { cpu_milli: 4_000, memory_bytes: 8 << 30 },
            runtimes: vec![Runtime::Process],
            classes: vec![Class::CpuShort],
            slots: 4,
            ..NodeOffer::default()
        };
        let (node, incarnation, nonce) = (NodeId(1), Incarnation(1), Nonce(1));
        run(Command::RegisterNode(RegisterNode { node, incarnation, nonce, offer, problems: vec![] }));
        let spec = TaskSpec::new(Class::CpuShort, vec!["true".into()]);
        let spec = SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap());
        let tenant = Tenant::default_tenant();
        let submit = Submit {
            tenant,
            first: LEASE.task,
            count: 1,
            name: None,
            spec,
            key: None,
            digest: 0,
            key_made_ms: None,
        };
        run(Command::Submit(submit));
        let made = plan(&state, &PlanInput { reachable: [node].into() });
        apply(&mut state, StampedCommand { now: TimeMs(1), command: Command::CommitPlan(made) }).unwrap();
        state
    }

    /// The lease may have been granted before it became shorter.
    #[test]
    fn a_new_leader_waits_as_long_as_a_lease_ever_was() {
        use stint_scheduler::{
            ChangedBy, ClassSetting, Command, Setting, StampedCommand, UpdateSettings, apply,
        };
        let mut state = placed();
        let before = full_length(&state, 10_000);
        let to = vec![Setting::Class(Class::CpuShort, ClassSetting::LeaseTtlMs(4_000))];
        let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NodeId(1) };
        let command = Command::UpdateSettings(UpdateSettings { to, if_revision: None, by });
        apply(&mut state, StampedCommand { now: TimeMs(2), command }).unwrap();
        // Counted from when this leader began, and no renewal with the new length makes it shorter: neither one before the
        // leader first looked at its leases, nor one after it.
        for looks_first in [false, true] {
            let mut lease_clock = LeaseClock::new(BootMs(500), TimeMs(1));
            if looks_first {
                assert!(lease_clock.expire(&state, BootMs(500)).is_empty());
            }
            assert!(lease_clock.renew(&state, LEASE, 4_000, BootMs(500), BootMs(500)));
            assert!(lease_clock.expire(&state, BootMs(500 + before - 1)).is_empty());
            assert_eq!(lease_clock.expire(&state, BootMs(500 + before)), vec![LEASE]);
        }
        // No other leader can have granted what the log has only since this one began.
        let mut lease_clock = LeaseClock::new(BootMs(500), TimeMs(0));
        assert!(lease_clock.renew(&state, LEASE, 4_000, BootMs(500), BootMs(500)));
        let short = full_length(&state, 4_000);
        assert_eq!(lease_clock.expire(&state, BootMs(500 + short)), vec![LEASE]);
    }

    #[test]
    fn a_new_leader_counts_leases_afresh() {
        let state = placed();
        let ttl = settings().class(Class::CpuShort).lease_ttl_ms;
        let mut lease_clock = LeaseClock::new(BootMs(500), TimeMs(1));
        assert!(lease_clock.expire(&state, BootMs(500)).is_empty());
        let length = full_length(&state, ttl);
        assert!(lease_clock.expire(&state, BootMs(500 + length - 1)).is_empty());
        assert_eq!(lease_clock.expire(&state, BootMs(500 + length)), vec![LEASE]);
        assert!(!lease_clock.renew(&placed(), LEASE, ttl, BootMs(500 + length), BootMs(500 + length)));
    }
}
