//! `stint config check`: what is wrong or risky about a configuration.

use clap::{Args, Subcommand};
use serde::Serialize;
use stint_node::config::{Config, ConfigError, Overrides, Problem, Severity};

use crate::Done;
use crate::connect::environment;
use crate::failure::{Failure, USAGE};
use crate::logs;
use crate::output::Output;
use crate::text::Text;

#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Check a file together with the STINT_* variables; exits with 2 when a node would not start with it
    Check(CheckArgs),
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "STINT_CONFIG")]
    pub config: Option<std::path::PathBuf>,
}

#[derive(Serialize)]
struct Checked {
    valid: bool,
    problems: Vec<ProblemView>,
}

#[derive(Serialize)]
struct ProblemView {
    severity: &'static str,
    key: String,
    origin: String,
    message: String,
}

impl From<Problem> for ProblemView {
    fn from(problem: Problem) -> Self {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        Self { severity, key: problem.key, origin: problem.origin.to_string(), message: problem.message }
    }
}

pub fn run(output: &Output, args: ConfigArgs) -> Done {
    let ConfigCommand::Check(args) = args.command;
    let problems = match Config::load(args.config.as_deref(), &environment(), &Overrides::default()) {
        Ok(config) => problems_of(&config),
        Err(ConfigError::Invalid(problems)) => problems,
        Err(other) => return Err(Failure::Config(other)),
    };
    let valid = problems.iter().all(|problem| problem.severity == Severity::Warning);
    let checked = Checked { valid, problems: problems.into_iter().map(ProblemView::from).collect() };
    let keys: Vec<String> = checked.problems.iter().map(|problem| problem.key.clone()).collect();
    output.show(&checked, keys, || text(&checked))?;
    Ok(if valid { 0 } else { USAGE })
}

fn problems_of(config: &Config) -> Vec<Problem> {
    let mut problems = config.check();
    problems.extend(config.check_files());
    if let Some(message) = logs::problem_of(&config.log.filter) {
        problems.push(config.problem("log.filter", message));
    }
    problems
}

fn text(checked: &Checked) -> Text {
    let line = |p: &ProblemView| format!("{}: {}: {}: {}", p.severity, p.origin, p.key, p.message);
    let text: Text = checked.problems.iter().map(line).collect();
    if checked.valid { text.and("the configuration is valid") } else { text }
}
