//! Every command of the README and of `docs/using` does what its page says: in the order of the page, on what the page says
//! to set up, each page on machines of its own. What cannot run here is marked in the page's source and counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed set-up fails the test

#[path = "pages/machine.rs"]
mod machine;
#[path = "pages/page.rs"]
mod page;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use machine::{Machines, Outcome, until};
use page::{Page, Run, Step, complete, matches};
use support::{STINT, netns};

/// Each page with the blocks that do not run here. A number grows only with a reason in the page.
const PAGES: &[(&str, usize)] = &[
    ("README.md", 1),
    ("docs/using/access.md", 4),
    ("docs/using/configuration.md", 1),
    ("docs/using/crun.md", 1),
    ("docs/using/docker.md", 3),
    ("docs/using/failures.md", 0),
    ("docs/using/files.md", 0),
    ("docs/using/first-steps.md", 1),
    ("docs/using/images.md", 0),
    ("docs/using/limits.md", 0),
    ("docs/using/logs.md", 0),
    ("docs/using/metrics.md", 0),
    ("docs/using/outages.md", 0),
    ("docs/using/process.md", 0),
    ("docs/using/programs.md", 0),
    ("docs/using/recovery.md", 0),
    ("docs/using/results.md", 0),
    ("docs/using/settings.md", 0),
    ("docs/using/simulation.md", 1),
    ("docs/using/slurm.md", 2),
    ("docs/using/upgrading.md", 1),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(name: &str) -> Page {
    let text = fs::read_to_string(repository().join(name)).unwrap();
    Page::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_page_is_tested_and_what_does_not_run_is_counted() {
    let guide = fs::read_dir(repository().join("docs/using")).unwrap();
    let names = guide.map(|entry| format!("docs/using/{}", entry.unwrap().file_name().to_str().unwrap()));
    let there: BTreeSet<String> = names.chain(["README.md".to_owned()]).collect();
    let tested: BTreeSet<String> = PAGES.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(there, tested, "a page without its line in PAGES, or a line without its page");
    for (name, left_out) in PAGES {
        let page = read(name);
        for (line, reason) in &page.left_out {
            eprintln!("{name}:{line} does not run: {reason}");
            assert!(reason.len() > 10, "{name}:{line}: say why it does not run");
        }
        assert_eq!(page.left_out.len(), *left_out, "{name}: blocks that do not run");
    }
}

/// Tests of single pages, named for them.
macro_rules! pages {
    ($($test:ident $name:literal)*) => {$(
        #[test]
        fn $test() {
            follow($name);
        }
    )*};
}

pages! {
    readme "README.md"
    access "docs/using/access.md"
    configuration "docs/using/configuration.md"
    crun "docs/using/crun.md"
    docker "docs/using/docker.md"
    failures "docs/using/failures.md"
    files "docs/using/files.md"
    first_steps "docs/using/first-steps.md"
    images "docs/using/images.md"
    limits "docs/using/limits.md"
    logs "docs/using/logs.md"
    metrics "docs/using/metrics.md"
    outages "docs/using/outages.md"
    process "docs/using/process.md"
    recovery "docs/using/recovery.md"
    results "docs/using/results.md"
    settings_of_the_cluster "docs/using/settings.md"
    simulation "docs/using/simulation.md"
    slurm "docs/using/slurm.md"
    upgrading "docs/using/upgrading.md"
}

/// Does what a page says, from its first command to its last.
fn follow(name: &str) {
    assert!(PAGES.iter().any(|(known, _)| *known == name));
    if let Some(why) = netns::missing() {
        eprintln!("{name} is skipped: {why}");
        return;
    }
    let page = read(name);
    let programs = tempfile::Builder::new().prefix("stint-page-bin-").tempdir().unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(programs.path(), everybody).unwrap();
    install(programs.path());
    let mut machines = Machines::start(page.hosts, page.docker, programs.path());
    let _tags = Tags::made_by(&page.prepare);
    prepare(name, &page, &mut machines);
    let mut printed = String::new();
    for step in &page.steps {
        match step {
            Step::File { name: file, text } => {
                let script = format!("cat >'{file}' <<'END-OF-FILE'\n{text}END-OF-FILE\n");
                assert_eq!(machines.machines[0].run(&script).code, 0, "{name}: writing {file}");
            }
            Step::Run(run) => printed += &one(name, run, &mut machines, &printed),
        }
    }
}

/// Names that a page's preparation gives to images of the machine's Docker daemon. They go when the test ends.
struct Tags(Vec<String>);

impl Tags {
    fn made_by(prepare: &str) -> Self {
        let tags = prepare.lines().filter(|line| line.starts_with("docker tag "));
        Self(tags.filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect())
    }
}

impl Drop for Tags {
    fn drop(&mut self) {
        for tag in &self.0 {
            // The page may have failed before the name was given.
            let _ = std::process::Command::new("docker").args(["rmi", tag]).output();
        }
    }
}

/// Programs that pages use, beside those of the host.
fn install(folder: &Path) {
    let stint = folder.join("stint");
    if fs::hard_link(STINT, &stint).is_err() {
        fs::copy(STINT, &stint).unwrap();
    }
    // The optimized simulator where there is one: pages simulate minutes.
    let built = Path::new(STINT).parent().unwrap();
    let simulators = [built.with_file_name("ci").join("stint-sim"), built.join("stint-sim")];
    if let Some(simulator) = simulators.iter().find(|program| program.exists()) {
        std::os::unix::fs::symlink(simulator, folder.join("stint-sim")).unwrap();
    }
}

/// Runs one block; answers what it printed.
fn one(name: &str, run: &Run, machines: &mut Machines, before: &str) -> String {
    let script = complete(&run.script, before).unwrap_or_else(|error| panic!("{name}:{}: {error}", run.line));
    let machine = &mut machines.machines[run.host - 1];
    let outcome = if run.background { machine.run_on(&script) } else { machine.run(&script) };
    let place = format!("{name}:{}\n{script}", run.line);
    assert_eq!(outcome.code, run.exit, "{place}\nIt printed:\n{}", outcome.printed);
    let expected = usize::from(run.exit != 0);
    assert!(
        outcome.failed.len() <= expected,
        "{place}\nThese failed: {:?}\nIt printed:\n{}",
        outcome.failed,
        outcome.printed
    );
    if let Some(shown) = &run.prints {
        assert!(
            matches(shown, &outcome.printed),
            "{place}\nThe page shows:\n{shown}\nIt printed:\n{}",
            outcome.printed
        );
    }
    outcome.printed
}

/// What the page takes for granted: its own preparation, and its cluster.
fn prepare(name: &str, page: &Page, machines: &mut Machines) {
    let root = machines.root.path().to_owned();
    let machine = &mut machines.machines[0];
    let run = |what: &str, outcome: Outcome| {
        let done = outcome.code == 0 && outcome.failed.is_empty();
        assert!(done, "{name}: {what}: {:?}\n{}", outcome.failed, outcome.printed);
        outcome.printed
    };
    run("preparing", machine.run(&page.prepare));
    let folders: Vec<PathBuf> = (1..=page.peers).map(|number| root.join(format!("peer-{number}"))).collect();
    let socket = |folder: &PathBuf| format!("unix:{}/stint.sock", folder.display());
    let mut args = "--bootstrap".to_owned();
    for (number, folder) in folders.iter().enumerate() {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("stint.toml"), settings(page, number, folder)).unwrap();
        run("its address", machine.run(&format!("export STINT_ADDRESS={}", socket(folder))));
        let start = format!("stint node --config {}/stint.toml {args}", folder.display());
        run("a peer", machine.run_on(&start));
        if number == 0 {
            let token =
                run("a token", machine.run("stint --output quiet cluster join-token --uses 9 2>/dev/null"));
            args = format!("--join 127.0.0.1:7001 --token {}", token.trim());
        }
    }
    if page.peers > 0 {
        let sockets: Vec<String> = folders.iter().map(socket).collect();
        let all = format!("test \"$(stint nodes | grep -cw ready)\" = {}", page.peers);
        run(
            "all peers",
            machine.run(&format!("export STINT_ADDRESS={}\n{}", sockets.join(","), until(&all))),
        );
    }
}

/// The configuration of a peer of the page's cluster.
fn settings(page: &Page, number: usize, folder: &Path) -> String {
    let dir = folder.display();
    let port = 7001 + 10 * number;
    let http = if number == 0 { "127.0.0.1:9097" } else { "" };
    let base = format!(
        "[node]\nname = \"node-{}\"\ndata_dir = \"{dir}\"\n[peers]\nlisten = \"127.0.0.1:{port}\"\nadvertise = \"127.0.0.1:{port}\"\n\
         [api]\nlisten = \"\"\n[http]\nlisten = \"{http}\"\n[executor]\ncpus = 8\nmemory = \"16GiB\"\ngpus = \"none\"\n",
        number + 1
    );
    let mut merged: toml::Table = base.parse().unwrap();
    for text in &page.settings {
        merge(&mut merged, text.parse().unwrap_or_else(|error| panic!("{text}: {error}")));
    }
    merged.to_string()
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(new)) => merge(known, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[test]
fn a_page_is_read_with_its_marks() {
    let text = "<!-- test: peers=1 hosts=2\nmkdir /data\n-->\n```sh\nfirst\n```\n```text\nout\n```\n\
                <!-- test: host=2 exit=3 -->\n```sh\nsecond\n```\n<!-- test: not run: needs a GPU -->\n```sh\nthird\n```\n";
    let page = Page::parse(text).unwrap();
    assert_eq!((page.peers, page.hosts, page.prepare.as_str()), (1, 2, "mkdir /data\n"));
    assert_eq!(page.left_out, [(15, "needs a GPU".to_owned())]);
    let [Step::Run(first), Step::Run(second)] = &page.steps[..] else { panic!("{:?}", page.steps) };
    assert_eq!((first.script.as_str(), first.prints.as_deref()), ("first\n", Some("out\n")));
    assert_eq!((second.host, second.exit), (2, 3));
}

#[test]
fn a_page_whose_marks_make_no_sense_is_refused() {
    for text in [
        "<!-- test: perrs=1 -->\n",
        "```toml\na = 1\n```\n",
        "```text\nout\n```\n",
        "<!-- test: peers=x -->\n",
    ] {
        assert!(Page::parse(text).is_err(), "{text}");
    }
}

#[test]
fn output_is_compared_with_gaps() {
    assert!(matches("a … c\n…\nend\n", "a b c\nx\ny\nend\n"));
    assert!(matches("ID   STATE\n… running\n", "ID STATE\n0192 running\n"));
    for (shown, printed) in
        [("a\n", "b\n"), ("a …\n", "b c\n"), ("a\n", "a\nb\n"), ("… done\n", "1 done later\n")]
    {
        assert!(!matches(shown, printed), "{shown:?} {printed:?}");
    }
    assert_eq!(
        complete("join --token stint1-…\n", "the token\nstint1-abc\n").unwrap(),
        "join --token stint1-abc\n"
    );
    assert!(complete("show sha256:…", "nothing").is_err());
}
