//! Cgroups of attempts: memory, pids and CPU limits, the out-of-memory count, and killing by cgroup. Speaks version 2
//! and version 1 with one controller per hierarchy (also the hybrid layout of both).

mod hierarchies;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use stint_protocol::{LeaseId, Usage};

use self::hierarchies::{Version, hierarchies, lacking, own_group, prepare};
use crate::limits;
use crate::shim_api::layout::{SANDBOX_DIR_CGROUP, folder_name, parse_folder_name, sandbox_dir_name};
use crate::sys;
use crate::usage::{self, Meter};

/// Where this host's cgroups for attempts are made.
#[derive(Debug, Default)]
pub struct Cgroups {
    /// Our folder in each hierarchy that is used.
    parents: Vec<Parent>,
    /// What cannot be enforced, in words for the operator.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug)]
struct Parent {
    path: PathBuf,
    version: Version,
}

/// What an attempt may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLimits {
    pub memory_bytes: u64,
    /// Beyond its memory.
    pub swap_bytes: u64,
    pub cpu_milli: u64,
    /// Processes and threads, with the attempt's init.
    pub pids: u64,
}

/// The cgroup of one attempt: one folder in each hierarchy.
#[derive(Clone, Debug)]
pub struct Cgroup {
    folders: Vec<(PathBuf, Version)>,
    /// Its limits; none: an earlier watchdog made it.
    amounts: Option<CgroupLimits>,
    /// The sandbox folder whose name it has.
    sandbox_dir: Option<u32>,
}

impl Cgroups {
    /// Finds what this host offers and makes a folder of ours for this data folder.
    pub fn find(label: &str) -> Self {
        let mut found = Self::default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for (mount, version) in hierarchies(&mounts) {
            let path = Path::new(mount).join(own_group(&own, version)).join(label);
            match prepare(&path, version) {
                Ok(()) => {
                    if version == Version::Two {
                        found.problems.extend(lacking(&path).into_iter().map(|controller| {
                            format!(
                                "limits of {controller} are not enforced: {} is not given that controller",
                                path.display()
                            )
                        }));
                    }
                    found.parents.push(Parent { path, version });
                }
                Err(e) => found.problems.push(format!("no cgroup at {}: {e}", path.display())),
            }
        }
        if !found.limits_memory() {
            found.problems.push(
                "memory limits are not enforced and out-of-memory is not told apart: no writable memory cgroup".into(),
            );
        }
        found
    }

    pub fn limits_memory(&self) -> bool {
        self.parents.iter().any(|p| matches!(p.version, Version::Two | Version::Memory))
    }

    /// Whether an attempt can be killed and seen empty by its cgroup.
    pub fn can_kill(&self) -> bool {
        !self.parents.is_empty()
    }

    /// Makes an attempt's cgroup with its limits. It has the name of the attempt's sandbox folder, unless the former one of that
    /// sandbox folder is still there.
    pub fn create(
        &self,
        lease: LeaseId,
        sandbox_dir: Option<u32>,
        amounts: CgroupLimits,
    ) -> io::Result<Cgroup> {
        let sandbox_dir =
            sandbox_dir.filter(|sandbox_dir| self.named(&sandbox_dir_name(*sandbox_dir)).is_empty());
        let name = sandbox_dir.map_or_else(|| folder_name(lease), sandbox_dir_name);
        let folders = Vec::with_capacity(self.parents.len());
        let mut cgroup = Cgroup { folders, amounts: Some(amounts), sandbox_dir };
        for parent in &self.parents {
            let folder = parent.path.join(&name);
            match make_folder(&folder, parent) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    cgroup.remove();
                    return Err(e);
                }
                _ => {}
            }
            cgroup.folders.push((folder.clone(), parent.version));
            if let Err(e) = set_limits(&folder, parent.version, amounts) {
                cgroup.remove();
                return Err(e);
            }
        }
        Ok(cgroup)
    }

    /// The cgroup that an earlier watchdog made for an attempt in this sandbox folder.
    pub fn existing(&self, lease: LeaseId, sandbox_dir: Option<u32>) -> Option<Cgroup> {
        let mut folders = self.named(&folder_name(lease));
        folders.extend(
            sandbox_dir.map(|sandbox_dir| self.named(&sandbox_dir_name(sandbox_dir))).unwrap_or_default(),
        );
        (!folders.is_empty()).then_some(Cgroup { folders, amounts: None, sandbox_dir: None })
    }

    fn named(&self, name: &str) -> Vec<(PathBuf, Version)> {
        let folders = self.parents.iter().map(|p| (p.path.join(name), p.version));
        folders.filter(|(folder, _)| folder.is_dir()).collect()
    }

    /// Removes what an earlier watchdog kept for the next attempts, but of these sandbox folders; answers what stays for now. No
    /// attempt that may still run has them: its sandbox folder would be among those.
    pub fn remove_spare(&self, taken: &BTreeSet<u32>) -> Vec<Cgroup> {
        let sandbox_dirs = self
            .names()
            .into_iter()
            .filter_map(|name| name.strip_prefix(SANDBOX_DIR_CGROUP)?.parse::<u32>().ok());
        let sandbox_dirs: BTreeSet<u32> =
            sandbox_dirs.filter(|sandbox_dir| !taken.contains(sandbox_dir)).collect();
        let cgroups = sandbox_dirs.into_iter().map(|sandbox_dir| Cgroup {
            folders: self.named(&sandbox_dir_name(sandbox_dir)),
            amounts: None,
            sandbox_dir: None,
        });
        cgroups.filter(|cgroup| !cgroup.remove()).inspect(Cgroup::kill).collect()
    }

    /// Every attempt that has a cgroup of ours in its own name.
    pub fn leases(&self) -> BTreeSet<LeaseId> {
        self.names().iter().filter_map(|name| parse_folder_name(name)).collect()
    }

    fn names(&self) -> Vec<String> {
        let folders = self.parents.iter().flat_map(|parent| fs::read_dir(&parent.path).into_iter().flatten());
        folders.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes our own folders when nothing is in them.
    pub fn remove(&self) {
        for parent in &self.parents {
            let _ = fs::remove_dir(&parent.path);
        }
    }
}

