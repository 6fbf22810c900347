//! Keeps tasks from filling the disk that holds them and the peer's log.
//!
//! An attempt whose files take more than it may have is killed. When little is left of the disk, old folders of ended attempts go, nothing new starts, and the attempt whose files
//! take the most is killed.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stint_protocol::LeaseId;
use stint_protocol::limits::clip;
use tokio::time::{Instant, sleep};

use super::attempt::AttemptState;
use super::disk_watch::DISK_PROBLEM;
use crate::client::state::ClientState;
use crate::host::{Executing, HostEvent, StopReason};
use crate::labels::label_of;
use crate::settings::DiskLimits;
use crate::shim_api::layout::{Layout, folder_name, sandbox_dir_name};
use crate::shim_api::wire::ToShim;

/// A program writes a gigabyte in about three of these on a fast disk.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_WHILE_IDLE: Duration = Duration::from_secs(2);
/// An attempt's files are looked at once a second, or less often where a look takes long: a fiftieth of the time at most.
const MEASURE: Duration = Duration::from_secs(1);
const MEASURE_SHARE: u32 = 50;
/// Folders of ended attempts that go between two looks at what is free.
const REMOVED_AT_ONCE: usize = 50;
/// Files of an attempt that are counted while the disk is full: about a second's worth. Who made millions of empty ones must not
/// hold up the look at the others.
const MOST_FILES: usize = 200_000;
/// Who takes less than this part of the reserve is not killed for it: the disk is full of something else.
const WORTH_IT: u64 = 8;
/// A small disk keeps this part of itself free, whatever the reserve.
const PART_OF_SMALL_DISK: u64 = 20;
/// Files that a disk has room for besides, or a twentieth of its own where that is less: the peer's log, images and folders of
/// attempts make some hundred.
const FILES_RESERVED: u64 = 10_000;

/// How a disk stands against its reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// Less than twice the reserve: an operator has time to act.
    Little {
        free: u64,
    },
    /// Less than the reserve.
    None {
        free: u64,
        reserve: u64,
    },
    /// Bytes enough, and hardly room for another file: inodes are used up.
    NoFiles {
        left: u64,
        reserve: u64,
    },
}

impl Room {
    /// Whether nothing starts.
    fn is_full(self) -> bool {
        matches!(self, Room::None { .. } | Room::NoFiles { .. })
    }

    /// Some file systems have no number of files: their total is 0.
    fn judge_files(left: u64, total: u64, was_full: bool) -> Option<Self> {
        let reserve = FILES_RESERVED.min(total / PART_OF_SMALL_DISK);
        let full = if was_full { reserve + reserve / 4 } else { reserve };
        (left < full).then_some(Room::NoFiles { left, reserve })
    }

    fn judge(free: u64, total: u64, reserve: u64, was_full: bool) -> Self {
        let reserve = reserve.min(total / PART_OF_SMALL_DISK);
        // Full until a quarter more is free, so that it does not go back and forth.
        let full = if was_full { reserve + reserve / 4 } else { reserve };
        match free {
            _ if free < full => Room::None { free, reserve },
            _ if free < reserve * 2 => Room::Little { free },
            _ => Room::Enough,
        }
    }

    fn look(folder: &Path, reserve: u64, was_full: bool) -> io::Result<Self> {
        let found = rustix::fs::statvfs(folder)?;
        let (free, total) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
        let by_bytes = Self::judge(free, total, reserve, was_full);
        let by_files = || Self::judge_files(found.f_favail, found.f_files, was_full);
        Ok(if by_bytes.is_full() { by_bytes } else { by_files().unwrap_or(by_bytes) })
    }

    fn problem(self, folder: &Path) -> Option<String> {
        let at = format!("{DISK_PROBLEM}{}", folder.display());
        match self {
            Room::Enough => None,
            Room::Little { free } => Some(format!("{at} is nearly full: {} are left", size(free))),
            Room::None { free, reserve } => Some(format!(
                "{at} is full but for {}, less than the {} that stay free (executor.disk_reserve): make room",
                size(free),
                size(reserve)
            )),
            Room::NoFiles { left, reserve } => Some(format!(
                "{at} has room for {left} files (inodes), less than the {reserve} that stay free: remove small files"
            )),
        }
    }
}

