//! Sequences of events while a report is answered, and what is done at each.

use stint_protocol::{
    AttemptEnd, BootMs, EndKind, Incarnation, LeaseId, NodeId, NodeOffer, Nonce, TaskId, TimeMs,
};
use stint_scheduler::{RegisterNode, Settings, StampedCommand, apply};

use super::*;
use crate::leader::core::{Proposal, ProposalError, Turn};
use crate::leadership::RaftRole;
use crate::lease_clock::tests::{LEASE, placed};

const NODE: NodeId = NodeId(1);
const LEADS: RaftRole = RaftRole { leads: true, term: 3, applied_term: 3 };

struct Peer {
    core: LeaderCore<()>,
    standing: RaftRole,
    state: State,
    now: BootMs,
}

impl Peer {
    /// It leads a cluster in which the only node holds `LEASE`.
    fn leading() -> Self {
        let mut state = placed();
        let offer = state.node(NODE).unwrap().offer.clone();
        let said_all = NodeOffer { allows: Some(Vec::new()), rules: Some(Box::default()), ..offer };
        let now = state.time();
        apply(&mut state, StampedCommand { now, command: register(Nonce(1), said_all) }).unwrap();
        Self { core: LeaderCore::default(), standing: LEADS, state, now: BootMs(5_000) }
    }

