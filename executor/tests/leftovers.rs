//! Nothing is left of an attempt, however it ended: processes, mounts, cgroups, descriptors of the watchdog, crun's state
//! and, once its end was acknowledged, folders.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use stint_executor::{Host, KeepEnded, Launch, StopReason};
use stint_protocol::{EndKind, Runtime};
use support::{Client, Rig, assert_kind, launch, odd_seconds, processes_with, spec, wait_until};

/// What of a rig's attempts is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Census {
    children: usize,
    cgroups: Vec<PathBuf>,
    mounts: usize,
    crun_state: usize,
    folders: usize,
    descriptors: usize,
}

fn census(rig: &Rig) -> Census {
    let shim = rig.shim_pid().expect("a watchdog runs");
    let count = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().count();
    let text = |path: String| std::fs::read_to_string(path).unwrap();
    let label = format!("stint-{:08x}", crc32c::crc32c(rig.executor().as_os_str().as_encoded_bytes()));
    let mut cgroups = Vec::new();
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        find(&entry.path(), &label, 4, &mut cgroups);
    }
    Census {
        children: text(format!("/proc/{shim}/task/{shim}/children")).split_whitespace().count(),
        cgroups,
        // Of ours only: other tests mount too.
        mounts: text(format!("/proc/{shim}/mountinfo"))
            .matches(&rig.executor().display().to_string())
            .count(),
        crun_state: count(rig.executor().join("crun")),
        folders: count(rig.executor().join("attempts")),
        descriptors: count(format!("/proc/{shim}/fd").into()),
    }
}

/// The folders of attempts in a cgroup of this name.
fn find(folder: &Path, label: &str, depth: u32, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        if folder.file_name().is_some_and(|name| name == label) {
            found.push(entry.path());
        } else if depth > 0 {
            find(&entry.path(), label, depth - 1, found);
        }
    }
}

fn shell(runtime: Runtime, script: &str) -> Launch {
    launch(spec(&["/bin/sh", "-c", script]), runtime)
}

/// Attempts that end by themselves, and how.
fn by_themselves(runtime: Runtime, word: &str) -> Vec<(Launch, EndKind)> {
    let mut all: Vec<(Launch, EndKind)> = [0, 1, 2, 126, 127, 128, 137, 255]
        .map(|code| (shell(runtime, &format!("sleep {word} & exit {code}")), EndKind::Exited(code)))
        .into();
    // Process 1 of a container is not ended by its own signal.
    let signal = if runtime == Runtime::Crun { EndKind::Exited(143) } else { EndKind::Signalled(15) };
    let script = if runtime == Runtime::Crun { "sh -c 'kill $$'" } else { "kill $$" };
    all.push((shell(runtime, script), signal));
    let mut slow = spec(&["sleep", word]);
    slow.timeout_ms = 300;
    all.push((launch(slow, runtime), EndKind::TimedOut));
    let mut hungry = spec(&["sh", "-c", "tail /dev/zero"]);
    hungry.memory_bytes = 32 << 20;
    all.push((launch(hungry, runtime), EndKind::OutOfMemory));
    for missing in ["stint-no-such-command", "/etc/passwd"] {
        all.push((launch(spec(&[missing]), runtime), EndKind::NotRunnable));
    }
    for (image, kind) in [("/etc", EndKind::Denied), ("busybox:1", EndKind::NotRunnable)] {
        let mut with_image = spec(&["sh"]);
        with_image.image = Some(image.into());
        all.push((launch(with_image, runtime), kind));
    }
    all
}

/// One attempt that is stopped, and one that runs while the node goes and comes back.
async fn stopped_and_adopted(rig: &Rig, mut client: Client, runtime: Runtime, word: &str) -> Client {
    let (cancelled, adopted) =
        (shell(runtime, &format!("sleep {word}")), shell(runtime, &format!("sleep {word}; exit 9")));
    let leases = [cancelled.lease, adopted.lease];
    client.host.start(cancelled);
    client.host.start(adopted);
    for lease in leases {
        client.started(lease).await;
    }
    client.host.stop(leases[0], StopReason::Cancelled);
    assert_kind(&client.end(leases[0]).await, EndKind::Cancelled);
    client.host.acknowledge(vec![leases[0]]);
    client.host.shutdown(false).await;
    let mut client = rig.open().await;
    assert_eq!(client.host.running().len(), 1, "it is adopted");
    client.host.stop(leases[1], StopReason::Drained);
    assert_kind(&client.end(leases[1]).await, EndKind::Drained);
    client.host.acknowledge(vec![leases[1]]);
    client
}

