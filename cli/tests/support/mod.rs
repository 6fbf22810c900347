//! Whole clusters of real processes on loopback, for tests. Every process a test starts ends with it.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)] // each test file uses a part; a failed set-up fails the test

mod calls;
mod choices;
pub mod leftovers;
pub mod marks;
pub mod netns;
pub mod scrape;

use std::fs::Permissions;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub use calls::{accepted, stint, stint_at, submit};
pub use choices::{Choices, seed};
use netns::{Network, Place};
use stint_sdk::{Address, Client, Options, v1};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

pub const STINT: &str = env!("CARGO_BIN_EXE_stint");
/// How long anything in a test may take before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// One peer.
pub struct Peer {
    pub name: String,
    pub dir: PathBuf,
    pub http: u16,
    process: Option<Child>,
    /// Variables that its process gets, from its next start on.
    pub variables: Vec<(&'static str, String)>,
    /// What `ulimit` gets before its next start, where the test wants it.
    pub open_files: Option<&'static str>,
    /// Namespaces of its own, where the test wants them.
    pub place: Option<Place>,
    umask: Option<&'static str>,
    /// Its machine has the users and groups of these files, which stand for those in `/etc`.
    users: Option<PathBuf>,
}

/// A cluster and its folder. Peers first: they end before the network between them.
pub struct Cluster {
    pub peers: Vec<Peer>,
    network: Option<Network>,
    pub root: TempDir,
}

/// The folder of a cluster in which programs may write.
const SHARED: &str = "shared";

/// What a test changes of the configuration.
#[derive(Clone)]
pub struct Setup {
    pub peers: usize,
    pub lease_ttl: &'static str,
    /// GPUs of each peer, by its place.
    pub gpus: Vec<Vec<&'static str>>,
    pub runtimes: &'static str,
    pub cpus: u32,
    /// More lines for the section `[executor]`.
    pub executor: &'static str,
    /// More lines for the section `[peers]`.
    pub between_peers: &'static str,
    /// The section `[api]` of each peer, instead of one without TCP; `ROOT` in it is the cluster's folder.
    pub api: &'static str,
    /// Each peer in a pid and a network namespace of its own.
    pub namespaces: bool,
    /// Of each peer, without namespaces.
    pub umask: Option<&'static str>,
    /// The machine of each peer has the users and groups of `passwd` and `group` in the cluster's folder.
    pub users: bool,
    /// More lines for the configuration of each peer, by its place; `ROOT` in them is the cluster's folder.
    pub more: fn(usize) -> String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            peers: 3,
            lease_ttl: "4s",
            gpus: Vec::new(),
            runtimes: "\"process\", \"mock\"",
            cpus: 8,
            executor: "",
            between_peers: "",
            api: "listen = \"\"",
            namespaces: false,
            umask: None,
            users: false,
            more: |_| String::new(),
        }
    }
}

impl Cluster {
    /// A folder in which programs may write.
    pub fn shared(&self) -> PathBuf {
        self.root.path().join(SHARED)
    }

    pub async fn start(setup: Setup) -> Self {
        Self::start_in(tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap(), setup).await
    }

