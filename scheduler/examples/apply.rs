//! Cost of a task's life in the state machine, by what is done to it:
//! `cargo run --profile dist -p stint-scheduler --example apply [-- SUBMITS]`.
//!
//! Three nodes run 512 tasks each, of submits of 10,000. As on a peer, somebody still looks at the state of the entry before
//! while the next one is applied. The history is full of tasks when measuring begins. Figures are means of 60 submits.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use stint_protocol::*;
use stint_scheduler::*;

const NODES: u64 = 3;
const SLOTS: u32 = 512;
const SUBMIT: u32 = 10_000;
/// Submits before measuring begins.
const WARM: usize = 20;

#[derive(Default)]
struct Costs {
    submit: Duration,
    plan: Duration,
    grant: Duration,
    end: Duration,
}

struct Bench {
    state: State,
    /// What somebody looks at.
    seen: State,
    planner: Planner,
    input: PlanInput,
    now: u64,
    submits: u128,
    costs: Costs,
}

impl Bench {
    fn new() -> Self {
        let input = PlanInput { reachable: (1..=NODES).map(NodeId).collect() };
        let (state, planner) = (State::default(), Planner::default());
        let (seen, costs) = (state.clone(), Costs::default());
        let mut bench = Self { state, seen, planner, input, now: 1_000, submits: 0, costs };
        bench.apply(Command::Configure(Settings { max_live_tasks: 4_000_000, ..Settings::default() }));
        bench.apply(Command::AddJoinToken { hash: [1; 32], valid_ms: 600_000_000, uses: None });
        for id in 1..=NODES {
            let (disk, address) = (u128::from(id).to_le_bytes(), format!("10.0.0.{id}:7001"));
            let token = (id > 1).then_some([1; 32]);
            let (name, speaks) = (format!("n{id}"), version::CURRENT);
            bench.apply(Command::Admit(Admit { disk, name, address, token, speaks }));
            let offer = NodeOffer {
                resources: Resources { cpu_milli: 1_000_000, memory_bytes: 1 << 40 },
                runtimes: vec![Runtime::Process],
                classes: vec![Class::CpuShort],
                slots: SLOTS,
                ..NodeOffer::default()
            };
            let (node, incarnation, nonce) = (NodeId(id), Incarnation(1), Nonce(1));
            let problems = Vec::new();
            bench.apply(Command::RegisterNode(RegisterNode { node, incarnation, nonce, offer, problems }));
        }
        bench.apply(Command::RaiseVersion { to: version::CURRENT });
        bench
    }

    fn apply(&mut self, command: Command) -> Duration {
        self.now += 1;
        let begun = Instant::now();
        apply(&mut self.state, StampedCommand { now: TimeMs(self.now), command }).unwrap();
        begun.elapsed()
    }

    fn submit(&mut self) {
        let mut spec = TaskSpec::new(Class::CpuShort, vec!["/bin/true".into()]);
        (spec.cpu_milli, spec.memory_bytes) = (100, 8 << 20);
        let spec = SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::CpuShort)).unwrap());
        self.submits += 1;
        let first = TaskId(self.submits << 64);
        let tenant = Tenant::default_tenant();
        let key_made_ms = None;
        let (count, name, key, digest) = (SUBMIT, None, None, 0);
        let submit = Submit { tenant, first, count, name, spec, key, digest, key_made_ms };
        let took = self.apply(Command::Submit(submit));
        self.costs.submit += took;
        self.seen = self.state.clone();
    }

    /// Ends what runs and grants what the plan says; false when nothing ran and nothing waits.
    fn round(&mut self) -> bool {
        let mut busy = false;
        for node in (1..=NODES).map(NodeId) {
            let end = |lease| AttemptEnd::new(lease, EndKind::Exited(0), String::new(), 1);
            let ends: Vec<AttemptEnd> = self.state.leases_of(node).map(end).collect();
            busy |= !ends.is_empty();
            let took = self.apply(Command::RecordEnds { node, ends });
            self.costs.end += took;
        }
        let begun = Instant::now();
        let plan = self.planner.plan(&self.state, &self.input);
        self.costs.plan += begun.elapsed();
        busy |= !plan.assignments.is_empty();
        let took = self.apply(Command::CommitPlan(plan));
        self.costs.grant += took;
        self.seen = self.state.clone();
        busy
    }

    fn run(&mut self) {
        self.submit();
        while self.round() {}
    }
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(60, |given| given.parse().unwrap());
    let mut bench = Bench::new();
    (0..WARM.min(rounds)).for_each(|_| bench.run());
    bench.costs = Costs::default();
    (0..rounds).for_each(|_| bench.run());
    let micros = |time: Duration| time.as_nanos() as f64 / 1000.0 / (rounds as f64 * f64::from(SUBMIT));
    let Costs { submit, plan, grant, end } = bench.costs;
    println!(
        "us a task: submit {:.3}, plan {:.3}, grant {:.3}, end {:.3}; all but the plan {:.3}; {} remembered",
        micros(submit),
        micros(plan),
        micros(grant),
        micros(end),
        micros(submit + grant + end),
        bench.seen.remembered(),
    );
}
