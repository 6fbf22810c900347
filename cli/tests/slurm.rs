//! Tasks handed to a real Slurm, through the real binary: how they end, who ends them, and what becomes of them when the
//! node or Slurm's controller is killed. Slurm is installed by `.ci/prepare`, and started here by `.ci/slurm`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stint_sdk::v1;
use support::{Cluster, PATIENCE, Setup, accepted, stint, submit};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// A Slurm cluster of two nodes on this machine. Ends with the test.
struct Slurm {
    dir: TempDir,
}

impl Slurm {
    fn start(min_job_age_s: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("st-slurm-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let slurm = Self { dir };
        slurm.control("start", min_job_age_s);
        slurm
    }

    fn control(&self, action: &str, min_job_age_s: u32) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".ci/slurm");
        let mut command = Command::new(script);
        command.arg(action).arg(self.dir.path().join("c"));
        let output = command.env("STINT_SLURM_MIN_JOB_AGE", min_job_age_s.to_string()).output().unwrap();
        assert!(output.status.success(), "{action}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("c/slurm.conf")
    }

    /// Name, state and user of every job.
    fn jobs(&self) -> Vec<String> {
        let mut command = Command::new("squeue");
        command.env("SLURM_CONF", self.conf()).args(["--states=all", "--noheader", "-o", "%j %T %u"]);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// The whole name of a task's job.
    fn job_name(&self, id: &str) -> String {
        let jobs = self.jobs();
        let job = jobs.iter().find(|job| job.contains(id)).expect("its job");
        job.split(' ').next().unwrap().to_owned()
    }

    async fn cluster(&self, peers: usize, more: fn(usize) -> String) -> Cluster {
        let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(root.path().join("jobs")).unwrap();
        std::fs::write(root.path().join("slurm.conf"), std::fs::read(self.conf()).unwrap()).unwrap();
        Cluster::start_in(
            root,
            Setup { peers, runtimes: "\"process\", \"slurm\"", executor: CLASSES, more, ..Setup::default() },
        )
        .await
    }
}

const CLASSES: &str = "classes = [\"cpu_short\", \"gpu_slurm\"]\n";

const SLURM: &str = "[executor.slurm]\nfolder = \"ROOT/jobs\"\nconf = \"ROOT/slurm.conf\"\nuser = \"65534:65534\"\npoll = \"1s\"\n";

/// Leases of this many seconds.
fn leases<const SECONDS: u32>(_: usize) -> String {
    format!("{SLURM}[classes.gpu_slurm]\nlease_ttl = \"{SECONDS}s\"\n")
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.control("stop", 300);
    }
}

fn shell(script: &str) -> v1::SubmitRequest {
    let mut request = submit("gpu_slurm", &["/bin/sh", "-c", script], 1);
    let spec = request.spec.as_mut().unwrap();
    (spec.cpu_milli, spec.memory_bytes, spec.stop_grace_ms) = (0, 0, Some(1_000));
    request
}

