//! What of a configuration does not fit together, and what is risky about it.

use std::path::Path;

use stint_executor::Credentials;
use stint_protocol::{Class, Network, Role, Runtime, version};
use stint_sdk::units;

use super::{Config, Origin, Problem, Severity};
use crate::limits::CLOCK_DRIFT_PERCENT;

/// Bytes of a unix socket's path (`sun_path` less its end).
const SOCKET_PATH_BYTES: usize = 107;

/// What a socket's name has more while it is made.
pub const BESIDE_SOCKET: &str = ".new/s";

impl Config {
    /// What does not fit together, and what is risky.
    pub fn check(&self) -> Vec<Problem> {
        let mut findings = Findings { config: self, problems: Vec::new() };
        check_listeners(&mut findings);
        check_certificates(&mut findings);
        check_executor(&mut findings);
        check_classes(&mut findings);
        if self.cluster.max_version < version::CURRENT {
            let max_version = self.cluster.max_version;
            let risk = format!(
                "holds the whole cluster back at {max_version}: for an upgrade only; remove it when every peer runs the new stint"
            );
            findings.warn("cluster.max_version", risk);
        }
        if self.raft.extra_sync_delay_ms > 0 {
            findings.warn("raft.extra_sync_delay_ms", "slows every commit down: for benchmarks only");
        }
        findings.problems
    }

    /// What is wrong with files of this machine that it names. Apart from [`Self::check`]: a configuration may be read
    /// elsewhere.
    pub fn check_files(&self) -> Vec<Problem> {
        let executor = &self.executor;
        let used = executor.enabled && executor.runtimes.contains(&Runtime::Docker);
        let file = executor.docker.credentials.as_ref().filter(|_| used);
        let wrong = file.and_then(|file| Credentials::read(file).err());
        wrong.map(|e| self.problem("executor.docker.credentials", e.to_string())).into_iter().collect()
    }

    /// What the leader waits beyond a lease of `ttl_ms` before it counts it as over: election timeout + drift over
    /// the lease + kill margin (docs/internals/leases.md#length-and-margin).
    pub fn lease_margin_ms(&self, ttl_ms: u64) -> u64 {
        let election = self.raft.profile.timing().election_timeout_max_ms;
        election + ttl_ms.div_ceil(100) * CLOCK_DRIFT_PERCENT + self.executor.kill_margin_ms
    }

    /// The margin that is enough for every class: the one of the longest lease.
    pub fn longest_lease_margin_ms(&self) -> u64 {
        let longest = self.classes.values().map(|rules| rules.lease_ttl_ms).max().unwrap_or(0);
        self.lease_margin_ms(longest)
    }

    /// The shortest lease that outlives one change of leader: a task may use half of its lease to stop, so in the
    /// other half a failover (two election timeouts), the drift and the kill margin must fit.
    pub fn shortest_lease_ttl_ms(&self) -> u64 {
        let failover = 2 * self.raft.profile.timing().election_timeout_max_ms;
        let needed = 2 * (failover + self.executor.kill_margin_ms);
        (needed * 100).div_ceil(100 - 2 * CLOCK_DRIFT_PERCENT)
    }
}

struct Findings<'a> {
    config: &'a Config,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    fn error(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Error, key, message.into());
    }

    fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Warning, key, message.into());
    }

    fn add(&mut self, severity: Severity, key: &str, message: String) {
        let origin = self.config.origin(key);
        self.problems.push(Problem { severity, key: key.into(), origin, message });
    }
}

fn check_listeners(findings: &mut Findings) {
    let config = findings.config;
    if let (Some(api), Some(http)) = (config.api.listen, config.http.listen) {
        let overlap = api.ip() == http.ip() || api.ip().is_unspecified() || http.ip().is_unspecified();
        if overlap && api.port() == http.port() && api.port() != 0 {
            findings
                .error("http.listen", format!("port {} is api.listen's too: give one another", api.port()));
        }
    }
    if config.http.listen.is_some_and(|http| !http.ip().is_loopback()) {
        let risk = "is plain text on a network: everyone who reaches it reads health and metrics";
        findings.warn("http.listen", risk);
    }
    check_socket(findings, "api.socket", &config.api.socket, SOCKET_PATH_BYTES);
    check_users(findings);
}

