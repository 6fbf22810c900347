//! What the commands of `stint-sim` promise: shrinking, explaining, campaigns that go on, exit codes, clear errors.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Caught in nearly every seed in which a machine loses its power.
const PLANT: &str = "--plant=false_account";
/// Where it does so soon, among faults that have nothing to do with it.
const OUTAGES: &str = "name = \"outages\"
[time]
trouble_ms = 6000
[workload]
every_ms = [50, 300]
[[lanes]]
name = \"machines\"
pause_ms = [500, 2500]
length_ms = [200, 2000]
faults = { power-all = 1, crash = 1 }
[[lanes]]
name = \"weather\"
pause_ms = [100, 1000]
length_ms = [100, 1500]
faults = { loss = 1, latency = 1 }
";

struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn sim_in(folder: &Path, args: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint-sim"));
    let Output { status, stdout, stderr } = command.args(args).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn sim(args: &[&str]) -> Done {
    sim_in(Path::new("."), args)
}

#[test]
fn a_seed_is_the_same_whatever_is_shown_of_its_messages() {
    let shown = |filter: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stint-sim"));
        command.args(["seed", "7", "quiet"]).env_remove("STINT_SIM_LOG");
        let output = command.envs(filter.map(|filter| ("STINT_SIM_LOG", filter))).output().unwrap();
        (output.status.code(), output.stdout, output.stderr.len())
    };
    let (silent, loud) = (shown(None), shown(Some("info,stint_node=debug")));
    assert_eq!((silent.0, loud.0, silent.2), (Some(0), Some(0), 0));
    assert!(silent.1 == loud.1, "the messages change the seed");
    assert!(loud.2 > 1_000, "nothing is shown");
    let (code, _, said) = shown(Some("stint=verbose="));
    assert!(code == Some(2) && said > 0, "a filter that cannot be read: {code:?}");
}

/// A folder with `outages.toml`, and a seed of it that breaks a rule of safety after two faults or more: its number and
/// its result.
fn bad_seed() -> (TempDir, String, Value) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outages.toml"), OUTAGES).unwrap();
    for seed in 300..340 {
        let args = ["seed", &seed.to_string(), "outages.toml", PLANT, "--quiet", "--json"];
        let done = sim_in(folder.path(), &args);
        let result: Value = serde_json::from_str(&done.stdout).unwrap();
        if done.code == Some(10) && result["faults"].as_array().unwrap().len() >= 2 {
            return (folder, seed.to_string(), result);
        }
    }
    panic!("{PLANT} is caught by no seed from 300 to 339");
}

/// A folder with a scenario whose seeds take little time.
fn with_short_scenario() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = "name = \"short\"\nlanes = []\n[time]\ntrouble_ms = 1500\n[workload]\nrun_ms = [10]\n";
    std::fs::write(folder.path().join("short.toml"), text).unwrap();
    folder
}

