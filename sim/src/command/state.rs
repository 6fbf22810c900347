//! What a campaign has counted so far, kept in a small TOML file so that it goes on where it stopped.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::command::failure::{self, Failure};
use crate::command::recorded_event::Verdict;
use crate::command::run_context::RunContext;

/// Which program simulated: the version, and the commit when the build was told one.
const COMMIT: Option<&str> = option_env!("STINT_COMMIT");

/// The count of one campaign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub scenario: String,
    /// SHA-256 of the scenario's text, its first 64 bits: another text is another campaign.
    pub scenario_digest: String,
    pub plant: Option<String>,
    /// Of the program that counted last.
    pub version: String,
    pub commit: String,
    pub from: u64,
    /// Every seed before this one, from `from` on, is done.
    pub next: u64,
    pub done: u64,
    pub simulated_ms: u64,
    /// Real time spent, all runs together.
    pub spent_ms: u64,
    /// Seeds that were simulated twice and compared.
    pub twice: u64,
    /// Done out of turn.
    #[serde(default)]
    pub done_beyond: BTreeSet<u64>,
    #[serde(default)]
    pub bad: Vec<Bad>,
}

/// A seed that broke a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bad {
    pub seed: u64,
    pub code: u8,
    pub rule: String,
    pub what: String,
}

impl State {
    /// Nothing counted yet.
    pub fn new(context: &RunContext, from: u64) -> Self {
        let digest = Sha256::digest(context.text.as_bytes());
        Self {
            scenario: context.word.clone(),
            scenario_digest: digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
            plant: context.plant.map(|plant| plant.as_str().into()),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: COMMIT.unwrap_or("unknown").into(),
            from,
            next: from,
            ..Self::default()
        }
    }

    /// What the file says, or a new count when there is none; a file of another campaign is refused.
    pub fn open(path: &Path, new: State) -> Result<Self, Failure> {
        if !path.exists() {
            return Ok(new);
        }
        let refuse = |why: String| {
            let path = path.display();
            Failure::Usage(format!("{path} {why}; give another file, or remove it to begin anew"))
        };
        let text = failure::read(path)?;
        let known: State = toml::from_str(&text)
            .map_err(|error| refuse(format!("is not the state of a campaign ({error})")))?;
        if (&known.scenario_digest, &known.plant) != (&new.scenario_digest, &new.plant) {
            let of =
                format!("{}{}", known.scenario, known.plant.map_or(String::new(), |p| format!(" with {p}")));
            return Err(refuse(format!(
                "belongs to a campaign of the scenario {of}, or of an earlier text of it"
            )));
        }
        if known.from != new.from {
            return Err(refuse(format!("belongs to a campaign that began at seed {}", known.from)));
        }
        Ok(State { version: new.version, commit: new.commit, ..known })
    }

    /// Writes it whole: a reader, or a run that goes on, sees this state or the one before.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).map_err(|error| Failure::Usage(error.to_string()))?;
        let failed = |source| Failure::Write { path: path.into(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error)).map(|_| ())
    }

    /// Whether a seed was counted.
    pub fn has(&self, seed: u64) -> bool {
        (self.from..self.next).contains(&seed) || self.done_beyond.contains(&seed)
    }

    /// A seed is done.
    pub fn count(&mut self, verdict: &Verdict) {
        self.done += 1;
        self.simulated_ms += verdict.simulated_ms;
        self.done_beyond.insert(verdict.seed);
        while self.done_beyond.remove(&self.next) {
            self.next += 1;
        }
        if verdict.code != 0 {
            self.bad.push(Bad {
                seed: verdict.seed,
                code: verdict.code,
                rule: verdict.rule.clone().unwrap_or_default(),
                what: verdict.what.clone().unwrap_or_default(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(seed: u64, code: u8) -> Verdict {
        Verdict {
            seed,
            hash: String::new(),
            simulated_ms: 10,
            summary: String::new(),
            code,
            rule: (code != 0).then(|| "a rule".into()),
            what: None,
            faults: vec![],
        }
    }

    #[test]
    fn seeds_done_out_of_turn_are_counted_once_and_the_next_is_the_first_open_one() {
        let mut state = State { from: 5, next: 5, ..State::default() };
        state.count(&verdict(6, 0));
        state.count(&verdict(8, 10));
        assert_eq!((state.next, state.done), (5, 2));
        assert!(state.has(6) && state.has(8) && !state.has(5) && !state.has(7) && !state.has(4));
        state.count(&verdict(5, 0));
        assert_eq!((state.next, state.done, state.simulated_ms), (7, 3, 30));
        assert_eq!(state.bad.len(), 1);
    }

    #[test]
    fn a_saved_state_reads_back_and_another_campaign_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.toml");
        let mut state = State { scenario: "quiet".into(), scenario_digest: "a".into(), ..State::default() };
        state.count(&verdict(3, 11));
        state.save(&path).unwrap();
        let new = State { scenario: "quiet".into(), scenario_digest: "a".into(), ..State::default() };
        assert_eq!(State::open(&path, new.clone()).unwrap(), state);
        let other = State { scenario_digest: "b".into(), ..new };
        let refused = State::open(&path, other).unwrap_err().to_string();
        assert!(refused.contains("quiet") && refused.contains("remove it"), "{refused}");
    }
}
