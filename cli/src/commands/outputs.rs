//! `stint outputs`: the files that a task left, or one of its attempts.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use sha2::{Digest, Sha256};
use stint_sdk::api::{Attempt, Kept, NotKept, Task};
use stint_sdk::{units, v1};

use super::Context;
use crate::Done;
use crate::failure::Failure;
use crate::output::talk;
use crate::table::Table;

/// Tries to go on with a file whose stream broke.
const TRIES: u32 = 5;

const EXAMPLES: &str = "\
Examples:
  stint outputs TASK                     what it left, with digests
  stint outputs TASK --save results      all of it, into the folder results
  stint outputs TASK model.bin > m.bin   one file
  stint outputs TASK --attempt 1         what the first attempt left, after which the task was tried again";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct OutputsArgs {
    /// Id or name
    pub task: String,
    /// Write this file to stdout
    #[arg(conflicts_with = "save")]
    pub path: Option<String>,
    /// Write all files below this folder; what is there already is not overwritten
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// Of this attempt, from 1 [default: the one that the task ended with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
}

/// What one attempt left.
struct Left {
    /// As the user named it.
    task: String,
    /// None: the one that the task ended with.
    attempt: Option<u32>,
    outputs: Vec<Kept>,
    not_kept: Vec<NotKept>,
}

pub async fn run(context: Context, args: OutputsArgs) -> Done {
    let request = v1::GetTaskRequest { tenant: context.tenant.clone(), task: args.task.clone() };
    let task = Task::from(context.client.get_task(request).await?);
    let left = left_by(args.task, task, args.attempt)?;
    if let Some(path) = &args.path {
        let kept = left.outputs.iter().find(|kept| kept.path == *path);
        let none = || Failure::Failed(format!("{} left no output {path:?}", left.task));
        copy(&context, &left, kept.ok_or_else(none)?, &mut std::io::stdout().lock()).await?;
        return Ok(0);
    }
    if let Some(folder) = &args.save {
        return save_all(&context, &left, folder).await;
    }
    let paths: Vec<String> = left.outputs.iter().map(|kept| kept.path.clone()).collect();
    context.output.show(&left.outputs, paths, || table(&left.outputs))?;
    tell_not_kept(&left.not_kept);
    Ok(0)
}

/// What this attempt left, or the one that the task ended with.
fn left_by(named: String, task: Task, attempt: Option<u32>) -> Result<Left, Failure> {
    let not_yet = |what: &str| {
        let advice = format!("`stint wait {named}` waits for its end");
        Failure::Failed(format!("{what} is not finished, so nothing is kept yet: {advice}"))
    };
    let wanted = attempt.unwrap_or_default();
    if let Some(end) = task.outcome.filter(|end| attempt.is_none() || end.attempt == wanted) {
        tell_earlier(&named, end.attempt, &task.attempt_records);
        return Ok(Left { task: named, attempt, outputs: end.outputs, not_kept: end.not_kept });
    }
    if attempt.is_none() {
        return Err(not_yet(&named));
    }
    let known = task.attempt_records.into_iter().find(|record| record.number == wanted);
    let unknown =
        || Failure::Failed(format!("attempt {wanted} of {named} is not known: see `stint status {named}`"));
    let record = known.ok_or_else(unknown)?;
    if record.end.is_none() {
        return Err(not_yet(&format!("attempt {wanted} of {named}")));
    }
    if let Some(files) = record.outputs_forgotten {
        let why = "the cluster remembers too many of tasks that were not finished";
        talk(&format!("{files} files that attempt {wanted} left are not remembered: {why}"));
    }
    Ok(Left { task: named, attempt, outputs: record.outputs, not_kept: Vec::new() })
}

/// A task that ended between two attempts has no outputs of its own: says where there are some.
fn tell_earlier(named: &str, decided: u32, records: &[Attempt]) {
    let earlier = records.iter().rev().find(|record| !record.outputs.is_empty());
    if let Some(record) = earlier.filter(|_| decided == 0) {
        let number = record.number;
        talk(&format!(
            "{named} ended between two attempts: `stint outputs {named} --attempt {number}` shows what one left"
        ));
    }
}

/// Writes all that is there, and says what is gone.
async fn save_all(context: &Context, left: &Left, folder: &Path) -> Done {
    let (gone, there): (Vec<&Kept>, Vec<&Kept>) = left.outputs.iter().partition(|kept| kept.gone);
    for kept in &there {
        save(context, left, kept, folder).await?;
    }
    talk(&format!("{} files in {}", there.len(), folder.display()));
    tell_not_kept(&left.not_kept);
    for kept in &gone {
        talk(&format!("gone: {:?}, nobody has its bytes any more", kept.path));
    }
    Ok(u8::from(!gone.is_empty()))
}

