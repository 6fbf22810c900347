//! Settings of a node's configuration, put into a scenario: what is taken over, what has no meaning in a simulation, and
//! what cannot be simulated and is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use stint_node::config::{Config, Gpus, Machine, Overrides, RaftProfile};
use stint_protocol::{Class, Runtime};
use stint_sdk::units;
use stint_sim::scenario::{Range, Topology};
use stint_sim::{Pace, Place, Scenario};

use super::LONGEST_MS;
use crate::command::failure::Failure;

/// Simulated kills take up to 300 ms, and must fit.
const LEAST_KILL_MARGIN_MS: u64 = 400;
/// Peers that a simulation can have.
const MOST_NODES: usize = 7;
/// What an end may take beside leases, in milliseconds.
const SETTLE_MS: u64 = 30_000;
/// Jobs that a simulated Slurm runs at a time where the scenario does not say.
const SLURM_JOBS: u32 = 12;
/// A lost attempt may be lost again: so many leases fit into the time to settle.
const LEASES_TO_SETTLE: u64 = 8;

const IGNORED: [(&str, &str); 7] = [
    ("node, peers, api, http", "names, folders and addresses: simulated peers have their own"),
    ("executor.runtimes, sandbox, crun_path, max_log_bytes", "programs are simulated"),
    ("executor.labels", "simulated tasks ask for none"),
    ("raft.snapshot_every_entries", "few entries, so that snapshots happen within a seed"),
    ("raft.extra_sync_delay_ms", "the faults of the scenario slow disks down"),
    (
        "executor.slurm, classes.gpu_slurm.lease_ttl",
        "Slurm is simulated with shorter times than it has; slurm-chaos has its faults",
    ),
    ("classes.*, except lease_ttl", "run times are the scenario's, so that a seed is short"),
];

/// Puts the settings of these files into the scenario: of one node that all are like, or of each node. Says on stderr
/// what it did.
pub fn take_over(scenario: &mut Scenario, files: &[PathBuf]) -> Result<(), Failure> {
    let nodes =
        files.iter().map(|path| Node::read(path, &scenario.topology)).collect::<Result<Vec<_>, _>>()?;
    let taken = apply(scenario, &nodes).map_err(|why| {
        let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        Failure::Usage(format!("{} cannot be simulated: {why}", names.join(", ")))
    })?;
    eprintln!("taken over from the configuration:");
    taken.iter().for_each(|(key, value)| eprintln!("  {key} = {value}"));
    eprintln!("without meaning here:");
    IGNORED.iter().for_each(|(key, why)| eprintln!("  {key}: {why}"));
    Ok(())
}

/// One node's file.
struct Node {
    config: Config,
}

impl Node {
    /// What the file leaves out is as in the scenario, not as on this machine.
    fn read(path: &Path, topology: &Topology) -> Result<Self, Failure> {
        let like = Machine {
            hostname: "simulated".into(),
            cores: (topology.cpu_milli / 1000).max(1),
            memory_bytes: topology.memory_bytes / 9 * 10,
            data_dir: "/var/lib/stint".into(),
            addresses: vec![Ipv4Addr::LOCALHOST],
        };
        let config = Config::load_on(&like, Some(path), &BTreeMap::new(), &Overrides::default());
        Ok(Self { config: config.map_err(|error| Failure::Usage(error.to_string()))? })
    }

    /// Those that simulated nodes execute themselves.
    fn classes(&self) -> BTreeSet<Class> {
        self.config.executor.classes.iter().copied().filter(|class| *class != Class::GpuSlurm).collect()
    }

    /// Whether it hands tasks to Slurm.
    fn has_slurm(&self) -> bool {
        let executor = &self.config.executor;
        executor.classes.contains(&Class::GpuSlurm) && executor.runtimes.contains(&Runtime::Slurm)
    }
}

type Taken = Vec<(String, String)>;

