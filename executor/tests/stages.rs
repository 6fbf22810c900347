//! Where the attempts of a host are, as it lists them.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use stint_executor::{AttemptStage, Host, StopReason};
use stint_protocol::{EndKind, Runtime, TaskName};
use support::{Rig, assert_kind, launch, shell, spec};

#[tokio::test]
async fn an_attempt_is_listed_from_its_start_to_the_record_of_its_end() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let mut launch = shell("trap '' TERM; echo deaf; while :; do sleep 0.01; done");
    launch.name = Some(TaskName::new("deaf").unwrap());
    let lease = launch.lease;
    assert_eq!(client.stage(lease), "");
    client.host.start(launch);
    client.started(lease).await;
    client.until_output(lease, "deaf").await;
    assert_eq!(client.stage(lease), "with the watchdog: running");
    client.host.stop(lease, StopReason::Cancelled);
    let listed = client.host.attempts().remove(0);
    assert_eq!(listed.stage.to_string(), "with the watchdog: stopping");
    assert_eq!(listed.stop, Some(StopReason::Cancelled));
    assert!(listed.deadline.is_some() && listed.stage.has_started());
    assert_kind(&client.end(lease).await, EndKind::Cancelled);
    assert_eq!(client.host.attempts().remove(0).stage, AttemptStage::Ended);
    client.host.acknowledge(vec![lease]);
    assert!(client.host.attempts().is_empty(), "its end is recorded");
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn a_mock_is_with_its_node_and_ends_with_it() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let mock = launch(spec(&["hang"]), Runtime::Mock);
    let lease = mock.lease;
    client.host.start(mock);
    client.started(lease).await;
    assert_eq!(client.stage(lease), "with this node: running");
    client.host.shutdown(false).await;
    let after = rig.open().await;
    assert_eq!(after.stage(lease), "");
    after.host.shutdown(true).await;
}

#[tokio::test]
async fn a_restarted_node_knows_whose_the_attempts_of_its_watchdog_are() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let mut launch = shell("echo here; sleep 60");
    launch.name = Some(TaskName::new("long-one").unwrap());
    let (lease, labels) = (launch.lease, launch.labels());
    client.host.start(launch);
    client.started(lease).await;
    client.host.shutdown(false).await;
    let after = rig.open().await;
    let adopted = after.host.attempts().remove(0);
    assert_eq!((adopted.lease, adopted.stage.to_string().as_str()), (lease, "with the watchdog: running"));
    assert_eq!(adopted.labels, Some(labels));
    after.host.shutdown(true).await;
}
