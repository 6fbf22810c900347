//! Programs that write when they ran, and what their marks prove.

use std::collections::BTreeMap;
use std::path::Path;

/// `$1` = file of marks, `$2` = seconds to work. Marks every 20 ms while it works, so that the last mark tells
/// until when it ran, also when it was killed. `$STINT_GPUS`-like device ids come from CUDA_VISIBLE_DEVICES.
pub const WORKER: &str = r#"
marks=$1
gpu=${CUDA_VISIBLE_DEVICES:--}
mark() { read -r up _ </proc/uptime; echo "$1 $STINT_TASK_ID $STINT_ATTEMPT $up $gpu $STINT_NODE_ID" >>"$marks"; }
mark start
steps=$(( $2 * 50 ))
while [ $steps -gt 0 ]; do sleep 0.02; mark alive; steps=$((steps - 1)); done
mark end
"#;

/// A short one: `$2` = hundredths of a second to work; marks after each.
pub const QUICK: &str = r#"
marks=$1
mark() { read -r up _ </proc/uptime; echo "$1 $STINT_TASK_ID $STINT_ATTEMPT $up - $STINT_NODE_ID" >>"$marks"; }
mark start
steps=$2
while [ $steps -gt 0 ]; do sleep 0.01; mark alive; steps=$((steps - 1)); done
mark end
"#;

/// The life of one attempt as its marks tell it, in seconds since boot.
#[derive(Clone, Debug)]
pub struct Life {
    pub task: String,
    pub attempt: u32,
    pub start: f64,
    pub last: f64,
    pub ended: bool,
    pub gpu: String,
    pub node: String,
}

/// All lives in a file of marks.
pub fn lives(file: &Path) -> Vec<Life> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut lives: BTreeMap<(String, u32), Life> = BTreeMap::new();
    for line in text.lines() {
        let args: Vec<&str> = line.split(' ').collect();
        let [kind, task, attempt, at, gpu, node] = args[..] else { panic!("a torn mark: {line:?}") };
        let (attempt, at): (u32, f64) = (attempt.parse().unwrap(), at.parse().unwrap());
        let life = lives.entry((task.into(), attempt)).or_insert_with(|| Life {
            task: task.into(),
            attempt,
            start: at,
            last: at,
            ended: false,
            gpu: gpu.into(),
            node: node.into(),
        });
        life.last = at;
        life.ended |= kind == "end";
    }
    lives.into_values().collect()
}

/// Pairs of lives that overlapped though they share a task or a device.
pub fn overlaps(lives: &[Life]) -> Vec<(Life, Life)> {
    let clash = |a: &Life, b: &Life| a.task == b.task || (a.gpu != "-" && a.gpu == b.gpu);
    let mut found = Vec::new();
    for (i, a) in lives.iter().enumerate() {
        for b in &lives[i + 1..] {
            if clash(a, b) && a.start < b.last && b.start < a.last {
                found.push((a.clone(), b.clone()));
            }
        }
    }
    found
}
