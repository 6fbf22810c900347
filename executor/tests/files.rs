//! What attempts get and leave, on real programs: inputs, secrets, outputs; also over a restart of the node.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use stint_executor::{Host, ImageFiles, Launch, LogStream, StopReason, Store, StoreError, StoreFuture};
use stint_protocol::*;
use support::*;

const RUNTIMES: [Runtime; 2] = [Runtime::Process, Runtime::Crun];

fn input(path: &str, content: &str) -> InputFile {
    let source = InputSource::Content(content.as_bytes().to_vec());
    InputFile { path: path.into(), source, digest: None, executable: true }
}

fn output(path: &str) -> OutputPath {
    OutputPath { path: path.into(), optional: false }
}

fn secret(name: &str, variable: Option<&str>) -> SecretUse {
    SecretUse { name: name.into(), variable: variable.map(String::from) }
}

fn with(script: &str, runtime: Runtime, files: TaskFiles) -> Launch {
    let mut spec = spec(&["/bin/sh", "-c", script]);
    spec.files = Some(Box::new(files));
    launch(spec, runtime)
}

/// A rig whose node has secrets of the default tenant.
fn rig() -> Rig {
    let mut rig = Rig::new(true);
    let secrets = rig.folder.path().join("secrets");
    std::fs::create_dir_all(secrets.join("default")).unwrap();
    std::fs::write(secrets.join("default/token"), "correct-horse-battery\n").unwrap();
    std::fs::write(secrets.join("default/key"), "tr0ub4dor&3\n").unwrap();
    rig.settings.secrets_dir = Some(secrets);
    rig
}

/// What is left of attempts in memory.
fn secrets_left(rig: &Rig) -> bool {
    let name = crc32c::crc32c(rig.executor().as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/dev/shm/stint-{name:08x}")).exists()
}

#[tokio::test]
async fn inputs_are_there_and_outputs_are_kept() {
    let rig = rig();
    let mut client = rig.open().await;
    for runtime in RUNTIMES {
        let files = TaskFiles {
            inputs: vec![
                input("bin/run", "#!/bin/sh\ncat data/in >out/copy && echo more >out/deep/more\n"),
                input("data/in", "hello"),
            ],
            outputs: vec![output("out"), OutputPath { path: "absent".into(), optional: true }],
            ..TaskFiles::default()
        };
        let launch = with("mkdir -p out/deep && ./bin/run", runtime, files);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::Exited(0));
        let kept: Vec<(String, u64, String)> = end
            .outputs
            .unwrap()
            .iter()
            .map(|kept| (kept.path.clone(), kept.blob.size, kept.blob.digest.hex()))
            .collect();
        // sha256sum of "hello" and of "more\n".
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(kept[0], ("out/copy".into(), 5, hello.into()), "{runtime}");
        assert_eq!((kept.len(), kept[1].0.as_str(), kept[1].1), (2, "out/deep/more", 5), "{runtime}");
    }
    client.host.shutdown(true).await;
}

