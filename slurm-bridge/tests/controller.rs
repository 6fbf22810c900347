//! What the bridge does when, with time and answers handed in.
#![allow(clippy::unwrap_used)]

use stint_executor::{Launch, StopReason};
use stint_protocol::{
    AttemptEnd, BootMs, Class, ClassRules, EndKind, LeaseId, Runtime, SharedSpec, TaskId, TaskSpec, Tenant,
};
use stint_slurm_bridge::controller::{ActionResult, JobAction, JobController, Timing};
use stint_slurm_bridge::doors::{
    JobCommand, JobId, JobRecord, JobReport, ListedJob, ProgramExit, StoppedBy, SubmitError,
};
use stint_slurm_bridge::state::{EndReason, JobEnd, JobState};

const LEASE: LeaseId = LeaseId { task: TaskId(7 << 16), attempt: 1 };
const JOB: JobId = JobId(41);
const TTL_MS: u64 = 600_000;

struct Rig {
    controller: JobController,
    now: u64,
    /// What is to be done and was not answered.
    open: Vec<JobAction>,
    /// What a job folder would hold.
    kept: Option<JobRecord>,
}

impl Rig {
    fn new() -> Self {
        let controller = JobController::open(Timing::default(), Vec::new(), BootMs(0));
        let mut rig = Self { controller, now: 0, open: Vec::new(), kept: None };
        let spec = TaskSpec::new(Class::GpuSlurm, vec!["train".into()]);
        let spec = SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::GpuSlurm)).unwrap());
        let launch = Launch {
            lease: LEASE,
            tenant: Tenant::default_tenant(),
            tenant_uid: None,
            run_as: None,
            name: None,
            spec,
            runtime: Runtime::Slurm,
            gpus: Vec::new(),
            deadline: BootMs(TTL_MS),
            env: Default::default(),
        };
        rig.controller.start(launch, BootMs(0));
        rig.go(0);
        rig
    }

    /// Time goes on.
    fn go(&mut self, ms: u64) {
        self.now += ms;
        let (work, wake) = self.controller.work(BootMs(self.now));
        self.open.extend(work);
        assert!(
            wake.is_none_or(|at| at.0 > self.now || !self.open.is_empty()),
            "it would be asked again at once"
        );
    }

    fn answer(&mut self, done: ActionResult) {
        self.controller.done(done, BootMs(self.now));
        self.go(0);
    }

    /// Takes the first work of this kind.
    fn take(&mut self, is: impl Fn(&JobAction) -> bool) -> JobAction {
        let place = self.open.iter().position(is);
        self.open.remove(place.unwrap_or_else(|| panic!("not to be done: {:?}", self.open)))
    }

    fn has(&self, is: impl Fn(&JobAction) -> bool) -> bool {
        self.open.iter().any(is)
    }

    /// Keeps every record that is to be kept.
    fn keep(&mut self) {
        while self.has(|work| matches!(work, JobAction::Store(_))) {
            let JobAction::Store(record) = self.take(|work| matches!(work, JobAction::Store(_))) else {
                unreachable!()
            };
            self.kept = Some(record.clone());
            self.answer(ActionResult::Stored(record.lease, record.revision, Ok(())));
        }
    }

    /// Up to the answer of `sbatch`.
    fn submit(&mut self, answer: Result<JobId, SubmitError>) {
        self.take(|work| matches!(work, JobAction::Submit(_)));
        self.answer(ActionResult::Submitted(LEASE, answer));
        self.keep();
    }

    fn handed() -> Self {
        let mut rig = Self::new();
        rig.take(|work| matches!(work, JobAction::Prepare(_)));
        rig.answer(ActionResult::Prepared(LEASE, Ok(())));
        assert!(
            !rig.has(|work| matches!(work, JobAction::Submit(_))),
            "nothing is handed over before it is written down"
        );
        rig.keep();
        rig
    }

    fn list(&mut self, jobs: Vec<ListedJob>) {
        while !self.has(|work| matches!(work, JobAction::List)) {
            self.go(1_000);
        }
        self.take(|work| matches!(work, JobAction::List));
        self.answer(ActionResult::Listed(Ok(jobs)));
    }

    fn look(&mut self, files: JobReport) {
        while !self.has(|work| matches!(work, JobAction::ReadReport(_))) {
            self.go(1_000);
        }
        self.take(|work| matches!(work, JobAction::ReadReport(_)));
        self.answer(ActionResult::ReportRead(LEASE, Ok(files)));
    }

    fn end(&self) -> Option<AttemptEnd> {
        self.controller.unacknowledged().pop()
    }
}

