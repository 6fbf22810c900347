//! Twelve kinds of attacks at once, by a tenant and by strangers, on a cluster in which another tenant works.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use quinn::ClientConfig;
use quinn::crypto::rustls::QuicClientConfig;
use stint_node::pki::{Root, joining_client};
use tokio::time::Instant;

use crate::pushed::{self, memory};
use crate::support::{Cluster, PATIENCE, STINT, Setup, stint_at};
use crate::tokens::{TCP, World};

/// What a healthy task may take longer than without attacks.
const LATER: Duration = Duration::from_secs(1);
/// What attacks may take of a peer.
const MOST_MEMORY: u64 = 64 << 20;
const ATTACKED_FOR: Duration = Duration::from_secs(12);
/// Nothing that tenant `chem` or a stranger gets may hold one of these: output, secret, input and comment of `physics`.
const KEPT: [&str; 4] =
    ["output-of-physics-7f3a", "secret-of-physics-91bc", "input-of-physics-55d0", "comment-of-physics"];

/// What is attacked, and by whom.
struct Drill {
    world: World,
    /// Tokens of tenant `chem`: a good one, and one that was revoked.
    chem: String,
    revoked: String,
    /// A task of `physics` that has ended and one that runs.
    ended: String,
    runs: String,
    over: AtomicBool,
    /// Of each attack.
    tries: [AtomicUsize; 12],
}

type Attack = fn(&Drill);

const ATTACKS: [(&str, Attack); 12] = [
    ("asks for what another tenant has", asks_for_others),
    ("claims another tenant", claims_a_tenant),
    ("shows forged and revoked tokens", shows_bad_tokens),
    ("asks for what takes a higher role", asks_for_more),
    ("joins with a token that it made up", joins),
    ("pushes peers' ports without a certificate", pushes),
    ("holds idle connections", holds_idle_connections),
    ("asks slowly", asks_slowly),
    ("sends what is no request", sends_rubbish),
    ("runs programs that look around", looks_around),
    ("runs programs that take all they can", takes_all),
    ("floods the queue", floods),
];

impl Drill {
    async fn start() -> Self {
        let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
        let secrets = root.path().join("secrets/physics");
        std::fs::create_dir_all(&secrets).unwrap();
        std::fs::write(secrets.join("key"), KEPT[1]).unwrap();
        let input = root.path().join("input");
        std::fs::write(&input, KEPT[2]).unwrap();
        let setup = Setup {
            api: TCP,
            executor: "max_disk_bytes = \"64MiB\"\n",
            more: |_| "[secrets]\ndir = \"ROOT/secrets\"\n".into(),
            ..Setup::default()
        };
        let world = World::with_api(Cluster::start_in(root, setup).await).await;
        let (chem, _) = world.make(&["--tenant", "chem", "--role", "submit"]);
        let (revoked, id) = world.make(&["--role", "admin"]);
        assert_eq!(stint_at(&world.cluster, 0, &["token", "rm", &id]).0, 0);
        let submit = |name: &str, script: &str| {
            let input = format!("in={}", input.display());
            let head = ["submit", "-o", "quiet", "--tenant", "physics", "--memory", "32MiB", "--name", name];
            let what =
                ["--comment", KEPT[3], "--secret", "key=KEY", "--input", &input, "--", "sh", "-c", script];
            let (code, out, err) = stint_at(&world.cluster, 0, &[&head[..], &what].concat());
            assert_eq!(code, 0, "{err}");
            out.trim().to_owned()
        };
        let ended = submit("ended", &format!("echo {}; cat in", KEPT[0]));
        let runs = submit("runs", &format!("echo {}; sleep 600", KEPT[0]));
        let (code, _, err) = stint_at(&world.cluster, 0, &["wait", "--tenant", "physics", &ended]);
        assert_eq!(code, 0, "{err}");
        let (_, out, _) = stint_at(&world.cluster, 1, &["logs", "--tenant", "physics", &ended]);
        assert!(out.contains(KEPT[0]) && out.contains(KEPT[2]), "there is something to read: {out}");
        Self { world, chem, revoked, ended, runs, over: AtomicBool::new(false), tries: Default::default() }
    }

