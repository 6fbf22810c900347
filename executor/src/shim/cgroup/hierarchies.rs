//! The hierarchies of cgroups on this host: which are used, where attempts go in them, and what they are given there.

use std::fs;
use std::io;
use std::path::Path;

use super::put;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// All controllers in one hierarchy.
    Two,
    /// One controller of version 1.
    Memory,
    Pids,
    Cpu,
}

/// The mount points to use: version 2 when it has the memory controller, else the hierarchies of version 1.
pub fn hierarchies(mounts: &str) -> Vec<(&str, Version)> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = fields[..] else { continue };
        let has = |controller: &str| options.split(',').any(|o| o == controller);
        match kind {
            "cgroup2" => {
                let controllers =
                    fs::read_to_string(Path::new(mount).join("cgroup.controllers")).unwrap_or_default();
                if controllers.split_whitespace().any(|c| c == "memory") {
                    return vec![(mount, Version::Two)];
                }
            }
            "cgroup" if has("memory") => found.push((mount, Version::Memory)),
            "cgroup" if has("pids") => found.push((mount, Version::Pids)),
            "cgroup" if has("cpu") => found.push((mount, Version::Cpu)),
            _ => {}
        }
    }
    found
}

/// This process's own cgroup in a hierarchy, without the leading `/`. In version 2 attempts go beside it, since a
/// cgroup that hands controllers on may not hold processes itself.
pub fn own_group(own: &str, version: Version) -> String {
    let controller = match version {
        Version::Two => "",
        Version::Memory => "memory",
        Version::Pids => "pids",
        Version::Cpu => "cpu",
    };
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|c| c == controller).then_some(path)
    });
    let path = path.unwrap_or("/").trim_start_matches('/');
    match version {
        Version::Two => path.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned(),
        _ => path.to_owned(),
    }
}

pub fn prepare(path: &Path, version: Version) -> io::Result<()> {
    if version == Version::Two {
        let parent = path.parent().unwrap_or(path);
        hand_on_controllers(parent)?;
        fs::create_dir_all(path)?;
        return hand_on_controllers(path);
    }
    fs::create_dir_all(path)
}

/// Memory is a must; without `io` the bytes of attempts are not known.
fn hand_on_controllers(path: &Path) -> io::Result<()> {
    hand_on(path, "+memory")?;
    for controller in ["+pids", "+cpu", "+io"] {
        let _ = hand_on(path, controller);
    }
    Ok(())
}

/// Also through the cgroups above, where nobody needed the controller yet: a login session is given none but memory and
/// pids.
fn hand_on(path: &Path, controller: &str) -> io::Result<()> {
    let hand = || put(path, "cgroup.subtree_control", controller);
    match (hand(), path.parent()) {
        (Err(e), Some(above))
            if e.kind() == io::ErrorKind::NotFound && above.join("cgroup.subtree_control").exists() =>
        {
            hand_on(above, controller)?;
            hand()
        }
        (result, _) => result,
    }
}

/// The controllers of limits that a cgroup of version 2 is not given.
pub fn lacking(path: &Path) -> Vec<&'static str> {
    let given = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    ["pids", "cpu"].into_iter().filter(|wanted| !given.split_whitespace().any(|c| c == *wanted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_version_1_are_found_in_a_hybrid_layout() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n\
                      cgroup /c/cpuacct cgroup rw,cpuacct 0 0\ncgroup /c/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /c/none cgroup2 rw 0 0\n";
        assert_eq!(hierarchies(mounts), [("/c/memory", Version::Memory), ("/c/cpu", Version::Cpu)]);
    }

    #[test]
    fn attempts_go_under_our_own_group_or_beside_it_in_version_2() {
        let own = "8:pids:/\n4:memory:/a/b\n0::/system.slice/stint.service\n";
        assert_eq!(own_group(own, Version::Memory), "a/b");
        assert_eq!(own_group(own, Version::Pids), "");
        assert_eq!(own_group(own, Version::Two), "system.slice");
    }

    #[test]
    fn a_cgroup_without_a_controller_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(lacking(folder.path()), ["pids", "cpu"]);
        fs::write(folder.path().join("cgroup.controllers"), "cpuset memory pids\n").unwrap();
        assert_eq!(lacking(folder.path()), ["cpu"]);
    }
}