    /// In a folder that the test has prepared.
    pub async fn start_in(root: TempDir, setup: Setup) -> Self {
        std::fs::create_dir_all(root.path().join(SHARED)).unwrap();
        std::fs::set_permissions(root.path().join(SHARED), Permissions::from_mode(0o777)).unwrap();
        let ports = free_ports(setup.peers);
        let https = free_tcp_ports(setup.peers);
        let network = setup.namespaces.then(Network::new);
        let mut cluster = Self { peers: Vec::new(), network, root };
        let mut addresses = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let name = format!("t{}", index + 1);
            let dir = cluster.root.path().join(&name);
            std::fs::create_dir_all(&dir).unwrap();
            let place = cluster.network.as_ref().map(|network| network.place(index + 1));
            let address = match &place {
                Some(place) => format!("{}:{}", place.address, netns::PORT),
                None => format!("127.0.0.1:{port}"),
            };
            let text = config(&setup, index, &name, &dir, &address, https[index]);
            std::fs::write(dir.join("stint.toml"), text).unwrap();
            addresses.push(address);
            cluster.peers.push(Peer {
                name,
                dir,
                http: https[index],
                process: None,
                variables: Vec::new(),
                open_files: None,
                place,
                umask: setup.umask,
                users: setup.users.then(|| cluster.root.path().to_owned()),
            });
        }
        cluster.peers[0].spawn(&["--bootstrap"]);
        cluster.peers[0].ready().await;
        if setup.peers > 1 {
            let token = cluster.join_token(setup.peers as u32 - 1).await;
            for peer in &mut cluster.peers[1..] {
                peer.spawn(&["--join", &addresses[0], "--token", &token]);
            }
        }
        for peer in &mut cluster.peers {
            peer.ready().await;
        }
        cluster.all_ready().await;
        cluster
    }

    /// One more peer, not started, with the configuration of the first at a port of its own.
    pub fn another(&mut self, name: &str) -> usize {
        let (first, dir) = (&self.peers[0], self.root.path().join(name));
        let text = std::fs::read_to_string(first.dir.join("stint.toml")).unwrap();
        let http = free_tcp_ports(1)[0];
        let text = text
            .replace(&format!("\"{}\"", first.name), &format!("\"{name}\""))
            .replace(&first.dir.display().to_string(), &dir.display().to_string())
            .replace(&first.http.to_string(), &http.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("stint.toml"), text).unwrap();
        let name = name.to_owned();
        let (variables, process, umask) = (Vec::new(), None, self.peers[0].umask);
        let users = self.peers[0].users.clone();
        self.peers.push(Peer {
            name,
            dir,
            http,
            process,
            variables,
            open_files: None,
            place: None,
            umask,
            users,
        });
        let added = self.peers.len() - 1;
        self.peers[added].move_elsewhere();
        added
    }

    /// A token of the first peer for this many nodes.
    pub async fn join_token(&self, uses: u32) -> String {
        let (client, valid) = (self.client_of(0), Duration::from_secs(600));
        let made = match client.create_join_token(valid, uses).await {
            // A cluster of an older version lets in any number.
            Err(error) if error.code() == Some(tonic::Code::FailedPrecondition) => {
                client.create_join_token(valid, 0).await
            }
            made => made,
        };
        made.unwrap().token
    }

    /// A client that knows every address.
    pub fn client(&self) -> Client {
        let addresses = self.peers.iter().map(|p| Address::of_data_dir(&p.dir)).collect();
        Client::new(Options::to_any(addresses)).unwrap()
    }

    /// A client that knows one peer only.
    pub fn client_of(&self, peer: usize) -> Client {
        Client::new(Options::to(Address::of_data_dir(&self.peers[peer].dir))).unwrap()
    }

    /// Until every node reports.
    pub async fn all_ready(&self) {
        let client = self.client();
        let until = Instant::now() + PATIENCE;
        loop {
            let nodes = client.list_nodes().await.unwrap();
            // Without a leader a peer tells what it knew.
            let led = nodes.iter().any(|n| n.role == "leader");
            if led && nodes.len() == self.peers.len() && nodes.iter().all(|n| n.state == "ready") {
                return;
            }
            assert!(Instant::now() < until, "not all peers are ready: {nodes:#?}");
            sleep(LOOK_AGAIN).await;
        }
    }

    /// While this file is there, the device counts as used by what it says.
    pub fn in_use_file(&self, gpu: &str) -> PathBuf {
        in_use_file(self.root.path(), gpu)
    }

    /// The place of the leader among the peers.
    pub async fn leader(&self) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.client().cluster_status().await.unwrap();
            if let Some(leader) = status.peers.iter().find(|p| p.id == status.leader_id) {
                return self.peers.iter().position(|p| p.name == leader.name).expect("one of ours leads");
            }
            assert!(Instant::now() < until, "no peer leads: {status:#?}");
        }
    }

    /// Where other peers reach this one.
    pub fn address_of(&self, peer: usize) -> String {
        let text = std::fs::read_to_string(self.peers[peer].dir.join("stint.toml")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("advertise = \"")).unwrap();
        line.trim_end_matches('"').to_owned()
    }

    /// Until all tasks are finished; answers them.
    pub async fn finish(&self, ids: &[String], patience: Duration) -> Vec<v1::Task> {
        self.finish_with(&self.client(), ids, patience).await
    }

    /// As `finish`, by one peer.
    pub async fn finish_at(&self, peer: usize, ids: &[String]) -> Vec<v1::Task> {
        self.finish_with(&self.client_of(peer), ids, PATIENCE).await
    }

    async fn finish_with(&self, client: &Client, ids: &[String], patience: Duration) -> Vec<v1::Task> {
        let until = Instant::now() + patience;
        loop {
            let request =
                v1::WaitRequest { tasks: ids.to_vec(), timeout_ms: 5_000, ..v1::WaitRequest::default() };
            let reply = client.wait(request).await.unwrap();
            if reply.finished {
                return reply.tasks;
            }
            let open: Vec<_> = reply.tasks.iter().filter(|t| t.state != "finished").take(3).collect();
            assert!(Instant::now() < until, "tasks do not finish, for example {open:#?}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for peer in &mut self.peers {
            peer.end();
        }
    }
}

