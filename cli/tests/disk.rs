//! What a full disk, a torn last record and a damaged log do to a real peer: a clear error or recovery, no loss, no
//! panic, and the others go on. And who may read what it keeps there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use stint_sdk::{Client, v1};
use support::{Cluster, PATIENCE, Peer, Setup, accepted, submit};
use tokio::time::Instant;

/// Two log segments of 16 MiB and some room; a third one fits only while nothing else takes the room.
const SMALL_DISK: &str = "size=56m";

/// From the error of a failed log to the end of its process at most, on a busy machine.
const END_AFTER_ERROR: Duration = Duration::from_secs(5);

/// A file system of its own for a peer's data folder. Unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", SMALL_DISK, "none"])
            .arg(dir)
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(dir.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all that is left.
    fn fill(&self) {
        let file = std::fs::File::create(self.filler()).unwrap();
        let block = vec![1; 64 * 1024];
        let mut at = 0;
        while let Ok(written) = file.write_at(&block, at) {
            at += written as u64;
            assert!(at < 1 << 30, "the disk does not fill");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its users are gone or going: what is left of the mount goes with them.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        // The folder that it was mounted in, which could not be removed before.
        let _ = self.0.parent().map(std::fs::remove_dir_all);
    }
}

/// A task whose description takes about 120 KB in the log.
fn large() -> v1::SubmitRequest {
    let mut request = submit("cpu_short", &["run=0ms"], 1);
    let spec = request.spec.as_mut().unwrap();
    spec.runtime = "mock".into();
    spec.env = (0..4).map(|n| (format!("V{n}"), "x".repeat(30_000))).collect();
    request
}

/// Every acknowledged task is known through this client, and succeeded.
async fn all_succeeded(cluster: &Cluster, ids: &[String]) {
    for task in cluster.finish(ids, PATIENCE).await {
        assert_eq!(task.outcome.as_ref().expect("finished").status, "succeeded", "{task:#?}");
    }
}

/// Submits until this peer has ended: what was accepted, and how it ended.
async fn submits_until_it_ends(client: &Client, victim: &mut Peer) -> (Vec<String>, ExitStatus) {
    let mut ids = Vec::new();
    let mut exit = std::pin::pin!(victim.exit());
    loop {
        tokio::select! {
            ended = &mut exit => return (ids, ended),
            more = accepted(client, large()) => ids.extend(more),
        }
    }
}

/// When this text stood in the file.
async fn appears(file: PathBuf, text: &'static str) -> Instant {
    while !std::fs::read_to_string(&file).is_ok_and(|said| said.contains(text)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_a_peer_with_a_clear_error_and_the_others_go_on() {
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    let Some(disk) = Disk::mount(&root.path().join("t1")) else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let mut cluster = Cluster::start_in(root, Setup::default()).await;
    let client = cluster.client();
    disk.fill();
    let said = tokio::spawn(appears(cluster.peers[0].log_file(), "the log failed"));
    let (ids, ended) = submits_until_it_ends(&client, &mut cluster.peers[0]).await;
    let gone = Instant::now();
    let log = cluster.peers[0].log();
    assert!(log.contains("the log failed"), "{log}");
    let took = gone.duration_since(said.await.unwrap());
    assert!(took < END_AFTER_ERROR, "it took {took:?} from the error to the end: {log}");
    let log = cluster.peers[0].log_and_forget();
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("The disk is full: free space on it"), "{log}");
    assert!(!log.contains("panicked"), "{log}");

    // The others go on; the full one says the same when it is started again.
    let more = accepted(&client, submit("cpu_short", &["/bin/true"], 1)).await;
    cluster.finish(&more, PATIENCE).await;
    cluster.peers[0].spawn(&[]);
    let ended = cluster.peers[0].exit().await;
    let log = cluster.peers[0].log_and_forget();
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("No space left on device") && log.contains("free space"), "{log}");
    assert!(!log.contains("panicked"), "{log}");

    std::fs::remove_file(disk.filler()).unwrap();
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    cluster.all_ready().await;
    all_succeeded(&cluster, &ids).await;
}

/// Fills the disk as fast as it can, in pieces that a small disk holds for longer than a look takes.
const FILLS: &str = "trap '' TERM; while :; do head -c 200000 /dev/zero >>big; sleep 0.02; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_fills_the_disk_is_ended_and_its_peer_goes_on() {
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    let Some(_disk) = Disk::mount(&root.path().join("t1")) else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let mut cluster = Cluster::start_in(root, Setup { peers: 1, ..Setup::default() }).await;
    let client = cluster.client();
    for _ in 0..2 {
        let filling = accepted(&client, submit("cpu_short", &["sh", "-c", FILLS], 1)).await;
        let ended = cluster.finish(&filling, PATIENCE).await.remove(0);
        let outcome = ended.outcome.as_ref().expect("finished");
        assert_eq!(outcome.kind, "disk_exceeded", "{ended:#?}");
        assert!(outcome.message.contains("the most of all"), "{}", outcome.message);
        // The log has room, and so have others.
        all_succeeded(&cluster, &accepted(&client, submit("cpu_short", &["/bin/true"], 5)).await).await;
    }
    assert!(cluster.peers[0].runs(), "{}", cluster.peers[0].log());
}

