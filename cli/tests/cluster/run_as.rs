//! Programs that run as the users who submitted them: of a machine with users, groups and homes of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{PATIENCE, Setup, stint};
use crate::users::{ALICE, BOB, CARL, GROUP, World};

const LAB: u32 = 64_131;
const API: &str = "listen = \"\"\ngroup = 64120\ngroup_socket = \"ROOT/run/stint.sock\"\ndefault_role = \"submit\"\n[api.users]\n\
                   64124 = { tenant = \"lab\", role = \"submit\" }\n64125 = { tenant = \"lab\", role = \"submit\" }";
/// Alice, Bob and Carl; Alice alone is in the lab's group.
const USERS: [(&str, u32); 3] = [("alice", ALICE), ("bob", BOB), ("carl", CARL)];
const RUNTIMES: [&str; 2] = ["process", "crun"];

/// The home of a user of the machine.
fn home(world: &World, name: &str) -> PathBuf {
    world.cluster.root.path().join("home").join(name)
}

/// A cluster on a machine with these users. Their homes are open to tasks, and each is its user's alone.
async fn machine() -> World {
    machine_with("\"process\", \"crun\"").await
}

async fn machine_with(runtimes: &'static str) -> World {
    let root = World::folder();
    let at = |name: &str| root.path().join(name);
    let mut passwd = String::from("root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\n");
    for (name, uid) in USERS {
        let home = at("home").join(name);
        fs::create_dir_all(home.join("open")).unwrap();
        passwd += &format!("{name}:x:{uid}:{uid}::{}:/bin/sh\n", home.display());
        fs::write(home.join("own"), format!("of {name}\n")).unwrap();
        for (path, mode) in [("own", 0o600), ("open", 0o755), (".", 0o700)] {
            chown(home.join(path), Some(uid), Some(uid)).unwrap();
            fs::set_permissions(home.join(path), Permissions::from_mode(mode)).unwrap();
        }
    }
    fs::write(at("passwd"), passwd).unwrap();
    let groups = format!("root:x:0:alice\nstint:x:{GROUP}:alice,bob,carl\nlab:x:{LAB}:alice\n");
    fs::write(at("group"), groups).unwrap();
    for tenant in ["uid-64123", "lab"] {
        fs::create_dir_all(at("secrets").join(tenant)).unwrap();
        fs::write(at("secrets").join(tenant).join("token"), "s3cret-of-the-tenant").unwrap();
    }
    fs::set_permissions(at("secrets"), Permissions::from_mode(0o700)).unwrap();
    let setup = Setup {
        peers: 1,
        api: API,
        users: true,
        runtimes,
        executor: "run_as = \"user\"\n",
        more: |_| {
            "[executor.mounts]\nwritable = [\"ROOT/home\"]\n[artifacts]\nroots = [\"ROOT/home\"]\n\
             [secrets]\ndir = \"ROOT/secrets\"\n[executor.docker]\nallowed_images = [\"stint-test/*\"]\n"
                .into()
        },
        ..Setup::default()
    };
    World::start_in(root, setup).await
}

/// Until the node offers so much, and so whatever else its configuration says by now.
async fn until_offered(world: &World, cpu_milli: u64) {
    let until = Instant::now() + PATIENCE;
    loop {
        let nodes = world.cluster.client().list_nodes().await.unwrap();
        if nodes.iter().any(|node| node.cpu_milli == cpu_milli) {
            return;
        }
        assert!(Instant::now() < until, "{nodes:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A submit with these words before the command.
fn command<'a>(verb: &'a str, runtime: &'a str, options: &[&'a str], program: &[&'a str]) -> Vec<&'a str> {
    let first = [verb, "--runtime", runtime, "--class", "cpu_short", "--memory", "64MiB"];
    [&first, options, &["--"], program].concat()
}

#[tokio::test]
async fn programs_of_a_user_are_that_users_with_its_groups_home_files_and_secrets() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root alone runs programs as others");
        return;
    }
    let world = machine().await;
    let own = home(&world, "alice");
    for runtime in RUNTIMES {
        let script = format!(
            "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | paste -sd ' '; echo $USER $LOGNAME $HOME; cat ~/own; \
             cat in.txt; cat \"$TOKEN_FILE\" >/dev/null && stat -c '%u %a' . in.txt \"$TOKEN_FILE\"; echo made >~/made-{runtime}; \
             cat {bob} 2>/dev/null || echo not of bob; echo kept >out.txt",
            bob = home(&world, "bob").join("own").display()
        );
        let input = format!("in.txt={}", own.join("own").display());
        let options = ["--input", &input, "--secret", "token", "--output-file", "out.txt", "--name", runtime];
        let (code, out, err) =
            world.member(ALICE, &command("run", runtime, &options, &["sh", "-c", &script]));
        assert_eq!(code, 0, "{runtime}: {out}{err}");
        let expected = format!(
            "{ALICE}\n{ALICE}\n{GROUP} {ALICE} {LAB}\nalice alice {}\nof alice\nof alice\n{ALICE} 700\n{ALICE} 644\n{ALICE} 400\n\
             not of bob\n",
            own.display()
        );
        assert_eq!(out, expected, "{runtime}");
        assert_eq!(fs::metadata(own.join(format!("made-{runtime}"))).unwrap().uid(), ALICE);
        assert!(world.done(ALICE, &["outputs", runtime]).contains("out.txt"), "{runtime}");
        assert!(world.done(ALICE, &["status", runtime]).contains(&format!("user {ALICE}")));
        // It reads and cancels what it has, and for others it is as if nothing were there.
        let id = world.done(ALICE, &command("submit", runtime, &["-o", "quiet"], &["sleep", "600"]));
        for asked in [&["status", &id][..], &["cancel", &id], &["logs", runtime], &["result", runtime]] {
            let (code, _, err) = world.member(BOB, asked);
            assert!(code == 1 && err.contains("no task"), "{asked:?}: {err}");
        }
        world.done(ALICE, &["cancel", &id]);
        assert_eq!(world.member(ALICE, &["wait", &id]).0, 1, "it was cancelled");
    }
    assert!(world.ids(BOB, &[]).is_empty());
    // Root, and users of the system, are nobody whom programs run as: those are their tenants'.
    for (caller, name) in [(0, "default"), (33, "uid-33")] {
        let out =
            world.done(caller, &command("run", "process", &[], &["sh", "-c", "id -u; id -G; echo $USER"]));
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("200") && lines[0] == lines[1] && lines[2] == name, "{caller}: {out}");
    }
    // So they are through a door that does not know users.
    let (code, out, err) =
        stint(&world.cluster, &command("run", "process", &["--tenant", "lab"], &["id", "-u"]));
    assert!(code == 0 && out.starts_with("200"), "{out}{err}");
}

