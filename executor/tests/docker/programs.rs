//! What every program finds and how it ends, the same with each runtime: the tables of docs/using/programs.md, a row a test.

use std::collections::BTreeMap;
use std::time::Duration;

use stint_executor::{Host, Launch, LogStream, StopReason};
use stint_protocol::{AttemptEnd, EndKind, InputFile, InputSource, LeaseId, Runtime, TaskFiles};
use tokio::time::{Instant, sleep};

use crate::support::{Client, PATIENCE, Rig, launch, processes_with, spec};
use crate::{IMAGE, docker};

const PAGE: &str = include_str!("../../../docs/using/programs.md");
const RUNTIMES: [Runtime; 3] = [Runtime::Process, Runtime::Crun, Runtime::Docker];
/// Of a program that is asked to end: what does not wait for it ends long before.
const GRACE_MS: u64 = 4_000;
const LINGERER: &str = "sleep 7193.5";

/// A row of the first table, and what holds it.
struct Row {
    what: &'static str,
    answer: &'static str,
    /// Where that is not so, and why.
    but: &'static str,
    command: &'static [&'static str],
    end: EndKind,
    /// Part of the end's message.
    message: &'static str,
    /// What the program says, by runtime.
    says: [&'static str; 3],
    stop: Stop,
}

/// Whether it is cancelled once it has said `ready`.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    No,
    EndsAtOnce,
    AfterGrace,
}

fn row(what: &'static str, answer: &'static str, command: &'static [&'static str]) -> Row {
    let (but, message, end) = ("", "", EndKind::Exited(0));
    Row { what, answer, but, command, end, message, says: [""; 3], stop: Stop::No }
}

impl Row {
    fn ends(self, end: EndKind) -> Self {
        Self { end, ..self }
    }

    fn refused(self, message: &'static str) -> Self {
        Self { end: EndKind::NotRunnable, message, ..self }
    }

    fn says(self, text: &'static str) -> Self {
        Self { says: [text; 3], ..self }
    }

    fn differs(self, but: &'static str, says: [&'static str; 3]) -> Self {
        Self { but, says, ..self }
    }

    fn stopped(self, stop: Stop) -> Self {
        Self { end: EndKind::Cancelled, says: ["ready\n"; 3], stop, ..self }
    }

    fn launch(&self, runtime: Runtime) -> Launch {
        let mut spec = spec(self.command);
        spec.image = (runtime == Runtime::Docker).then(|| IMAGE.to_owned());
        spec.files = Some(Box::new(TaskFiles { inputs: inputs(), ..TaskFiles::default() }));
        spec.stop_grace_ms = GRACE_MS;
        launch(spec, runtime)
    }
}

/// Files beside every program.
fn inputs() -> Vec<InputFile> {
    let mut other = b"\x7fELF\x02\x01\x01".to_vec();
    // An executable for MIPS, of which there is no more than the head.
    other.resize(16, 0);
    other.extend([2, 0, 8, 0, 1, 0, 0, 0]);
    other.resize(64, 0);
    let file = |path: &str, content: &[u8], executable| InputFile {
        path: path.into(),
        source: InputSource::Content(content.to_vec()),
        digest: None,
        executable,
    };
    vec![
        file("plain", b"#!/bin/sh\n", false),
        file("headless", b"echo x\n", true),
        file("lost-interpreter", b"#!/no/such/interpreter\n", true),
        file("other-machine", &other, true),
    ]
}

fn rows() -> Vec<Row> {
    let mut rows = ends();
    rows.extend(surroundings());
    rows.extend(processes());
    rows
}

fn ends() -> Vec<Row> {
    vec![
        row("It exits with 7", "`exited`, 7", &["sh", "-c", "exit 7"]).ends(EndKind::Exited(7)),
        row("It exits with 137", "`exited`, 137: no signal", &["sh", "-c", "exit 137"])
            .ends(EndKind::Exited(137)),
        row("It is killed by a signal", "`signalled`, with the signal", &["sh", "-c", "kill -9 $$"])
            .ends(EndKind::Signalled(9)),
        row("It ends itself by TERM", "`signalled`, with the signal", &["sh", "-c", "kill -15 $$"])
            .ends(EndKind::Signalled(15)),
        row("Its name is not found in PATH", "`not_runnable`", &["stint-no-such"])
            .refused("not found in PATH"),
        row("Its path is not there", "`not_runnable`", &["/no/such"]).refused("no such file where it runs"),
        row("It is not executable", "`not_runnable`", &["./plain"]).refused("permission denied"),
        row("It is a folder", "`not_runnable`", &["/tmp"]).refused("permission denied"),
        row("Its interpreter is not there", "`not_runnable`", &["./lost-interpreter"]).refused("interpreter"),
        row("It is a script without a first line", "`not_runnable`", &["./headless"]).refused("first line"),
        row("It is for another machine", "`not_runnable`", &["./other-machine"]).refused("another machine"),
    ]
}

