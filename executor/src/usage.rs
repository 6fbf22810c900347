//! What the processes of a cgroup used, as the files of the cgroup say. In version 1 each hierarchy knows its own part.

use std::fs;
use std::path::{Path, PathBuf};

use stint_protocol::Usage;

/// What a hierarchy of cgroups measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    /// Everything: version 2.
    All,
    /// One controller of version 1.
    Memory,
    Cpu,
    Storage,
}

/// Reads the meters of a cgroup's folder; what it lacks stays unset.
pub fn read(folder: &Path, meter: Meter) -> Usage {
    let text = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
    let mut usage = Usage::default();
    match meter {
        Meter::All => {
            usage.cpu_ms = text("cpu.stat").and_then(|stat| cpu_ms(&stat));
            usage.peak_memory_bytes = number("memory.peak");
            if let Some(stat) = text("io.stat") {
                let of =
                    |word: &str| stat.split_whitespace().filter_map(|w| parsed(w.strip_prefix(word)?)).sum();
                (usage.read_bytes, usage.written_bytes) = (Some(of("rbytes=")), Some(of("wbytes=")));
            }
        }
        Meter::Memory => usage.peak_memory_bytes = number("memory.max_usage_in_bytes"),
        Meter::Cpu => usage.cpu_ms = number("cpuacct.usage").map(|nanoseconds| nanoseconds / 1_000_000),
        Meter::Storage => {
            if let Some(stat) = text("blkio.throttle.io_service_bytes") {
                (usage.read_bytes, usage.written_bytes) =
                    (Some(moved(&stat, "Read")), Some(moved(&stat, "Write")));
            }
        }
    }
    usage
}

/// `first`, and where it says nothing, `second`.
pub fn or(first: Usage, second: Usage) -> Usage {
    Usage {
        cpu_ms: first.cpu_ms.or(second.cpu_ms),
        peak_memory_bytes: first.peak_memory_bytes.or(second.peak_memory_bytes),
        read_bytes: first.read_bytes.or(second.read_bytes),
        written_bytes: first.written_bytes.or(second.written_bytes),
    }
}

/// The cgroups that a process is in, where something is measured.
pub fn cgroups_of(pid: i32) -> Vec<(PathBuf, Meter)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    found(&mounts, &own)
}

fn found(mounts: &str, own: &str) -> Vec<(PathBuf, Meter)> {
    let path_of = |controller: &str| {
        own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|c| c == controller).then(|| path.trim_start_matches('/'))
        })
    };
    // A process that has ended is in the root, where all of the machine is counted.
    let path_of = |controller: &str| path_of(controller).filter(|path| !path.is_empty());
    let mut meters = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = fields[..] else { continue };
        let measured: &[(&str, Meter)] = match kind {
            "cgroup2" => &[("", Meter::All)],
            "cgroup" => &[("memory", Meter::Memory), ("cpuacct", Meter::Cpu), ("blkio", Meter::Storage)],
            _ => continue,
        };
        for (controller, meter) in measured {
            let mounted = controller.is_empty() || options.split(',').any(|option| option == *controller);
            if let Some(path) = path_of(controller).filter(|_| mounted) {
                meters.push((Path::new(mount).join(path), *meter));
            }
        }
    }
    meters
}

/// All that these cgroups measured.
pub fn read_all(cgroups: &[(PathBuf, Meter)]) -> Usage {
    // In a hybrid layout version 2 may know of the CPU too: what version 1 says comes first.
    let by_controller = |meter: &Meter| *meter == Meter::All;
    let (two, one): (Vec<_>, Vec<_>) = cgroups.iter().partition(|(_, meter)| by_controller(meter));
    one.into_iter().chain(two).fold(Usage::default(), |sum, (folder, meter)| or(sum, read(folder, *meter)))
}

fn parsed(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// Milliseconds, of `cpu.stat`.
fn cpu_ms(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| parsed(line.strip_prefix("usage_usec ")?)).map(|micros| micros / 1000)
}

/// Bytes of all devices, of lines `MAJOR:MINOR WORD BYTES`.
fn moved(stat: &str, word: &str) -> u64 {
    stat.lines().filter_map(|line| parsed(line.split_once(' ')?.1.strip_prefix(word)?.trim())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("cpu.stat", "usage_usec 1234567\nuser_usec 1000000\n");
        put("memory.peak", "4096\n");
        put("io.stat", "8:0 rbytes=100 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2 rios=1\n");
        let all = Usage {
            cpu_ms: Some(1234),
            peak_memory_bytes: Some(4096),
            read_bytes: Some(101),
            written_bytes: Some(22),
        };
        assert_eq!(read(folder.path(), Meter::All), all);
        put("memory.max_usage_in_bytes", "8192\n");
        put("cpuacct.usage", "5999999\n");
        put(
            "blkio.throttle.io_service_bytes",
            "8:0 Read 7\n8:0 Write 8\n8:0 Total 15\n8:16 Read 1\nTotal 16\n",
        );
        let folders =
            [Meter::All, Meter::Memory, Meter::Cpu, Meter::Storage].map(|m| (folder.path().to_owned(), m));
        let one = Usage {
            cpu_ms: Some(5),
            peak_memory_bytes: Some(8192),
            read_bytes: Some(8),
            written_bytes: Some(8),
        };
        assert_eq!(read_all(&folders), one);
        assert_eq!(read_all(&[("/no/such".into(), Meter::All)]), Usage::default());
    }

    #[test]
    fn the_cgroups_of_a_process_are_found_in_a_hybrid_layout() {
        let mounts = "tmpfs /c tmpfs rw 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n\
                      cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n";
        let own = "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n2:blkio:/docker/1\n0::/\n";
        let expected =
            [("/c/memory/docker/1".into(), Meter::Memory), ("/c/cpu,cpuacct/docker/1".into(), Meter::Cpu)];
        assert_eq!(found(mounts, own), expected);
        let ended = "4:cpu,cpuacct:/\n3:memory:/\n2:blkio:/\n0::/docker/1\n";
        assert_eq!(found(mounts, ended), [("/c/unified/docker/1".into(), Meter::All)]);
    }
}
