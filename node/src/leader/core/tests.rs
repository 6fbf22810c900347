//! Sequences of events at a leader, and what it does at each.

use stint_protocol::{Digest, LeaseId, NodeId, NodeOffer, Nonce, Resources, TaskId, Tenant};
use stint_scheduler::{PlanInput, Planner, RegisterNode, StampedCommand, Submit, apply};

use super::*;
use crate::leadership::RaftRole;
use crate::lease_clock::tests::{LEASE, placed};

const LEADS: RaftRole = RaftRole { leads: true, term: 3, applied_term: 3 };

/// A peer whose waiters are names.
struct Peer {
    core: LeaderCore<&'static str>,
    standing: RaftRole,
    state: State,
    index: u64,
    boot: u64,
    wall: TimeMs,
}

impl Peer {
    /// It leads a cluster in which the only node holds a lease.
    fn leading() -> Self {
        let state = placed();
        let wall = state.time().plus(1_000);
        Self { core: LeaderCore::default(), standing: LEADS, state, index: 9, boot: 5_000, wall }
    }

    /// So much later by both clocks.
    fn later(&mut self, ms: u64) {
        self.boot += ms;
        self.wall = self.wall.plus(ms);
    }

    fn on<R>(&mut self, act: impl FnOnce(&mut LeaderCore<&'static str>, &PeerView<'_>) -> R) -> R {
        let (standing, index, now) = (self.standing, self.index, BootMs(self.boot));
        act(&mut self.core, &PeerView { role: standing, state: &self.state, index, now })
    }

    fn propose(&mut self, who: &'static str, commands: Vec<Command>) {
        assert_eq!(self.core.propose(Proposal::new(commands, who)), Ok(()));
    }

    /// Who is told what, and what is written.
    fn turn(&mut self, tick: bool) -> (Answers<&'static str>, Option<LogEntry>) {
        let wall = self.wall;
        self.on(|core, view| {
            let Turn { answers, drafting } = core.turn(view, tick);
            let drafted = drafting.map(|drafting| drafting.draft(view.state, view.index, wall));
            (answers, drafted.and_then(|drafted| core.built(drafted)).map(|(entry, _)| entry))
        })
    }

    fn entry(&mut self, tick: bool) -> LogEntry {
        let (answers, entry) = self.turn(tick);
        assert!(answers.is_empty(), "{answers:?}");
        entry.unwrap_or_else(|| panic!("nothing is written"))
    }

    /// The entry is committed and applied here.
    fn commit(&mut self, entry: LogEntry) -> Answers<&'static str> {
        let state = &mut self.state;
        let one = |command| apply(state, StampedCommand { now: entry.now, command });
        let results: Results = entry.commands.into_iter().map(one).collect();
        self.index += 1;
        self.written(Ok(results))
    }

    fn written(&mut self, result: ProposalResult) -> Answers<&'static str> {
        self.on(|core, view| core.written(result, view))
    }

    fn is_at_rest(&mut self) -> bool {
        let (answers, entry) = self.turn(false);
        answers.is_empty() && entry.is_none()
    }
}

fn cancel(task: u128) -> Command {
    Command::Cancel(TaskId(task))
}

