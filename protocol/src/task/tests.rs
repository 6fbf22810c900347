//! What a task file and the flags of a submit become.

use super::*;
use crate::files::{KeepLogs, OutputPath};

fn resolve(spec: TaskSpec) -> Result<TaskSpec, InvalidSpec> {
    let rules = ClassRules::default_for(spec.class);
    spec.resolve(&rules)
}

fn arguments(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

#[test]
fn defaults_come_from_the_class() {
    let spec = resolve(TaskSpec::new(Class::Gpu, arguments("train --fast"))).unwrap();
    assert_eq!((spec.cpu_milli, spec.gpu_count(), spec.timeout_ms), (2000, 1, 600_000));
}

#[test]
fn a_short_lease_leaves_half_of_itself_to_stop() {
    let rules = ClassRules { lease_ttl_ms: 3_000, ..ClassRules::default_for(Class::CpuShort) };
    let spec = TaskSpec::new(Class::CpuShort, arguments("true"));
    assert_eq!(spec.clone().resolve(&rules).unwrap_err().field, "stop_grace_ms");
    let spec = spec.with_grace_within(&rules).resolve(&rules).unwrap();
    assert_eq!((spec.stop_grace_ms, spec.least_lease_ms()), (1_500, 3_000));
}

#[test]
fn what_slurm_runs_takes_nothing_of_its_node() {
    let mut spec = TaskSpec::new(Class::GpuSlurm, arguments("train"));
    spec.cpu_milli = 8_000;
    spec.gpus = Some(GpuRequest { count: 64, model: Some("h200".into()), min_memory_bytes: 0 });
    let spec = resolve(spec).unwrap();
    assert_eq!((spec.resources(), spec.gpu_count(), spec.leased_gpus()), (Resources::default(), 64, 0));
}

fn commented(text: &str) -> TaskSpec {
    TaskSpec { comment: Some(text.into()), ..TaskSpec::new(Class::CpuShort, arguments("x")) }
}

#[test]
fn a_comment_is_a_line_of_text_and_weighs_what_it_takes() {
    let (short, long) = (commented("für den Bericht"), commented(&"x".repeat(1024)));
    assert_eq!(resolve(short.clone()).unwrap().comment, short.comment);
    assert_eq!(resolve(long).unwrap().weight() - resolve(short).unwrap().weight(), 1024 - 16);
}

#[test]
fn refusals_say_what_to_change() {
    let mut two_gpus = TaskSpec::new(Class::Gpu, arguments("train"));
    two_gpus.gpus = Some(GpuRequest { count: 2, ..GpuRequest::default() });
    let mut slow = TaskSpec::new(Class::CpuShort, arguments("x"));
    slow.timeout_ms = 61_000;
    let mut wrong_runtime = TaskSpec::new(Class::CpuLong, arguments("x"));
    wrong_runtime.runtime = Some(Runtime::Process);
    let mut own_variable = TaskSpec::new(Class::CpuShort, arguments("x"));
    own_variable.env.insert("STINT_TASK".into(), "1".into());
    let mut no_image = TaskSpec::new(Class::CpuLong, arguments("x"));
    no_image.runtime = Some(Runtime::Docker);
    let slurm = || TaskSpec::new(Class::GpuSlurm, arguments("train"));
    let (mut image_for_slurm, mut files_for_slurm, mut memory_for_slurm) = (slurm(), slurm(), slurm());
    image_for_slurm.image = Some("registry.example/tool:1".into());
    files_for_slurm.files = Some(Box::new(TaskFiles {
        outputs: vec![OutputPath { path: "out".into(), optional: false }],
        ..TaskFiles::default()
    }));
    memory_for_slurm.gpus = Some(GpuRequest { count: 1, min_memory_bytes: 1, ..GpuRequest::default() });
    let cases = [
        (image_for_slurm, "Slurm runs what its nodes have"),
        (files_for_slurm, "do not reach Slurm's nodes"),
        (memory_for_slurm, "name a model"),
        (no_image, "image: is missing"),
        (TaskSpec::new(Class::CpuShort, vec![]), "command: is empty"),
        (TaskSpec::new(Class::CpuShort, arguments("a\0b")), "NUL"),
        (two_gpus, "at most 1 whole GPU(s), 2 asked"),
        (slow, "over the cap of class cpu_short (60000 ms)"),
        (wrong_runtime, "does not run with process: use crun, docker"),
        (own_variable, "set by Stint itself"),
        (commented(&"x".repeat(1025)), "comment: has 1025 bytes; 1024 at most"),
        (commented("two\nlines"), "write one line"),
        (commented("\u{1b}[2J"), "write one line"),
    ];
    for (spec, part) in cases {
        let message = resolve(spec).unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// What is the default needs no word, so a task that says it is one of earlier versions.
#[test]
fn a_task_says_who_keeps_its_output() {
    let of = |class, logs, record| {
        let files = Some(Box::new(TaskFiles { logs, record, ..TaskFiles::default() }));
        resolve(TaskSpec { files, ..TaskSpec::new(class, arguments("x")) })
    };
    let short = |logs, record| of(Class::CpuShort, logs, record).unwrap();
    let plain = short(Some(KeepLogs::Node), Some(true));
    assert_eq!((plain.files.clone(), plain.needs()), (None, version::OLDEST));
    for said in [short(Some(KeepLogs::Cluster), Some(true)), short(None, Some(false))] {
        assert!(said.files.is_some() && said.needs() == version::ENDINGS, "{said:?}");
    }
    assert!(of(Class::GpuSlurm, None, Some(false)).is_ok(), "no file of the task's");
    assert!(of(Class::GpuSlurm, Some(KeepLogs::Cluster), None).is_err());
    let both = of(Class::CpuShort, Some(KeepLogs::Cluster), Some(false)).unwrap_err().to_string();
    assert!(both.contains("logs_keep: is cluster, and record is false"), "{both}");
}

#[test]
fn an_image_chooses_its_runtime_unless_the_task_names_one() {
    let with = |image: &str, runtime: Option<Runtime>| {
        let spec = TaskSpec::new(Class::CpuShort, arguments("train"));
        resolve(TaskSpec { image: Some(image.into()), runtime, ..spec })
    };
    let chosen = |image, runtime| with(image, runtime).map(|spec| spec.runtime).map_err(|e| e.to_string());
    let (docker, crun, process, mock) =
        (Some(Runtime::Docker), Some(Runtime::Crun), Some(Runtime::Process), Some(Runtime::Mock));
    for (image, asked, expected) in [
        ("pytorch/pytorch:2.9", None, docker),
        ("pytorch/pytorch:2.9", docker, docker),
        ("pytorch/pytorch:2.9", mock, mock),
        ("./rootfs", mock, mock),
        ("/srv/roots/small", None, crun),
        ("/srv/roots/hello", process, process),
        ("stint://team/tool:2", None, None),
        ("stint://team/tool:2", process, process),
    ] {
        assert_eq!(chosen(image, asked), Ok(expected), "{image} {asked:?}");
    }
    for (image, asked, part) in [
        (
            "pytorch/pytorch:2.9",
            crun,
            "is a Docker reference, which crun cannot run: leave the runtime out, or name docker",
        ),
        ("busybox", process, "is a Docker reference, which process cannot run"),
        (
            "/srv/roots/small",
            docker,
            "is a path of the nodes, which docker cannot run: leave the runtime out, or name crun",
        ),
        ("./rootfs", None, "\"./rootfs\" names none: write stint://NAME"),
        ("Tool", docker, "\"Tool\" names none"),
    ] {
        let refusal = chosen(image, asked).unwrap_err();
        assert!(refusal.starts_with("image: ") && refusal.contains(part), "{refusal}");
    }
    let rules = ClassRules { runtimes: vec![Runtime::Crun], ..ClassRules::default_for(Class::Gpu) };
    let spec = TaskSpec::new(Class::Gpu, arguments("train"));
    let refused = TaskSpec { image: Some("busybox".into()), ..spec }.resolve(&rules).unwrap_err().to_string();
    assert!(refused.contains("class gpu does not run with docker: use another class"), "{refused}");
}

#[test]
fn a_spec_needs_the_highest_version_of_its_parts() {
    let needs = |change: &dyn Fn(&mut TaskSpec)| {
        let mut spec = TaskSpec::new(Class::CpuShort, arguments("true"));
        change(&mut spec);
        spec.needs()
    };
    let with_image = |spec: &mut TaskSpec| spec.image = Some("stint://tool".into());
    let with_files = |spec: &mut TaskSpec| spec.files = Some(Box::new(TaskFiles::default()));
    let with_limits = |spec: &mut TaskSpec| spec.limits = Some(Box::new(TaskLimits::default()));
    assert_eq!(needs(&|_| {}), version::OLDEST);
    assert_eq!(needs(&|spec| spec.image = Some("registry.example/tool:1".into())), version::OLDEST);
    assert_eq!(needs(&with_image), version::IMAGES);
    assert_eq!(needs(&with_files), version::TASK_FILES);
    let all = |spec: &mut TaskSpec| {
        with_image(spec);
        with_limits(spec);
        with_files(spec);
    };
    assert_eq!(needs(&all), version::TASK_LIMITS);
    assert_eq!(needs(&|spec| spec.comment = Some("why".into())), Version(5));
    assert_eq!(needs(&|spec| spec.run_as = Some(1000)), version::RUN_AS);
}

#[test]
fn a_stored_spec_reads_back_and_ignores_fields_of_later_versions() {
    let spec = resolve(TaskSpec::new(Class::CpuShort, arguments("echo hi"))).unwrap();
    let bytes = minicbor::to_vec(&spec).unwrap();
    assert_eq!(minicbor::decode::<TaskSpec>(&bytes).unwrap(), spec);
}