    /// Whether an attack has not been made once from end to end.
    fn has_more_to_try(&self) -> bool {
        self.tries.iter().any(|tries| tries.load(SeqCst) < 2)
    }

    fn count_a_try(&self) {
        self.tries[PLACE.get()].fetch_add(1, SeqCst);
    }

    /// Whether to try once more, after a pause.
    fn goes_on(&self) -> bool {
        self.count_a_try();
        std::thread::sleep(Duration::from_millis(150));
        !self.over.load(SeqCst)
    }

    /// What `stint` answers to who shows this token. It never holds what is kept.
    fn ask(&self, token: &str, args: &[&str]) -> (i32, String) {
        let (code, out, err) = self.world.with_token(token, args);
        for kept in KEPT {
            assert!(!out.contains(kept) && !err.contains(kept), "{args:?} tells {kept}: {out}{err}");
        }
        (code, out + &err)
    }

    fn refused(&self, token: &str, args: &[&str]) {
        let (code, said) = self.ask(token, args);
        assert_ne!(code, 0, "{args:?} is answered: {said}");
    }

    /// How long a healthy task takes through this peer, its command included.
    fn healthy(&self, peer: usize) -> Duration {
        let began = Instant::now();
        let run = [
            "run",
            "--tenant",
            "physics",
            "--class",
            "cpu_short",
            "--memory",
            "32MiB",
            "--",
            "echo",
            "healthy",
        ];
        let (code, out, err) = stint_at(&self.world.cluster, peer, &run);
        assert_eq!((code, out.as_str()), (0, "healthy\n"), "through peer {peer}: {err}");
        began.elapsed()
    }
}