#[tokio::test]
async fn containers_of_a_user_are_that_users_too() {
    const IMAGE: &str = "stint-test/busybox:1";
    let asked = std::process::Command::new("docker").args(["image", "inspect", IMAGE]).output();
    if !rustix::process::geteuid().is_root() || !asked.is_ok_and(|answer| answer.status.success()) {
        eprintln!("skipped: it takes root and a daemon with {IMAGE}");
        return;
    }
    let world = machine_with("\"docker\"").await;
    let own = home(&world, "alice");
    // Docker mounts the folder that holds all homes: modes keep them apart.
    let script = format!(
        "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; echo; echo $USER $HOME; cat ~/own; cat in.txt; \
         cat \"$TOKEN_FILE\" >/dev/null && stat -c '%u' . in.txt \"$TOKEN_FILE\"; echo made >~/made; \
         cat {bob} 2>/dev/null || echo not of bob",
        bob = home(&world, "bob").join("own").display()
    );
    let input = format!("in.txt={}", own.join("own").display());
    let options = ["--image", IMAGE, "--input", &input, "--secret", "token"];
    let (code, out, err) = world.member(ALICE, &command("run", "docker", &options, &["sh", "-c", &script]));
    assert_eq!(code, 0, "{out}{err}");
    let expected = format!(
        "{ALICE}\n{ALICE}\n{GROUP} {ALICE} {LAB} \nalice {}\nof alice\nof alice\n{ALICE}\n{ALICE}\n{ALICE}\nnot of bob\n",
        own.display()
    );
    assert_eq!(out, expected);
    assert_eq!(fs::metadata(own.join("made")).unwrap().uid(), ALICE);
}

