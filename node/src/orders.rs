//! Orders out of the applied state: who reports, whether there is news for it, and what it is told. Pure: the
//! leader's side of reports and the fast simulation run the same code.

use stint_protocol::{AttemptEnd, BootMs, EndKind, GpuId, GpuInfo, LeaseId, Runtime, version};
use stint_scheduler::{Command, Leased, Node, RegisterNode, State, Task};

use crate::leadership::Leadership;
use crate::lease_clock::{LeaseClock, length_ms};
use crate::limits;
use crate::mutations::{Mutation, planted};
use crate::wire::{Grant, Launching, Orders, Report, ReportAnswer};

/// What has to be done before a report counts as contact.
#[derive(Debug)]
pub enum Reporter {
    /// The process that is registered.
    Known,
    /// It says who it is: put this into the log first.
    Registers(Command),
    /// It is told this, and nothing else happens.
    Turned(ReportAnswer),
}

/// Checks who reports.
pub fn reporter(state: &State, report: &Report) -> Reporter {
    let stale = |why: &str| Reporter::Turned(ReportAnswer::Stale(why.into()));
    let Some(node) = state.node(report.node) else {
        return stale("this node is not a member of the cluster any more");
    };
    if report.incarnation < node.incarnation {
        return stale("a newer incarnation of this node is registered");
    }
    match &report.register {
        Some(register) => Reporter::Registers(Command::RegisterNode(in_cluster_version(state, register))),
        None if node.nonce != report.nonce || node.incarnation != report.incarnation => {
            Reporter::Turned(ReportAnswer::Register)
        }
        None if has_more_to_offer(state, node) => Reporter::Turned(ReportAnswer::Register),
        None => Reporter::Known,
    }
}

/// What a process says of itself, as far as the cluster's version knows words for it.
fn in_cluster_version(state: &State, register: &RegisterNode) -> RegisterNode {
    let mut register = register.clone();
    register.offer.allows = register.offer.allows.filter(|_| state.version() >= version::TASK_LIMITS);
    register.offer.rules = register.offer.rules.filter(|_| state.version() >= version::NODE_RULES);
    if state.version() < version::SLURM {
        register.offer.runtimes.retain(|runtime| *runtime != Runtime::Slurm);
    }
    register
}

/// Whether the cluster learned the words for what the node allows after it registered.
fn has_more_to_offer(state: &State, node: &Node) -> bool {
    let known = |needs| state.version() >= needs && node.speaks >= needs;
    known(version::TASK_LIMITS) && node.offer.allows.is_none()
        || known(version::NODE_RULES) && node.offer.rules.is_none()
}

/// What a report says has ended, as far as the cluster's version knows words for it.
pub fn ends(state: &State, report: &Report) -> Vec<AttemptEnd> {
    let mut ends = report.ends.clone();
    if state.version() < version::TASK_LIMITS {
        ends.iter_mut().for_each(|end| end.usage = None);
    }
    if state.version() < version::FILES_MISSING {
        let missing = ends.iter_mut().filter(|end| end.kind == EndKind::FilesMissing);
        missing.for_each(|end| end.kind = EndKind::StartFailed);
    }
    if state.version() < version::START_REFUSED {
        let refused = ends.iter_mut().filter(|end| end.kind == EndKind::StartRefused);
        refused.for_each(|end| end.kind = EndKind::StartFailed);
    }
    if state.version() < version::DISK_EXCEEDED {
        let exceeded = ends.iter_mut().filter(|end| end.kind == EndKind::DiskExceeded);
        exceeded.for_each(|end| end.kind = EndKind::Signalled(9));
    }
    let knows_endings = state.version() >= version::ENDINGS;
    ends.iter_mut()
        .filter(|end| !(knows_endings && keeps_ending(state, end.lease)))
        .for_each(|end| end.ending = None);
    if state.version() < version::OUTPUTS_OF_ALL_ENDS {
        for end in &mut ends {
            end.not_kept = None;
            end.outputs.iter_mut().flatten().for_each(|kept| kept.executable = None);
        }
    }
    ends
}

