//! Credentials of a node for a registry: they give private images, and bad ones keep nobody else away.

use stint_executor::{Host, LogStream};
use stint_protocol::{EndKind, LeaseId, Runtime};

use crate::registry::{refusing, registry};
use crate::support::{self, Client, Rig, launch, spec, wait_until};
use crate::{IMAGE, docker, open, output};

/// `robot:a?b~c>>>???`: in the JSON that the daemon gets, base64 needs every letter of its alphabet.
const LOGIN: &str = "cm9ib3Q6YT9ifmM+Pj4/Pz8=";

#[tokio::test]
async fn a_private_image_is_pulled_with_the_node_s_credentials_for_its_registry() {
    let folder = tempfile::tempdir().unwrap();
    let (port, _) = registry(folder.path().to_owned(), 0, Some(LOGIN));
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    rig.settings.docker.allowed_images = vec![format!("127.0.0.1:{port}/**")];
    let file = rig.folder.path().join("docker-config.json");
    let image = format!("127.0.0.1:{port}/team/private:1");
    let run = async |rig: &Rig| {
        let mut client = rig.open().await;
        let mut spec = support::spec(&[]);
        spec.image = Some(image.clone());
        let launch = support::launch(spec, Runtime::Docker);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        let args = output(&client, lease, LogStream::Stderr).await;
        client.host.shutdown(false).await;
        (end, args)
    };
    let (end, _) = run(&rig).await;
    assert_eq!(end.kind, EndKind::FilesMissing, "another node may have some: {end:?}");
    assert!(end.message.contains("no credentials for 127.0.0.1"), "{end:?}");

    let write = |login: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&file, format!(r#"{{"auths":{{"127.0.0.1:{port}":{{"auth":"{login}"}}}}}}"#)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    rig.settings.docker.credentials = Some(file.clone());
    write("cm9ib3Q6d3Jvbmc=", 0o600);
    let (end, _) = run(&rig).await;
    assert_eq!(end.kind, EndKind::FilesMissing, "{end:?}");
    assert!(end.message.contains("sent the credentials that it has for 127.0.0.1"), "{end:?}");
    write(LOGIN, 0o644);
    let (end, _) = run(&rig).await;
    assert_eq!(end.kind, EndKind::FilesMissing, "it says nothing of other tasks: {end:?}");
    assert!(end.message.contains("chmod 600"), "{end:?}");

    write(LOGIN, 0o600);
    let (end, args) = run(&rig).await;
    assert_eq!(end.kind, EndKind::Exited(0), "{end:?}\n{args}");
    assert!(!args.contains(LOGIN) && !args.contains("a?b~c"), "{args}");
    docker(&["rmi", "-f", &image]);
}

#[tokio::test]
async fn credentials_that_cannot_be_used_keep_only_those_away_who_need_them() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (public, _) = registry(folder.path().to_owned(), 0, None);
    let folder = tempfile::tempdir().unwrap();
    let (private, _) = registry(folder.path().to_owned(), 0, Some(LOGIN));
    let (full, _) =
        refusing("429 Too Many Requests", r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"x"}]}"#);
    let (mut rig, client) = open().await;
    client.host.shutdown(false).await;
    let file = rig.folder.path().join("docker-config.json");
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("{}");
    rig.settings.docker.credentials = Some(file.clone());
    rig.settings.docker.allowed_images = vec!["**".into()];
    let mut client = rig.open().await;
    let problem = |client: &Client| {
        let problems = client.host.health().problems;
        problems.into_iter().find(|args| args.contains("executor.docker.credentials"))
    };
    assert_eq!(problem(&client), None);

    write("s3cret {");
    wait_until("the node says so", || problem(&client).is_some()).await;
    let args = problem(&client).unwrap();
    assert!(args.starts_with("runtime docker: the credentials ") && !args.contains("s3cret"), "{args}");
    assert_eq!(client.host.health().runtimes[&Runtime::Docker], Ok(()));
    let cases = [
        (IMAGE.to_owned(), 1, EndKind::Exited(0)),
        (format!("127.0.0.1:{public}/team/tool:1"), 1, EndKind::Exited(0)),
        // However often: the image may be fine.
        (format!("127.0.0.1:{private}/team/tool:1"), 1, EndKind::FilesMissing),
        (format!("127.0.0.1:{private}/team/tool:1"), 2, EndKind::FilesMissing),
        (format!("127.0.0.1:{private}/team/tool:1"), 3, EndKind::FilesMissing),
        (format!("127.0.0.1:{full}/team/tool:1"), 1, EndKind::FilesMissing),
    ];
    let task = support::lease().task;
    for (image, attempt, kind) in cases {
        let mut spec = spec(&["/bin/sh", "-c", "exit 0"]);
        spec.image = Some(image.clone());
        let mut launch = launch(spec, Runtime::Docker);
        if image.contains(&format!(":{private}/")) {
            launch.lease = LeaseId { task, attempt };
        }
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_eq!(end.kind, kind, "{image}: {end:?}");
        let seen = end.message.contains("no file as `docker login` writes it");
        assert_eq!(seen, kind == EndKind::FilesMissing, "{end:?}");
        assert!(!end.message.contains("s3cret"), "{end:?}");
    }
    write("{}");
    wait_until("the node takes it back", || problem(&client).is_none()).await;
    docker(&["rmi", "-f", &format!("127.0.0.1:{public}/team/tool:1")]);
}