/// Where the records of the log's last segment end: after that its file holds zeros.
fn end_of_log(dir: &Path) -> (PathBuf, u64) {
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(dir.join("raft/log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments
        .retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-")));
    segments.sort();
    let last = segments.pop().expect("a log has a segment");
    let bytes = std::fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it holds records") as u64 + 1;
    (last, end)
}

fn write_at(file: &Path, offset: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, offset).unwrap();
}

/// One peer that ran ten tasks and was killed.
async fn killed_after_ten_tasks() -> (Cluster, Vec<String>) {
    let mut cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let ids = accepted(&cluster.client(), submit("cpu_short", &["/bin/true"], 10)).await;
    all_succeeded(&cluster, &ids).await;
    cluster.peers[0].kill().await;
    cluster.peers[0].log_and_forget();
    (cluster, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_last_record_is_cut_and_everything_confirmed_is_there() {
    let (mut cluster, ids) = killed_after_ten_tasks().await;
    let (file, end) = end_of_log(&cluster.peers[0].dir);
    // The beginning of a record that never reached the disk whole: the head of the one before it.
    let torn = std::fs::read(&file).unwrap()[64..64 + 40].to_vec();
    write_at(&file, end.next_multiple_of(8), &torn);
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    all_succeeded(&cluster, &ids).await;
    let log = cluster.peers[0].log();
    assert!(log.contains("torn tail of the log cut"), "{log}");
    // It can be written on.
    let more = accepted(&cluster.client(), submit("cpu_short", &["/bin/true"], 1)).await;
    all_succeeded(&cluster, &more).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_inside_the_log_is_refused_with_what_to_do() {
    let (mut cluster, _) = killed_after_ten_tasks().await;
    let (file, end) = end_of_log(&cluster.peers[0].dir);
    let middle = end / 2;
    let byte = std::fs::read(&file).unwrap()[middle as usize];
    write_at(&file, middle, &[byte ^ 0x10]);
    cluster.peers[0].spawn(&[]);
    let ended = tokio::time::timeout(Duration::from_secs(20), cluster.peers[0].exit()).await.unwrap();
    let log = cluster.peers[0].log();
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("is damaged at byte") && log.contains(&file.display().to_string()), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    // Started again it says the same, and the damaged file is as it was.
    let before = std::fs::read(&file).unwrap();
    cluster.peers[0].spawn(&[]);
    assert_eq!(cluster.peers[0].exit().await.code(), Some(1));
    assert!(before == std::fs::read(&file).unwrap(), "a refused log is not touched");
}

/// What others may read or change below a folder, were the folder itself open: files and folders, with their modes.
fn open_to_others(folder: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        // The test wrote it. A link is as open as what it leads to.
        if meta.is_symlink() || path.ends_with("stint.toml") {
            continue;
        }
        if meta.mode() & 0o066 != 0 {
            into.push(format!("{:o} {}", meta.mode() & 0o7777, path.display()));
        }
        if meta.is_dir() && meta.mode() & 0o011 != 0 {
            open_to_others(&path, into);
        }
    }
}

/// The environment of every task is in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_keeps_is_its_owners_alone() {
    let mut cluster = Cluster::start(Setup { peers: 1, umask: Some("000"), ..Setup::default() }).await;
    let work = |cluster: &Cluster| {
        let mut request = submit("cpu_short", &["/bin/sh", "-c", "echo $WORD | tee out"], 3);
        let spec = request.spec.as_mut().unwrap();
        spec.env.insert("WORD".into(), "a secret word".into());
        spec.outputs.push(v1::OutputPath { path: "out".into(), ..Default::default() });
        (cluster.client(), request)
    };
    for start in ["first", "second"] {
        let (client, request) = work(&cluster);
        let ids = accepted(&client, request).await;
        cluster.finish(&ids, PATIENCE).await;
        let peer = &mut cluster.peers[0];
        let dir = peer.dir.clone();
        // The test made it, as anybody makes a folder.
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700, "{start}");
        let said = peer.log_and_forget();
        let warnings =
            said.lines().filter(|line| line.contains("the data folder was open to others")).count();
        assert_eq!(warnings, 1, "{start}: {said}");
        let mut open = Vec::new();
        open_to_others(&dir, &mut open);
        assert!(open.is_empty(), "{start}: {open:#?}");
        peer.stop().await;
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        peer.spawn(&[]);
        peer.ready().await;
    }
}

/// `/home` or `/tmp`, named by mistake. A file system of its own may be as open; the peer of the full disk has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_others_use_is_not_closed_to_them() {
    for mode in [0o755, 0o1777] {
        let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
        let (shared, home) = (root.path().join("shared"), root.path().join("shared/someone"));
        std::fs::create_dir_all(&home).unwrap();
        std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let node = tokio::process::Command::new(env!("CARGO_BIN_EXE_stint"))
            .args(["node", "--bootstrap", "--data-dir"])
            .arg(&shared)
            .kill_on_drop(true)
            .output();
        let node = tokio::time::timeout(PATIENCE, node).await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&node.stderr);
        assert_eq!(node.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{} is in it", home.display())), "{said}");
        assert!(said.contains("set another data_dir"), "{said}");
        assert_eq!(std::fs::metadata(&shared).unwrap().mode() & 0o7777, mode);
        // Nothing was written there.
        assert_eq!(std::fs::read_dir(&shared).unwrap().count(), 1, "{said}");
    }
}
