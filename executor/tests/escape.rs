//! What a task must not be able to do, tried by real tasks (rows R3b and S1.4 of docs/working-on/requirements.md). Each
//! try succeeds without a sandbox, so that it can fail with one; then it fails as a process, with crun and in Docker.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use stint_executor::{Host, LogStream};
use stint_protocol::Runtime;
use support::{Client, Rig, launch, odd_seconds, processes_with, spec, wait_until};

const IMAGE: &str = "stint-test/busybox:1";
/// A device number that is no other test's: reading from it gives zeros.
const DEVICE: &str = "/dev/nvidia250";
const SHARED_MEMORY: &str = "/proc/sysvipc/shm";

/// Things of the host that are not a task's.
struct World {
    folder: PathBuf,
    victim: Child,
    port: TcpListener,
    /// Of the victim's environment.
    word: String,
    memory: SharedMemory,
}

/// A System V segment that everybody may read.
struct SharedMemory {
    id: String,
    /// As `/proc/sysvipc/shm` has it.
    key: String,
}

impl SharedMemory {
    fn new() -> Self {
        let made = Command::new("ipcmk").args(["-M", "4096", "-p", "0666"]).output().unwrap();
        let id = String::from_utf8_lossy(&made.stdout).split_whitespace().last().unwrap().to_owned();
        let list = std::fs::read_to_string(SHARED_MEMORY).unwrap();
        let mut lines = list.lines().map(|line| line.split_whitespace());
        let key =
            lines.find_map(|mut columns| Some((columns.next()?, columns.next()?)).filter(|(_, i)| *i == id));
        Self { key: key.unwrap().0.to_owned(), id }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let _ = Command::new("ipcrm").args(["-m", &self.id]).status();
    }
}

impl World {
    fn new() -> Self {
        // Not in /tmp, which is hidden; visible to crun without an image.
        let folder = PathBuf::from(format!("/opt/stint-canary-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("open")).unwrap();
        let put = |name: &str, mode| {
            std::fs::set_permissions(folder.join(name), Permissions::from_mode(mode)).unwrap();
        };
        put("open", 0o777);
        std::fs::write(folder.join("secret"), "secret").unwrap();
        put("secret", 0o600);
        std::fs::copy("/usr/bin/id", folder.join("id")).unwrap();
        put("id", 0o4755);
        std::fs::copy("/usr/bin/true", folder.join("plain")).unwrap();
        put(".", 0o755);
        let word = format!("CANARY_{}", odd_seconds());
        // Of the user that tasks have: only not being seen protects it.
        let victim = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "600"])
            .env("STINT_TEST_VICTIM", &word)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Command::new("mknod").args(["-m", "666", DEVICE, "c", "1", "5"]).status().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { folder, victim, port, word, memory: SharedMemory::new() }
    }

    /// What is tried, and how: the script ends well when it got through.
    fn attempts(&self, rig: &Rig) -> Vec<(&'static str, String)> {
        let (folder, victim) = (self.folder.display(), self.victim.id());
        let port = self.port.local_addr().unwrap().port();
        let executor = rig.executor();
        let (executor, tmp) = (executor.display(), std::env::temp_dir());
        let word = &self.word;
        let connect = format!(
            "if [ -x /bin/bash ]; then bash -c ': </dev/tcp/127.0.0.1/{port}'; else nc -w 1 127.0.0.1 {port} </dev/null; fi"
        );
        vec![
            ("read a file of mode 0600", format!("[ $(cat {folder}/secret) = secret ]")),
            ("write in a folder open to everybody", format!("echo x >{folder}/open/$$")),
            ("see what lies in the host's /tmp", format!("ls {} | grep -q stint-x", tmp.display())),
            ("become root by a set-user-id program", format!("[ $({folder}/id -u) = 0 ]")),
            ("make a user namespace", "unshare -Ur true".into()),
            ("mount", "unshare -m mount -t tmpfs none /mnt".into()),
            ("make a device file", "mknod ./device c 1 5 && head -c 1 ./device >/dev/null".into()),
            ("signal a process of its own user", format!("kill -0 {victim}")),
            ("read the environment of others", format!("grep -q {word} /proc/[0-9]*/environ")),
            (
                "trace a process of others",
                format!("head -c 1 /proc/{victim}/mem /proc/{victim}/maps | grep -q ."),
            ),
            ("reach a port of the host", connect),
            ("look into the folders of others", format!("ls {executor}/homes {executor}/attempts")),
            ("start more processes than it may", fork(120)),
            ("open a GPU of another attempt", format!("[ $(head -c 1 {DEVICE} | wc -c) = 1 ]")),
            ("find shared memory of others", format!("grep -q '^ *{} ' {SHARED_MEMORY}", self.memory.key)),
            (
                "have a capability, or get one",
                "grep -E '^Cap' /proc/self/status | grep -qv 0000000000000000".into(),
            ),
        ]
    }
}

/// Starts so many children at once; the shell ends with an error when it cannot.
fn fork(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do sleep 20 & i=$((i+1)); done")
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(DEVICE);
    }
}

