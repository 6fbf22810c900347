//! What a job's script does, without Slurm: it is run as Slurm would, and given time by hand.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stint_executor::{KeepEnded, Launch, LogStream};
use stint_protocol::{BootMs, Class, ClassRules, LeaseId, Runtime, SharedSpec, TaskId, TaskSpec, Tenant};
use stint_slurm_bridge::doors::{JobCommand, JobDir, JobId, JobReport, ProgramExit, StoppedBy, TimeGrant};
use stint_slurm_bridge::job_dir::{JobDirOptions, SharedJobDir};
use tokio::time::Instant;

const LEASE: LeaseId = LeaseId { task: TaskId(7 << 16), attempt: 2 };

struct Rig {
    _folder: tempfile::TempDir,
    job_dir: SharedJobDir,
    revision: u64,
}

impl Rig {
    async fn new(command: &str, change: impl FnOnce(&mut TaskSpec)) -> Self {
        Self::of_user(None, command, change).await
    }

    async fn of_user(user: Option<(u32, u32)>, command: &str, change: impl FnOnce(&mut TaskSpec)) -> Self {
        // Not in `/tmp`, which one of them fills.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = JobDirOptions {
            folder: folder.path().into(),
            owner: "test-1".into(),
            user,
            keep_ended: KeepEnded::default(),
        };
        let (job_dir, found) = SharedJobDir::open(settings).unwrap();
        // A new folder: what a former one held is not known.
        assert!(found.records.is_empty() && !found.accounted);
        let program = ["/bin/sh", "-c", command].map(String::from).to_vec();
        let mut spec = TaskSpec::new(Class::GpuSlurm, program);
        change(&mut spec);
        let spec = SharedSpec::new(spec.resolve(&ClassRules::default_for(Class::GpuSlurm)).unwrap());
        let launch = Launch {
            lease: LEASE,
            tenant: Tenant::default_tenant(),
            tenant_uid: None,
            run_as: None,
            name: None,
            spec,
            runtime: Runtime::Slurm,
            gpus: Vec::new(),
            deadline: BootMs(0),
            env: [("STINT_ATTEMPT".to_owned(), "2".to_owned())].into(),
        };
        job_dir.prepare(&launch).await.unwrap();
        Self { _folder: folder, job_dir, revision: 0 }
    }

    fn begin(&self, job: u64) -> Job {
        let mut command = Command::new(self.job_dir.script(LEASE));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("SLURM_JOB_ID", job.to_string());
        Job(command.stdin(Stdio::null()).spawn().unwrap())
    }

    async fn files(&self) -> JobReport {
        self.job_dir.read_report(LEASE).await.unwrap()
    }

    async fn give(&mut self, number: u64, left_ms: u64, order: JobCommand) {
        self.revision += 1;
        let grant = TimeGrant { number, left_ms, command: order, revision: self.revision };
        self.job_dir.grant(LEASE, grant).await.unwrap();
    }

    async fn until(&self, what: &str, is: impl Fn(&JobReport) -> bool) -> JobReport {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let files = self.files().await;
            if is(&files) {
                return files;
            }
            assert!(Instant::now() < end, "{what} did not come: {files:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its question, and gives it time.
    async fn grant(&mut self, number: u64, left_ms: u64) {
        self.until("its question", |files| files.ask == Some((number, JobId(41)))).await;
        self.give(number, left_ms, JobCommand::Run).await;
    }

    async fn output(&self, stream: LogStream) -> String {
        let chunk = self.job_dir.read_log(LEASE, stream, 0, 10_000).await.unwrap();
        String::from_utf8(chunk.bytes).unwrap()
    }

    fn work(&self) -> std::path::PathBuf {
        self.job_dir.folder(LEASE).join("job/work")
    }
}

/// Ended with the test.
struct Job(Child);

impl Job {
    fn ended(mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the job goes on");
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_there(path: &Path) -> bool {
    path.exists()
}

#[tokio::test]
async fn a_program_runs_with_what_its_task_says_and_leaves_its_code() {
    let program = r#"pwd; echo "$STINT_ATTEMPT $ODD $(whoami)"; echo oops >&2; exit 3"#;
    let odd = "it's \"$HOME\"\nand `more`";
    let mut rig = Rig::new(program, |spec| {
        spec.env.insert("ODD".into(), odd.into());
    })
    .await;
    let job = rig.begin(41);
    rig.grant(1, 60_000).await;
    let files = rig.until("its end", |files| files.exit.is_some()).await;
    assert_eq!(
        (files.exit, job.ended()),
        (Some(ProgramExit::Code { code: 3, by: StoppedBy::Itself }), Some(3))
    );
    let out = rig.output(LogStream::Stdout).await;
    assert!(out.starts_with(&format!("{}\n2 {odd} ", rig.work().display())), "{out:?}");
    assert_eq!(rig.output(LogStream::Stderr).await, "oops\n");
}

#[tokio::test]
async fn nothing_begins_without_time_and_never_twice() {
    let mut rig = Rig::new("touch ran; sleep 60", |_| {}).await;
    let mut job = rig.begin(41);
    rig.until("its question", |files| files.ask.is_some()).await;
    // An answer to something else, and one that is over.
    rig.give(7, 60_000, JobCommand::Run).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(job.runs() && !is_there(&rig.work().join("ran")));
    assert_eq!(rig.begin(42).ended(), Some(75), "Slurm starts it a second time");
    rig.give(1, 0, JobCommand::Run).await;
    assert_eq!(job.ended(), Some(75), "no time is left");
    assert!(!is_there(&rig.work().join("ran")));
    assert_eq!(rig.files().await.exit, Some(ProgramExit::OutOfTime));
}

#[tokio::test]
async fn a_program_ends_with_its_time_and_a_deaf_one_too() {
    let mut rig =
        Rig::new("trap '' TERM; touch ran; while :; do sleep 1; done", |spec| spec.stop_grace_ms = 1_000)
            .await;
    let job = rig.begin(41);
    let asked = Instant::now();
    rig.grant(1, 4_000).await;
    // It asks again, and gets no answer.
    rig.until("another question", |files| files.ask == Some((2, JobId(41)))).await;
    assert_eq!(job.ended(), Some(137));
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(4 + 4), "it ran for {took:?} with 4 s");
    assert!(is_there(&rig.work().join("ran")));
    assert_eq!(rig.files().await.exit, Some(ProgramExit::OutOfTime));
}

#[tokio::test]
async fn a_program_goes_on_with_more_time_and_ends_when_it_is_told() {
    let mut rig = Rig::new("trap 'echo told; exit 9' TERM; while :; do sleep 0.1; done", |_| {}).await;
    let mut job = rig.begin(41);
    rig.grant(1, 6_000).await;
    rig.grant(2, 60_000).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(job.runs(), "it has time");
    rig.give(2, 60_000, JobCommand::Term).await;
    assert_eq!(job.ended(), Some(9));
    assert_eq!(rig.output(LogStream::Stdout).await, "told\n");
    assert_eq!(rig.files().await.exit, Some(ProgramExit::Code { code: 9, by: StoppedBy::Node }));
}

#[tokio::test]
async fn how_far_a_program_says_it_is_can_be_read() {
    let program = r#"echo '{"percent":30,"message":"warm"}' >> "$STINT_PROGRESS_FILE""#;
    let mut rig = Rig::new(program, |_| {}).await;
    assert!(rig.job_dir.progress(LEASE).await.unwrap().bytes.is_empty());
    let job = rig.begin(41);
    rig.grant(1, 60_000).await;
    assert_eq!(job.ended(), Some(0));
    let said = String::from_utf8(rig.job_dir.progress(LEASE).await.unwrap().bytes).unwrap();
    assert!(said.contains("\"percent\":30.0") && said.contains("warm"), "{said}");
}

/// Another program of its user, or itself, takes all processes that its user may have: the guard cannot go on.
#[tokio::test]
async fn a_program_ends_with_its_time_though_no_process_can_be_made() {
    const USER: u32 = 54_321;
    for shell in ["dash", "bash"] {
        let mut rig = Rig::of_user(Some((USER, USER)), "touch ran; exec sleep 77", |spec| {
            spec.stop_grace_ms = 1_000;
        })
        .await;
        let as_user = |program: &[&str]| {
            let mut command = Command::new("setpriv");
            command
                .args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"])
                .args(program);
            command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
            command
        };
        let script = rig.job_dir.script(LEASE);
        let mut begin = as_user(&["prlimit", "--nproc=15", shell, script.to_str().unwrap()]);
        let job = Job(begin.env("SLURM_JOB_ID", "41").spawn().unwrap());
        rig.grant(1, 12_000).await;
        let granted = Instant::now();
        let ran = rig.work().join("ran");
        while !is_there(&ran) {
            assert!(granted.elapsed() < Duration::from_secs(10), "it did not begin");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let others: Vec<Job> = (0..20).map(|_| Job(as_user(&["sleep", "60"]).spawn().unwrap())).collect();
        job.ended();
        let took = granted.elapsed();
        assert!(took > Duration::from_secs(8) && took < Duration::from_secs(15), "{shell}: {took:?}");
        assert_eq!(rig.files().await.exit, Some(ProgramExit::OutOfTime), "{shell}");
        drop(others);
        let left = Command::new("pgrep").args(["-u", &USER.to_string(), "-x", "sleep"]).output().unwrap();
        let left = String::from_utf8(left.stdout).unwrap();
        let runs_on = left.lines().any(|pid| {
            let program = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            program == b"sleep\x0077\0"
        });
        assert!(!runs_on, "{shell}");
    }
}

#[tokio::test]
async fn variables_that_shells_keep_for_themselves_reach_the_program() {
    const NAMES: [&str; 9] =
        ["UID", "EUID", "PPID", "OPTIND", "IFS", "SHELLOPTS", "GROUPS", "RANDOM", "BASH_SOURCE"];
    for shell in ["dash", "bash"] {
        let mut rig = Rig::new("/usr/bin/env", |spec| {
            for name in NAMES {
                spec.env.insert(name.into(), "x".into());
            }
            spec.command = vec!["/usr/bin/env".into()];
        })
        .await;
        let mut begin = Command::new(shell);
        begin
            .arg(rig.job_dir.script(LEASE))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("SLURM_JOB_ID", "41");
        let job = Job(begin.stdin(Stdio::null()).spawn().unwrap());
        rig.grant(1, 60_000).await;
        assert_eq!(job.ended(), Some(0), "{shell}");
        let out = rig.output(LogStream::Stdout).await;
        for name in NAMES {
            assert!(out.lines().any(|line| line == format!("{name}=x")), "{shell} {name}: {out}");
        }
    }
}

/// Slurm ends a job that is still asking: that is its doing, whatever shell it has.
#[tokio::test]
async fn slurms_own_signal_ends_a_job_that_asks() {
    for shell in ["dash", "bash"] {
        let rig = Rig::new("touch ran", |_| {}).await;
        let mut begin = Command::new(shell);
        begin
            .arg(rig.job_dir.script(LEASE))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("SLURM_JOB_ID", "41");
        let job = Job(begin.stdin(Stdio::null()).spawn().unwrap());
        rig.until("its question", |files| files.ask.is_some()).await;
        let killed = Command::new("kill").arg("-TERM").arg(job.0.id().to_string()).status().unwrap();
        assert!(killed.success());
        assert_eq!(job.ended(), Some(75), "{shell}");
        assert_eq!(
            rig.files().await.exit,
            Some(ProgramExit::Code { code: 75, by: StoppedBy::Slurm }),
            "{shell}"
        );
    }
}

/// What a job cannot begin with never counts as its program's own end.
#[tokio::test]
async fn a_job_that_cannot_write_its_output_never_began() {
    let mut rig = Rig::new("touch ran", |_| {}).await;
    // Where its output goes there is a folder.
    std::fs::create_dir(rig.job_dir.folder(LEASE).join("job/stdout")).unwrap();
    let job = rig.begin(41);
    rig.grant(1, 60_000).await;
    assert_eq!(job.ended(), Some(75));
    assert_eq!(rig.files().await.exit, Some(ProgramExit::OutOfTime));
    assert!(!is_there(&rig.work().join("ran")));
}

#[tokio::test]
async fn one_that_is_told_to_end_before_its_first_answer_does() {
    let mut rig = Rig::new("touch ran", |_| {}).await;
    let mut job = rig.begin(41);
    rig.until("its question", |files| files.ask.is_some()).await;
    assert!(job.runs());
    rig.give(0, 0, JobCommand::Term).await;
    assert_eq!(job.ended(), Some(75));
    assert_eq!(rig.files().await.exit, Some(ProgramExit::Code { code: 75, by: StoppedBy::Node }));
    assert!(!is_there(&rig.work().join("ran")));
}

/// Over a slow file system answers come after it has asked again.
#[tokio::test]
async fn an_answer_to_an_earlier_question_counts_from_that_question() {
    let mut rig = Rig::new("touch ran; sleep 60", |spec| spec.stop_grace_ms = 1_000).await;
    let job = rig.begin(41);
    let asked = Instant::now();
    rig.until("another question", |files| files.ask == Some((2, JobId(41)))).await;
    // It asked the first one ten seconds ago.
    rig.give(1, 14_000, JobCommand::Run).await;
    assert_eq!(job.ended(), Some(143));
    let took = asked.elapsed();
    assert!(took > Duration::from_secs(11) && took < Duration::from_secs(17), "{took:?}");
    assert!(is_there(&rig.work().join("ran")));
}

/// Slurm sends TERM to every process of a job before its limit is over: the program gets it, its guard stays.
#[tokio::test]
async fn slurms_own_signal_reaches_the_program() {
    let mut rig =
        Rig::new("trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.1; done", |_| {}).await;
    let job = rig.begin(41);
    rig.grant(1, 60_000).await;
    let ready = async {
        while !rig.output(LogStream::Stdout).await.contains("ready") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let until_there = async {
        while !rig.job_dir.folder(LEASE).join("job/stdout").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), async {
        until_there.await;
        ready.await
    })
    .await
    .unwrap();
    let killed = Command::new("kill").arg("-TERM").arg(job.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    // Slurm shows by this that the job ran; how the program ended stands in its file.
    assert_eq!(job.ended(), Some(143));
    assert_eq!(rig.output(LogStream::Stdout).await, "ready\ntold\n");
    assert_eq!(rig.files().await.exit, Some(ProgramExit::Code { code: 0, by: StoppedBy::Slurm }));
}

/// A shell lets what it starts beside itself ignore these: Python, for one, would not see that it is interrupted.
#[tokio::test]
async fn a_program_can_be_interrupted() {
    let mut rig = Rig::new("grep SigIgn /proc/self/status", |_| {}).await;
    let job = rig.begin(41);
    rig.grant(1, 60_000).await;
    assert_eq!(job.ended(), Some(0));
    let output = rig.output(LogStream::Stdout).await;
    let ignored = u64::from_str_radix(output.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    // SIGINT is 2 and SIGQUIT is 3.
    assert_eq!(ignored & 0b110, 0, "{output}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_said() {
    let mut rig = Rig::new("", |spec| spec.command = vec!["no-such-program".into()]).await;
    let job = rig.begin(41);
    rig.grant(1, 60_000).await;
    assert_eq!(job.ended(), Some(127));
    assert_eq!(rig.files().await.exit, Some(ProgramExit::NotRunnable));
}

/// Names that the tools on the way could take for something of theirs.
#[tokio::test]
async fn odd_names_of_programs_and_variables_are_only_names() {
    let mut rig = Rig::new("", |spec| {
        spec.command = vec!["/tmp/a=b/c".into()];
        spec.env.insert("-S".into(), "1".into());
        spec.env.insert("a.b".into(), "two words".into());
        spec.env.insert("setsid".into(), "none".into());
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("lr=0.1");
    std::fs::copy("/usr/bin/env", &program).unwrap();
    let script = rig.job_dir.script(LEASE);
    let text = std::fs::read_to_string(&script).unwrap().replace("/tmp/a=b/c", program.to_str().unwrap());
    std::fs::remove_file(&script).unwrap();
    std::fs::write(&script, text).unwrap();
    assert!(Command::new("chmod").arg("700").arg(&script).status().unwrap().success());
    let job = rig.begin(41);
    rig.grant(1, 60_000).await;
    assert_eq!(job.ended(), Some(0));
    let out = rig.output(LogStream::Stdout).await;
    let mut odd: Vec<&str> = out.lines().filter(|line| line.starts_with(['-', 'a', 's'])).collect();
    odd.sort_unstable();
    assert_eq!(odd, ["-S=1", "a.b=two words", "setsid=none"], "{out}");
}

/// What a job leaves in place of its files is not followed and not waited for.
#[tokio::test]
async fn what_a_job_wrote_is_read_with_care() {
    let rig = Rig::new("true", |_| {}).await;
    let job = rig.job_dir.folder(LEASE).join("job");
    std::os::unix::fs::symlink("/etc/passwd", job.join("stdout")).unwrap();
    assert!(rig.job_dir.read_log(LEASE, LogStream::Stdout, 0, 100).await.is_err());
    assert!(Command::new("mkfifo").arg(job.join("ask")).status().unwrap().success());
    assert!(rig.job_dir.read_report(LEASE).await.unwrap_err().contains("no regular file"));
    std::fs::remove_file(job.join("ask")).unwrap();
    for half in ["", "3", "3 41", "3 41 ", "x y .", &"9".repeat(10_000)] {
        std::fs::write(job.join("ask"), half).unwrap();
        assert_eq!(rig.files().await, JobReport::default(), "{half:?}");
    }
}

/// A program that fills the disk of its node ends in time all the same, and why is known.
#[tokio::test]
async fn a_program_ends_with_its_time_though_tmp_is_full() {
    for shell in ["dash", "bash"] {
        let program = "cat /dev/zero > /tmp/all 2>/dev/null; : > ran; exec sleep 79";
        let mut rig = Rig::new(program, |spec| spec.stop_grace_ms = 1_000).await;
        let in_small_tmp = format!(
            "mount -t tmpfs -o size=16k none /tmp && exec {shell} {}",
            rig.job_dir.script(LEASE).display()
        );
        let mut begin = Command::new("unshare");
        begin.args(["--mount", "sh", "-c", &in_small_tmp]).env_clear().env("PATH", "/usr/bin:/bin:/sbin");
        let job = Job(begin.env("SLURM_JOB_ID", "41").stdin(Stdio::null()).spawn().unwrap());
        rig.grant(1, 7_000).await;
        let granted = Instant::now();
        job.ended();
        assert!(granted.elapsed() < Duration::from_secs(10), "{shell}");
        assert!(is_there(&rig.work().join("ran")));
        assert_eq!(rig.files().await.exit, Some(ProgramExit::OutOfTime), "{shell}");
    }
}

/// Whatever ends the shell that Slurm began, the program does not outlive its time.
#[tokio::test]
async fn a_program_ends_with_its_time_though_its_shell_is_gone() {
    let mut rig = Rig::new("touch ran; exec sleep 78", |spec| spec.stop_grace_ms = 1_000).await;
    let job = rig.begin(41);
    rig.grant(1, 8_000).await;
    let granted = Instant::now();
    let runs = || {
        let found = Command::new("pgrep").args(["-fx", "sleep 78"]).output().unwrap();
        !found.stdout.is_empty()
    };
    while !runs() {
        assert!(granted.elapsed() < Duration::from_secs(5), "it did not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its guard is there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(job);
    assert!(runs(), "it has time");
    while runs() {
        assert!(granted.elapsed() < Duration::from_secs(11), "it runs on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
