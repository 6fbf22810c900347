//! What a command that waits says on a terminal: what its task waits for, so that the screen is not blank.

use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::Duration;

use stint_sdk::{Client, Error, v1};

use crate::output::talk;

/// Short tasks are done before that, and nobody wants to read about them.
const FIRST: Duration = Duration::from_secs(1);
/// Then it is looked at after so long, and after twice as long each time, up to the second one: each look plans once.
const LATER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Does `work`. Where stderr is a terminal, it says meanwhile what the first of these tasks that is not finished waits for, as
/// often as that changes.
pub async fn telling<T>(client: &Client, tenant: &str, tasks: &[String], work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    let mut said = String::new();
    let mut pause = FIRST;
    loop {
        let look = async {
            tokio::time::sleep(pause).await;
            // An outage is told by the work itself.
            line(client, tenant, tasks).await.unwrap_or_default()
        };
        let line = tokio::select! {
            done = &mut work => return done,
            line = look => line,
        };
        if !line.is_empty() && without_numbers(&line) != without_numbers(&said) {
            talk(&line);
            said = line;
        }
        pause = if pause == FIRST { LATER.0 } else { (pause * 2).min(LATER.1) };
    }
}

async fn line(client: &Client, tenant: &str, tasks: &[String]) -> Result<String, Error> {
    let (task, done) = match tasks {
        [task] => (task.clone(), None),
        tasks => {
            let request = v1::WaitRequest {
                tenant: tenant.into(),
                tasks: tasks.to_vec(),
                timeout_ms: 1,
                ..Default::default()
            };
            let all = client.wait(request).await?.tasks;
            let mut open = all.iter().filter(|task| task.outcome.is_none());
            let Some(first) = open.next() else { return Ok(String::new()) };
            let name = if first.name.is_empty() { &first.id } else { &first.name };
            (name.clone(), Some((all.len() - 1 - open.count(), all.len())))
        }
    };
    let request = v1::ExplainRequest { tenant: tenant.into(), task: task.clone() };
    let summary = client.explain(request).await?.summary;
    Ok(match done {
        None => format!("{task}: {summary}"),
        Some((done, all)) => format!("{done} of {all} finished; {task}: {summary}"),
    })
}

/// A line without its numbers: a time that runs down is no news.
fn without_numbers(line: &str) -> String {
    line.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_runs_down_is_no_news() {
        assert_eq!(
            without_numbers("node n1 is kept for it, in 62 s"),
            without_numbers("node n1 is kept for it, in 7 s")
        );
        assert_ne!(without_numbers("1 of 1 nodes can take it"), without_numbers("a node fits"));
    }
}
