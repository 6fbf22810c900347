//! A configuration as a file that reads back to the same, each value with where it came from (`--print-config`).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use stint_executor::{Bounds, ConfineSettings, FixedGpu};
use stint_protocol::{Class, ClassRules, GpuInfo};
use stint_sdk::units;
use toml::Value;

use super::{Config, Gpus, SlurmConfig};

impl Config {
    /// Every effective value as a configuration file, with its origin as a comment.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = String::new();
        for (key, value) in self.rendered() {
            let (of, name) = key.rsplit_once('.').unwrap_or(("", &key));
            if of != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{of}]{}", section_note(of));
                section = of.to_string();
            }
            let _ = writeln!(text, "{name} = {value}  # {}", self.origin(&key));
        }
        text
    }

    fn rendered(&self) -> Vec<(String, String)> {
        let mut rows = self.rendered_services();
        rows.extend(self.rendered_executor());
        rows.extend(self.rendered_blobs());
        rows.push(("cluster.name".into(), quote(&self.cluster.name)));
        rows.push(("cluster.max_version".into(), self.cluster.max_version.0.to_string()));
        for (class, rules) in &self.classes {
            rows.extend(rendered_rules(*class, rules));
        }
        rows
    }

    fn rendered_services(&self) -> Vec<(String, String)> {
        let optional = |address: Option<SocketAddr>| address.map_or_else(String::new, |a| a.to_string());
        let rows = [
            ("node.name", quote(&self.node.name)),
            ("node.data_dir", quote(self.node.data_dir.to_string_lossy())),
            ("peers.listen", quote(self.peers.listen.to_string())),
            ("peers.advertise", quote(&self.peers.advertise)),
            ("api.listen", quote(optional(self.api.listen))),
            ("api.socket", quote(self.api.socket.to_string_lossy())),
            ("http.listen", quote(optional(self.http.listen))),
            ("log.format", quote(self.log.format.as_str())),
            ("log.filter", quote(&self.log.filter)),
            ("raft.profile", quote(self.raft.profile.as_str())),
            ("raft.snapshot_every_entries", self.raft.snapshot_every_entries.to_string()),
            ("raft.extra_sync_delay_ms", self.raft.extra_sync_delay_ms.to_string()),
        ];
        owned(rows)
    }

    fn rendered_executor(&self) -> Vec<(String, String)> {
        let e = &self.executor;
        let d = &e.docker;
        let gpus = match &e.gpus {
            Gpus::Auto => ("executor.gpus", quote("auto")),
            Gpus::None => ("executor.gpus", quote("none")),
            Gpus::Listed(list) => ("executor.gpu", inline_list(list.iter().map(rendered_gpu))),
        };
        let labels = e.labels.iter().map(|(k, v)| format!("{} = {}", quote(k), quote(v)));
        let rows = [
            ("executor.enabled", e.enabled.to_string()),
            ("executor.classes", inline_list(e.classes.iter().map(|c| quote(c.as_str())))),
            ("executor.runtimes", inline_list(e.runtimes.iter().map(|r| quote(r.as_str())))),
            ("executor.sandbox", e.sandbox.to_string()),
            ("executor.cpus", units::show_cpus(e.cpu_milli)),
            ("executor.memory", quote(units::exact_bytes(e.memory_bytes))),
            ("executor.slots", e.slots.to_string()),
            gpus,
            ("executor.labels", format!("{{ {} }}", labels.collect::<Vec<_>>().join(", "))),
            ("executor.crun_path", quote(e.crun_path.to_string_lossy())),
            ("executor.max_log_bytes", e.max_log_bytes.to_string()),
            ("executor.kill_margin_ms", e.kill_margin_ms.to_string()),
            ("executor.docker.socket", quote(d.socket.to_string_lossy())),
            ("executor.docker.allowed_images", inline_list(d.allowed_images.iter().map(quote))),
            ("executor.docker.require_digest", d.require_digest.to_string()),
            ("executor.docker.pull", quote(d.pull.as_str())),
            ("executor.docker.network", quote(&d.network)),
            ("executor.docker.user", quote(format!("{}:{}", d.user.0, d.user.1))),
        ];
        let mut rows = owned(rows);
        let file = d.credentials.as_ref().map(|file| quote(file.to_string_lossy()));
        rows.extend(file.map(|file| ("executor.docker.credentials".into(), file)));
        rows.extend(rendered_bounds("docker", &d.bounds));
        let roots = e.artifact_roots.iter().map(|root| quote(root.to_string_lossy()));
        rows.push(("artifacts.roots".into(), inline_list(roots)));
        let dir = e.secrets_dir.as_ref().map(|dir| ("secrets.dir".into(), quote(dir.to_string_lossy())));
        rows.extend(dir);
        for (key, folders) in [("readable", &e.mounts.readable), ("writable", &e.mounts.writable)] {
            let folders = inline_list(folders.iter().map(|folder| quote(folder.to_string_lossy())));
            rows.push((format!("executor.mounts.{key}"), folders));
        }
        rows.extend(rendered_slurm(&e.slurm));
        rows.extend(rendered_confine("crun", ("roots", &e.crun.roots), &e.crun.confine));
        rows.extend(rendered_confine("process", ("writable", &e.process.writable), &e.process.confine));
        rows
    }
}

fn rendered_slurm(slurm: &SlurmConfig) -> Vec<(String, String)> {
    let paths = [("folder", &slurm.folder), ("bin", &slurm.bin), ("conf", &slurm.conf)];
    let row = |key: &str, value: String| (format!("executor.slurm.{key}"), value);
    let paths =
        paths.into_iter().filter_map(|(key, path)| Some((key, quote(path.as_ref()?.to_string_lossy()))));
    let mut rows: Vec<(String, String)> = paths.map(|(key, value)| row(key, value)).collect();
    rows.push(row("submit_options", inline_list(slurm.submit_options.iter().map(quote))));
    rows.extend(slurm.user.map(|(uid, gid)| row("user", quote(format!("{uid}:{gid}")))));
    rows.push(row("poll", quote(units::exact_duration(slurm.poll_ms))));
    rows
}

