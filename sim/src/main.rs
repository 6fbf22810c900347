//! `stint-sim`: simulates seeds, each in a process of its own.
//!
//! Exit codes: 0 fine, 2 wrong arguments, 10 safety, 11 liveness, 12 not deterministic, 13 crash.

mod args;
mod fast_commands;
mod sweep;

use std::process::ExitCode;

use mad_turmoil::rand::set_rng;
use mad_turmoil::time::SimClocksGuard;
use rand::SeedableRng;
use rand::rngs::StdRng;
use stint_sim::{Report, Run};

use crate::args::{Args, SeedArgs};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = fast_commands::carry_out(&words) {
        return code;
    }
    match args::parse(std::env::args().skip(1)) {
        Ok(Args::Seed(seed)) => simulate(&seed),
        Ok(Args::Twice(seed)) => sweep::twice(&seed),
        Ok(Args::Run(run)) => sweep::run(&run),
        Err(problem) => {
            eprintln!("{problem}\n\n{}\n{}", args::USAGE, fast_commands::USAGE);
            ExitCode::from(2)
        }
    }
}

/// Runs one seed in this process, which does nothing else: chance and clocks of the C library are the seed's.
fn simulate(args: &SeedArgs) -> ExitCode {
    set_rng(StdRng::seed_from_u64(args.seed));
    if let Ok(filter) = std::env::var("STINT_SIM_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    let report = {
        let _clocks = SimClocksGuard::init();
        stint_sim::run(&Run { seed: args.seed, plant: args.plant, ..Run::default() })
    };
    if !args.quiet {
        print!("{}", report.trace.text());
    }
    println!("{}", last_line(args.seed, &report));
    // What is left of the simulation is not worth taking down.
    std::process::exit(report.violation.map_or(0, |violation| violation.severity as i32));
}

fn last_line(seed: u64, report: &Report) -> String {
    let Report { simulated_ms, summary, trace, .. } = report;
    let hash = trace.hash();
    let verdict = match &report.violation {
        None => "ok".to_owned(),
        Some(violation) => format!("{:?} \"{}\": {}", violation.severity, violation.rule, violation.what),
    };
    format!("seed {seed} {hash} {simulated_ms} ms, {summary}: {verdict}")
}