thread_local! {
    /// Of the attack that this thread makes, in `ATTACKS`.
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// Attackers have machines of their own: here they take what the peers and their programs leave of the processors.
fn attack_from_elsewhere(drill: &Drill, place: usize) {
    PLACE.set(place);
    // Of this thread, and of what it starts.
    rustix::process::setpriority_process(None, 19).unwrap();
    ATTACKS[place].1(drill);
}

fn asks_for_others(drill: &Drill) {
    while drill.goes_on() {
        for command in ["status", "logs", "result", "explain", "outputs", "cancel", "wait"] {
            for task in [&drill.ended, &drill.runs, "ended", "runs"] {
                drill.refused(&drill.chem, &[command, task]);
                drill.refused(&drill.chem, &[command, "--tenant", "physics", task]);
                if !drill.goes_on() {
                    return;
                }
            }
        }
        for listed in
            [&["ps", "--all"][..], &["ps", "--all", "--tenant", "physics"], &["image", "ls"], &["nodes"]]
        {
            let (_, said) = drill.ask(&drill.chem, listed);
            assert!(!said.contains(&drill.ended) && !said.contains(&drill.runs), "{said}");
        }
    }
}

fn claims_a_tenant(drill: &Drill) {
    while drill.goes_on() {
        drill.refused(&drill.chem, &["submit", "--tenant", "physics", "--", "true"]);
        drill.refused(
            &drill.chem,
            &["run", "--class", "cpu_short", "--secret", "key=KEY", "--", "sh", "-c", "echo $KEY"],
        );
        drill.refused(
            &drill.chem,
            &["run", "--class", "cpu_short", "--secret", "../physics/key=KEY", "--", "true"],
        );
    }
}

fn shows_bad_tokens(drill: &Drill) {
    let cut = &drill.chem[..drill.chem.len() - 1];
    while drill.goes_on() {
        for token in ["", "x", "stintat1-00000000000000000000000000000000", cut, &drill.revoked] {
            drill.refused(token, &["ps", "--all", "--tenant", "physics"]);
        }
    }
}

fn asks_for_more(drill: &Drill) {
    let state = drill.world.cluster.root.path().join("stolen");
    let state = state.to_string_lossy();
    while drill.goes_on() {
        for command in [
            &["token", "create", "--role", "admin"][..],
            &["cluster", "join-token"],
            &["cluster", "snapshot", "save", &state],
            &["node", "remove", "t2", "--force"],
            &["node", "drain", "t2"],
            &["tenant", "set", "chem", "--max-priority", "100"],
            &["cluster", "transfer-leader"],
        ] {
            drill.refused(&drill.chem, command);
        }
    }
    assert!(std::fs::metadata(&*state).map_or(true, |file| file.len() == 0), "the state was saved");
}

fn joins(drill: &Drill) {
    let folder = drill.world.cluster.root.path().join("stranger");
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("stint.toml");
    let text = format!(
        "[node]\ndata_dir = {folder:?}\n[api]\nlisten = \"\"\n[http]\nlisten = \"\"\n[peers]\nlisten = \"127.0.0.1:0\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let address = drill.world.cluster.address_of(0);
    while drill.goes_on() {
        let token = format!("stint1-{}", "0".repeat(96));
        let mut command = std::process::Command::new(STINT);
        command.args(["node", "--config"]).arg(&config).args(["--join", &address, "--token", &token]);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "it joined");
    }
}

fn pushes(drill: &Drill) {
    let ca = std::fs::read_to_string(drill.world.cluster.peers[0].dir.join("pki/ca.pem")).unwrap();
    let tls = joining_client(Root(ca).fingerprint().unwrap()).unwrap();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for peer in (0..3).cycle().take(60) {
        let address = drill.world.cluster.address_of(peer).parse().unwrap();
        let body = if peer == 0 { &pushed::BODY[..4_096] } else { &pushed::BODY[..1_000] };
        runtime.spawn(pushed::push(config.clone(), address, body));
    }
    runtime.block_on(async {
        while !drill.over.load(SeqCst) {
            drill.count_a_try();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

fn holds_idle_connections(drill: &Drill) {
    while drill.goes_on() {
        let peer = &drill.world.cluster.peers[0];
        let connections = pushed::idle(150, peer.http, drill.world.api, &peer.dir.join("stint.sock"));
        for _ in 0..20 {
            if !drill.goes_on() {
                return;
            }
        }
        drop(connections);
    }
}

fn asks_slowly(drill: &Drill) {
    while drill.goes_on() {
        for peer in &drill.world.cluster.peers {
            pushed::drip(peer.http, &drill.over);
        }
    }
}

/// Bytes that are no request, to each port, and requests that are too large.
fn sends_rubbish(drill: &Drill) {
    let large = vec![b'x'; 1 << 20];
    while drill.goes_on() {
        let http = drill.world.cluster.peers[0].http;
        for (port, head) in [
            (http, &b"\x16\x03\x01\xff\xff\0\0"[..]),
            (http, b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n"),
            (http, b"GET /metrics HTTP/1.1\r\nX: "),
            (drill.world.api.port(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            (drill.world.api.port(), b"\x16\x03\x01\x40\0\x01\0\x3f\xfc\x03\x03"),
        ] {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let _ = stream.write_all(head).and_then(|()| stream.write_all(&large));
            let mut answer = Vec::new();
            let _ = stream.take(1 << 20).read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            assert!(!KEPT.iter().any(|kept| answer.contains(kept)), "{answer}");
        }
    }
}

/// What runs for one tenant finds nothing of another, nor of the peer, and ends nobody.
fn looks_around(drill: &Drill) {
    let root = drill.world.cluster.root.path().display().to_string();
    let script = format!(
        "cat {root}/*/stint.toml {root}/*/pki/* {root}/*/credentials/* {root}/secrets/*/* {root}/input; \
         find {root}/*/executor /proc/[0-9]* -maxdepth 6 -type f 2>/dev/null | head -n 2000 | while read f; do head -c 4096 \"$f\"; done; \
         ls -l {root}/*/stint.sock && echo rea\"\"ched; kill -9 -1"
    );
    while drill.goes_on() {
        let run = [
            "run",
            "--class",
            "cpu_short",
            "--memory",
            "32MiB",
            "--timeout",
            "20s",
            "--",
            "sh",
            "-c",
            &script,
        ];
        let (_, said) = drill.ask(&drill.chem, &run);
        assert!(!said.contains("PRIVATE KEY") && !said.contains("reached"), "{said}");
    }
}

fn takes_all(drill: &Drill) {
    let hogs = [
        "head -c 400000000 /dev/zero | tail -c 399999999 | wc -c",
        "i=0; while [ $i -lt 600 ]; do sleep 5 & i=$((i+1)); done; wait",
        "head -c 2000000000 /dev/zero > big; sleep 5",
        "head -c 30000000 /dev/zero",
    ];
    for script in hogs.iter().cycle() {
        if !drill.goes_on() {
            return;
        }
        let run = [
            "submit",
            "-o",
            "quiet",
            "--class",
            "cpu_short",
            "--memory",
            "32MiB",
            "--timeout",
            "5s",
            "--",
            "sh",
            "-c",
            script,
        ];
        drill.ask(&drill.chem, &run);
    }
}

fn floods(drill: &Drill) {
    let long = "x".repeat(100_000);
    while drill.goes_on() {
        for what in [
            &["--count", "200", "--cpus", "4000", "--priority", "50", "--", "true"][..],
            &["--count", "50", "--priority", "50", "--retries", "0", "--", "no-such-program"],
            &["--name", "\u{1b}[2J", "--", "true"],
            &["--priority", "100", "--count", "1000", "--", "true"],
            &["--", "true", &long],
        ] {
            drill.ask(&drill.chem, &[&["submit", "-o", "quiet", "--memory", "32MiB"], what].concat());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_attacks_at_once_reach_nothing_and_hold_up_nobody() {
    let drill = Drill::start().await;
    let quiet: Vec<Duration> = (0..9).map(|round| drill.healthy(round % 3)).collect();
    let quiet = quiet.into_iter().max().unwrap();
    let before: Vec<u64> = drill.world.cluster.peers.iter().map(memory).collect();
    let (mut times, mut most) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let attacks: Vec<_> = (0..ATTACKS.len())
            .map(|place| {
                let drill = &drill;
                scope.spawn(move || attack_from_elsewhere(drill, place))
            })
            .collect();
        let (began, until) = (Instant::now(), Instant::now() + ATTACKED_FOR);
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for peer in (0..3).cycle().take_while(|_| Instant::now() < until || drill.has_more_to_try()) {
                times.push(drill.healthy(peer));
                assert!(began.elapsed() < PATIENCE, "attacks that do not come about: {:?}", drill.tries);
                let peers = drill.world.cluster.peers.iter().zip(&before);
                most = peers.map(|(peer, before)| memory(peer).saturating_sub(*before)).fold(most, u64::max);
            }
        }));
        drill.over.store(true, SeqCst);
        for (attack, (name, _)) in attacks.into_iter().zip(ATTACKS) {
            assert!(attack.join().is_ok(), "it {name}: see above");
        }
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    times.sort();
    let (middle, worst) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!("tries: {:?}", drill.tries);
    eprintln!(
        "{} healthy tasks: {middle:?}, at worst {worst:?} (without attacks {quiet:?}); {} KiB of a peer",
        times.len(),
        most >> 10
    );
    assert!(most < MOST_MEMORY, "attacks take {} MiB of a peer", most >> 20);
    // Who attacks shares this machine with the peers: one task may be late.
    assert!(middle < quiet + LATER && worst < quiet + 5 * LATER, "{times:?}, without attacks {quiet:?}");
    // What was attacked is as it was.
    let (_, listed, _) = stint_at(
        &drill.world.cluster,
        2,
        &["ps", "--tenant", "physics", "--state", "running", "-o", "quiet"],
    );
    assert_eq!(listed.trim(), drill.runs);
    let (_, nodes, _) = stint_at(&drill.world.cluster, 2, &["nodes", "-o", "quiet"]);
    assert_eq!(nodes.lines().count(), 3, "{nodes}");
    assert!(drill.world.cluster.peers.iter().all(|peer| peer.pid().is_some()));
}