fn seen(job_state: JobState) -> Vec<ListedJob> {
    vec![ListedJob { job: JOB, lease: LEASE, state: job_state, message: String::new() }]
}

fn asks(number: u64) -> JobReport {
    JobReport { ask: Some((number, JOB)), exit: None }
}

fn is_grant(work: &JobAction) -> bool {
    matches!(work, JobAction::Grant(..))
}

/// Running, with time until the lease's end.
fn running() -> Rig {
    let mut rig = Rig::handed();
    rig.submit(Ok(JOB));
    rig.list(seen(JobState::Running));
    rig.look(asks(1));
    rig.keep();
    rig.take(is_grant);
    rig.answer(ActionResult::Granted(LEASE, Ok(())));
    rig
}

#[test]
fn time_is_given_only_after_that_is_written_down() {
    let mut rig = Rig::handed();
    rig.submit(Ok(JOB));
    rig.list(seen(JobState::Running));
    rig.look(asks(1));
    assert!(!rig.has(is_grant));
    rig.keep();
    let kept = rig.kept.clone().unwrap();
    let JobAction::Grant(_, grant) = rig.take(is_grant) else { unreachable!() };
    let until = kept.granted_until.unwrap();
    assert!(grant.left_ms > 500_000 && rig.now + grant.left_ms <= until.0 && until.0 < TTL_MS);
    // A clock that goes one in a hundred slower lets it run no longer than that.
    assert!(rig.now + grant.left_ms * 101 / 100 <= until.0);
    // The next process of the node knows that it may run, and gives it nothing before its lease is renewed.
    let mut controller = JobController::open(Timing::default(), vec![kept], BootMs(rig.now + 1));
    assert!(controller.running()[0].started && controller.unacknowledged().is_empty());
    let (_, _) = controller.work(BootMs(rig.now + 1));
    controller.done(ActionResult::ReportRead(LEASE, Ok(asks(2))), BootMs(rig.now + 2));
    assert!(
        !controller
            .work(BootMs(rig.now + 2))
            .0
            .iter()
            .any(|work| matches!(work, JobAction::Store(_)) || is_grant(work))
    );
}

#[test]
fn a_restarted_node_gives_no_more_than_the_lease_that_its_leader_renews() {
    let mut rig = Rig::handed();
    rig.submit(Ok(JOB));
    rig.now = 1_000;
    // The next process of the node: its leader's answer comes, and then the job's first question.
    rig.controller =
        JobController::open(Timing::default(), rig.kept.clone().into_iter().collect(), BootMs(1_000));
    rig.open.clear();
    rig.list(seen(JobState::Running));
    rig.look(asks(1));
    rig.keep();
    assert!(!rig.has(is_grant), "nobody knows how long its lease is");
    let deadline = rig.now + 20_000;
    rig.controller.renew(&[(LEASE, BootMs(deadline))]);
    assert_eq!(rig.controller.running()[0].deadline, BootMs(deadline));
    rig.look(asks(2));
    rig.keep();
    let JobAction::Grant(_, grant) = rig.take(is_grant) else { unreachable!() };
    assert!(grant.left_ms > 5_000 && rig.now + grant.left_ms < deadline, "{} ms", grant.left_ms);
    rig.answer(ActionResult::Granted(LEASE, Ok(())));
    // It is told to end within that lease, too.
    rig.go(deadline - Timing::default().guard_ms - rig.now);
    rig.take(|work| matches!(work, JobAction::Grant(_, grant) if grant.command >= JobCommand::Term));
}

