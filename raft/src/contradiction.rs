//! A leader whose log contradicts what is decided here. No peer of a sound cluster meets one: it shows that data folders
//! were replaced by older copies, or lost what they had confirmed. Whoever went on would unlearn what it has applied, and
//! the history would be split in silence; so the peer stops, and does not start over it by itself.
//!
//! Looked at before openraft sees a request: entries by their ids where they are decided, and by their content where both
//! sides have an entry of the same id, and the leader by its term, which had one leader. (Peers that were put back elect in terms that were used before, so that two
//! entries may have one id.) Requests carry a checksum of the entry before theirs for that. What this cannot see is what one
//! of the two has in a snapshot only.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::error::{OpenError, StorageFailure};
use crate::log::disk::{Disk, OpenMode};
use crate::log::record::Record;
use crate::log::writer::{Effect, Pending};
use crate::log::{Log, LogIndex, lock};
use crate::types::{Entry, EntryPayload, LogId, Vote};

/// The file that keeps a contradicted peer from starting.
const MARK: &str = "contradicted";

/// Where a contradiction is written down.
pub(crate) struct Mark {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    what: OnceLock<String>,
}

impl Mark {
    /// Refuses a folder with a mark.
    pub(crate) fn look(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, OpenError> {
        let names = disk.list(dir).map_err(|e| OpenError::io("list", dir, e))?;
        if names.iter().any(|name| name == MARK) {
            let path = dir.join(MARK);
            let failed = |source| OpenError::io("read", &path, source);
            let file = disk.open(&path, OpenMode::Existing).map_err(failed)?;
            let len = file.len().map_err(failed)?.min(4096) as usize;
            let what = String::from_utf8_lossy(&file.read_at(0, len).map_err(failed)?).into_owned();
            return Err(OpenError::Contradicted { path, what });
        }
        Ok(Self { disk, dir: dir.to_owned(), what: OnceLock::new() })
    }

    /// What was written in this process.
    pub(crate) fn written(&self) -> Option<&str> {
        self.what.get().map(String::as_str)
    }

    fn write(&self, what: &str) -> io::Result<()> {
        let _ = self.what.set(what.to_owned());
        let file = self.disk.open(&self.dir.join(MARK), OpenMode::Fresh)?;
        file.write_at(0, what.as_bytes())?;
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)
    }
}

/// What a request of a leader says of its log.
pub(crate) struct LeaderSays<'a> {
    pub vote: Vote,
    /// Entries that it names without sending them.
    pub names: [Option<LogId>; 2],
    /// An entry that it names, with its content.
    pub content: Option<(LogId, u32)>,
    pub entries: &'a [Entry],
}

impl Log {
    /// Ends this peer, with an error, when what a leader says contradicts what is decided here.
    pub(crate) async fn check(&self, says: LeaderSays<'_>) -> Result<(), StorageFailure> {
        let LeaderSays { vote, names, content, entries } = says;
        let (found, decided, same) = {
            let shared = lock(&self.shared);
            let order = shared.bookmarks.vote.map_or(Some(Ordering::Greater), |own| vote.partial_cmp(&own));
            let found = match order {
                // Of an earlier leader: it is refused, whatever it says.
                Some(Ordering::Less) => return Ok(()),
                Some(_) => {
                    let ids = names.into_iter().flatten().chain(entries.iter().map(|entry| entry.log_id));
                    ids.into_iter().find_map(|id| shared.contradicts(id))
                }
                None => match shared.bookmarks.vote.and_then(|own| two_leaders(vote, own)) {
                    Some(found) => Some(found),
                    None => return Ok(()),
                },
            };
            (found, shared.bookmarks.committed, shared.same_ids(entries))
        };
        let found = match found {
            Some(found) => Some(found),
            None => match self.named_content(content).await? {
                Some(found) => Some(found),
                None => self.other_content(same).await?,
            },
        };
        let Some(found) = found else { return Ok(()) };
        let decided =
            decided.map_or_else(|| "nothing is".to_owned(), |id| format!("all up to entry {} is", id.index));
        let what = format!(
            "{found}, where {decided} decided here. A data folder was replaced by an older copy, or lost what it had \
             confirmed. This peer does not unlearn: work that was acknowledged may be in its folder alone"
        );
        Err(self.stop_contradicted(what).await)
    }

