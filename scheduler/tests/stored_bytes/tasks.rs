//! Tasks, their files and their images, as the stored commands hold them.

use std::collections::BTreeMap;

use stint_protocol::*;
use stint_scheduler::*;

pub fn team() -> Tenant {
    Tenant::new("team-7").unwrap()
}

pub fn blob(number: u8) -> Blob {
    Blob { digest: Digest::from_bytes([number; 32]), size: u64::from(number) << 30 }
}

pub fn register_image(number: u8) -> RegisterImage {
    RegisterImage {
        id: ImageId(u128::from(number) << 64),
        tenant: team(),
        name: ImageName::new("team/tool:2").unwrap(),
        source: ImageSource::Executable(blob(number)),
        description: "what it does".into(),
        holders: vec![NodeId(1), NodeId(2)],
    }
}

pub fn pinned() -> PinnedImage {
    let RegisterImage { id, name, source, .. } = register_image(7);
    PinnedImage { id, name, source }
}

pub fn submit(files: Option<TaskFiles>, pinned: Option<PinnedImage>) -> Submit {
    Submit {
        tenant: team(),
        first: TaskId(0x0190_a1b2_0000_7000_8000_0000_0001_0000),
        count: 3,
        name: Some(TaskName::new("train.fold_2").unwrap()),
        spec: SharedSpec::new(TaskSpec { files: files.map(Box::new), pinned, ..spec() }),
        key: Some(IdempotencyKey::new("key-1").unwrap()),
        digest: 0xfeed_f00d_dead_beef,
        key_made_ms: Some(1_790_000_000_000),
    }
}

pub fn limited_submit() -> Submit {
    let submit = submit(Some(files()), Some(pinned()));
    let limits = Some(Box::new(task_limits()));
    Submit { spec: SharedSpec::new(TaskSpec { limits, ..TaskSpec::clone(&submit.spec) }), ..submit }
}

pub fn commented_submit() -> Submit {
    let submit = limited_submit();
    let comment = Some("for the report of week 48".into());
    Submit { spec: SharedSpec::new(TaskSpec { comment, ..TaskSpec::clone(&submit.spec) }), ..submit }
}

pub fn task_limits() -> TaskLimits {
    TaskLimits {
        pids: Some(100),
        swap_bytes: Some(1 << 30),
        tmp_bytes: Some(2 << 30),
        shm_bytes: Some(8 << 30),
        network: Some(Network::Host),
        working_dir: Some("src".into()),
        mounts: None,
    }
}

pub fn spec() -> TaskSpec {
    TaskSpec {
        class: Class::Gpu,
        command: vec!["/bin/train".into(), "--epochs=3".into()],
        runtime: Some(Runtime::Docker),
        image: Some("registry.example/train:1".into()),
        env: pairs(&[("A", "1"), ("B", "")]),
        cpu_milli: 1_500,
        memory_bytes: 8 << 30,
        gpus: Some(GpuRequest { count: 2, model: Some("H200".into()), min_memory_bytes: 100 << 30 }),
        timeout_ms: 600_000,
        priority: 80,
        retry: RetryPolicy {
            max_attempts: 5,
            backoff_ms: 1_000,
            max_backoff_ms: 60_000,
            retry_failures: true,
        },
        on_lost: OnLost::Fail,
        constraints: pairs(&[("zone", "a")]),
        stop_grace_ms: 3_000,
        files: None,
        pinned: None,
        limits: None,
        comment: None,
        run_as: None,
    }
}

pub fn files() -> TaskFiles {
    let blob = Blob { digest: Digest::from_bytes([0xb1; 32]), size: 1 << 30 };
    let input = |path: &str, source| InputFile { path: path.into(), source, digest: None, executable: false };
    let checked = InputFile {
        digest: Some(blob.digest),
        executable: true,
        ..input("bin/run", InputSource::Content(b"#!".to_vec()))
    };
    let inputs = vec![
        checked,
        input("data", InputSource::File("/data/in".into())),
        input("model", InputSource::Blob(blob)),
    ];
    let outputs = vec![
        OutputPath { path: "out".into(), optional: false },
        OutputPath { path: "log".into(), optional: true },
    ];
    let secret = |name: &str, variable: Option<&str>| SecretUse {
        name: name.into(),
        variable: variable.map(String::from),
    };
    let secrets = vec![secret("token", None), secret("key", Some("API_KEY"))];
    TaskFiles { inputs, outputs, secrets, ..TaskFiles::default() }
}

pub fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