impl Config {
    fn rendered_blobs(&self) -> Vec<(String, String)> {
        let blobs = &self.blobs;
        let time = |time: Duration| quote(units::exact_duration(time.as_millis() as u64));
        let size = |bytes: u64| quote(units::exact_bytes(bytes));
        owned([
            ("blobs.copies", blobs.copies.to_string()),
            ("blobs.max_size", size(blobs.disk.max_size)),
            ("blobs.reserve", size(blobs.disk.reserve)),
            ("blobs.sweep_after", time(blobs.sweep_after)),
            ("blobs.heal_after", time(blobs.heal_after)),
            ("blobs.keep_files", time(blobs.keep_files)),
            ("blobs.max_unpacked", size(blobs.max_unpacked)),
            ("blobs.keep_unpacked", time(blobs.keep_unpacked)),
        ])
    }
}

fn rendered_confine(
    runtime: &str,
    (name, folders): (&str, &[PathBuf]),
    rules: &ConfineSettings,
) -> Vec<(String, String)> {
    let rows = [
        (name, inline_list(folders.iter().map(|folder| quote(folder.to_string_lossy())))),
        ("user", quote(format!("{}:{}", rules.user.0, rules.user.1))),
        ("network", quote(rules.network.as_str())),
        ("networks", inline_list(rules.networks.iter().map(|network| quote(network.as_str())))),
    ];
    let own = rows.into_iter().map(|(key, value)| (format!("executor.{runtime}.{key}"), value));
    own.chain(rendered_bounds(runtime, &rules.bounds)).collect()
}

fn rendered_bounds(runtime: &str, bounds: &Bounds) -> Vec<(String, String)> {
    let rows = [
        ("pids", bounds.pids.to_string()),
        ("tmp_size", quote(units::exact_bytes(bounds.tmp_bytes))),
        ("shm_size", quote(units::exact_bytes(bounds.shm_bytes))),
        ("swap", quote(units::exact_bytes(bounds.swap_bytes))),
    ];
    rows.into_iter().map(|(key, value)| (format!("executor.{runtime}.{key}"), value)).collect()
}

fn section_note(section: &str) -> &'static str {
    match section {
        "cluster" => "  # name: used at bootstrap only",
        _ if section.starts_with("classes.") => "  # used at bootstrap only; replicated from then on",
        _ => "",
    }
}

fn rendered_gpu(gpu: &FixedGpu) -> String {
    let FixedGpu { info: GpuInfo { id, model, memory_bytes, index }, in_use_file } = gpu;
    let memory = quote(units::exact_bytes(*memory_bytes));
    let (id, model) = (quote(id.as_str()), quote(model));
    let file = in_use_file.as_ref().map(|file| format!(", in_use_file = {}", quote(file.to_string_lossy())));
    let file = file.unwrap_or_default();
    format!("{{ id = {id}, model = {model}, memory = {memory}, index = {index}{file} }}")
}

fn rendered_rules(class: Class, rules: &ClassRules) -> Vec<(String, String)> {
    let rows = [
        ("runtimes", inline_list(rules.runtimes.iter().map(|r| quote(r.as_str())))),
        ("default_timeout", quote(units::exact_duration(rules.default_timeout_ms))),
        ("max_timeout", quote(units::exact_duration(rules.max_timeout_ms))),
        ("default_cpus", units::show_cpus(u64::from(rules.default_cpu_milli))),
        ("default_memory", quote(units::exact_bytes(rules.default_memory_bytes))),
        ("default_gpus", rules.default_gpus.to_string()),
        ("max_gpus", rules.max_gpus.to_string()),
        ("lease_ttl", quote(units::exact_duration(rules.lease_ttl_ms))),
    ];
    rows.into_iter().map(|(key, value)| (format!("classes.{class}.{key}"), value)).collect()
}

fn owned<const N: usize>(rows: [(&str, String); N]) -> Vec<(String, String)> {
    rows.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

fn quote(text: impl AsRef<str>) -> String {
    Value::from(text.as_ref()).to_string()
}

fn inline_list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use crate::config::testing::from_file;

    #[test]
    fn what_is_printed_reads_back() {
        let text = "[node]\nname = \"n1\"\n[[executor.gpu]]\nid = \"GPU-1\"\nmodel = \"H200\"\nmemory = \"139GiB\"\n\
                    [artifacts]\nroots = [\"/data/in\"]\n[secrets]\ndir = \"/etc/stint/secrets\"\n\
                    [executor.labels]\nzone = \"a\"\n\"odd key\" = \"q\\\"\"\n[classes.gpu]\nmax_gpus = 4\n\
                    [executor.crun]\nnetworks = [\"none\", \"host\"]\ntmp_size = \"1GiB\"\n[executor.docker]\nswap = \"2GiB\"\ncredentials = \"/etc/stint/docker-config.json\"\n";
        let config = from_file(text);
        let printed = config.to_toml();
        assert!(
            printed.contains("[classes.gpu]  # used at bootstrap only; replicated from then on\n"),
            "{printed}"
        );
        assert!(
            printed.contains("stint.toml:2\n") && printed.contains("profile = \"fast\"  # default\n"),
            "{printed}"
        );
        let mut again = from_file(&printed);
        again.origins = config.origins.clone();
        assert_eq!(again, config);
    }
}
