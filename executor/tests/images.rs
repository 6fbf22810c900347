//! Images as the crun and process runtimes run them: a root file system, and one executable file.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stint_executor::{Host, LogStream};
use stint_protocol::{AttemptEnd, EndKind, Runtime, TaskLimits};
use support::{Client, Rig, assert_kind, launch, spec};

/// A rig whose `images` folder is permitted, with a root that has nothing but a static busybox, and another static program.
fn rig() -> Rig {
    let mut rig = Rig::new(true);
    let images = rig.folder.path().join("images");
    let root = images.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("run .ci/prepare: it installs busybox-static");
    // Linked statically on every distribution, since it repairs what others are linked to.
    std::fs::copy("/sbin/ldconfig", images.join("tool")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    std::fs::create_dir(root.join("opt")).unwrap();
    std::os::unix::fs::symlink("opt", root.join("link")).unwrap();
    std::fs::write(images.join("script"), "#!/bin/sh\necho script $1\n").unwrap();
    std::fs::write(images.join("private"), "#!/bin/sh\n").unwrap();
    let put = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for name in ["root", "root/bin", "root/opt", "script"] {
        put(&images.join(name), 0o755);
    }
    put(&images.join("private"), 0o700);
    rig.settings.crun.roots = vec![images];
    rig
}

fn image(rig: &Rig, name: &str) -> String {
    rig.folder.path().join("images").join(name).display().to_string()
}

async fn run(client: &mut Client, runtime: Runtime, image: &str, args: &[&str]) -> (AttemptEnd, String) {
    let mut spec = spec(args);
    spec.image = Some(image.into());
    let launch = launch(spec, runtime);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let mut text = String::new();
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        let chunk = client.host.read_log(lease, stream, 0, 10_000).await;
        text += &chunk.map(|c| String::from_utf8_lossy(&c.bytes).into_owned()).unwrap_or_default();
    }
    (end, text)
}

/// A folder that an image lacks is made over it, and goes with the attempt.
#[tokio::test]
async fn a_task_starts_in_the_image_where_it_says() {
    let rig = rig();
    let mut client = rig.open().await;
    if !has_crun(&client, "a_task_starts_in_the_image_where_it_says") {
        return;
    }
    let before = files(&rig.folder.path().join("images"));
    let at = [("/bin", "/bin"), ("/no/such", "/no/such"), ("src", "/work/src"), ("/bin/busybox", "")];
    for (wanted, seen) in at {
        let mut spec = spec(&["/bin/busybox", "pwd"]);
        spec.image = Some(image(&rig, "root"));
        let limits = TaskLimits { working_dir: Some(wanted.into()), ..TaskLimits::default() };
        spec.limits = Some(Box::new(limits));
        let launch = launch(spec, Runtime::Crun);
        let lease = launch.lease;
        client.host.start(launch);
        let end = client.end(lease).await;
        if seen.is_empty() {
            assert_kind(&end, EndKind::NotRunnable);
            assert!(end.message.contains(wanted), "{end:?}");
            continue;
        }
        assert_kind(&end, EndKind::Exited(0));
        assert_eq!(client.log(lease, LogStream::Stdout).await, format!("{seen}\n"));
    }
    // One that is made belongs to root, and the task's user can use it, as in Docker.
    let script = "busybox stat -c '%a %u:%g' . ..; busybox ls -a";
    for missing in ["/no/such", "/tmp/no/such", "/link/such"] {
        let mut spec = spec(&["/bin/sh", "-c", script]);
        spec.image = Some(image(&rig, "root"));
        let limits = TaskLimits { working_dir: Some(missing.into()), ..TaskLimits::default() };
        spec.limits = Some(Box::new(limits));
        let launch = launch(spec, Runtime::Crun);
        let lease = launch.lease;
        client.host.start(launch);
        assert_kind(&client.end(lease).await, EndKind::Exited(0));
        let seen = client.log(lease, LogStream::Stdout).await;
        assert_eq!(seen, "755 0:0\n755 0:0\n.\n..\n", "{missing}");
    }
    assert_eq!(files(&rig.folder.path().join("images")), before);
}

/// Everything below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        }
    }
    found.sort();
    found
}

/// Whether crun can be used here.
fn has_crun(client: &Client, test: &str) -> bool {
    let health = client.host.health();
    let usable = &health.runtimes[&Runtime::Crun];
    if let Err(why) = usable {
        println!("SKIPPED {test}: {why}");
    }
    usable.is_ok()
}

#[tokio::test]
async fn a_root_file_system_is_run_and_never_written_to() {
    let rig = rig();
    let mut client = rig.open().await;
    if !has_crun(&client, "a_root_file_system_is_run_and_never_written_to") {
        return;
    }
    let root = image(&rig, "root");
    let before = files(Path::new(&root));
    let script = "busybox id -u; busybox ls -d /usr /binary; echo x >/bin/new || echo refused; echo y >/tmp/t && \
                  echo z >file && busybox cat /tmp/t file; exit 3";
    let (end, text) = run(&mut client, Runtime::Crun, &root, &["sh", "-c", script]).await;
    assert_kind(&end, EndKind::Exited(3));
    assert!(text.contains("65534\nrefused\ny\nz\n"), "{text}");
    assert_eq!(files(Path::new(&root)), before, "also no mount point was made in it");
    for (name, kind) in [("/etc", EndKind::Denied), ("busybox:1", EndKind::NotRunnable)] {
        assert_kind(&run(&mut client, Runtime::Crun, name, &["sh"]).await.0, kind);
    }
    let (end, _) = run(&mut client, Runtime::Crun, &image(&rig, "none"), &["sh"]).await;
    assert_kind(&end, EndKind::NotRunnable);
    let (end, _) = run(&mut client, Runtime::Process, &root, &["sh"]).await;
    assert_kind(&end, EndKind::NotRunnable);
    let (end, _) = run(&mut client, Runtime::Crun, &root, &["no-such-program"]).await;
    assert_kind(&end, EndKind::NotRunnable);
}

#[tokio::test]
async fn a_file_is_run_alone_when_it_needs_nothing_else() {
    let rig = rig();
    let mut client = rig.open().await;
    if !has_crun(&client, "a_file_is_run_alone_when_it_needs_nothing_else") {
        return;
    }
    let tool = image(&rig, "tool");
    // It lists what libraries the root has.
    let (end, text) = run(&mut client, Runtime::Crun, &tool, &["-p"]).await;
    assert_kind(&end, EndKind::Exited(1));
    assert!(text.contains("No such file or directory"), "nothing of the host is there: {text}");
    let (end, text) = run(&mut client, Runtime::Process, &tool, &["-p"]).await;
    assert_kind(&end, EndKind::Exited(0));
    assert!(text.contains("libs found in cache"), "{text}");
    for runtime in [Runtime::Crun, Runtime::Process] {
        let (end, text) = run(&mut client, runtime, &image(&rig, "script"), &["word"]).await;
        assert_kind(&end, EndKind::Exited(0));
        assert_eq!(text, "script word\n", "{runtime}");
        let (end, _) = run(&mut client, runtime, &image(&rig, "private"), &["word"]).await;
        assert_kind(&end, EndKind::NotRunnable);
    }
}
