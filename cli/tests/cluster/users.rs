//! Users of a machine who are not root: through the socket of their group, each in its tenant and role.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::{Cluster, PATIENCE, STINT, Setup, stint};

pub const GROUP: u32 = 64_120;
pub const ALICE: u32 = 64_123;
pub const BOB: u32 = 64_124;
/// A member of the group without a line of its own.
pub const CARL: u32 = 64_125;
const OPERATOR: u32 = 64_126;

const API: &str = "listen = \"\"\ngroup = 64120\ngroup_socket = \"ROOT/run/stint.sock\"\n[api.users]\n\
                   64123 = { tenant = \"physics\", role = \"submit\" }\n64124 = { tenant = \"chem\", role = \"submit\" }\n\
                   64126 = { tenant = \"ops\", role = \"operator\" }\n64127 = { tenant = \"physics\", role = \"read\" }";

/// One peer whose group may call, and the program where every user may run it.
pub struct World {
    pub cluster: Cluster,
    program: PathBuf,
}

impl World {
    /// That every user may walk through.
    pub fn folder() -> TempDir {
        let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        root
    }

    async fn start(api: &'static str) -> Self {
        Self::start_in(Self::folder(), Setup { peers: 1, api, ..Setup::default() }).await
    }

    pub async fn start_in(root: TempDir, setup: Setup) -> Self {
        let program = root.path().join("stint");
        if std::fs::hard_link(STINT, &program).is_err() {
            std::fs::copy(STINT, &program).unwrap();
        }
        let cluster = Cluster::start_in(root, setup).await;
        Self { cluster, program }
    }

    /// `stint` as a user of this machine in that group.
    fn as_user(&self, uid: u32, gid: u32, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(&self.program);
        let socket = self.cluster.root.path().join("run/stint.sock");
        command.uid(uid).gid(gid).current_dir("/").env_clear();
        command.args(["--address", &format!("unix:{}", socket.display())]).args(args);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    pub fn member(&self, uid: u32, args: &[&str]) -> (i32, String, String) {
        self.as_user(uid, GROUP, args)
    }

    /// What the command prints, without its last line end.
    pub fn done(&self, uid: u32, args: &[&str]) -> String {
        let (code, out, err) = self.member(uid, args);
        assert_eq!(code, 0, "{args:?} as {uid}: {out}{err}");
        out.trim_end().to_owned()
    }

    pub fn ids(&self, uid: u32, args: &[&str]) -> Vec<String> {
        self.done(uid, &[&["ps", "--all", "-o", "quiet"], args].concat()).lines().map(String::from).collect()
    }
}

#[tokio::test]
async fn who_is_not_root_works_in_its_own_tenant_and_sees_no_one_elses() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: other users are started by root alone");
        return;
    }
    let world = World::start(API).await;
    let who: Value = serde_json::from_str(&world.done(ALICE, &["whoami", "-o", "json"])).unwrap();
    let said = [&who["tenant"], &who["role"], &who["proof"], &who["uid"], &who["all_tenants"]];
    assert_eq!(serde_json::json!(said), serde_json::json!(["physics", "submit", "local_user", ALICE, false]));
    // It submits, waits, reads, and cancels what it has, and never names its tenant.
    let run =
        ["run", "--class", "cpu_short", "--memory", "32MiB", "--name", "mine", "--", "echo", "of alice"];
    let (code, out, err) = world.member(ALICE, &run);
    assert_eq!((code, out.as_str()), (0, "of alice\n"), "{err}");
    assert_eq!(world.done(ALICE, &["logs", "mine"]), "of alice");
    let id = world.done(ALICE, &["submit", "-o", "quiet", "--memory", "32MiB", "--", "sleep", "600"]);
    assert_eq!(world.ids(ALICE, &[]).len(), 2);
    // For another user it is as if nothing were there, with and without the name of the tenant.
    assert!(world.ids(BOB, &[]).is_empty() && world.ids(BOB, &["--tenant", "physics"]).is_empty());
    for command in ["status", "logs", "result", "explain", "outputs", "cancel", "wait"] {
        for named in ["mine", id.as_str()] {
            for tenant in [&[][..], &["--tenant", "physics"]] {
                let (code, out, err) = world.member(BOB, &[&[command, named], tenant].concat());
                let (no_code, no_out, no_err) = world.member(BOB, &[&[command, "nowhere"], tenant].concat());
                assert_ne!(code, 0, "{command} {named}: {out}");
                assert_eq!(
                    (code, out, err.replace(named, "nowhere")),
                    (no_code, no_out, no_err),
                    "{command}"
                );
            }
        }
    }
    let (code, _, err) = world.member(BOB, &["submit", "--tenant", "physics", "--", "true"]);
    assert!(code == 1 && err.contains("you may not act for tenant physics"), "{err}");
    // Its own name may be the same, and means its own task.
    assert_eq!(world.member(BOB, &[&run[..8], &["echo", "of bob"]].concat()).1, "of bob\n");
    assert_eq!(world.done(BOB, &["logs", "mine"]), "of bob");
    assert_eq!(world.ids(BOB, &[]).len(), 1);
    world.done(ALICE, &["cancel", &id]);
    assert_eq!(world.member(ALICE, &["wait", &id]).0, 1, "a cancelled task did not succeed");
    // What is the cluster's takes more than its role.
    for command in
        [&["node", "drain", "t1"][..], &["cluster", "join-token"], &["cluster", "set", "placement=spread"]]
    {
        let (code, _, err) = world.member(ALICE, command);
        assert!(code == 1 && err.contains("and yours is submit"), "{command:?}: {err}");
    }
    assert!(world.done(ALICE, &["nodes"]).contains("t1"));
    who_reads_and_who_operates(&world);
    audited(&world).await;
    // Root sees all, through its own socket and through the group's.
    let (code, out, err) = stint(&world.cluster, &["ps", "--all", "-o", "quiet", "--tenant", "physics"]);
    assert_eq!((code, out.lines().count()), (0, 2), "{err}");
    assert!(world.done(0, &["whoami"]).contains("admin"));
    assert_eq!(world.ids(0, &["--tenant", "chem"]).len(), 2);
}