/// Says what is missing, and why.
fn tell_not_kept(files: &[NotKept]) {
    for file in files {
        talk(&format!("not kept: {:?} {}", file.path, file.reason));
    }
}

fn place(kept: &Kept) -> &'static str {
    match kept {
        Kept { gone: true, .. } => "gone",
        Kept { stored: true, .. } => "cluster",
        Kept { .. } => "node",
    }
}

fn table(outputs: &[Kept]) -> Table {
    let mut table = Table::new(&["PATH", "SIZE", "KEPT", "AS INPUT"]);
    for kept in outputs {
        table.row(vec![
            kept.path.as_str().into(),
            units::show_bytes(kept.size_bytes).into(),
            place(kept).into(),
            format!("{}/{}", kept.digest, kept.size_bytes).into(),
        ]);
    }
    table
}

/// Writes one file, which is there as a whole or not at all.
async fn save(context: &Context, left: &Left, kept: &Kept, folder: &Path) -> Result<(), Failure> {
    if Path::new(&kept.path).components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(Failure::Failed(format!(
            "{:?} would be written outside of {}",
            kept.path,
            folder.display()
        )));
    }
    let target = folder.join(&kept.path);
    let failed = |e: std::io::Error| Failure::Failed(format!("cannot write {}: {e}", target.display()));
    let above = target.parent().unwrap_or(folder);
    std::fs::create_dir_all(above).map_err(failed)?;
    if target.exists() {
        return Err(failed(ErrorKind::AlreadyExists.into()));
    }
    let partial = above.join(format!(".{}.part", target.file_name().unwrap_or_default().to_string_lossy()));
    let mut file = File::create(&partial).map_err(failed)?;
    let copied = copy(context, left, kept, &mut file).await;
    let done = match copied {
        Ok(()) => make_executable(&file, kept.executable)
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&partial, &target))
            .map_err(failed),
        Err(failure) => Err(failure),
    };
    if done.is_err() {
        // The first problem says more.
        let _ = std::fs::remove_file(&partial);
    }
    done
}

/// Lets whoever may read a file execute it.
fn make_executable(file: &File, executable: bool) -> std::io::Result<()> {
    if !executable {
        return Ok(());
    }
    let mode = file.metadata()?.permissions().mode();
    file.set_permissions(Permissions::from_mode(mode | (mode & 0o444) >> 2))
}

/// Copies the bytes of an output, going on at another peer when one goes away, and checks them.
async fn copy(context: &Context, left: &Left, kept: &Kept, to: &mut impl Write) -> Result<(), Failure> {
    let (mut offset, mut hash, mut tries) = (0, Sha256::new(), 0);
    while offset < kept.size_bytes {
        let request = v1::ReadOutputRequest {
            tenant: context.tenant.clone(),
            task: left.task.clone(),
            path: kept.path.clone(),
            offset,
            attempt: left.attempt.unwrap_or_default(),
        };
        tries += 1;
        if tries > TRIES {
            return Err(Failure::Failed(format!(
                "reading {:?}: it stands still at byte {offset}",
                kept.path
            )));
        }
        let mut chunks = context.client.read_output(request).await?;
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => {
                    to.write_all(&chunk.data).map_err(Failure::Output)?;
                    hash.update(&chunk.data);
                    offset += chunk.data.len() as u64;
                    tries = 0;
                }
                Ok(None) => break,
                Err(status) => {
                    tries += 1;
                    if tries > TRIES || status.code() != tonic::Code::Unavailable {
                        return Err(Failure::Failed(format!(
                            "reading {:?}: {}",
                            kept.path,
                            status.message()
                        )));
                    }
                    break;
                }
            }
        }
    }
    to.flush().map_err(Failure::Output)?;
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if format!("sha256:{digest}") != kept.digest {
        return Err(Failure::Failed(format!("{:?} arrived damaged: try again", kept.path)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_can_be_named_as_inputs_as_they_are_shown() {
        let kept = Kept {
            path: "model.bin".into(),
            digest: "sha256:ab".into(),
            size_bytes: 2048,
            ..Kept::default()
        };
        let gone = Kept { gone: true, path: "lost.bin".into(), ..kept.clone() };
        let kept = Kept { stored: true, ..kept };
        let shown = table(&[kept, gone]).render(false);
        assert!(shown.contains("lost.bin   2KiB  gone "), "{shown}");
        assert!(shown.contains("model.bin  2KiB  cluster  sha256:ab/2048"), "{shown}");
    }
}