fn surroundings() -> Vec<Row> {
    const HOME: &str = "[ \"$(pwd -P)\" = \"$HOME\" ] && touch made && echo home";
    const CLOSED: &str =
        "for n in 3 4 5 6 7 8 9 10 11 12 20; do [ -e /proc/$$/fd/$n ] && echo $n; done; echo closed";
    const SIGNALS: &str = "grep -E 'SigBlk|SigIgn' /proc/self/status | grep -v 0000000000000000; echo clean";
    vec![
        row("Where it starts", "its work folder, which is HOME and its own to write in", &["sh", "-c", HOME])
            .says("home\n"),
        row("Variables", "of task and Stint, none of the node's", &["sh", "-c", "env | grep -c CARGO"])
            .ends(EndKind::Exited(1))
            .says("0\n"),
        row("HOSTNAME among them", "not set", &["sh", "-c", "env | grep -c ^HOSTNAME=; :"])
            .differs("Docker sets it in every container", ["0\n", "0\n", "1\n"]),
        row("Its umask", "0022", &["sh", "-c", "umask"]).differs(
            "process: 0077, as it may write in folders of the node that others read",
            ["0077\n", "0022\n", "0022\n"],
        ),
        row("Open files", "0, 1 and 2", &["sh", "-c", CLOSED]).says("closed\n"),
        row("Standard input", "empty", &["sh", "-c", "cat; echo empty"]).says("empty\n"),
        row(
            "A terminal",
            "none",
            &["sh", "-c", "(: </dev/tty) 2>/dev/null || [ -t 0 ] || [ -t 1 ] || echo none"],
        )
        .says("none\n"),
        row(
            "`/dev/stdout`, `/dev/stderr`",
            "can be opened",
            &["sh", "-c", "echo err >/dev/stderr; echo out >/dev/stdout"],
        )
        .says("out\n"),
        row(
            "Its user",
            "never root",
            &["sh", "-c", "[ \"$(id -u)\" -gt 0 ] && [ \"$(id -g)\" -gt 0 ] && echo other"],
        )
        .says("other\n"),
        row("`/`", "read-only", &["sh", "-c", "touch /new 2>/dev/null || echo refused"]).says("refused\n"),
        row("`/tmp`", "its own to write in", &["sh", "-c", "touch /tmp/new && echo written"])
            .says("written\n"),
        row(
            "Programs in `/tmp`",
            "can be executed",
            &["sh", "-c", "echo 'echo run' >/tmp/p; chmod +x /tmp/p; /tmp/p || echo refused"],
        )
        .differs("Docker: not, as it mounts tmpfs so", ["run\n", "run\n", "refused\n"]),
        row(
            "The name of the machine",
            "`stint`",
            &["sh", "-c", "[ \"$(uname -n)\" = stint ] && echo stint || echo another"],
        )
        .differs("process: the node's, as it sees the node's system", ["another\n", "stint\n", "stint\n"]),
        row("Limits", "1,024 open files at first; no core files", &["sh", "-c", "ulimit -n; ulimit -c"])
            .says("1024\n0\n"),
        row("Signals", "none ignored, none blocked", &["sh", "-c", SIGNALS]).says("clean\n"),
    ]
}