/// Runs a script; what it wrote.
async fn run(client: &mut Client, runtime: Runtime, script: &str) -> String {
    let mut spec = spec(&["/bin/sh", "-c", script]);
    spec.image = (runtime == Runtime::Docker).then(|| IMAGE.to_owned());
    let launch = launch(spec, runtime);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let mut text = format!("{end:?}\n");
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        let chunk = client.host.read_log(lease, stream, 0, 10_000).await;
        text += &chunk.map(|c| String::from_utf8_lossy(&c.bytes).into_owned()).unwrap_or_default();
    }
    text
}

/// Tries everything; gives what got through with `wanted` false, what did not with `wanted` true.
async fn unexpected(rig: &Rig, client: &mut Client, runtime: Runtime, wanted: bool) -> Vec<String> {
    let world = World::new();
    let mut unexpected = Vec::new();
    for (name, script) in world.attempts(rig) {
        let text = run(client, runtime, &format!("{{ {script}; }} && echo GOT THROUGH; echo tried")).await;
        // A task that could not even try proves nothing. One that cannot fork ends before it can say so.
        assert!(text.contains("tried") || text.to_lowercase().contains("fork"), "{name}: {text}");
        if text.contains("GOT THROUGH") != wanted {
            unexpected.push(format!("{name}: {text}"));
        }
    }
    unexpected
}

fn is_root() -> bool {
    let own = std::fs::metadata("/proc/self").unwrap();
    std::os::unix::fs::MetadataExt::uid(&own) == 0
}

/// All in one test: the device and the folder in /opt are shared by its parts.
#[tokio::test]
async fn what_gets_through_without_a_sandbox_does_not_with_one() {
    if !is_root() {
        println!("SKIPPED what_gets_through_without_a_sandbox_does_not_with_one: needs root");
        return;
    }
    let open = Rig::new(false);
    let mut client = open.open().await;
    let failed = unexpected(&open, &mut client, Runtime::Process, true).await;
    assert!(failed.is_empty(), "these do not even work unsandboxed: {failed:#?}");

    let mut rig = Rig::new(true);
    rig.settings.runtimes = vec![Runtime::Process, Runtime::Crun, Runtime::Docker];
    rig.settings.docker.allowed_images = vec!["stint-test/*".into()];
    rig.settings.process.writable.clear();
    rig.settings.docker.bounds.pids = 64;
    rig.settings.crun.confine.bounds.pids = 64;
    rig.settings.process.confine.bounds.pids = 64;
    let mut client = rig.open().await;
    for (runtime, usable) in client.host.health().runtimes {
        usable.unwrap_or_else(|why| panic!("{runtime}: {why}"));
        let through = unexpected(&rig, &mut client, runtime, false).await;
        assert!(through.is_empty(), "{runtime}: {through:#?}");
    }
}

/// Two attempts at once: neither sees the other's port, files in `/tmp` or memory.
#[tokio::test]
async fn attempts_do_not_see_each_other() {
    if !is_root() {
        println!("SKIPPED attempts_do_not_see_each_other: needs root");
        return;
    }
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let server = "import socket,time\n\
                  open('/tmp/mine','w').write('x'); open('/dev/shm/mine','w').write('x')\n\
                  s=socket.socket(); s.bind(('127.0.0.1',80)); s.listen()\n\
                  print('listens',flush=True); time.sleep(60)";
    let visitor = "import os,socket\n\
                   print([os.path.exists(p) for p in ('/tmp/mine','/dev/shm/mine')])\n\
                   s=socket.socket(); print(s.connect_ex(('127.0.0.1',80))==0)\n\
                   t=socket.socket(); t.bind(('127.0.0.1',80)); print('bound')";
    for runtime in [Runtime::Process, Runtime::Crun] {
        let waits = launch(spec(&["python3", "-c", server]), runtime);
        let lease = waits.lease;
        client.host.start(waits);
        client.started(lease).await;
        client.until_output(lease, "listens").await;
        let text = run(&mut client, runtime, &format!("python3 -c \"{visitor}\"")).await;
        assert!(text.contains("[False, False]\nFalse\nbound\n"), "{runtime}: {text}");
        client.host.stop(lease, stint_executor::StopReason::Cancelled);
        client.end(lease).await;
        // The next attempt of the same slot finds the network as new.
        let text = run(&mut client, runtime, &format!("python3 -c \"{visitor}\"")).await;
        assert!(text.contains("[False, False]\nFalse\nbound\n"), "{runtime}: {text}");
    }
}

