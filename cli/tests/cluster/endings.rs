//! What attempts wrote last is told by every peer, also when the node that ran them is gone.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Cluster, PATIENCE, Setup, accepted, leftovers, stint_at, submit};

/// What an answer may take, start of the command included: most of it is a machine that is busy with other tests. Without endings it
/// takes four seconds and more, for the node that is gone is asked.
const SOON: Duration = Duration::from_millis(1_500);

/// Three peers, each of a place of its own, that take snapshots often; tasks may have a secret, whose value is `correct-horse`.
async fn start() -> Cluster {
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("secrets/default")).unwrap();
    std::fs::write(root.path().join("secrets/default/token"), "correct-horse\n").unwrap();
    let labels = |index| {
        format!(
            "[executor.labels]\nplace = \"{index}\"\n[secrets]\ndir = \"ROOT/secrets\"\n[raft]\nsnapshot_every_entries = 100\n"
        )
    };
    Cluster::start_in(root, Setup { more: labels, ..Setup::default() }).await
}

/// Runs a script at a place to its end, under a name.
fn ran(cluster: &Cluster, place: usize, name: &str, options: &[&str], script: &str) {
    let place = format!("place={place}");
    let submit = ["submit", "--name", name, "--runtime", "process", "--constraint", &place];
    let args = [&submit[..], options, &["--", "sh", "-c", script]].concat();
    let (code, _, err) = stint_at(cluster, 0, &args);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = stint_at(cluster, 0, &["wait", name]);
    assert_eq!(code, 0, "{name}: {err}");
}

/// What a peer answers within its time.
fn soon(cluster: &Cluster, peer: usize, args: &[&str]) -> (i32, String, String) {
    let began = Instant::now();
    let answer = stint_at(cluster, peer, args);
    let took = began.elapsed();
    eprintln!("stint {args:?} at peer {peer}: {took:?}");
    assert!(took < SOON, "stint {args:?} took {took:?} at peer {peer}: {}", answer.2);
    answer
}

