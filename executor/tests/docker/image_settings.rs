//! What an image says of how it is run: the second table of docs/using/programs.md, on Docker and on crun.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stint_executor::{
    Host, ImageConfig, ImageFiles, Launch, LogStream, StopReason, Store, StoreError, StoreFuture,
};
use stint_protocol::{Blob, EndKind, Runtime, TaskLimits, TaskSpec, Tenant};

use crate::programs::table;
use crate::support::{Client, Rig, assert_kind, launch, spec};
use crate::{IMAGE, docker};

const RUNTIMES: [Runtime; 2] = [Runtime::Crun, Runtime::Docker];

const ROWS: [[&str; 3]; 8] = [
    ["`WORKDIR`", "the program starts there, unless the task says where; HOME is the work folder", ""],
    ["`ENV`", "set; the task's own variables win", ""],
    ["`USER`", "not used: the user is the node's choice", ""],
    ["`ENTRYPOINT`", "stays in front of the task's command, as `docker run` has it", ""],
    ["`CMD`", "runs when the task names no command, behind `ENTRYPOINT`", ""],
    ["`STOPSIGNAL`", "sent in the place of TERM", ""],
    ["`VOLUME`", "an empty folder, its program's own, which counts as disk of the attempt", ""],
    ["`HEALTHCHECK`", "not run", ""],
];

#[test]
fn the_page_has_these_settings_and_no_other() {
    let rows = ROWS.map(|row| row.map(str::to_owned).to_vec()).to_vec();
    assert_eq!(table("What an image says"), rows);
}

/// The same for both runtimes.
fn config() -> ImageConfig {
    let strings = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    ImageConfig {
        entrypoint: strings(&["/bin/echo", "entry"]),
        command: strings(&["default"]),
        environment: strings(&["OF_IMAGE=image", "OF_BOTH=image"]),
        working_dir: Some("/srv/app".into()),
        stop_signal: Some("SIGINT".into()),
        volumes: strings(&["/data", "/var/cache/x/"]),
    }
}

/// An image of this test process.
struct Built(String);

