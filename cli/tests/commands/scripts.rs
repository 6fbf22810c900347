//! A local script that is sent along, and the examples of every help.

use stint_sdk::v1;

use crate::fake::{finished, running};
use crate::images::image;
use crate::{Done, World};

/// A file that may be executed.
fn executable(world: &World, name: &str, text: &str) {
    let path = world.write(name, text);
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_script_that_is_named_by_a_relative_path_is_sent_along() {
    use v1::input_file::Source;
    let world = World::new();
    std::fs::create_dir(world.folder.path().join("scripts")).unwrap();
    executable(&world, "scripts/job.sh", "#!/bin/sh\necho hi\n");
    world.write("t.toml", "command = [\"scripts/job.sh\", \"--slow\"]\n");
    for (line, path) in [
        ("submit -- scripts/job.sh --fast", "job.sh"),
        ("submit -- ./scripts/../scripts/job.sh --fast", "job.sh"),
        ("submit --workdir src -- scripts/job.sh --fast", "src/job.sh"),
        ("submit --workdir /work/src -- scripts/job.sh --fast", "src/job.sh"),
        ("submit --image stint://base -- scripts/job.sh --fast", "job.sh"),
        ("submit -f t.toml", "job.sh"),
    ] {
        let done = Done::run(world.shell(&format!("stint {line}"))).await;
        assert_eq!((done.code, done.stderr.as_str()), (0, "stint: 1 task accepted\n"), "{line}");
        let spec = world.spec();
        assert_eq!((spec.command[0].as_str(), spec.command.len()), ("./job.sh", 2), "{line}");
        let [input] = &spec.inputs[..] else { panic!("{line}: {:?}", spec.inputs) };
        assert_eq!((input.path.as_str(), input.executable), (path, true), "{line}");
        assert_eq!(input.source, Some(Source::Content(b"#!/bin/sh\necho hi\n".to_vec())));
    }
}

#[tokio::test]
async fn what_the_nodes_have_is_not_sent_along() {
    let world = World::new();
    executable(&world, "job.sh", "#!/bin/sh\n");
    executable(&world, "tool", "\x7fELF");
    executable(&world, "empty", "");
    world.write("data.sh", "#!/bin/sh\n");
    let absolute = world.folder.path().join("job.sh").display().to_string();
    for (line, inputs, said) in [
        (format!("-- {absolute}"), 0, ""),
        ("-- job.sh".into(), 0, ""),
        ("-- ./absent.sh".into(), 0, ""),
        ("--class gpu_slurm -- ./job.sh".into(), 0, ""),
        ("--workdir /srv -- ./job.sh".into(), 0, ""),
        ("--input job.sh=data.sh -- ./job.sh".into(), 1, ""),
        ("-- ./tool".into(), 0, "./tool of this machine is not sent along: it does not begin with #!"),
        ("-- ./empty".into(), 0, "it does not begin with #!"),
        ("-- ./data.sh".into(), 0, "it is not executable (chmod +x); --input sends any file"),
        ("--image team/app:1 -- ./tool".into(), 0, ""),
    ] {
        let done = Done::run(world.shell(&format!("stint submit -o quiet {line}"))).await;
        assert_eq!(done.code, 0, "{line}: {}", done.stderr);
        assert!(
            done.stderr.contains(said) && done.stderr.is_empty() == said.is_empty(),
            "{line}: {}",
            done.stderr
        );
        let (spec, named) = (world.spec(), line.rsplit(' ').next().unwrap());
        assert_eq!((spec.inputs.len(), spec.command[0].as_str()), (inputs, named), "{line}");
    }
    executable(&world, "large.sh", &format!("#!/bin/sh\n{}", "#".repeat(256 << 10)));
    let done = Done::run(world.shell("stint submit -- ./large.sh")).await;
    assert_eq!((done.code, done.stdout.as_str()), (2, ""));
    assert!(
        done.stderr.contains("./large.sh is over 262144 bytes, the most that goes with a task"),
        "{}",
        done.stderr
    );
}

/// Examples that are not tried: they start or change a node of this machine, or another program.
const NOT_TRIED: [&str; 5] =
    ["stint node --", "stint demo", "stint sim ", "stint cluster recover", "stint cluster snapshot"];

#[tokio::test]
async fn the_examples_of_every_help_work_as_they_are_written() {
    let mut task = finished(running("task-0", 1), "exited", 0);
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into();
    let blob = Some(v1::Blob { digest, size_bytes: 0 });
    let outcome = task.outcome.as_mut().unwrap();
    outcome.attempt = 1;
    outcome.outputs =
        vec![v1::KeptFile { path: "model.bin".into(), blob, stored: true, executable: false, gone: false }];
    let world = World::with_task([task]);
    *world.fake.result.lock().unwrap() = "{}".into();
    *world.fake.images.lock().unwrap() = vec![image("tool")];
    *world.fake.tasks.lock().unwrap() = vec![running("task-0", 0)];
    for script in ["job.sh", "trial.sh", "convert.sh", "tool"] {
        executable(&world, script, "#!/bin/sh\n");
    }
    for file in ["data.csv", "train.py", "rootfs.tar.gz"] {
        world.write(file, "x");
    }
    let shown = world.stint(&["submit", "--help"]).await.stdout;
    let of_file = shown.lines().skip_while(|line| !line.starts_with("A task file is")).skip(1);
    let task: Vec<&str> = of_file.take_while(|line| !line.is_empty() && *line != "Examples:").collect();
    assert!(task.iter().any(|line| line.contains("image = ")), "{shown}");
    world.write("train.toml", &task.join("\n"));
    let all = world.stint(&["--help"]).await.stdout;
    let listed =
        all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = listed
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !["help", "sim"].contains(name));
    let mut tried = 0;
    for name in commands {
        let help = world.stint(&[name, "--help"]).await.stdout;
        let examples =
            help.lines().skip_while(|line| *line != "Examples:").filter_map(|line| line.strip_prefix("  "));
        for example in examples
            .filter(|line| line.contains("stint ") && !NOT_TRIED.iter().any(|not| line.starts_with(not)))
        {
            // What follows wide space explains it; what a pipe leads to may not be here.
            let line = example.split("   ").next().unwrap().split(" | jq").next().unwrap();
            if line.starts_with("docker ") {
                continue;
            }
            let done = Done::run(world.shell(line)).await;
            assert_eq!(done.code, 0, "{name}: {line}: {}", done.stderr);
            tried += 1;
        }
    }
    assert!(tried > 30, "only {tried} examples were found");
}
