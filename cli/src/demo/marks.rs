//! What the attempts themselves wrote: a start and an end mark each, with the machine's boot time. The check
//! trusts nothing that the cluster says.

use std::collections::BTreeMap;
use std::path::Path;

/// The program of a marked task. `$1` is the file of marks, `$2` how long to work, in seconds. A TERM is
/// marked too, so that an attempt that is stopped tells until when it ran.
pub const PROGRAM: &str = r#"
mark() { read -r up _ </proc/uptime; echo "$1 $STINT_TASK_ID $STINT_ATTEMPT $up" >>"$marks"; }
marks=$1
trap 'mark stop; exit 143' TERM
mark start
echo "attempt $STINT_ATTEMPT of $STINT_TASK_ID on node $STINT_NODE_ID"
sleep "$2" & wait $!
mark end
"#;

/// What the marks prove.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Tasks with exactly one end mark.
    pub done_once: usize,
    /// Tasks whose program reached its end in more than one attempt.
    pub done_again: Vec<String>,
    /// Attempts of one task that ran at the same time.
    pub overlaps: Vec<String>,
}

#[derive(Default)]
struct Attempt {
    start: Option<f64>,
    last: Option<f64>,
    ended: bool,
}

/// Reads the marks of all attempts.
pub fn judge(file: &Path) -> std::io::Result<Verdict> {
    Ok(judge_text(&std::fs::read_to_string(file)?))
}

fn judge_text(text: &str) -> Verdict {
    let mut tasks: BTreeMap<&str, BTreeMap<u32, Attempt>> = BTreeMap::new();
    for mark in text.lines() {
        let args: Vec<&str> = mark.split(' ').collect();
        let [kind, task, attempt, at] = args[..] else { continue };
        let (Ok(attempt), Ok(at)) = (attempt.parse(), at.parse::<f64>()) else { continue };
        let entry = tasks.entry(task).or_default().entry(attempt).or_default();
        match kind {
            "start" => entry.start = Some(at),
            _ => entry.ended |= kind == "end",
        }
        entry.last = Some(at);
    }
    let mut verdict = Verdict::default();
    for (task, attempts) in tasks {
        match attempts.values().filter(|a| a.ended).count() {
            0 => {}
            1 => verdict.done_once += 1,
            _ => verdict.done_again.push(task.into()),
        }
        let lives: Vec<&Attempt> = attempts.values().collect();
        let overlap = |pair: &[&Attempt]| matches!((pair[0].last, pair[1].start), (Some(last), Some(start)) if start < last);
        if lives.windows(2).any(overlap) {
            verdict.overlaps.push(task.into());
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_tell_overlaps_and_repetitions() {
        let good =
            "start a 1 1.00\nend a 1 2.00\nstart b 1 1.00\nstop b 1 1.50\nstart b 2 1.60\nend b 2 1.90\n";
        assert_eq!(judge_text(good), Verdict { done_once: 2, ..Verdict::default() });
        let overlapping = "start a 1 1.00\nstart a 2 1.50\nend a 1 2.00\n";
        assert_eq!(judge_text(overlapping).overlaps, ["a"]);
        let twice = "start a 1 1.00\nend a 1 1.20\nstart a 2 1.50\nend a 2 2.00\n";
        assert_eq!(judge_text(twice).done_again, ["a"]);
    }
}
