//! What a scenario may say, and in which words it is told that it may not.

use std::collections::BTreeMap;

use stint_protocol::Class;

use crate::faults;
use crate::identity::NODES;
use crate::membership::VOTERS;
use crate::scenario::{Lane, Range, Scenario, Topology, Workload};
use crate::workload::REQUESTS;

/// Longest step of the simulation, in milliseconds: a fraction of a heartbeat.
const LONGEST_STEP_MS: u64 = 20;
/// What a task of the workload asks for; a node that offers less would leave it waiting for ever.
const TASK_CPU_MILLI: u64 = 1_000;
const TASK_MEMORY_BYTES: u64 = 1 << 30;

impl Scenario {
    /// Whether it can be run; if not, what is wrong and what would be right.
    pub fn validate(&self) -> Result<(), String> {
        self.topology.validate()?;
        self.workload.validate(&self.topology)?;
        if !(1..=LONGEST_STEP_MS).contains(&self.time.step_ms) {
            let step_ms = self.time.step_ms;
            return Err(format!("time.step_ms is {step_ms}: it must be 1 to {LONGEST_STEP_MS}"));
        }
        let mut names: Vec<&str> = self.lanes.iter().map(|lane| lane.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
            return Err(format!("two lanes are named {:?}: a fault is known by its lane's name", twice[0]));
        }
        self.lanes.iter().try_for_each(Lane::validate)
    }
}

impl Topology {
    fn validate(&self) -> Result<(), String> {
        ordered("topology.voters", self.voters)?;
        ordered("topology.executors", self.executors)?;
        ordered("topology.old_peers", self.old_peers)?;
        if self.voters.0 < 1 || self.voters.1 > VOTERS {
            return Err(format!("topology.voters is {}: it must be 1 to {VOTERS}", shown(self.voters)));
        }
        let nodes = self.voters.1 + self.executors.1;
        if nodes > NODES {
            return Err(format!(
                "topology: up to {nodes} nodes (voters and executors), at most {NODES} can be simulated"
            ));
        }
        if self.cpu_milli < TASK_CPU_MILLI || self.memory_bytes < TASK_MEMORY_BYTES || self.slots == 0 {
            return Err(format!(
                "topology: a task needs {TASK_CPU_MILLI} cpu_milli, {TASK_MEMORY_BYTES} memory_bytes and one of slots"
            ));
        }
        if self.drift_ppm >= 1_000_000 {
            return Err(format!("topology.drift_ppm is {}: it must be below 1000000", self.drift_ppm));
        }
        Ok(())
    }

    /// Whether some node will have a device of its own whatever numbers are drawn.
    fn has_gpus(&self) -> bool {
        let fewest = (self.voters.0 + self.executors.0) as usize;
        self.gpus.iter().take(fewest).any(|gpus| *gpus > 0)
    }
}

impl Workload {
    fn validate(&self, topology: &Topology) -> Result<(), String> {
        ordered("workload.every_ms", self.every_ms)?;
        ordered("workload.count", self.count)?;
        self.run_ms.iter().try_for_each(|range| ordered("workload.run_ms", *range))?;
        known("workload.requests", &self.requests, &REQUESTS)?;
        let classes = Class::ALL.map(Class::as_str);
        known("workload.classes", &self.classes, &classes)?;
        if self.classes.get(Class::Gpu.as_str()).is_some_and(|weight| *weight > 0) && !topology.has_gpus() {
            return Err(
                "workload.classes has gpu, but topology.gpus gives no node one: tasks would wait for ever"
                    .into(),
            );
        }
        let weight = |class: Class| self.classes.get(class.as_str()).copied().unwrap_or(0);
        if weight(Class::GpuSlurm) > 0 && topology.slurm_jobs == 0 {
            return Err(
                "workload.classes has gpu_slurm, but topology.slurm_jobs is 0: tasks would wait for ever"
                    .into(),
            );
        }
        if self.count.0 < 1 {
            return Err("workload.count: a submit has one task at least".into());
        }
        let both = self.failing_percent + self.hanging_percent;
        if both > 100 {
            return Err(format!(
                "workload.failing_percent and hanging_percent are {both} together, over 100"
            ));
        }
        match self.run_ms.is_empty() {
            true => Err("workload.run_ms is empty: name at least one range, such as [1, 800]".into()),
            false => Ok(()),
        }
    }
}

impl Lane {
    fn validate(&self) -> Result<(), String> {
        let place = format!("lane {:?}", self.name);
        ordered(&format!("{place}: pause_ms"), self.pause_ms)?;
        ordered(&format!("{place}: length_ms"), self.length_ms)?;
        let kinds: Vec<&str> = faults::kinds().collect();
        known(&format!("{place}: faults"), &self.faults, &kinds)
    }
}

fn shown(range: Range) -> String {
    format!("[{}, {}]", range.0, range.1)
}

fn ordered(what: &str, range: Range) -> Result<(), String> {
    if range.0 <= range.1 {
        return Ok(());
    }
    Err(format!("{what} is {}: the low bound comes first", shown(range)))
}

/// Every name exists, and some weight is above zero.
fn known(what: &str, weights: &BTreeMap<String, u64>, names: &[&str]) -> Result<(), String> {
    if let Some(unknown) = weights.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("{what}: unknown {unknown:?}: use {}", names.join(", ")));
    }
    if weights.values().all(|weight| *weight == 0) {
        return Err(format!("{what}: no weight is above zero"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Scenario)) -> String {
        let mut scenario = Scenario::default();
        change(&mut scenario);
        scenario.validate().expect_err("it is refused")
    }

    #[test]
    fn the_default_can_be_run() {
        assert_eq!(Scenario::default().validate(), Ok(()));
    }

    #[test]
    fn an_unknown_name_is_told_what_exists() {
        let said = refused(|s| {
            let _ = s.lanes[0].faults.insert("earthquake".into(), 1);
        });
        assert!(said.contains("earthquake") && said.contains("crash-leader"), "{said}");
        let said = refused(|s| {
            let _ = s.workload.classes.insert("tpu".into(), 1);
        });
        assert!(said.contains("cpu_short"), "{said}");
        let said = refused(|s| {
            let _ = s.workload.requests.insert("wish".into(), 1);
        });
        assert!(said.contains("submit, read, cancel, log"), "{said}");
    }

    #[test]
    fn numbers_have_bounds() {
        assert!(refused(|s| s.topology.voters = Range(0, 3)).contains("1 to 7"));
        assert!(refused(|s| s.topology.voters = Range(3, 9)).contains("1 to 7"));
        assert!(refused(|s| s.topology.executors = Range(2, 1)).contains("low bound"));
        assert!(refused(|s| s.topology.executors = Range(0, 11)).contains("at most 12"));
        assert!(refused(|s| s.workload.failing_percent = 99).contains("over 100"));
        assert!(refused(|s| s.time.step_ms = 0).contains("step_ms"));
        assert!(refused(|s| s.topology.gpus = vec![0]).contains("gpus"));
    }
}
