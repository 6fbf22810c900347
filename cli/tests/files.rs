//! Inputs, outputs and secrets of tasks through the real binary: submitted to one peer, read from the others.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use stint_sdk::v1;
use support::{Cluster, PATIENCE, Setup, accepted, stint_at, submit};
use tokio::time::Instant;

/// A cluster whose nodes have secrets and an open folder, beside their own.
async fn start(peers: usize) -> Cluster {
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("secrets/default")).unwrap();
    std::fs::create_dir_all(root.path().join("open")).unwrap();
    std::fs::write(root.path().join("secrets/default/token"), "correct-horse\n").unwrap();
    std::fs::write(root.path().join("open/data"), "from the node\n").unwrap();
    let more = |_| "[artifacts]\nroots = [\"ROOT/open\"]\n[secrets]\ndir = \"ROOT/secrets\"\n".to_owned();
    Cluster::start_in(root, Setup { peers, more, ..Setup::default() }).await
}

fn done(cluster: &Cluster, peer: usize, args: &[&str]) -> String {
    let (code, out, err) = stint_at(cluster, peer, args);
    assert_eq!(code, 0, "stint {args:?}: {err}");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_go_in_through_one_peer_and_come_out_of_another() {
    let cluster = start(3).await;
    let folder = cluster.root.path();
    let task = folder.join("task.toml");
    let script =
        "cat data >out/copy; cat $TOKEN_FILE; echo \" is $PASSWORD\" >&2; test $PASSWORD = correct-horse";
    let text = format!(
        "class = \"cpu_short\"\nname = \"files\"\ncommand = [\"sh\", \"work.sh\"]\n\
         inputs = [{{ path = \"work.sh\", content = \"\"\"mkdir -p out/deep; echo more >out/deep/more; {script}\"\"\" }},\n\
         {{ path = \"data\", file = \"{}/open/data\" }}]\n\
         outputs = [\"out\", {{ path = \"absent\", optional = true }}]\nsecrets = [\"token\"]\n",
        folder.display()
    );
    std::fs::write(&task, text).unwrap();
    let file = task.display().to_string();
    let (code, _, err) =
        stint_at(&cluster, 0, &["submit", "-f", &file, "--secret", "token=PASSWORD", "-o", "quiet"]);
    assert!(code == 1 && err.contains("twice"), "{err}");
    std::fs::write(folder.join("secrets/default/again"), "correct-horse").unwrap();
    done(&cluster, 0, &["submit", "-f", &file, "--secret", "again=PASSWORD"]);
    done(&cluster, 1, &["wait", "files"]);

    for peer in 0..3 {
        assert_eq!(done(&cluster, peer, &["logs", "--stdout", "files"]), "*************");
        let (_, _, said) = stint_at(&cluster, peer, &["logs", "--stderr", "files"]);
        assert_eq!(said, " is *************\n");
        assert_eq!(done(&cluster, peer, &["outputs", "files", "out/copy"]), "from the node\n");
        let into = cluster.root.path().join(format!("save-{peer}"));
        let into_text = into.display().to_string();
        done(&cluster, peer, &["outputs", "files", "--save", &into_text]);
        assert_eq!(std::fs::read_to_string(into.join("out/deep/more")).unwrap(), "more\n");
        let (code, _, err) = stint_at(&cluster, peer, &["outputs", "files", "--save", &into_text]);
        assert!(code == 1 && err.contains("exists"), "what is there is not overwritten: {err}");
    }
    let listed = done(&cluster, 2, &["outputs", "files", "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed[0]["path"].as_str(), listed[0]["size_bytes"].as_u64()), (Some("out/copy"), Some(14)));
    assert!(
        listed[0]["digest"].as_str().unwrap().starts_with("sha256:") && listed.as_array().unwrap().len() == 2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_files_is_said() {
    let cluster = start(1).await;
    let run = |args: &[&str]| {
        let all: Vec<&str> = ["run", "--retries", "0"].into_iter().chain(args.iter().copied()).collect();
        stint_at(&cluster, 0, &all)
    };
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--input", "../x=file:///a", "--", "true"], 125, "below the work folder"),
        (&["--input", "x=file:///etc/passwd", "--", "true"], 125, "artifacts.roots"),
        (&["--output-file", "model", "--", "true"], 125, "output \"model\" is not there"),
        (&["--output-file", "model", "--", "sh", "-c", "exit 9"], 9, ""),
        (&["--secret", "a/b", "--", "true"], 125, "no name of a secret"),
        (&["-e", "TOKEN_FILE=x", "--secret", "token", "--", "true"], 125, "is set by the secret"),
    ];
    for (args, expected, part) in cases {
        let (code, _, err) = run(args);
        assert!(code == expected && err.contains(part), "{args:?}: {code} {err}");
    }
    assert_eq!(run(&["--optional-output", "model", "--", "true"]).0, 0);
    let (code, out, _) = run(&["--input", "d/x=file:///nowhere", "--", "true"]);
    assert!(code == 125 && out.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_kept_whatever_the_end_and_what_is_not_is_named() {
    let cluster = start(1).await;
    let script = "mkdir out; cd out; printf '#!/bin/sh\\necho half\\n' >run; chmod 755 run; mkfifo pipe; truncate -s 1T hole; ";
    let submit = |name: &str, end: &str, args: &[&str]| -> serde_json::Value {
        let script = format!("{script}{end}");
        let all =
            [&["run", "--name", name, "--output-file", "out"], args, &["--", "sh", "-c", &script]].concat();
        stint_at(&cluster, 0, &all);
        serde_json::from_str(&done(&cluster, 0, &["result", name])).unwrap()
    };
    let cases: [(&str, &str, &[&str], &str); 3] = [
        ("exit", "exit 3", &[], "failed"),
        ("timeout", "sleep 60", &["--timeout", "2s"], "timed_out"),
        ("success", "exit 0", &["--keep", "success"], "succeeded"),
    ];
    for (name, end, args, phase) in cases {
        let result = submit(name, end, args);
        assert_eq!(result["phase"], phase, "{result:#}");
        let outputs = &result["result"]["outputs"];
        assert_eq!((&outputs[0]["path"], &outputs[0]["executable"]), (&"out/run".into(), &true.into()));
        let not_kept = result["result"]["not_kept"].to_string();
        for part in ["out/pipe", "is a pipe", "out/hole", "executor.max_output_file_bytes"] {
            assert!(not_kept.contains(part), "{part}: {result:#}");
        }
        let into = cluster.root.path().join(name).display().to_string();
        let (code, _, said) = stint_at(&cluster, 0, &["outputs", name, "--save", &into]);
        assert!(code == 0 && said.contains("not kept: \"out/pipe\" is a pipe"), "{said}");
        let saved = std::process::Command::new(format!("{into}/out/run")).output().unwrap();
        assert_eq!(saved.stdout, b"half\n", "it is executable again");
    }
    let result = submit("unwanted", "exit 3", &["--keep", "success"]);
    assert_eq!((&result["exit_code"], &result["result"]["outputs"]), (&3.into(), &serde_json::json!([])));
    let (code, _, said) =
        stint_at(&cluster, 0, &["run", "--keep", "never", "--output-file", "a", "--", "true"]);
    assert!(code == 125 && said.contains("always, success"), "{said}");
}

/// What takes minutes to keep, and nobody wants any more: the file is one hole just below the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_keeping_of_outputs() {
    let cluster = start(1).await;
    let script = "echo first >a; truncate -s 10G large";
    let outputs = ["--output-file", "a", "--output-file", "large"];
    let all = [&["submit", "--name", "large"][..], &outputs, &["--", "sh", "-c", script]].concat();
    done(&cluster, 0, &all);
    let until = Instant::now() + PATIENCE;
    loop {
        let explained = done(&cluster, 0, &["explain", "large"]);
        if explained.contains("its outputs") {
            break;
        }
        assert!(Instant::now() < until, "{explained}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked = Instant::now();
    done(&cluster, 0, &["cancel", "large"]);
    stint_at(&cluster, 0, &["wait", "large"]);
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    let result: serde_json::Value = serde_json::from_str(&done(&cluster, 0, &["result", "large"])).unwrap();
    assert_eq!(result["phase"], "cancelled", "{result:#}");
    let message = result["error"]["message"].as_str().unwrap();
    assert!(message.contains("it was cancelled while its outputs were kept"), "{result:#}");
    assert_eq!(
        result["result"]["not_kept"].as_array().unwrap().last().unwrap()["path"],
        "large",
        "{result:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_tells_how_a_task_failed() {
    let cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let result = |name: &str, args: &[&str]| -> serde_json::Value {
        let all: Vec<&str> = ["run", "--name", name].into_iter().chain(args.iter().copied()).collect();
        stint_at(&cluster, 0, &all);
        serde_json::from_str(&done(&cluster, 0, &["result", name])).unwrap()
    };
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo oh no >&2; exit 42";
    let failed = result("exit", &["--", "sh", "-c", script]);
    assert_eq!((&failed["status"], &failed["exit_code"]), (&"failed".into(), &42.into()));
    assert_eq!(failed["error"]["kind"], "nonzero_exit");
    assert_eq!(
        (&failed["error"]["stderr_excerpt"], &failed["error"]["retryable"]),
        (&"oh no\n".into(), &false.into())
    );
    let tail = failed["logs"]["stdout_tail"].as_str().unwrap();
    assert!(tail.ends_with("line 1999\n") && tail.len() == 4096 && failed["logs"]["truncated"] == true);
    let cases: [(&str, &[&str], &str, &str); 4] = [
        ("timeout", &["--timeout", "200ms", "--", "sleep", "60"], "timed_out", "timeout"),
        ("signal", &["--", "sh", "-c", "kill -9 $$"], "failed", "signalled"),
        ("absent", &["--", "/no/such/program"], "failed", "validation"),
        (
            "memory",
            &["--memory", "32MiB", "--", "sh", "-c", "x=x; while :; do x=$x$x; done"],
            "failed",
            "oom_killed",
        ),
    ];
    for (name, args, phase, kind) in cases {
        let document = result(name, args);
        assert_eq!(
            (&document["phase"], &document["error"]["kind"]),
            (&phase.into(), &kind.into()),
            "{document:#}"
        );
        assert!(document["exit_code"].is_null() && document["attempts"] == 1, "{document:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_peer_tells_how_far_a_running_task_is() {
    let cluster = Cluster::start(Setup::default()).await;
    let script = "echo 1/4 >>$STINT_PROGRESS_FILE; echo '{\"current\":3,\"total\":4,\"step\":\"fit\"}' >>$STINT_PROGRESS_FILE; \
                  echo begun; sleep 50";
    done(&cluster, 0, &["submit", "--name", "long", "--", "sh", "-c", script]);
    let until = std::time::Instant::now() + support::PATIENCE;
    for peer in 0..3 {
        loop {
            let result: serde_json::Value =
                serde_json::from_str(&done(&cluster, peer, &["result", "long"])).unwrap();
            if result["logs"]["stdout_tail"] == "begun\n" {
                assert_eq!((&result["status"], &result["phase"]), (&"running".into(), &"running".into()));
                assert_eq!(
                    (&result["progress"]["percent"], &result["progress"]["step"]),
                    (&75.0.into(), &"fit".into())
                );
                break;
            }
            assert!(std::time::Instant::now() < until, "{result:#}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    done(&cluster, 1, &["cancel", "long"]);
}

/// What a program may do with its secrets. `KEY` and `PIN` are variables, `TOKEN_FILE` is a file of several lines.
const TELLTALES: [(&str, &str); 5] = [
    (
        "prints",
        r#"printf '%s\n' "$KEY"; printf '%s\n' "$KEY" >&2; cat $TOKEN_FILE; sed -n 2p $TOKEN_FILE | tr -d '\r'"#,
    ),
    (
        "progress",
        r#"printf '{"percent":10,"message":"%s"}\n' "$(tail -n 1 $TOKEN_FILE)" >>$STINT_PROGRESS_FILE"#,
    ),
    (
        "escaped",
        r#"printf '{"percent":10,"step":"%s","message":"%s"}\n' "$(printf '%s' "$KEY" | sed 's/[\\"]/\\&/g')" "$(head -c 500 /dev/zero | tr '\0' x)$(printf '%s' "$KEY" | sed 's/[\\"]/\\&/g')" >>$STINT_PROGRESS_FILE"#,
    ),
    ("number", r#"printf '{"percent":10,"metrics":{"x":%s}}\n' "$PIN" >>$STINT_PROGRESS_FILE"#),
    ("marker", r#"printf '__STINT_PROGRESS__:{"percent":10,"step":"%s"}\n' "$PIN""#),
];
/// Each of these is a secret, or a line of one, as it is and as JSON shows it.
const NEEDLES: [&str; 5] =
    ["p4ss\"w0rd\\7", "p4ss\\\"w0rd\\\\7", "first \"line\" 11", "second-line-22", "40712345678"];

/// Every file below, and what is in it.
fn every_file(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => all.extend(every_file(&entry.path())),
            // One that went meanwhile holds nothing.
            kind if kind.is_file() => {
                all.extend(std::fs::read(entry.path()).map(|bytes| (entry.path(), bytes)))
            }
            _ => {}
        }
    }
    all
}

fn holds_none(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for needle in NEEDLES {
        assert!(!text.contains(needle), "{place} shows {needle:?}:\n{text}");
    }
}

/// One peer with three secrets.
async fn with_secrets() -> Cluster {
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    let secrets = root.path().join("secrets/default");
    std::fs::create_dir_all(&secrets).unwrap();
    // As an editor of another system writes it.
    std::fs::write(secrets.join("token"), "first \"line\" 11\r\nsecond-line-22\r\n").unwrap();
    std::fs::write(secrets.join("key"), "p4ss\"w0rd\\7\r\n").unwrap();
    std::fs::write(secrets.join("pin"), "40712345678\n").unwrap();
    let more = |_| "[secrets]\ndir = \"ROOT/secrets\"\n".to_owned();
    let setup = Setup { peers: 1, runtimes: "\"process\", \"crun\"", more, ..Setup::default() };
    Cluster::start_in(root, setup).await
}

/// Submits a task by this name that gets all secrets, runs the script and ends once there is a file `done`.
fn submit_telltale(cluster: &Cluster, runtime: &str, name: &str, script: &str) {
    let script = format!(
        "test ${{#KEY}} = 11 || exit 9; {script}; echo said; until test -e done; do sleep 0.05; done"
    );
    let mut args = vec!["submit", "--name", name, "--runtime", runtime, "--retries", "0"];
    args.extend(
        "--cpus 0.1 --memory 32MiB --secret token --secret key=KEY --secret pin=PIN -- sh -c".split(' '),
    );
    args.push(&script);
    done(cluster, 0, &args);
}

/// Whatever a user may ask of a task.
fn look(cluster: &Cluster, name: &str) {
    for command in [
        "result",
        "status -o json",
        "status",
        "logs --stdout",
        "logs --stderr",
        "explain",
        "outputs",
        "ps --all",
    ] {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.extend((command != "ps --all").then_some(name));
        let (_, out, err) = stint_at(cluster, 0, &args);
        holds_none(&format!("`stint {}`", args.join(" ")), format!("{out}{err}").as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_in_no_answer_and_in_no_file_that_is_kept() {
    let cluster = with_secrets().await;
    let mut names = Vec::new();
    for runtime in ["process", "crun"] {
        for (what, script) in TELLTALES {
            let name = format!("{runtime}-{what}");
            submit_telltale(&cluster, runtime, &name, script);
            names.push(name);
        }
    }
    let until = Instant::now() + PATIENCE;
    for name in &names {
        while !stint_at(&cluster, 0, &["logs", "--stdout", name]).1.contains("said") {
            assert!(Instant::now() < until, "{name} says nothing: {}", done(&cluster, 0, &["status", name]));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        look(&cluster, name);
    }
    for entry in std::fs::read_dir(cluster.peers[0].dir.join("executor/attempts")).unwrap() {
        std::fs::write(entry.unwrap().path().join("work/done"), "").unwrap();
    }
    for name in &names {
        done(&cluster, 0, &["wait", name]);
        look(&cluster, name);
    }
    for (path, bytes) in every_file(&cluster.peers[0].dir) {
        holds_none(&path.display().to_string(), &bytes);
    }
    holds_none("the peer's log", cluster.peers[0].log().as_bytes());
    holds_none("`stint events export`", done(&cluster, 0, &["events", "export"]).as_bytes());
}

/// A registered program gets its files as any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_kept_by_the_cluster_and_outlive_the_node_that_made_them() {
    let mut cluster = start(3).await;
    done(
        &cluster,
        0,
        &["submit", "--name", "first", "--output-file", "numbers", "--", "sh", "-c", "seq 5000 >numbers"],
    );
    done(&cluster, 0, &["wait", "first"]);
    let result: serde_json::Value = serde_json::from_str(&done(&cluster, 1, &["result", "first"])).unwrap();
    let output = &result["result"]["outputs"][0];
    assert_eq!(output["kept"], "cluster");
    let ran_on = cluster.peers.iter().position(|peer| result["node"] == peer.name.as_str()).unwrap();
    cluster.peers[ran_on].kill().await;
    let other = (ran_on + 1) % 3;
    let numbers = done(&cluster, other, &["outputs", "first", "numbers"]);
    assert_eq!((numbers.lines().count(), numbers.lines().last()), (5000, Some("5000")));
    let blob = format!("in={}/{}", output["digest"].as_str().unwrap(), output["size_bytes"]);
    let (code, out, err) = stint_at(&cluster, other, &["run", "--input", &blob, "--", "tail", "-n1", "in"]);
    assert_eq!((code, out.as_str()), (0, "5000\n"), "{err}");
}

/// Digests of all that any peer stores.
fn stored(cluster: &Cluster) -> BTreeSet<String> {
    let folders = cluster.peers.iter().map(|peer| std::fs::read_dir(peer.dir.join("blobs")).unwrap());
    let names = folders.flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.len() == 64).collect()
}

/// What `stint outputs` lists: path and where it is kept, and the digests.
fn listed(cluster: &Cluster, peer: usize, args: &[&str]) -> (String, BTreeSet<String>) {
    let args = [&["outputs"], args, &["-o", "json"]].concat();
    let files: serde_json::Value = serde_json::from_str(&done(cluster, peer, &args)).unwrap();
    let files = files.as_array().unwrap();
    let word = |file: &serde_json::Value, key: &str| file[key].as_str().unwrap().to_owned();
    let paths: Vec<String> = files.iter().map(|file| word(file, "path")).collect();
    let digests = files.iter().map(|file| word(file, "digest").replace("sha256:", ""));
    (paths.join(" "), digests.collect())
}

/// A task of two attempts: the first one fails, the second one waits until somebody lets it go on.
fn submit_twice(cluster: &Cluster, go: &std::path::Path) {
    let script = format!(
        "echo log of $STINT_ATTEMPT; mkdir out; echo left by $STINT_ATTEMPT >out/file; test $STINT_ATTEMPT = 2 || exit 3; \
         until [ -e {} ]; do sleep 0.05; done",
        go.display()
    );
    let retried = ["--retry-failures", "--retries", "2", "--logs-keep", "cluster"];
    let submit = ["submit", "--name", "twice", "--output-file", "out"];
    done(cluster, 0, &[&submit[..], &retried, &["--", "sh", "-c", &script]].concat());
}

/// As long as its task is known, also when files that attempts leave are kept no longer, and their node is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_of_every_attempt_stay_as_long_as_their_task_is_known() {
    let more = |_| "[blobs]\nkeep_files = \"1s\"\nsweep_after = \"1s\"\n".to_owned();
    let mut cluster = Cluster::start(Setup { more, ..Setup::default() }).await;
    let go = cluster.shared().join("go");
    submit_twice(&cluster, &go);
    let until = Instant::now() + PATIENCE;
    let outputs = |args: &[&str]| stint_at(&cluster, 1, &[&["outputs", "twice"], args].concat());
    // While the second attempt runs.
    while outputs(&["--attempt", "2"]).2.contains("no attempt 2")
        || outputs(&["--attempt", "2"]).2.contains("not known")
    {
        assert!(Instant::now() < until, "{}", done(&cluster, 0, &["status", "twice"]));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(outputs(&["--attempt", "1", "out/file"]), (0, "left by 1\n".into(), String::new()));
    for (args, part) in [
        (&["--attempt", "2"][..], "attempt 2 of twice is not finished"),
        (&[], "twice is not finished"),
        (&["--attempt", "3"], "attempt 3 of twice is not known"),
        (&["--attempt", "1", "other"], "no output \"other\""),
    ] {
        let (code, out, err) = outputs(args);
        assert!(code == 1 && out.is_empty() && err.contains(part), "{args:?}: {code} {out} {err}");
    }
    std::fs::write(&go, "").unwrap();
    done(&cluster, 0, &["wait", "twice"]);
    // The logs that the cluster kept came last, and go when their time is over.
    let (first, last) = (listed(&cluster, 0, &["twice", "--attempt", "1"]), listed(&cluster, 0, &["twice"]));
    assert_eq!((first.0.as_str(), last.0.as_str()), ("out/file", "out/file"));
    let of_both: BTreeSet<String> = first.1.union(&last.1).cloned().collect();
    while stored(&cluster) != of_both {
        assert!(Instant::now() < until, "{:?} are stored, {of_both:?} were left", stored(&cluster));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let result: serde_json::Value = serde_json::from_str(&done(&cluster, 1, &["result", "twice"])).unwrap();
    let of_first = &result["attempt_records"][0];
    assert_eq!((&of_first["number"], &of_first["outputs"][0]["kept"]), (&1.into(), &"cluster".into()));
    let ran_on = cluster.peers.iter().position(|peer| of_first["node"] == peer.name.as_str()).unwrap();
    cluster.peers[ran_on].kill().await;
    for other in [(ran_on + 1) % 3, (ran_on + 2) % 3] {
        for (args, expected) in [
            (&["--attempt", "1"][..], "left by 1\n"),
            (&["--attempt", "2"], "left by 2\n"),
            (&[], "left by 2\n"),
        ] {
            let args = [&["outputs", "twice", "out/file"], args].concat();
            assert_eq!(done(&cluster, other, &args), expected);
        }
    }
    // With the task all of it goes.
    let other = (ran_on + 1) % 3;
    done(&cluster, other, &["cluster", "set", "keep_finished_for=1s"]);
    while stint_at(&cluster, other, &["outputs", "twice"]).0 == 0 {
        assert!(Instant::now() < until, "it is not forgotten");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = |place: usize| -> Vec<String> {
        let files = std::fs::read_dir(cluster.peers[place].dir.join("blobs")).unwrap();
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    while !left(other).is_empty() {
        assert!(Instant::now() < until, "{:?} stay without their task", left(other));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_result_say_the_same_of_a_task_that_was_cancelled_between_two_attempts() {
    let cluster = start(1).await;
    let client = cluster.client();
    let mut request = submit("cpu_short", &["sh", "-c", "echo half >half; echo first try >&2; exit 3"], 1);
    request.name = "twice".into();
    let retry =
        v1::RetryPolicy { max_attempts: 3, backoff_ms: 60_000, max_backoff_ms: 60_000, retry_failures: true };
    let spec = request.spec.as_mut().unwrap();
    spec.retry = Some(retry);
    spec.outputs = vec![v1::OutputPath { path: "half".into(), optional: false }];
    accepted(&client, request).await;
    let until = Instant::now() + PATIENCE;
    let status = || -> serde_json::Value {
        serde_json::from_str(&done(&cluster, 0, &["status", "twice", "-o", "json"])).unwrap()
    };
    while status()["not_before_ms"].is_null() {
        assert!(Instant::now() < until, "{:#}", status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    done(&cluster, 0, &["cancel", "twice"]);
    let (code, left, hint) = stint_at(&cluster, 0, &["outputs", "twice", "-o", "json"]);
    assert!(code == 0 && left == "[]\n" && hint.contains("--attempt 1"), "{code} {left} {hint}");
    assert_eq!(done(&cluster, 0, &["outputs", "twice", "--attempt", "1", "half"]), "half\n");
    let (status, args) = (status(), done(&cluster, 0, &["status", "twice"]));
    let result: serde_json::Value = serde_json::from_str(&done(&cluster, 0, &["result", "twice"])).unwrap();
    assert_eq!((&status["outcome"]["status"], &result["phase"]), (&"cancelled".into(), &"cancelled".into()));
    assert_eq!(status["outcome"]["kind"], result["error"]["kind"], "{result:#}");
    assert_eq!(status["outcome"]["message"], "cancelled while it waited");
    assert_eq!(status["outcome"]["message"], result["error"]["message"]);
    // Both tell of the attempt before, and not as why the task ended.
    assert_eq!((&status["node"], &result["node"]), (&"t1".into(), &"t1".into()), "{result:#}");
    assert_eq!((&result["runtime"], &result["exit_code"]), (&"process".into(), &serde_json::Value::Null));
    assert_eq!(status["outcome"]["exit_code"], result["exit_code"], "both tell the program's own");
    assert_eq!(status["outcome"]["run_exit_code"], 130);
    assert!(result["error"]["stderr_excerpt"].is_null(), "{result:#}");
    assert_eq!(result["logs"]["stderr_tail"], "first try\n");
    assert_eq!(result["attempt_records"][0]["message"], status["attempt_records"][0]["message"]);
    assert!(args.contains("cancelled") && args.contains("exit code 3"), "{args}");
}

/// The second node opens a folder, the first none.
fn etc_on_the_second(place: usize) -> String {
    let roots = if place == 1 { "\"/etc\"" } else { "" };
    format!("[artifacts]\nroots = [{roots}]\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_where_its_input_is_open() {
    let cluster = Cluster::start(Setup { peers: 2, more: etc_on_the_second, ..Setup::default() }).await;
    for number in 0..3 {
        let name = format!("reads-{number}");
        let input = "passwd=file:///etc/passwd";
        done(&cluster, 0, &["submit", "--name", &name, "--input", input, "--", "cat", "passwd"]);
        done(&cluster, 0, &["wait", &name]);
        let shown = done(&cluster, 0, &["result", &name]);
        let result: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(result["node"], "t2", "{shown}");
    }
    // Nobody opens it: the task is told so, and does not wait.
    let args = ["run", "--input", "a=file:///usr/a", "--", "true"];
    let (code, _, err) = stint_at(&cluster, 0, &args);
    assert_eq!(code, 125, "{err}");
    assert!(err.contains("opens no inputs in /usr") && err.contains("(denied)"), "{err}");
    assert!(err.contains("not open to tasks"), "{err}");
}