fn ends(task: &v1::Task) -> Vec<&str> {
    task.attempt_records.iter().map(|record| record.end.as_str()).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Until the only node says that Slurm does not answer, or that it does.
async fn said(client: &stint_sdk::Client, trouble: bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let node = client.list_nodes().await.unwrap().remove(0);
        let says =
            node.problems.iter().any(|problem| problem.starts_with("runtime slurm: Slurm does not answer"));
        if (says, node.runtimes.iter().any(|runtime| runtime == "slurm")) == (trouble, !trouble) {
            return;
        }
        assert!(Instant::now() < end, "waited in vain for trouble = {trouble}: {node:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The folder of a task's first attempt.
fn folder(cluster: &Cluster, id: &str) -> PathBuf {
    let owner = std::fs::read_dir(cluster.root.path().join("jobs")).unwrap().next().unwrap().unwrap().path();
    owner.join(format!("{id}.1"))
}

fn output(cluster: &Cluster, id: &str) -> String {
    std::fs::read_to_string(folder(cluster, id).join("job/stdout")).unwrap_or_default()
}

/// One of three waits in Slurm's queue.
async fn told_as_pending(cluster: &Cluster) {
    until("the one that waits is told as pending", || {
        let listed = |state: &str| {
            let (_, listed, _) = stint(cluster, &["ps", "--state", state, "-o", "quiet"]);
            listed.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (pending, running) = (listed("pending"), listed("running"));
        (pending.len(), running.len()) == (1, 2)
            && stint(cluster, &["status", &pending[0]]).1.contains("pending")
            && stint(cluster, &["ps"]).1.matches(" pending ").count() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_follow_the_real_job() {
    let slurm = Slurm::start(300);
    let cluster = slurm.cluster(1, leases::<24>).await;
    let run = |args: &[&str]| {
        let head = ["run", "--class", "gpu_slurm"];
        stint(&cluster, &head.into_iter().chain(args.iter().copied()).collect::<Vec<_>>())
    };
    let args =
        "echo task $STINT_TASK_ID; id -u; id -G; echo gpus $CUDA_VISIBLE_DEVICES; echo home $HOME; exit 7";
    let (code, out, err) = run(&["--gpus", "2", "--", "/bin/sh", "-c", args]);
    assert_eq!(code, 7, "{out}{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[1..], ["65534", "65534", "gpus 0,1", "home /nonexistent"], "{out}");
    assert_eq!(run(&["--", "no-such-program"]).0, 127);
    assert_eq!(run(&["--", "/bin/sh", "-c", "kill -SEGV $$"]).0, 128 + 11);
    let (code, _, err) = run(&["--gpus", "9", "--", "true"]);
    assert!(code != 0 && err.contains("Requested node configuration is not available"), "{code} {err}");

    let client = cluster.client();
    let mut slow = shell("echo begun; sleep 100");
    slow.spec.as_mut().unwrap().timeout_ms = 2_000;
    let slow = accepted(&client, slow).await;
    let cancelled =
        accepted(&client, shell("trap 'echo told; exit 0' TERM; echo begun; while :; do sleep 0.1; done"))
            .await;
    until("it runs", || output(&cluster, &cancelled[0]).contains("begun")).await;
    // Slurm knows them, and this machine runs none of them itself.
    let known = slurm.jobs();
    assert!(
        known.iter().any(|job| job.contains(&cancelled[0]) && job.ends_with("RUNNING nobody")),
        "{known:?}"
    );
    let attempts = cluster.peers[0].dir.join("executor/attempts");
    assert_eq!(std::fs::read_dir(attempts).map_or(0, Iterator::count), 0);
    client.cancel(v1::CancelRequest { tasks: cancelled.clone(), ..Default::default() }).await.unwrap();
    // Somebody else has Slurm end one: it is not tried again.
    let foreign = accepted(&client, shell("echo 1/4 >> $STINT_PROGRESS_FILE; echo begun; sleep 100")).await;
    until("it runs", || output(&cluster, &foreign[0]).contains("begun")).await;
    let (_, said, _) = stint(&cluster, &["result", &foreign[0]]);
    assert!(said.contains("\"percent\": 25"), "{said}");
    let foreign_job = format!("--name={}", slurm.job_name(&foreign[0]));
    let mut scancel = Command::new("scancel");
    assert!(scancel.env("SLURM_CONF", slurm.conf()).arg(foreign_job).status().unwrap().success());
    for (id, end) in [(&slow, "timed_out"), (&cancelled, "cancelled"), (&foreign, "cancelled")] {
        let task = cluster.finish(id, PATIENCE).await.remove(0);
        assert_eq!(ends(&task), [end], "{task:#?}");
    }
    assert_eq!(output(&cluster, &cancelled[0]), "begun\ntold\n");
    // One that waits in Slurm's queue leaves it: two nodes with eight processors each.
    let mut wide = shell("sleep 60");
    wide.spec.as_mut().unwrap().cpu_milli = 8_000;
    wide.count = 3;
    let wide = accepted(&client, wide).await;
    until("two run and one waits", || {
        let jobs = slurm.jobs();
        let count = |state: &str| jobs.iter().filter(|job| job.contains(state)).count();
        (count("RUNNING"), count("PENDING")) == (2, 1)
    })
    .await;
    told_as_pending(&cluster).await;
    waits_for_resources(&cluster, &wide).await;
    client.cancel(v1::CancelRequest { tasks: wide.clone(), ..Default::default() }).await.unwrap();
    for task in cluster.finish(&wide, PATIENCE).await {
        assert_eq!(ends(&task), ["cancelled"], "{task:#?}");
    }
    until("Slurm has none of them", || {
        !slurm.jobs().iter().any(|job| job.contains("RUNNING") || job.contains("PENDING"))
    })
    .await;
}

/// The result of one of these tasks says what it waits for, and none that its output is gone: it wrote nothing yet.
async fn waits_for_resources(cluster: &Cluster, tasks: &[String]) {
    until("what it waits for is told", || {
        let said: String = tasks.iter().map(|id| stint(cluster, &["result", id]).1).collect();
        assert!(!said.contains("is kept on this node"), "{said}");
        said.contains(": PENDING, Resources\"")
    })
    .await;
}

/// Slurm forgets an ended job after two seconds here, without accounting: its end is told all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_slurm_forgot_ends_as_it_did_and_a_killed_node_goes_on() {
    let slurm = Slurm::start(2);
    let mut cluster = slurm.cluster(1, leases::<180>).await;
    let client = cluster.client();
    let short = accepted(&client, shell("echo begun; sleep 3; exit 5")).await;
    let go_on = cluster.shared().join("go-on");
    let waits = format!("echo begun; while [ ! -e {} ]; do sleep 0.2; done; echo done", go_on.display());
    let long = accepted(&client, shell(&waits)).await;
    let both = [short[0].clone(), long[0].clone()];
    until("both run", || both.iter().all(|id| output(&cluster, id).contains("begun"))).await;
    cluster.peers[0].kill().await;
    until("Slurm forgot the short one", || slurm.jobs().len() == 1).await;
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    // The controller is killed while the long one runs.
    slurm.control("ctl-stop", 2);
    said(&client, true).await;
    std::fs::write(&go_on, "").unwrap();
    slurm.control("ctl-start", 2);
    let tasks = cluster.finish(&both, PATIENCE).await;
    let codes: Vec<_> = tasks.iter().map(|task| task.outcome.as_ref().unwrap().exit_code).collect();
    assert_eq!(codes, [5, 0], "{tasks:#?}");
    assert!(tasks.iter().all(|task| ends(task) == ["exited"]), "{tasks:#?}");
    assert_eq!(output(&cluster, &both[1]), "begun\ndone\n");
    said(&client, false).await;
}

/// Nobody renews the lease of a job whose node is gone: it ends by itself, before another attempt begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_with_its_lease_though_its_node_is_gone() {
    let slurm = Slurm::start(300);
    let mut cluster = slurm.cluster(3, leases::<24>).await;
    let client = cluster.client();
    let marks = cluster.shared().join("marks");
    let script =
        format!("while :; do echo $STINT_ATTEMPT $(date +%s%N) >> {}; sleep 0.1; done", marks.display());
    let ids = accepted(&client, shell(&script)).await;
    let read = || std::fs::read_to_string(&marks).unwrap_or_default();
    until("it runs", || !read().is_empty()).await;
    let task =
        client.get_task(v1::GetTaskRequest { task: ids[0].clone(), ..Default::default() }).await.unwrap();
    let node = task.node_name;
    let place = cluster.peers.iter().position(|peer| peer.name == node).expect("it runs on one of ours");
    cluster.peers[place].kill().await;
    until("the next attempt runs", || read().lines().any(|line| line.starts_with("2 "))).await;
    let times = |attempt: &str| -> Vec<u128> {
        let text = read();
        let own = text.lines().filter_map(|line| line.strip_prefix(attempt)?.trim().parse().ok());
        own.collect()
    };
    let (last, first) = (times("1 ").into_iter().max().unwrap(), times("2 ").into_iter().min().unwrap());
    assert!(last < first, "two attempts ran at a time");
    client.cancel(v1::CancelRequest { tasks: ids.clone(), ..Default::default() }).await.unwrap();
    let task = cluster.finish(&ids, PATIENCE).await.remove(0);
    assert_eq!(ends(&task), ["lost", "cancelled"], "{task:#?}");
    let count = read().lines().count();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(read().lines().count(), count, "nothing of it runs any more");
}
