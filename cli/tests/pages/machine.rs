//! Machines for a page: each is a shell in namespaces of its own, whose root is the host's with a layer of its own above
//! it. What it writes is gone with it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::netns::{self, Network};

/// The longest that the commands of one block may take.
const BLOCK: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Makes the root and takes blocks from standard input, one after another. `$1`: its folder, `$2`: its name.
const SHELL: &str = r#"
set -e
folder=$1 name=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/{upper,work,root}
root=$folder/root
mount -t overlay overlay -o lowerdir=/,upperdir="$folder/upper",workdir="$folder/work" "$root"
for shared in dev sys run tmp; do mount --rbind "/$shared" "$root/$shared"; done
if [ "$$" = 1 ]; then mount -t proc proc "$root/proc"; else mount --rbind /proc "$root/proc"; fi
hostname "$name"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
for number in 1 2 3; do printf '10.77.0.%s gpu-%s\n' "$number" "$number" >>"$root/etc/hosts"; done
cd "$root"
pivot_root . .
umount -l .
mkdir -p /root/page
cd /root/page
export HOME=/root
set +e -o pipefail
while read -r block; do
    : >"$block.failed"
    trap 'echo "$BASH_COMMAND" >>"$block.failed"' ERR
    source "$block.sh" >"$block.out" 2>&1 </dev/null
    code=$?
    trap - ERR
    echo "$code" >"$block.code.new"
    mv "$block.code.new" "$block.code"
done
"#;

/// One machine.
pub struct Machine {
    shell: Child,
    /// Of the files between the shell and the test.
    folder: PathBuf,
    cgroups: Vec<PathBuf>,
    blocks: usize,
}

/// What became of a block.
pub struct Outcome {
    pub code: i32,
    /// Both outputs, as a terminal shows them.
    pub printed: String,
    /// Commands that failed.
    pub failed: Vec<String>,
}

/// The machines of a page, and the network between them.
pub struct Machines {
    pub machines: Vec<Machine>,
    _network: Network,
    pub root: TempDir,
}

impl Machines {
    /// So many machines. `shares_pids`: they see the host's processes, as the monitors of Docker containers need.
    pub fn start(count: usize, shares_pids: bool, path: &Path) -> Self {
        let root = tempfile::Builder::new().prefix("stint-page-").tempdir().expect("a folder");
        // Programs of tasks run as other users.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(root.path(), everybody).expect("its mode");
        let network = Network::new();
        let machines = (1..=count).map(|number| {
            let machine = Machine::start(root.path(), number, shares_pids, path);
            network.connect(machine.init(), number);
            machine
        });
        Self { machines: machines.collect(), _network: network, root }
    }
}

impl Machine {
    fn start(root: &Path, number: usize, shares_pids: bool, path: &Path) -> Self {
        let folder = root.join(format!("machine-{number}"));
        let layers = root.join(format!("layers-{number}"));
        for folder in [&folder, &layers] {
            fs::create_dir(folder).expect("a folder");
        }
        let cgroups = own_cgroups(&format!("stint-page-{}-{number}", std::process::id()));
        // Into its cgroups first: all that it starts is found there, and nodes of several machines share none.
        let enter: String =
            cgroups.iter().map(|cgroup| format!("echo $$ >{}/cgroup.procs; ", cgroup.display())).collect();
        let pids = if shares_pids { "" } else { "--pid --fork --kill-child" };
        let script = format!(
            "{enter}exec unshare --mount --net --uts --ipc {pids} bash -c \"$1\" stint-page \"$2\" \"$3\""
        );
        let search =
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", path.display());
        let shell = Command::new("bash")
            .args(["-c", &script, "enter", SHELL])
            .arg(&layers)
            .arg(format!("gpu-{number}"))
            .env_clear()
            .env("PATH", search)
            .env("LANG", "C.UTF-8")
            .env("STINT_REPOSITORY", Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell");
        let mut machine = Self { shell, folder, cgroups, blocks: 0 };
        let ready = machine.run(&format!("test \"$(hostname)\" = gpu-{number}"));
        assert_eq!(ready.code, 0, "machine {number} does not come up: {}", ready.printed);
        machine
    }

    /// A process in its namespaces.
    fn init(&self) -> u32 {
        let own = fs::read_link("/proc/self/ns/net").expect("own namespace");
        let apart = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns != own);
        // With a pid namespace the shell is the child of `unshare`.
        let shell = self.shell.id();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        [shell]
            .into_iter()
            .chain(children)
            .find(|pid| apart(*pid))
            .expect("a shell with a network of its own")
    }