#[test]
fn a_lost_answer_is_followed_by_looking_and_then_by_another_try() {
    let mut rig = Rig::handed();
    rig.submit(Err(SubmitError::Unknown("timed out".into())));
    for _ in 0..4 {
        if rig.has(|work| matches!(work, JobAction::Submit(_))) {
            break;
        }
        assert!(rig.end().is_none());
        rig.go(11_000);
        rig.list(Vec::new());
    }
    rig.submit(Ok(JobId(42)));
    // Both arrived; the first one asks first, and the other is nobody's.
    let twice = [41, 42].map(|job| ListedJob { job: JobId(job), ..seen(JobState::Running).remove(0) });
    rig.list(twice.to_vec());
    rig.look(asks(1));
    rig.keep();
    rig.list(twice.to_vec());
    rig.take(|work| matches!(work, JobAction::Cancel(LEASE, JobId(42))));
    assert!(!rig.has(|work| matches!(work, JobAction::Cancel(LEASE, JobId(41)))));
}

#[test]
fn one_empty_list_ends_nothing_and_a_forgotten_end_is_told_by_the_job() {
    let mut rig = running();
    for _ in 0..5 {
        rig.list(Vec::new());
        assert!(rig.end().is_none());
    }
    rig.look(JobReport { exit: Some(ProgramExit::Code { code: 3, by: StoppedBy::Itself }), ..asks(1) });
    rig.list(Vec::new());
    assert_eq!(rig.end().unwrap().kind, EndKind::Exited(3));
}

#[test]
fn a_failed_node_of_slurm_is_believed_when_the_time_it_had_is_over() {
    let mut rig = running();
    let until = rig.kept.as_ref().unwrap().granted_until.unwrap();
    rig.list(seen(JobState::Ended(JobEnd { reason: EndReason::NodeFailed, code: None })));
    rig.look(asks(2));
    rig.keep();
    assert!(!rig.has(is_grant), "it is given no more time");
    rig.go(until.0 - rig.now);
    assert!(rig.end().is_none());
    rig.go(Timing::default().guard_ms);
    // What it wrote last is looked at before that.
    for _ in 0..3 {
        if rig.end().is_none() {
            rig.look(asks(2));
        }
    }
    assert_eq!(rig.end().unwrap().kind, EndKind::Lost);
}

#[test]
fn what_is_cancelled_before_it_began_ends_at_once_and_leaves_the_queue() {
    let mut rig = Rig::handed();
    rig.submit(Ok(JOB));
    let why = "Slurm job 41: PENDING, Resources".to_owned();
    rig.list(vec![ListedJob { message: why.clone(), ..seen(JobState::Waiting).remove(0) }]);
    assert_eq!(rig.controller.waiting_reason(LEASE), Some(why.as_str()));
    rig.controller.stop(LEASE, StopReason::Cancelled);
    rig.go(1);
    assert_eq!(rig.end().unwrap().kind, EndKind::Cancelled);
    let is_cancel = |work: &JobAction| matches!(work, JobAction::Cancel(LEASE, JOB));
    assert!(!rig.has(is_cancel), "a later process of its node would take it for somebody else's doing");
    rig.keep();
    rig.take(is_cancel);
}

#[test]
fn a_running_one_is_told_to_end_by_its_files() {
    let mut rig = running();
    rig.controller.stop(LEASE, StopReason::Cancelled);
    rig.go(1);
    let JobAction::Grant(_, grant) = rig.take(is_grant) else { unreachable!() };
    assert_eq!((grant.number, grant.command), (1, JobCommand::Term));
    rig.look(JobReport { exit: Some(ProgramExit::Code { code: 0, by: StoppedBy::Node }), ..asks(1) });
    rig.list(seen(JobState::Ended(JobEnd { reason: EndReason::Ended, code: Some((0, 0)) })));
    rig.look(JobReport { exit: Some(ProgramExit::Code { code: 0, by: StoppedBy::Node }), ..asks(1) });
    assert_eq!(rig.end().unwrap().kind, EndKind::Cancelled);
}

