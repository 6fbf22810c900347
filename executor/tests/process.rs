//! The process runtime on real processes, sandboxed and not.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

#[path = "process/outputs.rs"]
mod outputs;
mod support;

use std::time::{Duration, Instant};

use stint_executor::{Host, LogError, LogStream, Sandbox, StopReason, boot_now};
use stint_protocol::{EndKind, Runtime};
use support::{Rig, assert_kind, launch, lease, odd_seconds, processes_with, shell, spec, task, wait_until};

/// Both ways in which the process runtime contains an attempt.
const WAYS: [bool; 2] = [true, false];

#[tokio::test]
async fn exits_and_signals_are_told_exactly() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        assert_kind(&client.run(&["/bin/true"]).await, EndKind::Exited(0));
        assert_kind(&client.run(&["false"]).await, EndKind::Exited(1));
        let codes = (0..=255).map(|code| (code, shell(&format!("exit {code}"))));
        let codes: Vec<_> = codes.collect();
        codes.iter().for_each(|(_, launch)| client.host.start(launch.clone()));
        for (code, launch) in codes {
            assert_kind(&client.end(launch.lease).await, EndKind::Exited(code));
        }
        for signal in [9, 11, 15, 6] {
            let end = client.run(&["sh", "-c", &format!("kill -{signal} $$")]).await;
            assert_kind(&end, EndKind::Signalled(signal));
        }
        assert_eq!(client.host.running(), []);
        assert_eq!(client.host.unacknowledged().len(), 2 + 256 + 4);
    }
}

/// The watchdog took a burst as one piece: what came after it, a renewal or a question whether it is there, waited for the last start.
#[tokio::test]
async fn a_burst_of_starts_keeps_no_lease_from_its_renewal() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let mut spec = support::spec(&["sleep", "100"]);
    spec.stop_grace_ms = 0;
    let mut long = launch(spec, Runtime::Process);
    long.deadline = boot_now().plus(1_500);
    let renewed = long.lease;
    client.host.start(long);
    client.started(renewed).await;
    let host = client.host.clone();
    let renewing = tokio::spawn(async move {
        loop {
            host.renew(vec![(renewed, boot_now().plus(1_500))]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let burst: Vec<_> = (0..1_200).map(|_| task(&["/bin/true"])).collect();
    let began = Instant::now();
    burst.iter().for_each(|launch| client.host.start(launch.clone()));
    for launch in &burst {
        client.until(|c| c.ends.contains_key(&launch.lease), "the end of a burst").await;
    }
    println!("{} starts in {:?}", burst.len(), began.elapsed());
    assert!(client.host.running().iter().any(|attempt| attempt.lease == renewed && !attempt.stopping));
    renewing.abort();
}

#[tokio::test]
async fn what_cannot_be_executed_is_told_apart_from_exit_codes() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let script = rig.shared().join("script");
        std::fs::write(&script, "echo no interpreter line").unwrap();
        let path = script.to_str().unwrap();
        let cases = [
            ("stint-no-such-command", "command not found"),
            ("/no/such/file", "no such file"),
            (path, "permission denied"),
            ("/etc", "permission denied"),
        ];
        for (name, part) in cases {
            let end = client.run(&[name]).await;
            assert_kind(&end, EndKind::NotRunnable);
            assert!(end.message.contains(part), "{end:?}");
        }
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let end = client.run(&[path]).await;
        assert_kind(&end, EndKind::NotRunnable);
        assert!(end.message.contains("#!/bin/sh"), "{end:?}");
        assert!(client.started.is_empty(), "none of them ever ran");
    }
}

#[tokio::test]
async fn a_program_that_ignores_term_is_killed_after_its_grace() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let mut stubborn = spec(&["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]);
        stubborn.timeout_ms = 300;
        let launch = launch(stubborn, Runtime::Process);
        let (lease, began) = (launch.lease, Instant::now());
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::TimedOut);
        assert!(began.elapsed() >= Duration::from_millis(600), "timeout and grace: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_stopped_program_may_clean_up() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let launch = shell("trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.02; done");
        let lease = launch.lease;
        client.host.start(launch);
        client.started(lease).await;
        client.until_output(lease, "ready").await;
        client.host.stop(lease, StopReason::Cancelled);
        assert!(client.host.running()[0].stopping);
        client.host.stop(lease, StopReason::Drained);
        assert_kind(&client.end(lease).await, EndKind::Cancelled);
        assert_eq!(client.log(lease, LogStream::Stdout).await, "ready\ncleaned\n");
    }
}

#[tokio::test]
async fn nothing_of_an_attempt_outlives_it() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let word = odd_seconds();
        // A child, a grandchild in a session of its own, and one that its parent abandoned.
        let script = format!(
            "sleep {word} & setsid sh -c 'sleep {word} & sleep {word}' & (setsid sleep {word} &) ; \
             while [ $(ps ax | grep -c 'slee[p] {word}') -lt 4 ]; do sleep 0.01; done; exit 5"
        );
        let launch = shell(&script);
        let lease = launch.lease;
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::Exited(5));
        assert_eq!(processes_with(&word), Vec::<i32>::new(), "when the end is told, everything is gone");
    }
}

