//! Limits: what a container sees and may do, and the devices it gets.

use stint_executor::{Host, LogStream};
use stint_protocol::{EndKind, GpuId, GpuInfo, GpuRequest, Runtime};

use crate::support::{Rig, assert_kind, launch, spec};
use crate::{IMAGE, containers, docker, open, open_with, output, shell};

#[tokio::test]
async fn a_container_gets_little() {
    let (rig, mut client) = open().await;
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; id -u; ls /sys/class/net | tr '\\n' ' '; echo; \
                  touch /x 2>/dev/null || echo read-only; touch /work/file && echo work; touch /tmp/f && echo tmp; \
                  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
                  cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; echo $HOME; ls /var/run/docker.sock 2>&1; \
                  cp /bin/busybox /tmp/sh && /tmp/sh true 2>/dev/null || echo noexec; sleep 1";
    let mut spec = spec(&["/bin/sh", "-c", script]);
    (spec.image, spec.memory_bytes, spec.cpu_milli) = (Some(IMAGE.into()), 64 << 20, 500);
    let launch = launch(spec, Runtime::Docker);
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let format = "{{.HostConfig.NanoCpus}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.NetworkMode}} \
                  {{.HostConfig.Privileged}} {{.HostConfig.CapDrop}} {{index .Config.Labels \"stint.tenant\"}} \
                  {{index .Config.Labels \"stint.attempt\"}}";
    let inspected = docker(&["inspect", "--format", format, &containers(&rig)[0]]);
    assert_eq!(inspected, format!("500000000 {} 512 none false [ALL] default 1", 64 << 20));
    assert_kind(&client.end(lease).await, EndKind::Exited(0));
    let said = output(&client, lease, LogStream::Stdout).await;
    for part in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "65534",
        "\nlo \n",
        "read-only",
        "work",
        "tmp",
        "67108864",
        "512",
        "/work\n",
        "docker.sock: No such file",
        "noexec",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
}

#[tokio::test]
async fn the_devices_of_the_lease_and_no_others() {
    let (rig, mut client) = open().await;
    let gpu = |id: &str| GpuInfo {
        id: GpuId::new(id).unwrap(),
        model: "Test".into(),
        memory_bytes: 1 << 30,
        index: 0,
    };
    let mut spec = spec(&["/bin/sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES $CUDA_VISIBLE_DEVICES; sleep 1"]);
    (spec.image, spec.gpus) = (Some(IMAGE.into()), Some(GpuRequest { count: 1, ..GpuRequest::default() }));
    let mut one = launch(spec.clone(), Runtime::Docker);
    one.gpus = vec![gpu("GPU-1")];
    let lease = one.lease;
    client.host.start(one);
    client.started(lease).await;
    let devices =
        docker(&["inspect", "--format", "{{json .HostConfig.DeviceRequests}}", &containers(&rig)[0]]);
    assert!(devices.contains("\"DeviceIDs\":[\"GPU-1\"]") && devices.contains("[[\"gpu\"]]"), "{devices}");
    assert_kind(&client.end(lease).await, EndKind::Exited(0));
    assert_eq!(output(&client, lease, LogStream::Stdout).await, "GPU-1 GPU-1\n");
    let mut two = launch(spec, Runtime::Docker);
    two.gpus = vec![gpu("GPU-1"), gpu("GPU-2")];
    let lease = two.lease;
    client.host.start(two);
    let end = client.end(lease).await;
    assert!(end.kind == EndKind::StartFailed && end.message.contains("holds 2 GPUs"), "{end:?}");
}

#[tokio::test]
async fn a_container_has_the_runtime_that_the_operator_chose() {
    // Not the one that it has without a choice.
    const CHOSEN: &str = "io.containerd.runc.v2";
    let (rig, mut client) = open_with(|rig| rig.settings.docker.runtime = Some(CHOSEN.into())).await;
    let launch = shell("sleep 1");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    assert_eq!(docker(&["inspect", "--format", "{{.HostConfig.Runtime}}", &containers(&rig)[0]]), CHOSEN);
    assert_kind(&client.end(lease).await, EndKind::Exited(0));
}

#[tokio::test]
async fn a_runtime_that_the_daemon_does_not_have_is_named_before_a_task_needs_it() {
    let mut rig = Rig::new(true);
    rig.settings.runtimes = vec![Runtime::Docker];
    rig.settings.docker.runtime = Some("runsc-of-nobody".into());
    let client = rig.open().await;
    let why = client.host.health().runtimes[&Runtime::Docker].clone().unwrap_err();
    let expected = "has no runtime \"runsc-of-nobody\" (executor.docker.runtime), but ";
    assert!(why.contains(expected) && why.contains("runc"), "{why}");
}
