//! The scenarios that come with the program, and how a scenario is named on the command line.

use std::path::Path;

use stint_sdk::suggest;
use stint_sim::Scenario;

use crate::command::failure::{self, Failure};

macro_rules! library {
    ($($name:literal),* $(,)?) => {
        /// Name and TOML of each.
        pub const LIBRARY: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*];
    };
}

library![
    "mixed-chaos",
    "leader-cut-with-worker",
    "gpu-node-paused",
    "stopped-hosts",
    "rolling-restart",
    "rolling-upgrade",
    "full-disk-leader",
    "slow-disks",
    "flapping-links",
    "clock-jumps",
    "clocks-apart",
    "quorum-away",
    "split-votes",
    "lost-votes",
    "power-cut",
    "long-outage",
    "churn",
    "slurm-chaos",
    "slurm-purge",
    "slurm-restarts",
    "slurm-begins-again",
    "slurm-first-question",
    "quiet",
];

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> {
    LIBRARY.iter().map(|(name, _)| *name)
}

/// The TOML of a named scenario.
pub fn text(name: &str) -> Result<&'static str, Failure> {
    let found = LIBRARY.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    found.ok_or_else(|| unknown(name))
}

/// What `word` means: a name of the library, or a TOML file.
pub fn load(word: &str) -> Result<Scenario, Failure> {
    if let Some((name, text)) = LIBRARY.iter().find(|(name, _)| *name == word) {
        return parse(name, text);
    }
    let path = Path::new(word);
    if !path.exists() && !word.contains(['/', '.']) {
        return Err(unknown(word));
    }
    parse(word, &failure::read(path)?)
}

fn unknown(word: &str) -> Failure {
    let hint = suggest::hint(word, names());
    Failure::Usage(format!(
        "there is no scenario {word:?}{hint}; `stint-sim scenarios` lists them, and the path of a TOML file works too"
    ))
}

/// A scenario that can be run.
pub fn parse(source: &str, text: &str) -> Result<Scenario, Failure> {
    let scenario: Scenario = toml::from_str(text)
        .map_err(|error| Failure::Usage(format!("{source} is not a scenario:\n{error}")))?;
    for kind in kinds(&scenario) {
        if !stint_sim::fault_kinds().any(|known| known == kind) {
            let hint = suggest::hint(kind, stint_sim::fault_kinds());
            let known: Vec<&str> = stint_sim::fault_kinds().collect();
            let known = known.join(", ");
            let message = format!("{source}: there is no fault {kind:?}{hint}; there are {known}");
            return Err(Failure::Usage(message));
        }
    }
    scenario.validate().map_err(|problem| Failure::Usage(format!("{source}: {problem}")))?;
    Ok(scenario)
}

/// The kinds of faults that a scenario names.
pub fn kinds(scenario: &Scenario) -> impl Iterator<Item = &str> {
    scenario.lanes.iter().flat_map(|lane| lane.faults.keys()).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_chaos_is_the_default() {
        assert_eq!(load("mixed-chaos").unwrap(), Scenario::default());
    }

    #[test]
    fn every_scenario_reads_has_its_name_and_says_what_it_is_for() {
        for (name, text) in LIBRARY {
            let scenario: Scenario = toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(scenario.name, *name);
            assert!(scenario.about.ends_with('.'), "{name}: {:?}", scenario.about);
            assert_eq!(scenario.validate(), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_mistyped_scenario_is_answered_with_the_right_one() {
        let error = load("mixed-caos").unwrap_err().to_string();
        assert!(error.contains("mixed-chaos") && error.contains("stint-sim scenarios"), "{error}");
    }

    #[test]
    fn an_unknown_fault_is_answered_with_the_right_one() {
        let text = "[[lanes]]\nname = \"a\"\npause_ms = 1\nlength_ms = 1\nfaults = { isolat = 1 }\n";
        let error = parse("mine.toml", text).unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains("isolate"), "{error}");
    }
}
