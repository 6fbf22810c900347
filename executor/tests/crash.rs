//! What survives and what dies when node, watchdog or both are killed, stopped or replaced.

#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stint_executor::{Host, LogStream, StopReason, boot_now};
use stint_protocol::{EndKind, LeaseId, Runtime, TaskId};
use support::{Rig, assert_kind, launch, odd_seconds, processes_with, shell, signal, spec, task, wait_until};

const WAYS: [bool; 2] = [true, false];

/// The node of the tests below, in a process of its own: starts what the environment says and waits to be killed.
#[tokio::test]
async fn node_process() {
    let Ok(folder) = std::env::var("STINT_TEST_NODE") else { return };
    let folder = std::path::PathBuf::from(folder);
    let mut rig = Rig::new_in(&folder, std::env::var("STINT_TEST_SANDBOX").is_ok_and(|v| v == "true"));
    rig.settings.data_dir = folder;
    let client = rig.open().await;
    let mut launch = shell(&std::env::var("STINT_TEST_SCRIPT").unwrap());
    launch.lease = far_lease();
    launch.deadline = boot_now().plus(std::env::var("STINT_TEST_LEASE_MS").unwrap().parse().unwrap());
    client.host.start(launch);
    tokio::time::sleep(Duration::from_secs(120)).await;
}

fn far_lease() -> LeaseId {
    LeaseId { task: TaskId(0xfa), attempt: 1 }
}

fn start_node(rig: &Rig, script: &str, lease_ms: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["node_process", "--exact", "--nocapture"])
        .env("STINT_TEST_NODE", rig.folder.path())
        .env("STINT_TEST_SANDBOX", rig.settings.sandbox.to_string())
        .env("STINT_TEST_SCRIPT", script)
        .env("STINT_TEST_LEASE_MS", lease_ms.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn sleeping(word: &str) -> bool {
    !processes_with(&format!("sleep\0{word}")).is_empty()
}

#[tokio::test]
async fn a_stopped_node_cannot_keep_an_attempt_alive() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let word = odd_seconds();
        let mut node = start_node(&rig, &format!("trap '' TERM; sleep {word} & sleep {word}"), 3000);
        wait_until("the attempt runs", || sleeping(&word)).await;
        let latest = boot_now().plus(3000);
        signal(node.id() as i32, libc::SIGSTOP);
        wait_until("the lease has ended the attempt", || !sleeping(&word)).await;
        assert!(boot_now() <= latest, "inside its lease");
        node.kill().unwrap();
        node.wait().unwrap();
        let mut client = rig.open().await;
        if client.host.unacknowledged().is_empty() {
            // Killed, and not reaped yet.
            client.end(far_lease()).await;
        }
        let ends = client.host.unacknowledged();
        assert_eq!(ends.len(), 1);
        assert_kind(&ends[0], EndKind::Lost);
    }
}

/// The node is this test, which renews only once. TERM reaches nobody in time.
#[tokio::test]
async fn with_its_watchdog_stopped_an_attempt_ends_itself_by_its_deadline() {
    for runtime in [Runtime::Process, Runtime::Crun] {
        let rig = Rig::new(true);
        let mut client = rig.open().await;
        if let Err(why) = &client.host.health().runtimes[&runtime] {
            println!("SKIPPED {runtime}: {why}");
            continue;
        }
        let word = odd_seconds();
        let mut attempt =
            launch(spec(&["/bin/sh", "-c", &format!("trap '' TERM; sleep {word} & sleep {word}")]), runtime);
        attempt.deadline = boot_now().plus(3_000);
        let (lease, deadline) = (attempt.lease, attempt.deadline.plus(1_500));
        client.host.start(attempt);
        client.started(lease).await;
        client.host.renew(vec![(lease, deadline)]);
        // What comes after it in the socket is done after it.
        let after = launch(spec(&["true"]), runtime);
        let after_lease = after.lease;
        client.host.start(after);
        client.started(after_lease).await;
        wait_until("it runs", || sleeping(&word)).await;
        let watchdog = rig.shim_pid().unwrap();
        signal(watchdog, libc::SIGSTOP);
        wait_until("it has ended itself", || {
            // A look takes a while on a busy machine: what it finds was there when it began, or since.
            let began = boot_now();
            let is_there = sleeping(&word);
            assert!(!is_there || began <= deadline, "{runtime}: it outlived its lease");
            !is_there
        })
        .await;
        let at = boot_now();
        signal(watchdog, libc::SIGCONT);
        assert!(at > deadline.minus(1_500), "{runtime}: the renewal did not count");
        assert_kind(&client.end(lease).await, EndKind::Lost);
    }
}

