//! Nodes and the cluster as a whole: what the commands of an operator print.

use serde_json::Value;
use stint_sdk::v1;

use crate::World;

#[tokio::test]
async fn nodes_are_managed_by_name() {
    let world = World::new();
    let node =
        v1::Node { id: 1, name: "a".into(), state: "draining".into(), running: 2, ..Default::default() };
    *world.fake.nodes.lock().unwrap() = vec![node];
    let done = world.stint(&["node", "drain", "a"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("still runs 2 task(s)"), "{}", done.stderr);
    assert_eq!(world.stint(&["node", "resume", "a"]).await.code, 0);
    let modes: Vec<String> = world.fake.modes.lock().unwrap().iter().map(|m| m.mode.clone()).collect();
    assert_eq!(modes, ["drain", "ready"]);
    assert_eq!(world.stint(&["node", "status", "a", "-o", "json"]).await.json()["state"], "draining");
    let done = world.stint(&["node", "status", "zz"]).await;
    assert_eq!((done.code, done.stderr.contains("`stint nodes` lists them")), (1, true));
    assert_eq!(world.stint(&["node", "remove", "a"]).await.stdout, "a removed\n");
    assert_eq!(world.stint(&["nodes", "-o", "quiet"]).await.stdout, "1\n");
}

#[tokio::test]
async fn the_cluster_commands_print_data_alone_on_stdout() {
    let world = World::new();
    let made = world.stint(&["cluster", "join-token", "--uses", "3", "--ttl", "2h"]).await;
    assert_eq!(made.stdout, "token-1\n");
    assert!(made.stderr.contains("for 3 nodes, valid for"), "{}", made.stderr);
    let made = world.stint(&["cluster", "join-token", "--valid", "2h", "-o", "json"]).await.json();
    assert_eq!((&made["id"], &made["uses"]), (&Value::from("00a1"), &Value::from(1)));
    let listed = world.stint(&["cluster", "join-token", "ls", "-o", "json"]).await;
    assert_eq!((&listed.json()[0]["uses_left"], listed.stdout.contains("token-1")), (&Value::from(1), false));
    assert_eq!(world.stint(&["cluster", "join-token", "rm", "00a1"]).await.stdout, "00a1 revoked\n");
    assert_eq!(world.stint(&["cluster", "transfer-leader"]).await.stdout, "node 2 leads\n");
    let status = world.stint(&["cluster", "status", "-o", "json"]).await.json();
    assert_eq!((&status["leader_id"], status["peers"].is_array()), (&Value::Null, true));
    assert_eq!(world.stint(&["explain", "t", "-o", "json"]).await.json()["ahead_in_queue"], 0);
    let cancelled = world.stint(&["cancel", "a", "b", "-o", "json"]).await;
    assert_eq!((cancelled.code, cancelled.json().is_array()), (0, true));
}