    /// Starts a block.
    fn begin(&mut self, script: &str) -> PathBuf {
        self.blocks += 1;
        let block = self.folder.join(format!("block-{}", self.blocks));
        fs::write(block.with_extension("sh"), script).expect("the block's file");
        let stdin = self.shell.stdin.as_mut().expect("the shell's input");
        writeln!(stdin, "{}", block.display()).expect("the shell takes blocks");
        block
    }

    /// Runs a block to its end.
    pub fn run(&mut self, script: &str) -> Outcome {
        let block = self.begin(script);
        let until = Instant::now() + BLOCK;
        let code = block.with_extension("code");
        while !code.exists() {
            let printed = fs::read_to_string(block.with_extension("out")).unwrap_or_default();
            assert!(Instant::now() < until, "no end after {BLOCK:?} of\n{script}\nIt printed:\n{printed}");
            let ended = self.shell.try_wait().expect("the shell's state");
            assert!(ended.is_none(), "the shell ended ({ended:?}) in\n{script}\nIt printed:\n{printed}");
            std::thread::sleep(LOOK_AGAIN);
        }
        let read = |extension| fs::read_to_string(block.with_extension(extension)).unwrap_or_default();
        // The trap tells of the block itself, too.
        let failed =
            read("failed").lines().map(str::to_owned).filter(|line| !line.starts_with("source ")).collect();
        Outcome { code: read("code").trim().parse().expect("an exit code"), printed: read("out"), failed }
    }

    /// Starts what runs on, and waits until the peer of this machine answers.
    pub fn run_on(&mut self, script: &str) -> Outcome {
        let log = self.folder.join(format!("peer-{}.log", self.blocks + 1));
        let file = log.display();
        // Pages that look at a node's log find that of the first one here.
        let link = format!("[ -e node.log ] || ln -s {file} node.log");
        let answers = until("stint cluster status >/dev/null");
        let mut outcome = self.run(&format!("{{\n{script}\n}} >{file} 2>&1 &\n{link}\n{answers}\n"));
        outcome.printed += &fs::read_to_string(log).unwrap_or_default();
        outcome
    }
}

/// Commands that wait until one of them succeeds, for half a minute.
pub fn until(command: &str) -> String {
    format!(
        "until {{ {command}; }} 2>/dev/null || ((++waited > 300)); do sleep 0.1; done; waited=0; {command}"
    )
}

impl Drop for Machine {
    fn drop(&mut self) {
        for _ in 0..100 {
            let pids: Vec<String> = self.cgroups.iter().flat_map(|cgroup| processes(cgroup)).collect();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                // It may be gone already.
                let _ = Command::new("kill").args(["-KILL", &pid]).output();
            }
            let _ = self.shell.try_wait();
            std::thread::sleep(LOOK_AGAIN);
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        self.cgroups.iter().for_each(|cgroup| remove(cgroup));
    }
}

/// A cgroup below this process's own in each hierarchy in which nodes make some.
fn own_cgroups(name: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroups");
    let mut made = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let wanted = |c: &str| ["memory", "pids", "cpu"].contains(&c);
        if controllers.split(',').any(wanted) {
            made.push(
                Path::new("/sys/fs/cgroup").join(controllers).join(path.trim_start_matches('/')).join(name),
            );
        } else if controllers.is_empty() && Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            made.push(Path::new("/sys/fs/cgroup").join(name));
        }
    }
    made.iter().for_each(|cgroup| fs::create_dir(cgroup).expect("a cgroup"));
    made
}

fn below(cgroup: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn processes(cgroup: &Path) -> Vec<String> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let own = own.lines().map(str::to_owned).collect::<Vec<_>>();
    own.into_iter().chain(below(cgroup).flat_map(|child| processes(&child))).collect()
}

fn remove(cgroup: &Path) {
    below(cgroup).for_each(|child| remove(&child));
    netns::until("the end of a machine's cgroup", || fs::remove_dir(cgroup).is_ok() || !cgroup.exists());
}
