//! Folders and files of the host that tasks see: where they asked for them, for reading or writing, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use stint_executor::{Host, Launch, LogStream, MountRules};
use stint_protocol::{EndKind, HostMount, Runtime, TaskLimits};
use support::{Client, Rig, launch, spec};
use tempfile::TempDir;

const IMAGE: &str = "stint-test/busybox:1";

/// What `open` holds may be read, what `scratch` holds may be written, `shut` is nobody's business.
struct Host3 {
    rig: Rig,
    root: PathBuf,
    /// Where they lie; not in the node's own folder.
    _folder: TempDir,
}

fn host() -> Host3 {
    let mut rig = Rig::new(true);
    let folder = tempfile::Builder::new().prefix("stint-m").tempdir().unwrap();
    let root = std::fs::canonicalize(folder.path()).unwrap();
    for (folder, mode) in [("open/sets", 0o755), ("scratch", 0o777), ("shut", 0o755)] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
        std::fs::set_permissions(root.join(folder), PermissionsExt::from_mode(mode)).unwrap();
    }
    // The way there may be gone by everybody.
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(root.join("open/sets/one"), "of the host\n").unwrap();
    std::fs::write(root.join("open/list"), "a list\n").unwrap();
    std::fs::write(root.join("shut/secret"), "hidden\n").unwrap();
    symlink(root.join("shut"), root.join("open/out")).unwrap();
    // Nothing else of the host is writable.
    rig.settings.process.writable.clear();
    rig.settings.mounts =
        MountRules { readable: vec![root.join("open")], writable: vec![root.join("scratch")] };
    Host3 { rig, root, _folder: folder }
}

impl Host3 {
    fn mount(&self, source: &str, target: Option<&str>, writable: bool) -> HostMount {
        let source = self.root.join(source).display().to_string();
        HostMount { source, target: target.map(Into::into), writable }
    }
}

async fn run(
    client: &mut Client,
    runtime: Runtime,
    mounts: Vec<HostMount>,
    script: &str,
) -> (EndKind, String, String) {
    let mut wanted = spec(&["/bin/sh", "-c", script]);
    wanted.image = (runtime == Runtime::Docker).then(|| IMAGE.to_owned());
    wanted.limits = Some(Box::new(TaskLimits { mounts: Some(mounts), ..TaskLimits::default() }));
    finish(client, launch(wanted, runtime)).await
}

async fn finish(client: &mut Client, launch: Launch) -> (EndKind, String, String) {
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let text = client.log(lease, LogStream::Stdout).await + &client.log(lease, LogStream::Stderr).await;
    (end.kind, end.message, text)
}

