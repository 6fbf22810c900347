//! Snapshot files against crashes at every step, cuts and damage; and how much of one is in memory at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use super::*;
use crate::log::disk::{DiskFile, OpenMode};
use crate::options::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_PIECE_BYTES};
use crate::test_disk::{MemoryDisk, TestRng, seeds};
use crate::types::{CommittedLeaderId, LogId, Membership, PeerInfo, StoredMembership};

const DIR: &str = "/data/snapshots";

/// A disk that counts what is done, notes the most bytes of one call, and loses its power after so many steps.
#[derive(Debug, Clone)]
struct Watched(Arc<Watch>);

#[derive(Debug)]
struct Watch {
    disk: MemoryDisk,
    session: Box<dyn Disk>,
    steps_left: AtomicI64,
    rng: Mutex<TestRng>,
    most: AtomicUsize,
}

impl Watched {
    /// A new life of the machine that this disk is in.
    fn with_steps(disk: &MemoryDisk, steps: i64, rng: &TestRng) -> Self {
        let (disk, session) = (disk.clone(), Box::new(disk.session()));
        let (steps_left, rng) = (AtomicI64::new(steps), Mutex::new(rng.clone()));
        Self(Arc::new(Watch { disk, session, steps_left, rng, most: AtomicUsize::new(0) }))
    }

    fn immortal(disk: &MemoryDisk) -> Self {
        Self::with_steps(disk, i64::MAX, &TestRng::new(0))
    }

    fn step(&self) {
        if self.0.steps_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.0.disk.power_lost(&mut *lock(&self.0.rng), true);
        }
    }

    fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }
}

impl Disk for Watched {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.session.create_dir_all(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.step();
        let file = self.0.session.open(path, mode)?;
        Ok(Arc::new(WatchedFile { watched: self.clone(), file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.session.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        self.0.session.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.0.session.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step();
        self.0.session.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.session.lock(path)
    }
}

#[derive(Debug)]
struct WatchedFile {
    watched: Watched,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for WatchedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.watched.step();
        self.watched.0.most.fetch_max(bytes.len(), Ordering::Relaxed);
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.file.read_at(offset, len)?;
        self.watched.0.most.fetch_max(bytes.len(), Ordering::Relaxed);
        Ok(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watched.step();
        self.file.sync_data()
    }
}

fn meta(index: u64) -> SnapshotMeta {
    let log_id = LogId { leader_id: CommittedLeaderId::new(3), index };
    let peer = PeerInfo { addr: "peer-1:1".into(), disk_id: "disk-1".into() };
    let members = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, peer)])).unwrap();
    SnapshotMeta { last_log_id: Some(log_id), last_membership: StoredMembership::new(None, members) }
}

/// Bytes of which no two pieces are the same.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = TestRng::new(seed);
    (0..len.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).take(len).collect()
}

fn capture(bytes: &[u8]) -> Capture {
    let bytes = bytes.to_vec();
    Box::new(move |to| bytes.chunks(1_000).try_for_each(|part| to.write_all(part)))
}

fn open(disk: impl Disk) -> Result<Snapshots, OpenError> {
    Snapshots::open(Arc::new(disk), DIR.into(), true, Arc::new(Queue::new()))
}

/// The newest snapshot, where it stands and what it holds.
async fn newest(snapshots: &Snapshots) -> Option<(SnapshotMeta, Vec<u8>)> {
    let Snapshot { meta, snapshot } = snapshots.current().await.unwrap()?;
    let mut read = Vec::new();
    snapshot.reader().read_to_end(&mut read).unwrap();
    Some((meta, read))
}

/// Sends a body as a leader does, until it is whole there.
async fn transfer(body: &Body, to: &Snapshots, meta: SnapshotMeta) -> io::Result<()> {
    let mut incoming = to.receive(meta.clone(), body.len, body.crc).await?;
    while incoming.have < body.len {
        let piece = body.piece(incoming.have, SNAPSHOT_CHUNK_BYTES).await?;
        to.append(&mut incoming, &piece).await?;
    }
    to.save(meta, incoming.finish(true)).await
}

