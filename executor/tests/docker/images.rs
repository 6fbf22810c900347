//! Images: those that a node does not allow, those that are missing, and those that a registry gives or refuses.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stint_executor::{Artifact, Host, LogStream, Observer, PullEnd, Rule};
use stint_protocol::{EndKind, Runtime};

use crate::registry::{refusing, registry};
use crate::support::{self, launch, spec};
use crate::{containers, docker, open, output};

#[tokio::test]
async fn what_is_not_allowed_does_not_run() {
    let (rig, mut client) = open().await;
    let cases = [
        (Some("busybox"), EndKind::Denied, "has no pattern that matches"),
        (Some("stint-test/deep/busybox"), EndKind::Denied, "has no pattern"),
        (Some("Not A Name"), EndKind::NotRunnable, "no name of a Docker image"),
        (None, EndKind::NotRunnable, "needs an image"),
    ];
    for (image, kind, part) in cases {
        let mut spec = spec(&["/bin/true"]);
        spec.image = image.map(str::to_owned);
        let launch = launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{end:?}");
        assert!(end.message.contains(part), "{end:?}");
    }
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_that_is_missing() {
    let (rig, client) = open().await;
    client.host.shutdown(false).await;
    let mut rig = rig;
    rig.settings.docker.pull = stint_executor::Pull::Never;
    let mut client = rig.open().await;
    let mut spec = spec(&["/bin/true"]);
    spec.image = Some("stint-test/absent:1".into());
    let launch = launch(spec, Runtime::Docker);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::NotRunnable, "{end:?}");
    assert!(end.message.contains("is not on this node"), "{end:?}");
    // A registry on loopback that is not there: the node's trouble, tried again.
    rig.settings.docker.pull = stint_executor::Pull::Missing;
    rig.settings.docker.allowed_images = vec!["**".into()];
    client.host.shutdown(false).await;
    let mut client = rig.open().await;
    let mut spec = support::spec(&["/bin/true"]);
    spec.image = Some("127.0.0.1:9/absent:1".into());
    let launch = support::launch(spec, Runtime::Docker);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert_eq!(end.kind, EndKind::StartFailed, "{end:?}");
    assert!(end.message.contains("failed 3 times"), "{end:?}");
    assert!(output(&client, lease, LogStream::Stderr).await.contains("again in 2000 ms"));
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_registry_says_of_an_image_decides_whether_it_is_asked_again() {
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec!["**".into()];
    let mut client = rig.open().await;
    let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    let no_name = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
    let harbor = r#"{"errors":[{"code":"NOT_FOUND","message":"artifact team/tool:1 not found"}]}"#;
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let too_many = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"unauthenticated pull rate limit"}]}"#;
    let cases = [
        ("404 Not Found", unknown, EndKind::NotRunnable, 1, "has no such image: check its name and its tag"),
        ("404 Not Found", no_name, EndKind::NotRunnable, 1, "has no such image: check its name and its tag"),
        ("404 Not Found", harbor, EndKind::NotRunnable, 1, "has no such image: check its name and its tag"),
        ("403 Forbidden", denied, EndKind::FilesMissing, 1, "or not for everybody: check its name"),
        ("403 Forbidden", "", EndKind::FilesMissing, 1, "or not for everybody: check its name"),
        ("404 Not Found", "<html>", EndKind::FilesMissing, 1, "whether that is a registry"),
        ("429 Too Many Requests", too_many, EndKind::StartFailed, 3, "failed 3 times"),
        ("503 Service Unavailable", "", EndKind::StartFailed, 3, "failed 3 times"),
    ];
    for (status, body, kind, tries, part) in cases {
        let (port, asked) = refusing(status, body);
        let mut spec = spec(&["/bin/true"]);
        spec.image = Some(format!("127.0.0.1:{port}/team/tool:1"));
        let launch = launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{end:?}");
        let name = format!("127.0.0.1:{port}/team/tool:1");
        assert!(end.message.contains(part) && end.message.contains(&name), "{end:?}");
        assert_eq!(asked.load(SeqCst), tries, "{end:?}");
    }
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn a_task_whose_image_a_node_is_refused_again_and_again_ends_also_over_its_restart() {
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec!["**".into()];
    let (port, _) = refusing("403 Forbidden", r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#);
    let mut spec = spec(&["/bin/true"]);
    spec.image = Some(format!("127.0.0.1:{port}/team/tool:1"));
    let first = launch(spec.clone(), Runtime::Docker);
    // Between them it ran elsewhere.
    let expected = [
        (1, EndKind::FilesMissing),
        (2, EndKind::FilesMissing),
        (5, EndKind::NotRunnable),
        (6, EndKind::NotRunnable),
    ];
    for (attempt, kind) in expected {
        let mut client = rig.open().await;
        let mut again = first.clone();
        again.lease.attempt = attempt;
        let lease = again.lease;
        client.host.start(again);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "attempt {attempt}: {end:?}");
        assert_eq!(
            end.message.contains("refused 3 times on this node"),
            kind == EndKind::NotRunnable,
            "{end:?}"
        );
        client.host.acknowledge(vec![lease]);
        client.host.shutdown(false).await;
    }
    // Another task has its own tries.
    let mut client = rig.open().await;
    let other = launch(spec, Runtime::Docker);
    let lease = other.lease;
    client.host.start(other);
    assert_eq!(client.end(lease).await.kind, EndKind::FilesMissing);
}

/// Keeps what a host tells of pulls.
#[derive(Default)]
struct Counts {
    pulls: Mutex<Vec<(PullEnd, Duration)>>,
}

impl Observer for Counts {
    fn denied(&self, _: Rule) {}
    fn pulled(&self, end: PullEnd, took: Duration) {
        self.pulls.lock().unwrap().push((end, took));
    }
    fn moved(&self, _: Artifact, _: u64) {}
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest_though_its_registry_fails_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let (port, digest) = registry(folder.path().to_owned(), 2, None);
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec![format!("127.0.0.1:{port}/**")];
    let counts = Arc::new(Counts::default());
    rig.settings.observer = Some(counts.clone());
    let mut client = rig.open().await;
    let name = format!("127.0.0.1:{port}/team/tool");
    let mut pulled = Vec::new();
    for image in [format!("{name}:3"), format!("{name}@{digest}")] {
        let mut spec = support::spec(&[]);
        spec.image = Some(image.clone());
        let launch = support::launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        let errors = output(&client, lease, LogStream::Stderr).await;
        assert_eq!(end.kind, EndKind::Exited(0), "{end:?}\n{errors}");
        assert_eq!(output(&client, lease, LogStream::Stdout).await, "of the image\n");
        pulled.push(errors);
        docker(&["rmi", "-f", &image]);
    }
    let counted = counts.pulls.lock().unwrap().clone();
    assert_eq!(counted.iter().map(|(end, _)| *end).collect::<Vec<_>>(), [PullEnd::Pulled; 2]);
    // A try that failed, and the pause after it, belong to the first.
    assert!(counted[0].1 >= Duration::from_millis(500) && counted[1].1 < counted[0].1, "{counted:?}");
    assert!(pulled[0].contains("failed, again in 500 ms"), "{}", pulled[0]);
    assert!(!pulled[1].contains("failed") && pulled[1].contains("stint: pulling"), "{}", pulled[1]);
    assert_eq!(containers(&rig), Vec::<String>::new());
}