#[tokio::test]
async fn containers_see_what_they_mount_where_they_want_it() {
    let host = host();
    let mut client = host.rig.open().await;
    let mounts = vec![
        host.mount("open", Some("/in"), false),
        host.mount("open/list", Some("/tmp/deep/list"), false),
        host.mount("scratch", Some("/srv/out"), true),
        host.mount("scratch", Some("/again"), false),
    ];
    let script = "cat /in/sets/one /tmp/deep/list; echo kept > /srv/out/file; cat /again/file; \
                  touch /in/x /again/x && echo BAD; cat /in/out/secret && echo BAD; \
                  chmod 700 /tmp/deep/list && echo BAD; exit 0";
    let (kind, message, text) = run(&mut client, Runtime::Crun, mounts, script).await;
    assert_eq!(kind, EndKind::Exited(0), "{message} {text}");
    assert!(text.starts_with("of the host\na list\nkept\n") && !text.contains("BAD"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert_eq!(std::fs::read_to_string(host.root.join("scratch/file")).unwrap(), "kept\n");
    // Only who asks for it sees it.
    let script = "test -e /in/sets || test -e /srv/out/file";
    let (kind, _, text) = run(&mut client, Runtime::Crun, Vec::new(), script).await;
    assert_eq!(kind, EndKind::Exited(1), "{text}");
}

#[tokio::test]
async fn processes_may_write_where_they_mount_and_nowhere_beside() {
    let host = host();
    let mut client = host.rig.open().await;
    let (open, scratch) = (host.root.join("open"), host.root.join("scratch"));
    let (open, scratch) = (open.display(), scratch.display());
    let script = format!(
        "cat {open}/list; echo kept > {scratch}/file && cat {scratch}/file; touch {open}/x && echo BAD; exit 0"
    );
    let mounts = vec![host.mount("open/list", None, false), host.mount("scratch", None, true)];
    let (kind, message, text) = run(&mut client, Runtime::Process, mounts, &script).await;
    assert_eq!(kind, EndKind::Exited(0), "{message} {text}");
    assert!(text.starts_with("a list\nkept\n") && !text.contains("BAD"), "{text}");
    // For reading only, and without asking, the same folder cannot be written.
    for mounts in [vec![host.mount("scratch", None, false)], Vec::new()] {
        let script = format!("touch {scratch}/other");
        let (kind, _, text) = run(&mut client, Runtime::Process, mounts, &script).await;
        assert_ne!(kind, EndKind::Exited(0), "{text}");
    }
    assert!(!host.root.join("scratch/other").exists());
}

#[tokio::test]
async fn what_the_operator_did_not_open_is_not_mounted() {
    let host = host();
    let mut client = host.rig.open().await;
    let cases = [
        (host.mount("shut", Some("/in"), false), EndKind::StartFailed, "[executor.mounts] readable"),
        (host.mount("open", Some("/in"), true), EndKind::StartFailed, "[executor.mounts] writable"),
        (host.mount("open/out", Some("/in"), false), EndKind::Denied, "leads out of"),
        (host.mount("open/absent", Some("/in"), false), EndKind::FilesMissing, "is not there"),
        // Root would make what is missing in the host's folder, before that becomes read-only.
        (host.mount("open", Some("/etc/made"), false), EndKind::NotRunnable, "name another target"),
        (host.mount("open/list", Some("/usr/lib/made"), false), EndKind::NotRunnable, "name another target"),
    ];
    for (mount, expected, part) in cases {
        let (kind, message, _) = run(&mut client, Runtime::Crun, vec![mount.clone()], "true").await;
        assert!(kind == expected && message.contains(part), "{mount}: {kind:?} {message}");
    }
    assert!(!PathBuf::from("/etc/made").exists() && !PathBuf::from("/usr/lib/made").exists());
    let elsewhere = host.mount("open", Some("/in"), false);
    let (kind, message, _) = run(&mut client, Runtime::Process, vec![elsewhere], "true").await;
    assert!(kind == EndKind::StartFailed && message.contains("leave the target out"), "{message}");
}

#[tokio::test]
async fn without_a_sandbox_nothing_is_mounted() {
    let mut host = host();
    host.rig.settings.sandbox = false;
    let mut client = host.rig.open().await;
    let mount = host.mount("open", None, false);
    let (kind, message, _) = run(&mut client, Runtime::Process, vec![mount], "true").await;
    assert!(kind == EndKind::StartFailed && message.contains("executor.sandbox"), "{message}");
}

#[tokio::test]
async fn docker_mounts_the_very_folders_that_the_operator_opened() {
    let mut host = host();
    host.rig.settings.runtimes = vec![Runtime::Docker];
    host.rig.settings.docker.allowed_images = vec![IMAGE.into()];
    let mut client = host.rig.open().await;
    let mounts = vec![host.mount("open", Some("/in"), false), host.mount("scratch", Some("/out"), true)];
    let script = "cat /in/sets/one; echo kept > /out/file; touch /in/x && echo BAD; cat /in/out/secret && echo BAD; exit 0";
    let (kind, message, text) = run(&mut client, Runtime::Docker, mounts, script).await;
    assert_eq!(kind, EndKind::Exited(0), "{message} {text}");
    assert!(text.starts_with("of the host\n") && !text.contains("BAD"), "{text}");
    assert_eq!(std::fs::read_to_string(host.root.join("scratch/file")).unwrap(), "kept\n");
    let over = host.mount("open", Some("/bin/sh"), false);
    let (kind, message, _) = run(&mut client, Runtime::Docker, vec![over], "true").await;
    assert!(kind == EndKind::NotRunnable && message.contains("a folder or a file"), "{kind:?} {message}");
    let below = host.mount("open/sets", Some("/in"), false);
    let (kind, message, _) = run(&mut client, Runtime::Docker, vec![below], "true").await;
    assert!(kind == EndKind::StartFailed && message.contains("the very folder"), "{message}");
}

#[tokio::test]
async fn what_one_task_mounts_leaves_no_place_for_the_next() {
    let host = host();
    let mut client = host.rig.open().await;
    // A file, and then a folder, at the same place of a root that attempts share.
    for (source, script) in [("open/list", "cat /in"), ("open", "ls /in/sets"), ("open/list", "cat /in")] {
        let mounts = vec![host.mount(source, Some("/in"), false), host.mount("open", Some("/a/b/c"), false)];
        let (kind, message, text) = run(&mut client, Runtime::Crun, mounts, script).await;
        assert_eq!(kind, EndKind::Exited(0), "{message} {text}");
    }
    let (_, _, text) = run(&mut client, Runtime::Crun, Vec::new(), "ls -d /in /a").await;
    assert!(!text.lines().any(|line| ["/in", "/a"].contains(&line)), "{text}");
}

#[tokio::test]
async fn what_cannot_be_mounted_there_is_the_tasks_fault() {
    let host = host();
    let mut client = host.rig.open().await;
    // The folder of an image's file system is where the task wants a file.
    let image = host.root.join("image");
    for folder in ["bin", "taken", "proc", "sys", "dev", "tmp", "work"] {
        std::fs::create_dir_all(image.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", image.join("bin/sh")).unwrap();
    drop(client);
    let mut rig = host.rig;
    rig.settings.crun.roots = vec![host.root.clone()];
    client = rig.open().await;
    let mut wanted = spec(&["/bin/sh", "-c", "true"]);
    wanted.image = Some(image.display().to_string());
    let list = host.root.join("open/list").display().to_string();
    let mount = HostMount { source: list, target: Some("/taken".into()), writable: false };
    wanted.limits = Some(Box::new(TaskLimits { mounts: Some(vec![mount]), ..TaskLimits::default() }));
    let launch = launch(wanted, Runtime::Crun);
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    assert!(end.kind == EndKind::NotRunnable && end.message.contains("taken"), "{end:?}");
}

/// A folder that programs of all tenants may write in, as they do in `/tmp`.
#[tokio::test]
async fn what_a_tenant_leaves_for_itself_no_other_tenant_reads() {
    if !support::is_root() {
        eprintln!("skipped: root alone gives tenants users of their own");
        return;
    }
    let mut host = host();
    std::fs::set_permissions(host.root.join("scratch"), PermissionsExt::from_mode(0o1777)).unwrap();
    host.rig.settings.runtimes = vec![Runtime::Process, Runtime::Crun, Runtime::Docker];
    host.rig.settings.docker.allowed_images = vec![IMAGE.into()];
    let mut client = host.rig.open().await;
    for runtime in [Runtime::Process, Runtime::Crun, Runtime::Docker] {
        if let Err(why) = &client.host.health().runtimes[&runtime] {
            println!("SKIPPED what_a_tenant_leaves_for_itself_no_other_tenant_reads with {runtime}: {why}");
            continue;
        }
        let target = (runtime == Runtime::Docker).then_some("/out");
        let folder = target.map_or_else(|| host.root.join("scratch"), PathBuf::from);
        let file = folder.join(format!("{runtime}-model")).display().to_string();
        let of = |uid: u32, script: String| {
            let mut wanted = spec(&["/bin/sh", "-c", &script]);
            wanted.image = (runtime == Runtime::Docker).then(|| IMAGE.to_owned());
            let mounts = Some(vec![host.mount("scratch", target, true)]);
            wanted.limits = Some(Box::new(TaskLimits { mounts, ..TaskLimits::default() }));
            Launch { tenant_uid: Some(uid), ..launch(wanted, runtime) }
        };
        let (one, other) = (200_001, 200_002);
        let (kind, message, text) =
            finish(&mut client, of(one, format!("id -u; id -G; echo weights >{file}; chmod 600 {file}")))
                .await;
        assert_eq!((kind, text.as_str()), (EndKind::Exited(0), "200001\n200001\n"), "{runtime}: {message}");
        let script = format!("id -u; cat {file} && echo BAD; rm -f {file} && echo BAD; exit 0");
        let (kind, message, text) = finish(&mut client, of(other, script)).await;
        assert_eq!(kind, EndKind::Exited(0), "{runtime}: {message}");
        assert!(text.starts_with("200002\n") && !text.contains("BAD"), "{runtime}: {text}");
        assert!(text.contains("ermission denied"), "{runtime}: {text}");
        // The tenant's next task has it still.
        let (kind, message, text) = finish(&mut client, of(one, format!("cat {file}"))).await;
        assert_eq!((kind, text.as_str()), (EndKind::Exited(0), "weights\n"), "{runtime}: {message}");
    }
}
