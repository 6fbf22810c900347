//! The real binary against a peer that answers what the test says.
#![allow(clippy::unwrap_used)]

#[path = "../../sdk/tests/fake/mod.rs"]
mod fake;

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, chunk, finished, running};
use serde_json::Value;
use stint_sdk::v1;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tonic::Status;

/// No command may take longer, also on a busy machine.
const AT_MOST: Duration = Duration::from_secs(20);

struct World {
    folder: TempDir,
    fake: Arc<Fake>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        fake.serve(&folder.path().join("stint.sock"));
        Self { folder, fake }
    }

    /// A world where the task takes these steps.
    fn with_task(steps: impl IntoIterator<Item = v1::Task>) -> Self {
        let world = Self::new();
        *world.fake.task.lock().unwrap() = steps.into_iter().collect::<VecDeque<_>>();
        world
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = bare(args);
        command.env("STINT_ADDRESS", format!("unix:{}/stint.sock", self.folder.path().display()));
        command
    }

    async fn stint(&self, args: &[&str]) -> Done {
        Done::run(self.command(args)).await
    }

    fn spec(&self) -> v1::TaskSpec {
        self.fake.submits.lock().unwrap().last().unwrap().spec.clone().unwrap()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }
}

fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint"));
    command.args(args).env_clear().env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    async fn run(mut command: Command) -> Self {
        let output = tokio::time::timeout(AT_MOST, command.output()).await;
        Self::from(output.expect("the command did not end").unwrap())
    }

    async fn after(child: Child) -> Self {
        let output = tokio::time::timeout(AT_MOST, child.wait_with_output()).await;
        Self::from(output.expect("the command did not end").unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[tokio::test]
async fn submit_prints_ids_on_stdout_and_talk_on_stderr() {
    let world = World::new();
    let args =
        ["submit", "--count", "2", "--cpus", "0.5", "--memory", "1GiB", "-e", "A=b=c", "--", "echo", "-n"];
    let done = world.stint(&args).await;
    assert_eq!((done.code, done.stdout.as_str()), (0, "task-0\ntask-1\n"), "{}", done.stderr);
    assert_eq!(done.stderr, "stint: 2 tasks accepted\n");
    let spec = world.spec();
    assert_eq!((spec.cpu_milli, spec.memory_bytes, spec.env["A"].as_str()), (500, 1 << 30, "b=c"));
    assert_eq!(spec.command, ["echo", "-n"]);
    assert!(!world.fake.keys()[0].is_empty(), "a submit without a key is not safe to repeat");
}

#[tokio::test]
async fn submit_in_json_and_quiet() {
    let world = World::new();
    let done = world.stint(&["submit", "-o", "json", "--", "true"]).await;
    assert_eq!(done.json(), serde_json::json!({ "task_ids": ["task-0"], "repeated": false }));
    let done = world.stint(&["--output", "quiet", "submit", "--", "true"]).await;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("task-0\n", ""));
}

#[tokio::test]
async fn a_task_file_is_read_and_flags_win_over_it() {
    let world = World::new();
    let file =
        world.write("t.toml", "class = \"gpu\"\ncommand = [\"a\"]\ntimeout = \"15m\"\ntenant = \"team\"\n");
    let done = world.stint(&["submit", "-f", &file, "--timeout", "90s"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let spec = world.spec();
    assert_eq!((spec.class.as_str(), spec.timeout_ms), ("gpu", 90_000));
    assert_eq!(world.fake.submits.lock().unwrap()[0].tenant, "team");
}

#[tokio::test]
async fn what_cannot_be_understood_ends_with_2() {
    let world = World::new();
    let file = world.write("t.toml", "memroy = \"1GiB\"\n");
    let cases: [(&[&str], &str); 7] = [
        (&["submit", "--count", "0", "--", "x"], "0 is not in 1.."),
        (&["submit", "-f", &file], "memroy: unknown key (did you mean \"memory\"?)"),
        (&["submit", "--timeout", "60", "--", "x"], "unit is missing"),
        (&["submit", "-e", "A", "--", "x"], "KEY=VALUE"),
        (&["submit"], "nothing to run"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["--address", "http://x", "ps"], "no plain text"),
    ];
    for (args, part) in cases {
        let done = world.stint(args).await;
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(part), "{args:?}: {}", done.stderr);
    }
    assert_eq!(world.fake.calls(), 0);
}

#[tokio::test]
async fn a_refusal_ends_with_1_and_says_why() {
    let world = World::new();
    world.fake.fail_next([Status::invalid_argument("timeout: 61000 ms is over the cap")]);
    let done = world.stint(&["submit", "--", "x"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert_eq!(done.stderr, "stint: refused: timeout: 61000 ms is over the cap\n");
}

#[tokio::test]
async fn no_peer_ends_with_3_and_says_where_it_looked() {
    let mut command = bare(&["ps"]);
    command.env("STINT_ADDRESS", "unix:/nonexistent/stint.sock");
    let done = Done::run(command).await;
    assert_eq!(done.code, 3, "{}", done.stderr);
    let expected = "stint: cannot list tasks: unix:/nonexistent/stint.sock: No such file or directory";
    assert!(done.stderr.starts_with(expected), "{}", done.stderr);
}

#[tokio::test]
async fn run_copies_both_streams_and_ends_as_the_task() {
    let world = World::with_task([running("task-0", 1), finished(running("task-0", 1), "exited", 7)]);
    let script = vec![chunk("stdout", 0, "out\n"), chunk("stderr", 0, "err\n"), chunk("stdout", 4, "more\n")];
    world.fake.logs.lock().unwrap().push_back(script);
    let done = world.stint(&["run", "--", "x"]).await;
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "out\nmore\n", "err\n"));
}

#[tokio::test]
async fn run_follows_further_attempts() {
    let (first, second) = (running("task-0", 1), running("task-0", 2));
    let world = World::with_task([first, second.clone(), finished(second, "exited", 0)]);
    let logs = [vec![chunk("stdout", 0, "one\n")], vec![chunk("stdout", 0, "two\n")]];
    world.fake.logs.lock().unwrap().extend(logs);
    let done = world.stint(&["run", "--", "x"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (0, "one\ntwo\n"), "{}", done.stderr);
    assert!(done.stderr.contains("attempt 2"), "{}", done.stderr);
}

#[tokio::test]
async fn run_outlives_a_node_whose_output_is_gone() {
    let (first, second) = (running("task-0", 1), running("task-0", 2));
    let world = World::with_task([
        first.clone(),
        first,
        second.clone(),
        second.clone(),
        finished(second, "exited", 0),
    ]);
    let gone = || Err(Status::not_found("node b keeps it no more"));
    let logs = [
        vec![chunk("stdout", 0, "one "), gone()],
        vec![chunk("stdout", 0, "one and "), gone()],
        vec![chunk("stdout", 0, "two\n")],
    ];
    world.fake.logs.lock().unwrap().extend(logs);
    let done = world.stint(&["run", "--", "x"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (0, "one and two\n"), "{}", done.stderr);
    assert!(done.stderr.contains("attempt 1 is not complete: refused: node b keeps"), "{}", done.stderr);
}

#[tokio::test]
async fn run_says_what_ended_a_task_that_did_not_end_itself() {
    let world = World::with_task([finished(running("task-0", 1), "timed_out", 124)]);
    let done = world.stint(&["run", "--", "x"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (124, "stint: task-0 failed (timed_out)\n"));
}

#[tokio::test]
async fn run_ends_with_125_when_stint_failed() {
    let world = World::new();
    world.fake.fail_next([Status::resource_exhausted("the queue is full")]);
    let done = world.stint(&["run", "--", "x"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (125, "stint: refused: the queue is full\n"));
}

async fn interrupt(child: &Child) {
    let id = child.id().expect("still running").to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + AT_MOST;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn ctrl_c_cancels_the_task_and_waits_for_its_end() {
    let world = World::with_task([running("task-0", 0)]);
    let cancelled = finished(running("task-0", 0), "cancelled", 130);
    *world.fake.after_cancel.lock().unwrap() = Some(cancelled);
    let child = world.command(&["run", "--", "x"]).spawn().unwrap();
    until("following", || world.fake.calls() >= 2).await;
    interrupt(&child).await;
    let done = Done::after(child).await;
    assert_eq!(done.code, 130, "{}", done.stderr);
    assert!(done.stderr.contains("cancelling task-0"), "{}", done.stderr);
    assert_eq!(world.fake.cancels.lock().unwrap()[0].tasks, ["task-0"]);
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once_and_says_the_id() {
    let world = World::with_task([running("task-0", 0)]);
    let child = world.command(&["run", "--", "x"]).spawn().unwrap();
    until("following", || world.fake.calls() >= 2).await;
    interrupt(&child).await;
    until("cancelling", || !world.fake.cancels.lock().unwrap().is_empty()).await;
    interrupt(&child).await;
    let done = Done::after(child).await;
    assert_eq!(done.code, 130, "{}", done.stderr);
    assert!(done.stderr.ends_with("stint: left; see `stint status task-0`\n"), "{}", done.stderr);
}

#[tokio::test]
async fn wait_tells_success_failure_and_time_over_apart() {
    let cases = [
        (finished(running("t", 1), "exited", 0), 0),
        (finished(running("t", 1), "exited", 3), 1),
        (running("t", 1), 4),
    ];
    for (task, code) in cases {
        let world = World::with_task([task]);
        let done = world.stint(&["wait", "--timeout", "200ms", "-o", "json", "t"]).await;
        assert_eq!(done.code, code, "{}", done.stderr);
        assert_eq!(done.json()["finished"], code != 4);
    }
}

#[tokio::test]
async fn ps_shows_what_is_unfinished_newest_first() {
    let world = World::new();
    let mut queued = running("b", 0);
    queued.name = "later".into();
    let tasks = vec![running("a", 1), queued, finished(running("c", 1), "exited", 0)];
    *world.fake.tasks.lock().unwrap() = tasks;
    let done = world.stint(&["ps", "-o", "quiet"]).await;
    assert_eq!(done.stdout, "b\na\n");
    let done = world.stint(&["ps", "-o", "quiet", "--limit", "1"]).await;
    assert_eq!(done.stdout, "b\n");
    assert!(done.stderr.contains("there are more"), "who cancels these must know: {}", done.stderr);
    let done = world.stint(&["ps", "--all", "-o", "json"]).await;
    assert_eq!(done.json()[0]["outcome"]["status"], "succeeded");
    assert_eq!(done.json()[1]["name"], "later");
    let done = world.stint(&["ps"]).await;
    let lines: Vec<Vec<&str>> = done.stdout.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "NAME", "CLASS", "STATE", "NODE", "AGE", "RUN", "COMMAND"]);
    assert_eq!(lines[1][..5], ["b", "later", "cpu_short", "queued", "-"]);
    assert!(!done.stdout.contains('\x1b'), "no color into a pipe");
}

#[tokio::test]
async fn logs_of_a_task_that_has_not_started_say_so() {
    let world = World::with_task([running("t", 0)]);
    let done = world.stint(&["logs", "t"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(done.stderr.contains("stint explain t"), "{}", done.stderr);
}

#[tokio::test]
async fn logs_are_copied_as_they_are() {
    let world = World::with_task([finished(running("t", 2), "exited", 0)]);
    world.fake.logs.lock().unwrap().push_back(vec![chunk("stdout", 0, "no newline")]);
    let done = world.stint(&["logs", "--stdout", "t"]).await;
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "no newline", ""));
}

#[tokio::test]
async fn nodes_are_managed_by_name() {
    let world = World::new();
    let node =
        v1::Node { id: 1, name: "a".into(), state: "draining".into(), running: 2, ..Default::default() };
    *world.fake.nodes.lock().unwrap() = vec![node];
    let done = world.stint(&["node", "drain", "a"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("still runs 2 task(s)"), "{}", done.stderr);
    assert_eq!(world.stint(&["node", "resume", "a"]).await.code, 0);
    let modes: Vec<String> = world.fake.modes.lock().unwrap().iter().map(|m| m.mode.clone()).collect();
    assert_eq!(modes, ["drain", "ready"]);
    assert_eq!(world.stint(&["node", "status", "a", "-o", "json"]).await.json()["state"], "draining");
    let done = world.stint(&["node", "status", "zz"]).await;
    assert_eq!((done.code, done.stderr.contains("`stint nodes` lists them")), (1, true));
    assert_eq!(world.stint(&["node", "remove", "a"]).await.stdout, "a removed\n");
    assert_eq!(world.stint(&["nodes", "-o", "quiet"]).await.stdout, "1\n");
}

#[tokio::test]
async fn the_cluster_commands_print_data_alone_on_stdout() {
    let world = World::new();
    assert_eq!(world.stint(&["cluster", "join-token", "--valid", "2h"]).await.stdout, "token-1\n");
    assert_eq!(world.stint(&["cluster", "transfer-leader"]).await.stdout, "node 2 leads\n");
    let status = world.stint(&["cluster", "status", "-o", "json"]).await.json();
    assert_eq!((&status["leader_id"], status["peers"].is_array()), (&Value::Null, true));
    assert_eq!(world.stint(&["explain", "t", "-o", "json"]).await.json()["ahead_in_queue"], 0);
    let cancelled = world.stint(&["cancel", "a", "b", "-o", "json"]).await;
    assert_eq!((cancelled.code, cancelled.json().is_array()), (0, true));
}

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

fn image(name: &str) -> v1::Image {
    v1::Image {
        id: "0190a1b2-0000-7000-8000-000000000007".into(),
        tenant: "default".into(),
        name: name.into(),
        kind: "executable".into(),
        digest: format!("sha256:{}", "07".repeat(32)),
        size_bytes: 5 << 20,
        nodes: vec!["a".into(), "b".into()],
        used_by: 2,
        ..v1::Image::default()
    }
}

/// Registers what comes through a pipe.
async fn piped(world: &World, temporary: &str, bytes: &str) -> Done {
    let mut command = world.command(&["image", "register", "piped", "-"]);
    let mut child = command.stdin(Stdio::piped()).env("TMPDIR", temporary).spawn().unwrap();
    let (mut input, bytes) = (child.stdin.take().unwrap(), bytes.to_owned());
    // What reads it may leave before its end.
    let writing = tokio::spawn(async move { input.write_all(bytes.as_bytes()).await });
    let done = Done::after(child).await;
    writing.abort();
    done
}

/// A disk of its own that is nearly full, and memory for a fraction of the bytes.
#[tokio::test]
async fn a_pipe_takes_little_memory_and_a_full_disk_is_named() {
    let world = World::new();
    let bytes = "x".repeat(150 << 20);
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -d 98304; exec {} image register piped -", env!("CARGO_BIN_EXE_stint"));
    command.args(["-c", &script]).kill_on_drop(true);
    command.env("STINT_ADDRESS", format!("unix:{}/stint.sock", world.folder.path().display()));
    command.env("TMPDIR", world.folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let size = bytes.len();
    let writing = tokio::spawn(async move { input.write_all(bytes.as_bytes()).await });
    let done = Done::after(child).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    writing.await.unwrap().unwrap();
    assert_eq!(world.fake.registered.lock().unwrap()[0].1.len(), size);

    let disk = world.folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=80m", "none"];
    if !std::process::Command::new("mount").args(mount).arg(&disk).status().unwrap().success() {
        eprintln!("SKIPPED: the full disk (mounting one needs root)");
        return;
    }
    let done = piped(&world, &disk.to_string_lossy(), &"x".repeat(40 << 20)).await;
    std::process::Command::new("umount").arg("--lazy").arg(&disk).status().unwrap();
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("are left on its disk") && done.stderr.contains("set TMPDIR"),
        "{}",
        done.stderr
    );
    assert_eq!(world.fake.registered.lock().unwrap().len(), 1, "nothing was sent");
}

#[tokio::test]
async fn an_image_is_sent_whole_from_a_file_and_from_a_pipe() {
    let world = World::new();
    let bytes = "x".repeat(3_000_001);
    let file = world.write("tool", &bytes);
    // The first try finds nobody; the second one sends it from the beginning.
    world.fake.fail_next([Status::unavailable("not now")]);
    let done = world.stint(&["image", "register", "team/tool:2", &file, "--kind", "executable"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("--image stint://team/tool:2"), "{}", done.stderr);
    // A file as standard input stays where it is, as a pipe does: neither is lost when a peer goes away.
    world.fake.fail_next([Status::unavailable("not now")]);
    let mut input = world.command(&["image", "register", "input", "-", "--description", "of a file"]);
    input.stdin(std::fs::File::open(&file).unwrap()).env("TMPDIR", "/nowhere");
    assert_eq!(Done::run(input).await.code, 0);
    world.fake.fail_next([Status::unavailable("not now")]);
    world.fake.cut_uploads.lock().unwrap().extend([1_000_000, usize::MAX]);
    let done = piped(&world, &world.folder.path().to_string_lossy(), &bytes).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    {
        let registered = world.fake.registered.lock().unwrap();
        let found: Vec<_> =
            registered.iter().map(|(header, _)| (header.name.as_str(), header.size_bytes)).collect();
        let size = Some(3_000_001);
        assert_eq!(found, [("team/tool:2", size), ("input", size), ("piped", size)]);
        assert!(registered.iter().all(|(_, sent)| sent == bytes.as_bytes()));
    }
    let left: Vec<_> =
        std::fs::read_dir(world.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only the socket and the file: {left:?}");
    let done = piped(&world, "/nowhere", "x").await;
    assert!(done.code == 1 && done.stderr.contains("set TMPDIR"), "{}", done.stderr);
    let done = world.stint(&["image", "register", "tool", &world.folder.path().to_string_lossy()]).await;
    assert!(done.code == 2 && done.stderr.contains("is a folder"), "{}", done.stderr);
    let done = world.stint(&["image", "register", "web", "--docker", "ghcr.io/team/web:1"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (header, sent) = world.fake.registered.lock().unwrap().last().unwrap().clone();
    assert_eq!((header.reference.as_str(), sent.len()), ("ghcr.io/team/web:1", 0));
}

#[tokio::test]
async fn images_are_listed_shown_and_removed() {
    let world = World::new();
    *world.fake.images.lock().unwrap() = vec![image("base"), image("tool")];
    let listed = world.stint(&["image", "ls"]).await;
    assert!(listed.stdout.contains("NAME") && listed.stdout.contains("5MiB"), "{}", listed.stdout);
    assert!(listed.stderr.contains("--after more"), "{}", listed.stderr);
    let json = world.stint(&["image", "ls", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json[1]["name"].as_str(), json[1]["size_bytes"].as_u64()), (Some("tool"), Some(5 << 20)));
    assert_eq!(world.stint(&["image", "ls", "-o", "quiet"]).await.stdout, "base\ntool\n");
    let shown = world.stint(&["image", "show", "tool"]).await.stdout;
    assert!(shown.contains("a, b") && shown.contains("2 task(s)"), "{shown}");
    let removed = world.stint(&["image", "rm", "tool"]).await;
    assert!(removed.stdout == "tool removed\n" && removed.stderr.contains("2 task(s) still use it"));
    let missing = world.stint(&["image", "show", "nothing"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (1, ""));
}

#[tokio::test]
async fn settings_are_shown_and_changed() {
    let world = World::new();
    let class = |class: &str| v1::ClassSettings {
        class: class.into(),
        runtimes: vec!["crun".into()],
        lease_ttl_ms: 15_000,
        ..Default::default()
    };
    let setting = v1::ChangedSetting { key: "classes.gpu.max_gpus".into(), from: "1".into(), to: "4".into() };
    let change = v1::SettingsChange {
        revision: 7,
        role: "admin".into(),
        proof: "local_socket".into(),
        peer: "a".into(),
        settings: vec![setting],
        ..Default::default()
    };
    *world.fake.settings.lock().unwrap() = v1::Settings {
        revision: 7,
        cluster: Some(v1::ClusterSettings { placement: "spread".into(), ..Default::default() }),
        classes: vec![class("cpu_long"), class("gpu")],
        changes: vec![change],
        ..Default::default()
    };
    let done = world.stint(&["cluster", "show", "-o", "json"]).await;
    assert_eq!(
        (done.json()["revision"].as_u64(), done.json()["cluster"]["placement"].as_str()),
        (Some(7), Some("spread"))
    );
    let done = world.stint(&["class", "show", "gpu", "--history"]).await;
    assert!(done.stdout.starts_with("KEY              gpu\nruntimes         crun\n"), "{}", done.stdout);
    assert!(
        done.stdout.contains("classes.gpu.max_gpus  1     4   admin (local_socket)  a\n"),
        "{}",
        done.stdout
    );
    let args = ["class", "set", "gpu", "max_gpus=4", "lease_ttl=20s", "--if-revision", "6"];
    let done = world.stint(&args).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stderr, "stint: nothing to change; the settings keep revision 7\n");
    let asked = world.fake.updates.lock().unwrap()[0].clone();
    assert_eq!((asked.class.as_str(), asked.if_revision), ("gpu", Some(6)));
    assert_eq!((asked.values["max_gpus"].as_str(), asked.values["lease_ttl"].as_str()), ("4", "20s"));
    let done = world.stint(&["cluster", "set", "placement=spread", "placement=bin_pack"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (2, "stint: placement is given twice: keep one\n"));
    let done = world.stint(&["class", "set", "gup", "max_gpus=4"]).await;
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("gpu_slurm"), "{}", done.stderr);
    assert_eq!(world.fake.updates.lock().unwrap().len(), 1, "nothing else was asked for");
}

#[tokio::test]
async fn rules_of_tenants_are_shown_and_changed() {
    let world = World::new();
    let rules = |tenant: &str, max_priority, weight| v1::TenantSettings {
        tenant: tenant.into(),
        max_priority,
        weight,
    };
    let setting = |key: &str| v1::ChangedSetting { key: key.into(), from: "1".into(), to: "3".into() };
    let change = v1::SettingsChange {
        revision: 7,
        settings: vec![setting("tenants.team-7.weight"), setting("classes.gpu.max_gpus")],
        ..Default::default()
    };
    *world.fake.settings.lock().unwrap() = v1::Settings {
        revision: 7,
        tenants: vec![rules("default", 100, 1), rules("team-7", 80, 3)],
        changes: vec![change],
        ..Default::default()
    };
    let done = world.stint(&["tenant", "show"]).await;
    let expected = "\
TENANT    MAX_PRIORITY  WEIGHT
default   100           1
team-7    80            3
(others)  50            1
";
    assert_eq!(done.stdout, expected);
    let done = world.stint(&["tenant", "show", "team-7", "--history"]).await;
    assert!(
        done.stdout.starts_with("TENANT  MAX_PRIORITY  WEIGHT\nteam-7  80            3\n\n"),
        "{}",
        done.stdout
    );
    assert!(done.stdout.contains("tenants.team-7.weight") && !done.stdout.contains("gpu"), "{}", done.stdout);
    let done = world.stint(&["tenant", "show", "team-7", "-o", "json"]).await;
    assert_eq!(done.json()["tenants"].as_array().map(Vec::len), Some(1));
    let args = ["tenant", "set", "team-7", "--max-priority", "80", "--weight", "3", "--if-revision", "7"];
    let done = world.stint(&args).await;
    assert_eq!(
        (done.code, done.stderr.as_str()),
        (0, "stint: nothing to change; the settings keep revision 7\n")
    );
    let asked = world.fake.updates.lock().unwrap()[0].clone();
    assert_eq!((asked.tenant.as_str(), asked.class.as_str(), asked.if_revision), ("team-7", "", Some(7)));
    assert_eq!((asked.values["max_priority"].as_str(), asked.values["weight"].as_str()), ("80", "3"));
}

#[tokio::test]
async fn a_task_that_no_node_can_ever_run_is_told_at_once() {
    let world = World::new();
    let why = "no node can ever run this: it asks for 5000 cores, and the largest node, a, has 8";
    *world.fake.warning.lock().unwrap() = why.into();
    let said =
        format!("stint: warning: {why}; it is accepted all the same (--must-fit refuses such tasks)\n");
    for format in ["table", "quiet"] {
        let done = world.stint(&["submit", "-o", format, "--cpus", "5000", "--", "true"]).await;
        assert_eq!((done.code, done.stdout.as_str()), (0, "task-0\n"));
        assert!(done.stderr.contains(&said), "{}", done.stderr);
    }
    assert!(!world.fake.submits.lock().unwrap()[0].must_fit);
    let done = world.stint(&["submit", "-o", "json", "--must-fit", "--cpus", "5000", "--", "true"]).await;
    assert_eq!(done.json()["warning"].as_str(), Some(why));
    assert!(world.fake.submits.lock().unwrap()[2].must_fit);
    world.fake.fail_next([Status::failed_precondition(why)]);
    let done = world.stint(&["submit", "--must-fit", "--cpus", "5000", "--", "true"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(done.stderr.contains(why), "{}", done.stderr);
}

/// A terminal, and what has been written on it so far.
struct Terminal {
    end: std::fs::File,
    shown: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Terminal {
    fn open() -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let end = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
        let (sender, shown) = tokio::sync::mpsc::unbounded_channel();
        // It ends when the terminal is closed, or the test no longer listens.
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(read @ 1..) = rustix::io::read(&master, &mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { end, shown }
    }

    async fn until(&mut self, text: &str) {
        let mut all = String::new();
        while !all.contains(text) {
            let more = tokio::time::timeout(AT_MOST, self.shown.recv()).await;
            all += &more.unwrap_or_else(|_| panic!("{text:?} was not shown: {all:?}")).unwrap();
        }
    }
}

#[tokio::test]
async fn a_terminal_is_told_what_a_task_waits_for() {
    let summary = "1 of 1 nodes can take it, all busy now; 3 waiting tasks come first";
    for args in [&["run", "--", "true"][..], &["wait", "task-0"]] {
        let world = World::with_task([running("task-0", 0)]);
        world.fake.explain.lock().unwrap().summary = summary.into();
        let mut terminal = Terminal::open();
        let mut command = world.command(args);
        let mut child = command.stderr(terminal.end.try_clone().unwrap()).spawn().unwrap();
        terminal.until(&format!("stint: task-0: {summary}")).await;
        child.kill().await.unwrap();
    }
}