#[tokio::test]
async fn no_more_than_a_piece_is_read_or_written_at_once_however_large_the_snapshot_is() {
    let (here, there) = (MemoryDisk::default(), MemoryDisk::default());
    let (here, there) = (Watched::immortal(&here), Watched::immortal(&there));
    let (from, to) = (open(here.clone()).unwrap(), open(there.clone()).unwrap());
    let (large, at) = (bytes(20 * 1024 * 1024 + 17, 1), meta(9));
    let written = from.write(at.clone(), capture(&large)).await.unwrap();
    assert_eq!((written.len, written.crc), (large.len() as u64, crc32c::crc32c(&large)));
    assert!(newest(&from).await == Some((at.clone(), large.clone())));
    assert_eq!(here.most(), SNAPSHOT_PIECE_BYTES);

    let body = from.current().await.unwrap().unwrap().snapshot;
    transfer(&body, &to, at.clone()).await.unwrap();
    assert!(newest(&to).await == Some((at.clone(), large.clone())));
    assert_eq!((here.most(), there.most()), (SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNK_BYTES));

    // What is read once more at a start is read in pieces too; nothing is left of the transfer.
    let again = Watched::immortal(&there.0.disk);
    assert!(newest(&open(again.clone()).unwrap()).await == Some((at, large)));
    assert_eq!(again.most(), SNAPSHOT_PIECE_BYTES);
    let names = again.list(Path::new(DIR)).unwrap();
    assert!(names.len() == 1 && names[0].ends_with(".snap"), "{names:?}");
}

/// How a newer snapshot comes beside an older one.
#[derive(Debug, Clone, Copy)]
enum Way {
    Written,
    Received,
}

async fn bring(way: Way, newer: &[u8], to: &Snapshots) -> io::Result<()> {
    match way {
        Way::Written => to.write(meta(9), capture(newer)).await.map(|_| ()),
        Way::Received => {
            let leader = open(Watched::immortal(&MemoryDisk::default())).unwrap();
            let body = leader.write(meta(9), capture(newer)).await.unwrap();
            transfer(&body, to, meta(9)).await
        }
    }
}

/// The power goes at the given step; what is there then, and whether the newer one was confirmed.
async fn crash(way: Way, step: i64, seed: u64) -> (u64, bool) {
    let (older, newer) = (bytes(3_000, 5), bytes(2 * SNAPSHOT_CHUNK_BYTES + 11, 9));
    let disk = MemoryDisk::default();
    open(disk.session()).unwrap().write(meta(5), capture(&older)).await.unwrap();
    let confirmed = {
        let snapshots = open(Watched::with_steps(&disk, step, &TestRng::new(seed))).unwrap();
        bring(way, &newer, &snapshots).await.is_ok()
    };
    let snapshots = open(disk.session()).unwrap_or_else(|e| panic!("{way:?}, step {step}, seed {seed}: {e}"));
    let (at, found) = newest(&snapshots).await.expect("one of the two is there");
    assert!(found == if at == meta(5) { older } else { newer }, "{way:?}, step {step}, seed {seed}");
    let names = disk.session().list(Path::new(DIR)).unwrap();
    assert_eq!(names.len(), 1, "{way:?}, step {step}, seed {seed}: {names:?}");
    (at.last_log_id.unwrap().index, confirmed)
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_the_older_snapshot_or_the_newer_one_and_each_whole() {
    for way in [Way::Written, Way::Received] {
        let (mut older, mut newer) = (0, 0);
        for seed in 0..seeds(4) {
            let mut step = 1;
            loop {
                let (index, confirmed) = crash(way, step, seed).await;
                assert!(!confirmed || index == 9, "{way:?}, step {step}, seed {seed}: it was confirmed");
                *if index == 5 { &mut older } else { &mut newer } += 1;
                if confirmed {
                    break;
                }
                step += 1;
            }
        }
        // It fails while it is written, and between its name and the end of the older one.
        assert!(older > 4 * 4 && newer > 4, "{way:?}: {older} and {newer}");
    }
}

/// A snapshot that lies beside an older one: its name, its bytes, and where its body begins.
async fn two_snapshots(disk: &MemoryDisk) -> (PathBuf, Vec<u8>, usize) {
    let older = MemoryDisk::default();
    let snapshots = open(older.session()).unwrap();
    snapshots.write(meta(5), capture(&bytes(3_000, 5))).await.unwrap();
    let snapshots = open(disk.session()).unwrap();
    snapshots.write(meta(9), capture(&bytes(2 * SNAPSHOT_PIECE_BYTES + 11, 9))).await.unwrap();
    let path = |index| Path::new(DIR).join(format!("snapshot-{index:020}-{:020}.snap", 3));
    let file = disk.session().open(&path(5), OpenMode::Fresh).unwrap();
    file.write_at(0, &older.content(&path(5)).unwrap()).unwrap();
    let whole = disk.content(&path(9)).unwrap();
    (path(9), whole, head::head(&meta(9), 0, 0).len())
}

fn lies_there(disk: &MemoryDisk, path: &Path, bytes: &[u8]) -> Result<Snapshots, OpenError> {
    disk.session().open(path, OpenMode::Fresh).unwrap().write_at(0, bytes).unwrap();
    open(disk.session())
}

#[tokio::test]
async fn a_snapshot_that_is_cut_longer_or_changed_is_refused_and_the_older_one_stays() {
    let disk = MemoryDisk::default();
    let (path, whole, start) = two_snapshots(&disk).await;
    let borders: Vec<usize> = [0, 8, 12, 16, 20, 24]
        .into_iter()
        .chain((start..whole.len()).step_by(SNAPSHOT_PIECE_BYTES))
        .collect();
    assert_eq!(borders.len(), 6 + 3);
    let near = |border: &usize| [border.saturating_sub(1), *border, *border + 1];
    for cut in borders.iter().flat_map(near).chain([whole.len() - 1]) {
        let refused = lies_there(&disk, &path, &whole[..cut]).map(|_| ()).unwrap_err();
        assert!(matches!(refused, OpenError::Corrupt { .. }), "cut at {cut}: {refused}");
    }
    // Bytes 20 to 24 say nothing yet: a later version may use them.
    let says_something = |at: &usize| *at < whole.len() && !(20..24).contains(at);
    for at in borders.iter().flat_map(near).filter(says_something).chain([whole.len() - 1]) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        let refused = lies_there(&disk, &path, &changed).map(|_| ()).unwrap_err();
        let named = matches!(refused, OpenError::Corrupt { .. } | OpenError::NewerFormat { .. });
        assert!(named, "changed at {at}: {refused}");
    }
    assert!(lies_there(&disk, &path, &[&whole[..], b"x"].concat()).is_err());
    assert_eq!(disk.session().list(Path::new(DIR)).unwrap().len(), 2, "nothing is removed before it is read");
    let snapshots = lies_there(&disk, &path, &whole).unwrap();
    assert!(newest(&snapshots).await.unwrap().0 == meta(9));
}