fn answered(answers: &Answers<&'static str>) -> Vec<&'static str> {
    answers.iter().map(|(who, _)| *who).collect()
}

#[test]
fn what_arrives_while_an_entry_is_written_shares_the_next_one() {
    let mut peer = Peer::leading();
    peer.propose("first", vec![cancel(1)]);
    let first = peer.entry(false);
    assert_eq!(first.commands, [cancel(1)]);
    peer.propose("second", vec![cancel(2), cancel(LEASE.task.0)]);
    peer.propose("third", vec![cancel(3)]);
    assert!(peer.is_at_rest(), "one entry at a time");
    assert_eq!(answered(&peer.commit(first)), ["first"]);

    let next = peer.entry(false);
    assert_eq!(next.commands, [cancel(2), cancel(LEASE.task.0), cancel(3)]);
    let answers = peer.commit(next);
    let [("second", Ok(second)), ("third", Ok(third))] = &answers[..] else { panic!("{answers:?}") };
    assert!(matches!(second[..], [Err(_), Ok(_)]), "each its own results, in order: {second:?}");
    assert!(matches!(third[..], [Err(_)]), "{third:?}");
    assert!(peer.is_at_rest());
}

#[test]
fn who_does_not_lead_or_has_applied_no_entry_of_its_term_refuses_all() {
    let outside = [RaftRole { leads: false, ..LEADS }, RaftRole { applied_term: 2, ..LEADS }];
    for standing in outside {
        let mut peer = Peer::leading();
        peer.standing = standing;
        peer.propose("one", vec![cancel(1); limits::BATCH_COMMANDS]);
        peer.propose("other", vec![cancel(2)]);
        let (answers, entry) = peer.turn(true);
        assert_eq!(
            answers,
            [("one", Err(ProposalError::NotLeader)), ("other", Err(ProposalError::NotLeader))]
        );
        assert!(entry.is_none(), "{standing:?}");
    }
}

#[test]
fn an_entry_has_bounds_in_commands_and_in_bytes() {
    let many: Vec<Command> = (0..limits::BATCH_COMMANDS as u128).map(cancel).collect();
    let large = Command::ExpireLeases(vec![LeaseId { task: TaskId(1 << 100), attempt: 1 }; 20_000]);
    let bytes = encoded_bytes(&large);
    assert_eq!(bytes, crate::wire::encode(&large).len());
    assert!(bytes < limits::BATCH_BYTES && 2 * bytes > limits::BATCH_BYTES, "{bytes}");
    for (first, second) in [(many, vec![cancel(1)]), (vec![large.clone()], vec![large])] {
        let mut peer = Peer::leading();
        peer.propose("first", first.clone());
        peer.propose("second", second.clone());
        let entry = peer.entry(false);
        assert_eq!(entry.commands.len(), first.len());
        assert_eq!(answered(&peer.commit(entry)), ["first"]);
        assert_eq!(peer.entry(false).commands, second, "the rest goes with the next entry");
    }
}

#[test]
fn a_proposal_beyond_the_bounds_has_an_entry_of_its_own() {
    let mut peer = Peer::leading();
    peer.propose("huge", vec![cancel(1); limits::BATCH_COMMANDS + 1]);
    peer.propose("small", vec![cancel(2)]);
    assert_eq!(peer.entry(false).commands.len(), limits::BATCH_COMMANDS + 1);
}

#[test]
fn a_proposal_that_no_entry_can_hold_is_refused_and_holds_up_nobody() {
    let mut peer = Peer::leading();
    peer.propose(
        "huge",
        vec![Command::ExpireLeases(vec![LeaseId { task: TaskId(1 << 100), attempt: 1 }; 40_000])],
    );
    peer.propose("small", vec![cancel(2)]);
    let (answers, entry) = peer.turn(false);
    assert!(matches!(answers[..], [("huge", Err(ProposalError::TooLarge { .. }))]), "{answers:?}");
    assert_eq!(entry.map(|entry| entry.commands), Some(vec![cancel(2)]));
}

/// A node with as many tasks as run there at once, which all ran out.
fn crowded(tasks: u32) -> Peer {
    let mut peer = Peer::leading();
    let known = peer.state.node(NodeId(1)).unwrap_or_else(|| panic!("a node leads")).clone();
    let offer = NodeOffer {
        slots: tasks + 1,
        resources: Resources { cpu_milli: u64::MAX, memory_bytes: u64::MAX },
        ..known.offer.clone()
    };
    let (node, incarnation, nonce) = (known.id, known.incarnation, known.nonce);
    let register = RegisterNode { node, incarnation, nonce, offer, problems: Vec::new() };
    let mut commands = vec![Command::RegisterNode(register)];
    let leased = peer.state.spec(LEASE.task).unwrap_or_else(|| panic!("a task runs"));
    for submit in 0..tasks.div_ceil(1_000) {
        commands.push(Command::Submit(Submit {
            tenant: Tenant::default_tenant(),
            first: TaskId(u128::from(submit + 2) << 16),
            count: 1_000.min(tasks),
            name: None,
            spec: leased.clone(),
            key: None,
            digest: 0,
            key_made_ms: None,
        }));
    }
    let mut planner = Planner::default();
    let now = peer.state.time();
    let run = |state: &mut State, command| {
        apply(state, StampedCommand { now, command }).unwrap_or_else(|why| panic!("{why}"));
    };
    commands.into_iter().for_each(|command| run(&mut peer.state, command));
    loop {
        let plan = planner.plan(&peer.state, &PlanInput { reachable: [node].into() });
        if plan.assignments.is_empty() {
            return peer;
        }
        run(&mut peer.state, Command::CommitPlan(plan));
    }
}

#[test]
fn leases_that_run_out_together_all_end_and_no_entry_is_larger_than_the_log_takes() {
    let mut peer = crowded(60_000);
    let running = peer.state.running();
    assert!(running > 60_000 - 1_000, "{running} run");
    // The first tick of a term counts all leases from then on.
    let (_, none) = peer.turn(true);
    assert!(none.is_none_or(|entry| !entry.commands.iter().any(|c| matches!(c, Command::ExpireLeases(_)))));
    peer.later(600_000);
    let mut entries = 0;
    let mut tick = true;
    while peer.state.running() > 0 {
        // As many commands beside them as fit.
        peer.propose("beside", vec![cancel(7); limits::BATCH_COMMANDS]);
        let entry = peer.entry(tick);
        let bytes = crate::wire::encode(&entry).len();
        assert!(bytes <= limits::ENTRY_BYTES, "{bytes} bytes");
        peer.commit(entry);
        entries += 1;
        tick = false;
        assert!(
            entries <= running / limits::EXPIRED_PER_ENTRY + 2,
            "without waiting for the clock's next tick"
        );
    }
}

#[test]
fn the_largest_parts_of_an_entry_together_are_no_larger_than_the_log_takes() {
    let lease = LeaseId { task: TaskId(u128::MAX), attempt: u32::MAX };
    let ended = Command::ExpireLeases(vec![lease; limits::EXPIRED_PER_ENTRY]);
    let mut peer = crowded(8_000);
    let leases: Vec<LeaseId> = peer.state.leases().map(|(_, lease)| lease).collect();
    let now = peer.state.time();
    apply(&mut peer.state, StampedCommand { now, command: Command::ExpireLeases(leases) })
        .unwrap_or_else(|why| panic!("{why}"));
    let input = PlanInput { reachable: [NodeId(1)].into() };
    let plan = Planner::default().plan(&peer.state, &input);
    assert!(plan.assignments.len() > 2_000, "a full plan: {}", plan.assignments.len());
    let bytes =
        limits::BATCH_BYTES + encoded_bytes(&ended) + encoded_bytes(&Command::CommitPlan(plan)) + 1_024;
    assert!(bytes <= limits::ENTRY_BYTES, "{bytes}");
}

#[test]
fn a_full_queue_takes_nothing() {
    let mut peer = Peer::leading();
    for _ in 0..limits::PROPOSALS {
        peer.propose("taken", vec![cancel(1)]);
    }
    assert_eq!(peer.core.propose(Proposal::new(vec![cancel(1)], "pushed back")), Err("pushed back"));
    assert_eq!(peer.core.queued(), limits::PROPOSALS);
}

#[test]
fn what_the_cluster_does_not_speak_is_refused_and_the_rest_goes_on() {
    let mut peer = Peer::leading();
    peer.state = State::default();
    let newer = Command::LoseBlobs { node: NodeId(1), blobs: vec![Digest::from_bytes([1; 32])] };
    assert!(newer.needs() > peer.state.version());
    peer.propose("newer", vec![newer]);
    peer.propose("known", vec![cancel(1)]);
    let (answers, entry) = peer.turn(false);
    assert!(matches!(answers[..], [("newer", Err(ProposalError::Refused(_)))]), "{answers:?}");
    assert!(entry.is_some_and(|entry| entry.commands.contains(&cancel(1))));
}

#[test]
fn an_entry_of_which_nobody_knows_is_planned_again() {
    let mut peer = Peer::leading();
    let ended = Command::ExpireLeases(vec![LEASE]);
    apply(&mut peer.state, StampedCommand { now: TimeMs(2), command: ended }).unwrap();
    peer.later(600_000);
    // Its pause before the next attempt is over in the state: nothing becomes due with the next entry.
    apply(&mut peer.state, StampedCommand { now: peer.wall, command: Command::Tick }).unwrap();
    peer.on(|core, view| core.leadership(view).unwrap().lease_clock.heard(NodeId(1), Nonce(1), view.now));
    let plans = |entry: &LogEntry| matches!(entry.commands[..], [Command::CommitPlan(_)]);
    assert!(plans(&peer.entry(false)), "the task waits again");
    let unknown = ProposalError::Unknown("no reply".into());
    assert!(peer.written(Err(unknown)).is_empty());
    assert!(plans(&peer.entry(false)), "the same state, planned anew");
    peer.written(Ok(vec![Ok(Vec::new())]));
    assert!(peer.is_at_rest(), "nothing is new since the last plan");
}

#[test]
fn who_waits_for_an_entry_of_which_nobody_knows_is_told_so() {
    for why in [ProposalError::Unknown("no reply".into()), ProposalError::NotLeader, ProposalError::Full] {
        let mut peer = Peer::leading();
        peer.propose("asks", vec![cancel(1)]);
        peer.entry(false);
        assert_eq!(peer.written(Err(why.clone())), [("asks", Err(why))]);
        assert!(peer.is_at_rest(), "it is proposed once");
    }
}

#[test]
fn only_what_became_an_entry_carries_time_ahead() {
    let mut peer = Peer::leading();
    peer.propose("asks", vec![cancel(1)]);
    let first = peer.entry(false);
    let stamped = first.now;
    peer.commit(first);
    peer.wall = peer.wall.plus(60_000);
    for _ in 0..3 {
        peer.propose("asks", vec![cancel(1)]);
        let refused = peer.entry(false);
        assert_eq!(refused.now, stamped.plus(limits::TIME_JUMP_MS));
        assert!(peer.core.ahead_ms().is_some());
        peer.written(Err(ProposalError::Full));
    }
    peer.propose("asks", vec![cancel(1)]);
    let second = peer.entry(false);
    peer.commit(second);
    peer.propose("asks", vec![cancel(1)]);
    assert_eq!(peer.entry(false).now, stamped.plus(2 * limits::TIME_JUMP_MS), "an entry later");
}

#[test]
fn the_alarm_ends_when_the_wall_clock_is_right_again() {
    let mut peer = Peer::leading();
    peer.propose("asks", vec![cancel(1)]);
    let first = peer.entry(false);
    peer.commit(first);
    let right = peer.wall;
    peer.wall = right.plus(60_000);
    peer.turn(true);
    assert_eq!(peer.core.ahead_ms(), Some(60_000 - limits::TIME_JUMP_MS));
    peer.wall = right;
    peer.turn(true);
    assert_eq!(peer.core.ahead_ms(), None);
}

#[test]
fn a_leader_whose_clock_was_set_hands_over_and_its_successor_does_not() {
    for step in [3_600_000_i64, -3_600_000] {
        let mut peer = Peer::leading();
        peer.wall = TimeMs(1_790_000_000_000);
        peer.turn(true);
        peer.later(200);
        peer.turn(true);
        assert!(!peer.on(|core, view| core.hands_over(view)));
        peer.wall = TimeMs(peer.wall.0.saturating_add_signed(step));
        peer.later(200);
        peer.turn(true);
        assert!(peer.core.clock_step_ms().is_some());
        assert!(peer.on(|core, view| core.hands_over(view)));
        assert!(!peer.on(|core, view| core.hands_over(view)), "one try at a time");
        // The clock of the next leader is what it is: it was not set in its term.
        peer.standing = RaftRole { leads: true, term: 4, applied_term: 4 };
        peer.turn(true);
        peer.later(limits::HAND_OVER_PAUSE_MS);
        peer.turn(true);
        assert!(!peer.on(|core, view| core.hands_over(view)));
    }
}

#[test]
fn a_lease_that_ran_out_is_taken_back_at_a_tick() {
    let mut peer = Peer::leading();
    assert!(peer.turn(true).1.is_none(), "the lease is counted from now");
    peer.later(3_600_000);
    assert!(peer.is_at_rest(), "only the clock looks for it");
    assert_eq!(peer.entry(true).commands[..1], [Command::ExpireLeases(vec![LEASE])]);
}

#[test]
fn an_entry_confirms_the_leader_only_when_it_is_applied() {
    for (applied, confirmed) in [(true, true), (false, false)] {
        let mut peer = Peer::leading();
        let before = peer.core.ticket();
        peer.propose("asks", vec![cancel(1)]);
        let entry = peer.entry(false);
        let after = peer.core.ticket();
        if applied {
            peer.commit(entry)
        } else {
            peer.written(Err(ProposalError::Full))
        };
        assert_eq!(peer.core.confirm(before, None) == Confirmation::Given, confirmed);
        assert_ne!(peer.core.confirm(after, None), Confirmation::Given, "it was proposed before");
    }
}

#[test]
fn each_term_begins_without_receipt_times() {
    let mut peer = Peer::leading();
    peer.on(|core, view| core.leadership(view).unwrap().lease_clock.heard(NodeId(1), Nonce(1), view.now));
    peer.standing = RaftRole { leads: true, term: 4, applied_term: 4 };
    peer.on(|core, view| {
        let leadership = core.leadership(view).unwrap();
        assert_eq!((leadership.term, leadership.lease_clock.reaches(NodeId(1), view.now)), (4, false));
    });
}

#[test]
fn a_closed_leader_gives_back_all_who_wait_and_takes_nobody() {
    let mut peer = Peer::leading();
    peer.propose("written", vec![cancel(1)]);
    let entry = peer.entry(false);
    peer.propose("queued", vec![cancel(2)]);
    assert_eq!(peer.core.stop(), ["written", "queued"]);
    assert!(peer.commit(entry).is_empty());
    assert_eq!(peer.core.propose(Proposal::new(vec![cancel(3)], "late")), Err("late"));
    assert!(peer.is_at_rest());
}
