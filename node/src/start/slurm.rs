//! The bridge to Slurm, where the configuration names it: a host around the local one.

use std::sync::Arc;
use std::time::Duration;

use stint_executor::{Host, HostEvent, KeepEnded, boot_now};
use stint_slurm_bridge::command::{CommandSettings, CommandSlurm};
use stint_slurm_bridge::controller::Timing;
use stint_slurm_bridge::job_dir::{JobDirOptions, SharedJobDir};
use stint_slurm_bridge::{Bridge, Doors};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Config, SlurmConfig};
use crate::identity::DataDir;

/// How long a start waits for the shared folder: a hard mount hangs for as long as its server is away.
const FOLDER_TIME: Duration = Duration::from_secs(30);

/// Reads what an earlier process of this node left with Slurm, and begins to work. Errors are in words for the operator.
pub fn open(
    local: Arc<dyn Host>,
    dir: &mut DataDir,
    config: &Config,
    events: mpsc::Sender<HostEvent>,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<dyn Host>, String> {
    let slurm = &config.executor.slurm;
    let user = user(slurm.user)?;
    let folder = slurm.folder.clone().ok_or("executor.slurm.folder is missing")?;
    let disk = dir.disk().map_err(|e| e.to_string())?;
    // Of this data folder alone: other nodes, and other clusters of the same name, may use the same Slurm.
    let owner: String = disk.to_string().chars().take(12).collect();
    let job_dir = JobDirOptions { folder, owner: owner.clone(), user, keep_ended: KeepEnded::default() };
    let (job_dir, found) = SharedJobDir::open_within(job_dir, FOLDER_TIME)?;
    let lost = job_dir.clone();
    let commands = CommandSettings {
        bin: slurm.bin.clone(),
        conf: slurm.conf.clone(),
        submit_options: slurm.submit_options.clone(),
        user,
        owner,
    };
    let timing = Timing {
        list_ms: slurm.poll_ms,
        kill_margin_ms: config.executor.kill_margin_ms,
        ..Timing::default()
    };
    let doors = Doors {
        slurm: Arc::new(CommandSlurm::new(commands, job_dir.clone())),
        job_dir: Arc::new(job_dir),
        now: Arc::new(boot_now),
        timing,
    };
    if !found.accounted || !is_used(dir, Some(slurm)) {
        // What ran under the last incarnation stays leased until its time is over. Durable before it is forgotten here.
        dir.incarnation(false).map_err(|e| e.to_string())?;
        lost.give_up(&found.lost);
        note(dir, Some(slurm))?;
    }
    let bridge = Bridge::new(local, doors, found.records, events);
    tasks.spawn(bridge.clone().run());
    Ok(Arc::new(bridge))
}

/// A node that hands nothing to Slurm any more: what it handed over before stays leased until its time is over.
pub fn close(dir: &mut DataDir) -> Result<(), String> {
    if !is_used(dir, None) {
        dir.incarnation(false).map_err(|e| e.to_string())?;
        note(dir, None)?;
    }
    Ok(())
}

/// Whether the data folder says that this is the folder shared with Slurm, or that there is none.
fn is_used(dir: &DataDir, slurm: Option<&SlurmConfig>) -> bool {
    std::fs::read_to_string(dir.slurm_note()).ok() == slurm.and_then(note_text)
}

fn note_text(slurm: &SlurmConfig) -> Option<String> {
    slurm.folder.as_ref().map(|folder| format!("{}\n", folder.display()))
}

fn note(dir: &DataDir, slurm: Option<&SlurmConfig>) -> Result<(), String> {
    let path = dir.slurm_note();
    let done = match slurm.and_then(note_text) {
        Some(note_text) => std::fs::write(&path, note_text),
        None => std::fs::remove_file(&path),
    };
    done.map_err(|e| format!("{}: {e}", path.display()))
}

/// Who jobs run as: nobody's job runs as root.
fn user(set: Option<(u32, u32)>) -> Result<Option<(u32, u32)>, String> {
    let root = rustix::process::geteuid().is_root();
    match set {
        None if root => Err("executor.slurm.user is missing: this node runs as root, and jobs must not; give a user and \
                             a group in numbers, for example \"1000:1000\""
            .into()),
        Some(_) if !root => Err("executor.slurm.user is set, and only root may hand over jobs of another user: remove it, or run \
                                 this node as root"
            .into()),
        set => Ok(set),
    }
}
