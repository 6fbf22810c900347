//! A campaign: many seeds of one scenario, and what came of them.

use std::path::Path;

use serde::Serialize;

use crate::args::{Format, RunArgs, cores};
use crate::command::campaign::{self, Plan, Stopped};
use crate::command::failure::{self, Failure, print};
use crate::command::progress::hours;
use crate::command::run_context::{self, RunContext};
use crate::command::state::State;
use crate::command::{Done, exit, library, real};

/// Where a scenario made of --config and --workload goes.
const SAVED: &str = "simulated.toml";

/// Runs it to its end.
pub fn run(args: &RunArgs) -> Done {
    let context = context(args)?;
    let plan = Plan {
        from: args.from,
        seeds: args.seeds,
        jobs: args.jobs.unwrap_or_else(cores),
        at_most: args.at_most,
        state: args.state.clone(),
        twice_percent: args.twice_percent,
        stop_at_first: args.stop_at_first,
    };
    let (state, stopped) = campaign::run(&context, &plan)?;
    let code = exit::gravest(state.bad.iter().map(|bad| bad.code));
    match args.output {
        Format::Table => print(&table(&context, args, &state, stopped))?,
        Format::Json => print(&json(&context, args, &state, stopped, code)?)?,
    }
    if stopped == Stopped::Interrupted {
        eprintln!("a seed was stopped by a signal and is not counted");
    }
    Ok(code)
}

fn context(args: &RunArgs) -> Result<RunContext, Failure> {
    if args.config.is_empty() && args.workload.is_none() {
        return RunContext::load(&args.world);
    }
    let mut scenario = library::load(&args.world.scenario)?;
    if !args.config.is_empty() {
        real::take_over(&mut scenario, &args.config)?;
    }
    if let Some(path) = &args.workload {
        real::play(&mut scenario, path, args.speedup)?;
    }
    let path = args.save_scenario.as_deref().unwrap_or(Path::new(SAVED));
    failure::write(path, &run_context::to_toml(&scenario)?)?;
    let word = if path.is_absolute() || path.starts_with(".") || path == Path::new(SAVED) {
        path.display().to_string()
    } else {
        format!("./{}", path.display())
    };
    eprintln!("the scenario is in {word}: read it, change it, replay its seeds with it");
    RunContext::new(scenario, word, args.world.plant)
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    state: &'a State,
    seeds: u64,
    stopped: Stopped,
    exit_code: u8,
    replay: Vec<String>,
}

fn json(
    context: &RunContext,
    args: &RunArgs,
    state: &State,
    stopped: Stopped,
    code: u8,
) -> Result<String, Failure> {
    let replay = state.bad.iter().map(|bad| context.command("replay", bad.seed, None)).collect();
    let summary = Summary { state, seeds: args.seeds, stopped, exit_code: code, replay };
    let text = serde_json::to_string_pretty(&summary).map_err(std::io::Error::from)?;
    Ok(text + "\n")
}

fn table(context: &RunContext, args: &RunArgs, state: &State, stopped: Stopped) -> String {
    let State { done, simulated_ms, twice, bad, .. } = state;
    let name = &context.scenario.name;
    let seeds = if *done == 1 { "seed" } else { "seeds" };
    let mut text = format!("{done} {seeds} of {name}, {} simulated, {} bad", hours(*simulated_ms), bad.len());
    if *twice > 0 {
        text += &format!("; {twice} simulated twice and compared");
    }
    text += &match stopped {
        Stopped::AllDone => "\n".to_owned(),
        Stopped::TimeOver => format!("; the time was over before all {} seeds\n", args.seeds),
        Stopped::FirstBad => "; stopped at the first bad one\n".into(),
        Stopped::Interrupted => "; interrupted\n".into(),
    };
    for bad in bad {
        text += &format!("  seed {} ({}): {}\n", bad.seed, exit::word(bad.code), bad.rule);
    }
    if let Some(bad) = bad.first() {
        text += &format!("next: {}\n", context.command("shrink", bad.seed, None));
        text += &format!("      {} --html {}.html\n", context.command("explain", bad.seed, None), bad.seed);
    }
    text
}