/// Whether the task lets other peers keep the end of its output. Whoever reports may not know: a node that runs jobs of Slurm keeps no
/// spec.
fn keeps_ending(state: &State, lease: LeaseId) -> bool {
    let files = state.task(lease.task).and_then(|task| task.spec.files.as_deref());
    files.is_none_or(|files| files.record != Some(false))
}

/// Orders from the applied state, which answer this report at `now` by the leader's clock. They renew leases, from when
/// the report arrived: the
/// caller saw to it that a quorum confirmed the leader after the report arrived
/// (docs/internals/leases.md#quorum-after-report).
pub fn make(
    state: &State,
    leadership: &mut Leadership,
    (arrived, now): (BootMs, BootMs),
    report: &Report,
    recorded: Vec<LeaseId>,
) -> Orders {
    let running = ReportedAttempts::from_report(report);
    let mut ended: Vec<LeaseId> = report.ends.iter().map(|e| e.lease).collect();
    ended.sort_unstable();
    let lease_clock: &mut LeaseClock = &mut leadership.lease_clock;
    let (mut grants, mut launches, mut more) = (Vec::new(), 0, false);
    for lease in state.leases_of(report.node) {
        let Some(task) = state.task(lease.task) else { continue };
        // What an earlier life of the node holds runs out: nobody can say whether it still runs, so it is neither
        // renewed nor begun again (docs/internals/leases.md#incarnation).
        let Some(leased) = task.leased().filter(|l| l.incarnation == report.incarnation) else {
            continue;
        };
        let new = running.stopping(lease).is_none();
        // The node does not hold what it says has ended: taken for new, it would run a second time under its number.
        if ended.binary_search(&lease).is_ok() || (new && !has_devices(state, leased)) {
            continue;
        }
        if new && launches >= limits::LAUNCHES_PER_ORDERS {
            more = true;
            continue;
        }
        let ttl_ms = length_ms(state, &task.spec);
        if lease_clock.renew(state, lease, ttl_ms, arrived, now) {
            launches += usize::from(new);
            grants.push(grant(state, lease, task, leased, ttl_ms, new));
        }
    }
    let (incarnation, nonce, answers) = (report.incarnation, report.nonce, report.sequence);
    Orders { term: leadership.term, incarnation, nonce, answers, grants, recorded, more }
}

/// Whether the node still offers every device of the lease: a process that restarted may have lost a device's lock to
/// another node of its machine. Then the attempt is not launched without it; its lease runs out and the task is
/// placed anew.
fn has_devices(state: &State, leased: &Leased) -> bool {
    let has = |gpu| device(state, leased, gpu).is_some();
    leased.gpus.iter().all(has) || planted(Mutation::LaunchWithoutDevices)
}

/// A device of the lease as its node offers it.
fn device(state: &State, leased: &Leased, id: &GpuId) -> Option<GpuInfo> {
    let record = state.gpu(id)?;
    record.offered_by.iter().find(|(by, _)| *by == leased.node).map(|(_, info)| info.clone())
}

fn grant(state: &State, lease: LeaseId, task: &Task, leased: &Leased, ttl_ms: u64, new: bool) -> Grant {
    let launch = || Launching {
        tenant: task.fields.tenant.clone(),
        spec: task.spec.clone(),
        runtime: leased.runtime,
        gpus: leased.gpus.iter().filter_map(|gpu| device(state, leased, gpu)).collect(),
        index: task.fields.index,
        name: task.fields.name.clone(),
        tenant_uid: state.tenant_uid(&task.fields.tenant),
    };
    Grant {
        lease,
        ttl_ms,
        kill_margin_ms: state.settings().kill_margin_ms,
        stop: leased.stop,
        launch: new.then(launch),
    }
}

/// What a node holds by its report, in order: found without a map, as this is asked for every report.
struct ReportedAttempts(Vec<(LeaseId, bool)>);

impl ReportedAttempts {
    fn from_report(report: &Report) -> Self {
        let mut running = report.running.clone();
        running.sort_by_key(|(lease, _)| *lease);
        // Named twice, the last word counts.
        running.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            kept.1 = if same { later.1 } else { kept.1 };
            same
        });
        Self(running)
    }

    /// Whether an attempt is being stopped; none when it is not held.
    fn stopping(&self, lease: LeaseId) -> Option<bool> {
        let place = self.0.binary_search_by_key(&lease, |(known, _)| *known).ok()?;
        Some(self.0[place].1)
    }
}

