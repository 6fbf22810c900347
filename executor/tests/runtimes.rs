//! The mock and crun runtimes, and refusals.

#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use std::path::PathBuf;
use std::time::Instant;

use stint_executor::{Host, Launch, LogStream, StopReason};
use stint_protocol::{EndKind, Runtime, Tenant};
use support::{Client, Rig, assert_kind, launch, odd_seconds, processes_with, spec, task, wait_until};

#[tokio::test]
async fn mock_attempts_do_what_their_words_say() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let cases = [
        ("", EndKind::Exited(0)),
        ("exit=3", EndKind::Exited(3)),
        ("run=20ms signal=9", EndKind::Signalled(9)),
        ("fail_start", EndKind::StartFailed),
        ("sleep 1", EndKind::NotRunnable),
    ];
    for (args, kind) in cases {
        let args: Vec<&str> = args.split_whitespace().collect();
        let launch = launch(spec(&args), Runtime::Mock);
        let lease = launch.lease;
        client.host.start(launch);
        assert_kind(&client.end(lease).await, kind);
    }
    let hang = launch(spec(&["hang"]), Runtime::Mock);
    let lease = hang.lease;
    client.host.start(hang);
    client.started(lease).await;
    client.host.stop(lease, StopReason::Cancelled);
    assert_kind(&client.end(lease).await, EndKind::Cancelled);
}

#[tokio::test]
async fn mock_attempts_are_cheap() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let began = Instant::now();
    for _ in 0..20_000 {
        client.host.start(launch(spec(&[]), Runtime::Mock));
    }
    client.until(|c| c.ends.len() == 20_000, "20,000 ends").await;
    println!("MEASURED mock: {:.0} attempts a second", 20_000.0 / began.elapsed().as_secs_f64());
}

#[tokio::test]
async fn runtimes_that_are_not_there_are_refused_with_advice() {
    let mut rig = Rig::new(true);
    rig.settings.runtimes = vec![Runtime::Mock, Runtime::Crun, Runtime::Docker];
    rig.settings.crun_path = "/no/such/crun".into();
    rig.settings.docker.socket = "/no/such/docker.sock".into();
    let mut client = rig.open().await;
    for (runtime, part) in [
        (Runtime::Process, "add it to runtimes"),
        (Runtime::Crun, "crun_path"),
        (Runtime::Docker, "no Docker daemon answers at /no/such/docker.sock"),
    ] {
        let launch = launch(spec(&["/bin/true"]), runtime);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::StartFailed);
        assert!(end.message.contains(part), "{end:?}");
    }
    let health = client.host.health();
    assert!(health.runtimes[&Runtime::Mock].is_ok() && health.runtimes[&Runtime::Crun].is_err());
}

/// A rig and client when crun can be used here.
async fn with_crun(test: &str) -> Option<(Rig, Client)> {
    let rig = Rig::new(true);
    let client = rig.open().await;
    if let Err(why) = &client.host.health().runtimes[&Runtime::Crun] {
        println!("SKIPPED {test}: {why}");
        return None;
    }
    Some((rig, client))
}

async fn crun(client: &mut Client, command: &[&str]) -> (EndKind, String, String) {
    let launch = launch(spec(command), Runtime::Crun);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let text = match client.host.read_log(lease, LogStream::Stdout, 0, 100_000).await {
        Ok(chunk) => String::from_utf8_lossy(&chunk.bytes).into_owned(),
        Err(e) => e.to_string(),
    };
    (end.kind, end.message, text)
}

#[tokio::test]
async fn crun_tells_exits_signals_and_errors_apart() {
    let Some((rig, mut client)) = with_crun("crun_tells_exits_signals_and_errors_apart").await else {
        return;
    };
    let (kind, message, text) =
        crun(&mut client, &["sh", "-c", "pwd; id -u; echo x > file && ls; exit 3"]).await;
    assert_eq!((kind, text.as_str()), (EndKind::Exited(3), "/work\n65534\nfile\n"), "{message}");
    let (kind, message, _) = crun(&mut client, &["sh", "-c", "sh -c 'kill -9 $$'; exit 137"]).await;
    assert_eq!(kind, EndKind::Exited(137), "{message}");
    let (kind, message, _) = crun(&mut client, &["stint-no-such-command"]).await;
    assert_eq!(kind, EndKind::NotRunnable, "{message}");
    assert!(message.contains("stint-no-such-command"), "{message}");
    let (kind, message, _) = crun(&mut client, &["/etc/passwd"]).await;
    assert_eq!(kind, EndKind::NotRunnable, "{message}");
    let (kind, _, text) = crun(
        &mut client,
        &["sh", "-c", "touch /usr/x /etc/x; cat /etc/shadow; set -- /proc/[0-9]*; echo $#"],
    )
    .await;
    assert_eq!((kind, text.trim()), (EndKind::Exited(0), "1"), "read-only, unprivileged and alone");
    let state = std::fs::read_dir(rig.executor().join("crun")).unwrap().count();
    assert_eq!(state, 0, "nothing of crun's state is left");
}

