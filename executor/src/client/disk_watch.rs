//! Whether the disk on which attempts live answers. A disk that hangs refuses nothing: whoever writes there waits, and the node
//! would go on to take tasks that it cannot start. So a few bytes are written there when an attempt begins.

use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::state::ClientState;
use crate::host::HostEvent;

/// Looks are so far apart at least, however many attempts begin.
const PAUSE: Duration = Duration::from_secs(1);

/// How a problem of the disk begins.
pub const DISK_PROBLEM: &str = "the disk of ";

/// What is known of the disk.
pub struct DiskWatch {
    wanted: Notify,
    /// What is wrong with the room on it, and whether nothing can be started therefore.
    room: Mutex<Option<(String, bool)>>,
    /// Why nothing can be started while it hangs.
    hangs: watch::Sender<Option<String>>,
}

impl Default for DiskWatch {
    fn default() -> Self {
        Self { wanted: Notify::new(), room: Mutex::default(), hangs: watch::Sender::new(None) }
    }
}

impl DiskWatch {
    /// An attempt begins.
    pub fn look(&self) {
        self.wanted.notify_one();
    }

    /// Why nothing can be started now.
    pub fn problem(&self) -> Option<String> {
        let full = || self.room().clone().filter(|(_, full)| *full).map(|(problem, _)| problem);
        self.hangs.borrow().clone().or_else(full)
    }

    /// What an operator should know although attempts start.
    pub fn warning(&self) -> Option<String> {
        self.room().clone().filter(|(_, full)| !full).map(|(problem, _)| problem)
    }

    /// What is wrong with the room on it now; whether that is another thing than before.
    pub fn set_room(&self, problem: Option<String>, full: bool) -> bool {
        let mut room = self.room();
        // Numbers change all the time.
        let kind = |room: &Option<(String, bool)>| room.as_ref().map(|(_, full)| *full);
        let new = problem.map(|problem| (problem, full));
        let changed = kind(&room) != kind(&new);
        if changed {
            *room = new;
        }
        changed
    }

    fn room(&self) -> MutexGuard<'_, Option<(String, bool)>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the disk does not answer, with the words for it.
    pub fn until_it_hangs(&self) -> impl Future<Output = String> + use<> {
        let mut hangs = self.hangs.subscribe();
        async move {
            loop {
                if let Some(problem) = hangs.borrow_and_update().clone() {
                    return problem;
                }
                if hangs.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Returns when the disk answers again.
    pub fn until_it_answers(&self) -> impl Future<Output = ()> + use<> {
        let mut hangs = self.hangs.subscribe();
        async move {
            let _ = hangs.wait_for(Option::is_none).await;
        }
    }
}

/// Looks when it is asked to, until the client goes.
pub async fn run(shared: Arc<ClientState>) {
    loop {
        shared.disk.wanted.notified().await;
        let file = shared.layout.root().join("disk-probe");
        // Errors are no hanging, and whoever writes next tells them.
        let mut writing = tokio::task::spawn_blocking(move || drop(write(&file)));
        let patience = Duration::from_millis(shared.settings.disk_timeout_ms);
        if timeout(patience, &mut writing).await.is_err() {
            let (folder, waited) = (shared.layout.root().display(), patience.as_secs_f64());
            let problem = format!(
                "{DISK_PROBLEM}{folder} does not answer: a few bytes were not written there in {waited} s"
            );
            tracing::error!(%problem, "nothing is started here until it answers");
            shared.disk.hangs.send_replace(Some(problem));
            shared.publish(vec![HostEvent::RuntimesChanged]).await;
            let _ = writing.await;
            tracing::info!("the disk answers again");
            shared.disk.hangs.send_replace(None);
            shared.publish(vec![HostEvent::RuntimesChanged]).await;
        }
        sleep(PAUSE).await;
    }
}

fn write(file: &Path) -> io::Result<()> {
    let mut file = std::fs::File::create(file)?;
    file.write_all(b"alive\n")?;
    file.sync_all()
}
