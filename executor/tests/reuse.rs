//! What attempts of one watchdog share and hand on to each other, and what they must not: a cgroup without its past, and
//! nothing of the watchdog's memory or of its other attempts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use stint_executor::{Host, LogStream};
use stint_protocol::{AttemptEnd, EndKind, Runtime};
use support::{Client, Rig, assert_kind, launch, odd_seconds, shell, spec, wait_until};

/// Folders of a rig's cgroups below the hierarchy of version 1 that limits memory; none where there is no such.
fn groups(rig: &Rig) -> Option<Vec<PathBuf>> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = own.lines().find_map(|line| line.split_once(":memory:"))?.1;
    let label = format!("stint-{:08x}", crc32c::crc32c(rig.executor().as_os_str().as_encoded_bytes()));
    let ours = PathBuf::from(format!("/sys/fs/cgroup/memory{path}")).join(label);
    let entries = std::fs::read_dir(ours).into_iter().flatten().flatten().map(|entry| entry.path());
    Some(entries.filter(|path| path.is_dir()).collect())
}

/// Runs a task with so much memory to its acknowledged end.
async fn ran(client: &mut Client, memory_bytes: u64, script: &str) -> AttemptEnd {
    let mut wanted = spec(&["/bin/sh", "-c", script]);
    wanted.memory_bytes = memory_bytes;
    let launch = launch(wanted, Runtime::Process);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    client.host.acknowledge(vec![lease]);
    end
}

#[tokio::test]
async fn a_cgroup_is_used_again_without_what_the_last_one_did() {
    const MEMORY: u64 = 64 << 20;
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    if groups(&rig).is_none() {
        println!("SKIPPED: cgroups are used again where memory has a hierarchy of version 1");
        return;
    }
    let peak = |end: &AttemptEnd| end.usage.as_ref().unwrap().peak_memory_bytes.unwrap();
    let inode = || groups(&rig).unwrap().first().map(|path| std::fs::metadata(path).unwrap().ino());
    let first = ran(&mut client, MEMORY, "x=$(head -c 20000000 /dev/zero | tr '\\0' x)").await;
    assert!(peak(&first) > 20_000_000, "{first:?}");
    let kept = inode();
    let second = ran(&mut client, MEMORY, "true").await;
    assert!(kept.is_some() && inode() == kept, "it was made anew");
    assert!(peak(&second) < 10_000_000, "the peak is the former one's: {second:?}");
    // Another limit, another cgroup.
    let larger =
        ran(&mut client, 2 * MEMORY, "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo ${#x}").await;
    assert_kind(&larger, EndKind::Exited(0));
    assert_eq!(client.log(larger.lease, LogStream::Stdout).await, "40000000\n");
    assert_kind(&ran(&mut client, MEMORY, "tail /dev/zero").await, EndKind::OutOfMemory);
    // Neither the limit nor the verdict of those before.
    assert_kind(&ran(&mut client, MEMORY, "exit 137").await, EndKind::Exited(137));
    assert_kind(&ran(&mut client, MEMORY, "kill -9 $$").await, EndKind::Signalled(9));
    wait_until("cgroups that nobody uses go", || groups(&rig).unwrap().is_empty()).await;
}

#[tokio::test]
async fn what_a_killed_watchdog_kept_is_cleared_by_the_next() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    if groups(&rig).is_none() {
        println!("SKIPPED: cgroups are used again where memory has a hierarchy of version 1");
        return;
    }
    let sleeping = shell(&format!("sleep {}", odd_seconds()));
    let lease = sleeping.lease;
    client.host.start(sleeping);
    client.started(lease).await;
    assert_kind(&ran(&mut client, 64 << 20, "true").await, EndKind::Exited(0));
    assert_eq!(groups(&rig).unwrap().len(), 2, "one in use and one kept");
    rig.kill_shim();
    assert_kind(&client.end(lease).await, EndKind::Lost);
    client.host.acknowledge(vec![lease]);
    wait_until("both go", || groups(&rig).unwrap().is_empty()).await;
}

#[tokio::test]
async fn an_attempts_init_has_nothing_of_the_watchdogs_heap_and_other_attempts() {
    let rig = Rig::new(true);
    let client = rig.open().await;
    let shim = rig.shim_pid().unwrap();
    let script = format!("echo up; sleep {}", odd_seconds());
    let mut leases = Vec::new();
    for _ in 0..3 {
        let launch = shell(&script);
        leases.push(launch.lease);
        client.host.start(launch);
        client.until_output(*leases.last().unwrap(), "up").await;
    }
    let text = |path: String| std::fs::read_to_string(path).unwrap();
    let inits = text(format!("/proc/{shim}/task/{shim}/children"));
    let inits: Vec<&str> = inits.split_whitespace().collect();
    assert!(inits.len() >= 3, "{inits:?}");
    let open = |pid: &str| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        files.map(|file| std::fs::read_link(file.unwrap().path()).unwrap()).collect::<Vec<_>>()
    };
    for init in inits {
        let maps = text(format!("/proc/{init}/maps"));
        assert!(!maps.contains("[heap]"), "{maps}");
        // Its three standard streams and where it tells that the program runs.
        let files = open(init);
        assert_eq!(files.len(), 4, "{files:?}");
    }
    assert!(text(format!("/proc/{shim}/maps")).contains("[heap]"));
    let lock = rig.executor().join("shim.lock");
    assert!(open(&shim.to_string()).contains(&lock), "the watchdog keeps its own");
    assert_eq!(rig.shim_pid(), Some(shim), "and its lock");
}