impl Peer {
    /// Nothing of it is left afterwards but its folder.
    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.start_kill();
            let until = Instant::now() + PATIENCE;
            while matches!(process.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.place = None;
        leftovers::clear(&self.dir);
    }

    pub fn spawn(&mut self, arguments: &[&str]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let umask = self.umask.map(|umask| format!("umask {umask}"));
        let limit = self.open_files.map(|limit| format!("ulimit {limit}"));
        let mut before: Vec<String> = umask.into_iter().chain(limit).collect();
        for file in ["passwd", "group"] {
            before.extend(
                self.users
                    .iter()
                    .map(|users| format!("mount --bind {} /etc/{file}", users.join(file).display())),
            );
        }
        let args = match (&self.place, before.is_empty()) {
            (Some(place), _) => place.enter(Path::new(STINT)),
            (None, true) => vec![STINT.to_owned()],
            (None, false) => {
                let script = format!("{} && exec \"$0\" \"$@\"", before.join(" && "));
                // What it mounts is seen by it and its children alone.
                let alone = ["unshare", "--mount"].into_iter().filter(|_| self.users.is_some());
                alone.chain(["sh", "-c", &script, STINT]).map(String::from).collect()
            }
        };
        let child = Command::new(&args[0])
            .args(&args[1..])
            .arg("node")
            .arg("--config")
            .arg(self.dir.join("stint.toml"))
            .args(arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.process = Some(child.unwrap());
    }

    /// The node's process, as the machine counts.
    pub fn pid(&self) -> Option<u32> {
        let started = self.process.as_ref().and_then(|p| p.id());
        if self.place.is_some() { started.map(Place::inside) } else { started }
    }

    /// Changes its configuration, from its next start on.
    pub fn edit(&self, old: &str, new: &str) {
        let file = self.dir.join("stint.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{old:?} is not in\n{text}");
        std::fs::write(&file, text.replacen(old, new, 1)).unwrap();
    }

    /// From its next start on it listens at another address, which is the answer.
    pub fn move_elsewhere(&self) -> String {
        let file = self.dir.join("stint.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let port = text.lines().find_map(|line| line.strip_prefix("listen = \"127.0.0.1:")).unwrap();
        let old = format!("127.0.0.1:{}", port.trim_end_matches('"'));
        let new = format!("127.0.0.1:{}", free_ports(1)[0]);
        std::fs::write(&file, text.replace(&old, &new)).unwrap();
        new
    }

    pub async fn ready(&mut self) {
        let until = Instant::now() + PATIENCE;
        let client = Client::new(Options {
            try_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(2),
            ..Options::to(Address::of_data_dir(&self.dir))
        });
        let client = client.unwrap();
        loop {
            if let Some(Ok(Some(status))) = self.process.as_mut().map(|p| p.try_wait()) {
                panic!("peer {} ended ({status}):\n{}", self.name, self.log());
            }
            if self.dir.join("stint.sock").exists()
                && client.cluster_status().await.is_ok_and(|seen| seen.leader_id != 0)
            {
                return;
            }
            assert!(Instant::now() < until, "peer {} does not answer:\n{}", self.name, self.log());
            sleep(LOOK_AGAIN).await;
        }
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) {
        let Some(pid) = self.pid() else { return };
        signal(pid, "KILL");
        self.exit().await;
    }