fn apply(scenario: &mut Scenario, nodes: &[Node]) -> Result<Taken, String> {
    let first = &nodes.first().ok_or("no file is given")?.config;
    let mut taken = topology(scenario, nodes)?;
    taken.extend(classes(scenario, nodes)?);
    for other in nodes.iter().map(|node| &node.config) {
        if (&other.classes, other.raft.profile, other.executor.kill_margin_ms)
            != (&first.classes, first.raft.profile, first.executor.kill_margin_ms)
        {
            return Err(
                "[classes], raft.profile and executor.kill_margin_ms must be the same in all files".into()
            );
        }
    }
    taken.extend(leases(scenario, first)?);
    Ok(taken)
}

fn topology(scenario: &mut Scenario, nodes: &[Node]) -> Result<Taken, String> {
    if nodes.len() > MOST_NODES {
        return Err(format!("{} nodes, and a simulated cluster has {MOST_NODES} at most", nodes.len()));
    }
    if nodes.iter().any(|node| !node.config.executor.enabled) {
        return Err("executor.enabled = false: simulated peers all execute".into());
    }
    let mut taken = Taken::new();
    let topology = &mut scenario.topology;
    if nodes.len() > 1 {
        topology.voters = Range(nodes.len() as u64, nodes.len() as u64);
        topology.executors = Range(0, 0);
        taken.push(("nodes".into(), nodes.len().to_string()));
    }
    let executors = || nodes.iter().map(|node| &node.config.executor);
    let least = |values: Vec<u64>| values.into_iter().min().unwrap_or(1);
    topology.cpu_milli = least(executors().map(|e| e.cpu_milli).collect());
    topology.memory_bytes = least(executors().map(|e| e.memory_bytes).collect());
    topology.slots = least(executors().map(|e| e.slots.into()).collect()) as u32;
    let of_each = if nodes.len() > 1 { " (the least of all nodes, for each)" } else { "" };
    taken.push(("executor.cpus".into(), units::show_cpus(topology.cpu_milli) + of_each));
    taken.push(("executor.memory".into(), units::show_bytes(topology.memory_bytes) + of_each));
    taken.push(("executor.slots".into(), topology.slots.to_string() + of_each));
    let counts: Option<Vec<u32>> = executors().map(|e| count(&e.gpus)).collect();
    match counts {
        Some(counts) => topology.gpus = counts,
        None => taken.push((
            "executor.gpus".into(),
            "\"auto\": only the driver knows how many; list them as [[executor.gpu]], or these are simulated"
                .into(),
        )),
    }
    taken.push(("GPUs of the nodes".into(), format!("{:?}", topology.gpus)));
    taken.extend(slurm(scenario, nodes));
    Ok(taken)
}

/// There is a Slurm where one of the nodes has one, and then all simulated nodes do.
fn slurm(scenario: &mut Scenario, nodes: &[Node]) -> Option<(String, String)> {
    let (jobs, classes) = (&mut scenario.topology.slurm_jobs, &mut scenario.workload.classes);
    if !nodes.iter().any(Node::has_slurm) {
        *jobs = 0;
        return None;
    }
    if *jobs == 0 {
        *jobs = SLURM_JOBS;
        classes.insert(Class::GpuSlurm.as_str().into(), 1);
    }
    Some((
        "executor.slurm".into(),
        format!("a Slurm that runs {jobs} jobs at a time, reached from every node"),
    ))
}

/// None: the driver is asked.
fn count(gpus: &Gpus) -> Option<u32> {
    match gpus {
        Gpus::Auto => None,
        Gpus::None => Some(0),
        Gpus::Listed(list) => Some(list.len() as u32),
    }
}

