//! A measurement: what a start costs beyond the calls to the daemon.

use std::time::Duration;

use stint_executor::Host;
use stint_protocol::EndKind;

use crate::support::{Rig, assert_kind};
use crate::{IMAGE, containers, open, order};

/// What an attempt costs beyond the calls to the daemon that it needs: the same calls from a bare loop, interleaved.
/// `cargo nextest run -p stint-executor --run-ignored only a_start_costs --cargo-profile ci --no-capture`
#[tokio::test]
#[ignore = "a measurement"]
async fn a_start_costs_little() {
    let (rig, mut client) = open().await;
    let engine =
        bollard::Docker::connect_with_unix("/var/run/docker.sock", 30, bollard::API_DEFAULT_VERSION).unwrap();
    let engine = engine.negotiate_version().await.unwrap();
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..60 {
        let bare_first = round % 2 == 0;
        if bare_first {
            bare.push(bare_start(&engine, &rig, round).await);
        }
        let launch = order(&["/bin/true"]);
        let lease = launch.lease;
        let began = std::time::Instant::now();
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        ours.push(began.elapsed());
        if !bare_first {
            bare.push(bare_start(&engine, &rig, round).await);
        }
    }
    let mut more: Vec<f64> =
        ours.iter().zip(&bare).map(|(o, b)| (o.as_secs_f64() - b.as_secs_f64()) * 1e3).collect();
    more.sort_by(f64::total_cmp);
    bare.sort();
    ours.sort();
    println!(
        "MEASURED docker: bare {:?}, through us {:?} (medians of 60), median of the differences {:.1} ms",
        bare[30], ours[30], more[30]
    );
    assert_eq!(containers(&rig), Vec::<String>::new());
}

/// The same container by the bare Engine API: how long it takes from the first call to the answer to the last.
async fn bare_start(engine: &bollard::Docker, rig: &Rig, round: usize) -> Duration {
    use futures_util::StreamExt;
    let name = format!("stint-bare-{}-{round}", std::process::id());
    let host_config = bollard::models::HostConfig {
        network_mode: Some("none".into()),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        ipc_mode: Some("private".into()),
        memory: Some(256 << 20),
        memory_swap: Some(256 << 20),
        nano_cpus: Some(1_000_000_000),
        pids_limit: Some(512),
        tmpfs: Some(std::collections::HashMap::from([("/tmp".to_owned(), "rw,size=512m".to_owned())])),
        binds: Some(vec![format!("{}:/work", rig.folder.path().display())]),
        log_config: Some(bollard::models::HostConfigLogConfig { typ: Some("none".into()), config: None }),
        ..Default::default()
    };
    let body = bollard::models::ContainerCreateBody {
        image: Some(IMAGE.into()),
        entrypoint: Some(vec!["/bin/true".into()]),
        host_config: Some(host_config),
        ..Default::default()
    };
    let began = std::time::Instant::now();
    engine.inspect_image(IMAGE).await.unwrap();
    let options =
        bollard::query_parameters::CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
    engine.create_container(Some(options), body).await.unwrap();
    let options = bollard::query_parameters::AttachContainerOptions {
        stream: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let mut output = engine.attach_container(&name, Some(options)).await.unwrap().output;
    engine.start_container(&name, None).await.unwrap();
    while output.next().await.is_some() {}
    while engine.inspect_container(&name, None).await.unwrap().state.unwrap().running == Some(true) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let options = bollard::query_parameters::RemoveContainerOptions { force: true, v: true, link: false };
    engine.remove_container(&name, Some(options)).await.unwrap();
    began.elapsed()
}
