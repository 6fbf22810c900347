//! The demo's processes: three `stint node` on loopback, each with a folder of its own.

use std::fs::{DirBuilder, Permissions};
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use stint_sdk::{Address, Client, Options, v1};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;

/// How long a peer may take to come up.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a peer may take to stop when asked.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One peer.
pub struct Peer {
    pub name: String,
    pub dir: PathBuf,
    process: Option<Child>,
}

/// Three of them.
pub struct Cluster {
    pub root: PathBuf,
    pub peers: Vec<Peer>,
}

impl Cluster {
    /// The folder in which programs may write.
    pub fn shared(&self) -> PathBuf {
        self.root.join("shared")
    }

    /// Founds a cluster with the first peer; the others join by token.
    pub async fn start(root: &Path) -> Result<Self, Failure> {
        let ports = free_ports(3)?;
        let mut cluster = Self { root: root.into(), peers: Vec::new() };
        let shared = cluster.shared();
        // Programs run as another user when this is root.
        std::fs::create_dir_all(&shared).map_err(Failure::Start)?;
        std::fs::set_permissions(&shared, Permissions::from_mode(0o777)).map_err(Failure::Start)?;
        for (index, port) in ports.iter().enumerate() {
            let name = format!("demo-{}", index + 1);
            let dir = root.join(&name);
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Failure::Start)?;
            std::fs::write(dir.join("stint.toml"), config(&name, &dir, &cluster.shared(), *port))
                .map_err(Failure::Start)?;
            cluster.peers.push(Peer { name, dir, process: None });
        }
        cluster.peers[0].spawn(&["--bootstrap"])?;
        cluster.peers[0].ready().await?;
        let token = cluster
            .client_of(0)?
            .create_join_token(Duration::from_secs(600), cluster.peers.len() as u32)
            .await?
            .token;
        let file = root.join("join-token");
        write_secret(&file, &token).map_err(Failure::Start)?;
        let (first, file) = (format!("127.0.0.1:{}", ports[0]), file.display().to_string());
        for peer in &mut cluster.peers[1..] {
            peer.spawn(&["--join", &first, "--token-file", &file])?;
        }
        for peer in &mut cluster.peers {
            peer.ready().await?;
        }
        Ok(cluster)
    }

    /// A client that knows every peer.
    pub fn client(&self) -> Result<Client, Failure> {
        let addresses = self.peers.iter().map(|p| Address::of_data_dir(&p.dir)).collect();
        Ok(Client::new(Options::to_any(addresses))?)
    }

    /// A client that knows one peer only.
    pub fn client_of(&self, peer: usize) -> Result<Client, Failure> {
        Ok(Client::new(Options::to(Address::of_data_dir(&self.peers[peer].dir)))?)
    }

    /// What `--address` takes to reach any of them.
    pub fn addresses(&self) -> String {
        let one = |p: &Peer| format!("unix:{}", p.dir.join("stint.sock").display());
        self.peers.iter().map(one).collect::<Vec<_>>().join(",")
    }

    /// The process id of a peer that runs.
    pub fn some_pid(&self) -> u32 {
        self.peers.iter().filter_map(|p| p.process.as_ref()?.id()).next_back().unwrap_or_default()
    }

    /// Waits until every node reports and may get work.
    pub async fn all_ready(&self) -> Result<Vec<v1::Node>, Failure> {
        let client = self.client()?;
        let until = Instant::now() + START_DEADLINE;
        loop {
            let nodes = client.list_nodes().await?;
            if nodes.len() == self.peers.len() && nodes.iter().all(|n| n.state == "ready") {
                return Ok(nodes);
            }
            if Instant::now() >= until {
                let states: Vec<String> = nodes.iter().map(|n| format!("{} {}", n.name, n.state)).collect();
                return Err(Failure::Failed(format!("not all peers are ready: {}", states.join(", "))));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks every peer to stop, and waits for it.
    pub async fn stop(&mut self) {
        for peer in &mut self.peers {
            peer.stop().await;
        }
    }
}

/// Writes a file that only its owner can read.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

impl Peer {
    /// Starts the process; its messages go to `log` in its folder.
    pub fn spawn(&mut self, arguments: &[&str]) -> Result<(), Failure> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log"));
        let log = log.map_err(Failure::Start)?;
        let program = std::env::current_exe().map_err(Failure::Start)?;
        let child = Command::new(program)
            .arg("node")
            .arg("--config")
            .arg(self.dir.join("stint.toml"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which then ends its peers.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        self.process = Some(child.map_err(Failure::Start)?);
        Ok(())
    }

    /// Waits until the peer answers.
    pub async fn ready(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + START_DEADLINE;
        let client = Client::new(Options {
            try_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(2),
            ..Options::to(Address::of_data_dir(&self.dir))
        })?;
        loop {
            if let Some(Ok(Some(status))) = self.process.as_mut().map(|p| p.try_wait()) {
                return Err(Failure::Failed(format!(
                    "peer {} ended ({status}):\n{}",
                    self.name,
                    self.last_words()
                )));
            }
            if self.dir.join("stint.sock").exists()
                && client.cluster_status().await.is_ok_and(|seen| seen.leader_id != 0)
            {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Failure::Failed(format!(
                    "peer {} does not answer:\n{}",
                    self.name,
                    self.last_words()
                )));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// SIGKILL, as a crash would do it.
    pub async fn kill(&mut self) -> Result<u32, Failure> {
        let Some(mut process) = self.process.take() else { return Ok(0) };
        let pid = process.id().unwrap_or_default();
        process.kill().await.map_err(Failure::Start)?;
        Ok(pid)
    }

    async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let asked = process.id().is_some_and(|pid| terminate(pid).is_ok());
        if !asked || tokio::time::timeout(STOP_DEADLINE, process.wait()).await.is_err() {
            // It is ours and did not stop: ended the hard way, which is always safe.
            let _ = process.kill().await;
        }
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

fn terminate(pid: u32) -> std::io::Result<()> {
    let status = std::process::Command::new("kill").arg("-TERM").arg(pid.to_string()).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other("kill failed")) }
}

/// Free UDP ports of loopback, held together until all are chosen.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let bind = |_| UdpSocket::bind("127.0.0.1:0");
    let sockets: Vec<UdpSocket> = (0..count).map(bind).collect::<Result<_, _>>().map_err(Failure::Start)?;
    let port = |s: &UdpSocket| s.local_addr().map(|a| a.port());
    sockets.iter().map(port).collect::<Result<_, _>>().map_err(Failure::Start)
}

/// Loopback only, process runtime on for every class, short leases so that a loss is made good soon.
fn config(name: &str, dir: &Path, shared: &Path, port: u16) -> String {
    let (dir, shared) = (dir.display(), shared.display());
    let mut text = format!(
        r#"# Made by `stint demo`. The process runtime is on here, for every class; it is off by default.
[node]
name = "{name}"
data_dir = "{dir}"
[peers]
listen = "127.0.0.1:{port}"
advertise = "127.0.0.1:{port}"
[api]
listen = ""
[http]
listen = ""
[executor]
runtimes = ["process"]
cpus = 8
memory = "8GiB"
gpus = "auto"
[executor.process]
writable = ["{shared}"]
[cluster]
name = "demo"
"#
    );
    for class in ["cpu_short", "cpu_long", "gpu"] {
        text += &format!(
            "[classes.{class}]\nruntimes = [\"process\", \"crun\", \"docker\"]\nlease_ttl = \"6s\"\n"
        );
    }
    text
}
