//! A recorded workload: JSON lines, one submit each, in any order.

use std::collections::BTreeMap;
use std::path::Path;

use stint_protocol::Class;
use stint_sdk::{suggest, units};
use stint_sim::scenario::Range;
use stint_sim::{RecordedTask, Scenario};

use super::LONGEST_MS;
use crate::command::failure::{self, Failure};

/// Submits of one recording.
const MOST_LINES: usize = 20_000;
/// Tasks of one submit.
const MOST_COUNT: u32 = 1_000;
/// A run time may come to this much above the longest recorded one, in milliseconds.
const TIMEOUT_SLACK_MS: u64 = 2_000;

/// Plays the tasks of the file in the scenario, this many times faster than they were recorded. Leases keep their
/// length: only the work is faster.
pub fn play(scenario: &mut Scenario, path: &Path, speedup: f64) -> Result<(), Failure> {
    let text = failure::read(path)?;
    let usage = |why: String| Failure::Usage(format!("{}{why}", path.display()));
    let mut tasks = read(&text, scenario).map_err(|(line, why)| usage(format!(":{line}: {why}")))?;
    let scaled = |ms: u64| (ms as f64 / speedup).round() as u64;
    for task in &mut tasks {
        (task.at_ms, task.run_ms) = (scaled(task.at_ms), scaled(task.run_ms).max(1));
    }
    tasks.sort_by_key(|task| task.at_ms);
    fit(scenario, &tasks).map_err(|why| usage(format!(": {why}")))?;
    let (submits, last) = (tasks.len(), tasks.last().map_or(0, |task| task.at_ms));
    let all: u64 = tasks.iter().map(|task| u64::from(task.count)).sum();
    eprintln!("playing {all} tasks of {submits} submits within {}", units::show_duration(last));
    scenario.workload.recorded = tasks;
    Ok(())
}

fn read(text: &str, scenario: &Scenario) -> Result<Vec<RecordedTask>, (usize, String)> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let one = |(at, line): (usize, &str)| {
        let task: RecordedTask = serde_json::from_str(line).map_err(|error| (at + 1, error.to_string()))?;
        check(&task, scenario).map_err(|why| (at + 1, why))?;
        Ok(task)
    };
    let tasks: Vec<RecordedTask> = lines.map(one).collect::<Result<_, _>>()?;
    match tasks.len() {
        0 => Err((1, "there is no task in it".into())),
        1..=MOST_LINES => Ok(tasks),
        many => Err((MOST_LINES + 1, format!("{many} lines, and a recording holds {MOST_LINES} at most"))),
    }
}

/// What no simulated node could ever run would wait for ever.
fn check(task: &RecordedTask, scenario: &Scenario) -> Result<(), String> {
    let topology = &scenario.topology;
    let class: Class = task.class.parse().map_err(|_| {
        let known = Class::ALL.map(|class| class.as_str());
        format!("class {:?} is not known{}", task.class, suggest::hint(&task.class, known))
    })?;
    match class {
        Class::GpuSlurm if topology.slurm_jobs == 0 => {
            return Err(
                "class gpu_slurm, and there is no simulated Slurm: see topology.slurm_jobs of the scenario"
                    .into(),
            );
        }
        Class::Gpu if topology.gpus.iter().all(|count| *count == 0) => {
            return Err(
                "class gpu, and no simulated node has a GPU: see topology.gpus of the scenario".into()
            );
        }
        _ => {}
    }
    if task.cpu_milli > topology.cpu_milli || task.memory_bytes > topology.memory_bytes {
        return Err(format!(
            "needs {} cores and {}, and simulated nodes have {} and {}: see --config, or [topology] of the scenario",
            units::show_cpus(task.cpu_milli),
            units::show_bytes(task.memory_bytes),
            units::show_cpus(topology.cpu_milli),
            units::show_bytes(topology.memory_bytes)
        ));
    }
    match task {
        RecordedTask { count: 0 | 1_001.., .. } => Err(format!("count must be 1 to {MOST_COUNT}")),
        RecordedTask { priority: 101.., .. } => Err("priority must be 0 to 100".into()),
        RecordedTask { cpu_milli: 0, .. } => Err("cpu_milli must be more than 0".into()),
        _ => Ok(()),
    }
}

