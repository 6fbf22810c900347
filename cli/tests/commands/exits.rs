//! How a command ends: the codes of the table, closed outputs, signals.

use std::collections::VecDeque;

use tonic::Status;

use crate::fake::{chunk, finished, running};
use crate::run::{interrupt, kill, until};
use crate::{Done, World};

#[tokio::test]
async fn a_line_that_run_cannot_understand_ends_with_125_and_of_every_other_command_with_2() {
    let world = World::new();
    let mut commands = vec![Vec::new()];
    let mut tried = 0;
    while let Some(path) = commands.pop() {
        let line = |more: &str| path.iter().cloned().chain([more.to_owned()]).collect::<Vec<String>>();
        let run =
            async |args: Vec<String>| world.stint(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let help = run(line("--help")).await;
        assert_eq!(help.code, 0, "{path:?}");
        let listed = help.stdout.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names =
            listed.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
        // The simulator is another program.
        commands.extend(names.filter(|name| !["help", "sim"].contains(name)).map(line));
        let done = run(line("--no-such-flag")).await;
        let expected = if path == ["run"] { 125 } else { 2 };
        assert_eq!(done.code, expected, "{path:?}: {}", done.stderr);
        assert!(done.stderr.contains("--no-such-flag"), "{path:?}: {}", done.stderr);
        tried += 1;
    }
    assert!(tried > 40, "only {tried} commands were found");
    let file = world.write("t.toml", "memroy = \"1GiB\"\n");
    let cases: [(&[&str], &str); 7] = [
        (&["run"], "nothing to run"),
        (&["run", "-f", &file], "memroy: unknown key"),
        (&["run", "--timeout", "60", "--", "x"], "unit is missing"),
        (&["run", "--input", "a=/nowhere", "--", "x"], "cannot read /nowhere"),
        (&["-o", "xml", "run", "--", "x"], "xml"),
        (&["--address", "http://x", "run", "--", "x"], "no plain text"),
        (&["run", "--token", "x", "--", "x"], "--token"),
    ];
    for (args, part) in cases {
        let done = world.stint(args).await;
        assert_eq!(done.code, 125, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(part), "{args:?}: {}", done.stderr);
    }
    assert_eq!(world.fake.calls(), 0);
}

/// Runs a command whose output nobody reads.
async fn unread(world: &World, args: &[&str]) -> Done {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Done::after(world.command(args).stdout(writer).spawn().unwrap()).await
}

#[tokio::test]
async fn a_closed_output_ends_as_sigpipe_would_and_the_task_that_is_left_is_named() {
    let world = World::with_task([running("task-0", 1)]);
    world.fake.logs.lock().unwrap().push_back(vec![chunk("stdout", 0, "out\n")]);
    let done = unread(&world, &["run", "--", "yes"]).await;
    let left = "stint: task-0 is left to the cluster: `stint logs -f task-0` shows its output, `stint cancel task-0` \
                ends it\n";
    assert_eq!((done.code, done.stderr.as_str()), (141, left));
    assert!(world.fake.cancels.lock().unwrap().is_empty());
    *world.fake.task.lock().unwrap() = VecDeque::from([finished(running("t", 1), "exited", 0)]);
    world.fake.logs.lock().unwrap().push_back(vec![chunk("stdout", 0, "out\n")]);
    for args in [&["ps"][..], &["logs", "t"], &["status", "t"], &["--help"], &["submit", "--help"]] {
        let done = unread(&world, args).await;
        assert_eq!((done.code, done.stderr.as_str()), (141, ""), "{args:?}");
    }
}

#[tokio::test]
async fn output_that_is_not_complete_does_not_end_with_0() {
    let gone = || vec![chunk("stdout", 0, "one "), Err(Status::not_found("node b keeps it no more"))];
    let cut = || vec![chunk("stdout", 0, "one "), chunk("stdout", 4096, "two\n")];
    let cases = [(gone(), "node b keeps it no more", "one "), (cut(), "max_log_bytes", "one two\n")];
    for (script, why, copied) in cases {
        let of = |code| World::with_task([finished(running("task-0", 1), "exited", code)]);
        for (code, args, expected) in [
            (0, &["run", "--", "x"][..], 125),
            (7, &["run", "--", "x"], 7),
            (0, &["logs", "-f", "task-0"], 1),
        ] {
            let world = of(code);
            // What failed is asked for once more at the end.
            let again = vec![Err(Status::not_found("node b keeps it no more"))];
            world.fake.logs.lock().unwrap().extend([script.clone(), again]);
            let done = world.stint(args).await;
            assert_eq!((done.code, done.stdout.as_str()), (expected, copied), "{args:?}: {}", done.stderr);
            assert!(done.stderr.contains("the output of attempt 1 is not complete: "), "{}", done.stderr);
            assert!(done.stderr.contains(why), "{}", done.stderr);
            let lost = "stint: task-0 succeeded, but a part of its output is lost\n";
            assert_eq!(done.stderr.ends_with(lost), expected == 125, "{}", done.stderr);
        }
    }
    // The node had it after all.
    let world = World::with_task([finished(running("task-0", 1), "exited", 0)]);
    world.fake.logs.lock().unwrap().extend([gone(), vec![chunk("stdout", 4, "two\n")]]);
    let done = world.stint(&["run", "--", "x"]).await;
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "one two\n", ""));
    let world = World::with_task([finished(running("t", 1), "exited", 0)]);
    for args in [&["logs", "t"][..], &["logs", "--attempt", "1", "t"]] {
        world.fake.logs.lock().unwrap().push_back(cut());
        assert_eq!(world.stint(args).await.code, 1, "{args:?}");
    }
}