/// Whether the node should hear from the leader at once. A lease that is over and not yet taken back is no news: nothing
/// may be said about it until it is.
pub fn has_news(state: &State, lease_clock: &LeaseClock, now: BootMs, report: &Report) -> bool {
    let running = ReportedAttempts::from_report(report);
    let over = |(lease, stopping): &(LeaseId, bool)| !stopping && !state.holds_on(report.node, *lease);
    let changed = |lease: LeaseId| {
        let leased = state.task(lease.task).and_then(|t| t.leased());
        let current = leased.filter(|l| l.incarnation == report.incarnation);
        current.is_some_and(|l| match running.stopping(lease) {
            None => has_devices(state, l) && lease_clock.may_renew(lease, now),
            Some(stopping) => l.stop.is_some() && !stopping,
        })
    };
    running.0.iter().any(over) || state.leases_of(report.node).any(changed)
}

#[cfg(test)]
mod tests {
    use stint_protocol::*;
    use stint_scheduler::{Admit, PlanInput, RegisterNode, Settings, StampedCommand, Submit, apply, plan};

    use super::*;

    const NODE: NodeId = NodeId(1);
    const LEASE: LeaseId = LeaseId { task: TaskId(1 << 16), attempt: 1 };

    fn fresh() -> LeaseClock {
        LeaseClock::new(BootMs(0), TimeMs(1))
    }

    fn gpu() -> GpuInfo {
        GpuInfo { id: GpuId::new("GPU-1").unwrap(), model: "any".into(), memory_bytes: 1 << 30, index: 0 }
    }

    fn register(nonce: Nonce, gpus: Vec<GpuInfo>) -> Command {
        let offer = NodeOffer {
            resources: Resources { cpu_milli: 4_000, memory_bytes: 8 << 30 },
            gpus,
            runtimes: vec![Runtime::Mock],
            classes: vec![Class::Gpu],
            slots: 4,
            ..NodeOffer::default()
        };
        let (node, incarnation) = (NODE, Incarnation(1));
        Command::RegisterNode(RegisterNode { node, incarnation, nonce, offer, problems: Vec::new() })
    }

    fn submit() -> Command {
        let mut spec = TaskSpec::new(Class::Gpu, vec!["train".into()]);
        spec.runtime = Some(Runtime::Mock);
        let spec = spec.resolve(&ClassRules::default_for(Class::Gpu)).unwrap();
        Command::Submit(Submit {
            tenant: Tenant::default_tenant(),
            first: TaskId(1 << 16),
            count: 1,
            name: None,
            spec: SharedSpec::new(spec),
            key: None,
            digest: 0,
            key_made_ms: None,
        })
    }

    fn run(state: &mut State, command: Command) {
        apply(state, StampedCommand { now: TimeMs(1), command }).unwrap();
    }

    /// The only node holds a lease with its only device.
    fn leased(gpu: &GpuInfo) -> State {
        let mut state = State::default();
        let (name, address) = ("a".into(), "a:1".into());
        run(&mut state, Command::Configure(Settings::default()));
        run(
            &mut state,
            Command::Admit(Admit { disk: [1; 16], name, address, token: None, speaks: version::CURRENT }),
        );
        run(&mut state, register(Nonce(1), vec![gpu.clone()]));
        run(&mut state, submit());
        let planned = plan(&state, &PlanInput { reachable: [NODE].into() });
        run(&mut state, Command::CommitPlan(planned));
        assert_eq!(state.leases_of(NODE).count(), 1);
        state
    }

    fn report(running: Vec<(LeaseId, bool)>) -> Report {
        Report {
            node: NODE,
            incarnation: Incarnation(1),
            nonce: Nonce(1),
            sequence: 1,
            sent: BootMs(10),
            register: None,
            running,
            ends: Vec::new(),
            hold_ms: 0,
            not_begun: None,
        }
    }