fn result(cluster: &Cluster, peer: usize, name: &str) -> Value {
    let (code, out, err) = soon(cluster, peer, &["result", name]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// The files in which a peer keeps endings.
fn kept(cluster: &Cluster, peer: usize) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(cluster.peers[peer].dir.join("endings")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

const LARGE: &str = "head -c 10485760 /dev/zero | tr '\\0' x; echo; echo the last words";
/// More output follows than a tail has.
const SAYS: &str = "mkdir out; echo '{ \"loss\": 0.5 }' >out/metrics.json; echo none >out/notes; \
    echo '__STINT_RESULT__:{\"score\": 0.75}'; seq 1 20000";
const TELLS_SAID: &str = "mkdir out; echo '{\"key\":\"'$KEY'\"}' >out/k.json; \
    printf '__DSPY_RESULT__:[\"%s\",\"\\u0063orrect-horse\"]\\n' $KEY; sleep 0.1";
const LONG: &str = "seq 1 40000; echo a warning >&2";

fn run_all(cluster: &Cluster, place: usize) {
    ran(cluster, place, "silent", &[], "true");
    for peer in 0..3 {
        assert!(kept(cluster, peer).is_empty(), "who writes nothing costs nothing");
    }
    ran(cluster, place, "said", &[], "echo one; echo two >&2; echo 3/4 >>$STINT_PROGRESS_FILE");
    ran(cluster, place, "large", &[], LARGE);
    ran(cluster, place, "long", &["--logs-keep", "cluster"], LONG);
    ran(cluster, place, "says", &["--output-file", "out"], SAYS);
    ran(cluster, place, "says-secret", &["--secret", "token=KEY", "--output-file", "out"], TELLS_SAID);
    ran(cluster, place, "unrecorded", &["--record", "false"], "echo for its node alone");
    let tell = "echo it is $KEY; echo it is $KEY >&2; echo '{\"message\":\"'$KEY'\"}' >>$STINT_PROGRESS_FILE";
    ran(cluster, place, "secret", &["--secret", "token=KEY", "--logs-keep", "cluster"], tell);
    let place = format!("place={place}");
    let fails = ["run", "--name", "failed", "--runtime", "process", "--constraint", &place];
    let (code, _, err) =
        stint_at(cluster, 0, &[&fails[..], &["--", "sh", "-c", "echo why >&2; exit 3"]].concat());
    assert_eq!(code, 3, "{err}");
}

/// What every peer tells without the node that ran them.
fn prove(cluster: &Cluster, peer: usize) {
    let said = result(cluster, peer, "said");
    assert_eq!(
        (&said["logs"]["stdout_tail"], &said["logs"]["stderr_tail"]),
        (&"one\n".into(), &"two\n".into())
    );
    assert_eq!(said["progress"]["current"], 3.0, "{said}");
    assert_eq!(said["logs"]["problem"], Value::Null);
    assert_eq!(soon(cluster, peer, &["logs", "said"]), (0, "one\n".into(), "two\n".into()));
    assert_eq!(soon(cluster, peer, &["logs", "--stderr", "said"]), (0, String::new(), "two\n".into()));

    let large = result(cluster, peer, "large");
    let tail = large["logs"]["stdout_tail"].as_str().unwrap();
    assert!(tail.len() == 4096 && tail.ends_with("x\nthe last words\n"), "{tail:?}");
    assert_eq!(large["logs"]["truncated"], true);
    let (code, out, err) = soon(cluster, peer, &["logs", "large"]);
    assert_eq!((code, out.as_str()), (1, tail), "{err}");
    assert!(err.contains("have the last 4096 of its 10485776 bytes"), "{err}");

    let all: String = (1..=40_000).map(|n| format!("{n}\n")).collect();
    let long = soon(cluster, peer, &["logs", "long"]);
    assert!(long == (0, all, "a warning\n".into()), "{} {}", long.0, long.2);

    let silent = result(cluster, peer, "silent");
    assert_eq!(silent["status"], "completed");
    let unrecorded = result(cluster, peer, "unrecorded");
    assert_eq!(unrecorded["logs"]["stdout_tail"], Value::Null);
    let is_gone = |said: &str| said.contains("does not answer") || said.contains("no member any more");
    assert!(unrecorded["logs"]["problem"].as_str().is_some_and(is_gone), "{unrecorded}");
    let (code, out, err) = soon(cluster, peer, &["logs", "unrecorded"]);
    assert!(code != 0 && out.is_empty() && is_gone(&err), "{code} {err}");

    let hidden = format!("it is {}\n", "*".repeat(13));
    let secret = result(cluster, peer, "secret");
    let logs = &secret["logs"];
    assert_eq!((&logs["stdout_tail"], &logs["stderr_tail"]), (&hidden.clone().into(), &hidden.into()));
    assert_eq!(secret["progress"]["message"], "*".repeat(13));

    let says = &result(cluster, peer, "says")["result"];
    assert_eq!(says["runner_output"], json!({ "score": 0.75 }), "{says}");
    assert_eq!(says["json"], json!({ "out/metrics.json": { "loss": 0.5 } }), "{says}");
    let secret = &result(cluster, peer, "says-secret")["result"];
    let hidden = "*".repeat(13);
    assert_eq!(secret["runner_output"], json!([hidden, hidden]), "{secret}");
    assert_eq!(secret["json"], json!({ "out/k.json": { "key": hidden } }), "{secret}");

    let failed = result(cluster, peer, "failed");
    assert_eq!(failed["error"]["stderr_excerpt"], "why\n");
}

/// The node is gone with all that is on its disk; the leader knows of it.
async fn lose(cluster: &mut Cluster, lost: usize) {
    cluster.peers[lost].kill().await;
    leftovers::clear(&cluster.peers[lost].dir);
}

async fn until_lost(cluster: &Cluster, lost: usize) {
    let until = Instant::now() + PATIENCE;
    let name = &cluster.peers[lost].name;
    loop {
        let status = cluster.client_of(0).cluster_status().await.unwrap();
        if status.leader_id != 0
            && status
                .peers
                .iter()
                .any(|peer| peer.name == *name && peer.contact_ms.is_none_or(|ms| ms > 1_500))
        {
            return;
        }
        assert!(Instant::now() < until, "{status:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_wrote_is_told_by_every_peer_when_its_node_is_gone() {
    let mut cluster = start().await;
    run_all(&cluster, 2);
    for peer in 0..3 {
        let (code, out, _) = stint_at(&cluster, peer, &["logs", "large"]);
        assert_eq!((code, out.len()), (0, 10_485_776), "its node gives all of it");
    }
    lose(&mut cluster, 2).await;
    // At once, before anybody knows that it is gone.
    for peer in 0..2 {
        assert_eq!(result(&cluster, peer, "said")["logs"]["stdout_tail"], "one\n");
        assert_eq!(soon(&cluster, peer, &["logs", "said"]).1, "one\n");
    }
    until_lost(&cluster, 2).await;
    (0..2).for_each(|peer| prove(&cluster, peer));

    // The same after all that is left was killed and started again.
    for peer in 0..2 {
        cluster.peers[peer].kill().await;
    }
    for peer in 0..2 {
        cluster.peers[peer].spawn(&[]);
    }
    for peer in 0..2 {
        cluster.peers[peer].ready().await;
    }
    until_lost(&cluster, 2).await;
    (0..2).for_each(|peer| prove(&cluster, peer));

    // Nothing of a secret, and nothing that was for its node alone, is on their disks.
    for peer in 0..2 {
        for path in kept(&cluster, peer) {
            let bytes = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
            assert!(!bytes.contains("correct-horse") && !bytes.contains("for its node alone"));
        }
    }

    // The node is no member any more.
    let (code, _, err) = stint_at(&cluster, 0, &["node", "remove", "t3", "--force"]);
    assert_eq!(code, 0, "{err}");
    (0..2).for_each(|peer| prove(&cluster, peer));
}

/// The newest snapshot of a peer's state.
fn snapshot(cluster: &Cluster, peer: usize) -> Option<PathBuf> {
    let folder = std::fs::read_dir(cluster.peers[peer].dir.join("raft/snapshots")).ok()?;
    folder.flatten().map(|entry| entry.path()).max()
}

/// As a peer is that got the state in a snapshot: endings do not come with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_gets_the_endings_that_it_lacks_from_another() {
    let mut cluster = start().await;
    run_all(&cluster, 2);
    let before = kept(&cluster, 0).len();
    assert!(before > 0);
    // Until its snapshot is of a later state: what is in it is not read from the log again.
    let (client, until) = (cluster.client(), Instant::now() + PATIENCE);
    for _ in 0..2 {
        let first = snapshot(&cluster, 1);
        while snapshot(&cluster, 1) == first {
            accepted(&client, submit("cpu_short", &["/bin/true"], 1)).await;
            assert!(Instant::now() < until, "no snapshot is taken");
        }
    }
    cluster.peers[1].kill().await;
    for path in kept(&cluster, 1) {
        std::fs::remove_file(path).unwrap();
    }
    cluster.peers[1].spawn(&[]);
    cluster.peers[1].ready().await;
    assert!(kept(&cluster, 1).is_empty(), "its log still has them");
    cluster.peers[1].kill().await;
    std::fs::write(cluster.peers[1].dir.join("endings/lacks"), "1000000\n").unwrap();
    cluster.peers[1].spawn(&[]);
    cluster.peers[1].ready().await;
    let until = Instant::now() + PATIENCE;
    while cluster.peers[1].dir.join("endings/lacks").exists() {
        assert!(Instant::now() < until, "it does not get them: {}", cluster.peers[1].log());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(kept(&cluster, 1).len(), before);

    // And one that was not fetched yet is asked for when somebody wants it.
    cluster.peers[0].kill().await;
    for path in kept(&cluster, 0) {
        std::fs::remove_file(path).unwrap();
    }
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    lose(&mut cluster, 2).await;
    until_lost(&cluster, 2).await;
    (0..2).for_each(|peer| prove(&cluster, peer));
    assert_eq!(kept(&cluster, 0).len(), before);
}
