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
}

impl From<v1::TaskLimits> for LimitsView {
    fn from(limits: v1::TaskLimits) -> Self {
        let v1::TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir } = limits;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let (network, working_dir) = (some(network), some(working_dir));
        Self { pids, network, tmp_bytes, shm_bytes, swap_bytes, working_dir }
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
        let said = words.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
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
