//! `stint cluster snapshot`: the state of a cluster as a file.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use stint_node::recovery::{RecoveryError, restore};
use stint_node::snapshot_file::{SavedState, read};
use stint_sdk::api::{ClusterRestored, ClusterSnapshot};
use stint_sdk::units;

use crate::Done;
use crate::args::Global;
use crate::commands::{Context, with_client};
use crate::failure::Failure;
use crate::output::{Format, Output, talk_lines};
use crate::table::Table;
use crate::view::{age, now_ms};

const EXAMPLES: &str = "\
Examples:
  stint cluster snapshot save stint.snapshot                                from any peer, while the cluster runs
  stint cluster snapshot inspect stint.snapshot                             whether it is whole, and what is in it
  stint cluster snapshot restore stint.snapshot --data-dir /var/lib/stint   a new cluster, when all is lost";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Save the state as it is now; the file is complete or not there
    Save(FileArgs),
    /// Check a file and show what is in it; needs no cluster
    Inspect(FileArgs),
    /// Make an empty folder that of the first peer of a new cluster, with the state of a file; needs no cluster
    Restore(RestoreArgs),
}

#[derive(Args, Debug)]
pub struct FileArgs {
    pub file: PathBuf,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    pub file: PathBuf,
    /// Data folder of the new peer, which must be empty
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

pub fn run(global: &Global, args: SnapshotArgs) -> Done {
    match args.command {
        SnapshotCommand::Save(args) => with_client(global, |context| save(context, args.file)),
        SnapshotCommand::Inspect(args) => inspect(&Output::new(global.output), &args.file),
        SnapshotCommand::Restore(args) => show_restored(&Output::new(global.output), &args),
    }
}

async fn save(context: Context, file: PathBuf) -> Done {
    let failed = |e: std::io::Error| Failure::Failed(format!("cannot write {}: {e}", file.display()));
    if file.exists() {
        return Err(failed(ErrorKind::AlreadyExists.into()));
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let partial = file.with_file_name(name);
    let saved = fetch(&context, &partial, &failed)
        .await
        .and_then(|()| Ok(read(&partial).map_err(RecoveryError::from)?));
    let done = saved.and_then(|saved| {
        fs::rename(&partial, &file).map_err(&failed)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(&failed)?;
        Ok(saved)
    });
    if done.is_err() {
        // The first problem says more.
        let _ = fs::remove_file(&partial);
    }
    let SavedState { document, .. } = done?;
    let text = || {
        format!(
            "{}: {} as of entry {}",
            file.display(),
            units::show_bytes(document.size_bytes),
            document.index
        )
    };
    context.output.show(&document, [document.sha256.clone()], text)?;
    Ok(0)
}

/// Only its owner reads it: the environment of every task is in it.
async fn fetch(
    context: &Context,
    partial: &Path,
    failed: &impl Fn(std::io::Error) -> Failure,
) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let mut to = options.write(true).create(true).truncate(true).mode(0o600).open(partial).map_err(failed)?;
    let mut parts = context.client.save_snapshot().await?;
    let broken = |status: tonic::Status| Failure::Failed(format!("saving: {}", status.message()));
    while let Some(part) = parts.message().await.map_err(broken)? {
        to.write_all(&part.data).map_err(failed)?;
    }
    to.sync_all().map_err(failed)
}

fn inspect(output: &Output, file: &Path) -> Done {
    let document = read(file).map_err(RecoveryError::from)?.document;
    output.show(&document, [document.sha256.clone()], || text(&document))?;
    Ok(0)
}

fn text(saved: &ClusterSnapshot) -> Table {
    let mut facts = Table::pairs();
    facts
        .pair("cluster", format!("{} ({})", saved.cluster, saved.cluster_id))
        .pair(
            "saved",
            format!(
                "{} ago by node {}, stint {}",
                age(saved.saved_at_ms, now_ms()),
                saved.saved_by,
                saved.version
            ),
        )
        .pair("up to", format!("entry {}, term {}", saved.index, saved.term))
        .pair("speaks", format!("version {}", saved.cluster_version))
        .pair("nodes", saved.nodes.to_string())
        .pair(
            "tasks",
            format!(
                "{} queued, {} running, {} suspended, {} finished",
                saved.queued, saved.running, saved.suspended, saved.finished
            ),
        )
        .pair("images", saved.images.to_string())
        .pair("size", units::show_bytes(saved.size_bytes))
        .pair("sha256", format!("{} (good)", saved.sha256));
    for what in &saved.not_in_file {
        facts.pair("not in it", what.as_str());
    }
    facts
}

fn show_restored(output: &Output, args: &RestoreArgs) -> Done {
    let restored = restore(&args.file, &args.data_dir)?;
    output.show(&restored, [restored.cluster_id.clone()], || restored_text(&restored))?;
    if output.format == Format::Table {
        talk_lines(&advice(&restored));
    }
    Ok(0)
}

fn restored_text(restored: &ClusterRestored) -> String {
    format!(
        "{} is the folder of node {} of the new cluster {} ({})",
        restored.data_dir, restored.node_id, restored.cluster, restored.cluster_id
    )
}

/// How peers and users come back.
fn advice(restored: &ClusterRestored) -> [String; 5] {
    let (dir, waits) = (&restored.data_dir, units::show_duration(restored.waits_ms));
    [
        "first:   be sure that no peer of the cluster of before runs, or tasks run twice".into(),
        format!(
            "this one: stint node --config FILE, with data_dir = \"{dir}\"; its first start waits {waits} until the last \
             lease of before is over"
        ),
        "peers:   empty their data folders; then stint cluster join-token here, and stint node --join there"
            .into(),
        format!(
            "users:   the administrator's new certificate is in {dir}/credentials; no other is good any more"
        ),
        "images:  register them again".into(),
    ]
}
