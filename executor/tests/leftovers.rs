//! Nothing is left of an attempt, however it ended: processes, mounts, cgroups, descriptors of the watchdog, crun's state
//! and, once its end was acknowledged, folders.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use stint_executor::{DiskLimits, Host, KeepEnded, Launch, StopReason};
use stint_protocol::{EndKind, Runtime};
use support::{Client, Rig, assert_kind, launch, odd_seconds, processes_with, spec, wait_until};
use tokio::time::sleep;

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
        Self::sized(folder, "6m")
    }

    fn sized(folder: &'a Path, size: &str) -> Self {
        let size = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).status();
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
async fn a_full_disk_costs_output_and_nothing_else() {
    let mut rig = Rig::new(true);
    if let Err(e) = std::fs::metadata("/sys/fs/cgroup/memory") {
        println!("SKIPPED a_full_disk_costs_output_and_nothing_else: {e}");
        return;
    }
    rig.settings.keep_ended = KeepEnded { count: 0, age_ms: 0 };
    rig.settings.process.writable.clear();
    let folder = rig.folder.path().to_owned();
    let disk = SmallDisk::over(&folder);
    let mut client = rig.open().await;
    for runtime in [Runtime::Process, Runtime::Crun] {
        let full = shell(runtime, "head -c 20000000 /dev/zero && exit 3");
        let lease = full.lease;
        client.host.start(full);
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::Exited(3));
        assert!(
            end.message.contains("could not be kept") && end.message.contains("No space left"),
            "{end:?}"
        );
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

/// What writes 300 KB at a time until somebody ends it, and does not go by itself.
const FILLS: &str = "trap '' TERM; while :; do head -c 300000 /dev/zero >&3; sleep 0.02; done";

/// Each way to fill a disk, on each runtime: with names, in many files, and without a name.
fn fillers() -> Vec<Launch> {
    let scripts = [
        format!("exec 3>big; {FILLS}"),
        "trap '' TERM; n=0; while :; do n=$((n+1)); head -c 300000 /dev/zero >f$n; sleep 0.02; done"
            .to_owned(),
        format!("exec 3>big; rm big; {FILLS}"),
    ];
    let both = |script: &String| [Runtime::Process, Runtime::Crun].map(|runtime| shell(runtime, script));
    scripts.iter().flat_map(both).collect()
}

/// Files without bytes: a disk has room for so many, and a peer that cannot make one stops.
#[tokio::test]
async fn who_makes_too_many_files_is_killed_while_there_is_room_for_others() {
    let mut rig = Rig::new(true);
    rig.settings.process.writable.clear();
    rig.settings.disk = DiskLimits { attempt_bytes: 0, reserve_bytes: 1 << 30 };
    let folder = rig.folder.path().to_owned();
    let disk = SmallDisk::sized(&folder, "512m,nr_inodes=100000");
    let left = || rustix::fs::statvfs(&folder).unwrap().f_favail;
    let make_files = |name: &str, count: usize| {
        std::fs::create_dir(folder.join(name)).unwrap();
        (0..count).for_each(|n| std::fs::write(folder.join(name).join(n.to_string()), "").unwrap());
    };
    // What is on it already: filling takes less time so.
    make_files("before", 80_000);
    let mut client = rig.open().await;
    let bystander = shell(Runtime::Process, "sleep 100");
    let spared = bystander.lease;
    client.host.start(bystander);
    for runtime in [Runtime::Process, Runtime::Crun] {
        wait_until("something can be started", || client.host.health().runtimes[&runtime].is_ok()).await;
        // Slow enough for a look every 200 ms to come in time on a busy machine.
        let makes = "trap '' TERM; n=0; while :; do n=$((n+1)); mkdir d$n; \
            for m in 1 2 3 4 5 6 7 8 9; do : >d$n/$m; done; [ $((n % 20)) -ne 0 ] || sleep 0.02; done";
        let filler = shell(runtime, makes);
        let lease = filler.lease;
        client.host.start(filler);
        let least = AtomicU64::new(u64::MAX);
        let end = tokio::select! {
            end = client.end(lease) => end,
            () = async { loop { least.fetch_min(left(), SeqCst); sleep(Duration::from_millis(2)).await } } => unreachable!(),
        };
        assert_kind(&end, EndKind::DiskExceeded);
        assert!(end.message.contains("files, the most of all"), "{}", end.message);
        assert!(least.load(SeqCst) > 0, "there was room for no file");
        client.host.acknowledge(vec![lease]);
        wait_until("its files are removed", || left() > 15_000).await;
    }
    assert!(client.host.running().iter().any(|attempt| attempt.lease == spared && !attempt.stopping));
    // By somebody else: nothing starts, nobody is killed, and it is said.
    make_files("others", 15_500);
    wait_until("it is said", || {
        let health = client.host.health();
        health.runtimes[&Runtime::Process].as_ref().is_err_and(|why| why.contains("files (inodes)"))
    })
    .await;
    assert!(client.host.running().iter().any(|attempt| attempt.lease == spared && !attempt.stopping));
    drop((client, disk));
}

/// Kills of programs that do not listen to TERM take the kill margin, not their grace.
#[tokio::test]
async fn what_fills_the_disk_is_killed_before_it_is_full_and_the_node_goes_on() {
    let mut rig = Rig::new(true);
    rig.settings.process.writable.clear();
    rig.settings.disk = DiskLimits { attempt_bytes: 0, reserve_bytes: 1 << 30 };
    let folder = rig.folder.path().to_owned();
    let disk = SmallDisk::sized(&folder, "64m");
    let free = || {
        let found = rustix::fs::statvfs(&folder).unwrap();
        found.f_bavail * found.f_frsize
    };
    // What is on it already: filling takes less time so.
    std::fs::write(folder.join("before"), vec![0; 40 << 20]).unwrap();
    let mut client = rig.open().await;
    let bystander = shell(Runtime::Process, "sleep 100");
    let spared = bystander.lease;
    client.host.start(bystander);
    for filler in fillers() {
        let what = filler.spec.command.join(" ");
        wait_until("something can be started", || client.host.health().runtimes[&filler.runtime].is_ok())
            .await;
        let lease = filler.lease;
        client.host.start(filler);
        let least = AtomicU64::new(u64::MAX);
        let end = tokio::select! {
            end = client.end(lease) => end,
            () = async { loop { least.fetch_min(free(), SeqCst); sleep(Duration::from_millis(2)).await } } => unreachable!(),
        };
        assert_kind(&end, EndKind::DiskExceeded);
        assert!(end.message.contains("the most of all"), "{}", end.message);
        assert!(least.load(SeqCst) > 100_000, "{what} left {} bytes", least.load(SeqCst));
        client.host.acknowledge(vec![lease]);
        wait_until("its files are removed", || free() > 20 << 20).await;
    }
    assert!(client.host.running().iter().any(|attempt| attempt.lease == spared && !attempt.stopping));
    // Filled by somebody else: nothing starts, nobody is killed, and it is said. What has ended goes.
    let folders = || census(&rig).folders;
    assert!(folders() > 0, "something is kept of what has ended");
    std::fs::write(folder.join("filler"), vec![0; 22 << 20]).unwrap();
    wait_until("it is said", || {
        let health = client.host.health();
        health.runtimes[&Runtime::Process].as_ref().is_err_and(|why| why.contains("is full but for"))
    })
    .await;
    wait_until("folders of ended attempts go", || folders() == 0).await;
    std::fs::write(folder.join("filler"), vec![0; 18 << 20]).unwrap();
    wait_until("it is nearly full", || {
        client.host.health().problems.iter().any(|problem| problem.contains("is nearly full"))
    })
    .await;
    assert!(client.host.running().iter().any(|attempt| attempt.lease == spared && !attempt.stopping));
    drop((client, disk));
}

#[tokio::test]
async fn an_attempt_whose_files_take_more_than_it_may_is_killed() {
    let mut rig = Rig::new(true);
    rig.settings.process.writable.clear();
    rig.settings.disk = DiskLimits { attempt_bytes: 4 << 20, reserve_bytes: 0 };
    let mut client = rig.open().await;
    for runtime in [Runtime::Process, Runtime::Crun] {
        let (small, large) = (
            shell(runtime, "head -c 3000000 /dev/zero >f; sleep 3"),
            shell(runtime, "head -c 5000000 /dev/zero >f; sleep 100"),
        );
        let (kept, killed) = (small.lease, large.lease);
        client.host.start(small);
        client.host.start(large);
        let end = client.end(killed).await;
        assert_kind(&end, EndKind::DiskExceeded);
        assert!(
            end.message.contains("more than 4 MiB") && end.message.contains("executor.max_disk_bytes"),
            "{}",
            end.message
        );
        assert_kind(&client.end(kept).await, EndKind::Exited(0));
        wait_until("its files are removed", || {
            !rig.executor().join("attempts").join(format!("{}-1", killed.task)).join("work/f").exists()
        })
        .await;
    }
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
