//! What the seeds of one command stand on: the scenario, kept in a file for the processes of the seeds, and the words
//! by which a user names it.

use std::io::Write as _;

use stint_sim::{Plant, Scenario};
use tempfile::NamedTempFile;

use crate::args::{Only, WorldArgs};
use crate::command::failure::Failure;
use crate::command::library;

/// A scenario that does not change any more, whatever happens to the file it was read from.
#[derive(Debug)]
pub struct RunContext {
    pub scenario: Scenario,
    pub plant: Option<Plant>,
    /// As the user names it.
    pub word: String,
    /// As TOML.
    pub text: String,
    file: NamedTempFile,
}

impl RunContext {
    /// What the command line asks for.
    pub fn load(world: &WorldArgs) -> Result<Self, Failure> {
        Self::new(library::load(&world.scenario)?, world.scenario.clone(), world.plant)
    }

    /// `word` is how a user would name this scenario.
    pub fn new(scenario: Scenario, word: String, plant: Option<Plant>) -> Result<Self, Failure> {
        let text = to_toml(&scenario)?;
        let mut file = tempfile::Builder::new().prefix("stint-sim-").suffix(".toml").tempfile()?;
        file.write_all(text.as_bytes())?;
        Ok(Self { scenario, plant, word, text, file })
    }

    /// Where the seeds' processes find it.
    pub fn path(&self) -> &std::path::Path {
        self.file.path()
    }

    /// The command that does `verb` with this seed.
    pub fn command(&self, verb: &str, seed: u64, only: Option<&Only>) -> String {
        let mut line = format!("{} {verb} {seed}", program());
        if self.word != "mixed-chaos" {
            line += &format!(" {}", quoted(&self.word));
        }
        if let Some(plant) = self.plant {
            line += &format!(" --plant {}", plant.as_str());
        }
        if let Some(only) = only {
            line += &format!(" --only {only}");
        }
        line
    }
}

/// A scenario as a file that reads back.
pub fn to_toml(scenario: &Scenario) -> Result<String, Failure> {
    toml::to_string(scenario)
        .map_err(|error| Failure::Usage(format!("the scenario cannot be written: {error}")))
}

/// This program as the user called it.
fn program() -> String {
    match std::env::args().next() {
        // As `stint sim` calls it.
        Some(called) if called.ends_with("stint sim") => called,
        Some(called) if called.contains('/') => quoted(&called),
        _ => "stint-sim".into(),
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
