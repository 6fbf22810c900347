//! `stint ps` and `stint logs`: the tasks there are, and what they wrote.

use crate::World;
use crate::fake::{chunk, finished, running};

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
