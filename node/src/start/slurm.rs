//! The bridge to Slurm, where the configuration names it: a host around the local one.

use std::sync::Arc;

use stint_executor::{Host, HostEvent, KeepEnded, boot_now};
use stint_slurm_bridge::command::{CommandSettings, CommandSlurm};
use stint_slurm_bridge::desk::Timing;
use stint_slurm_bridge::shelf::{FileShelf, ShelfSettings};
use stint_slurm_bridge::{Bridge, Doors};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::identity::DataDir;

/// Reads what an earlier process of this node left with Slurm, and begins to work. Errors are in words for the operator.
pub fn open(
    local: Arc<dyn Host>,
    dir: &DataDir,
    config: &Config,
    events: mpsc::Sender<HostEvent>,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<dyn Host>, String> {
    let slurm = &config.executor.slurm;
    let user = user(slurm.user)?;
    let folder = slurm.folder.clone().ok_or("executor.slurm.folder is missing")?;
    std::fs::metadata(&folder).map_err(|e| {
        format!("executor.slurm.folder {}: {e}: make it, on a file system that Slurm's nodes see at the same path", folder.display())
    })?;
    let disk = dir.disk().map_err(|e| e.to_string())?;
    // Of this data folder alone: other nodes, and other clusters of the same name, may use the same Slurm.
    let owner: String = disk.to_string().chars().take(12).collect();
    let shelf = ShelfSettings { folder, owner: owner.clone(), user, keep_ended: KeepEnded::default() };
    let (shelf, found) = FileShelf::open(shelf)?;
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
        slurm: Arc::new(CommandSlurm::new(commands, shelf.clone())),
        shelf: Arc::new(shelf),
        now: Arc::new(boot_now),
        timing,
    };
    let bridge = Bridge::new(local, doors, found.records, found.accounted, events);
    tasks.spawn(bridge.clone().run());
    Ok(Arc::new(bridge))
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