fn size(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Looks until the client goes.
pub async fn run(shared: Arc<ClientState>) {
    let limits = shared.settings.disk;
    if limits == DiskLimits::default() {
        return;
    }
    // Apart: files that are many take long to measure, and the room on the disk cannot wait for that.
    tokio::join!(keep_room(&shared, limits), keep_limits(&shared, limits));
}

async fn keep_room(shared: &Arc<ClientState>, limits: DiskLimits) {
    let mut was_full = false;
    if limits.reserve_bytes == 0 {
        return;
    }
    loop {
        pause(shared).await;
        was_full = look_at_room(shared, was_full).await;
    }
}

async fn keep_limits(shared: &Arc<ClientState>, limits: DiskLimits) {
    let mut due = BTreeMap::new();
    if limits.attempt_bytes == 0 {
        return;
    }
    loop {
        pause(shared).await;
        measure_those_due(shared, attempts(shared), &mut due).await;
    }
}

async fn pause(shared: &ClientState) {
    sleep(if attempts(shared).is_empty() { LOOK_WHILE_IDLE } else { LOOK }).await;
}

/// The attempts that write, and where.
fn attempts(shared: &ClientState) -> Vec<(LeaseId, PathBuf)> {
    let writes =
        |attempt: &AttemptState| attempt.stage.is_with(Executing::Watchdog) && attempt.over_disk.is_none();
    let state = shared.lock();
    let leases = state.running.iter().filter(|(_, attempt)| writes(attempt)).map(|(lease, _)| *lease);
    let leases: Vec<LeaseId> = leases.collect();
    drop(state);
    leases.into_iter().map(|lease| (lease, shared.output_folder(lease).0)).collect()
}

async fn measure_those_due(
    shared: &Arc<ClientState>,
    attempts: Vec<(LeaseId, PathBuf)>,
    due: &mut BTreeMap<LeaseId, Instant>,
) {
    let (limit, now) = (shared.settings.disk.attempt_bytes, Instant::now());
    due.retain(|lease, _| attempts.iter().any(|(other, _)| other == lease));
    for (lease, folder) in attempts {
        if due.get(&lease).is_some_and(|at| *at > now) {
            continue;
        }
        let began = Instant::now();
        let measure = move || bytes_of(&folder, limit, usize::MAX).bytes;
        let bytes = tokio::task::spawn_blocking(measure).await.unwrap_or_default();
        due.insert(lease, Instant::now() + MEASURE.max(began.elapsed() * MEASURE_SHARE));
        if bytes > limit {
            let most =
                format!("more than {} MiB on the disk, its limit (executor.max_disk_bytes)", limit >> 20);
            kill(shared, lease, format!("its files took {most}"));
        }
    }
}

/// Looks at what is left of the disk, and makes room; whether it is full.
async fn look_at_room(shared: &Arc<ClientState>, was_full: bool) -> bool {
    // What cannot be asked is not full; whoever writes there tells.
    let Some(room) = room(shared, was_full).await else { return was_full };
    let full = room.is_full();
    if shared.disk.set_room(room.problem(shared.layout.root()), full) {
        match room {
            Room::Enough => tracing::info!("the disk has room again"),
            Room::Little { .. } => tracing::warn!(problem = ?room, "the disk is nearly full"),
            Room::None { .. } | Room::NoFiles { .. } => {
                tracing::error!(problem = ?room, "the disk is full: nothing is started here")
            }
        }
        shared.publish(vec![HostEvent::RuntimesChanged]).await;
    }
    if full { make_room(shared).await } else { false }
}

async fn room(shared: &Arc<ClientState>, was_full: bool) -> Option<Room> {
    let (folder, reserve) = (shared.layout.root().to_owned(), shared.settings.disk.reserve_bytes);
    tokio::task::spawn_blocking(move || Room::look(&folder, reserve, was_full)).await.ok()?.ok()
}

/// Takes what nobody needs to run first, for a while: who fills the disk goes on meanwhile. Whether the disk is full still.
async fn make_room(shared: &Arc<ClientState>) -> bool {
    let until = Instant::now() + LOOK;
    while Instant::now() < until && remove_ended(shared).await {
        if room(shared, true).await.is_some_and(|room| !room.is_full()) {
            return false;
        }
    }
    // One at a time: what it leaves may be enough.
    if shared.lock().running.values().any(|attempt| attempt.over_disk.is_some()) {
        return true;
    }
    let (attempts, layout) = (attempts(shared), shared.layout.clone());
    let by_files = matches!(room(shared, true).await, Some(Room::NoFiles { .. }));
    let largest = move || largest(attempts, &layout, by_files);
    let found = tokio::task::spawn_blocking(largest).await.ok().flatten();
    let why = match (room(shared, true).await, found) {
        (Some(Room::None { free, reserve }), Some((lease, taken)))
            if !by_files && (taken.bytes >= reserve / WORTH_IT || taken.is_cut) =>
        {
            let taken = format!("its files took {}{}", taken.more(), size(taken.bytes));
            Some((lease, format!("{taken}, the most of all, when the node's disk had {} left", size(free))))
        }
        (Some(Room::NoFiles { left, reserve }), Some((lease, taken)))
            if by_files && (taken.files as u64 >= reserve / WORTH_IT || taken.is_cut) =>
        {
            let taken = format!("it had {}{} files", taken.more(), taken.files);
            Some((lease, format!("{taken}, the most of all, when the node's disk had room for {left} files")))
        }
        (Some(room), _) if !room.is_full() => return false,
        _ => None,
    };
    if let Some((lease, why)) = why {
        kill(shared, lease, why);
    }
    true
}

/// Removes folders of ended attempts, oldest first; whether there were any.
async fn remove_ended(shared: &Arc<ClientState>) -> bool {
    let mut old = Vec::new();
    {
        let mut state = shared.lock();
        while old.len() < REMOVED_AT_ONCE
            && let Some((_, lease)) = state.kept.pop_front()
        {
            old.push(shared.layout.attempt(lease));
        }
    }
    let any = !old.is_empty();
    let remove = move || old.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
    let _ = tokio::task::spawn_blocking(remove).await;
    any
}

fn kill(shared: &ClientState, lease: LeaseId, why: String) {
    {
        let mut state = shared.lock();
        let Some(attempt) = state.running.get_mut(&lease) else { return };
        attempt.over_disk.get_or_insert(clip(why));
    }
    shared.log_stop(lease, StopReason::DiskExceeded);
    // Also when it is being stopped for another reason: that gives it time.
    if shared.ask_to_stop(lease, StopReason::DiskExceeded).is_some() {
        shared.send(ToShim::Stop(lease, StopReason::DiskExceeded));
    }
}

/// What an attempt that was killed for its files leaves: its output, nothing else.
pub fn remove_files(folder: &Path) {
    for name in ["work", "bundle"] {
        let _ = std::fs::remove_dir_all(folder.join(name));
    }
}

/// The attempt whose files take the most bytes of the disk, those included that it has open but no name for; or that has the most
/// files.
fn largest(attempts: Vec<(LeaseId, PathBuf)>, layout: &Layout, by_files: bool) -> Option<(LeaseId, Taken)> {
    let nameless = nameless(layout);
    let measure = |(lease, folder): (LeaseId, PathBuf)| {
        let hidden = cgroup_of(layout, &folder).and_then(|cgroup| nameless.get(&cgroup).copied());
        let named = bytes_of(&folder, u64::MAX, MOST_FILES);
        (lease, Taken { bytes: named.bytes + hidden.unwrap_or_default(), ..named })
    };
    let rank = |(_, taken): &(LeaseId, Taken)| match by_files {
        true => (u64::from(taken.is_cut), taken.files as u64),
        // Where the bytes are equal, who has more files than are counted.
        false => (taken.bytes, u64::from(taken.is_cut)),
    };
    attempts.into_iter().map(measure).max_by_key(rank)
}

/// The name of the cgroup of the attempt that runs in a folder.
fn cgroup_of(layout: &Layout, folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    let in_sandbox_dir = folder.parent() == Some(layout.sandbox_dirs().as_path());
    if in_sandbox_dir { Some(sandbox_dir_name(name.parse().ok()?)) } else { Some(name.to_owned()) }
}

/// What files take of their disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    bytes: u64,
    files: usize,
    /// There are more files than were counted.
    is_cut: bool,
}

