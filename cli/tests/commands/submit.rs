//! `stint submit`: what it sends, and what it prints.

use tonic::Status;

use crate::World;

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
