//! openraft's own conformance suite on the real store.

use std::io::Read;
use std::sync::{Arc, Mutex};

use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{StorageError, alias};

use crate::log::Log;
use crate::machine::{Applier, Capture, SnapshotTrigger, StateMachine};
use crate::options::RaftOptions;
use crate::snapshot::Snapshots;
use crate::store::Store;
use crate::types::{Position, Types, seeded};

/// A machine that keeps what it was given.
#[derive(Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl StateMachine for Kept {
    type Reply = ();

    fn apply(&mut self, _at: Position, data: &[u8]) -> Result<(), String> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(())
    }

    fn advance(&mut self, _at: Position) {}

    fn batch_done(&mut self) {}

    fn capture(&self) -> Capture {
        let bytes = self.0.lock().unwrap().clone();
        Box::new(move |to| to.write_all(&bytes))
    }

    fn restore(&mut self, _at: Position, from: &mut dyn Read) -> Result<(), String> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        *self.0.lock().unwrap() = bytes;
        Ok(())
    }
}

struct RealStore;

impl StoreBuilder<Types, Store, Applier<Kept>, tempfile::TempDir> for RealStore {
    async fn build(&self) -> Result<(tempfile::TempDir, Store, Applier<Kept>), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let options =
            RaftOptions { segment_bytes: 4096, entry_cache_bytes: 512, ..RaftOptions::new("suite") };
        let log = Log::open(&dir.path().join("log"), &options).unwrap();
        let snapshot_dir = dir.path().join("snapshots");
        Snapshots::any(options.disk.as_ref(), &snapshot_dir).unwrap();
        let snapshots = Snapshots::open(options.disk.clone(), snapshot_dir, false, log.queue()).unwrap();
        let applier = Applier::new(Kept::default(), Arc::new(snapshots), SnapshotTrigger::new(u64::MAX));
        Ok((dir, Store(Arc::new(log)), applier))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_log_suite_passes_on_the_real_store() {
    let suite = Suite::<Types, Store, Applier<Kept>, RealStore, tempfile::TempDir>::test_all(RealStore);
    let result: Result<(), alias::ErrorSourceOf<Types>> = seeded(7, suite).await.map_err(|e| panic!("{e}"));
    result.unwrap();
}