/// Makes the folder; also when ours was removed meanwhile, as the last watchdog of a wiped data folder does.
fn make_folder(folder: &Path, parent: &Parent) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            prepare(&parent.path, parent.version)?;
            fs::create_dir(folder)
        }
        made => made,
    }
}

impl Cgroup {
    /// The files a process of one thread writes `0` into to enter. `tasks` of version 1 moves the thread that writes, for
    /// which the kernel waits for nobody; for a whole process it waits until no processor is starting another one, which on
    /// an idle machine takes some ten milliseconds.
    pub fn procs_paths(&self) -> Vec<CString> {
        let path = |(folder, version): &(PathBuf, Version)| {
            let file = if *version == Version::Two { "cgroup.procs" } else { "tasks" };
            CString::new(folder.join(file).into_os_string().into_encoded_bytes()).ok()
        };
        self.folders.iter().filter_map(path).collect()
    }

    /// Processes the kernel killed in it for memory.
    pub fn oom_kills(&self) -> u64 {
        self.folders.iter().map(|(folder, version)| oom_kills(folder, *version)).max().unwrap_or(0)
    }

    /// What its processes have used, as far as it is measured here.
    pub fn usage(&self) -> Usage {
        let meter = |version: &Version| match version {
            Version::Two => Some(Meter::All),
            Version::Memory => Some(Meter::Memory),
            // Where both controllers are mounted together.
            Version::Cpu => Some(Meter::Cpu),
            Version::Pids => None,
        };
        let meters = self.folders.iter().filter_map(|(folder, version)| Some((folder, meter(version)?)));
        meters.fold(Usage::default(), |sum, (folder, meter)| usage::or(sum, usage::read(folder, meter)))
    }

    /// Whether `usage` tells the CPU time.
    pub fn counts_cpu(&self) -> bool {
        let counts = |(folder, version): &(PathBuf, Version)| match version {
            Version::Two => true,
            Version::Cpu => folder.join("cpuacct.usage").exists(),
            Version::Memory | Version::Pids => false,
        };
        self.folders.iter().any(counts)
    }

    /// CPU time of the processes in it and of the children that they waited for, in milliseconds; of the first ones when
    /// there are many.
    pub fn cpu_ms_of_processes(&self) -> u64 {
        let pids = self.folders.first().map(|(folder, _)| processes(folder)).unwrap_or_default();
        pids.into_iter().take(limits::METERED_PROCESSES).filter_map(sys::cpu_ms).sum()
    }

    /// Its limits, when this watchdog made it.
    pub fn amounts(&self) -> Option<CgroupLimits> {
        self.amounts
    }

    /// The sandbox folder whose name it has.
    pub fn sandbox_dir(&self) -> Option<u32> {
        self.sandbox_dir
    }

