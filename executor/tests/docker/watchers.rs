//! Who ends a container, adopts it or sweeps it away when its node, its watchdog or its monitor hangs or is gone.

use stint_executor::{Host, LogStream, StopReason, boot_now};
use stint_protocol::EndKind;

use crate::support::{assert_kind, signal, wait_until};
use crate::{IMAGE, alive, containers, docker, first_process, monitors, open, output, shell};

#[tokio::test]
async fn a_lease_that_is_not_renewed_ends_inside_itself_though_the_node_is_gone() {
    let (rig, mut client) = open().await;
    let mut launch = shell("trap : TERM; while :; do sleep 0.05; done");
    launch.deadline = boot_now().plus(4_000);
    let (lease, deadline) = (launch.lease, launch.deadline);
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    client.host.shutdown(false).await;
    wait_until("the end of the container", || !alive(pid)).await;
    assert!(boot_now() <= deadline, "it outlived its lease");
    let mut client = rig.open().await;
    wait_until("its end", || client.host.unacknowledged().iter().any(|end| end.lease == lease)).await;
    assert_kind(&client.host.unacknowledged()[0], EndKind::Lost);
    assert_eq!(containers(&rig), Vec::<String>::new());
    client.events.close();
}

#[tokio::test]
async fn a_container_dies_with_its_watchdog() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 100");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    rig.kill_shim();
    wait_until("the end of the container", || !alive(pid)).await;
    assert_kind(&client.end(lease).await, EndKind::Lost);
    wait_until("its removal", || containers(&rig).is_empty()).await;
}

#[tokio::test]
async fn a_monitor_that_is_killed_leaves_nothing() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 100");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    for monitor in monitors(&rig) {
        signal(monitor, libc::SIGKILL);
    }
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::Lost, "{end:?}");
    assert!(!alive(pid));
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn watchdog_and_monitor_killed_at_once() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 100");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let pid = first_process(&rig);
    let monitors = monitors(&rig);
    signal(rig.shim_pid().unwrap(), libc::SIGSTOP);
    for monitor in monitors {
        signal(monitor, libc::SIGKILL);
    }
    rig.kill_shim();
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::Lost, "{end:?}");
    assert!(!alive(pid), "the next watchdog reported it as lost while it ran");
    wait_until("its removal", || containers(&rig).is_empty()).await;
}

#[tokio::test]
async fn a_hung_monitor_does_not_keep_its_container_alive() {
    let (rig, mut client) = open().await;
    let mut launch = shell("trap : TERM; while :; do sleep 0.05; done");
    launch.deadline = boot_now().plus(4_000);
    let (lease, deadline) = (launch.lease, launch.deadline);
    client.host.start(launch);
    client.started(lease).await;
    let (pid, monitors) = (first_process(&rig), monitors(&rig));
    monitors.iter().for_each(|monitor| signal(*monitor, libc::SIGSTOP));
    wait_until("the end of the container", || !alive(pid)).await;
    assert!(boot_now() <= deadline, "it outlived its lease");
    monitors.iter().for_each(|monitor| signal(*monitor, libc::SIGCONT));
    assert_kind(&client.end(lease).await, EndKind::Lost);
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn with_its_watchdog_stopped_a_container_ends_by_its_deadline() {
    let (rig, mut client) = open().await;
    let mut launch = shell("trap : TERM; while :; do sleep 0.05; done");
    launch.deadline = boot_now().plus(4_000);
    let (lease, deadline) = (launch.lease, launch.deadline);
    client.host.start(launch);
    client.started(lease).await;
    let (pid, watchdog) = (first_process(&rig), rig.shim_pid().unwrap());
    signal(watchdog, libc::SIGSTOP);
    wait_until("the end of the container", || !alive(pid)).await;
    let at = boot_now();
    signal(watchdog, libc::SIGCONT);
    assert!(at <= deadline, "it outlived its lease");
    assert_kind(&client.end(lease).await, EndKind::Lost);
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_restarted_node_adopts_its_containers() {
    let (rig, mut client) = open().await;
    let launch = shell("echo before; sleep 2; echo after; exit 5");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    client.host.shutdown(false).await;
    let mut client = rig.open().await;
    assert!(client.host.health().accounted);
    assert_eq!(client.host.running().len(), 1);
    assert_eq!(containers(&rig).len(), 1, "the sweep took a container that is held");
    assert_kind(&client.end(lease).await, EndKind::Exited(5));
    assert_eq!(output(&client, lease, LogStream::Stdout).await, "before\nafter\n");
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn containers_that_nobody_accounts_for_are_swept() {
    let (rig, client) = open().await;
    client.host.shutdown(true).await;
    let label = format!("stint.executor={}", rig.executor().display());
    docker(&["run", "-d", "--network", "none", "--label", &label, IMAGE, "/bin/sleep", "100"]);
    docker(&["create", "--network", "none", "--label", &label, IMAGE, "/bin/sleep", "100"]);
    assert_eq!(containers(&rig).len(), 2);
    let _client = rig.open().await;
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_monitor_cannot_do_stands_in_the_log_with_time_and_lease() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 60");
    let lease = launch.lease;
    let folder = rig.executor().join("attempts").join(format!("{}-{}", lease.task, lease.attempt));
    client.host.start(launch);
    client.started(lease).await;
    std::fs::rename(&folder, rig.folder.path().join("moved")).unwrap();
    client.host.stop(lease, StopReason::Cancelled);
    client.end(lease).await;
    let log = std::fs::read_to_string(rig.executor().join("shim.log")).unwrap();
    let about = format!(" task={} attempt={}: writing how it ended: ", lease.task, lease.attempt);
    let line = log.lines().find(|line| line.contains(&about)).unwrap_or_else(|| panic!("{log}"));
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 27 && time.starts_with("20") && time.ends_with('Z'), "{line}");
    assert!(rest.starts_with("monitor pid="), "{line}");
}