    /// The content of an entry, while it is in this log. Reads the file when it is not in memory, as after a long lag: then
    /// openraft reads the entries beside it, too.
    pub(crate) async fn content_of(&self, id: LogId) -> io::Result<Option<u32>> {
        let cached = {
            let shared = lock(&self.shared);
            if shared.slot(id.index).is_none_or(|slot| slot.id != id) {
                return Ok(None);
            }
            shared.cached(id)
        };
        let entry = match cached {
            Some(entry) => Some(entry),
            None => {
                self.read(id.index..id.index + 1, usize::MAX).await?.pop().filter(|entry| entry.log_id == id)
            }
        };
        Ok(entry.map(|entry| content(&entry.payload)))
    }

    /// Whether an entry that the leader names, with its content, is another one here.
    async fn named_content(&self, named: Option<(LogId, u32)>) -> Result<Option<String>, StorageFailure> {
        let Some((id, theirs)) = named else { return Ok(None) };
        let own = self.content_of(id).await.map_err(|error| StorageFailure(error.to_string()))?;
        Ok(own.is_some_and(|own| own != theirs).then(|| other(id)))
    }

    /// Whether one of these entries, whose ids are in this log too, is another entry here.
    async fn other_content(&self, same: &[Entry]) -> Result<Option<String>, StorageFailure> {
        let (Some(first), Some(last)) = (same.first(), same.last()) else { return Ok(None) };
        let range = first.log_id.index..last.log_id.index + 1;
        let own = self.read(range, usize::MAX).await.map_err(|error| StorageFailure(error.to_string()))?;
        let differs = |entry: &&Entry| {
            let own = own.iter().find(|own| own.log_id == entry.log_id);
            own.is_some_and(|own| content(&own.payload) != content(&entry.payload))
        };
        Ok(same.iter().find(differs).map(|entry| other(entry.log_id)))
    }

    /// What is decided is written down first, so that no later start takes it for open.
    async fn stop_contradicted(&self, what: String) -> StorageFailure {
        let committed = lock(&self.shared).bookmarks.committed;
        let record =
            Pending { effect: Effect::Committed(committed), encoded: Record::Committed(committed).encode() };
        let (confirm, confirmed) = tokio::sync::oneshot::channel();
        self.queue.push(vec![record], Some(Box::new(move |result| drop(confirm.send(result)))));
        // The peer stops whatever became of it.
        let _ = confirmed.await;
        if let Err(error) = self.mark.write(&what) {
            tracing::error!(%error, "the mark of the contradiction cannot be written");
        }
        let failure = StorageFailure(what);
        self.queue.fail(failure.clone());
        failure
    }
}

/// What tells the content of an entry from that of another one of the same number and term: CRC32C of what was proposed,
/// or its kind. (A membership may be encoded otherwise by another version.)
fn content(payload: &EntryPayload) -> u32 {
    match payload {
        EntryPayload::Normal(payload) => crc32c::crc32c(&payload.0),
        EntryPayload::Blank => 1,
        EntryPayload::Membership(_) => 2,
    }
}

/// A term has one leader. Who has followed another one in the term of this one is contradicted even if neither knows an
/// entry of the other; openraft would take the second leader after a restart of the first, as it forgets that it led.
fn two_leaders(theirs: Vote, own: Vote) -> Option<String> {
    let (ours, theirs) =
        (own.committed.then_some(own.leader_id)?, theirs.committed.then_some(theirs.leader_id)?);
    let found = ours.term == theirs.term && ours.voted_for != theirs.voted_for;
    found.then(|| {
        format!(
            "peer {} leads in term {}, in which peer {} led",
            theirs.voted_for, theirs.term, ours.voted_for
        )
    })
}

fn other(id: LogId) -> String {
    format!("the leader's entry {} of term {} is another one than this peer's", id.index, id.leader_id.term)
}

impl LogIndex {
    /// How an entry of a leader that this peer would follow contradicts what is decided here.
    fn contradicts(&self, theirs: LogId) -> Option<String> {
        let decided = self.bookmarks.committed.filter(|decided| theirs.index <= decided.index)?;
        let own = self.slot(theirs.index).map(|slot| slot.id);
        // Terms never fall within a log.
        if own.is_none_or(|own| own == theirs) && theirs.leader_id.term <= decided.leader_id.term {
            return None;
        }
        let own = own.unwrap_or(decided);
        Some(format!(
            "the leader's entry {} is of term {} and this peer's {} of term {}",
            theirs.index, theirs.leader_id.term, own.index, own.leader_id.term
        ))
    }

    /// Those of these entries whose ids are in this log.
    fn same_ids<'a>(&self, entries: &'a [Entry]) -> &'a [Entry] {
        let here = |entry: &Entry| self.slot(entry.log_id.index).is_some_and(|slot| slot.id == entry.log_id);
        let first = entries.iter().position(here).unwrap_or(entries.len());
        let len = entries[first..].iter().take_while(|entry| here(entry)).count();
        &entries[first..first + len]
    }
}