/// Tests take seconds. A year at most: what is valid for much longer counts as never to be renewed.
fn check_certificates(findings: &mut Findings) {
    let peers = &findings.config.peers;
    let (of_nodes, of_admins) = (peers.certificate_ttl_ms, peers.admin_certificate_ttl_ms);
    check_life(findings, "peers.certificate_ttl", of_nodes, true);
    check_life(findings, "peers.admin_certificate_ttl", of_admins, false);
}

fn check_life(findings: &mut Findings, key: &'static str, life: u64, is_needed_to_be_off: bool) {
    const DAY_MS: u64 = 24 * 3_600 * 1_000;
    match life {
        ..10_000 => findings.error(key, "is too short: a certificate is valid for 10 s at least"),
        _ if life > 366 * DAY_MS => findings.error(key, "is too long: 366 days at most"),
        _ if life < DAY_MS && is_needed_to_be_off => {
            findings.warn(
                key,
                "is short: a node that is off for longer needs a peer that it can reach to come back",
            );
        }
        _ => {}
    }
}

fn check_socket(findings: &mut Findings, key: &str, path: &Path, most: usize) {
    let bytes = path.as_os_str().len();
    if bytes > most {
        let length = format!("has {bytes} bytes and a unix socket's path at most {most}");
        findings.error(key, format!("{length}: set {key} to a shorter path"));
    }
}

fn check_users(findings: &mut Findings) {
    let api = &findings.config.api;
    if api.group.is_none() {
        let unused = "counts only with api.group: name the group whose members may call";
        let set = [
            ("api.users", !api.users.is_empty()),
            ("api.default_role", api.default_role.is_some()),
            ("api.default_tenant", api.default_tenant.is_some()),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).for_each(|(key, _)| findings.error(key, unused));
        return;
    }
    check_socket(findings, "api.group_socket", &api.group_socket, SOCKET_PATH_BYTES - BESIDE_SOCKET.len());
    if api.group_socket == api.socket {
        findings.error(
            "api.group_socket",
            "is api.socket, too, which only the node's user may open: give it another path",
        );
    } else if api.group_socket.starts_with(&findings.config.node.data_dir) {
        findings.error(
            "api.group_socket",
            "lies in node.data_dir, which nobody but the node's user may enter: give it another path",
        );
    }
    if api.users.is_empty() && api.default_role.is_none() {
        let risk = "is set, and nobody has a role: add lines to [api.users], or set api.default_role";
        findings.warn("api.group", risk);
    }
    if api.default_role >= Some(Role::Operator) {
        findings.warn("api.default_role", "gives every member of the group a say over all tenants");
    }
}

/// One user for all programs, and the user of each: the node cannot do both.
fn check_run_as(findings: &mut Findings) {
    let executor = &findings.config.executor;
    if executor.runs_as_users().is_none() {
        return;
    }
    let users = [
        (Runtime::Process, executor.process.confine.user),
        (Runtime::Crun, executor.crun.confine.user),
        (Runtime::Docker, executor.docker.user),
    ];
    for (runtime, _) in users.into_iter().filter(|(_, user)| user.is_some()) {
        let message = "names one user for all programs, and executor.run_as = \"user\" the user of each: take one of them out";
        findings.error(&format!("executor.{runtime}.user"), message);
    }
}