/// Inputs, secrets, the work folder and outputs are those of the tenant's user, and so are the folders between.
#[tokio::test]
async fn what_an_attempt_has_is_its_tenants() {
    if !is_root() {
        eprintln!("skipped: root alone gives tenants users of their own");
        return;
    }
    let rig = rig();
    let mut client = rig.open().await;
    for runtime in RUNTIMES {
        let files = TaskFiles {
            inputs: vec![input("data/in", "hello")],
            outputs: vec![output("out")],
            secrets: vec![secret("token", None)],
            ..TaskFiles::default()
        };
        let script = "stat -c '%u:%g %a' . data data/in $TOKEN_FILE $(dirname $TOKEN_FILE); id -u; echo $USER; \
                      cp data/in out; echo 1/2 >$STINT_PROGRESS_FILE; cat $TOKEN_FILE >/dev/null";
        let launch = Launch { tenant_uid: Some(200_007), ..with(script, runtime, files) };
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::Exited(0));
        assert_eq!(end.outputs.as_deref().map(<[KeptFile]>::len), Some(1), "{runtime}");
        let own = "200007:200007";
        let expected = format!("{own} 700\n{own} 755\n{own} 755\n{own} 400\n{own} 700\n200007\ndefault\n");
        assert_eq!(client.log(lease, LogStream::Stdout).await, expected, "{runtime}");
        let said = client.host.progress(lease).await.unwrap();
        assert!(String::from_utf8(said.bytes).unwrap().contains("\"total\":2"), "{runtime}");
    }
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn what_is_promised_must_be_left_and_what_is_named_must_be_it() {
    let rig = rig();
    let mut client = rig.open().await;
    let files = |outputs: Vec<OutputPath>| TaskFiles { outputs, ..TaskFiles::default() };
    let mut wrong = files(vec![]);
    wrong.inputs = vec![InputFile { digest: Some(Digest::from_bytes([1; 32])), ..input("a", "abc") }];
    let cases = [
        (
            with("true", Runtime::Process, files(vec![output("model")])),
            EndKind::OutputMissing,
            "\"model\" is not there",
        ),
        (
            with("ln -s /etc/passwd model", Runtime::Process, files(vec![output("model")])),
            EndKind::OutputMissing,
            "\"model\" is a link that leads out of the work folder",
        ),
        (
            with("exit 3", Runtime::Process, files(vec![output("model")])),
            EndKind::Exited(3),
            "\"model\" is not there",
        ),
        (with("echo >started", Runtime::Process, wrong), EndKind::NotRunnable, "and not sha256:0101"),
    ];
    for (launch, kind, args) in cases {
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, kind);
        assert!(end.message.contains(args), "{end:?}");
    }
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn secrets_are_readable_inside_and_nowhere_else() {
    let rig = rig();
    let mut client = rig.open().await;
    for runtime in RUNTIMES {
        let files = TaskFiles {
            secrets: vec![secret("token", None), secret("key", Some("API_KEY"))],
            ..TaskFiles::default()
        };
        let script = "cat $TOKEN_FILE; echo; test $API_KEY = 'tr0ub4dor&3' && echo right; \
                      printf correct-; read -r _ < /dev/zero & while [ ! -e go ]; do sleep 0.02; done; \
                      printf 'horse-battery then %s' $API_KEY; cp $TOKEN_FILE leak; echo $TOKEN_FILE >&2";
        let launch = with(script, runtime, files);
        let lease = launch.lease;
        client.host.start(launch);
        client.started(lease).await;
        let hidden = "*********************\nright\n";
        client.until_output(lease, hidden).await;
        let live = client.host.read_log(lease, LogStream::Stdout, 0, 10_000).await.unwrap();
        assert_eq!(String::from_utf8(live.bytes).unwrap(), hidden, "half a secret is held back");
        std::fs::write(rig.executor().join("attempts").join(format!("{}-1", lease.task)).join("work/go"), "")
            .unwrap();
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::Exited(0));
        let log = client.log(lease, LogStream::Stdout).await;
        assert_eq!(log, format!("{hidden}{} then ***********", "*".repeat(21)), "{runtime}");
        let file = rig.executor().join("attempts").join(format!("{}-1", lease.task)).join("stdout");
        assert_eq!(std::fs::read_to_string(file).unwrap(), log, "the file itself is masked after the end");
        assert!(!secrets_left(&rig), "nothing of the secrets is left");
    }
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn a_secret_that_is_not_there_leaves_nothing_behind() {
    let rig = rig();
    let mut client = rig.open().await;
    let files =
        TaskFiles { secrets: vec![secret("token", None), secret("absent", None)], ..TaskFiles::default() };
    let launch = with("true", Runtime::Process, files);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert_kind(&end, EndKind::FilesMissing);
    assert!(end.message.contains("\"absent\" of tenant default"), "{end:?}");
    assert!(
        !secrets_left(&rig) && std::fs::read_dir(rig.executor().join("attempts")).unwrap().next().is_none()
    );
    client.host.shutdown(true).await;
}

/// Keeps files in a folder; may refuse the first, or never answer: from the first on, or from a later one.
struct MemoryStore {
    folder: PathBuf,
    refusals: AtomicU32,
    kept: AtomicU32,
    is_stuck: bool,
    stuck_from: u32,
}

