//! Node and watchdog are stopped together, as `killall -STOP stint` does: on no runtime do two attempts of a task overlap.

use std::time::Duration;

use stint_sdk::v1;
use tokio::time::{Instant, sleep};

use crate::support::{Cluster, PATIENCE, Setup, accepted, signal, submit, watchdog_of};
use crate::{IMAGE, docker, only_our_images, outputs};

/// Says every 20 ms when it runs, in seconds since boot. Only the first attempt has to be ended by others.
const WORKER: &str = "n=0; while [ $STINT_ATTEMPT = 1 ] || [ $n -lt 50 ]; do read -r up _ </proc/uptime; echo $up; \
                      sleep 0.02; n=$((n + 1)); done";

fn worker(runtime: &str) -> v1::SubmitRequest {
    let mut request = submit("cpu_long", &["/bin/sh", "-c", WORKER], 1);
    let spec = request.spec.as_mut().unwrap();
    spec.runtime = runtime.into();
    if runtime == "docker" {
        spec.image = IMAGE.into();
    }
    request
}

/// When each attempt of a task ran first and last, in seconds since boot.
fn lives(cluster: &Cluster, task: &str) -> Vec<(f64, f64)> {
    let all = outputs(cluster);
    let of_task = (1..).map_while(|attempt| all.get(&format!("{task}-{attempt}")));
    let marks = |text: &String| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<f64>>();
    of_task.map(marks).filter_map(|marks| Some((*marks.first()?, *marks.last()?))).collect()
}

/// The place of the peer that runs the latest attempt of a task; none: it does not run.
async fn place(cluster: &Cluster, task: &str) -> Option<(u32, usize)> {
    let request = v1::GetTaskRequest { task: task.into(), ..Default::default() };
    let found = cluster.client().get_task(request).await.unwrap();
    let record = found.attempt_records.last()?;
    Some((record.number, cluster.peers.iter().position(|peer| peer.name == record.node_name)?))
}

/// Until attempt `number` of each task has begun, as its node was told; where the last one runs.
async fn begun(cluster: &Cluster, tasks: &[String], number: u32) -> usize {
    let until = Instant::now() + PATIENCE;
    let mut last = 0;
    for task in tasks {
        loop {
            match place(cluster, task).await {
                Some((found, at)) if found >= number => {
                    last = at;
                    break;
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
            assert!(Instant::now() < until, "attempt {number} of {task} does not begin");
        }
    }
    last
}

/// Stops the host of the tasks, one of each runtime, for at least so long.
async fn no_attempts_overlap(rounds: u32, stopped_for: Duration) {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let runtimes = "\"process\", \"crun\", \"docker\"";
    let cluster = Cluster::start(Setup { runtimes, more: only_our_images, ..Setup::default() }).await;
    let mut all = Vec::new();
    for _ in 0..rounds {
        let mut tasks = Vec::new();
        for runtime in ["process", "crun", "docker"] {
            tasks.extend(accepted(&cluster.client(), worker(runtime)).await);
        }
        let host = begun(&cluster, &tasks, 1).await;
        let mut here = Vec::new();
        for task in &tasks {
            if place(&cluster, task).await.is_some_and(|(_, at)| at == host) {
                here.push(task.clone());
            }
        }
        // Until each program has said something.
        sleep(Duration::from_secs(1)).await;
        // The watchdog goes on first: its node would replace one that hangs.
        let both = [watchdog_of(&cluster, host), cluster.peers[host].pid().expect("it runs")];
        both.iter().for_each(|pid| signal(*pid, "STOP"));
        let stopped = Instant::now();
        begun(&cluster, &here, 2).await;
        sleep(stopped_for.saturating_sub(stopped.elapsed())).await;
        both.iter().for_each(|pid| signal(*pid, "CONT"));
        cluster.all_ready().await;
        let elsewhere: Vec<String> = tasks.iter().filter(|task| !here.contains(task)).cloned().collect();
        if !elsewhere.is_empty() {
            let request = v1::CancelRequest { tasks: elsewhere, ..Default::default() };
            cluster.client().cancel(request).await.unwrap();
        }
        cluster.finish(&tasks, PATIENCE).await;
        all.extend(here);
    }
    let mut pairs = 0;
    for task in &all {
        for pair in lives(&cluster, task).windows(2) {
            assert!(pair[1].0 > pair[0].1, "{task}: two attempts overlap: {pair:?}");
            pairs += 1;
        }
    }
    println!("{pairs} attempts began while the host of the one before was stopped");
    assert!(pairs >= all.len(), "{pairs} of {} tasks ran again", all.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_and_watchdog_stopped_together_leave_no_overlap_on_any_runtime() {
    no_attempts_overlap(1, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for make soak: a quarter of an hour"]
async fn twenty_times_for_45_seconds() {
    no_attempts_overlap(20, Duration::from_secs(45)).await;
}