fn check_executor(findings: &mut Findings) {
    let executor = &findings.config.executor;
    if !executor.enabled {
        return;
    }
    let runs = |runtime| executor.runtimes.contains(&runtime);
    if executor.runtimes.is_empty() || executor.classes.is_empty() {
        let advice = "set executor.enabled = false for a node that runs nothing";
        findings.error("executor.runtimes", format!("no runtime or no class is left: {advice}"));
        return;
    }
    if runs(Runtime::Process) && !executor.sandbox {
        findings.warn("executor.sandbox", "is off: processes see this machine's files and network");
    }
    for (runtime, rules) in
        [(Runtime::Process, &executor.process.confine), (Runtime::Crun, &executor.crun.confine)]
    {
        if runs(runtime) && rules.network == Network::Host {
            let key = format!("executor.{runtime}.network");
            findings.warn(&key, "is the host's: tasks reach this machine's services and each other's ports");
        } else if runs(runtime) && rules.networks.contains(&Network::Host) {
            let risk = "has host: tasks that ask for it reach this machine's services and each other's ports";
            findings.warn(&format!("executor.{runtime}.networks"), risk);
        }
    }
    check_run_as(findings);
    if runs(Runtime::Mock) {
        findings.warn("executor.runtimes", "mock runs nothing: it only says so; for tests");
    }
    let docker_set = findings.config.origin("executor.docker.network") != Origin::Default
        || findings.config.origin("executor.docker.socket") != Origin::Default;
    if runs(Runtime::Docker) && docker_set && executor.docker.allowed_images.is_empty() {
        let risk = "is empty: no image may run; name those that may, for example [\"ghcr.io/team/*\"]";
        findings.warn("executor.docker.allowed_images", risk);
    }
    if runs(Runtime::Slurm) && executor.slurm.folder.is_none() {
        let advice = "is missing: name a folder that this node and Slurm's nodes see at the same path";
        findings.error("executor.slurm.folder", advice);
    }
    if runs(Runtime::Slurm) && !executor.classes.contains(&Class::GpuSlurm) {
        findings.warn("executor.classes", "has no gpu_slurm: nothing is handed to Slurm");
    }
    for class in &executor.classes {
        let rules = &findings.config.classes[class];
        if !rules.runtimes.iter().any(|runtime| runs(*runtime)) {
            let needed: Vec<&str> = rules.runtimes.iter().map(|r| r.as_str()).collect();
            let message = format!("{class} needs one of the runtimes {}; none is offered", needed.join(", "));
            findings.warn("executor.classes", message);
        }
    }
}