/// A cancelled one whose node had Slurm kill it, too: what Slurm says then, and how it ended.
fn killed(code: Option<(i32, i32)>, exit: Option<ProgramExit>) -> EndKind {
    let mut rig = running();
    rig.controller.stop(LEASE, StopReason::Cancelled);
    rig.go(1);
    rig.take(is_grant);
    // The shared folder is slow: its job does not hear of it.
    rig.go(60_000);
    let is_cancel = |work: &JobAction| matches!(work, JobAction::Cancel(LEASE, JOB));
    assert!(!rig.has(is_cancel), "a later process of its node would take it for somebody else's doing");
    rig.keep();
    rig.take(is_cancel);
    rig.list(seen(JobState::Ended(JobEnd { reason: EndReason::Cancelled, code })));
    let files = JobReport { exit, ..asks(1) };
    for _ in 0..2_000 {
        if let Some(end) = rig.end() {
            return end.kind;
        }
        rig.go(1_000);
        rig.keep();
        while rig.has(|work| matches!(work, JobAction::ReadReport(_))) {
            rig.look(files);
        }
        rig.open.clear();
    }
    panic!("it never ended");
}

#[test]
fn what_ended_by_itself_is_not_told_as_what_its_node_wanted() {
    let by_itself = ProgramExit::Code { code: 0, by: StoppedBy::Itself };
    assert_eq!(killed(None, Some(by_itself)), EndKind::Exited(0));
    assert_eq!(killed(Some((0, 15)), Some(by_itself)), EndKind::Exited(0));
    // Slurm ended it as it was asked to, and its job says so, or was killed with it.
    let by_slurm = ProgramExit::Code { code: 7, by: StoppedBy::Slurm };
    assert_eq!(killed(Some((0, 15)), Some(by_slurm)), EndKind::Cancelled);
    assert_eq!(killed(Some((0, 9)), None), EndKind::Cancelled);
    let killed_by_another = ProgramExit::Code { code: 137, by: StoppedBy::Itself };
    assert_eq!(
        killed(None, Some(killed_by_another)),
        EndKind::Lost,
        "out of memory, before its job waited again"
    );
    // A controller that lost its state cancels a job that waits again: of what ran nobody knows.
    assert_eq!(killed(None, None), EndKind::Lost);
}

#[test]
fn slurms_word_says_why_only_when_slurm_ended_it() {
    let end = |how, exit| {
        let mut rig = running();
        rig.list(seen(JobState::Ended(JobEnd { reason: how, code: Some((0, 15)) })));
        // The first look may have begun before that.
        rig.look(JobReport { exit: Some(exit), ..asks(1) });
        if rig.end().is_none() {
            rig.look(JobReport { exit: Some(exit), ..asks(1) });
        }
        rig.end().map(|end| end.kind)
    };
    let slurm = |code| ProgramExit::Code { code, by: StoppedBy::Slurm };
    let itself = |code| ProgramExit::Code { code, by: StoppedBy::Itself };
    assert_eq!(end(EndReason::TimedOut, slurm(1)), Some(EndKind::TimedOut));
    assert_eq!(
        end(EndReason::TimedOut, itself(143)),
        Some(EndKind::TimedOut),
        "it was gone before its job heard"
    );
    assert_eq!(end(EndReason::TimedOut, itself(1)), Some(EndKind::Exited(1)));
    assert_eq!(end(EndReason::Cancelled, slurm(1)), Some(EndKind::Cancelled));
    assert_eq!(end(EndReason::OutOfMemory, itself(1)), Some(EndKind::OutOfMemory));
    assert_eq!(end(EndReason::Ended, slurm(75)), Some(EndKind::Lost), "it was still asking");
    assert_eq!(end(EndReason::Ended, slurm(3)), Some(EndKind::Exited(3)));
}

/// The next process of the node, with what the last one kept.
fn restarted(rig: &mut Rig, now: u64) {
    rig.now = now;
    rig.controller =
        JobController::open(Timing::default(), rig.kept.clone().into_iter().collect(), BootMs(now));
    rig.open.clear();
    rig.go(0);
}

