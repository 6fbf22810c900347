//! Keeps the output of an attempt with the cluster, where its task wants that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stint_protocol::limits::{CLUSTER_LOG_BYTES, ENDING_TAIL_BYTES};
use stint_protocol::{AttemptEnd, Blob, EndKind, KeepLogs, LeaseId};
use tokio::time::timeout;

use super::keeping::until_lease_over;
use super::lines::trouble;
use super::state::ClientState;
use crate::host::LogStream;
use crate::stages::StageRecord;
use crate::{limits, logs};

/// Says in the end of an attempt where the cluster keeps its output; an attempt does not fail because it could not be kept. Its secrets
/// are hidden by now.
pub async fn keep_logs(shared: &Arc<ClientState>, record: &StageRecord, end: &mut AttemptEnd) {
    let lease = end.lease;
    // The cluster does not know of an attempt whose lease is over.
    if record.logs != Some(KeepLogs::Cluster) || end.kind == EndKind::Lost {
        return;
    }
    let all = async {
        let stdout = keep(shared, record, lease, LogStream::Stdout).await?;
        Ok::<_, String>((stdout, keep(shared, record, lease, LogStream::Stderr).await?))
    };
    let kept = tokio::select! {
        kept = timeout(Duration::from_millis(limits::KEEP_LOGS_MS), all) => {
            kept.unwrap_or_else(|_| Err("it took too long".into()))
        }
        () = until_lease_over(shared, lease) => Err("its lease is over".into()),
    };
    match kept {
        Ok((None, None)) => {}
        Ok((stdout, stderr)) => {
            let ending = end.ending.get_or_insert_default();
            (ending.stdout, ending.stderr) = (stdout, stderr);
        }
        Err(error) => {
            trouble!(warn, shared, lease, error, "the cluster does not keep its output: this node does")
        }
    }
}

/// None: all of it is in the end that every peer keeps.
async fn keep(
    shared: &ClientState,
    record: &StageRecord,
    lease: LeaseId,
    stream: LogStream,
) -> Result<Option<Blob>, String> {
    let Some(store) = shared.settings.store.clone() else { return Err("this node keeps no blobs".into()) };
    let folder = shared.layout.attempt(lease);
    let (from, to) = (folder.join(stream.as_str()), folder.join(format!("{}.kept", stream.as_str())));
    let target = to.clone();
    let copied = tokio::task::spawn_blocking(move || copy(&from, &target)).await;
    let copied = copied.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| e.to_string())?;
    if !copied {
        return Ok(None);
    }
    let blob = store.keep(&record.tenant, to.clone()).await.map_err(|e| e.to_string());
    remove(to).await;
    blob.map(Some)
}

async fn remove(path: PathBuf) {
    // What stays goes with the folder.
    let _ = tokio::fs::remove_file(path).await;
}

/// Copies what a reader would get, its beginning and its end where it is too long. False: there is too little of it to copy.
fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    let size = match std::fs::metadata(from) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if size <= ENDING_TAIL_BYTES as u64 {
        return Ok(false);
    }
    let most = CLUSTER_LOG_BYTES as u64;
    let bytes = if size <= most {
        read(from, 0, most)?
    } else {
        let (head, dropped) = (limits::LOG_HEAD_BYTES, size - most);
        let mut bytes = read(from, 0, head)?;
        let line = format!("\n[stint: {dropped} bytes dropped, the cluster keeps {most}]\n");
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(&read(from, head + dropped, most - head)?);
        bytes
    };
    std::fs::write(to, bytes)?;
    Ok(true)
}

/// So many bytes from an offset on, with the lines of readers about what was dropped.
fn read(from: &Path, mut offset: u64, most: u64) -> io::Result<Vec<u8>> {
    let (until, mut bytes) = (offset + most, Vec::new());
    while offset < until {
        let chunk = logs::read(from, offset, (until - offset) as usize, true)?;
        if chunk.bytes.is_empty() {
            break;
        }
        offset = chunk.next_offset;
        bytes.extend_from_slice(&chunk.bytes);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_keeps_its_beginning_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("stdout"), folder.path().join("kept"));
        assert!(!copy(&from, &to).unwrap(), "there is none");
        std::fs::write(&from, vec![b'x'; ENDING_TAIL_BYTES]).unwrap();
        assert!(!copy(&from, &to).unwrap(), "the ending has it all");
        std::fs::write(&from, vec![b'x'; CLUSTER_LOG_BYTES]).unwrap();
        assert!(copy(&from, &to).unwrap());
        assert_eq!(std::fs::read(&to).unwrap(), vec![b'x'; CLUSTER_LOG_BYTES]);

        let long = [b"first".to_vec(), vec![b'x'; 10 << 20], b"last".to_vec()].concat();
        std::fs::write(&from, &long).unwrap();
        assert!(copy(&from, &to).unwrap());
        let kept = String::from_utf8(std::fs::read(&to).unwrap()).unwrap();
        let dropped = long.len() - CLUSTER_LOG_BYTES;
        assert!(kept.starts_with("first") && kept.ends_with("last"));
        assert!(kept.contains(&format!("[stint: {dropped} bytes dropped, the cluster keeps 1048576]")));
        assert!(kept.len() < CLUSTER_LOG_BYTES + 128);
    }
}
