//! What an attempt wrote last: from the peers when its end is recorded, else from its node.

use std::collections::BTreeMap;

use serde_json::Value;
use stint_protocol::limits::ENDING_TAIL_BYTES;
use stint_protocol::{LeaseId, NodeId};

use crate::attempt_output::{AttemptOutput, OutputSource};
use crate::endings::summary::{EndingSummary, OutputTail, unpack};
use crate::service::Service;
use crate::wire::{LogAnswer, ReadLog};

/// The ends of both streams, the last progress, and what the program says its result is.
#[derive(Default)]
pub struct LastWords {
    pub stdout: Tail,
    pub stderr: Tail,
    /// Null when it said nothing, or nobody knows.
    pub progress: Value,
    /// Null when it said none, or no ending has it.
    pub said: Value,
    /// Outputs that are small JSON, by path.
    pub files: BTreeMap<String, Value>,
}

/// The end of one output stream.
#[derive(Default)]
pub struct Tail {
    pub text: Option<String>,
    pub truncated: bool,
    pub problem: Option<String>,
}

impl LastWords {
    fn away() -> Self {
        let away =
            || Tail { problem: Some("the node that keeps it does not answer".into()), ..Tail::default() };
        Self { stdout: away(), stderr: away(), ..Self::default() }
    }
}

impl From<EndingSummary> for LastWords {
    fn from(ending: EndingSummary) -> Self {
        let tail = |tail: &OutputTail| Tail {
            text: Some(String::from_utf8_lossy(&tail.bytes).into_owned()),
            truncated: !tail.is_whole(),
            problem: None,
        };
        let read = |json: &[u8]| serde_json::from_slice(json).unwrap_or_default();
        let progress = read(&ending.progress);
        let said = ending.result.as_ref().map(|result| read(result)).unwrap_or_default();
        let files = ending.files.into_iter().flatten().map(|file| (file.path, read(&file.json)));
        let files = files.collect();
        Self { stdout: tail(&ending.stdout), stderr: tail(&ending.stderr), progress, said, files }
    }
}

impl Service {
    /// Without an attempt there are none.
    pub(super) async fn last_words(&self, source: Option<OutputSource>) -> LastWords {
        let Some(source) = source else { return LastWords::default() };
        let output = &self.node.output;
        if let Some(number) = source.ending
            && let Some(ending) = output.ending(number, source.lease).await
            && let Some(summary) = unpack(&ending)
        {
            return summary.into();
        }
        let asked = async {
            let tails = async { tokio::join!(tail(output, source, false), tail(output, source, true)) };
            let progress = progress(output, source.node, source.lease);
            let ((stdout, stderr), progress) = tokio::join!(tails, progress);
            LastWords { stdout, stderr, progress, ..LastWords::default() }
        };
        tokio::select! {
            answer = self.unless_away(asked) => answer.unwrap_or_else(LastWords::away),
            () = self.until_gone(source.node) => LastWords::away(),
        }
    }
}

async fn tail(output: &AttemptOutput, source: OutputSource, stderr: bool) -> Tail {
    let read = ReadLog {
        lease: source.lease,
        stderr,
        offset: 0,
        wait_ms: 0,
        file: None,
        tail: Some(ENDING_TAIL_BYTES as u32),
        progress: None,
        stage: None,
    };
    match output.read_of(source, read).await {
        Ok(LogAnswer::Chunk { bytes, next_offset, .. }) => Tail {
            text: Some(String::from_utf8_lossy(&bytes).into_owned()),
            truncated: next_offset > bytes.len() as u64,
            problem: None,
        },
        Ok(LogAnswer::Failed(why)) => Tail { problem: Some(why), ..Tail::default() },
        Err(refusal) => Tail { problem: Some(refusal.message), ..Tail::default() },
    }
}

/// What the attempt said last about how far it is; null when it said nothing or its node is away.
async fn progress(output: &AttemptOutput, node: NodeId, lease: LeaseId) -> Value {
    let (file, tail, progress) = (None, None, Some(true));
    let read = ReadLog { lease, stderr: false, offset: 0, wait_ms: 0, file, tail, progress, stage: None };
    match output.read(node, read).await {
        Ok(LogAnswer::Chunk { bytes, .. }) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Ok(LogAnswer::Failed(_)) | Err(_) => Value::Null,
    }
}