fn check_classes(findings: &mut Findings) {
    let shortest = findings.config.shortest_lease_ttl_ms();
    let profile = findings.config.raft.profile;
    for (class, rules) in &findings.config.classes {
        let key = |name: &str| format!("classes.{class}.{name}");
        if rules.runtimes.is_empty() {
            findings.error(&key("runtimes"), "is empty: name at least one runtime");
        }
        if rules.default_timeout_ms > rules.max_timeout_ms {
            let most = units::exact_duration(rules.max_timeout_ms);
            findings.error(&key("default_timeout"), format!("is over max_timeout ({most}): lower one"));
        }
        if rules.default_gpus > rules.max_gpus {
            findings.error(&key("max_gpus"), format!("is under default_gpus ({})", rules.default_gpus));
        }
        if rules.lease_ttl_ms < shortest {
            let margin = findings.config.executor.kill_margin_ms;
            findings.error(
                &key("lease_ttl"),
                format!(
                    "{} ms is too short: with raft.profile {} and kill_margin_ms {margin} a lease lasts at \
                     least {shortest} ms, so that a change of the leader does not kill tasks",
                    rules.lease_ttl_ms,
                    profile.as_str()
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::testing::{from_file, refusals};
    use stint_protocol::Class;

    #[test]
    fn a_lease_must_outlive_a_change_of_leader() {
        let config = from_file("");
        // 225 ms election + 1 % of 10 s + 500 ms for the kill.
        assert_eq!(config.lease_margin_ms(10_000), 825);
        // 2 × (2 × 225 + 500) / 0.98
        assert_eq!(config.shortest_lease_ttl_ms(), 1939);
        let short = "[classes.cpu_short]\nlease_ttl = \"1900ms\"";
        assert!(refusals(short, &[], &[]).contains("at least 1939 ms"));
        assert_eq!(
            from_file("[classes.cpu_short]\nlease_ttl = \"1940ms\"").classes[&Class::CpuShort].lease_ttl_ms,
            1940
        );
        for profile in ["fast", "lan", "tight", "wan"] {
            from_file(&format!("[raft]\nprofile = \"{profile}\""));
        }
    }

    #[test]
    fn risks_are_warned_of() {
        let text = "[http]\nlisten = \"0.0.0.0:9097\"\n[executor]\nsandbox = false\nruntimes = [\"process\", \"mock\"]\n\
                    classes = [\"gpu_slurm\"]\n[raft]\nextra_sync_delay_ms = 5\n";
        let problems = from_file(text).check();
        let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        let expected = [
            "http.listen",
            "executor.sandbox",
            "executor.runtimes",
            "executor.classes",
            "raft.extra_sync_delay_ms",
        ];
        assert_eq!(keys, expected);
        assert!(problems.iter().all(|p| p.severity == Severity::Warning));
    }

    #[test]
    fn a_peer_that_holds_the_cluster_back_is_warned_of() {
        let problems = from_file("[cluster]\nmax_version = 1\n").check();
        assert!(problems.len() == 1 && problems[0].key == "cluster.max_version", "{problems:?}");
        let (newest, unknown) = (version::CURRENT.0, version::CURRENT.0 + 1);
        assert!(from_file(&format!("[cluster]\nmax_version = {newest}\n")).check().is_empty());
        let refused = refusals("", &[("STINT_CLUSTER_MAX_VERSION", &unknown.to_string())], &[]);
        assert!(refused.contains(&format!("from 1 to {newest}")), "{refused}");
    }

    #[test]
    fn certificates_have_a_life_that_can_be_renewed() {
        let problems = |ttl: &str| from_file(&format!("[peers]\ncertificate_ttl = \"{ttl}\"\n")).check();
        assert!(problems("30d").is_empty() && problems("366d").is_empty());
        assert!(problems("20s").len() == 1 && problems("20s")[0].severity == Severity::Warning);
        for (ttl, said) in [("9s", "10 s at least"), ("367d", "366 days at most")] {
            for key in ["certificate_ttl", "admin_certificate_ttl"] {
                let refused = refusals(&format!("[peers]\n{key} = \"{ttl}\"\n"), &[], &[]);
                assert!(refused.contains(said), "{refused}");
            }
        }
    }

    #[test]
    fn credentials_that_others_can_read_are_refused_where_they_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, r#"{"auths":{"a.example":{"auth":"cm9ib3Q6czNjcmV0"}}}"#).unwrap();
        let protect = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let config = |runtimes: &str| {
            let file = file.display();
            from_file(&format!(
                "[executor]\nruntimes = [{runtimes}]\n[executor.docker]\ncredentials = \"{file}\"\n"
            ))
        };
        protect(0o644);
        let problems = config("\"docker\"").check_files();
        let messages: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(messages.len() == 1 && messages[0].contains("executor.docker.credentials: "), "{messages:?}");
        assert!(messages[0].contains(":4:") && messages[0].contains("chmod 600"), "{messages:?}");
        assert!(config("\"crun\"").check_files().is_empty());
        protect(0o600);
        assert!(config("\"docker\"").check_files().is_empty());
        assert!(!config("\"docker\"").to_toml().contains("cm9ib"));
        assert!(
            refusals("[executor.docker]\ncredentials = \"here.json\"\n", &[], &[])
                .contains("no absolute path")
        );
    }

    #[test]
    fn users_without_a_group_are_refused_and_a_group_without_users_is_warned_of() {
        let alice = "[api.users]\nalice = { tenant = \"p\", role = \"read\" }\n";
        let refused = refusals(alice, &[], &[]);
        assert!(refused.contains("stint.toml:1: api.users: counts only with api.group"), "{refused}");
        let keys = |text: &str| {
            let problems = from_file(text).check();
            problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&format!("[api]\ngroup = 990\n{alice}")), [""; 0]);
        assert_eq!(keys("[api]\ngroup = \"stint\"\n"), ["api.group"]);
        assert_eq!(keys("[api]\ngroup = \"stint\"\ndefault_role = \"operator\"\n"), ["api.default_role"]);
        for (path, said) in [
            ("/var/lib/stint/stint.sock", "api.socket, too"),
            ("/var/lib/stint/a/b", "nobody but the node's"),
        ] {
            let text = format!("[api]\ngroup = 990\ndefault_role = \"read\"\ngroup_socket = \"{path}\"\n");
            let refused = refusals(&text, &[], &[]);
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn a_long_socket_path_is_refused() {
        let flags = [("node.data_dir", "--data-dir", "/".to_string() + &"x".repeat(100))];
        let flags = flags.each_ref().map(|(key, flag, value)| (*key, *flag, value.as_str()));
        assert!(refusals("", &[], &flags).contains("at most 107"));
    }
}