fn classes(scenario: &mut Scenario, nodes: &[Node]) -> Result<Taken, String> {
    let mut sets = nodes.iter().map(Node::classes);
    let offered = sets.next().unwrap_or_default();
    if sets.any(|other| other != offered) {
        return Err("executor.classes differ between the files: simulated nodes all offer the same".into());
    }
    let has_slurm = scenario.topology.slurm_jobs > 0;
    let has_gpus = scenario.topology.gpus.iter().any(|count| *count > 0);
    let fits = |name: &String| {
        let class: Option<Class> = name.parse().ok();
        class.is_some_and(|class| match class {
            Class::GpuSlurm => has_slurm,
            Class::Gpu => has_gpus && offered.contains(&class),
            _ => offered.contains(&class),
        })
    };
    scenario.workload.classes.retain(|name, _| fits(name));
    if scenario.workload.classes.is_empty() {
        return Err("executor.classes: none of them can be simulated on these nodes".into());
    }
    let names: Vec<&str> = scenario.workload.classes.keys().map(String::as_str).collect();
    Ok(vec![("executor.classes".into(), names.join(", "))])
}

fn leases(scenario: &mut Scenario, config: &Config) -> Result<Taken, String> {
    let kill_margin_ms = config.executor.kill_margin_ms;
    if kill_margin_ms < LEAST_KILL_MARGIN_MS {
        return Err(format!(
            "executor.kill_margin_ms = {kill_margin_ms}: simulated kills take up to 300 ms, so the least is {LEAST_KILL_MARGIN_MS}"
        ));
    }
    let rules = &mut scenario.cluster;
    let ttl = |class: &Class| config.classes.get(class).map_or(0, |rules| rules.lease_ttl_ms);
    let simulated = Class::ALL.into_iter().filter(|class| *class != Class::GpuSlurm);
    // Slurm's answers are simulated faster than they are; leases as short as others of this cluster will do.
    let slurm = Class::GpuSlurm.as_str();
    let slurm_ms = rules.lease_ttl_ms.get(slurm).copied().unwrap_or(0).max(ttl(&Class::Gpu));
    rules.lease_ttl_ms = simulated.map(|class| (class.as_str().to_owned(), ttl(&class))).collect();
    if scenario.topology.slurm_jobs > 0 {
        rules.lease_ttl_ms.insert(slurm.to_owned(), slurm_ms);
    }
    rules.lease_margin_ms = config.longest_lease_margin_ms();
    rules.kill_margin_ms = kill_margin_ms;
    rules.placement = Place::BinPack;
    rules.raft_profile = pace(config.raft.profile);
    let longest = rules.lease_ttl_ms.values().max().copied().unwrap_or(0);
    let needed = SETTLE_MS + LEASES_TO_SETTLE * (longest + rules.lease_margin_ms);
    settle(scenario, needed).map_err(|why| format!("leases of {} {why}", units::show_duration(longest)))?;
    let rules = &scenario.cluster;
    let ttl =
        |(class, ms): (&String, &u64)| (format!("classes.{class}.lease_ttl"), units::show_duration(*ms));
    // What is simulated of Slurm has times of its own.
    let own = rules.lease_ttl_ms.iter().filter(|(class, _)| *class != slurm);
    let mut taken: Taken = own.map(ttl).collect();
    taken.push(("executor.kill_margin_ms".into(), kill_margin_ms.to_string()));
    taken.push(("lease margin (computed)".into(), units::show_duration(rules.lease_margin_ms)));
    taken.push(("raft.profile".into(), config.raft.profile.as_str().into()));
    taken.push(("placement".into(), "bin_pack, as every new cluster".into()));
    taken.push(("time to settle (computed)".into(), units::show_duration(scenario.time.settle_ms)));
    Ok(taken)
}

/// Gives the end of a seed this time, if it does not have it.
fn settle(scenario: &mut Scenario, needed_ms: u64) -> Result<(), String> {
    let time = &mut scenario.time;
    time.settle_ms = time.settle_ms.max(needed_ms);
    let whole = time.ready_ms + time.trouble_ms + time.settle_ms;
    if whole <= LONGEST_MS {
        return Ok(());
    }
    let (whole, most) = (units::show_duration(whole), units::show_duration(LONGEST_MS));
    Err(format!("would make a seed last {whole}, and one may last {most}"))
}

