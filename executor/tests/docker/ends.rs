//! Ends: exit codes, signals, memory, timeouts and stops are told apart.

use std::time::Duration;

use stint_executor::{AttemptStage, Execution, Host, LogStream, Preparation, StopReason};
use stint_protocol::{EndKind, LeaseId, Runtime};
use tokio::time::sleep;

use crate::support::{assert_kind, launch, signal, spec};
use crate::{IMAGE, containers, first_process, open, order, output, shell};

#[tokio::test]
async fn ends_are_told_apart_and_nothing_is_left() {
    let (rig, mut client) = open().await;
    let cases = [
        (shell("echo out; echo err >&2; exit 0"), EndKind::Exited(0)),
        (shell("exit 7"), EndKind::Exited(7)),
        (shell("exit 255"), EndKind::Exited(255)),
        (shell("exit 137"), EndKind::Exited(137)),
        // What it writes where its end is told counts for nothing.
        (shell("cat /bin/busybox >/.stint-end; exit 3"), EndKind::Exited(3)),
        (shell("printf '\\1\\0\\0\\0\\2\\0\\0\\0' >/.stint-end; kill -9 $$"), EndKind::Signalled(9)),
        (order(&["no-such-program"]), EndKind::NotRunnable),
        (order(&["/no/such/file"]), EndKind::NotRunnable),
        (order(&["/work"]), EndKind::NotRunnable),
    ];
    for (launch, kind) in cases {
        let lease = launch.lease;
        let args = launch.spec.command.clone();
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{args:?}: {end:?}");
        if kind == EndKind::Exited(0) {
            assert_eq!(output(&client, lease, LogStream::Stdout).await, "out\n");
            assert_eq!(output(&client, lease, LogStream::Stderr).await, "err\n");
        }
    }
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn memory_signals_timeouts_and_stops() {
    let (rig, mut client) = open().await;
    let mut hog = spec(&["/bin/sh", "-c", "x=x; while :; do x=$x$x; done"]);
    (hog.image, hog.memory_bytes) = (Some(IMAGE.into()), 32 << 20);
    let hog = launch(hog, Runtime::Docker);
    let mut slow = spec(&["/bin/sh", "-c", "trap : TERM; while :; do sleep 0.05; done"]);
    (slow.image, slow.timeout_ms, slow.stop_grace_ms) = (Some(IMAGE.into()), 500, 300);
    let slow = launch(slow, Runtime::Docker);
    let polite = shell("trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done");
    let (hog_lease, slow_lease, polite_lease) = (hog.lease, slow.lease, polite.lease);
    for launch in [hog, slow, polite] {
        client.host.start(launch);
    }
    client.started(polite_lease).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.host.stop(polite_lease, StopReason::Cancelled);
    assert_kind(&client.end(hog_lease).await, EndKind::OutOfMemory);
    assert_kind(&client.end(slow_lease).await, EndKind::TimedOut);
    assert_kind(&client.end(polite_lease).await, EndKind::Cancelled);
    assert_eq!(output(&client, polite_lease, LogStream::Stdout).await, "bye\n");

    let killed = shell("sleep 100");
    let lease = killed.lease;
    client.host.start(killed);
    client.started(lease).await;
    signal(first_process(&rig), libc::SIGKILL);
    assert_kind(&client.end(lease).await, EndKind::Signalled(9));
    assert_eq!(containers(&rig), Vec::<String>::new());
}

/// Two hundred at once took all of a node's processors from its leases.
#[tokio::test]
async fn a_burst_of_containers_starts_a_few_at_a_time_and_all_of_it() {
    let (_rig, mut client) = open().await;
    let leases: Vec<LeaseId> = (0..24)
        .map(|_| {
            let launch = order(&["true"]);
            let lease = launch.lease;
            client.host.start(launch);
            lease
        })
        .collect();
    let most = 2 * std::thread::available_parallelism().unwrap().get();
    let host = client.host.clone();
    let (mut seen, mut waited) = (0, false);
    let watch = async {
        loop {
            let stages: Vec<AttemptStage> =
                host.attempts().into_iter().map(|attempt| attempt.stage).collect();
            let starting = |stage: &&AttemptStage| {
                matches!(stage, AttemptStage::Outbox | AttemptStage::With(_, Execution::Starting))
            };
            seen = seen.max(stages.iter().filter(starting).count());
            waited |= stages.contains(&AttemptStage::Preparing(Preparation::Turn));
            sleep(Duration::from_millis(2)).await;
        }
    };
    let ends = async {
        for lease in &leases {
            assert_kind(&client.end(*lease).await, EndKind::Exited(0));
        }
    };
    tokio::select! { () = ends => {}, () = watch => unreachable!() }
    assert!(waited && (1..=most.clamp(4, 16)).contains(&seen), "{seen} started at a time");
}