#[tokio::test]
async fn attempts_that_are_killed_take_their_daemons_along() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let word = odd_seconds();
        let launch = shell(&format!("(setsid sleep {word} &); trap '' TERM; sleep {word}"));
        let lease = launch.lease;
        client.host.start(launch);
        client.started(lease).await;
        wait_until("the daemon runs", || processes_with(&format!("sleep\0{word}")).len() == 2).await;
        client.host.stop(lease, StopReason::Drained);
        assert_kind(&client.end(lease).await, EndKind::Drained);
        assert_eq!(processes_with(&word), Vec::<i32>::new());
    }
}

#[tokio::test]
async fn leases_end_in_time_and_renewals_extend_them() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let mut kept = shell("trap '' TERM; while :; do sleep 0.05; done");
        kept.deadline = boot_now().plus(1500);
        let mut let_go = kept.clone();
        let_go.lease = lease();
        let_go.env.clear();
        let deadline = let_go.deadline;
        let (kept, let_go) =
            ((kept.lease, client.host.start(kept)).0, (let_go.lease, client.host.start(let_go)).0);
        client.host.renew(vec![(kept, boot_now().plus(60_000))]);
        client.host.renew(vec![(kept, boot_now().plus(100))]);
        assert_kind(&client.end(let_go).await, EndKind::Lost);
        assert!(boot_now() <= deadline, "stopping is inside the lease");
        let running = client.host.running();
        assert!(running.len() == 1 && running[0].lease == kept && !running[0].stopping, "{running:?}");
        client.host.stop(kept, StopReason::Cancelled);
        assert_kind(&client.end(kept).await, EndKind::Cancelled);

        let mut late = task(&["/bin/true"]);
        late.deadline = boot_now().plus(100);
        let late = (late.lease, client.host.start(late)).0;
        assert_kind(&client.end(late).await, EndKind::Lost);
        assert!(!client.started.contains(&late), "no start without time left");
    }
}

#[tokio::test]
async fn the_environment_is_closed() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let mut spec = spec(&[
            "sh",
            "-c",
            "pwd; env | sort; ls /proc/self/fd | wc -l; umask; grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status; \
             cat /proc/self/oom_score_adj; echo to stderr >&2; cat",
        ]);
        spec.env.insert("MINE".into(), "1".into());
        let launch = launch(spec, Runtime::Process);
        let lease = launch.lease;
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        let text = client.log(lease, LogStream::Stdout).await;
        let lines: Vec<&str> = text.lines().collect();
        let sandbox_dirs = rig.executor().join("homes");
        if sandbox {
            assert_eq!(lines[0], "/tmp/work");
        } else {
            assert!(
                lines[0].starts_with(sandbox_dirs.to_str().unwrap()) && lines[0].ends_with("/work"),
                "{text}"
            );
        }
        let mut expected = vec![
            "CUDA_VISIBLE_DEVICES=",
            "HOME=",
            "LANG=C.UTF-8",
            "MINE=1",
            "NVIDIA_VISIBLE_DEVICES=void",
            "PATH=",
            "PWD=",
            "STINT_ATTEMPT=1",
            "STINT_ATTEMPT_FOLDER=",
            "STINT_PROGRESS_FILE=",
            "STINT_TASK_ID=",
            "TMPDIR=",
        ];
        if sandbox && support::is_root() {
            expected.extend(["LOGNAME=default", "USER=default"]);
            expected.sort_unstable();
        }
        let (names, rest) = lines[1..].split_at(expected.len());
        assert!(names.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{text}");
        // The three standard streams and the folder that `ls` reads.
        assert_eq!(rest[..2], ["4", "0077"], "{text}");
        for (line, value) in rest[2..5].iter().zip([
            "SigBlk:\t0000000000000000",
            "SigIgn:\t0000000000000000",
            "NoNewPrivs:\t1",
        ]) {
            assert_eq!(*line, value);
        }
        assert_eq!(rest[5], "0", "{text}");
        assert_eq!(client.log(lease, LogStream::Stderr).await, "to stderr\n");
        let unknown = client.host.read_log(support::lease(), LogStream::Stdout, 0, 10).await;
        assert!(matches!(unknown, Err(LogError::NotFound(_))));
    }
}

