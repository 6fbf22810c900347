//! What a process writes: all of it is kept, whatever else it does.

use std::path::Path;
use std::time::Duration;

use stint_executor::{Host, LogStream, PROGRESS_FILE, StopReason, boot_now};
use stint_protocol::{EndKind, OutputPath, Runtime, TaskFiles};

use crate::WAYS;
use crate::support::{Rig, assert_kind, launch, odd_seconds, processes_with, shell, spec, task, wait_until};

/// Writes to both streams in each way in which a program can come by them, and tries to take back what it wrote.
const BY_NAME: &str = "echo one; echo two >/dev/stdout; echo three >/proc/self/fd/1; truncate -s 0 /dev/stdout; \
    : >/dev/stdout; echo four; echo a >&2; echo b >/dev/stderr; echo c >&2; \
    case $(readlink /proc/$$/fd/1)$(readlink /proc/$$/fd/2) in pipe:*pipe:*) ;; *) echo no pipes ;; esac";

#[tokio::test]
async fn what_a_program_opens_by_name_appends_and_takes_nothing_back() {
    for (sandbox, runtime) in [(true, Runtime::Process), (false, Runtime::Process), (true, Runtime::Crun)] {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        if let Err(why) = &client.host.health().runtimes[&runtime] {
            println!("SKIPPED {runtime}: {why}");
            continue;
        }
        let launch = launch(spec(&["/bin/sh", "-c", BY_NAME]), runtime);
        let lease = launch.lease;
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        let stderr = client.log(lease, LogStream::Stderr).await;
        assert_eq!(
            client.log(lease, LogStream::Stdout).await,
            "one\ntwo\nthree\nfour\n",
            "{runtime}: {stderr}"
        );
        let ours: String = stderr.lines().filter(|line| line.len() == 1).collect();
        assert_eq!(ours, "abc", "{runtime}: {stderr}");
    }
}

/// What a program wrote last is in its file when its end is told, whatever the end.
#[tokio::test]
async fn all_that_was_written_is_kept_before_the_end_is_told() {
    for (sandbox, runtime) in [(true, Runtime::Process), (false, Runtime::Process), (true, Runtime::Crun)] {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        if let Err(why) = &client.host.health().runtimes[&runtime] {
            println!("SKIPPED {runtime}: {why}");
            continue;
        }
        let fill = "trap '' TERM; head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2; ";
        for (then, kind) in [
            ("exit 3", EndKind::Exited(3)),
            ("kill -9 $$", EndKind::Signalled(9)),
            ("sleep 60", EndKind::TimedOut),
            ("sleep 61", EndKind::Cancelled),
            ("sleep 62", EndKind::Lost),
        ] {
            // The first process of a container does not die of its own signal.
            if runtime == Runtime::Crun && matches!(kind, EndKind::Signalled(_)) {
                continue;
            }
            let mut spec = spec(&["/bin/sh", "-c", &format!("{fill}{then}")]);
            spec.stop_grace_ms = 100;
            if kind == EndKind::TimedOut {
                spec.timeout_ms = 700;
            }
            let mut launch = launch(spec, runtime);
            if kind == EndKind::Lost {
                launch.deadline = boot_now().plus(2_500);
            }
            let lease = launch.lease;
            client.host.start(launch);
            if kind == EndKind::Cancelled {
                client.started(lease).await;
                client.until_output(lease, "\0").await;
                client.host.stop(lease, StopReason::Cancelled);
            }
            let end = client.end(lease).await;
            assert_eq!(end.kind, kind, "{runtime} {then}: {end:?}");
            if kind != EndKind::Cancelled {
                let stdout = client.log(lease, LogStream::Stdout).await.len();
                let stderr = client.log(lease, LogStream::Stderr).await.len();
                assert_eq!((stdout, stderr), (60_000, 60_000), "{runtime} {then}");
            }
        }
    }
}

/// A writer that is no process of the attempt, as one that escaped would be.
#[tokio::test]
async fn a_writer_that_escaped_does_not_hold_up_the_end() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let word = odd_seconds();
        let launch = shell(&format!("echo first; sleep {word}"));
        let lease = launch.lease;
        client.host.start(launch);
        client.started(lease).await;
        wait_until("it sleeps", || !processes_with(&format!("sleep\0{word}")).is_empty()).await;
        let pid = processes_with(&format!("sleep\0{word}"))[0];
        let mut pipe = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
        let writes = std::thread::spawn(move || {
            // Until nobody reads any more, but not for ever.
            let more = |_: &i32| std::io::Write::write_all(&mut pipe, &[b'x'; 4096]).is_ok();
            (0..40_000).take_while(more).for_each(|_| std::thread::sleep(Duration::from_millis(1)));
        });
        client.until_output(lease, "xx").await;
        client.host.stop(lease, StopReason::Cancelled);
        assert_kind(&client.end(lease).await, EndKind::Cancelled);
        writes.join().unwrap();
        let chunk = client.host.read_log(lease, LogStream::Stdout, 0, 6).await.unwrap();
        assert_eq!(chunk.bytes, b"first\n");
        assert_kind(&client.run(&["/bin/true"]).await, EndKind::Exited(0));
    }
}