impl Built {
    fn new(entrypoint: &[String]) -> Self {
        // Kept by the commit, which does not take it as a change.
        let container = docker(&["create", "--stop-signal", "SIGINT", IMAGE, "/bin/true"]);
        let shown = format!("ENTRYPOINT {entrypoint:?}");
        let changes = [
            &*shown,
            "CMD [\"default\"]",
            "ENV OF_IMAGE=image",
            "ENV OF_BOTH=image",
            "WORKDIR /srv/app",
            "VOLUME /data",
            "VOLUME /var/cache/x/",
            "USER 0",
            "HEALTHCHECK --interval=200ms CMD touch /work/checked",
        ];
        let name = format!("stint-test/settings-{}-{}:1", std::process::id(), entrypoint.len());
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        docker(&["commit"].into_iter().chain(changes).chain([&*container, &name]).collect::<Vec<_>>());
        docker(&["rm", &container]);
        Self(name)
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

/// Has one image, which is a folder, with this entry point.
struct OneImage(PathBuf, Vec<String>);

impl Store for OneImage {
    fn image(&self, _: &Tenant, _: &str) -> StoreFuture<ImageFiles> {
        let config = ImageConfig { entrypoint: self.1.clone(), ..config() };
        let root = ImageFiles::Root { folder: self.0.clone(), config: Arc::new(config) };
        Box::pin(async { Ok(root) })
    }

    fn release(&self, _: &Tenant, _: &str) {}

    fn fetch(&self, _: &Tenant, _: Blob) -> StoreFuture<PathBuf> {
        Box::pin(async { Err(StoreError::Wrong("nothing is stored here".into())) })
    }

    fn keep(&self, _: &Tenant, _: PathBuf) -> StoreFuture<Blob> {
        Box::pin(async { Err(StoreError::Wrong("nothing is stored here".into())) })
    }
}

fn make_root(root: &Path) {
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("run .ci/prepare");
    for name in ["sh", "echo", "id", "touch", "sleep", "true", "stat", "ls"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    for folder in ["", "bin"] {
        std::fs::set_permissions(root.join(folder), Permissions::from_mode(0o755)).unwrap();
    }
}

async fn open(entrypoint: &[String]) -> (Built, Rig, Client) {
    let built = Built::new(entrypoint);
    let mut rig = Rig::new(true);
    let root = rig.folder.path().join("image");
    make_root(&root);
    rig.settings.runtimes = RUNTIMES.to_vec();
    rig.settings.docker.allowed_images = vec!["stint-test/*".into()];
    rig.settings.store = Some(Arc::new(OneImage(root, entrypoint.to_vec())));
    let client = rig.open().await;
    for runtime in RUNTIMES {
        assert_eq!(client.host.health().runtimes[&runtime], Ok(()), "run .ci/prepare");
    }
    (built, rig, client)
}

fn order(built: &Built, runtime: Runtime, command: &[&str], change: impl FnOnce(&mut TaskSpec)) -> Launch {
    let mut spec = spec(command);
    spec.image = Some(if runtime == Runtime::Docker { built.0.clone() } else { "stint://settings".into() });
    spec.stop_grace_ms = 10_000;
    change(&mut spec);
    launch(spec, runtime)
}

async fn says(client: &mut Client, launch: Launch) -> String {
    let lease = launch.lease;
    client.host.start(launch);
    let end = client.end(lease).await;
    let errors = client.log(lease, LogStream::Stderr).await;
    assert_eq!(end.kind, EndKind::Exited(0), "{end:?} {errors}");
    client.log(lease, LogStream::Stdout).await
}

#[tokio::test]
async fn what_an_image_says_counts_the_same_with_each_runtime() {
    let (built, _rig, mut client) = open(&config().entrypoint).await;
    for runtime in RUNTIMES {
        for (command, expected) in
            [(&[][..], "entry default\n"), (&["own", "words"], "entry own words\n"), (&[""], "entry \n")]
        {
            let said = says(&mut client, order(&built, runtime, command, |_| {})).await;
            assert_eq!(said, expected, "{runtime:?}");
        }
    }
}

/// Words for the entry point of the image, which is a shell.
fn script(text: &str) -> [&str; 2] {
    ["-c", text]
}

const SETTINGS: &str = "pwd; echo $HOME $OF_IMAGE $OF_BOTH; [ $(id -u) -gt 0 ] && echo other; \
    for folder in /data /var/cache/x; do ls -A $folder; touch $folder/new && echo $folder; done; \
    touch /srv/app/new 2>/dev/null || echo read-only; sleep 1; [ -e /work/checked ] || echo unchecked";

#[tokio::test]
async fn settings_of_an_image_are_heeded() {
    let (built, rig, mut client) = open(&["/bin/sh".to_owned()]).await;
    for runtime in RUNTIMES {
        let set = order(&built, runtime, &script(SETTINGS), |spec| {
            spec.env.insert("OF_BOTH".into(), "task".into());
        });
        let lease = set.lease;
        let expected = "/srv/app\n/work image task\nother\n/data\n/var/cache/x\nread-only\nunchecked\n";
        assert_eq!(says(&mut client, set).await, expected, "{runtime:?}");
        // On the disk that its attempt's files are counted on.
        let kept = rig.executor().join("attempts").join(format!("{}-{}", lease.task, lease.attempt));
        assert!(kept.join("volumes/0/new").exists(), "{runtime:?}");
        let elsewhere = order(&built, runtime, &script("pwd"), |spec| {
            let limits = TaskLimits { working_dir: Some("/data".into()), ..TaskLimits::default() };
            spec.limits = Some(Box::new(limits));
        });
        assert_eq!(says(&mut client, elsewhere).await, "/data\n", "{runtime:?}");
        // TERM would end it in silence.
        let text = "trap 'echo asked; exit 0' INT; echo ready; while :; do sleep 0.05; done";
        let asked = order(&built, runtime, &script(text), |_| {});
        let lease = asked.lease;
        client.host.start(asked);
        client.until_output(lease, "ready").await;
        client.host.stop(lease, StopReason::Cancelled);
        assert_kind(&client.end(lease).await, EndKind::Cancelled);
        assert_eq!(client.log(lease, LogStream::Stdout).await, "ready\nasked\n", "{runtime:?}");
    }
}