#[tokio::test]
async fn a_sandboxed_program_sees_only_itself() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    if client.host.health().sandbox != Sandbox::PidNamespace {
        println!("SKIPPED a_sandboxed_program_sees_only_itself: no pid namespaces on this host");
        return;
    }
    let launch = shell("ls -d /proc/[0-9]* | wc -l; kill -9 1; echo still here");
    let lease = launch.lease;
    client.host.start(launch);
    assert_kind(&client.end(lease).await, EndKind::Exited(0));
    let text = client.log(lease, LogStream::Stdout).await;
    let processes: u32 = text.lines().next().unwrap().trim().parse().unwrap();
    assert!(processes <= 4 && text.ends_with("still here\n"), "{text}");
}

#[tokio::test]
async fn out_of_memory_is_told_apart() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    if client.host.health().problems.iter().any(|p| p.contains("memory limits are not enforced")) {
        println!("SKIPPED out_of_memory_is_told_apart: no writable memory cgroup on this host");
        return;
    }
    let mut hungry = spec(&["sh", "-c", "tail /dev/zero"]);
    hungry.memory_bytes = 16 * 1024 * 1024;
    let launch = launch(hungry, Runtime::Process);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert_kind(&end, EndKind::OutOfMemory);
    assert!(end.message.contains("16777216"), "{end:?}");
    assert_kind(&client.run(&["sh", "-c", "kill -9 $$"]).await, EndKind::Signalled(9));
}

/// Descriptors of a process that lead to what has this in its name.
fn open_in(pid: i32, name: &str) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let leads = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    leads.filter(|path| path.to_string_lossy().contains(name)).count()
}

#[tokio::test]
async fn many_short_tasks_all_end_and_their_folders_go() {
    for sandbox in WAYS {
        let mut rig = Rig::new(sandbox);
        rig.settings.keep_ended.count = 10;
        let mut client = rig.open().await;
        let leases: Vec<_> = (0..200)
            .map(|_| {
                let launch = task(&["/bin/echo", "hello"]);
                let lease = launch.lease;
                client.host.start(launch);
                lease
            })
            .collect();
        client.until(|c| c.ends.len() == 200, "200 ends").await;
        assert!(client.ends.values().all(|e| e.kind == EndKind::Exited(0)), "{:?}", client.ends);
        assert_eq!(client.started.len(), 200);
        client.host.acknowledge(leases);
        assert_eq!(client.host.unacknowledged(), []);
        // Those of the last sixteen starts wait for the next ones; and there are the watchdog's own.
        let pipes = open_in(rig.shim_pid().unwrap(), "pipe:");
        assert!((1..=2 * 16 + 4).contains(&pipes), "{pipes} ends of pipes are open");
        assert_eq!(open_in(rig.shim_pid().unwrap(), "/std"), 0, "files of ended attempts are closed");
        let folders = || std::fs::read_dir(rig.executor().join("attempts")).unwrap().count();
        let began = Instant::now();
        while folders() > 10 {
            assert!(began.elapsed() < support::PATIENCE, "old folders are removed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn silent_attempts_hand_their_folders_on_and_others_keep_theirs() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let sandbox_dirs = || std::fs::read_dir(rig.executor().join("homes")).unwrap().count();
        for _ in 0..20 {
            let end = client.run(&["/bin/true"]).await;
            assert_eq!(client.log(end.lease, LogStream::Stdout).await, "");
            client.host.acknowledge(vec![end.lease]);
            assert_eq!(client.log(end.lease, LogStream::Stderr).await, "");
        }
        assert_eq!(sandbox_dirs(), 1, "one after the other in the same home");
        let wrote = client.run(&["sh", "-c", "echo mine; touch file"]).await.lease;
        assert_eq!(sandbox_dirs(), 0, "what an attempt leaves moves to its own folder");
        assert!(rig.executor().join(format!("attempts/{}-1/work/file", wrote.task)).exists());
        let chmodded = client.run(&["sh", "-c", "chmod 777 ."]).await.lease;
        client.host.acknowledge(vec![wrote, chmodded]);
        let fresh = client.run(&["sh", "-c", "ls; stat -c %a ."]).await.lease;
        assert_eq!(client.log(fresh, LogStream::Stdout).await, "700\n");
        assert_eq!(client.log(wrote, LogStream::Stdout).await, "mine\n");
    }
}

#[tokio::test]
async fn a_writable_folder_that_is_not_there_is_said_before_anything_starts() {
    let mut rig = Rig::new(true);
    let missing = rig.folder.path().join("absent");
    rig.settings.process.writable = vec![missing.clone()];
    let client = rig.open().await;
    let problem = client.host.health().runtimes[&Runtime::Process].clone().unwrap_err();
    assert!(problem.contains(missing.to_str().unwrap()) && problem.contains("writable"), "{problem}");
}