#[tokio::test]
async fn a_closed_terminal_leaves_the_task_and_says_its_id() {
    for (signal, code) in [("-HUP", 129), ("-QUIT", 131)] {
        let world = World::with_task([running("task-0", 0)]);
        let child = world.command(&["run", "--", "x"]).spawn().unwrap();
        until("following", || world.fake.calls() >= 2).await;
        kill(signal, &child).await;
        let done = Done::after(child).await;
        assert_eq!(done.code, code, "{}", done.stderr);
        assert!(done.stderr.contains("stint: task-0 is left to the cluster"), "{}", done.stderr);
        assert!(done.stderr.contains("`stint cancel task-0` ends it"), "{}", done.stderr);
        assert!(world.fake.cancels.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_supervisor_that_terminates_it_ends_the_task() {
    let world = World::with_task([running("task-0", 0)]);
    *world.fake.after_cancel.lock().unwrap() = Some(finished(running("task-0", 0), "cancelled", 130));
    let child = world.command(&["run", "--", "x"]).spawn().unwrap();
    until("following", || world.fake.calls() >= 2).await;
    kill("-TERM", &child).await;
    let done = Done::after(child).await;
    assert_eq!(done.code, 130, "{}", done.stderr);
    assert!(done.stderr.contains("cancelling task-0"), "{}", done.stderr);
}

#[tokio::test]
async fn signals_that_it_was_started_without_do_not_end_it() {
    let world = World::with_task([running("task-0", 0)]);
    let child = world.shell("trap '' HUP INT; exec stint run -- x").spawn().unwrap();
    until("following", || world.fake.calls() >= 2).await;
    kill("-HUP", &child).await;
    kill("-INT", &child).await;
    *world.fake.task.lock().unwrap() = VecDeque::from([finished(running("task-0", 0), "exited", 0)]);
    let done = Done::after(child).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn a_signal_before_the_submit_is_answered_says_that_nobody_knows() {
    let world = World::new();
    world.fake.silent.store(true, std::sync::atomic::Ordering::SeqCst);
    let child = world.command(&["run", "--", "x"]).spawn().unwrap();
    until("submitting", || world.fake.calls() >= 1).await;
    interrupt(&child).await;
    let done = Done::after(child).await;
    let said = "stint: left before the cluster answered; `stint ps` says whether it has the task\n";
    assert_eq!((done.code, done.stderr.as_str()), (130, said));
}