fn processes() -> Vec<Row> {
    // The program itself waits for nobody.
    const ORPHANS: &str = "(n=0; while [ $n -lt 600 ]; do (true &); n=$((n+1)); done; sleep 0.5; \
        cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z') & exec sleep 8";
    const POLITE: &str = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    vec![
        row("Its number", "not 1", &["sh", "-c", "[ $$ -gt 1 ] && echo another"]).says("another\n"),
        row(
            "Process 1",
            "closed to it",
            &["sh", "-c", "(cat /proc/1/environ) >/dev/null 2>&1 || echo closed"],
        )
        .says("closed\n"),
        row("600 orphans, one after another", "are reaped", &["sh", "-c", ORPHANS]).says("0\n"),
        row("What it leaves running", "ends with it", &["sh", "-c", "sleep 7193.5 & echo left"])
            .says("left\n"),
        row(
            "It is cancelled, and does nothing about TERM",
            "it ends at once",
            &["sh", "-c", "echo ready; exec sleep 100"],
        )
        .stopped(Stop::EndsAtOnce),
        row(
            "The same with a shell that waits for another program",
            "both end at once",
            &["sh", "-c", "echo ready; sleep 100; :"],
        )
        .stopped(Stop::EndsAtOnce),
        Row {
            says: ["ready\nbye\n"; 3],
            ..row(
                "It is cancelled, and ends by itself upon TERM",
                "its last words are kept",
                &["sh", "-c", POLITE],
            )
            .stopped(Stop::EndsAtOnce)
        },
        row(
            "It is cancelled, and ignores TERM",
            "KILL after the grace",
            &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"],
        )
        .stopped(Stop::AfterGrace),
    ]
}

fn name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Process => "process",
        Runtime::Crun => "crun",
        _ => "docker",
    }
}

/// A client of a rig that has all three runtimes.
async fn open() -> (Rig, Client) {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let mut rig = Rig::new(true);
    rig.settings.runtimes = RUNTIMES.to_vec();
    rig.settings.docker.allowed_images = vec!["stint-test/*".into()];
    let client = rig.open().await;
    for runtime in RUNTIMES {
        assert_eq!(client.host.health().runtimes[&runtime], Ok(()), "run .ci/prepare");
    }
    (rig, client)
}

/// How a row ended, and how long that took from its cancel on.
async fn run(client: &mut Client, row: &Row, lease: LeaseId) -> (AttemptEnd, Duration) {
    let mut asked = Instant::now();
    if row.stop != Stop::No {
        client.until_output(lease, "ready").await;
        asked = Instant::now();
        client.host.stop(lease, StopReason::Cancelled);
    }
    (client.end(lease).await, asked.elapsed())
}

/// What is wrong with a row.
async fn fault(client: &mut Client, row: &Row, runtime: Runtime, lease: LeaseId) -> Option<String> {
    let (end, took) = run(client, row, lease).await;
    let said = client.log(lease, LogStream::Stdout).await;
    let grace = Duration::from_millis(GRACE_MS);
    let in_time = match row.stop {
        Stop::No => true,
        // Docker takes a second of a loaded processor to say that a container has ended.
        Stop::EndsAtOnce => took < grace,
        Stop::AfterGrace => took >= grace,
    };
    let expected = row.says[RUNTIMES.iter().position(|known| *known == runtime)?];
    let is_right = end.kind == row.end && end.message.contains(row.message) && said == expected && in_time;
    let found =
        format!("{} {:?}: {:?} {:?}, {said:?}, {took:?}", name(runtime), row.what, end.kind, end.message);
    (!is_right).then_some(found)
}

#[tokio::test]
async fn every_runtime_treats_programs_alike() {
    let (_rig, mut client) = open().await;
    let rows = rows();
    let mut faults = Vec::new();
    for runtime in RUNTIMES {
        let mut leases = BTreeMap::new();
        for (number, row) in rows.iter().enumerate() {
            let launch = row.launch(runtime);
            leases.insert(number, launch.lease);
            client.host.start(launch);
        }
        for (number, lease) in leases {
            faults.extend(fault(&mut client, &rows[number], runtime, lease).await);
        }
        let began = Instant::now();
        let word = LINGERER.replace(' ', "\0");
        while !processes_with(&word).is_empty() && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(processes_with(&word).is_empty(), "{runtime:?} leaves a process");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The rows of a table of the page, below this heading.
pub fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, below) = PAGE.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let lines =
        below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.skip(2).map(cells).collect()
}

#[test]
fn the_page_has_these_rows_and_no_other() {
    let rows: Vec<Vec<String>> =
        rows().iter().map(|row| [row.what, row.answer, row.but].map(str::to_owned).to_vec()).collect();
    let written = table("Every program");
    let lines: String = rows.iter().map(|row| format!("| {} |\n", row.join(" | "))).collect();
    assert_eq!(written, rows, "docs/using/programs.md should have\n{lines}");
}