    fn orders(state: &State, report: &Report) -> Orders {
        let lease_clock = LeaseClock::new(BootMs(0), TimeMs(0));
        let mut leadership = Leadership {
            term: 1,
            lease_clock,
            wall_clock: Default::default(),
            not_begun: Default::default(),
        };
        make(state, &mut leadership, (BootMs(20), BootMs(20)), report, Vec::new())
    }

    #[test]
    fn an_attempt_is_not_launched_without_the_devices_of_its_lease() {
        let gpu = gpu();
        let mut state = leased(&gpu);
        let launches = orders(&state, &report(Vec::new())).grants;
        assert_eq!(launches[0].launch.as_ref().map(|launch| &launch.gpus[..]), Some(&[gpu][..]));
        assert!(has_news(&state, &fresh(), BootMs(0), &report(Vec::new())));

        run(&mut state, register(Nonce(1), Vec::new()));
        assert!(orders(&state, &report(Vec::new())).grants.is_empty(), "the device is not offered any more");
        assert!(
            !has_news(&state, &fresh(), BootMs(0), &report(Vec::new())),
            "nothing that the node could begin"
        );

        let running = report(vec![(launches[0].lease, false)]);
        let renewed = orders(&state, &running).grants;
        assert!(renewed[0].launch.is_none(), "what runs already is renewed");
        assert!(!has_news(&state, &fresh(), BootMs(0), &running));
    }