    /// Makes it as good as new for another attempt; false when it must be removed instead. What only version 2 has, a
    /// peak of memory that cannot be set back, is a reason; so is memory that is still charged to it.
    pub fn renew(&self) -> bool {
        let reads = |folder: &Path, file: &str| {
            fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok())
        };
        self.folders.iter().all(|(folder, version)| match version {
            Version::Two => false,
            Version::Memory => {
                let left = reads(folder, "memory.usage_in_bytes");
                left.is_some_and(|bytes| bytes <= limits::SPARE_CGROUP_BYTES)
                    && oom_kills(folder, *version) == 0
                    && put(folder, "memory.max_usage_in_bytes", "0").is_ok()
            }
            Version::Pids => reads(folder, "pids.current") == Some(0),
            Version::Cpu => optional(put(folder, "cpuacct.usage", "0")).is_ok(),
        })
    }

    /// Whether no process is left in it.
    pub fn is_empty(&self) -> bool {
        self.folders.iter().all(|(folder, _)| processes(folder).is_empty())
    }

    /// Kills everything in it; repeat until it is empty.
    pub fn kill(&self) {
        for (folder, version) in &self.folders {
            if *version == Version::Two && fs::write(folder.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            for pid in processes(folder) {
                // Read again after the handle is open: only a process that is still in the cgroup is killed.
                if let Ok(handle) = sys::pidfd_open(pid)
                    && processes(folder).contains(&pid)
                {
                    sys::pidfd_signal(&handle, libc::SIGKILL);
                }
            }
        }
    }

    /// Removes it; false when something keeps it.
    pub fn remove(&self) -> bool {
        let gone = |folder: &PathBuf| match fs::remove_dir(folder) {
            Ok(()) => true,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        // All are tried, also after one that is kept.
        self.folders.iter().filter(|(folder, _)| !gone(folder)).count() == 0
    }
}

/// Writes into a file of a cgroup. It has to be there: asked to make one, the kernel would say that it may not be made.
fn put(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).truncate(true).open(folder.join(file))?.write_all(value.as_bytes())
}

/// Not every kernel has every file.
fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn set_limits(folder: &Path, version: Version, amounts: CgroupLimits) -> io::Result<()> {
    let CgroupLimits { memory_bytes, swap_bytes, cpu_milli, pids } = amounts;
    let put = |file: &str, value: u64| put(folder, file, &value.to_string());
    const PERIOD_US: u64 = 100_000;
    const MOST_SHARES: u64 = 262_144;
    let quota = (cpu_milli.saturating_mul(PERIOD_US) / 1000).max(1000);
    let shares = (cpu_milli.saturating_mul(1024) / 1000).clamp(2, MOST_SHARES);
    match version {
        Version::Two => {
            put("memory.max", memory_bytes.max(1))?;
            optional(put("memory.swap.max", swap_bytes))?;
            optional(put("memory.oom.group", 1))?;
            optional(put("pids.max", pids))?;
            optional(put("cpu.weight", 1 + (shares - 2) * 9999 / (MOST_SHARES - 2)))?;
            optional(self::put(folder, "cpu.max", &format!("{quota} {PERIOD_US}")))
        }
        Version::Memory => {
            let memory_bytes = memory_bytes.max(4096);
            put("memory.limit_in_bytes", memory_bytes)?;
            optional(put("memory.memsw.limit_in_bytes", memory_bytes.saturating_add(swap_bytes)))
        }
        Version::Pids => put("pids.max", pids),
        Version::Cpu => {
            optional(put("cpu.shares", shares))?;
            optional(put("cpu.cfs_quota_us", quota))
        }
    }
}