/// What a program sets on its end of a pipe is its own affair.
#[tokio::test]
async fn one_stream_that_does_not_block_changes_nothing_for_the_other_nor_for_who_reads() {
    for sandbox in WAYS {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        let script = "use Fcntl; fcntl(STDOUT, F_SETFL, O_NONBLOCK | O_WRONLY); my $left = 3000000; \
            while ($left > 0) { my $n = syswrite(STDOUT, 'x' x $left); $left -= $n if $n; } \
            print STDERR fcntl(STDERR, F_GETFL, 0) & O_NONBLOCK ? 'changed' : 'blocks';";
        let launch = task(&["perl", "-e", script]);
        let lease = launch.lease;
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        assert_eq!(client.log(lease, LogStream::Stderr).await, "blocks");
        let tail = client.host.read_log(lease, LogStream::Stdout, 2_999_999, 10).await.unwrap();
        assert_eq!((tail.bytes.as_slice(), tail.complete), (&b"x"[..], true));
    }
}

/// A limit of the watchdog's own files neither kills it nor stops the program.
#[tokio::test]
async fn output_that_is_too_large_for_a_file_is_dropped_and_said() {
    let rig = Rig::new(true);
    let mut client = rig.open().await;
    let watchdog = rig.shim_pid().unwrap();
    let limit = ["--fsize=1048576", "--pid", &watchdog.to_string()];
    assert!(std::process::Command::new("prlimit").args(limit).status().unwrap().success());
    let end = client.run(&["sh", "-c", "head -c 3145728 /dev/zero; exit 4"]).await;
    assert_kind(&end, EndKind::Exited(4));
    assert!(end.message.contains("could not be kept (2097152 bytes): File too large"), "{end:?}");
    assert_eq!(rig.shim_pid(), Some(watchdog));
    assert_kind(&client.run(&["/bin/true"]).await, EndKind::Exited(0));
}

/// When an end is recorded, what the program left for itself goes. What it said stays, and so do its outputs.
#[tokio::test]
async fn work_folders_go_and_outputs_stay() {
    for (sandbox, runtime) in [(true, Runtime::Process), (false, Runtime::Process), (true, Runtime::Crun)] {
        let rig = Rig::new(sandbox);
        let mut client = rig.open().await;
        if let Err(why) = &client.host.health().runtimes[&runtime] {
            println!("SKIPPED {runtime}: {why}");
            continue;
        }
        let script = "mkdir -p out deep/er; echo model >out/model; ln -s ../deep/er/real out/link; echo real >deep/er/real; \
            head -c 3000000 /dev/zero >junk; echo '{\"percent\": 40}' >$STINT_PROGRESS_FILE; echo said";
        let mut spec = spec(&["/bin/sh", "-c", script]);
        let outputs = vec![OutputPath { path: "out".into(), optional: false }];
        spec.files = Some(Box::new(TaskFiles { outputs, ..TaskFiles::default() }));
        let launch = launch(spec, runtime);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        assert_kind(&end, EndKind::Exited(0));
        let paths: Vec<&str> = end.outputs.iter().flatten().map(|kept| kept.path.as_str()).collect();
        assert_eq!(paths, ["out/link", "out/model"], "{runtime}");
        let folder = rig.executor().join("attempts").join(format!("{}-1", lease.task));
        assert!(folder.join("work/junk").exists(), "nobody has recorded the end");
        client.host.acknowledge(vec![lease]);
        let names = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        wait_until("the work folder is cleared", || names(&folder.join("work")) == [PROGRESS_FILE]).await;
        // Also those that a node clears that came back meanwhile.
        drop(client);
        let client = rig.open().await;
        for (path, bytes) in [("out/link", &b"real\n"[..]), ("out/model", b"model\n")] {
            let read = client.host.read_output(lease, path, 0, 100).await.unwrap();
            assert_eq!((read.bytes.as_slice(), read.complete), (bytes, true), "{runtime}: {path}");
        }
        assert!(client.host.read_output(lease, "junk", 0, 100).await.is_err(), "it is no output");
        assert_eq!(client.log(lease, LogStream::Stdout).await, "said\n");
        let progress = client.host.progress(lease).await.unwrap().bytes;
        assert!(String::from_utf8(progress).unwrap().contains("40"), "{runtime}");
    }
}