/// Nobody empties its pipe: it waits in its write, and its init ends it none the less.
#[tokio::test]
async fn with_its_watchdog_stopped_a_program_that_writes_ends_by_its_deadline_too() {
    for runtime in [Runtime::Process, Runtime::Crun] {
        let rig = Rig::new(true);
        let mut client = rig.open().await;
        if let Err(why) = &client.host.health().runtimes[&runtime] {
            println!("SKIPPED {runtime}: {why}");
            continue;
        }
        let word = odd_seconds();
        let script = format!("trap '' TERM; while echo y{word}; do :; done");
        let mut attempt = launch(spec(&["/bin/sh", "-c", &script]), runtime);
        attempt.deadline = boot_now().plus(4_000);
        let (lease, deadline) = (attempt.lease, attempt.deadline);
        client.host.start(attempt);
        client.until_output(lease, &word).await;
        let writes = || !processes_with(&script).is_empty();
        let watchdog = rig.shim_pid().unwrap();
        signal(watchdog, libc::SIGSTOP);
        wait_until("it has ended itself", || !writes()).await;
        let at = boot_now();
        signal(watchdog, libc::SIGCONT);
        assert!(at <= deadline, "{runtime}: it outlived its lease");
        assert_kind(&client.end(lease).await, EndKind::Lost);
        // What was in the pipe is there, line by line.
        let text = client.log(lease, LogStream::Stdout).await;
        let line = format!("y{word}");
        let whole = text.lines().filter(|found| *found == line).count();
        assert!(whole > 1_000 && whole + 1 >= text.lines().count(), "{runtime}: {whole}");
    }
}

/// It writes all the time, and every line is there, in its order.
#[tokio::test]
async fn output_is_whole_over_the_death_of_a_node() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let script = "trap stop=1 TERM; i=0; while [ ! $stop ]; do i=$((i+1)); echo line $i; echo error $i >&2; done; \
            echo last $i";
        let mut node = start_node(&rig, script, 60_000);
        let written = || {
            let folder =
                std::fs::read_dir(rig.executor().join("homes")).into_iter().flatten().flatten().next();
            folder.and_then(|f| Some(std::fs::metadata(f.path().join("stdout")).ok()?.len())).unwrap_or(0)
        };
        wait_until("it writes", || written() > 10_000).await;
        node.kill().unwrap();
        node.wait().unwrap();
        let before = written();
        wait_until("more is kept without a node than a pipe holds", || written() > before + 200_000).await;
        let mut client = rig.open().await;
        client.host.stop(far_lease(), StopReason::Cancelled);
        assert_kind(&client.end(far_lease()).await, EndKind::Cancelled);
        let stdout = client.log(far_lease(), LogStream::Stdout).await;
        let last = stdout.lines().last().and_then(|line| line.strip_prefix("last ")).unwrap();
        let last: usize = last.parse().unwrap();
        let expected: String = (1..=last).map(|n| format!("line {n}\n")).collect();
        assert!(stdout == expected + &format!("last {last}\n"), "lines are missing or out of order");
        let stderr = client.log(far_lease(), LogStream::Stderr).await;
        assert!(stderr == (1..=last).map(|n| format!("error {n}\n")).collect::<String>());
    }
}

