//! Cost of a plan by how many tasks are queued: `cargo run --profile dist -p stint-scheduler --example plan`.
//!
//! Ten nodes with room for 64 tasks each; each round plans, commits, and ends what was placed. Figures are medians.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use stint_protocol::*;
use stint_scheduler::*;

const NODES: u64 = 10;
const SLOTS: u32 = 64;
const ROUNDS: usize = 9;

struct Bench {
    state: State,
    now: u64,
    /// Of each task, at least.
    cpu_milli: u64,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { state: State::default(), now: 1_000, cpu_milli: 100 };
        bench.apply(Command::Configure(Settings::default()));
        bench.apply(Command::AddJoinToken { hash: [1; 32], valid_ms: 60_000 });
        for id in 1..=NODES {
            let token = (id > 1).then_some([1; 32]);
            let (disk, address) = ([id as u8; 16], format!("10.0.0.{id}:7001"));
            bench.apply(Command::Admit(Admit {
                disk,
                name: format!("n{id}"),
                address,
                token,
                speaks: version::CURRENT,
            }));
            let offer = NodeOffer {
                resources: Resources { cpu_milli: 1_000_000, memory_bytes: 1 << 42 },
                runtimes: vec![Runtime::Process],
                classes: vec![Class::CpuShort],
                slots: SLOTS,
                ..NodeOffer::default()
            };
            let (node, incarnation, nonce) = (NodeId(id), Incarnation(1), Nonce(1));
            bench.apply(Command::RegisterNode(RegisterNode {
                node,
                incarnation,
                nonce,
                offer,
                problems: vec![],
            }));
        }
        bench
    }

    fn apply(&mut self, command: Command) {
        self.now += 1;
        apply(&mut self.state, StampedCommand { now: TimeMs(self.now), command }).unwrap();
    }

    /// Queues tasks, `same` of one shape each: each submit has a spec of its own.
    fn queue(&mut self, count: u32, same: u32) {
        let rules = ClassRules::default_for(Class::CpuShort);
        for submit in 0..count.div_ceil(same) {
            let mut spec = TaskSpec::new(Class::CpuShort, vec![format!("task-{submit}")]);
            spec.cpu_milli = self.cpu_milli + u64::from(submit % 7);
            let spec = spec.resolve(&rules).unwrap();
            self.apply(Command::Submit(Submit {
                tenant: Tenant::default_tenant(),
                first: TaskId(u128::from(submit + 1) << 16),
                count: same.min(count),
                name: None,
                spec: SharedSpec::new(spec),
                key: None,
                digest: 0,
                key_made_ms: None,
            }));
        }
    }

    /// One plan, committed: tasks placed, time for both.
    fn round(&mut self, input: &PlanInput) -> (usize, Duration, Duration) {
        let begun = Instant::now();
        let made = plan(&self.state, input);
        let planned = begun.elapsed();
        let placed = made.assignments.len();
        let begun = Instant::now();
        self.apply(Command::CommitPlan(made));
        (placed, planned, begun.elapsed())
    }

    fn end_all(&mut self) {
        for id in 1..=NODES {
            let end = |lease| AttemptEnd::new(lease, EndKind::Exited(0), String::new(), 1);
            let ends: Vec<AttemptEnd> = self.state.leases_of(NodeId(id)).map(end).collect();
            self.apply(Command::RecordEnds { node: NodeId(id), ends });
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn measure(queued: u32, same: u32) {
    let mut bench = Bench::new();
    let reachable: BTreeSet<NodeId> = (1..=NODES).map(NodeId).collect();
    let input = PlanInput { reachable };
    bench.queue(queued + ROUNDS as u32 * NODES as u32 * SLOTS, same);
    let (mut plans, mut commits, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (placed, planned, committed) = bench.round(&input);
        assert_eq!(placed, (NODES as usize) * SLOTS as usize, "every slot gets a task");
        plans.push(planned.as_nanos() as f64 / placed as f64);
        commits.push(committed.as_nanos() as f64 / placed as f64);
        // Everything is taken now: what a plan costs that places nothing.
        let (none, planned, _) = bench.round(&input);
        assert_eq!(none, 0);
        idle.push(planned.as_nanos() as f64 / 1000.0);
        bench.end_all();
    }
    let (plan, commit, idle) = (median(plans), median(commits), median(idle));
    print!(
        "{queued:>7} queued, {same:>3} of a shape: {plan:>4.0} ns plan and {commit:>4.0} ns commit a placed task; "
    );
    println!(
        "places nothing: {idle:.1} us when all is taken, {:.0} us when nothing fits",
        blocked(queued, same)
    );
}

/// Microseconds of a plan when every node has free slots and no task fits.
fn blocked(queued: u32, same: u32) -> f64 {
    let mut bench = Bench::new();
    bench.cpu_milli = 2_000_000;
    bench.queue(queued, same);
    let input = PlanInput { reachable: (1..=NODES).map(NodeId).collect() };
    let times = (0..ROUNDS).map(|_| {
        let (none, planned, _) = bench.round(&input);
        assert_eq!(none, 0);
        planned.as_nanos() as f64 / 1000.0
    });
    median(times.collect())
}

fn main() {
    for same in [1, 100] {
        for queued in [100, 10_000, 100_000] {
            measure(queued, same);
        }
    }
}
