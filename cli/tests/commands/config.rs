//! The configuration of a node: checked, shown with where each value is from, and heeded.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{AT_MOST, Done, bare};

async fn config_check(file: &Path) -> Done {
    Done::run(bare(&["config", "check", "--config", &file.to_string_lossy()])).await
}

#[tokio::test]
async fn a_configuration_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stint.toml");
    std::fs::write(&file, "[peers]\nadvertise = \"n1:7001\"\n[http]\nlisten = \"0.0.0.0:9097\"\n").unwrap();
    let done = config_check(&file).await;
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("warning: ") && done.stdout.ends_with("is valid\n"), "{}", done.stdout);
    std::fs::write(&file, "[peers]\nadvertise = \"n1:7001\"\n\n[node]\nnmae = 1\n").unwrap();
    let done = config_check(&file).await;
    assert_eq!(done.code, 2);
    let expected = format!("error: {}:5: node.nmae: unknown key (did you mean \"name\"?)\n", file.display());
    assert_eq!(done.stdout, expected);
}

#[tokio::test]
async fn the_effective_configuration_says_where_each_value_is_from() {
    let mut command =
        bare(&["node", "--advertise", "n1:7001", "--set", "executor.slots=3", "--print-config"]);
    command.env("STINT_NODE_NAME", "n1");
    let done = Done::run(command).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    for line in [
        "name = \"n1\"  # variable STINT_NODE_NAME",
        "slots = 3  # flag --set",
        "advertise = \"n1:7001\"  # flag --advertise",
        "profile = \"fast\"  # default",
    ] {
        assert!(done.stdout.lines().any(|l| l == line), "{line} is not in\n{}", done.stdout);
    }
}

/// Threads of a peer that is ready, with these words added to its command.
async fn threads_of_a_peer(args: &[&str]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().to_string_lossy();
    let mut command = bare(&["node", "--bootstrap", "--data-dir", &data_dir, "--listen", "127.0.0.1:0"]);
    command.args(["--api-listen", "", "--http-listen", "", "--set", "executor.enabled=false"]).args(args);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("is ready on") {
                return;
            }
        }
        panic!("the peer ended before it was ready");
    };
    tokio::time::timeout(AT_MOST, ready).await.unwrap();
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id().unwrap())).unwrap().count();
    child.kill().await.unwrap();
    threads
}

#[tokio::test]
async fn a_node_has_as_many_threads_as_its_configuration_says() {
    let many = std::thread::available_parallelism().unwrap().get() + 60;
    let threads = threads_of_a_peer(&["--set", &format!("node.threads={many}")]).await;
    assert!(threads >= many, "{threads} of {many}");
    let threads = threads_of_a_peer(&[]).await;
    assert!(threads < many, "{threads} without the key");
    let done = Done::run(bare(&["node", "--set", "node.threads=1", "--print-config"])).await;
    assert_eq!(done.code, 2);
    let expected = "flag --set: node.threads: \"1\" is not a whole number from 2 to 1024";
    assert!(done.stderr.contains(expected), "{}", done.stderr);
}