/// A round of every ending; what is left after it.
async fn round(rig: &Rig, mut client: Client, runtime: Runtime) -> (Client, Census) {
    let word = odd_seconds();
    let attempts = by_themselves(runtime, &word);
    let leases: Vec<_> = attempts.iter().map(|(launch, _)| launch.lease).collect();
    for (launch, kind) in attempts {
        let lease = launch.lease;
        client.host.start(launch);
        assert_kind(&client.end(lease).await, kind);
    }
    client.host.acknowledge(leases);
    let client = stopped_and_adopted(rig, client, runtime, &word).await;
    assert_eq!(processes_with(&format!("sleep\0{word}")), Vec::<i32>::new());
    // Folders go with the next housekeeping, cgroups when the kernel has taken their last process apart, and children
    // that sync the journal when they have.
    let left = RefCell::new(Census::default());
    wait_until("all is removed", || {
        *left.borrow_mut() = census(rig);
        let now = left.borrow();
        now.folders == 0 && now.cgroups.is_empty() && now.children == 0
    })
    .await;
    let left = left.into_inner();
    (client, left)
}

#[tokio::test]
async fn nothing_is_left_of_any_ending() {
    let mut rig = Rig::new(true);
    rig.settings.keep_ended = KeepEnded { count: 0, age_ms: 0 };
    let mut client = rig.open().await;
    for runtime in [Runtime::Process, Runtime::Crun] {
        if let Err(why) = &client.host.health().runtimes[&runtime] {
            println!("SKIPPED nothing_is_left_of_any_ending with {runtime}: {why}");
            continue;
        }
        let mounts = census(&rig).mounts;
        let (again, first) = round(&rig, client, runtime).await;
        assert_eq!((first.crun_state, first.mounts), (0, mounts));
        // A second round leaves exactly what the first did: descriptors that are kept for reuse are reused.
        let (again, second) = round(&rig, again, runtime).await;
        assert_eq!(second, first, "{runtime}");
        client = again;
    }
}

/// A file system of a few megabytes over the rig's folder, as long as it lives.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn over(folder: &'a Path) -> Self {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(folder).status();
        assert!(mounted.unwrap().success());
        Self(folder)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(self.0).status();
        // It could not be removed while it was mounted.
        let _ = std::fs::remove_dir_all(self.0);
    }
}

#[tokio::test]
async fn a_full_disk_ends_what_writes_and_leaves_nothing() {
    let mut rig = Rig::new(true);
    if let Err(e) = std::fs::metadata("/sys/fs/cgroup/memory") {
        println!("SKIPPED a_full_disk_ends_what_writes_and_leaves_nothing: {e}");
        return;
    }
    rig.settings.keep_ended = KeepEnded { count: 0, age_ms: 0 };
    rig.settings.process.writable.clear();
    let folder = rig.folder.path().to_owned();
    let disk = SmallDisk::over(&folder);
    let mut client = rig.open().await;
    for runtime in [Runtime::Process, Runtime::Crun] {
        let full = shell(runtime, "head -c 20000000 /dev/zero && echo wrote everything");
        let lease = full.lease;
        client.host.start(full);
        assert_kind(&client.end(lease).await, EndKind::Exited(1));
        client.host.acknowledge(vec![lease]);
        wait_until("its folder is removed", || census(&rig).folders == 0).await;
        wait_until("its cgroups are removed", || census(&rig).cgroups.is_empty()).await;
        // And the node goes on.
        let small = shell(runtime, "echo small");
        let lease = small.lease;
        client.host.start(small);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        client.host.acknowledge(vec![lease]);
    }
    drop((client, rig, disk));
}

/// Reading stops at a record that is not whole: those that come after it must not be lost with it.
#[tokio::test]
async fn what_a_full_disk_kept_from_the_journal_is_written_when_there_is_room() {
    let mut rig = Rig::new(true);
    rig.settings.process.writable.clear();
    let folder = rig.folder.path().to_owned();
    let disk = SmallDisk::over(&folder);
    let mut client = rig.open().await;
    let (filler, journal) = (folder.join("filler"), rig.executor().join("spool/journal"));
    let inode = || std::fs::metadata(&journal).unwrap().ino();
    let at_first = inode();
    let _ = std::fs::write(&filler, vec![0; 8 << 20]);
    // Longer than what is left of the journal's last page.
    let mut kinds = Vec::new();
    for _ in 0..60 {
        let launch = shell(Runtime::Process, "true");
        let lease = launch.lease;
        client.host.start(launch);
        kinds.push(client.end(lease).await.kind);
    }
    assert!(kinds.contains(&EndKind::StartFailed), "nothing starts that cannot be found again: {kinds:?}");
    std::fs::remove_file(&filler).unwrap();
    let small = shell(Runtime::Process, "exit 7");
    let lease = small.lease;
    client.host.start(small);
    assert_kind(&client.end(lease).await, EndKind::Exited(7));
    wait_until("the journal is written anew", || inode() != at_first).await;
    let seen = client.host.unacknowledged().len();
    assert_eq!(seen, 61);
    // A watchdog that knows nothing but the journal tells them all.
    rig.kill_shim();
    client.host.shutdown(false).await;
    let client = rig.open().await;
    assert!(client.host.health().accounted, "the journal is torn");
    assert_eq!(client.host.unacknowledged().len(), seen);
    drop((client, rig, disk));
}
