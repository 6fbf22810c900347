//! How the limits of a task are shown, and what an attempt used.

use stint_sdk::api::{Limits, Usage};
use stint_sdk::units;

/// Limits on one line, in the order of the flags.
pub fn limits_line(limits: &Limits) -> String {
    let size = |bytes: Option<u64>| bytes.map(units::show_bytes);
    let named = [
        ("pids", limits.pids.map(|pids| pids.to_string())),
        ("network", limits.network.clone()),
        ("tmp", size(limits.tmp_bytes)),
        ("shm", size(limits.shm_bytes)),
        ("swap", size(limits.swap_bytes)),
        ("workdir", limits.working_dir.clone()),
    ];
    let mounts = limits.mounts.iter().map(|mount| ("mount", Some(mount.to_string())));
    line(named.into_iter().chain(mounts))
}

/// Usage on one line; what is not known is left out.
pub fn usage_line(usage: &Usage) -> String {
    let size = |bytes: Option<u64>| bytes.map(units::show_bytes);
    line([
        ("CPU", usage.cpu_ms.map(units::show_duration)),
        ("memory", size(usage.peak_memory_bytes)),
        ("read", size(usage.read_bytes).filter(|_| usage.read_bytes != Some(0))),
        ("written", size(usage.written_bytes).filter(|_| usage.written_bytes != Some(0))),
    ])
}

fn line<'a>(named: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let known = named.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    known.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_usage_are_shown_on_one_line() {
        let limits = Limits {
            pids: Some(20),
            shm_bytes: Some(1 << 30),
            network: Some("none".into()),
            mounts: vec!["/data:/in:rw".parse().unwrap()],
            ..Limits::default()
        };
        assert_eq!(limits_line(&limits), "pids 20, network none, shm 1GiB, mount /data:/in:rw");
        let usage = Usage {
            cpu_ms: Some(1500),
            peak_memory_bytes: Some(64 << 20),
            read_bytes: Some(0),
            written_bytes: None,
        };
        assert_eq!(usage_line(&usage), "CPU 1.5s, memory 64MiB");
    }
}
