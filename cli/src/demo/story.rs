//! What happens in the demo, in order.

use std::path::Path;
use std::time::Duration;

use stint_sdk::{Client, v1};
use tokio::time::{Instant, sleep};

use super::marks::{self, PROGRAM};
use super::peers::Cluster;
use super::show::{line, step};
use crate::failure::{FAILED, Failure};

/// How long all tasks may take.
const FINISH_DEADLINE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Plays the story; the exit code says whether every promise held.
pub async fn play(cluster: &mut Cluster, tasks: u32) -> Result<u8, Failure> {
    step("A cluster of three equal peers on loopback")?;
    let nodes = cluster.all_ready().await?;
    show_nodes(&nodes)?;
    line("The process runtime is on for every class here; elsewhere it is off until you say so.")?;

    let client = cluster.client()?;
    let file = cluster.shared().join("marks");
    step(&format!(
        "Submitting {tasks} tasks of class cpu_short and 6 of class cpu_long, with real processes"
    ))?;
    let mut ids = submit(&client, "cpu_short", "0.4", tasks, &file).await?;
    ids.extend(submit(&client, "cpu_long", "3", 6, &file).await?);
    let gpus: usize = nodes.iter().map(|n| n.gpus.len()).sum();
    if gpus > 0 {
        ids.extend(submit(&client, "gpu", "1", 2 * gpus as u32, &file).await?);
        line(&format!("{gpus} GPU(s) found: {} tasks of class gpu, one whole GPU each", 2 * gpus))?;
    } else {
        line(
            "no GPU here: class gpu waits for one (`stint explain` says so); gpu_slurm needs the Slurm bridge",
        )?;
    }
    line(&format!("{} tasks acknowledged: they are on a majority of disks", ids.len()))?;

    wait_for_some(&client, &ids, 6).await?;
    let status = client.cluster_status().await?;
    let leader = nodes.iter().position(|n| n.id == status.leader_id).unwrap_or(0);
    let at = cluster.peers.iter().position(|p| p.name == nodes[leader].name).unwrap_or(0);
    step(&format!("kill -9 of the leader, {}, while {} attempts run", nodes[leader].name, status.running))?;
    cluster.peers[at].kill().await?;
    let killed = Instant::now();
    let more = submit(&client, "cpu_short", "0.2", 12, &file).await?;
    line(&format!("12 more tasks were accepted {} ms after the kill", killed.elapsed().as_millis()))?;
    ids.extend(more);
    let survivor = cluster.client_of((at + 1) % cluster.peers.len())?;
    let status = survivor.cluster_status().await?;
    let name = status.peers.iter().find(|p| p.id == status.leader_id).map_or("?", |p| p.name.as_str());
    line(&format!("{name} leads now (term {})", status.term))?;
    line(
        "attempts of the killed peer are stopped by their watchdog when their lease ends, then retried elsewhere",
    )?;

    step("Waiting until every task is finished")?;
    let finished = wait_for_all(&survivor, &ids).await?;
    line(&format!("{} finished {:.1} s after the kill", finished.len(), killed.elapsed().as_secs_f64()))?;

    step("The killed peer comes back")?;
    cluster.peers[at].spawn(&[])?;
    cluster.peers[at].ready().await?;
    show_nodes(&cluster.all_ready().await?)?;
    verdict(&ids, &finished, &file)
}

async fn submit(
    client: &Client,
    class: &str,
    seconds: &str,
    count: u32,
    marks: &Path,
) -> Result<Vec<String>, Failure> {
    let args = ["/bin/sh", "-c", PROGRAM, "demo", &marks.to_string_lossy(), seconds];
    let spec = v1::TaskSpec {
        class: class.into(),
        command: args.map(String::from).to_vec(),
        cpu_milli: 1_000,
        memory_bytes: 64 << 20,
        ..v1::TaskSpec::default()
    };
    let request = v1::SubmitRequest { spec: Some(spec), count, ..v1::SubmitRequest::default() };
    Ok(client.submit(request).await?.task_ids)
}

fn show_nodes(nodes: &[v1::Node]) -> Result<(), Failure> {
    for node in nodes {
        let cores = node.cpu_milli as f64 / 1000.0;
        line(&format!(
            "{:8} {:8} {:6} {} cores, {} GPUs",
            node.name,
            node.role,
            node.state,
            cores,
            node.gpus.len()
        ))?;
    }
    Ok(())
}

async fn look(client: &Client, ids: &[String], wait: Duration, any: bool) -> Result<v1::WaitReply, Failure> {
    let timeout_ms = wait.as_millis() as u64;
    let request = v1::WaitRequest { tasks: ids.to_vec(), timeout_ms, any, ..v1::WaitRequest::default() };
    Ok(client.wait(request).await?)
}

/// Until `most` tasks are finished: the cluster is in the middle of its work.
async fn wait_for_some(client: &Client, ids: &[String], most: usize) -> Result<(), Failure> {
    let until = Instant::now() + FINISH_DEADLINE;
    while Instant::now() < until {
        let reply = look(client, ids, Duration::from_millis(50), false).await?;
        if reply.tasks.iter().filter(|t| t.state == "finished").count() >= most {
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
    Err(Failure::Failed("no task finishes: see the `log` files of the peers".into()))
}

async fn wait_for_all(client: &Client, ids: &[String]) -> Result<Vec<v1::Task>, Failure> {
    let until = Instant::now() + FINISH_DEADLINE;
    while Instant::now() < until {
        let reply = look(client, ids, Duration::from_secs(10), false).await?;
        if reply.finished {
            return Ok(reply.tasks);
        }
    }
    Err(Failure::Failed("some tasks did not finish: see `stint ps` and `stint explain`".into()))
}

fn verdict(ids: &[String], finished: &[v1::Task], file: &Path) -> Result<u8, Failure> {
    let marks = marks::judge(file).map_err(Failure::Start)?;
    let succeeded =
        finished.iter().filter(|t| t.outcome.as_ref().is_some_and(|o| o.status == "succeeded")).count();
    let retried = finished.iter().filter(|t| t.attempts > 1).count();
    step("What the cluster recorded, and what the attempts wrote themselves")?;
    line(&format!("acknowledged                        {:5}", ids.len()))?;
    line(&format!("finished, one outcome each          {:5}", finished.len()))?;
    line(&format!("succeeded                           {succeeded:5}"))?;
    line(&format!("retried after the kill              {retried:5}"))?;
    line(&format!("tasks with an end mark              {:5}", marks.done_once + marks.done_again.len()))?;
    line(&format!(
        "ran to their end in two attempts    {:5}   (the first one's report died with its node)",
        marks.done_again.len()
    ))?;
    line(&format!("two attempts at the same time       {:5}", marks.overlaps.len()))?;
    let marked = marks.done_once + marks.done_again.len();
    let kept = finished.len() == ids.len() && succeeded == ids.len() && marked == ids.len();
    if kept && marks.overlaps.is_empty() {
        line("Nothing was lost, and nothing ran twice at a time.")?;
        return Ok(0);
    }
    line("THIS SHOULD NOT BE: please report it with the `log` files of the peers.")?;
    for task in finished {
        let Some(outcome) = task.outcome.as_ref().filter(|o| o.status != "succeeded") else { continue };
        line(&format!(
            "{} {}: {} after {} attempts: {}",
            task.class, task.id, outcome.kind, task.attempts, outcome.message
        ))?;
        for attempt in &task.attempt_records {
            line(&format!(
                "    {} on {}: {} {}",
                attempt.number, attempt.node_name, attempt.end, attempt.message
            ))?;
        }
    }
    Ok(FAILED)
}
