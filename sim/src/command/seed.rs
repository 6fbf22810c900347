//! One seed in this process, which does nothing else: chance and clocks of the C library are the seed's.

use mad_turmoil::rand::set_rng;
use mad_turmoil::time::SimClocksGuard;
use rand::SeedableRng;
use rand::rngs::StdRng;
use stint_sim::{Event, Report, Run};
use tracing_subscriber::EnvFilter;

use crate::args::SeedArgs;
use crate::command::failure::{Failure, print};
use crate::command::recorded_event::{Line, Verdict};
use crate::command::{Done, library};

/// The variable that says what of the peers' messages is shown.
const MESSAGES: &str = "STINT_SIM_LOG";

/// When the words after the program's name are `seed S ...`: chance of this process is the seed's from now on, so that
/// also hash maps made while the arguments are read are the same in every run.
pub fn take_over_chance(mut args: impl Iterator<Item = String>) {
    if args.next().as_deref() == Some("seed")
        && let Some(seed) = args.next().and_then(|word| word.parse().ok())
    {
        set_rng(StdRng::seed_from_u64(seed));
    }
}

/// Simulates it and prints what happened.
pub fn run(args: &SeedArgs) -> Done {
    let scenario = library::load(&args.world.scenario)?;
    show_messages()?;
    let only = args.only.clone().map(|only| only.0.into_iter().collect());
    let report = {
        let _clocks = SimClocksGuard::init();
        stint_sim::run(&Run { seed: args.seed, scenario, plant: args.world.plant, only })
    };
    let verdict = Verdict::new(args.seed, &report);
    // A reader that went away changes nothing about the seed.
    let _ = print(&shown(args, &report, &verdict));
    // What is left of the simulation is not worth taking down.
    std::process::exit(verdict.code.into());
}

/// Shows what the peers log, on stderr. Also when nobody wants to see it: whether there is a subscriber changes which
/// chances are drawn, what it shows does not.
fn show_messages() -> Result<(), Failure> {
    let wanted = std::env::var(MESSAGES).unwrap_or_else(|_| "off".into());
    let filter = EnvFilter::try_new(&wanted)
        .map_err(|error| Failure::Usage(format!("{MESSAGES}={wanted}: {error}: write for example info")))?;
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    Ok(())
}

fn shown(args: &SeedArgs, report: &Report, verdict: &Verdict) -> String {
    let mut text = match (args.quiet, args.json) {
        (true, _) => String::new(),
        (false, false) => report.trace.text(),
        (false, true) => {
            let line = |(at_ms, event): &(u64, Event)| json(&Line { at_ms: *at_ms, event: event.into() });
            report.trace.0.iter().map(line).collect()
        }
    };
    text.push_str(&if args.json { json(verdict) } else { verdict.message() + "\n" });
    text
}

fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|error| panic!("plain data: {error}"));
    text + "\n"
}
