//! `stint run` and `stint wait`: a task is followed to its end, or cancelled by Ctrl-C.

use std::time::Duration;

use tokio::process::{Child, Command};
use tonic::Status;

use crate::fake::{chunk, finished, running};
use crate::{AT_MOST, Done, World};

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
        // Once more, now that the attempt is over.
        vec![gone()],
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

pub async fn kill(signal: &str, child: &Child) {
    let id = child.id().expect("still running").to_string();
    assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
}

pub async fn interrupt(child: &Child) {
    kill("-INT", child).await;
}

pub async fn until(what: &str, holds: impl Fn() -> bool) {
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
