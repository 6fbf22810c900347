//! What the defaults depend on: this machine's name, size, user and addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// What the defaults depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub hostname: String,
    pub cores: u64,
    pub memory_bytes: u64,
    /// Where a node keeps its data unless told otherwise.
    pub data_dir: PathBuf,
    /// Addresses of its own that other machines may reach.
    pub addresses: Vec<Ipv4Addr>,
}

impl Machine {
    /// This machine, as far as `/proc`, the control group and the variables tell.
    pub fn detect(env: &BTreeMap<String, String>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let total = number_after(&read("/proc/meminfo"), "MemTotal:").map_or(1 << 30, |kib| kib * 1024);
        let allowed = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
        Self {
            hostname: Some(read("/proc/sys/kernel/hostname").trim().to_string())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "localhost".into()),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: total.min(allowed),
            data_dir: default_data_dir(env),
            addresses: own_addresses(&read("/proc/net/fib_trie"), &bridged(&read("/proc/net/route"))),
        }
    }
}

/// Where a node keeps its data unless told otherwise: `/var/lib/stint` for root, else below the home folder.
pub fn default_data_dir(env: &BTreeMap<String, String>) -> PathBuf {
    data_dir_for(rustix::process::geteuid().is_root(), env)
}

fn data_dir_for(root: bool, env: &BTreeMap<String, String>) -> PathBuf {
    let set = |name: &str| env.get(name).filter(|v| v.starts_with('/')).map(PathBuf::from);
    if root {
        return "/var/lib/stint".into();
    }
    let share = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    share.unwrap_or_else(|| "/var/lib".into()).join("stint")
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Networks, with their masks, that lie behind a bridge of this machine's containers and virtual machines: nobody else
/// reaches an address in them. From lines `INTERFACE DESTINATION GATEWAY FLAGS … MASK`, numbers in this machine's order.
fn bridged(routes: &str) -> Vec<(u32, u32)> {
    let of_a_bridge = |name: &str| {
        ["docker", "br-", "virbr", "cni", "podman", "lxcbr", "veth"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(|n| u32::from_be_bytes(n.to_ne_bytes()));
    let network = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, .., mask, _, _, _] = fields[..] else { return None };
        let (destination, mask) = (number(destination)?, number(mask)?);
        (of_a_bridge(name) && mask != 0).then_some((destination, mask))
    };
    routes.lines().skip(1).filter_map(network).collect()
}

/// Addresses that the kernel's routing table marks as local, without loopback and those behind bridges.
fn own_addresses(fib_trie: &str, bridged: &[(u32, u32)]) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            let behind =
                |a: &Ipv4Addr| bridged.iter().any(|(network, mask)| u32::from(*a) & mask == *network);
            found.extend(last.filter(|a| !a.is_loopback() && !behind(a)));
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::variables;

    #[test]
    fn a_user_keeps_data_at_home() {
        let home = variables(&[("HOME", "/home/u")]);
        assert_eq!(data_dir_for(false, &home).to_str(), Some("/home/u/.local/share/stint"));
        let xdg = variables(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "/data")]);
        assert_eq!(data_dir_for(false, &xdg).to_str(), Some("/data/stint"));
    }

    #[test]
    fn own_addresses_are_read_from_the_routing_table() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.9\n        \
                    /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        \
                    /32 host LOCAL\n     |-- 10.0.0.9\n        /32 host LOCAL\n";
        assert_eq!(own_addresses(trie, &[]), [Ipv4Addr::new(10, 0, 0, 9)]);
        let routes = format!(
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t{0:08X}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             docker0\t{1:08X}\t00000000\t0001\t0\t0\t0\t{2:08X}\t0\t0\t0\n",
            u32::from_ne_bytes([10, 0, 0, 1]),
            u32::from_ne_bytes([10, 0, 0, 0]),
            u32::from_ne_bytes([255, 255, 0, 0]),
        );
        let behind = bridged(&routes);
        assert_eq!(behind, [(u32::from(Ipv4Addr::new(10, 0, 0, 0)), 0xffff_0000)]);
        assert_eq!(own_addresses(trie, &behind), [] as [Ipv4Addr; 0]);
    }
}