    /// As an operator stops it; returns when the process is gone. What it runs goes on until its leases end.
    pub async fn stop(&mut self) {
        let Some(pid) = self.pid() else { return };
        signal(pid, "TERM");
        self.exit().await;
    }

    /// Its disk is another one: all is gone but the configuration.
    pub fn wipe(&self) {
        leftovers::clear(&self.dir);
        for entry in std::fs::read_dir(&self.dir).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => std::fs::remove_dir_all(path).unwrap(),
                false if path.ends_with("stint.toml") => {}
                false => std::fs::remove_file(path).unwrap(),
            }
        }
    }

    /// Whether its process is there.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// The exit status of a peer that ends by itself.
    pub async fn exit(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("the peer runs");
        let ended = tokio::time::timeout(PATIENCE, process.wait()).await;
        ended.unwrap_or_else(|_| panic!("the peer does not end: {}", self.log())).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Beside the data folder, whose disk may be full.
    pub fn log_file(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// What it said so far; from now on `log` tells only what comes later.
    pub fn log_and_forget(&self) -> String {
        let said = self.log();
        std::fs::remove_file(self.log_file()).unwrap();
        said
    }
}

/// Sends a signal to a process this test started.
pub fn signal(pid: u32, name: &str) {
    let status =
        std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

fn free_ports(count: usize) -> Vec<u16> {
    let sockets: Vec<UdpSocket> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    sockets.iter().map(|s| s.local_addr().unwrap().port()).collect()
}

fn free_tcp_ports(count: usize) -> Vec<u16> {
    let bind = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets: Vec<std::net::TcpListener> = (0..count).map(bind).collect();
    sockets.iter().map(|s| s.local_addr().unwrap().port()).collect()
}

fn in_use_file(root: &Path, gpu: &str) -> PathBuf {
    root.join(format!("{gpu}.in-use"))
}

fn config(setup: &Setup, index: usize, name: &str, dir: &Path, address: &str, http: u16) -> String {
    let dir_of_all = dir.parent().unwrap();
    let (dir, runtimes, cpus) = (dir.display(), setup.runtimes, setup.cpus);
    let api = setup.api.replace("ROOT", &dir_of_all.display().to_string());
    let mut text = format!(
        "[node]\nname = \"{name}\"\ndata_dir = \"{dir}\"\n\
         [peers]\nlisten = \"{address}\"\nadvertise = \"{address}\"\n{}\n\
         [api]\n{api}\n[http]\nlisten = \"127.0.0.1:{http}\"\n\
         [executor]\nruntimes = [{runtimes}]\ncpus = {cpus}\nmemory = \"16GiB\"\n",
        setup.between_peers
    );
    text += setup.executor;
    match setup.gpus.get(index) {
        Some(gpus) if !gpus.is_empty() => {
            for id in gpus {
                let file = in_use_file(dir_of_all, id);
                let file = file.display();
                text += &format!(
                    "[[executor.gpu]]\nid = \"{id}\"\nmodel = \"Test GPU\"\nmemory = \"80GiB\"\nin_use_file = \"{file}\"\n"
                );
            }
        }
        _ => text += "gpus = \"none\"\n",
    }
    let shared = dir_of_all.join(SHARED);
    text += &format!("[executor.process]\nwritable = [\"{}\"]\n", shared.display());
    for class in ["cpu_short", "cpu_long", "gpu"] {
        let ttl = setup.lease_ttl;
        text += &format!(
            "[classes.{class}]\nruntimes = [\"process\", \"crun\", \"docker\", \"mock\"]\nlease_ttl = \"{ttl}\"\n"
        );
    }
    text + &(setup.more)(index).replace("ROOT", &dir_of_all.display().to_string())
}

/// The watchdog of a peer, by the peer's place. Inits and monitors have its command line too: they are its children.
pub fn watchdog_of(cluster: &Cluster, peer: usize) -> u32 {
    let pattern = format!("stint shim --data-dir {}", cluster.peers[peer].dir.display());
    let output = std::process::Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout);
    let all: Vec<u32> = listed.lines().map(|pid| pid.parse().unwrap()).collect();
    let parent = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok())
    };
    let is_first = |pid: &&u32| parent(pid).is_some_and(|parent| !all.contains(&parent));
    *all.iter().find(is_first).expect("a watchdog")
}