fn summary(folder: &Path, args: &[&str]) -> Value {
    let all = [&["run", "short.toml", "--jobs", "2", "-o", "json", "--state", "state.toml"], args].concat();
    let done = sim_in(folder, &all);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

#[test]
fn shrink_finds_fewer_faults_that_break_the_same_rule() {
    let (folder, seed, whole) = bad_seed();
    let before = whole["faults"].as_array().unwrap().len();
    let shrunk = sim_in(folder.path(), &["shrink", &seed, "outages.toml", PLANT, "--jobs", "2"]);
    assert_eq!(shrunk.code, Some(10), "{}{}", shrunk.stdout, shrunk.stderr);
    let command = shrunk.stdout.lines().find(|line| line.contains(" replay ")).unwrap();
    let args: Vec<&str> = command.split_whitespace().skip(1).chain(["--json"]).collect();
    let again = sim_in(folder.path(), &args);
    let again: Value = serde_json::from_str(again.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(again["rule"], whole["rule"], "{command}");
    let after = again["faults"].as_array().unwrap().len();
    assert!(after < before && after > 0, "{after} of {before}: {}", shrunk.stdout);
}

#[test]
fn explain_tells_the_violation_and_writes_a_page_with_all_lanes() {
    let (folder, seed, _) = bad_seed();
    let done = sim_in(folder.path(), &["explain", &seed, "outages.toml", PLANT, "--html", "page.html"]);
    assert_eq!(done.code, Some(10), "{}", done.stderr);
    for word in ["VIOLATION", "What to look at", "fault", "leader", "attempt"] {
        assert!(done.stdout.contains(word), "{word} is missing:\n{}", done.stdout);
    }
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }
    let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let names: Vec<&str> =
        data["lanes"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Nodes", "Leadership", "Faults", "Attempts", "GPUs", "Requests"]);
    assert!(
        data["lanes"].as_array().unwrap().iter().all(|lane| !lane["rows"].as_array().unwrap().is_empty())
    );
    assert!(data["violation"]["at_ms"].as_u64().unwrap() <= data["end_ms"].as_u64().unwrap());
}

#[test]
fn a_campaign_goes_on_where_it_stopped_and_counts_each_seed_once() {
    let folder = with_short_scenario();
    let first = summary(folder.path(), &["--seeds", "3", "--from", "10"]);
    assert_eq!((&first["done"], &first["next"]), (&3.into(), &13.into()));
    let more = summary(folder.path(), &["--seeds", "5", "--from", "10", "--twice-percent", "100"]);
    assert_eq!((&more["done"], &more["next"], &more["twice"]), (&5.into(), &15.into(), &2.into()));
    assert!(more["simulated_ms"].as_u64() > first["simulated_ms"].as_u64());
    let nothing = summary(folder.path(), &["--seeds", "5", "--from", "10"]);
    assert_eq!(nothing["simulated_ms"], more["simulated_ms"]);
    let other =
        sim_in(folder.path(), &["run", "quiet", "--state", "state.toml", "--seeds", "1", "--from", "10"]);
    assert_eq!(other.code, Some(2));
    assert!(other.stderr.contains("another"), "{}", other.stderr);
}

#[test]
fn a_campaign_stops_when_its_time_is_over() {
    let folder = with_short_scenario();
    let done = summary(folder.path(), &["--seeds", "1000000", "--for", "2s"]);
    assert_eq!(done["stopped"], "time_over");
    assert!(done["done"].as_u64().unwrap() > 0);
}

#[test]
fn a_bad_seed_is_told_at_once_with_its_command() {
    let (folder, seed, _) = bad_seed();
    let args = ["run", "outages.toml", PLANT, "--seeds", "1", "--from", &seed, "--twice-percent", "0"];
    let done = sim_in(folder.path(), &args);
    assert_eq!(done.code, Some(10));
    let command = format!("replay {seed} outages.toml --plant false_account");
    let printed = done.stderr.contains(&format!("BAD seed {seed}")) && done.stderr.contains(&command);
    assert!(printed, "{}", done.stderr);
    let next = done.stdout.contains("1 bad") && done.stdout.contains(&format!("shrink {seed}"));
    assert!(next, "{}", done.stdout);
}

#[test]
fn a_real_configuration_and_a_recording_become_a_scenario() {
    let folder = with_short_scenario();
    let config = "[executor]\ncpus = 8\ngpus = \"none\"\n[classes.cpu_short]\nlease_ttl = \"6s\"\n";
    std::fs::write(folder.path().join("stint.toml"), config).unwrap();
    // As `stint events export` writes it.
    let line = |at_ms: u64| {
        format!(
            "{{\"at_ms\":{at_ms},\"class\":\"cpu_short\",\"count\":1,\"cpu_milli\":2000,\"memory_bytes\":1024,\"priority\":50,\"run_ms\":900,\"end\":\"succeeded\"}}\n"
        )
    };
    std::fs::write(folder.path().join("load.jsonl"), line(0) + &line(800)).unwrap();
    let args = [
        "run",
        "quiet",
        "--config",
        "stint.toml",
        "--workload",
        "load.jsonl",
        "--speedup",
        "2",
        "--seeds",
        "1",
    ];
    let done = sim_in(folder.path(), &args);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    for word in ["taken over", "executor.cpus = 8", "without meaning", "2 tasks of 2 submits"] {
        assert!(done.stderr.contains(word), "{word} is missing: {}", done.stderr);
    }
    let replay = sim_in(folder.path(), &["replay", "1", "simulated.toml", "--json"]);
    let acknowledged = replay.stdout.lines().filter(|line| line.contains("\"acknowledged\"")).count();
    assert!(acknowledged >= 2, "{}", replay.stdout);
}

#[test]
fn wrong_words_are_answered_with_the_right_ones_and_exit_2() {
    for (args, hint) in [
        (&["run", "mixed-caos"][..], "mixed-chaos"),
        (&["scenarios", "show", "power-cur"], "power-cut"),
        (&["replay", "1", "--plant", "late_kil"], "late_kill"),
        (&["replay", "1", "--only", "links"], "links:3"),
        (&["run", "--for", "10 lightyears"], "15m"),
        (&["run", "--speedup", "3"], "--workload"),
        (&["shrinc", "1"], "shrink"),
    ] {
        let done = sim(args);
        assert_eq!(done.code, Some(2), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(hint), "{args:?}: {}", done.stderr);
    }
    let folder = tempfile::tempdir().unwrap();
    let text =
        "name = \"mine\"\n[[lanes]]\nname = \"a\"\npause_ms = 1\nlength_ms = 1\nfaults = { isolat = 1 }\n";
    std::fs::write(folder.path().join("mine.toml"), text).unwrap();
    let done = sim_in(folder.path(), &["replay", "1", "mine.toml"]);
    assert!(done.code == Some(2) && done.stderr.contains("did you mean \"isolate\""), "{}", done.stderr);
    assert_eq!(sim(&["replay", "1", "nowhere/mine.toml"]).code, Some(1));
}

#[test]
fn a_liveness_violation_exits_11() {
    let folder = with_short_scenario();
    let text = "name = \"hasty\"\nlanes = []\n[time]\nready_ms = 20\n";
    std::fs::write(folder.path().join("hasty.toml"), text).unwrap();
    let done = sim_in(folder.path(), &["explain", "1", "hasty.toml"]);
    assert_eq!(done.code, Some(11), "{}", done.stdout);
    assert!(done.stdout.contains("the cluster comes up"), "{}", done.stdout);
}

#[test]
fn the_library_is_listed_and_shown() {
    let list = sim(&["scenarios"]);
    assert!(list.stdout.lines().count() >= 12 && list.stdout.contains("power-cut"), "{}", list.stdout);
    let shown = sim(&["scenarios", "show", "quiet"]);
    assert!(shown.code == Some(0) && shown.stdout.contains("name = \"quiet\""));
    assert!(sim(&["--help"]).stdout.contains("Exit codes"));
}
