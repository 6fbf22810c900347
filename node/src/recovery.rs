//! Clusters that begin anew, offline: from a snapshot's file in an empty folder, or from the folder of a stopped survivor
//! (docs/using/recovery.md, docs/internals/leases.md#new-beginning).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stint_protocol::{NodeId, api, version};
use stint_raft::{OfflineLog, OpenError, PeerInfo, Position};
use stint_scheduler::{State, begin_anew, write_snapshot};

use crate::applied_state::{AppliedState, NodeStateMachine};
use crate::certificates::{ADMIN_LIFE, LIFE};
use crate::clock::{Clock as _, HostClock, Rng};
use crate::identity::{DataDir, IdentityError, NewBeginning, Papers};
use crate::lease_clock::longest_wait_ms;
use crate::pki::{Authority, PkiError, Validity};
use crate::snapshot_file::{self, SnapshotFileError};

/// Entries and terms that the cluster of before may have used after what is known of it.
const ENTRIES_UNKNOWN: u64 = 1_000_000;
const TERMS_UNKNOWN: u64 = 1_000;

/// Why a cluster was not begun anew. Nothing was changed, unless the text says so.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    File(#[from] SnapshotFileError),
    #[error("{} is not empty: name a folder that is, so that nothing is overwritten", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is no data folder of a peer: it has no identity.toml", .0.display())]
    NoPeer(PathBuf),
    #[error("{} belongs to no cluster, so there is nothing to recover", .0.display())]
    NoCluster(PathBuf),
    #[error("{} holds a cluster that was never configured: start anew with --bootstrap", .0.display())]
    NotConfigured(PathBuf),
    #[error("{} was removed from its cluster, which knows no such node any more: recover from another survivor", .0.display())]
    NoMember(PathBuf),
    #[error("reading {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("the folder is recovered, but the log of before cannot be moved aside: {}: {source}", path.display())]
    Aside { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the log: {0}")]
    Log(#[from] OpenError),
    #[error("{0}")]
    Metrics(#[from] prometheus::Error),
}

/// A peer may take ten seconds to stop: its folder is looked at so often, with so much time between.
const LOOKS: u32 = 200;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The folder of a peer that was just told to stop: it hands its lead over and ends what it runs first.
fn when_stopped(data_dir: &Path) -> Result<DataDir, IdentityError> {
    for _ in 1..LOOKS {
        match DataDir::open(data_dir, Rng::from_system().random_bits()) {
            Err(IdentityError::InUse(_)) => std::thread::sleep(LOOK_AGAIN),
            opened => return opened,
        }
    }
    DataDir::open(data_dir, Rng::from_system().random_bits())
}

/// Beyond every entry and term that was given away.
fn beyond(index: u64, term: u64) -> Position {
    Position { index: index + ENTRIES_UNKNOWN, term: term + TERMS_UNKNOWN }
}

fn write_log(dir: &Path, id: NodeId, info: PeerInfo, at: Position, state: State) -> Result<(), OpenError> {
    stint_raft::write_folder(dir, id.0, info, at, Box::new(move |to| write_snapshot(&state, to)))
}

/// Makes the data folder of the first peer of a new cluster from a file: with another authority, so that no certificate of
/// before is good for anything.
pub fn restore(file: &Path, data_dir: &Path) -> Result<api::ClusterRestored, RecoveryError> {
    let saved = snapshot_file::read(file)?;
    check_empty(data_dir)?;
    let at = beyond(saved.at().index, saved.at().term);
    let mut state = saved.state;
    let wait_ms = longest_wait_ms(&state);
    begin_anew(&mut state, None, HostClock.wall());
    let node = state.next_node();
    let cluster = saved.description.cluster;

    let mut dir = DataDir::open(data_dir, Rng::from_system().random_bits())?;
    let keys = dir.join_keys()?;
    // Where it is reached is told when it starts.
    let address = "127.0.0.1:7001";
    let info = PeerInfo { addr: address.into(), disk_id: dir.disk()?.to_string() };
    let (validity, sealed) = of_version(&state);
    write_log(&dir.log(), node, info, at, state)?;
    let authority = Authority::make()?;
    dir.must_wait(wait_ms);
    dir.keep_key(&authority, sealed)?;
    let papers = Papers::issue(&authority, &keys, node, None, address, validity)?;
    dir.become_node(node, &cluster, None, (&papers, &keys), &[])?;
    Ok(api::ClusterRestored {
        // In full: it goes into a configuration.
        data_dir: fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.into()).display().to_string(),
        cluster,
        cluster_id: authority.root().cluster_id()?,
        node_id: node.0,
        index: at.index,
        term: at.term,
        waits_ms: wait_ms,
        from: saved.document,
    })
}

/// How long the certificates of a cluster are valid, and whether its authority's key is sealed: its version says so.
fn of_version(state: &State) -> ((Validity, Validity), bool) {
    match state.version() >= version::CERTIFICATES {
        true => {
            let starting = |life| Validity::starting(HostClock.wall(), life);
            ((starting(LIFE), starting(ADMIN_LIFE)), true)
        }
        false => ((Validity::ENDLESS, Validity::ENDLESS), false),
    }
}

fn check_empty(dir: &Path) -> Result<(), RecoveryError> {
    let failed = |source| RecoveryError::Folder { path: dir.into(), source };
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(RecoveryError::NotEmpty(dir.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// A survivor's folder, read whole and held until it is recovered or let go.
pub struct Survivor {
    dir: DataDir,
    node: NodeId,
    log: OfflineLog,
    state: State,
    wait_ms: u64,
}

impl Survivor {
    /// Reads the folder of a peer that is stopped. Changes nothing.
    pub fn read(data_dir: &Path) -> Result<Self, RecoveryError> {
        if !data_dir.join("identity.toml").exists() {
            return Err(RecoveryError::NoPeer(data_dir.into()));
        }
        let dir = when_stopped(data_dir)?;
        let node = dir.node().ok_or_else(|| RecoveryError::NoCluster(data_dir.into()))?;
        let applied = AppliedState::new(version::CURRENT)?;
        let log = stint_raft::read_log(&dir.log(), &mut NodeStateMachine(applied.clone()))?;
        let state = applied.view().state;
        if !state.configured() {
            return Err(RecoveryError::NotConfigured(data_dir.into()));
        }
        if state.node(node).is_none() {
            return Err(RecoveryError::NoMember(data_dir.into()));
        }
        let wait_ms = longest_wait_ms(&state);
        Ok(Self { dir, node, log, state, wait_ms })
    }

    /// What is adopted; `cluster_id`: once that is done.
    fn document(&self, old_log: &Path, cluster_id: Option<&str>) -> api::ClusterRecovered {
        let (state, log) = (&self.state, &self.log);
        let others = state.nodes().filter(|node| node.id != self.node);
        api::ClusterRecovered {
            data_dir: self.dir.path.display().to_string(),
            cluster: self.dir.cluster().unwrap_or_default().into(),
            cluster_id: cluster_id.map(str::to_owned),
            node_id: self.node.0,
            committed_index: log.committed.index,
            last_index: log.last.index,
            uncertain: log.last.index - log.committed.index,
            left_out: others.map(|node| node.name.clone()).collect(),
            queued: state.waiting() as u64,
            running: state.running() as u64,
            suspended: state.suspended() as u64,
            finished: state.remembered() as u64,
            waits_ms: self.wait_ms,
            old_log: old_log.display().to_string(),
            new_authority: self.dir.pki().readable_authority().is_none(),
        }
    }

    /// What would be adopted.
    pub fn preview(&self) -> api::ClusterRecovered {
        self.document(&self.dir.log(), None)
    }

    /// Makes the folder that of a new cluster with this peer alone, which adopts everything in its log. The authority stays
    /// where its key is in this folder, so that users need no other certificates; peers need the new cluster's name in theirs.
    pub fn recover(mut self) -> Result<api::ClusterRecovered, RecoveryError> {
        let id = format!("{:016x}", Rng::from_system().random_bits() as u64);
        let (log, old) = (format!("raft-{id}"), self.dir.log());
        let mut aside = old.clone().into_os_string();
        aside.push(format!(".before-{id}"));
        let aside = PathBuf::from(aside);
        let mut document = self.document(&aside, Some(&id));
        let mut state = self.state.clone();
        let address = state.node(self.node).map(|node| node.address.clone()).unwrap_or_default();
        begin_anew(&mut state, Some(self.node), HostClock.wall());
        let info = PeerInfo { addr: address.clone(), disk_id: self.dir.disk()?.to_string() };
        let (validity, sealed) = of_version(&state);
        let at = beyond(self.log.last.index, self.log.term);
        write_log(&self.dir.path.join(&log), self.node, info, at, state)?;
        // With this the folder is another cluster's; until then it is as it was.
        let wait_ms = self.wait_ms;
        let new = NewBeginning { cluster_id: &id, log: &log, address: &address, wait_ms, validity, sealed };
        document.new_authority = !self.dir.recover(&new)?;
        // So that no earlier program, which knows one folder of the log only, goes on as the cluster of before.
        fs::rename(&old, &aside).map_err(|source| RecoveryError::Aside { path: old, source })?;
        Ok(document)
    }
}