/// Makes the scenario's times long enough, and its clients only read beside what is played.
fn fit(scenario: &mut Scenario, tasks: &[RecordedTask]) -> Result<(), String> {
    let longest = tasks.iter().map(|task| task.run_ms).max().unwrap_or(0);
    let last = tasks.last().map_or(0, |task| task.at_ms);
    let rules = &mut scenario.cluster;
    rules.timeout_ms = rules.timeout_ms.max(longest + TIMEOUT_SLACK_MS);
    let time = &mut scenario.time;
    time.trouble_ms = time.trouble_ms.max(last + 1_000);
    // All work once more after the end, on the narrowest resource, and some attempts twice.
    time.settle_ms += 3 * rules.timeout_ms + backlog_ms(&scenario.topology, tasks);
    let whole = time.ready_ms + time.trouble_ms + time.settle_ms;
    if whole > LONGEST_MS {
        return Err(format!(
            "a seed would last up to {}, and one may last {}: raise --speedup, or give a part of the recording",
            units::show_duration(whole),
            units::show_duration(LONGEST_MS)
        ));
    }
    scenario.workload.requests = BTreeMap::from([("read".to_owned(), 1)]);
    scenario.workload.every_ms = Range(500, 3_000);
    Ok(())
}

/// How long all of it takes when two thirds of the nodes are there and nothing else delays it.
fn backlog_ms(topology: &stint_sim::scenario::Topology, tasks: &[RecordedTask]) -> u64 {
    let nodes = topology.voters.0.max(1);
    let gpus: u64 = (0..nodes as usize)
        .map(|node| topology.gpus.get(node % topology.gpus.len().max(1)).map_or(0, |count| u64::from(*count)))
        .sum();
    let sum = |of: fn(&RecordedTask) -> u64| -> u64 {
        tasks.iter().map(|task| u64::from(task.count) * task.run_ms * of(task)).sum()
    };
    let by_cpu = sum(|task| task.cpu_milli) / (nodes * topology.cpu_milli).max(1);
    let by_gpu = sum(|task| u64::from(task.class == "gpu")) / gpus.max(1);
    by_cpu.max(by_gpu) * 3 / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(lines: &str, speedup: f64) -> Result<Scenario, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        let mut scenario = Scenario::default();
        play(&mut scenario, file.path(), speedup).map_err(|failure| failure.to_string())?;
        Ok(scenario)
    }

    fn line(fields: &str) -> String {
        format!("{{\"cpu_milli\": 1000, \"memory_bytes\": 1, {fields}}}\n")
    }

    #[test]
    fn tasks_are_played_in_their_order_and_faster() {
        let lines = line("\"at_ms\": 90000, \"class\": \"gpu\", \"run_ms\": 40000")
            + &line("\"at_ms\": 10000, \"class\": \"cpu_short\", \"run_ms\": 10, \"end\": \"failed\"");
        let scenario = played(&lines, 2.0).unwrap();
        let tasks: Vec<_> = scenario.workload.recorded.iter().map(|task| (task.at_ms, task.run_ms)).collect();
        assert_eq!(tasks, [(5_000, 5), (45_000, 20_000)]);
        assert_eq!((scenario.time.trouble_ms, scenario.cluster.timeout_ms), (46_000, 22_000));
    }

    #[test]
    fn what_cannot_be_played_is_refused_with_its_line() {
        let good = line("\"at_ms\": 1, \"class\": \"gpu\", \"run_ms\": 1");
        for (bad, word) in [
            (line("\"at_ms\": 1, \"class\": \"gp\", \"run_ms\": 1"), "gpu"),
            (line("\"at_ms\": 1, \"class\": \"gpu\", \"run_ms\": 1, \"count\": 0"), "count"),
            (line("\"at_ms\": 1, \"class\": \"gpu\", \"runs_ms\": 1"), "runs_ms"),
            ("{\"at_ms\": 1, \"class\": \"gpu\", \"cpu_milli\": 64000, \"memory_bytes\": 1, \"run_ms\": 1}".into(), "--config"),
        ] {
            let refused = played(&(good.clone() + &bad), 1.0).unwrap_err();
            assert!(refused.contains(":2: ") && refused.contains(word), "{refused}");
        }
        let long = line("\"at_ms\": 9000000, \"class\": \"gpu\", \"run_ms\": 1");
        assert!(played(&long, 1.0).unwrap_err().contains("--speedup"));
        assert!(played(&long, 10.0).is_ok());
    }
}
