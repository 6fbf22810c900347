//! Limits of a task, its network and its working directory: flags, keys of a task file, and how they are shown.

use clap::Args;
use serde::Serialize;
use stint_sdk::{units, v1};

/// The flags; each wins over the task file's key of its name.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Processes and threads, 16 at least [default: what the node gives]
    #[arg(long, value_name = "N")]
    pub pids: Option<u32>,
    /// Network: none, or host where the node allows it [default: what the node gives, mostly none]
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Size of /tmp; what is in it counts as memory
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub tmp_size: Option<u64>,
    /// Size of /dev/shm; what is in it counts as memory
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub shm_size: Option<u64>,
    /// Swap beyond the memory, where the node allows it [default: none]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub swap: Option<u64>,
    /// Where the program starts: an absolute path as it sees it, or one below its work folder, which is made
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// A folder or file of the node, for reading or, with :rw, for writing, where the node allows it
    #[arg(long = "mount", value_name = "SOURCE[:TARGET][:rw]", value_parser = parse_mount)]
    pub mounts: Vec<v1::HostMount>,
}

/// `SOURCE[:TARGET][:rw]`; what paths may be is the cluster's to say.
pub fn parse_mount(text: &str) -> Result<v1::HostMount, String> {
    let (paths, writable) = match text.strip_suffix(":rw") {
        Some(paths) => (paths, true),
        None => (text.strip_suffix(":ro").unwrap_or(text), false),
    };
    match paths.split(':').collect::<Vec<&str>>()[..] {
        [source] if !source.is_empty() => {
            Ok(v1::HostMount { source: source.into(), target: String::new(), writable })
        }
        [source, target] if !source.is_empty() && !target.is_empty() => {
            Ok(v1::HostMount { source: source.into(), target: target.into(), writable })
        }
        _ => Err(format!("{text:?} is no mount: write SOURCE[:TARGET][:rw], for example /data/sets:/in")),
    }
}

fn mount_words(mount: &v1::HostMount) -> String {
    let target = if mount.target.is_empty() { String::new() } else { format!(":{}", mount.target) };
    format!("{}{target}{}", mount.source, if mount.writable { ":rw" } else { "" })
}

impl Limits {
    /// These, and where they say nothing, `below`.
    pub fn over(self, below: Limits) -> Limits {
        Limits {
            pids: self.pids.or(below.pids),
            network: self.network.or(below.network),
            tmp_size: self.tmp_size.or(below.tmp_size),
            shm_size: self.shm_size.or(below.shm_size),
            swap: self.swap.or(below.swap),
            workdir: self.workdir.or(below.workdir),
            mounts: if self.mounts.is_empty() { below.mounts } else { self.mounts },
        }
    }

    /// None when nothing was said.
    pub fn into_request(self) -> Option<v1::TaskLimits> {
        let said = self != Limits::default();
        said.then(|| v1::TaskLimits {
            pids: self.pids,
            swap_bytes: self.swap,
            tmp_bytes: self.tmp_size,
            shm_bytes: self.shm_size,
            network: self.network.unwrap_or_default(),
            working_dir: self.workdir.unwrap_or_default(),
            mounts: self.mounts,
        })
    }
}

/// As a task was submitted with them.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsView {
    pub pids: Option<u32>,
    pub network: Option<String>,
    pub tmp_bytes: Option<u64>,
    pub shm_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub working_dir: Option<String>,
    /// As they are written on the command line.
    pub mounts: Vec<String>,
}

impl From<v1::TaskLimits> for LimitsView {
    fn from(limits: v1::TaskLimits) -> Self {
        let v1::TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts } = limits;
        let mounts = mounts.iter().map(mount_words).collect();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let (network, working_dir) = (some(network), some(working_dir));
        Self { pids, network, tmp_bytes, shm_bytes, swap_bytes, working_dir, mounts }
    }
}

impl LimitsView {
    /// In words, in the order of the flags.
    pub fn words(&self) -> String {
        let size = |bytes: Option<u64>| bytes.map(units::show_bytes);
        let words = [
            ("pids", self.pids.map(|pids| pids.to_string())),
            ("network", self.network.clone()),
            ("tmp", size(self.tmp_bytes)),
            ("shm", size(self.shm_bytes)),
            ("swap", size(self.swap_bytes)),
            ("workdir", self.working_dir.clone()),
        ];
        let mounts = self.mounts.iter().map(|mount| ("mount", Some(mount.clone())));
        let said =
            words.into_iter().chain(mounts).filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        said.collect::<Vec<_>>().join(", ")
    }
}

/// What an attempt used.
#[derive(Clone, Debug, Serialize)]
pub struct UsageView {
    pub cpu_ms: Option<u64>,
    pub peak_memory_bytes: Option<u64>,
    pub read_bytes: Option<u64>,
    pub written_bytes: Option<u64>,
}

impl From<v1::Usage> for UsageView {
    fn from(usage: v1::Usage) -> Self {
        let v1::Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes } = usage;
        Self { cpu_ms, peak_memory_bytes, read_bytes, written_bytes }
    }
}

impl UsageView {
    /// In words; what is not known is left out.
    pub fn words(&self) -> String {
        let size = |bytes: Option<u64>| bytes.map(units::show_bytes);
        let words = [
            ("CPU", self.cpu_ms.map(units::show_duration)),
            ("memory", size(self.peak_memory_bytes)),
            ("read", size(self.read_bytes).filter(|_| self.read_bytes != Some(0))),
            ("written", size(self.written_bytes).filter(|_| self.written_bytes != Some(0))),
        ];
        let said = words.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        said.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_one_by_one() {
        let flags = Limits { pids: Some(20), ..Limits::default() };
        let file = Limits { pids: Some(30), workdir: Some("src".into()), ..Limits::default() };
        let request = flags.over(file).into_request().unwrap();
        assert_eq!((request.pids, request.working_dir.as_str()), (Some(20), "src"));
        assert_eq!(Limits::default().into_request(), None, "what is unsaid is left to the node");
    }

    #[test]
    fn mounts_are_read_as_they_are_shown() {
        for text in ["/data", "/data:/in", "/data:rw", "/data:/in:rw"] {
            assert_eq!(mount_words(&parse_mount(text).unwrap()), text);
        }
        assert_eq!(mount_words(&parse_mount("/data:/in:ro").unwrap()), "/data:/in");
        for wrong in ["", ":", "/data:", ":/in", "/a:/b:/c", "/a:/b:rw:rw"] {
            assert!(parse_mount(wrong).unwrap_err().contains("SOURCE[:TARGET][:rw]"), "{wrong}");
        }
        let mounts = |text: &str| vec![parse_mount(text).unwrap()];
        let (flags, file) = (mounts("/a"), mounts("/b"));
        let with = |mounts| Limits { mounts, ..Limits::default() };
        assert_eq!(with(flags.clone()).over(with(file.clone())).mounts, flags);
        assert_eq!(Limits::default().over(with(file.clone())).into_request().unwrap().mounts, file);
    }

    #[test]
    fn limits_and_usage_are_shown_in_words() {
        let limits = v1::TaskLimits {
            pids: Some(20),
            shm_bytes: Some(1 << 30),
            network: "none".into(),
            ..v1::TaskLimits::default()
        };
        assert_eq!(LimitsView::from(limits).words(), "pids 20, network none, shm 1GiB");
        let usage = v1::Usage {
            cpu_ms: Some(1500),
            peak_memory_bytes: Some(64 << 20),
            read_bytes: Some(0),
            written_bytes: None,
        };
        assert_eq!(UsageView::from(usage).words(), "CPU 1.5s, memory 64MiB");
    }
}
