//! A program that may have begun is never begun again: whatever becomes of the daemon's answers, its own end is told.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use stint_executor::{Host, Launch, LogStream};
use stint_protocol::{EndKind, LeaseId};

use crate::proxy::{Faults, Proxy};
use crate::support::{Client, Rig, assert_kind};
use crate::{containers, open_with, output, shell};

/// Longer than a call to the daemon may take.
const SLOW_START: Duration = Duration::from_secs(33);

async fn behind(faults: Faults) -> (Rig, Client, Proxy) {
    let mut proxy = None;
    let (rig, client) = open_with(|rig| {
        let started = Proxy::start(rig.folder.path(), faults);
        rig.settings.docker.socket = started.socket.clone();
        proxy = Some(started);
    })
    .await;
    (rig, client, proxy.unwrap())
}

async fn all_end_as_they_did(rig: &Rig, client: &mut Client, tasks: Vec<(Launch, EndKind)>) {
    let leases: Vec<(LeaseId, EndKind)> =
        tasks.iter().map(|(launch, kind)| (launch.lease, kind.clone())).collect();
    for (launch, _) in tasks {
        client.host.start(launch);
    }
    for (lease, kind) in leases {
        assert_kind(&client.end(lease).await, kind);
        assert_eq!(output(client, lease, LogStream::Stdout).await, "ran\n");
    }
    assert_eq!(containers(rig), Vec::<String>::new());
}

/// Programs that end at once, that run for a while, and that fail.
fn programs(of_each: usize) -> Vec<(Launch, EndKind)> {
    let each = || {
        [
            (shell("echo ran"), EndKind::Exited(0)),
            (shell("echo ran; exit 3"), EndKind::Exited(3)),
            (shell("echo ran; sleep 1; exit 4"), EndKind::Exited(4)),
        ]
    };
    (0..of_each).flat_map(|_| each()).collect()
}

#[tokio::test]
async fn a_start_that_is_done_later_than_its_call_lasts_is_waited_for() {
    let faults = Faults { start_delay: SLOW_START, ..Faults::default() };
    let (rig, mut client, proxy) = behind(faults).await;
    let tasks = programs(1);
    for (launch, _) in &tasks {
        client.host.start(launch.clone());
    }
    // The patience of the others is shorter than one start.
    let late = Instant::now() + SLOW_START + Duration::from_secs(20);
    while client.host.unacknowledged().len() < tasks.len() && Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (launch, kind) in tasks {
        assert_kind(&client.end(launch.lease).await, kind);
        assert_eq!(output(&client, launch.lease, LogStream::Stdout).await, "ran\n");
    }
    assert_eq!(proxy.starts.load(SeqCst), 3);
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_start_whose_answer_never_comes_has_the_end_of_its_program() {
    let faults = Faults { forgets_starts: true, ..Faults::default() };
    let (rig, mut client, proxy) = behind(faults).await;
    all_end_as_they_did(&rig, &mut client, programs(2)).await;
    assert_eq!(proxy.starts.load(SeqCst), 6);
}

#[tokio::test]
async fn answers_of_before_the_start_are_no_end() {
    let faults = Faults { answers_stale: true, ..Faults::default() };
    let (rig, mut client, _proxy) = behind(faults).await;
    all_end_as_they_did(&rig, &mut client, programs(2)).await;
}

#[tokio::test]
async fn calls_that_are_cut_off_are_made_again_where_that_starts_nothing_twice() {
    let faults = Faults { cuts_one_in: 5, answers_stale: true, ..Faults::default() };
    let (rig, mut client, proxy) = behind(faults).await;
    let tasks = programs(4);
    let count = tasks.len();
    all_end_as_they_did(&rig, &mut client, tasks).await;
    assert!(proxy.starts.load(SeqCst) <= count, "a start was sent again");
    assert!(proxy.cuts.load(SeqCst) > 10, "the proxy cut off nothing");
}
