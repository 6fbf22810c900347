//! Cost of a plan by nodes, by tasks that are queued and by how many different demands they have:
//! `cargo run --profile dist -p stint-scheduler --example plan [-- --all] [-- --check] [-- --nodes N]`.
//!
//! Nodes run eight tasks each. When all are full, each round ends some tasks and plans what takes their place. Figures are
//! medians. `--check` looks after each plan for a waiting task that fits and was not placed.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use stint_protocol::*;
use stint_scheduler::*;

const SLOTS: u32 = 8;
const ROUNDS: usize = 15;
/// Tasks that end in a round.
const ENDED: usize = 200;

struct Bench {
    state: State,
    planner: Planner,
    input: PlanInput,
    now: u64,
    submits: u128,
    check: bool,
}

impl Bench {
    fn new(nodes: u64, check: bool) -> Self {
        let input = PlanInput { reachable: (1..=nodes).map(NodeId).collect() };
        let (state, planner) = (State::default(), Planner::default());
        let mut bench = Self { state, planner, input, now: 1_000, submits: 0, check };
        bench.apply(Command::Configure(Settings { max_live_tasks: 4_000_000, ..Settings::default() }));
        bench.apply(Command::AddJoinToken { hash: [1; 32], valid_ms: 600_000_000, uses: None });
        for id in 1..=nodes {
            let (disk, address) = (u128::from(id).to_le_bytes(), format!("10.0.0.{id}:7001"));
            let token = (id > 1).then_some([1; 32]);
            let (name, speaks) = (format!("n{id}"), version::CURRENT);
            bench.apply(Command::Admit(Admit { disk, name, address, token, speaks }));
            let offer = NodeOffer {
                resources: Resources { cpu_milli: 16_000, memory_bytes: 64 << 30 },
                runtimes: vec![Runtime::Process],
                classes: vec![Class::CpuShort],
                slots: SLOTS,
                ..NodeOffer::default()
            };
            let (node, incarnation, nonce) = (NodeId(id), Incarnation(1), Nonce(1));
            let problems = Vec::new();
            bench.apply(Command::RegisterNode(RegisterNode { node, incarnation, nonce, offer, problems }));
        }
        bench
    }

    fn apply(&mut self, command: Command) {
        self.now += 1;
        apply(&mut self.state, StampedCommand { now: TimeMs(self.now), command }).unwrap();
    }

    /// Queues `count` tasks with `demands` different demands, in turn.
    fn queue(&mut self, count: u64, demands: u64, least_milli: u64) {
        let rules = ClassRules::default_for(Class::CpuShort);
        let each = (count / demands).clamp(1, 200);
        for submit in 0..count / each {
            let mut spec = TaskSpec::new(Class::CpuShort, vec!["/bin/true".into()]);
            let kind = submit % demands;
            spec.cpu_milli = least_milli + kind % 100;
            spec.memory_bytes = (64 + kind / 100) << 20;
            self.submits += 1;
            self.apply(Command::Submit(Submit {
                tenant: Tenant::default_tenant(),
                first: TaskId(self.submits << 16),
                count: each as u32,
                name: None,
                spec: SharedSpec::new(spec.resolve(&rules).unwrap()),
                key: None,
                digest: 0,
                key_made_ms: None,
            }));
        }
    }

    /// One plan, committed: tasks placed, and the time for the plan alone.
    fn round(&mut self) -> (usize, Duration) {
        let begun = Instant::now();
        let plan = self.planner.plan(&self.state, &self.input);
        let took = begun.elapsed();
        let placed = plan.assignments.len();
        self.apply(Command::CommitPlan(plan.clone()));
        if self.check {
            let missed = overlooked(&mut self.planner, &self.state, &self.input, &plan);
            assert_eq!(missed, None, "a task that fits waits");
        }
        (placed, took)
    }

    fn fill(&mut self) {
        while self.round().0 > 0 {}
    }

    /// Ends as many leases, here and there.
    fn end_some(&mut self, round: usize) {
        let leases: Vec<(NodeId, LeaseId)> = self.state.leases().collect();
        let step = (leases.len() / ENDED).max(1);
        for (node, lease) in leases.into_iter().skip(round % step).step_by(step) {
            let ends = vec![AttemptEnd::new(lease, EndKind::Exited(0), String::new(), 1)];
            self.apply(Command::RecordEnds { node, ends });
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

fn measure(nodes: u64, queued: u64, demands: u64, check: bool) {
    let mut bench = Bench::new(nodes, check);
    let room = nodes * u64::from(SLOTS) + (ENDED * ROUNDS) as u64;
    bench.queue(queued.max(demands) + room, demands, 100);
    bench.fill();
    let (mut each, mut idle) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bench.end_some(round);
        let (placed, took) = bench.round();
        assert!(placed > 0, "what ended makes room");
        each.push(micros(took) / placed as f64);
        let (none, took) = bench.round();
        assert_eq!(none, 0, "all is full");
        idle.push(micros(took));
    }
    let begun = Instant::now();
    assert_eq!(plan(&bench.state, &bench.input).assignments.len(), 0);
    let first = micros(begun.elapsed()) / 1000.0;
    let (each, idle, blocked) = (median(each), median(idle), blocked(nodes, queued, demands, check));
    println!(
        "{nodes:>6} nodes {queued:>8} queued {demands:>5} demands: {each:>6.1} us a placed task, \
         {idle:>7.0} us when all is full, {blocked:>7.0} us when nothing fits, first plan {first:>6.1} ms"
    );
}

/// Microseconds of a plan on idle nodes on which no task fits, when one node changed.
fn blocked(nodes: u64, queued: u64, demands: u64, check: bool) -> f64 {
    let mut bench = Bench::new(nodes, check);
    bench.queue(queued.max(demands), demands, 17_000);
    bench.round();
    let times = (0..ROUNDS as u64).map(|round| {
        for mode in [NodeMode::Cordoned, NodeMode::Ready] {
            bench.apply(Command::SetNodeMode { node: NodeId(1 + round % nodes), mode, within_ms: None });
        }
        let (none, took) = bench.round();
        assert_eq!(none, 0);
        micros(took)
    });
    median(times.collect())
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| given.iter().any(|word| word == flag);
    let (all, check) = (has("--all"), has("--check"));
    let only = given.iter().position(|word| word == "--nodes").map(|place| given[place + 1].parse().unwrap());
    for nodes in [10, 1_000, 10_000].into_iter().filter(|nodes| only.is_none_or(|only: u64| only == *nodes)) {
        for queued in if all { vec![100, 100_000, 1_000_000] } else { vec![100, 100_000] } {
            for demands in [1, 500, 5_000] {
                measure(nodes, queued, demands, check);
            }
        }
    }
}