#[tokio::test]
async fn damage_that_comes_after_a_snapshot_was_checked_is_noticed_when_it_is_read() {
    let disk = MemoryDisk::default();
    let (path, whole, start) = two_snapshots(&disk).await;
    let snapshots = open(disk.session()).unwrap();
    let body = snapshots.current().await.unwrap().unwrap().snapshot;
    disk.corrupt(&path, start + 1);
    let mut read = Vec::new();
    let error = body.reader().read_to_end(&mut read).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(start + read.len() < whole.len(), "a damaged body was handed out whole");
    // The next one who asks for it ends this peer.
    let failures = snapshots.queue.failures();
    assert!(failures.borrow().is_none());
    assert!(snapshots.current().await.is_err());
    assert!(failures.borrow().as_ref().unwrap().to_string().contains("fails its checksum"));
}

#[tokio::test]
async fn a_snapshot_that_was_overtaken_while_it_was_written_stays_readable_and_gets_no_name() {
    let disk = MemoryDisk::default();
    let snapshots = Arc::new(open(disk.session()).unwrap());
    let (slow, text) = (bytes(3_000, 5), bytes(2_000, 9));
    let (overtaking, slow_text) = (snapshots.clone(), slow.clone());
    let capture_slowly: Capture = Box::new(move |to: &mut dyn Write| {
        to.write_all(&slow_text[..1_000])?;
        // Another one comes and is kept: that must not wait for this one.
        futures_util::FutureExt::now_or_never(overtaking.write(meta(9), capture(&text))).unwrap()?;
        to.write_all(&slow_text[1_000..])
    });
    let body = snapshots.write(meta(5), capture_slowly).await.unwrap();
    let mut read = Vec::new();
    body.reader().read_to_end(&mut read).unwrap();
    assert!(read == slow);
    assert!(newest(&snapshots).await == Some((meta(9), bytes(2_000, 9))));
    assert_eq!(disk.session().list(Path::new(DIR)).unwrap().len(), 1);
}
