//! The log as openraft sees it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use crate::log::Log;
use crate::options::{APPEND_BYTES, APPLY_BYTES};
use crate::types::{Entry, LogId, Types, Vote};

/// A handle on the log; cheap to copy.
#[derive(Clone)]
pub(crate) struct Store(pub(crate) Arc<Log>);

fn bounds(range: &impl RangeBounds<u64>, end: u64) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => end,
    };
    start..end.max(start)
}

impl Store {
    fn end(&self) -> u64 {
        self.0.bookmarks().last.map_or(0, |last| last.index + 1)
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        self.0.read(bounds(&range, self.end()), usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.bookmarks().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.0.read(start..end, APPEND_BYTES).await
    }

    /// Reads a bounded number of bytes at a time, however long the range is.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let state = (self.0.clone(), bounds(&range, self.end()), Vec::new().into_iter());
        Box::pin(stream::try_unfold(state, |(log, mut rest, mut read)| async move {
            loop {
                if let Some(entry) = read.next() {
                    return Ok(Some((entry, (log, rest, read))));
                }
                if rest.is_empty() {
                    return Ok(None);
                }
                let entries: Vec<Entry> = log.read(rest.clone(), APPLY_BYTES).await?;
                rest.start = entries.last().map_or(rest.end, |last| last.log_id.index + 1);
                read = entries.into_iter();
            }
        }))
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let bookmarks = self.0.bookmarks();
        Ok(LogState { last_purged_log_id: bookmarks.purged, last_log_id: bookmarks.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.0.save_vote(*vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.0.save_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.bookmarks().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let done = move |result: Result<(), crate::error::StorageFailure>| {
            callback.io_completed(result.map_err(|failure| failure.to_io()));
        };
        self.0.append(entries.into_iter().collect(), Box::new(done)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.0.truncate_after(last)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.0.purge(upto);
        Ok(())
    }
}