impl Taken {
    fn more(self) -> &'static str {
        if self.is_cut { "more than " } else { "" }
    }
}

/// What the files below take; no further than a little over `enough`, nor more files than `most`. What goes meanwhile counts
/// for nothing.
fn bytes_of(folder: &Path, enough: u64, most: usize) -> Taken {
    let Ok(top) = std::fs::symlink_metadata(folder) else { return Taken::default() };
    let (mut left, mut linked, mut taken) = (vec![folder.to_owned()], HashSet::new(), Taken::default());
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if taken.files >= most {
                return Taken { is_cut: true, ..taken };
            }
            taken.files += 1;
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && meta.is_file() && !linked.insert(meta.ino())) {
                continue;
            }
            taken.bytes += meta.blocks() * 512;
            if taken.bytes > enough {
                return taken;
            }
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    taken
}

/// Bytes of files that the processes of each attempt have open and that have no name any more, by the name of its cgroup.
fn nameless(layout: &Layout) -> BTreeMap<String, u64> {
    let Ok(disk) = std::fs::metadata(layout.root()).map(|meta| meta.dev()) else { return BTreeMap::new() };
    let (mut bytes, mut seen) = (BTreeMap::new(), HashSet::new());
    let ours = format!("/{}/", layout.cgroup_label());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let in_cgroup =
            || Some(groups.split_once(&ours)?.1.split(['/', '\n']).next().unwrap_or_default().to_owned());
        // A container of Docker is in one of the daemon's.
        let labelled = || Some(folder_name(label_of(pid, &layout.attempts())?));
        let Some(name) = in_cgroup().or_else(labelled) else { continue };
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for meta in open.filter_map(|entry| std::fs::metadata(entry.path()).ok()) {
            if meta.is_file() && meta.nlink() == 0 && meta.dev() == disk && seen.insert(meta.ino()) {
                *bytes.entry(name.clone()).or_default() += meta.blocks() * 512;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_below_its_reserve_and_until_a_quarter_more_is_free() {
        let (total, reserve) = (1000, 40);
        let judge = |free, was_full| Room::judge(free, total, reserve, was_full);
        assert_eq!(judge(80, false), Room::Enough);
        assert_eq!(judge(79, false), Room::Little { free: 79 });
        assert_eq!(judge(40, false), Room::Little { free: 40 });
        assert_eq!(judge(39, false), Room::None { free: 39, reserve });
        assert_eq!(judge(49, true), Room::None { free: 49, reserve });
        assert_eq!(judge(50, true), Room::Little { free: 50 });
        assert_eq!(Room::judge(49, total, 500, false), Room::None { free: 49, reserve: 50 }, "a small disk");
    }

    #[test]
    fn a_disk_without_room_for_files_is_full_too() {
        let judge = |left, was_full| Room::judge_files(left, 100_000, was_full).is_some();
        assert_eq!((judge(5_000, false), judge(4_999, false)), (false, true));
        assert_eq!((judge(6_249, true), judge(6_250, true)), (true, false));
        assert!(Room::judge_files(9_999, u64::MAX, false).is_some());
        assert!(Room::judge_files(0, 0, false).is_none(), "it does not count files");
    }

    #[test]
    fn files_are_counted_once_without_holes_and_without_what_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, elsewhere) = (folder.path().join("a/b"), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(inside.join("file"), inside.join("again")).unwrap();
        std::fs::File::create(inside.join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::fs::write(elsewhere.path().join("other"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), inside.join("link")).unwrap();
        let bytes = bytes_of(folder.path(), u64::MAX, 100).bytes;
        assert!((1 << 20..(1 << 20) + 100_000).contains(&bytes), "{bytes}");
        assert_eq!(bytes_of(&folder.path().join("absent"), u64::MAX, 100), Taken::default());
        assert!(bytes_of(folder.path(), u64::MAX, 5).is_cut && !bytes_of(folder.path(), u64::MAX, 6).is_cut);
    }
}