#[test]
fn a_node_that_was_away_reads_how_a_job_ended_before_it_calls_it_lost() {
    let mut rig = running();
    let until = rig.kept.as_ref().unwrap().granted_until.unwrap();
    restarted(&mut rig, until.0 + 30_000);
    assert!(rig.end().is_none());
    rig.look(JobReport { exit: Some(ProgramExit::Code { code: 0, by: StoppedBy::Itself }), ..asks(3) });
    rig.go(60_000);
    assert_eq!(rig.end().unwrap().kind, EndKind::Exited(0));
    // And when there is nothing to read, not for ever.
    let mut rig = running();
    restarted(&mut rig, until.0 + 30_000);
    rig.look(asks(3));
    assert!(rig.end().is_none(), "Slurm is asked, too");
    rig.list(Vec::new());
    assert_eq!(rig.end().unwrap().kind, EndKind::Lost);
    let mut rig = running();
    restarted(&mut rig, until.0 + 30_000);
    rig.look(asks(3));
    rig.list(seen(JobState::Ended(JobEnd { reason: EndReason::OutOfMemory, code: Some((0, 9)) })));
    rig.look(asks(3));
    assert_eq!(rig.end().unwrap().kind, EndKind::OutOfMemory);
    let mut rig = running();
    restarted(&mut rig, until.0 + 30_000);
    rig.go(Timing::default().guard_ms + Timing::default().stale_ms);
    assert_eq!(rig.end().unwrap().kind, EndKind::Lost, "the folder is away for long");
}

#[test]
fn what_a_node_had_slurm_end_is_its_own_doing_after_a_restart_too() {
    let mut rig = running();
    rig.controller.stop(LEASE, StopReason::Drained);
    rig.go(1);
    rig.go(60_000);
    rig.keep();
    assert!(rig.has(|work| matches!(work, JobAction::Cancel(LEASE, JOB))));
    let now = rig.now;
    restarted(&mut rig, now + 5_000);
    let files = JobReport { exit: Some(ProgramExit::Code { code: 143, by: StoppedBy::Slurm }), ..asks(1) };
    rig.look(files);
    assert!(rig.end().is_none());
    rig.list(seen(JobState::Ended(JobEnd { reason: EndReason::Cancelled, code: Some((0, 15)) })));
    for _ in 0..3 {
        if rig.end().is_none() {
            rig.look(files);
        }
    }
    // A drained task is tried again; cancelled by somebody else it would not be.
    assert_eq!(rig.end().unwrap().kind, EndKind::Lost);
}

#[test]
fn what_becomes_of_a_second_job_says_nothing_of_the_one_that_runs() {
    let mut rig = running();
    let other = ListedJob {
        job: JobId(42),
        ..seen(JobState::Ended(JobEnd { reason: EndReason::Cancelled, code: None })).remove(0)
    };
    rig.list(vec![other]);
    rig.look(asks(2));
    rig.keep();
    assert!(rig.has(is_grant), "it is given more time");
    // One that would begin beside it is cancelled.
    rig.list(vec![ListedJob { job: JobId(43), ..seen(JobState::Waiting).remove(0) }]);
    rig.take(|work| matches!(work, JobAction::Cancel(LEASE, JobId(43))));
    assert!(rig.end().is_none());
}

#[test]
fn what_slurm_is_ending_is_not_cancelled_again_and_again() {
    let mut rig = Rig::handed();
    rig.submit(Ok(JOB));
    rig.list(seen(JobState::Waiting));
    rig.controller.stop(LEASE, StopReason::Cancelled);
    rig.go(1);
    rig.keep();
    let is_cancel = |work: &JobAction| matches!(work, JobAction::Cancel(LEASE, JOB));
    rig.take(is_cancel);
    rig.answer(ActionResult::Cancelled(LEASE, JOB, Ok(())));
    rig.list(seen(JobState::Completing));
    assert!(!rig.has(is_cancel));
    rig.go(5_000);
    assert!(!rig.has(|work| matches!(work, JobAction::List)), "lists come no faster than they are to");
    rig.list(seen(JobState::Running));
    rig.take(is_cancel);
}

#[test]
fn a_job_that_may_be_there_is_looked_for_after_its_attempt_has_ended() {
    let mut rig = Rig::handed();
    rig.submit(Err(SubmitError::Unknown("timed out".into())));
    rig.controller.stop(LEASE, StopReason::Cancelled);
    rig.go(1);
    assert_eq!(rig.end().unwrap().kind, EndKind::Cancelled);
    rig.keep();
    rig.list(Vec::new());
    rig.list(seen(JobState::Waiting));
    rig.take(|work| matches!(work, JobAction::Cancel(LEASE, JOB)));
}
