//! Modules and scripts of Python in the place of a command, through the real binary. Needs python3 in /usr/bin, and the
//! engine and image of `.ci/prepare` for the one in a container.
#![allow(clippy::unwrap_used)] // a failed set-up fails the test

mod support;

use support::{Cluster, Setup, stint, stint_at};

fn only_our_images(_: usize) -> String {
    "[executor.docker]\nallowed_images = [\"stint-test/*\"]\n".into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_and_a_script_run_as_processes() {
    let cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let file = cluster.root.path().join("task.toml");
    let task = "class = \"cpu_short\"\nruntime = \"python\"\ncommand = [\"team.hello\", \"-v\", \"a b\"]\ninputs = [\n\
                { path = \"team/__init__.py\", content = \"\" },\n\
                { path = \"team/hello.py\", content = \"import sys; print(__name__, sys.argv[1:])\" },\n\
                { path = \"more.py\", content = \"import os; print(os.environ['STINT_CLASS']); raise SystemExit(7)\" },\n]\n";
    std::fs::write(&file, task).unwrap();
    let file = file.display().to_string();
    let (code, out, err) = stint(&cluster, &["run", "-f", &file]);
    assert_eq!((code, out.as_str()), (0, "__main__ ['-v', 'a b']\n"), "{err}");
    let (code, out, err) = stint(&cluster, &["run", "-f", &file, "--", "more.py"]);
    assert_eq!((code, out.as_str()), (7, "cpu_short\n"), "{err}");
    let (code, _, err) = stint(&cluster, &["run", "-f", &file, "--", "team.absent"]);
    assert!(code == 1 && err.contains("No module named team.absent"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_neither_is_refused_and_a_missing_interpreter_is_told() {
    let runtimes = "\"docker\", \"process\"";
    let cluster =
        Cluster::start(Setup { peers: 1, runtimes, more: only_our_images, ..Setup::default() }).await;
    let python = ["run", "--runtime", "python", "--class", "cpu_short"];
    let run = |args: &[&str]| stint(&cluster, &[&python, args].concat());
    let (code, _, err) = run(&["--", "/bin/echo", "hello"]);
    assert!(code != 0 && err.contains("\"/bin/echo\" is neither a module"), "{err}");
    // An interpreter is looked up in the task's own PATH.
    let (code, _, err) = run(&["--env", "PATH=/nowhere", "--", "train.py"]);
    assert!(code == 127 && err.contains("\"python3\": command not found in PATH"), "{code}: {err}");
    let (code, _, err) = run(&["--image", "stint-test/busybox:1", "--", "team.train"]);
    assert!(code == 127 && err.contains("\"python3\": command not found in PATH"), "{code}: {err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_a_single_program_is_refused_with_what_to_do() {
    let cluster = Cluster::start(Setup { peers: 2, ..Setup::default() }).await;
    let program = cluster.root.path().join("tool");
    std::fs::write(&program, "#!/bin/sh\necho \"tool $*\"\n").unwrap();
    let (code, _, err) = stint(&cluster, &["image", "register", "tool", &program.display().to_string()]);
    assert_eq!(code, 0, "{err}");
    // Through the other peer, which may not have heard of it yet.
    let run = |args: &[&str]| stint_at(&cluster, 1, &[&["run", "--image", "stint://tool"], args].concat());
    let (code, out, err) = run(&["--runtime", "python", "--", "team.train", "--fast"]);
    assert!(code != 0 && out.is_empty(), "{code}: {out}");
    assert!(err.contains("image tool is a single program, which has no place for python"), "{err}");
    assert!(err.contains("leave the runtime out"), "{err}");
    let (code, out, err) = run(&["--", "team.train", "--fast"]);
    assert_eq!((code, out.as_str()), (0, "tool team.train --fast\n"), "{err}");
}
