//! A pid and network namespace for each peer, and a network between them that no other process sees.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Namespaces are there within this, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where peers listen, each in its own network.
pub const PORT: u16 = 7001;

/// The network between the peers: a bridge in a namespace of its own. Gone when dropped.
pub struct Network {
    hub: Child,
}

/// Where one peer lives: everything in it ends with it.
pub struct Place {
    /// Parent of the namespaces' init; the kernel ends the init with it.
    keeper: Child,
    init: u32,
    pub address: String,
}

/// Why tests with namespaces cannot run here; none when they can.
pub fn missing() -> Option<String> {
    let possible =
        Command::new("unshare").args(["--net", "--pid", "--fork", "--mount-proc", "true"]).output();
    let ip = Command::new("ip").arg("-V").output();
    match (possible, ip) {
        (Ok(output), Ok(_)) if output.status.success() => None,
        (Ok(output), Ok(_)) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        _ => Some("unshare (util-linux) and ip (iproute2) are needed".into()),
    }
}

impl Network {
    pub fn new() -> Self {
        let hub = quiet("unshare").args(["--net", "sleep", "infinity"]).spawn().unwrap();
        let network = Self { hub };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", network.hub.id());
        until("the network's namespace", || std::fs::read_link(&path).is_ok_and(|ns| ns != own));
        network.ip(&["link", "add", "bridge", "type", "bridge"]);
        network.ip(&["link", "set", "bridge", "up"]);
        network
    }

    fn ip(&self, args: &[&str]) {
        done(Command::new("nsenter").args(["-t", &self.hub.id().to_string(), "-n", "ip"]).args(args));
    }

    /// A new place, the `number`th from 1, connected to the others.
    pub fn place(&self, number: usize) -> Place {
        // An init that does nothing but collect the dead.
        let init = "while :; do sleep 3600; done";
        let args = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", init];
        let keeper = quiet("unshare").args(args).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", keeper.id());
        let child = || std::fs::read_to_string(&children).ok()?.trim().parse().ok();
        until("the peer's namespaces", || child().is_some());
        let init = child().unwrap();
        Place { keeper, init, address: self.connect(init, number) }
    }

    /// Connects the network namespace of a process to the others; its address there.
    pub fn connect(&self, pid: u32, number: usize) -> String {
        let (link, address) = (format!("peer{number}"), address(number));
        self.ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid.to_string()]);
        self.ip(&["link", "set", &link, "master", "bridge", "up"]);
        ip_of(pid, &["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip_of(pid, &["link", "set", "eth0", "up"]);
        ip_of(pid, &["link", "set", "lo", "up"]);
        address
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.hub.kill();
        let _ = self.hub.wait();
    }
}

impl Place {
    /// The words that run a program in here.
    pub fn enter(&self, program: &Path) -> Vec<String> {
        let args = ["nsenter", "-t", &self.init.to_string(), "-n", "-p", "-m", "--"];
        args.into_iter().map(str::to_owned).chain([program.display().to_string()]).collect()
    }

    /// The program that `nsenter` of this pid runs in here, as the machine counts.
    pub fn inside(nsenter: u32) -> u32 {
        let children = format!("/proc/{nsenter}/task/{nsenter}/children");
        let child = || std::fs::read_to_string(&children).ok()?.trim().parse().ok();
        until("the peer in its namespaces", || child().is_some());
        child().unwrap()
    }

    /// Whether both are namespaces other than this process's own.
    pub fn is_apart(&self) -> bool {
        let of = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let init = self.init.to_string();
        ["net", "pid", "mnt"].iter().all(|kind| of(&init, kind) != of("self", kind))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The address of the `number`th place.
fn address(number: usize) -> String {
    format!("10.77.0.{number}")
}

fn ip_of(pid: u32, args: &[&str]) {
    done(Command::new("nsenter").args(["-t", &pid.to_string(), "-n", "ip"]).args(args));
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} do not come up");
        std::thread::sleep(Duration::from_millis(2));
    }
}
