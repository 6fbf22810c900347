//! What the programs of the crun and process runtimes are kept from: the operator's rules, and what one task gets.

use std::path::PathBuf;

use stint_protocol::{Network, TaskSpec};

use crate::client::Refusal;
use crate::host::HostSettings;
use crate::limits;
use crate::wire::{Confinement, Mode};

/// The rules that crun and the sandbox of processes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfineSettings {
    /// User and group of every program; never root. Counts when the node is root.
    pub user: (u32, u32),
    pub network: Network,
    /// Processes and threads of one attempt.
    pub pids: u64,
}

impl Default for ConfineSettings {
    /// Nobody, no network, 512 processes.
    fn default() -> Self {
        Self { user: (65534, 65534), network: Network::None, pids: limits::PIDS }
    }
}

/// How a node uses crun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrunSettings {
    pub confine: ConfineSettings,
    /// Folders under which a task's root file system may lie; none = no task brings one.
    pub roots: Vec<PathBuf>,
}

/// How a node sandboxes processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSettings {
    pub confine: ConfineSettings,
    /// Folders of the host that programs may write in, as far as their user may.
    pub writable: Vec<PathBuf>,
}

/// What an attempt is kept from; none where nothing confines it, or where Docker does.
pub fn of(settings: &HostSettings, _spec: &TaskSpec, mode: Mode) -> Result<Option<Confinement>, Refusal> {
    let (rules, writable) = match mode {
        Mode::Crun => (&settings.crun.confine, &[][..]),
        Mode::Sandboxed => (&settings.process.confine, settings.process.writable.as_slice()),
        Mode::Direct | Mode::Docker => return Ok(None),
    };
    Ok(Some(Confinement {
        user: rules.user.0,
        group: rules.user.1,
        pids: rules.pids,
        network: rules.network,
        tmp_bytes: limits::TMP_BYTES,
        shm_bytes: limits::SHM_BYTES,
        writable: writable.iter().map(|folder| folder.display().to_string()).collect(),
    }))
}
