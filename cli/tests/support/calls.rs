//! What a test asks of a cluster, by the client or by the command.

use stint_sdk::{Client, v1};

use super::{Cluster, STINT};

/// A request for `count` tasks of `class` that run `args`.
pub fn submit(class: &str, args: &[&str], count: u32) -> v1::SubmitRequest {
    let spec = v1::TaskSpec {
        class: class.into(),
        command: args.iter().map(|w| w.to_string()).collect(),
        cpu_milli: 500,
        memory_bytes: 32 << 20,
        ..v1::TaskSpec::default()
    };
    v1::SubmitRequest { spec: Some(spec), count, ..v1::SubmitRequest::default() }
}

/// Exit code, stdout and stderr of `stint` with these words, through the first peer.
pub fn stint(cluster: &Cluster, args: &[&str]) -> (i32, String, String) {
    stint_at(cluster, 0, args)
}

/// The same through another peer.
pub fn stint_at(cluster: &Cluster, peer: usize, args: &[&str]) -> (i32, String, String) {
    let socket = format!("unix:{}", cluster.peers[peer].dir.join("stint.sock").display());
    let output = std::process::Command::new(STINT).args(["--address", &socket]).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The ids of tasks that were acknowledged.
pub async fn accepted(client: &Client, request: v1::SubmitRequest) -> Vec<String> {
    client.submit(request).await.expect("the submit is acknowledged").task_ids
}