#[tokio::test]
async fn nobody_gets_what_another_user_has_by_links_modes_keys_or_claims() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root alone runs programs as others");
        return;
    }
    let world = machine().await;
    let (alice, bob) = (home(&world, "alice"), home(&world, "bob"));
    fs::write(alice.join("open/file"), "behind a closed home\n").unwrap();
    symlink(alice.join("own"), bob.join("link-to-file")).unwrap();
    symlink(alice.join("open"), bob.join("link-to-folder")).unwrap();
    let sgid = bob.join("sgid");
    fs::copy("/usr/bin/id", &sgid).unwrap();
    chown(&sgid, Some(BOB), Some(LAB)).unwrap();
    fs::set_permissions(&sgid, Permissions::from_mode(0o2755)).unwrap();
    let shown = |path: PathBuf| path.display().to_string();
    for runtime in RUNTIMES {
        for path in [alice.join("own"), alice.join("open/file"), bob.join("link-to-file")] {
            let input = format!("in={}", shown(path));
            let (code, out, err) =
                world.member(BOB, &command("run", runtime, &["--input", &input], &["cat", "in"]));
            assert!(
                code != 0 && out.is_empty() && err.contains("Permission denied"),
                "{runtime} {input}: {out}{err}"
            );
        }
        for path in [alice.join("open"), bob.join("link-to-folder"), alice.join("absent")] {
            let mount = format!("{}:/seen", shown(path));
            let target = if runtime == "process" { mount.trim_end_matches(":/seen") } else { &mount };
            let (code, out, err) =
                world.member(BOB, &command("run", runtime, &["--mount", target], &["ls", "/"]));
            let same = "or not for the user that it runs as";
            assert!(code != 0 && out.is_empty() && err.contains(same), "{runtime} {target}: {out}{err}");
        }
        let (_, out, err) = world.member(BOB, &command("run", runtime, &[], &[sgid.to_str().unwrap(), "-G"]));
        assert!(out.contains(&BOB.to_string()) && !out.contains(&LAB.to_string()), "{runtime}: {out}{err}");
        // A task that only starts in a place of another's sees nothing of it.
        let there = shown(alice.join("open"));
        let (code, out, _) =
            world.member(BOB, &command("run", runtime, &["--workdir", &there], &["cat", "file"]));
        assert!(code != 0 && out.is_empty(), "{runtime}: {out}");
    }
    // Two users of one tenant: the key of a submit is of the user who made it.
    let keyed = command("submit", "process", &["--idempotency-key", "nightly", "-o", "quiet"], &["id", "-u"]);
    let id = world.done(BOB, &keyed);
    assert_eq!(world.done(BOB, &keyed), id, "a repetition is the first one's answer");
    let (code, out, err) = world.member(CARL, &keyed);
    assert!(code == 1 && out.is_empty() && err.contains("idempotency key"), "{out}{err}");
    // Nothing that a request says makes it another's.
    let file = world.cluster.root.path().join("task.toml");
    fs::set_permissions(world.cluster.root.path(), Permissions::from_mode(0o755)).unwrap();
    for claim in ["run_as = 64123", "run_as_uid = 64123", "user = 64123", "uid = 64123"] {
        fs::write(&file, format!("class = \"cpu_short\"\ncommand = [\"id\", \"-u\"]\n{claim}\n")).unwrap();
        let (code, out, err) = world.member(BOB, &["submit", "--file", file.to_str().unwrap()]);
        assert!(code != 0 && out.is_empty() && err.contains("unknown"), "{claim}: {out}{err}");
    }
    let claims = ["--env", "USER=alice", "--env", "STINT_UID=64123"];
    let (code, out, _) = world.member(BOB, &command("run", "process", &claims[..2], &["id", "-u"]));
    assert_eq!((code, out), (0, format!("{BOB}\n")));
    assert_ne!(world.member(BOB, &command("run", "process", &claims, &["id", "-u"])).0, 0);
}

#[tokio::test]
async fn a_user_that_is_gone_runs_nothing_and_a_node_that_runs_nobody_as_its_user_gets_no_such_task() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: root alone runs programs as others");
        return;
    }
    let mut world = machine().await;
    let passwd = world.cluster.root.path().join("passwd");
    let refused =
        |code: i32, text: &str, said: &str| assert!(code == 1 && text.contains(said), "{code}: {text}");
    stint(&world.cluster, &["node", "cordon", "t1"]);
    let submit = command("submit", "process", &["-o", "quiet"], &["id", "-u"]);
    let id = world.done(CARL, &submit);
    let all = fs::read_to_string(&passwd).unwrap();
    let without: String =
        all.lines().filter(|line| !line.starts_with("carl")).map(|line| format!("{line}\n")).collect();
    // In its place, as that is what is mounted.
    fs::write(&passwd, without).unwrap();
    stint(&world.cluster, &["node", "resume", "t1"]);
    assert_eq!(world.member(CARL, &["wait", &id]).0, 1);
    let status = world.done(CARL, &["status", &id]);
    refused(1, &status, "user 64125, who submitted it, is not known on this node");
    // A number of root's, or root's group, is nobody's.
    fs::write(&passwd, all.replace("carl:x:64125:64125", "carl:x:64125:0")).unwrap();
    let (code, out, err) = world.member(CARL, &command("run", "process", &[], &["id", "-u"]));
    assert!(
        code != 0 && out.is_empty() && err.contains("runs nothing as user 64125 with group 0"),
        "{out}{err}"
    );
    // The number of a tenant's programs is no user's.
    let (code, _, err) = stint(&world.cluster, &["cluster", "set", "tenant_uids=64000-64999"]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = world.member(ALICE, &submit);
    refused(code, &err, "has a number that the cluster gives to tenants");
    let (code, _, err) = stint(&world.cluster, &["cluster", "set", "tenant_uids=200000-265535"]);
    assert_eq!(code, 0, "{err}");
    // What waits for a node that lets it run as its user does not run as anybody else.
    stint(&world.cluster, &["node", "cordon", "t1"]);
    let id = world.done(ALICE, &submit);
    let peer = &mut world.cluster.peers[0];
    peer.edit("run_as = \"user\"", "run_as = \"tenant\"");
    peer.edit("cpus = 8", "cpus = 7");
    peer.kill().await;
    peer.spawn(&[]);
    peer.ready().await;
    until_offered(&world, 7_000).await;
    stint(&world.cluster, &["node", "resume", "t1"]);
    assert_eq!(world.member(ALICE, &["wait", &id]).0, 1);
    let status = world.done(ALICE, &["status", &id]);
    refused(1, &status, "this node runs nothing as user 64123, who submitted it: set executor.run_as");
    let out = world.done(ALICE, &command("run", "process", &[], &["id", "-u"]));
    assert!(out.starts_with("200"), "{out}");
}
