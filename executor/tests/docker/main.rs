//! The Docker runtime on a real engine: what a container may do, how it ends, and who ends it when everybody else is
//! gone. The engine and the image are made by `.ci/prepare`; without them these tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cost;
mod credentials;
mod ends;
mod fates;
mod image_settings;
mod images;
mod limits;
mod output;
mod programs;
mod proxy;
mod registry;
#[path = "../support/mod.rs"]
mod support;
mod watchers;

use std::path::PathBuf;
use std::process::Command;

use stint_executor::{Host, LogStream};
use stint_protocol::{LeaseId, Runtime};
use support::{Client, Rig, launch, spec};

const IMAGE: &str = "stint-test/busybox:1";

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output();
    let output = output.expect("no docker command: run .ci/prepare");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?} failed, run .ci/prepare: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A host that may use the image of the tests.
async fn open() -> (Rig, Client) {
    open_with(|_| {}).await
}

/// The same with other settings.
async fn open_with(change: impl FnOnce(&mut Rig)) -> (Rig, Client) {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let mut rig = Rig::new(true);
    rig.settings.runtimes = vec![Runtime::Docker];
    rig.settings.docker.allowed_images = vec!["stint-test/*".into()];
    change(&mut rig);
    let client = rig.open().await;
    assert_eq!(client.host.health().runtimes[&Runtime::Docker], Ok(()));
    (rig, client)
}

/// Containers of a rig, in whatever state.
fn containers(rig: &Rig) -> Vec<String> {
    let label = format!("label=stint.executor={}", rig.executor().display());
    docker(&["ps", "-aq", "--no-trunc", "--filter", &label]).lines().map(str::to_owned).collect()
}

fn order(args: &[&str]) -> stint_executor::Launch {
    let mut spec = spec(args);
    spec.image = Some(IMAGE.into());
    launch(spec, Runtime::Docker)
}

fn shell(script: &str) -> stint_executor::Launch {
    order(&["/bin/sh", "-c", script])
}

async fn output(client: &Client, lease: LeaseId, stream: LogStream) -> String {
    let chunk = client.host.read_log(lease, stream, 0, 1 << 20).await.unwrap();
    String::from_utf8_lossy(&chunk.bytes).into_owned()
}

fn first_process(rig: &Rig) -> i32 {
    let id = &containers(rig)[0];
    docker(&["inspect", "--format", "{{.State.Pid}}", id]).parse().unwrap()
}

fn alive(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
        && !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z")
}

fn monitors(rig: &Rig) -> Vec<i32> {
    let shim = rig.shim_pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