/// A crun that hangs as it starts, with its watchdog stopped.
#[tokio::test]
async fn a_start_that_hangs_ends_by_its_deadline_too() {
    let mut rig = Rig::new(true);
    let word = odd_seconds();
    let path = rig.folder.path().join("crun-stand-in");
    std::fs::write(&path, format!("#!/bin/sh\nsleep {word}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    rig.settings.crun_path = path;
    let mut client = rig.open().await;
    if let Err(why) = &client.host.health().runtimes[&Runtime::Crun] {
        return println!("SKIPPED: {why}");
    }
    let mut attempt = launch(spec(&["true"]), Runtime::Crun);
    attempt.deadline = boot_now().plus(3_000);
    let (lease, deadline) = (attempt.lease, attempt.deadline);
    client.host.start(attempt);
    wait_until("crun hangs", || sleeping(&word)).await;
    let watchdog = rig.shim_pid().unwrap();
    signal(watchdog, libc::SIGSTOP);
    wait_until("it has ended itself", || !sleeping(&word)).await;
    let at = boot_now();
    signal(watchdog, libc::SIGCONT);
    assert!(at <= deadline, "it outlived its lease");
    assert_kind(&client.end(lease).await, EndKind::Lost);
}

#[tokio::test]
async fn a_killed_node_is_followed_by_one_that_adopts() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let word = odd_seconds();
        let mut node = start_node(&rig, &format!("echo before; sleep {word}"), 60_000);
        wait_until("the attempt runs", || sleeping(&word)).await;
        node.kill().unwrap();
        node.wait().unwrap();
        let mut client = rig.open().await;
        assert!(client.host.health().accounted);
        let running = client.host.running();
        assert!(
            running.len() == 1
                && running[0].lease == far_lease()
                && running[0].started
                && !running[0].stopping,
            "{running:?}"
        );
        client.host.stop(far_lease(), StopReason::Cancelled);
        assert_kind(&client.end(far_lease()).await, EndKind::Cancelled);
        assert_eq!(client.log(far_lease(), LogStream::Stdout).await, "before\n");
        assert!(!sleeping(&word));
    }
}

#[tokio::test]
async fn ends_while_no_node_was_there_are_delivered_and_forgotten_once_acknowledged() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let gate = rig.shared().join("gate");
        let launch = shell(&format!("while [ ! -e {} ]; do sleep 0.01; done; exit 7", gate.display()));
        let lease = launch.lease;
        client.host.start(launch);
        client.started(lease).await;
        client.host.shutdown(false).await;
        let shim = rig.shim_pid();
        let journal = rig.executor().join("spool/journal");
        let size = std::fs::metadata(&journal).unwrap().len();
        std::fs::write(&gate, "").unwrap();
        wait_until("the end is in the journal", || std::fs::metadata(&journal).unwrap().len() > size).await;
        // Both gone: the spool is all that is left.
        rig.kill_shim();
        wait_until("the watchdog is gone", || rig.shim_pid() != shim).await;

        let client = rig.open().await;
        let ends = client.host.unacknowledged();
        assert_eq!((ends.len(), ends[0].lease), (1, lease));
        assert_kind(&ends[0], EndKind::Exited(7));
        assert!(client.host.health().accounted);
        client.host.acknowledge(vec![lease]);
        client.host.shutdown(false).await;
        let last = rig.open().await;
        assert_eq!(last.host.unacknowledged(), []);
    }
}

#[tokio::test]
async fn what_a_killed_watchdog_ran_dies_and_is_reported_lost_after_it_is_gone() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let word = odd_seconds();
        let launch = shell(&format!("trap '' TERM; (setsid sleep {word} &); sleep {word}"));
        let lease = launch.lease;
        client.host.start(launch);
        client.started(lease).await;
        wait_until("the attempt runs", || processes_with(&format!("sleep\0{word}")).len() == 2).await;
        rig.kill_shim();
        assert_kind(&client.end(lease).await, EndKind::Lost);
        assert!(!sleeping(&word), "seen gone before it was told");
        // The next watchdog works.
        assert_kind(&client.run(&["/bin/true"]).await, EndKind::Exited(0));
        assert!(client.host.health().accounted);
    }
}