impl Store for MemoryStore {
    fn image(&self, _: &Tenant, _: &str) -> StoreFuture<ImageFiles> {
        Box::pin(async { Err(StoreError::Wrong("no images here".into())) })
    }

    fn release(&self, _: &Tenant, _: &str) {}

    fn fetch(&self, _: &Tenant, blob: Blob) -> StoreFuture<PathBuf> {
        let path = self.folder.join(blob.digest.hex());
        let is_stuck = self.is_stuck;
        Box::pin(async move {
            if is_stuck {
                std::future::pending::<()>().await;
            }
            path.exists().then_some(path).ok_or_else(|| StoreError::Wrong("nobody has it".into()))
        })
    }

    fn keep(&self, _: &Tenant, file: PathBuf) -> StoreFuture<Blob> {
        let before = self.kept.fetch_add(1, SeqCst);
        let refuse = self.refusals.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        let (folder, is_stuck) = (self.folder.clone(), self.is_stuck || before >= self.stuck_from);
        Box::pin(async move {
            if is_stuck {
                std::future::pending::<()>().await;
            }
            if refuse {
                return Err(StoreError::Unavailable("no peer answers".into()));
            }
            let bytes = std::fs::read(file).unwrap();
            let digest = Digest::from_bytes(<sha2::Sha256 as sha2::Digest>::digest(&bytes).into());
            std::fs::write(folder.join(digest.hex()), &bytes).unwrap();
            Ok(Blob { digest, size: bytes.len() as u64 })
        })
    }
}

fn store(rig: &Rig, refusals: u32, is_stuck: bool) -> Arc<MemoryStore> {
    let folder = rig.folder.path().join("shelf");
    std::fs::create_dir_all(&folder).unwrap();
    Arc::new(MemoryStore {
        folder,
        refusals: refusals.into(),
        kept: 0.into(),
        is_stuck,
        stuck_from: u32::MAX,
    })
}

/// A store that takes one file and never answers again.
fn store_of_one(rig: &Rig) -> Arc<MemoryStore> {
    let folder = rig.folder.path().join("shelf");
    std::fs::create_dir_all(&folder).unwrap();
    Arc::new(MemoryStore { folder, refusals: 0.into(), kept: 0.into(), is_stuck: false, stuck_from: 1 })
}

