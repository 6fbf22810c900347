//! The real binary against a peer that answers what the test says.
#![allow(clippy::unwrap_used)]

mod cluster;
mod config;
mod escapes;
mod exits;
#[path = "../../../sdk/tests/fake/mod.rs"]
mod fake;
mod images;
mod join;
mod refusals;
mod run;
mod scripts;
mod settings;
mod submit;
mod tasks;
mod terminal;

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fake::Fake;
use serde_json::Value;
use stint_sdk::v1;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// No command may take longer, also on a busy machine.
const AT_MOST: Duration = Duration::from_secs(60);

struct World {
    folder: TempDir,
    fake: Arc<Fake>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        fake.serve(&folder.path().join("stint.sock"));
        Self { folder, fake }
    }

    /// A world where the task takes these steps.
    fn with_task(steps: impl IntoIterator<Item = v1::Task>) -> Self {
        let world = Self::new();
        *world.fake.task.lock().unwrap() = steps.into_iter().collect::<VecDeque<_>>();
        world
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = bare(args);
        command.env("STINT_ADDRESS", format!("unix:{}/stint.sock", self.folder.path().display()));
        command
    }

    /// A script in the world's folder, with `stint` in its PATH.
    fn shell(&self, script: &str) -> Command {
        let built = Path::new(env!("CARGO_BIN_EXE_stint")).parent().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(self.folder.path()).env_clear().kill_on_drop(true);
        command.env("PATH", format!("{}:/usr/bin:/bin", built.display()));
        command.env("STINT_ADDRESS", format!("unix:{}/stint.sock", self.folder.path().display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn stint(&self, args: &[&str]) -> Done {
        Done::run(self.command(args)).await
    }

    fn spec(&self) -> v1::TaskSpec {
        self.fake.submits.lock().unwrap().last().unwrap().spec.clone().unwrap()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }
}

fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint"));
    command.args(args).env_clear().env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    async fn run(mut command: Command) -> Self {
        let output = tokio::time::timeout(AT_MOST, command.output()).await;
        Self::from(output.expect("the command did not end").unwrap())
    }

    async fn after(child: Child) -> Self {
        let output = tokio::time::timeout(AT_MOST, child.wait_with_output()).await;
        Self::from(output.expect("the command did not end").unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