fn oom_kills(folder: &Path, version: Version) -> u64 {
    let file = match version {
        Version::Two => "memory.events",
        Version::Memory => "memory.oom_control",
        Version::Pids | Version::Cpu => return 0,
    };
    let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

fn processes(folder: &Path) -> Vec<i32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_comes_on_top_of_the_memory() {
        let amounts = CgroupLimits { memory_bytes: 1 << 20, swap_bytes: 1 << 19, cpu_milli: 1000, pids: 64 };
        let limits = |version, file: &str| {
            let folder = tempfile::tempdir().unwrap();
            assert!(
                set_limits(folder.path(), version, amounts).is_err(),
                "a memory limit that cannot be set"
            );
            // The others may be missing.
            let there =
                ["memory.max", "memory.swap.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
            for file in there {
                fs::write(folder.path().join(file), "").unwrap();
            }
            set_limits(folder.path(), version, amounts).unwrap();
            // What this kernel does not have is left out: in a cgroup no file can be made.
            assert!(!folder.path().join("cpu.max").exists());
            fs::read_to_string(folder.path().join(file)).unwrap()
        };
        assert_eq!(limits(Version::Two, "memory.swap.max"), (1 << 19).to_string());
        assert_eq!(limits(Version::Two, "memory.max"), (1 << 20).to_string());
        assert_eq!(limits(Version::Memory, "memory.memsw.limit_in_bytes"), (3 << 19).to_string());
        assert_eq!(limits(Version::Memory, "memory.limit_in_bytes"), (1 << 20).to_string());
    }

    /// As `Cgroups::find` leaves it, in a plain folder: removing one that holds something fails there too.
    fn cgroups_in(path: &Path) -> Cgroups {
        let parent = Parent { path: path.to_owned(), version: Version::Cpu };
        prepare(&parent.path, parent.version).unwrap();
        Cgroups { parents: vec![parent], problems: Vec::new() }
    }

    #[test]
    fn the_watchdog_of_a_wiped_data_folder_does_not_take_our_folder_away() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("stint-label");
        let (earlier, now) = (cgroups_in(&path), cgroups_in(&path));
        let lease = |n| LeaseId { task: stint_protocol::TaskId(n), attempt: 1 };
        let amounts = CgroupLimits { memory_bytes: 1 << 20, swap_bytes: 0, cpu_milli: 1000, pids: 64 };
        earlier.remove();
        assert!(!path.exists());
        now.create(lease(1), None, amounts).unwrap();
        // Now that an attempt is in it, it cannot go.
        earlier.remove();
        now.create(lease(2), None, amounts).unwrap();
        assert_eq!(now.leases(), BTreeSet::from([lease(1), lease(2)]));
    }

    #[test]
    fn a_cgroup_has_the_name_of_its_home_and_is_found_by_it() {
        let root = tempfile::tempdir().unwrap();
        let all = cgroups_in(&root.path().join("stint-label"));
        let lease = |n| LeaseId { task: stint_protocol::TaskId(n), attempt: 1 };
        let amounts = CgroupLimits { memory_bytes: 1 << 20, swap_bytes: 0, cpu_milli: 1000, pids: 64 };
        let first = all.create(lease(1), Some(7), amounts).unwrap();
        assert_eq!((first.sandbox_dir(), all.leases()), (Some(7), BTreeSet::new()));
        // The kernel still takes the former one apart: they do not share it.
        let second = all.create(lease(2), Some(7), amounts).unwrap();
        assert_eq!((second.sandbox_dir(), all.leases()), (None, BTreeSet::from([lease(2)])));
        let of =
            |lease, sandbox_dir| all.existing(lease, sandbox_dir).map_or(0, |cgroup| cgroup.folders.len());
        assert_eq!((of(lease(2), Some(7)), of(lease(1), Some(7)), of(lease(1), None)), (2, 1, 0));
        // What a watchdog kept and did not remove goes when the next one starts, unless an attempt may still be in it.
        assert!(all.remove_spare(&BTreeSet::from([7])).is_empty());
        assert_eq!(of(lease(1), Some(7)), 1);
        // Not even one that holds something is forgotten.
        let folder = first.folders[0].0.join("busy");
        fs::create_dir(&folder).unwrap();
        assert_eq!(all.remove_spare(&BTreeSet::new()).len(), 1);
        fs::remove_dir(&folder).unwrap();
        assert!(all.remove_spare(&BTreeSet::new()).is_empty());
        assert_eq!((of(lease(1), Some(7)), of(lease(2), None)), (0, 1));
    }

    #[test]
    fn a_cgroup_is_handed_on_only_as_good_as_new() {
        let folder = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        let reads = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        let cgroup = |version| {
            let folders = vec![(folder.path().to_owned(), version)];
            Cgroup { folders, amounts: None, sandbox_dir: Some(1) }
        };
        put("memory.usage_in_bytes", "4096\n");
        put("memory.max_usage_in_bytes", "900000\n");
        put("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        put("cpuacct.usage", "5");
        put("pids.current", "0\n");
        for version in [Version::Memory, Version::Cpu, Version::Pids] {
            assert!(cgroup(version).renew(), "{version:?}");
        }
        assert_eq!(
            (reads("memory.max_usage_in_bytes").as_str(), reads("cpuacct.usage").as_str()),
            ("0", "0")
        );
        put("pids.current", "1\n");
        assert!(!cgroup(Version::Pids).renew(), "a process is in it");
        put("memory.usage_in_bytes", "90000000\n");
        assert!(!cgroup(Version::Memory).renew(), "it holds much memory");
        put("memory.usage_in_bytes", "0\n");
        put("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        assert!(!cgroup(Version::Memory).renew(), "the next one would be told as out of memory");
        assert!(!cgroup(Version::Two).renew(), "its peak of memory stays");
    }
}
