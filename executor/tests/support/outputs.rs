//! What attempts leave at each of their ends, for the tests of every runtime.

use stint_executor::{Host, Launch, LogStream, StopReason, boot_now};
use stint_protocol::{AttemptEnd, EndKind, OutputPath, Runtime, TaskFiles, TaskSpec};

use super::{Client, assert_kind, launch, spec};

/// A task that leaves a file, says so, and goes on.
fn leaving(script: &str, runtime: Runtime, image: Option<&str>, change: &dyn Fn(&mut TaskSpec)) -> Launch {
    let script = format!("mkdir out; echo half >out/half; chmod 755 out/half; echo ready; {script}");
    let mut spec = spec(&["/bin/sh", "-c", &script]);
    spec.image = image.map(String::from);
    let outputs = ["out", "never"].map(|path| OutputPath { path: path.into(), optional: path == "never" });
    spec.files = Some(Box::new(TaskFiles { outputs: outputs.into(), ..TaskFiles::default() }));
    change(&mut spec);
    launch(spec, runtime)
}

/// Its end, with what it said of its outputs checked.
async fn kept(client: &mut Client, launch: Launch, stop: Option<StopReason>) -> AttemptEnd {
    let (lease, runtime) = (launch.lease, launch.runtime);
    client.host.start(launch);
    if let Some(reason) = stop {
        client.started(lease).await;
        client.until_output(lease, "ready").await;
        client.host.stop(lease, reason);
    }
    let end = client.end(lease).await;
    let outputs: Vec<(&str, u64, Option<bool>)> = end
        .outputs
        .iter()
        .flatten()
        .map(|kept| (kept.path.as_str(), kept.blob.size, kept.executable))
        .collect();
    assert_eq!(outputs, [("out/half", 5, Some(true))], "{runtime}: {end:?}");
    assert!(end.not_kept.is_none() && !end.message.contains("output"), "nothing is wrong with them: {end:?}");
    let read = client.host.read_output(lease, "out/half", 0, 10).await.unwrap();
    assert_eq!(read.bytes, b"half\n");
    assert_eq!(client.log(lease, LogStream::Stdout).await, "ready\n");
    end
}

/// Each end of a program that ran leaves what it had until then, with every runtime.
pub async fn are_kept_after_each_end(client: &mut Client, runtime: Runtime, image: Option<&str>) {
    let wait = "while :; do sleep 0.05; done";
    let plain = |script: &str| leaving(script, runtime, image, &|_| {});
    assert_kind(&kept(client, plain("exit 1"), None).await, EndKind::Exited(1));
    let slow = leaving(wait, runtime, image, &|spec| spec.timeout_ms = 1_500);
    assert_kind(&kept(client, slow, None).await, EndKind::TimedOut);
    let hungry = "x=x; while :; do x=$x$x; done";
    let hungry = leaving(hungry, runtime, image, &|spec| spec.memory_bytes = 32 << 20);
    assert_kind(&kept(client, hungry, None).await, EndKind::OutOfMemory);
    let cancelled = kept(client, plain(wait), Some(StopReason::Cancelled)).await;
    assert_kind(&cancelled, EndKind::Cancelled);
    let drained = kept(client, plain(wait), Some(StopReason::Drained)).await;
    assert_kind(&drained, EndKind::Drained);
    let lost = Launch { deadline: boot_now().plus(3_000), ..plain(wait) };
    assert_kind(&kept(client, lost, None).await, EndKind::Lost);
    if runtime == Runtime::Process {
        // The first program of a container sends itself no signal.
        assert_kind(&kept(client, plain("kill -9 $$"), None).await, EndKind::Signalled(9));
    }
}