fn pace(profile: RaftProfile) -> Pace {
    match profile {
        RaftProfile::Fast => Pace::Fast,
        RaftProfile::Lan => Pace::Lan,
        RaftProfile::Tight => Pace::Tight,
        RaftProfile::Wan => Pace::Wan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Node::read(file.path(), &Topology::default()).unwrap()
    }

    #[test]
    fn settings_of_a_file_are_taken_over() {
        let text = "[raft]\nprofile = \"wan\"\n[executor]\ncpus = 64\nslots = 100\n[[executor.gpu]]\nid = \"GPU-1\"\n\
                    model = \"H200\"\nmemory = \"139GiB\"\n[classes.gpu]\nlease_ttl = \"30s\"\n";
        let mut scenario = Scenario::default();
        apply(&mut scenario, &[node(text)]).unwrap();
        let Scenario { topology, cluster, time, .. } = &scenario;
        assert_eq!((topology.cpu_milli, topology.slots, &topology.gpus[..]), (64_000, 100, &[1][..]));
        assert_eq!((cluster.lease_ttl_ms["gpu"], cluster.raft_profile), (30_000, Pace::Wan));
        assert!(cluster.lease_margin_ms > 2_000 && time.settle_ms > 240_000, "{scenario:?}");
        assert_eq!(scenario.topology.voters, Scenario::default().topology.voters);
    }

    #[test]
    fn a_slurm_is_simulated_where_a_node_has_one() {
        let bridge = "[executor]\nruntimes = [\"crun\", \"slurm\"]\nclasses = [\"cpu_short\", \"cpu_long\", \"gpu\", \
                      \"gpu_slurm\"]\n[executor.slurm]\nfolder = \"/shared\"\nuser = \"1:1\"\n";
        let mut scenario = Scenario::default();
        apply(&mut scenario, &[node(bridge), node("")]).unwrap();
        assert_eq!((scenario.topology.slurm_jobs, scenario.workload.classes["gpu_slurm"]), (SLURM_JOBS, 1));
        let ttl = &scenario.cluster.lease_ttl_ms;
        assert!(ttl["gpu_slurm"] >= ttl["gpu"] && ttl["gpu_slurm"] < 60_000, "{ttl:?}");
        // One that has none has none of a scenario's either.
        scenario.workload.classes.insert("cpu_short".into(), 1);
        apply(&mut scenario, &[node("")]).unwrap();
        assert_eq!(scenario.topology.slurm_jobs, 0);
        assert!(!scenario.workload.classes.contains_key("gpu_slurm"));
    }

    #[test]
    fn what_a_file_leaves_out_is_the_scenarios_not_this_machines() {
        let mut scenario = Scenario::default();
        apply(&mut scenario, &[node("")]).unwrap();
        assert_eq!((scenario.topology.cpu_milli, &scenario.topology.gpus[..]), (4_000, &[1, 2, 0][..]));
    }

    #[test]
    fn several_files_are_several_nodes() {
        let files = [
            "[executor]\ngpus = \"none\"\n",
            "[[executor.gpu]]\nid = \"a\"\nmodel = \"m\"\nmemory = \"1GiB\"\n",
        ];
        let mut scenario = Scenario::default();
        apply(&mut scenario, &files.map(node)).unwrap();
        assert_eq!((scenario.topology.voters, &scenario.topology.gpus[..]), (Range(2, 2), &[0, 1][..]));
    }

    #[test]
    fn what_cannot_be_simulated_is_refused_with_its_key() {
        for (text, key) in [
            ("[executor]\nenabled = false\n", "executor.enabled"),
            ("[executor]\nkill_margin_ms = 200\n", "executor.kill_margin_ms"),
            ("[executor]\nclasses = [\"gpu\"]\ngpus = \"none\"\n", "executor.classes"),
            ("[classes.gpu]\nlease_ttl = \"2h\"\n", "leases of"),
        ] {
            let refused = apply(&mut Scenario::default(), &[node(text)]).unwrap_err();
            assert!(refused.contains(key), "{text}: {refused}");
        }
    }
}