#[tokio::test]
async fn an_output_of_one_task_is_the_input_of_the_next() {
    let mut rig = rig();
    let store = store(&rig, 1, false);
    rig.settings.store = Some(store.clone());
    let mut client = rig.open().await;
    let first = with(
        "seq 1000 >numbers",
        Runtime::Process,
        TaskFiles { outputs: vec![output("numbers")], ..TaskFiles::default() },
    );
    let lease = first.lease;
    client.host.start(first);
    let end = client.end(lease).await;
    let kept = end.outputs.unwrap()[0].clone();
    assert!(kept.stored && store.kept.load(SeqCst) == 2, "a store that is away for a moment is asked again");
    for runtime in RUNTIMES {
        let source = InputSource::Blob(kept.blob);
        let inputs = vec![InputFile { path: "in".into(), source, digest: None, executable: false }];
        let next = with("tail -n1 in; test -w in", runtime, TaskFiles { inputs, ..TaskFiles::default() });
        let lease = next.lease;
        client.host.start(next);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        assert_eq!(client.log(lease, LogStream::Stdout).await, "1000\n");
    }
    let source = InputSource::Blob(Blob { digest: Digest::from_bytes([9; 32]), size: 1 });
    let inputs = vec![InputFile { path: "in".into(), source, digest: None, executable: false }];
    let absent = with("true", Runtime::Process, TaskFiles { inputs, ..TaskFiles::default() });
    let lease = absent.lease;
    client.host.start(absent);
    assert_kind(&client.end(lease).await, EndKind::NotRunnable);
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn an_attempt_is_stopped_while_its_files_are_fetched() {
    let mut rig = rig();
    rig.settings.store = Some(store(&rig, 0, true));
    let mut client = rig.open().await;
    let source = InputSource::Blob(Blob { digest: Digest::from_bytes([9; 32]), size: 1 });
    let inputs = vec![InputFile { path: "in".into(), source, digest: None, executable: false }];
    let launch = with("true", Runtime::Process, TaskFiles { inputs, ..TaskFiles::default() });
    let lease = launch.lease;
    client.host.start(launch);
    assert_eq!(client.host.running().len(), 1, "it counts as held while it is prepared");
    assert_eq!(client.stage(lease), "preparing: its inputs");
    client.host.stop(lease, StopReason::Cancelled);
    assert_kind(&client.end(lease).await, EndKind::Cancelled);
    assert!(std::fs::read_dir(rig.executor().join("attempts")).unwrap().next().is_none());
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn a_node_that_is_killed_goes_on_with_outputs_and_masks() {
    let mut rig = rig();
    let stuck = store(&rig, 0, true);
    rig.settings.store = Some(stuck.clone());
    let mut client = rig.open().await;
    let files = || TaskFiles {
        outputs: vec![output("result")],
        secrets: vec![secret("token", None)],
        ..TaskFiles::default()
    };
    let ended = with("cat $TOKEN_FILE; echo done >result", Runtime::Process, files());
    let running = with(
        "cat $TOKEN_FILE; while [ ! -e go ]; do sleep 0.02; done; echo done >result",
        Runtime::Process,
        files(),
    );
    let leases = [ended.lease, running.lease];
    client.host.start(ended);
    client.host.start(running);
    client.started(leases[1]).await;
    client.until_output(leases[1], "*****").await;
    // The first has ended; its output is on its way to a store that never answers.
    wait_until("its output is being kept", || stuck.kept.load(SeqCst) == 1).await;
    assert_eq!(client.stage(leases[0]), "finishing: its outputs");
    drop(client);

    rig.settings.store = Some(store(&rig, 0, false));
    let mut client = rig.open().await;
    assert_eq!(client.host.running().len(), 2, "neither is over until its outputs are kept");
    let masked = client.host.read_log(leases[1], LogStream::Stdout, 0, 1000).await.unwrap();
    assert_eq!(masked.bytes, b"*********************");
    std::fs::write(rig.executor().join("attempts").join(format!("{}-1", leases[1].task)).join("work/go"), "")
        .unwrap();
    for lease in leases {
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::Exited(0));
        assert!(end.outputs.unwrap()[0].stored);
        assert_eq!(client.log(lease, LogStream::Stdout).await, "*".repeat(21));
    }
    assert!(!secrets_left(&rig));
    drop(client);

    // Once more before the ends were acknowledged: they are told as they were.
    let client = rig.open().await;
    let ends = client.host.unacknowledged();
    assert!(ends.len() == 2 && ends.iter().all(|end| end.outputs.is_some()), "{ends:?}");
    client.host.acknowledge(leases.to_vec());
    client.host.shutdown(true).await;
}

fn outputs(paths: &[&str]) -> TaskFiles {
    TaskFiles { outputs: paths.iter().map(|path| output(path)).collect(), ..TaskFiles::default() }
}

fn kept(end: &AttemptEnd) -> Vec<&str> {
    end.outputs.iter().flatten().map(|kept| kept.path.as_str()).collect()
}

fn not_kept(end: &AttemptEnd) -> Vec<(&str, &str)> {
    end.not_kept.iter().flatten().map(|file| (file.path.as_str(), file.reason.as_str())).collect()
}

/// Docker's tests do the same with all three.
#[tokio::test]
async fn outputs_are_kept_after_each_end() {
    let rig = rig();
    let mut client = rig.open().await;
    for runtime in RUNTIMES {
        support::outputs::are_kept_after_each_end(&mut client, runtime, None).await;
    }
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn a_task_may_keep_outputs_of_its_success_only() {
    let rig = rig();
    let mut client = rig.open().await;
    for (script, kind, expected) in
        [("exit 1", EndKind::Exited(1), vec![]), ("exit 0", EndKind::Exited(0), vec!["out"])]
    {
        let files = TaskFiles { keep: Some(KeepOutputs::Success), ..outputs(&["out"]) };
        let launch = with(&format!("echo x >out; {script}"), Runtime::Process, files);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, kind);
        assert_eq!(kept(&end), expected);
    }
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn one_bad_file_does_not_lose_the_others_nor_change_the_end() {
    let rig = rig();
    let mut client = rig.open().await;
    for (runtime, code) in RUNTIMES.into_iter().flat_map(|runtime| [(runtime, 0), (runtime, 4)]) {
        let script = format!(
            "mkdir out; cd out; echo good >good; ln -s good inner; ln -s /etc/passwd outer; mkfifo pipe; \
             : >$(printf 'n\\377me'); truncate -s 1T huge; exit {code}"
        );
        let launch = with(&script, runtime, outputs(&["out"]));
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::Exited(code));
        assert_eq!(kept(&end), ["out/good", "out/inner"], "{end:?}");
        let named: Vec<&str> = not_kept(&end).iter().map(|(path, _)| *path).collect();
        assert_eq!(named, ["out/n\u{fffd}me", "out/outer", "out/pipe", "out/huge"], "{end:?}");
        for part in ["executor.max_output_file_bytes", "is a pipe", "not UTF-8", "leads out"] {
            assert!(end.message.contains(part), "{part}: {end:?}");
        }
        assert_eq!(end.message.starts_with("exit code 4; "), code == 4, "{end:?}");
    }
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn a_folder_of_many_files_is_kept_as_one_archive() {
    let rig = rig();
    let mut client = rig.open().await;
    let script = "mkdir out; for i in $(seq 1000); do echo $i >out/$i; done; chmod 755 out/7; echo x >log";
    let launch = with(script, Runtime::Process, outputs(&["out", "log"]));
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert_kind(&end, EndKind::Exited(0));
    assert_eq!(kept(&end), ["log", "out.tar"], "{end:?}");
    let read = client.host.read_output(lease, "out.tar", 0, 16 << 20).await.unwrap();
    assert!(read.complete);
    let into = rig.folder.path().join("into");
    std::fs::create_dir(&into).unwrap();
    std::fs::write(into.join("out.tar"), read.bytes).unwrap();
    let unpack = std::process::Command::new("tar").args(["-xf", "out.tar"]).current_dir(&into).status();
    assert!(unpack.unwrap().success());
    assert_eq!(std::fs::read_dir(into.join("out")).unwrap().count(), 1000);
    let mode = |name: &str| std::fs::metadata(into.join(name)).unwrap().permissions().mode() & 0o100;
    assert_eq!((mode("out/7"), mode("out/8")), (0o100, 0));
    client.host.shutdown(true).await;
}

#[tokio::test]
async fn keeping_outputs_ends_with_a_cancel_the_lease_or_the_time_for_it() {
    let mut rig = rig();
    rig.settings.outputs.keep_ms = 1_000;
    for cause in ["cancel", "lease", "time"] {
        let store = store_of_one(&rig);
        rig.settings.store = Some(store.clone());
        let mut client = rig.open().await;
        let script = "echo 1 >a; echo 2 >b; echo 3 >c";
        let mut launch = with(script, Runtime::Process, outputs(&["a", "b", "c"]));
        let lease = launch.lease;
        let (kind, reason) = match cause {
            "cancel" => (EndKind::Cancelled, "it was cancelled while its outputs were kept"),
            "lease" => (EndKind::Lost, "its lease ended while its outputs were kept"),
            _ => (EndKind::TimedOut, "keeping its outputs took too long"),
        };
        match cause {
            "lease" => launch.deadline = stint_executor::boot_now().plus(3_000),
            "time" => {
                let mut spec = (*launch.spec).clone();
                spec.timeout_ms = 900;
                launch.spec = SharedSpec::new(spec);
            }
            _ => {}
        }
        client.host.start(launch);
        wait_until("the second output is on its way", || store.kept.load(SeqCst) == 2).await;
        assert_eq!(client.stage(lease), "finishing: its outputs");
        if cause == "cancel" {
            client.host.stop(lease, StopReason::Cancelled);
        }
        let end = client.end(lease).await;
        assert_kind(&end, kind);
        assert_eq!((kept(&end), not_kept(&end)), (vec!["a"], vec![("b", reason), ("c", reason)]), "{cause}");
        assert!(end.message.contains(&format!("{reason}: 1 kept")), "{end:?}");
        client.host.shutdown(true).await;
    }
}
