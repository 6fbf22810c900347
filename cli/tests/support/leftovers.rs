//! What a killed node leaves behind: its watchdog, which waits a minute for another node, and the cgroups that the
//! watchdog would remove when it goes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longer than tasks of tests take to stop; after it they are killed.
const STOPPING: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Ends the watchdog of a data folder whose node is gone, with what it runs, and removes its cgroups.
pub fn clear(data_dir: &Path) {
    let executor = data_dir.join("executor");
    for name in ["TERM", "KILL"] {
        let Some(pid) = watchdog(&executor) else { break };
        for name in [name, "CONT"] {
            // It may end meanwhile.
            let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).output();
        }
        until(|| watchdog(&executor).is_none());
    }
    let label = format!("stint-{:08x}", crc32c::crc32c(executor.as_os_str().as_encoded_bytes()));
    let parents = cgroups(Path::new("/sys/fs/cgroup"), &label, 4);
    until(|| parents.iter().all(|parent| is_removed(parent)));
}

fn until(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() && began.elapsed() < STOPPING {
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The process that holds the lock of the watchdog.
fn watchdog(executor: &Path) -> Option<u32> {
    let inode = std::fs::metadata(executor.join("shim.lock")).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let holders = locks.lines().filter(|line| line.contains("POSIX") && line.contains(&format!(":{inode} ")));
    let pids = holders.filter_map(|line| line.split_whitespace().nth(4)?.parse().ok());
    // An inode of another file system may have the same number.
    let data_dir = executor.parent()?.to_str()?;
    let ours = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).any(|word| word == data_dir.as_bytes())
    };
    pids.into_iter().find(ours)
}

fn cgroups(folder: &Path, label: &str, depth: u32) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let found = folders.flat_map(|entry| {
        if entry.file_name() == label {
            vec![entry.path()]
        } else if depth > 0 {
            cgroups(&entry.path(), label, depth - 1)
        } else {
            Vec::new()
        }
    });
    found.collect()
}

fn is_removed(parent: &Path) -> bool {
    for attempt in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(attempt.path());
    }
    std::fs::remove_dir(parent).is_ok() || !parent.exists()
}
