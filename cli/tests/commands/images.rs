//! `stint image`: images are sent from files and pipes, listed, shown and removed.

use std::process::Stdio;

use serde_json::Value;
use stint_sdk::v1;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tonic::Status;

use crate::{Done, World};

/// Registers what comes through a pipe.
async fn piped(world: &World, temporary: &str, bytes: &str) -> Done {
    let mut command = world.command(&["image", "register", "piped", "-"]);
    let mut child = command.stdin(Stdio::piped()).env("TMPDIR", temporary).spawn().unwrap();
    let (mut input, bytes) = (child.stdin.take().unwrap(), bytes.to_owned());
    // What reads it may leave before its end.
    let writing = tokio::spawn(async move { input.write_all(bytes.as_bytes()).await });
    let done = Done::after(child).await;
    writing.abort();
    done
}

/// A disk of its own that is nearly full, and memory for a fraction of the bytes.
#[tokio::test]
async fn a_pipe_takes_little_memory_and_a_full_disk_is_named() {
    let world = World::new();
    let bytes = "x".repeat(150 << 20);
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -d 98304; exec {} image register piped -", env!("CARGO_BIN_EXE_stint"));
    command.args(["-c", &script]).kill_on_drop(true);
    command.env("STINT_ADDRESS", format!("unix:{}/stint.sock", world.folder.path().display()));
    command.env("TMPDIR", world.folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let size = bytes.len();
    let writing = tokio::spawn(async move { input.write_all(bytes.as_bytes()).await });
    let done = Done::after(child).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    writing.await.unwrap().unwrap();
    assert_eq!(world.fake.registered.lock().unwrap()[0].1.len(), size);

    let disk = world.folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=80m", "none"];
    if !std::process::Command::new("mount").args(mount).arg(&disk).status().unwrap().success() {
        eprintln!("SKIPPED: the full disk (mounting one needs root)");
        return;
    }
    let done = piped(&world, &disk.to_string_lossy(), &"x".repeat(40 << 20)).await;
    std::process::Command::new("umount").arg("--lazy").arg(&disk).status().unwrap();
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("are left on its disk") && done.stderr.contains("set TMPDIR"),
        "{}",
        done.stderr
    );
    assert_eq!(world.fake.registered.lock().unwrap().len(), 1, "nothing was sent");
}

#[tokio::test]
async fn an_image_is_sent_whole_from_a_file_and_from_a_pipe() {
    let world = World::new();
    let bytes = "x".repeat(3_000_001);
    let file = world.write("tool", &bytes);
    // The first try finds nobody; the second one sends it from the beginning.
    world.fake.fail_next([Status::unavailable("not now")]);
    let done = world.stint(&["image", "register", "team/tool:2", &file, "--kind", "executable"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("--image stint://team/tool:2"), "{}", done.stderr);
    // A file as standard input stays where it is, as a pipe does: neither is lost when a peer goes away.
    world.fake.fail_next([Status::unavailable("not now")]);
    let mut input = world.command(&["image", "register", "input", "-", "--description", "of a file"]);
    input.stdin(std::fs::File::open(&file).unwrap()).env("TMPDIR", "/nowhere");
    assert_eq!(Done::run(input).await.code, 0);
    world.fake.fail_next([Status::unavailable("not now")]);
    world.fake.cut_uploads.lock().unwrap().extend([1_000_000, usize::MAX]);
    let done = piped(&world, &world.folder.path().to_string_lossy(), &bytes).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    {
        let registered = world.fake.registered.lock().unwrap();
        let found: Vec<_> =
            registered.iter().map(|(header, _)| (header.name.as_str(), header.size_bytes)).collect();
        let size = Some(3_000_001);
        assert_eq!(found, [("team/tool:2", size), ("input", size), ("piped", size)]);
        assert!(registered.iter().all(|(_, sent)| sent == bytes.as_bytes()));
    }
    let left: Vec<_> =
        std::fs::read_dir(world.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only the socket and the file: {left:?}");
    let done = piped(&world, "/nowhere", "x").await;
    assert!(done.code == 1 && done.stderr.contains("set TMPDIR"), "{}", done.stderr);
    let done = world.stint(&["image", "register", "tool", &world.folder.path().to_string_lossy()]).await;
    assert!(done.code == 2 && done.stderr.contains("is a folder"), "{}", done.stderr);
    let done = world.stint(&["image", "register", "web", "--docker", "ghcr.io/team/web:1"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (header, sent) = world.fake.registered.lock().unwrap().last().unwrap().clone();
    assert_eq!((header.reference.as_str(), sent.len()), ("ghcr.io/team/web:1", 0));
}

pub fn image(name: &str) -> v1::Image {
    v1::Image {
        id: "0190a1b2-0000-7000-8000-000000000007".into(),
        tenant: "default".into(),
        name: name.into(),
        kind: "executable".into(),
        digest: format!("sha256:{}", "07".repeat(32)),
        size_bytes: 5 << 20,
        nodes: vec!["a".into(), "b".into()],
        used_by: 2,
        ..v1::Image::default()
    }
}

#[tokio::test]
async fn images_are_listed_shown_and_removed() {
    let world = World::new();
    *world.fake.images.lock().unwrap() = vec![image("base"), image("tool")];
    let listed = world.stint(&["image", "ls"]).await;
    assert!(listed.stdout.contains("NAME") && listed.stdout.contains("5MiB"), "{}", listed.stdout);
    assert!(listed.stderr.contains("--after more"), "{}", listed.stderr);
    let json = world.stint(&["image", "ls", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json[1]["name"].as_str(), json[1]["size_bytes"].as_u64()), (Some("tool"), Some(5 << 20)));
    assert_eq!(world.stint(&["image", "ls", "-o", "quiet"]).await.stdout, "base\ntool\n");
    let shown = world.stint(&["image", "show", "tool"]).await.stdout;
    assert!(shown.contains("a, b") && shown.contains("2 task(s)"), "{shown}");
    let removed = world.stint(&["image", "rm", "tool"]).await;
    assert!(removed.stdout == "tool removed\n" && removed.stderr.contains("2 task(s) still use it"));
    let missing = world.stint(&["image", "show", "nothing"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (1, ""));
}