    fn on<R>(&mut self, act: impl FnOnce(&mut LeaderCore<()>, &PeerView<'_>) -> R) -> R {
        let view = PeerView { role: self.standing, state: &self.state, index: 9, now: self.now };
        act(&mut self.core, &view)
    }

    fn begin(&mut self, report: Report) -> (ReportSession, Step) {
        self.on(|core, view| ReportSession::begin(report, core, view))
    }

    /// Up to where it is held or records ends; the node was heard of before.
    fn begin_known(&mut self, report: Report) -> (ReportSession, Step) {
        self.on(|core, view| {
            core.leadership(view).unwrap().lease_clock.heard(report.node, report.nonce, view.now);
        });
        self.begin(report)
    }

    fn confirm(&mut self, session: &mut ReportSession) -> Step {
        self.on(|core, view| session.confirm(core, view))
    }

    /// Puts commands into the log, as the leader's loop does.
    fn commit(&mut self, commands: Vec<Command>) -> ProposalResult {
        self.core.propose(Proposal::new(commands, ())).unwrap();
        let wall = self.state.time().plus(1);
        let entry = self.on(|core, view| {
            let Turn { drafting, .. } = core.turn(view, false);
            core.built(drafting.unwrap().draft(view.state, view.index, wall)).unwrap().0
        });
        let one = |command| apply(&mut self.state, StampedCommand { now: entry.now, command });
        let results = entry.commands.into_iter().map(one).collect();
        self.on(|core, view| core.written(Ok(results), view)).remove(0).1
    }

    fn reaches(&mut self, node: NodeId) -> bool {
        self.on(|core, view| core.leadership(view).unwrap().lease_clock.reaches(node, view.now))
    }
}

/// What the node's registered process says while it runs `LEASE`.
fn report() -> Report {
    Report {
        node: NODE,
        incarnation: Incarnation(1),
        nonce: Nonce(1),
        sequence: 1,
        sent: BootMs(10),
        register: None,
        running: vec![(LEASE, false)],
        ends: Vec::new(),
        hold_ms: 60_000,
        not_begun: None,
    }
}

fn register(nonce: Nonce, offer: NodeOffer) -> Command {
    let (node, incarnation) = (NODE, Incarnation(1));
    Command::RegisterNode(RegisterNode { node, incarnation, nonce, offer, problems: Vec::new() })
}

fn registers(nonce: Nonce) -> Report {
    let Command::RegisterNode(register) = register(nonce, NodeOffer::default()) else { unreachable!() };
    Report { nonce, register: Some(register), ..report() }
}

fn ended() -> Report {
    let end = AttemptEnd::new(LEASE, EndKind::Exited(0), String::new(), 5);
    Report { running: Vec::new(), ends: vec![end], ..report() }
}

fn question(step: Step) -> Ticket {
    match step {
        Step::AskQuorum(question) => question,
        other => panic!("{other:?}"),
    }
}

fn orders(step: Step) -> crate::wire::Orders {
    match step {
        Step::Answer(ReportAnswer::Orders(orders)) => orders,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_report_without_news_is_held_and_then_renews_once_a_quorum_confirmed() {
    let mut peer = Peer::leading();
    let (mut session, step) = peer.begin_known(report());
    assert!(matches!(step, Step::Hold) && session.is_parked());
    assert_eq!(session.hold_ms(), limits::REPORT_HOLD.as_millis() as u64, "not for as long as it asks");
    assert!(peer.on(|core, view| session.check_news(core, view)).is_none());

    let asked = question(peer.confirm(&mut session));
    assert!(session.awaits_quorum());
    peer.core.quorum().answered(asked, true);
    let orders = orders(peer.confirm(&mut session));
    assert_eq!((orders.term, orders.answers, orders.grants.len()), (3, 1, 1));
    assert_eq!(orders.grants[0].lease, LEASE);
}

#[test]
fn news_ends_the_hold() {
    let mut peer = Peer::leading();
    let (mut session, _) = peer.begin_known(report());
    let (now, command) = (peer.state.time(), Command::Cancel(LEASE.task));
    apply(&mut peer.state, StampedCommand { now, command }).unwrap();
    let step = peer.on(|core, view| session.check_news(core, view));
    question(step.unwrap_or_else(|| panic!("it is to be stopped")));
}

#[test]
fn who_registers_counts_as_heard_of_only_when_that_is_in_the_log() {
    let mut peer = Peer::leading();
    let (mut session, step) = peer.begin(registers(Nonce(2)));
    let Step::Propose(commands) = step else { panic!("{step:?}") };
    assert!(matches!(commands[..], [Command::RegisterNode(_)]));
    assert!(!peer.reaches(NODE));
    let fate = peer.commit(commands);
    let step = peer.on(|core, view| session.proposed(fate, core, view));
    assert!(matches!(step, Step::Plan), "it can be given work: {step:?}");
    assert!(peer.reaches(NODE));
    let step = peer.on(|_, view| session.next_step(view));
    assert!(matches!(step, Step::Hold), "{step:?}");
}

#[test]
fn a_refused_registration_is_told() {
    let mut peer = Peer::leading();
    let (mut session, step) = peer.begin(registers(Nonce(2)));
    assert!(matches!(step, Step::Propose(_)));
    let cancel = Command::Cancel(TaskId(77));
    let refused = apply(&mut peer.state.clone(), StampedCommand { now: peer.state.time(), command: cancel });
    let step = peer.on(|core, view| session.proposed(Ok(vec![refused]), core, view));
    assert!(matches!(step, Step::Answer(ReportAnswer::Stale(_))), "{step:?}");
    assert!(!peer.reaches(NODE));
}

#[test]
fn an_unknown_process_is_asked_to_register_and_is_not_heard_of() {
    let mut peer = Peer::leading();
    let (_, step) = peer.begin(Report { nonce: Nonce(9), ..report() });
    assert!(matches!(step, Step::Answer(ReportAnswer::Register)), "{step:?}");
    assert!(!peer.reaches(NODE));
}

#[test]
fn ends_go_into_the_log_and_their_entry_confirms_the_leader() {
    let mut peer = Peer::leading();
    let (mut session, step) = peer.begin_known(ended());
    let Step::Propose(commands) = step else { panic!("{step:?}") };
    assert!(matches!(&commands[..], [Command::RecordEnds { node: NODE, ends }] if ends.len() == 1));
    let fate = peer.commit(commands);
    let orders = orders(peer.on(|core, view| session.proposed(fate, core, view)));
    assert_eq!((orders.recorded, orders.grants.len()), (vec![LEASE], 0));
}

#[test]
fn an_entry_that_was_proposed_before_the_report_arrived_confirms_nothing() {
    let mut peer = Peer::leading();
    peer.core.propose(Proposal::new(vec![Command::Cancel(TaskId(77))], ())).unwrap();
    let wall = peer.state.time();
    let writes = peer.on(|core, view| {
        let Turn { drafting, .. } = core.turn(view, false);
        core.built(drafting.unwrap().draft(view.state, view.index, wall)).is_some()
    });
    let (mut session, _) = peer.begin_known(report());
    peer.on(|core, view| core.written(Ok(Vec::new()), view));
    assert!(writes);
    question(peer.confirm(&mut session));
}

#[test]
fn nothing_is_recorded_or_renewed_when_the_fate_of_the_ends_is_not_known() {
    for why in [ProposalError::NotLeader, ProposalError::Full, ProposalError::Unknown("no reply".into())] {
        let mut peer = Peer::leading();
        let (mut session, _) = peer.begin_known(ended());
        let step = peer.on(|core, view| session.proposed(Err(why), core, view));
        assert!(matches!(step, Step::NotLeader), "{step:?}");
    }
}

#[test]
fn without_leadership_a_report_is_sent_on_at_every_stage() {
    let lost = RaftRole { leads: false, ..LEADS };
    let not_leader = |step: Step| assert!(matches!(step, Step::NotLeader), "{step:?}");
    let mut peer = Peer::leading();

    peer.standing = lost;
    not_leader(peer.begin(report()).1);

    peer.standing = LEADS;
    let (mut session, _) = peer.begin(registers(Nonce(2)));
    peer.standing = lost;
    not_leader(peer.on(|core, view| session.proposed(Ok(vec![Ok(Vec::new())]), core, view)));

    peer.standing = LEADS;
    let (mut session, _) = peer.begin_known(report());
    peer.standing = lost;
    let asked = question(peer.on(|core, view| session.check_news(core, view)).unwrap());
    peer.core.quorum().answered(asked, true);
    not_leader(peer.confirm(&mut session));
}

#[test]
fn a_quorum_that_does_not_answer_renews_nothing_for_all_who_wait() {
    let mut peer = Peer::leading();
    let (mut first, _) = peer.begin_known(report());
    let (mut second, _) = peer.begin_known(report());
    let asked = question(peer.confirm(&mut first));
    assert!(matches!(peer.confirm(&mut second), Step::AwaitQuorum(same) if same == asked));
    peer.core.quorum().answered(asked, false);
    for session in [&mut first, &mut second] {
        assert!(matches!(peer.confirm(session), Step::NotLeader));
    }
}

#[test]
fn a_report_that_arrives_while_the_quorum_is_asked_has_it_asked_again() {
    let mut peer = Peer::leading();
    let (mut early, _) = peer.begin_known(report());
    let asked = question(peer.confirm(&mut early));
    let (mut late, _) = peer.begin_known(report());
    assert!(matches!(peer.confirm(&mut late), Step::AwaitQuorum(same) if same == asked));
    peer.core.quorum().answered(asked, true);
    orders(peer.confirm(&mut early));
    assert!(question(peer.confirm(&mut late)) > asked, "the first answer may be older than the report");
}

#[test]
fn a_lease_that_ran_out_is_not_renewed_though_the_node_holds_it() {
    let mut peer = Peer::leading();
    let other = LeaseId { task: TaskId(77), attempt: 1 };
    let (mut session, _) =
        peer.begin_known(Report { running: vec![(LEASE, false), (other, false)], ..report() });
    peer.on(|core, view| core.leadership(view).unwrap().lease_clock.expire(view.state, view.now));
    peer.now = BootMs(peer.now.0 + 3_600_000);
    peer.on(|core, view| core.leadership(view).unwrap().lease_clock.expire(view.state, view.now));
    let asked = question(peer.confirm(&mut session));
    peer.core.quorum().answered(asked, true);
    assert!(orders(peer.confirm(&mut session)).grants.is_empty());
}

/// A node without a lease does not know how short they are; the leader does.
#[test]
fn a_report_is_held_no_longer_than_short_leases_allow() {
    let holds = |ttl_ms: u64| {
        let mut settings = Settings::default();
        settings.classes.iter_mut().for_each(|rules| rules.lease_ttl_ms = ttl_ms.max(rules.lease_ttl_ms));
        settings.classes[0].lease_ttl_ms = ttl_ms;
        let mut state = State::default();
        let command = Command::Configure(settings);
        apply(&mut state, StampedCommand { now: TimeMs(1_000), command }).unwrap();
        longest_hold_ms(&state)
    };
    assert_eq!(holds(60_000), limits::REPORT_HOLD.as_millis() as u64);
    assert_eq!(holds(4_000), (2_000 - 500) / 3);
    assert_eq!(holds(1_000), limits::LEAST_HOLD_MS);
}