/// Who did what and who was refused what stands in a file that nobody else reads.
async fn audited(world: &World) {
    let file = world.cluster.peers[0].dir.join("audit.jsonl");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let expected = [
        ("local_user 64123", "SubmitTasks", "physics", true),
        ("local_user 64124", "GetTask", "physics", false),
        ("local_user 64124", "SubmitTasks", "physics", false),
        ("local_user 64126", "CancelTasks", "chem", true),
    ];
    let until = Instant::now() + PATIENCE;
    for (who, operation, of, allowed) in expected {
        loop {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let is_it = |line: &Value| {
                (&line["who"], &line["operation"], &line["of"], &line["allowed"])
                    == (&who.into(), &operation.into(), &of.into(), &allowed.into())
            };
            if lines.into_iter().any(|line| is_it(&line)) {
                break;
            }
            assert!(Instant::now() < until, "{who} {operation}: {text}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn who_reads_and_who_operates(world: &World) {
    let reader = 64_127;
    assert_eq!(world.ids(reader, &[]).len(), 2);
    for command in [&["submit", "--", "true"][..], &["cancel", "mine"]] {
        let (code, _, err) = world.member(reader, command);
        assert!(code == 1 && err.contains("takes the role submit, and yours is read"), "{err}");
    }
    let more = world.done(BOB, &["submit", "-o", "quiet", "--memory", "32MiB", "--", "sleep", "600"]);
    assert_eq!(world.ids(OPERATOR, &["--tenant", "chem"]).len(), 2);
    world.done(OPERATOR, &["cancel", "--tenant", "chem", &more]);
    world.done(OPERATOR, &["node", "cordon", "t1"]);
    world.done(OPERATOR, &["node", "resume", "t1"]);
    let (code, _, err) = world.member(OPERATOR, &["submit", "--tenant", "chem", "--", "true"]);
    assert!(code == 1 && err.contains("you may not act for tenant chem"), "{err}");
    let (code, _, err) = world.member(OPERATOR, &["node", "remove", "t1", "--force"]);
    assert!(code == 1 && err.contains("takes the role admin"), "{err}");
}

#[tokio::test]
async fn who_has_no_line_is_told_what_to_do_and_who_is_no_member_does_not_get_in() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: other users are started by root alone");
        return;
    }
    let mut world = World::start(API).await;
    let (code, _, err) = world.member(CARL, &["ps"]);
    assert!(code == 1 && err.contains("64125 = { tenant = \"default\", role = \"submit\" }"), "{err}");
    let (code, _, err) = world.as_user(ALICE, 64_999, &["ps"]);
    assert!(code == 3 && err.contains("Permission denied") && err.contains("add you to that group"), "{err}");
    // With a default role each has a tenant of its own. The socket of the process before makes room.
    let peer = &mut world.cluster.peers[0];
    peer.edit("group = 64120", "group = 64120\ndefault_role = \"submit\"");
    peer.kill().await;
    peer.spawn(&[]);
    peer.ready().await;
    let who: Value = serde_json::from_str(&world.done(CARL, &["whoami", "-o", "json"])).unwrap();
    assert_eq!((&who["tenant"], &who["role"]), (&"uid-64125".into(), &"submit".into()));
    let id = world.done(CARL, &["submit", "-o", "quiet", "--", "true"]);
    assert_eq!((world.ids(CARL, &[]), world.ids(64_130, &[])), (vec![id], vec![]));
}

#[tokio::test]
async fn a_tenant_is_removed_when_it_has_nothing_in_use_and_its_number_stays_its_own() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: other users are started by root alone");
        return;
    }
    let world = World::start(API).await;
    let root = |args: &[&str]| stint(&world.cluster, args);
    let uid = |user: u32| {
        let run =
            ["run", "--class", "cpu_short", "--runtime", "process", "--memory", "32MiB", "--", "id", "-u"];
        world.done(user, &run)
    };
    let own = uid(ALICE);
    let id = world.done(ALICE, &["submit", "-o", "quiet", "--memory", "32MiB", "--", "sleep", "600"]);
    let (code, _, err) = root(&["tenant", "set", "physics", "--weight", "3"]);
    assert_eq!(code, 0, "{err}");
    let (_, secret, err) = root(&["token", "create", "--tenant", "physics", "--role", "read", "-o", "quiet"]);
    assert!(secret.starts_with("stint"), "{err}");
    // Each sees its own, and root all.
    assert_eq!(world.done(BOB, &["tenant", "ls", "-o", "quiet"]), "");
    let (_, listed, _) = root(&["tenant", "ls", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let own_line = serde_json::json!({
        "tenant": "physics", "max_priority": 50, "weight": 3, "uid": own.parse::<u32>().unwrap(), "unfinished": 1,
        "finished": 1, "images": 0, "tokens": 1, "allowed_images": [],
        "dedicated": false
    });
    assert_eq!(listed, serde_json::json!([own_line]));
    assert!(
        world.done(ALICE, &["tenant", "ls"]).contains("physics  1           1         0       1       50")
    );
    // Administrators alone remove it, and not while anything of it is in use.
    let (code, _, err) = world.member(ALICE, &["tenant", "rm", "physics"]);
    assert!(code == 1 && err.contains("removing a tenant takes the role admin"), "{err}");
    let in_use = |what: &str, gone: &str| {
        let (code, out, err) = root(&["tenant", "rm", "physics"]);
        let said = code == 1 && out.is_empty() && err.contains(what);
        assert!(said && (gone.is_empty() || !err.contains(gone)), "{code} {out}{err}");
    };
    in_use("1 unfinished tasks (stint cancel), 1 valid tokens (stint token rm)", "");
    world.done(ALICE, &["cancel", &id]);
    world.member(ALICE, &["wait", &id]);
    in_use("it has 1 valid tokens", "unfinished");
    let (_, token, _) = root(&["token", "ls", "-o", "quiet"]);
    assert_eq!(root(&["token", "rm", token.trim()]).0, 0);
    assert_eq!(root(&["tenant", "rm", "physics"]).1, "physics removed\n");
    // Its rules are gone. What it finished is forgotten in its time, and its number is nobody else's.
    let (_, shown, _) = root(&["tenant", "show", "physics"]);
    assert!(shown.contains(&format!("physics  50            1       {own}")), "{shown}");
    let others = uid(BOB);
    assert_ne!(others, own);
    assert_eq!(uid(ALICE), own);
    let (code, _, err) = root(&["tenant", "rm", "nowhere"]);
    assert!(code == 1 && err.contains("no tenant nowhere"), "{err}");
    root(&["submit", "--memory", "32MiB", "--", "true"]);
    let (code, _, err) = root(&["tenant", "rm", "default"]);
    assert!(code == 1 && err.contains("root, whose tenant it is"), "{err}");
}