/// System V segments and POSIX queues belong to no process: on the host they stay.
#[tokio::test]
async fn shared_memory_and_queues_go_with_their_attempt() {
    if !is_root() || !Path::new("/usr/bin/python3").exists() {
        println!("SKIPPED shared_memory_and_queues_go_with_their_attempt: needs root and python3");
        return;
    }
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let key = 0x5719_0000 + (std::process::id() & 0xffff);
    let queue = format!("/stint-test-{}", std::process::id());
    let program = |made: &str| {
        let (flags, mode) = if made == "made" { ("0o100", "0o1666") } else { ("0", "0") };
        format!(
            "import ctypes\nc=ctypes.CDLL('librt.so.1')\n\
             print('{made}',c.shmget({key},4096,{mode})>=0,c.mq_open(b'{queue}',{flags}|2,0o666,None)>=0)"
        )
    };
    for runtime in [Runtime::Process, Runtime::Crun] {
        let first = run(&mut client, runtime, &format!("python3 -c \"{}\"", program("made"))).await;
        let next = run(&mut client, runtime, &format!("python3 -c \"{}\"", program("found"))).await;
        let of_host = std::fs::read_to_string(SHARED_MEMORY).unwrap();
        let left = of_host.lines().any(|line| line.split_whitespace().next() == Some(&key.to_string()));
        // What a broken sandbox leaves is no other test's.
        let _ = Command::new("ipcrm").args(["-M", &format!("{key:#x}")]).stderr(Stdio::null()).status();
        assert!(first.contains("made True True\n"), "{runtime}: {first}");
        assert!(next.contains("found False False\n"), "{runtime}: {next}");
        assert!(!left, "{runtime}: {of_host}");
    }
}

/// A network namespace does not hold back sockets to a hypervisor. The answer is the one of a kernel without them.
#[tokio::test]
async fn there_is_no_way_to_a_hypervisor() {
    if !is_root() || !Path::new("/usr/bin/python3").exists() {
        println!("SKIPPED there_is_no_way_to_a_hypervisor: needs root and python3");
        return;
    }
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let program = "import ctypes\nc=ctypes.CDLL(None,use_errno=True)\n\
                   print('vsock',c.socket(40,1,0),ctypes.get_errno())";
    for runtime in [Runtime::Process, Runtime::Crun] {
        let text = run(&mut client, runtime, &format!("python3 -c \"{program}\"")).await;
        assert!(text.contains(&format!("vsock -1 {}\n", libc::ENOSYS)), "{runtime}: {text}");
    }
}

#[tokio::test]
async fn daemons_do_not_outlive_their_container() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    if let Err(why) = &client.host.health().runtimes[&Runtime::Crun] {
        println!("SKIPPED daemons_do_not_outlive_their_container: {why}");
        return;
    }
    let word = odd_seconds();
    let script =
        format!("setsid sleep {word} </dev/null >/dev/null 2>&1 & sleep 0.2; ps -C sleep | grep -c sleep");
    let text = run(&mut client, Runtime::Crun, &script).await;
    assert!(text.ends_with("1\n"), "it ran: {text}");
    wait_until("the daemon is gone", || processes_with(&format!("sleep\0{word}")).is_empty()).await;
}

/// Programs as people run them: threads, processes, asynchronous I/O, terminals, shared memory.
#[tokio::test]
async fn ordinary_programs_work_confined() {
    if !is_root() || !Path::new("/usr/bin/python3").exists() {
        println!("SKIPPED ordinary_programs_work_confined: needs root and python3");
        return;
    }
    let program = "import asyncio,concurrent.futures as f,mmap,multiprocessing as m,os,pty,select,socket,subprocess,tempfile,threading\n\
        t=threading.Thread(target=print,args=('thread',)); t.start(); t.join()\n\
        assert list(f.ThreadPoolExecutor(8).map(abs,range(-50,0)))[0]==50\n\
        assert m.Pool(2).map(abs,[-1,-2])==[1,2]\n\
        os.ftruncate(os.memfd_create('x'),4096); e=select.epoll(); e.close()\n\
        assert subprocess.run(['ls','-l','/proc/self'],capture_output=True).returncode==0\n\
        a,b=socket.socketpair(); a.send(b'x'); assert b.recv(1)==b'x'\n\
        with tempfile.TemporaryFile() as x: x.write(b'x'*4096); x.flush(); mmap.mmap(x.fileno(),4096)\n\
        async def go():\n  await asyncio.sleep(0.01); p=await asyncio.create_subprocess_exec('true'); return await p.wait()\n\
        assert asyncio.run(go())==0\n\
        open('file','w').write('x'); os.rename('file','other'); os.statvfs('.'); print(os.stat('other').st_size)\n\
        print(socket.create_server(('127.0.0.1',0)).getsockname()[0])";
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    for runtime in [Runtime::Process, Runtime::Crun] {
        let text = run(&mut client, runtime, &format!("python3 - <<'END'\n{program}\nEND\n")).await;
        assert!(text.contains("Exited(0)") && text.contains("thread\n1\n127.0.0.1\n"), "{runtime}: {text}");
        let text = run(
            &mut client,
            runtime,
            "echo | sort | tar -cf - /etc/hostname 2>/dev/null | wc -c; dpkg -l >/dev/null && echo dpkg",
        )
        .await;
        assert!(text.contains("dpkg") || runtime == Runtime::Crun, "{runtime}: {text}");
    }
}