/// What stands in for crun: `start` does this, everything else is crun's own.
fn crun_whose_start(rig: &Rig, does: &str) -> PathBuf {
    let path = rig.folder.path().join("crun-stand-in");
    let script =
        format!("#!/bin/sh\nfor word; do [ \"$word\" = start ] && {{ {does}; }}; done\nexec crun \"$@\"\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// A program that may have begun is never said to have failed to start: it would be begun again.
#[tokio::test]
async fn a_crun_that_fails_after_its_start_leaves_the_programs_own_end() {
    let cases = [
        // The program begins, and crun's answer is another.
        ("crun \"$@\"; exit 1", EndKind::Exited(3), "ran\n"),
        ("crun \"$@\"; kill -9 $$", EndKind::Exited(3), "ran\n"),
        ("sleep 2; crun \"$@\"; exit 1", EndKind::Exited(3), "ran\n"),
        // It is told to start it again.
        ("crun \"$@\"; crun \"$@\"; exit $?", EndKind::Exited(3), "ran\n"),
        // Nothing begins.
        ("exit 1", EndKind::StartRefused, ""),
        ("kill -9 $$", EndKind::StartRefused, ""),
    ];
    for (does, kind, said) in cases {
        if with_crun("a_crun_that_fails_after_its_start_leaves_the_programs_own_end").await.is_none() {
            return;
        }
        let mut rig = Rig::new(true);
        rig.settings.crun_path = crun_whose_start(&rig, does);
        let mut client = rig.open().await;
        for script in ["echo ran; exit 3", "echo ran; sleep 0.5; exit 3"] {
            let (end, message, text) = crun(&mut client, &["sh", "-c", script]).await;
            assert_eq!((end, text.as_str()), (kind.clone(), said), "{does}: {message}");
        }
    }
}

#[tokio::test]
async fn crun_containers_are_stopped_limited_and_die_with_the_watchdog() {
    let Some((rig, mut client)) =
        with_crun("crun_containers_are_stopped_limited_and_die_with_the_watchdog").await
    else {
        return;
    };
    let word = odd_seconds();
    let sleeping = || !processes_with(&format!("sleep\0{word}")).is_empty();
    let mut slow = spec(&["sleep", &word]);
    slow.timeout_ms = 500;
    let slow = launch(slow, Runtime::Crun);
    let lease = slow.lease;
    client.host.start(slow);
    assert_kind(&client.end(lease).await, EndKind::TimedOut);
    assert!(!sleeping());

    let mut hungry = spec(&["sh", "-c", "tail /dev/zero"]);
    hungry.memory_bytes = 32 * 1024 * 1024;
    let hungry = launch(hungry, Runtime::Crun);
    let lease = hungry.lease;
    client.host.start(hungry);
    assert_kind(&client.end(lease).await, EndKind::OutOfMemory);

    let long = launch(spec(&["sleep", &word]), Runtime::Crun);
    let lease = long.lease;
    client.host.start(long);
    client.started(lease).await;
    wait_until("the container runs", sleeping).await;
    rig.kill_shim();
    assert_kind(&client.end(lease).await, EndKind::Lost);
    assert!(!sleeping());
}

/// A named pipe that nobody reads stands for the disk: whoever opens it to write waits.
#[tokio::test]
async fn a_disk_that_hangs_is_named_and_gets_nothing_until_it_answers() {
    let mut rig = Rig::new(true);
    rig.settings.disk_timeout_ms = 300;
    let mut client = rig.open().await;
    let probe = rig.executor().join("disk-probe");
    let made = std::process::Command::new("mkfifo").arg(&probe).status().unwrap();
    assert!(made.success());
    client.run(&["true"]).await;
    let host = client.host.clone();
    let health = || host.health().runtimes[&Runtime::Process].clone();
    wait_until("the disk is known to hang", || health().is_err()).await;
    let problem = health().unwrap_err();
    assert!(problem.contains(&rig.executor().display().to_string()), "{problem}");
    assert!(problem.contains("does not answer"), "{problem}");
    // What begins now is refused at once, for the node's sake: it is tried elsewhere.
    let refused = client.run(&["true"]).await;
    assert_kind(&refused, EndKind::StartFailed);
    assert_eq!(refused.message, problem);
    // Somebody reads: the disk answers.
    let reader = tokio::task::spawn_blocking(move || std::fs::read(probe));
    wait_until("the disk answers again", || health().is_ok()).await;
    reader.await.unwrap().unwrap();
    assert_kind(&client.run(&["true"]).await, EndKind::Exited(0));
}

#[tokio::test]
async fn a_node_starts_no_task_of_a_tenant_that_it_does_not_take() {
    let mut rig = Rig::new(true);
    rig.settings.tenants = vec!["physics".into(), "chem".into()];
    let mut client = rig.open().await;
    assert_eq!(client.host.health().rules.tenants.as_deref(), Some(&rig.settings.tenants[..]));
    for (tenant, kind) in [("chem", EndKind::Exited(0)), ("other", EndKind::StartFailed)] {
        let launch = Launch { tenant: Tenant::new(tenant).unwrap(), ..task(&["/bin/true"]) };
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{end:?}");
        assert!(kind == EndKind::Exited(0) || end.message.contains("executor.tenants"), "{end:?}");
    }
}

async fn said_of_users(change: impl FnOnce(&mut Rig)) -> Option<bool> {
    let mut rig = Rig::new(true);
    change(&mut rig);
    let client = rig.open().await;
    client.host.health().rules.one_user
}

#[tokio::test]
async fn a_host_says_where_processes_of_all_tenants_are_one_user() {
    let root = support::is_root();
    assert_eq!(said_of_users(|_| {}).await, (!root).then_some(true));
    assert_eq!(said_of_users(|rig| rig.settings.sandbox = false).await, Some(true));
    let one = Some((1000, 1000));
    assert_eq!(said_of_users(|rig| rig.settings.process.confine.user = one).await, Some(true));
    // Containers keep them apart, whatever their user.
    let containers = said_of_users(|rig| {
        rig.settings.runtimes = vec![Runtime::Crun];
        rig.settings.crun.confine.user = one;
    });
    assert_eq!(containers.await, None);
}
