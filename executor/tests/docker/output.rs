//! Output: much of it in little memory, and none of it where the disk is full.

use std::process::Command;
use std::time::Duration;

use stint_executor::{Host, LogStream};
use stint_protocol::{EndKind, Runtime};

use crate::support::{assert_kind, outputs};
use crate::{IMAGE, containers, monitors, open, open_with, shell};

#[tokio::test]
async fn a_hundred_mebibytes_of_output() {
    let (rig, mut client) = open().await;
    let launch = shell("sleep 0.5; head -c 104857600 /dev/zero; echo; echo end");
    let lease = launch.lease;
    client.host.start(launch);
    client.started(lease).await;
    let monitor = monitors(&rig)[0];
    let peak = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmHWM"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let (before, began) = (peak(monitor).unwrap(), std::time::Instant::now());
    let mut most = before;
    while !client.ends.contains_key(&lease) {
        let _ = tokio::time::timeout(
            Duration::from_millis(20),
            client.until(|c| c.ends.contains_key(&lease), "the end"),
        )
        .await;
        most = most.max(peak(monitor).unwrap_or(0));
    }
    assert_kind(&client.ends[&lease], EndKind::Exited(0));
    println!("MEASURED docker: 100 MiB of output in {:?}, monitor {before} to {most} KiB", began.elapsed());
    assert!(most - before < 32 << 10, "the monitor grew from {before} to {most} KiB");
    let size = std::fs::metadata(
        rig.executor().join("attempts").join(format!("{}-{}", lease.task, lease.attempt)).join("stdout"),
    );
    assert_eq!(size.unwrap().len(), (100 << 20) + 5);
    assert_eq!(containers(&rig), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_program_opens_by_name_appends() {
    let (_rig, mut client) = open().await;
    let script = "id -u; echo one; echo two >/dev/stdout; echo three >/proc/self/fd/1; : >/dev/stdout; echo four; \
        echo a >&2; echo b >/dev/stderr; echo c >&2";
    let launch = shell(script);
    let lease = launch.lease;
    client.host.start(launch);
    assert_kind(&client.end(lease).await, EndKind::Exited(0));
    let stdout = client.log(lease, LogStream::Stdout).await;
    let (user, rest) = stdout.split_once('\n').unwrap();
    assert_ne!(user, "0", "it runs as a user without privileges");
    assert_eq!(rest, "one\ntwo\nthree\nfour\n");
    assert_eq!(client.log(lease, LogStream::Stderr).await, "a\nb\nc\n");
}

#[tokio::test]
async fn a_full_disk_costs_output_and_nothing_else() {
    let (rig, mut client) = open().await;
    let attempts = rig.executor().join("attempts");
    let mount = |args: &[&str]| {
        assert!(
            Command::new(args[0]).args(&args[1..]).arg(&attempts).status().unwrap().success(),
            "{args:?}"
        );
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
    let launch = shell("sleep 0.3; head -c 4194304 /dev/zero; exit 3");
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let left = containers(&rig);
    mount(&["umount", "--lazy"]);
    assert_eq!(end.kind, EndKind::Exited(3), "{end:?}");
    assert!(end.message.contains("could not be kept"), "{end:?}");
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn outputs_are_kept_after_each_end_with_every_runtime() {
    let all = vec![Runtime::Process, Runtime::Crun, Runtime::Docker];
    let (_rig, mut client) = open_with(|rig| rig.settings.runtimes = all.clone()).await;
    for runtime in all.clone() {
        let image = (runtime == Runtime::Docker).then_some(IMAGE);
        outputs::are_kept_after_each_end(&mut client, runtime, image).await;
    }
}
