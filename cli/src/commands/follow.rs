//! Following the output of a task through all its attempts.

use std::io::Write as _;

use stint_sdk::{Client, Error, LogStream, v1};

use super::waiting::telling;
use crate::failure::Failure;
use crate::output::talk;

/// The first look at a new task comes soon, since short ones are done by then; later ones less often.
const FIRST_LOOK_MS: u64 = 100;
const LATER_LOOK_MS: u64 = 1_000;

/// A task and which of its output to show.
pub struct Followed {
    pub tenant: String,
    pub task: String,
    /// stdout, stderr; empty = both.
    pub stream: String,
}

/// A task that is finished.
pub struct Ended {
    pub task: v1::Task,
    /// All output of its last attempt was copied. Otherwise the user has been told why not.
    pub complete: bool,
}

/// Copies the output of every attempt from `attempt` on, until the task is finished.
pub async fn follow(client: &Client, followed: &Followed, mut attempt: u32) -> Result<Ended, Failure> {
    let mut complete = true;
    loop {
        let begun = attempt_or_end(client, followed, attempt);
        let (task, finished) =
            telling(client, &followed.tenant, std::slice::from_ref(&followed.task), begun).await?;
        if task.attempts < attempt {
            return Ok(Ended { task, complete });
        }
        if attempt > 1 {
            talk(&format!("{}: attempt {attempt}{}", followed.task, why_again(&task, attempt - 1)));
        }
        complete = copy_while_it_lasts(client, followed, attempt).await?;
        if finished && task.attempts == attempt {
            return Ok(Ended { task, complete });
        }
        attempt += 1;
    }
}

/// How the attempt before ended.
fn why_again(task: &v1::Task, before: u32) -> String {
    let ended = |record: &&v1::Attempt| record.number == before && !record.end.is_empty();
    match task.attempt_records.iter().find(ended) {
        Some(record) if record.message.is_empty() => format!(" (the last one: {})", record.end),
        Some(record) => format!(" (the last one: {}: {})", record.end, record.message),
        None => String::new(),
    }
}

/// Copies the output of a followed attempt. A node that cannot be reached, or keeps the output no more, does not end
/// the following: the attempt may go on, or another one begin elsewhere. Answers whether all of it was copied.
async fn copy_while_it_lasts(client: &Client, followed: &Followed, attempt: u32) -> Result<bool, Failure> {
    let (mut chunks, mut over): (Option<LogStream>, bool) = (None, false);
    loop {
        let error = match copy_rest(client, followed, attempt, &mut chunks).await {
            Ok(complete) => return Ok(complete),
            Err(Failure::Call(error)) if may_pass(&error) => error,
            Err(other) => return Err(other),
        };
        if over {
            talk(&format!("the output of attempt {attempt} is not complete: {error}"));
            return Ok(false);
        }
        // What failed while the attempt went on says nothing of what is there at its end.
        over = is_over(&look(client, followed, LATER_LOOK_MS).await?.0, attempt);
    }
}

async fn copy_rest(
    client: &Client,
    followed: &Followed,
    attempt: u32,
    chunks: &mut Option<LogStream>,
) -> Result<bool, Failure> {
    let chunks = match chunks {
        Some(chunks) => {
            chunks.reopen().await?;
            chunks
        }
        None => chunks.insert(client.logs(request(followed, attempt, true)).await?),
    };
    copy_all(chunks, attempt).await
}

/// Whether the output may be had later, or from a later attempt.
fn may_pass(error: &Error) -> bool {
    let gone = matches!(error.code(), Some(tonic::Code::NotFound | tonic::Code::FailedPrecondition));
    gone || matches!(error, Error::Unreachable { .. })
}

fn is_over(task: &v1::Task, attempt: u32) -> bool {
    let ended = |record: &v1::Attempt| record.number == attempt && record.ended_at_ms != 0;
    task.outcome.is_some() || task.attempts > attempt || task.attempt_records.iter().any(ended)
}

/// Waits until the attempt has begun or the task is finished; answers which.
async fn attempt_or_end(
    client: &Client,
    followed: &Followed,
    attempt: u32,
) -> Result<(v1::Task, bool), Failure> {
    let mut wait_ms = FIRST_LOOK_MS;
    loop {
        let (task, finished) = look(client, followed, wait_ms).await?;
        if finished || task.attempts >= attempt {
            return Ok((task, finished));
        }
        tokio::time::sleep(stint_sdk::limits::WAIT_PAUSE).await;
        wait_ms = LATER_LOOK_MS;
    }
}

/// The task as it is at its end, or after `wait_ms`; and whether it is finished.
async fn look(client: &Client, followed: &Followed, wait_ms: u64) -> Result<(v1::Task, bool), Failure> {
    let (tenant, tasks) = (followed.tenant.clone(), vec![followed.task.clone()]);
    let request = v1::WaitRequest { tenant, tasks, timeout_ms: wait_ms, any: false };
    let reply = client.wait(request).await?;
    let task = reply.tasks.into_iter().next();
    let task = task.ok_or_else(|| Failure::Failed("the cluster answered without the task".into()))?;
    Ok((task, reply.finished))
}

/// Copies the output of one attempt: stdout to stdout, stderr to stderr. Answers whether that was all of it.
pub async fn copy(client: &Client, followed: &Followed, attempt: u32, follow: bool) -> Result<bool, Failure> {
    copy_all(&mut client.logs(request(followed, attempt, follow)).await?, attempt).await
}

fn request(followed: &Followed, attempt: u32, follow: bool) -> v1::LogsRequest {
    let Followed { tenant, task, stream } = followed;
    v1::LogsRequest { tenant: tenant.clone(), task: task.clone(), stream: stream.clone(), attempt, follow }
}

async fn copy_all(chunks: &mut LogStream, attempt: u32) -> Result<bool, Failure> {
    while let Some(chunk) = chunks.next().await? {
        write(&chunk)?;
    }
    let dropped =
        || chunks.has_gaps().then_some("its node keeps no more of a stream than executor.max_log_bytes");
    let why = chunks.note().or_else(dropped);
    if let Some(why) = why {
        talk(&format!("the output of attempt {attempt} is not complete: {why}"));
    }
    Ok(why.is_none())
}

fn write(chunk: &v1::LogChunk) -> std::io::Result<()> {
    if chunk.stream == "stderr" {
        return std::io::stderr().write_all(&chunk.data);
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&chunk.data)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_attempt_tells_how_the_one_before_ended() {
        let record = |number, end: &str, message: &str| v1::Attempt {
            number,
            end: end.into(),
            message: message.into(),
            ..v1::Attempt::default()
        };
        let records =
            vec![record(1, "files_missing", "no secret here"), record(2, "lost", ""), record(3, "", "")];
        let task = v1::Task { attempt_records: records, ..v1::Task::default() };
        assert_eq!(why_again(&task, 1), " (the last one: files_missing: no secret here)");
        assert_eq!(why_again(&task, 2), " (the last one: lost)");
        assert_eq!((why_again(&task, 3), why_again(&task, 4)), (String::new(), String::new()));
    }
}