    /// It was accepted when leases were longer, and still gets the time that it may take to stop.
    #[test]
    fn a_lease_is_never_too_short_for_its_task_to_stop() {
        use stint_scheduler::{ChangedBy, ClassSetting, Setting, UpdateSettings};
        let mut state = leased(&gpu());
        let grace_ms = state.task(LEASE.task).unwrap().spec.stop_grace_ms;
        for (ttl_ms, granted_ms) in [(60_000, 60_000), (2_500, 2 * grace_ms)] {
            let class = state.task(LEASE.task).unwrap().spec.class;
            let to = vec![Setting::Class(class, ClassSetting::LeaseTtlMs(ttl_ms))];
            let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: NODE };
            run(&mut state, Command::UpdateSettings(UpdateSettings { to, if_revision: None, by }));
            assert_eq!(orders(&state, &report(Vec::new())).grants[0].ttl_ms, granted_ms);
        }
        assert!(2 * grace_ms > 2_500, "its grace fits into the shorter lease");
    }

    /// Until every peer knows the words, none of them may stand in the log.
    #[test]
    fn a_cluster_of_an_earlier_version_hears_nothing_of_usage_and_allowances() {
        let mut state = State::default();
        let admit = |speaks| {
            let (name, address) = ("a".into(), "a:1".into());
            Command::Admit(Admit { disk: [1; 16], name, address, token: None, speaks })
        };
        run(&mut state, Command::Configure(Settings::default()));
        run(&mut state, admit(Version(3)));
        let Command::RegisterNode(mut register) = register(Nonce(1), Vec::new()) else { panic!("a node") };
        register.offer.allows = Some(vec![Allowance::everything(Runtime::Mock)]);
        register.offer.rules = Some(Box::default());
        register.offer.runtimes = vec![Runtime::Mock, Runtime::Slurm];
        let usage = Some(Box::new(Usage { cpu_ms: Some(7), ..Usage::default() }));
        let kept = KeptFile {
            path: "out".into(),
            blob: Blob { digest: Digest::from_bytes([7; 32]), size: 1 },
            stored: true,
            executable: Some(true),
            pinned: None,
        };
        let end = AttemptEnd {
            usage,
            outputs: Some([kept].into()),
            not_kept: Some([NotKept::new("pipe", "is a pipe")].into()),
            ending: Some(Box::default()),
            ..AttemptEnd::new(LEASE, EndKind::Exited(0), String::new(), 1)
        };
        let missing = AttemptEnd::new(LEASE, EndKind::FilesMissing, "no input".into(), 0);
        let refused = AttemptEnd::new(LEASE, EndKind::StartRefused, "no".into(), 0);
        let all = vec![end, missing, refused];
        let first = Report { register: Some(register.clone()), ends: all.clone(), ..report(Vec::new()) };
        let said = |state: &State| match reporter(state, &first) {
            Reporter::Registers(command) => command,
            other => panic!("{other:?}"),
        };
        let recorded = |state: &State| Command::RecordEnds { node: NODE, ends: ends(state, &first) };
        for command in [said(&state), recorded(&state)] {
            assert!(command.needs() < version::TASK_LIMITS, "{command:?}");
        }
        for kind in ends(&state, &first)[1..].iter().map(|end| &end.kind) {
            assert_eq!(*kind, EndKind::StartFailed, "the word for it before");
        }
        let registers = said(&state);
        run(&mut state, registers);
        assert!(matches!(reporter(&state, &report(Vec::new())), Reporter::Known));

        run(&mut state, Command::SetNodeVersion { node: NODE, speaks: version::CURRENT });
        run(&mut state, Command::RaiseVersion { to: version::CURRENT });
        let turned = reporter(&state, &report(Vec::new()));
        assert!(
            matches!(turned, Reporter::Turned(ReportAnswer::Register)),
            "it has more to say now: {turned:?}"
        );
        let registers = said(&state);
        assert_eq!(registers, Command::RegisterNode(register));
        run(&mut state, registers);
        assert!(matches!(reporter(&state, &report(Vec::new())), Reporter::Known));
        assert_eq!(ends(&state, &first), all);
    }

    /// A node that does not know what its task wants reports an ending all the same.
    #[test]
    fn who_is_not_to_be_recorded_has_no_ending() {
        let end = AttemptEnd {
            ending: Some(Box::default()),
            ..AttemptEnd::new(LEASE, EndKind::Exited(0), String::new(), 1)
        };
        let first = Report { ends: vec![end.clone()], ..report(Vec::new()) };
        for (record, ending) in [(None, end.ending.clone()), (Some(false), None)] {
            let mut state = State::default();
            run(&mut state, Command::Configure(Settings::default()));
            let (name, address, speaks) = ("a".into(), "a:1".into(), version::CURRENT);
            run(&mut state, Command::Admit(Admit { disk: [1; 16], name, address, token: None, speaks }));
            let Command::Submit(submit) = submit() else { panic!("a submit") };
            let files =
                record.map(|record| Box::new(TaskFiles { record: Some(record), ..TaskFiles::default() }));
            let spec = SharedSpec::new(TaskSpec { files, ..TaskSpec::clone(&submit.spec) });
            run(&mut state, Command::Submit(Submit { spec, ..submit }));
            assert_eq!(ends(&state, &first)[0].ending, ending);
        }
    }

    #[test]
    fn the_last_word_of_a_report_on_a_lease_counts() {
        let lease = LeaseId { task: TaskId(1 << 16), attempt: 1 };
        let other = LeaseId { task: TaskId(1 << 17), attempt: 1 };
        let running =
            ReportedAttempts::from_report(&report(vec![(other, false), (lease, false), (lease, true)]));
        assert_eq!((running.stopping(lease), running.stopping(other)), (Some(true), Some(false)));
        assert_eq!(running.stopping(LeaseId { attempt: 2, ..lease }), None);
    }

    #[test]
    fn a_lease_is_news_until_it_runs() {
        let (state, lease_clock) = (leased(&gpu()), fresh());
        assert!(has_news(&state, &lease_clock, BootMs(0), &report(vec![])));
        assert!(!has_news(&state, &lease_clock, BootMs(0), &report(vec![(LEASE, false)])));
    }

    /// A leader that cannot commit the expiry would else answer the node's reports at once, over and over.
    #[test]
    fn a_lease_that_is_over_is_no_news() {
        let (state, mut lease_clock) = (leased(&gpu()), fresh());
        lease_clock.expire(&state, BootMs(0));
        let far = BootMs(10_000_000);
        assert!(!has_news(&state, &lease_clock, far, &report(vec![])), "it ran out");
        lease_clock.expire(&state, far);
        assert!(!has_news(&state, &lease_clock, BootMs(1), &report(vec![])), "it is being taken back");
    }
}