#[tokio::test]
async fn node_and_watchdog_killed_together_leave_nothing() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let word = odd_seconds();
        let mut node =
            start_node(&rig, &format!("trap '' TERM; (setsid sleep {word} &); sleep {word}"), 60_000);
        wait_until("the attempt runs", || processes_with(&format!("sleep\0{word}")).len() == 2).await;
        node.kill().unwrap();
        node.wait().unwrap();
        rig.kill_shim();
        if sandbox {
            wait_until("the namespace is gone without anybody's help", || !sleeping(&word)).await;
        }
        let mut client = rig.open().await;
        if client.host.unacknowledged().is_empty() {
            client.end(far_lease()).await;
        }
        assert_kind(&client.host.unacknowledged()[0], EndKind::Lost);
        assert!(!sleeping(&word));
    }
}

#[tokio::test]
async fn a_hung_watchdog_is_replaced() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let word = odd_seconds();
    let launch = task(&["sleep", &word]);
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let shim = rig.shim_pid().unwrap();
    signal(shim, libc::SIGSTOP);
    assert_kind(&client.end(lease).await, EndKind::Lost);
    assert!(!sleeping(&word));
    assert_ne!(rig.shim_pid(), Some(shim));
}

#[tokio::test]
async fn a_watchdog_without_work_and_node_leaves() {
    let mut rig = Rig::new(true);
    rig.settings.shim_command =
        vec![env!("CARGO_BIN_EXE_stint-shim").into(), "--idle-ms".into(), "100".into()];
    let client = rig.open().await;
    assert!(rig.shim_pid().is_some());
    drop(client);
    wait_until("it has left", || rig.shim_pid().is_none()).await;
}

#[tokio::test]
async fn shutting_down_with_kill_leaves_nothing() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let word = odd_seconds();
        let launch = task(&["sleep", &word]);
        let lease = launch.lease;
        client.host.start(launch);
        client.started(lease).await;
        client.host.shutdown(true).await;
        wait_until("the watchdog has left", || rig.shim_pid().is_none()).await;
        assert!(!sleeping(&word));
        let next = rig.open().await;
        assert_kind(&next.host.unacknowledged()[0], EndKind::Drained);
    }
}

#[tokio::test]
async fn mock_attempts_end_with_their_node_and_say_so() {
    let rig = Rig::new(true);
    let client = rig.open().await;
    client.host.start(support::launch(support::spec(&["hang"]), Runtime::Mock));
    wait_until("the mock runs", || rig.executor().join("mock-used").exists()).await;
    drop(client);
    let next = rig.open().await;
    assert!(!next.host.health().accounted, "the next node cannot know what ran: new incarnation");
    assert_eq!(next.host.running(), []);
}

#[tokio::test]
async fn letting_go_of_a_watchdog_that_dies_meanwhile_does_not_wait_for_it() {
    let rig = Rig::new(true);
    let client = rig.open().await;
    let shim = rig.shim_pid().unwrap();
    signal(shim, libc::SIGSTOP);
    // More than the socket takes, so that some of it waits here.
    for _ in 0..40 {
        client.host.start(shell(&format!("true {}", "x".repeat(100_000))));
    }
    let began = Instant::now();
    let dies = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        signal(shim, libc::SIGKILL);
    };
    tokio::join!(client.host.shutdown(false), dies);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200), "there was nothing to wait for: {took:?}");
    assert!(took < Duration::from_secs(5), "it waited {took:?} for a watchdog that is gone");
}

#[tokio::test]
async fn the_watchdog_of_a_wiped_data_folder_leaves_the_cgroups_of_its_successor_alone() {
    let rig = Rig::new(true);
    let folder = rig.folder.path().to_str().unwrap().to_owned();
    rig.open().await.host.shutdown(false).await;
    let earlier = rig.shim_pid().unwrap();
    std::fs::remove_dir_all(rig.executor()).unwrap();
    let mut client = rig.open().await;
    assert_ne!(rig.shim_pid().unwrap(), earlier, "a wiped folder has a watchdog of its own");
    signal(earlier, libc::SIGTERM);
    wait_until("the earlier watchdog is gone", || !processes_with(&folder).contains(&earlier)).await;
    assert_kind(&client.run(&["/bin/true"]).await, EndKind::Exited(0));
}
