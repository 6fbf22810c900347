//! What to look at when a rule is broken: a sentence or two for each rule, and where its checker stands.

/// For whoever begins to look.
pub fn hint_for(rule: &str) -> &'static str {
    match rule {
        "one running attempt a task" => {
            "Compare the two attempts: when was the last renewal of the first, which leader gave the second, and was the \
             first machine cut off, paused or down? Who decides that a lease is over: node/src/lease_clock.rs (the leader's \
             clock), node/src/agent.rs (the node's), executor/src/watchdog.rs (the one that kills)."
        }
        "one holder a GPU" => {
            "The GPU was given again before its first holder was seen gone. Look at both holders' machines and at the \
             leader of the second: node/src/lease_clock.rs, and the GPU's state in scheduler/src/apply."
        }
        "what is given up never begins" | "nothing outlives its lease" => {
            "Who held the lease, until when, and who ended what ran under it? On machine 100 (Slurm) the job does so itself: \
             slurm-bridge/src/script.rs, and its simulated form in sim/src/slurm/job.rs. Elsewhere: executor/src/watchdog.rs."
        }
        "one leader a term" => "Two peers lead one term: look at their votes and disks before it (raft/src).",
        "same state on every replica" => {
            "Two replicas applied the same entries and differ: something in scheduler/src is not a function of the log."
        }
        "an outcome never changes" | "one answer a request" => {
            "A result was recorded twice, or a repeated request made new tasks: look at scheduler/src/apply and at the \
             leader's change between the two."
        }
        "acknowledged is kept" => {
            "A client was told that its tasks are kept and they are not: look for a leader change or a power loss after \
             the acknowledgement, then at the log's syncs (raft/src)."
        }
        "no peer meets what it may not speak" | "the cluster's version only grows, with every member" => {
            "An entry needs a version that some member does not speak. Who proposed it, and what did that leader's state \
             say then: node/src/leadership.rs (check_version) and scheduler/src/apply/version.rs."
        }
        "a right request is not refused" => {
            "A request of a client that follows the rules was refused: read the refusal."
        }
        "the cluster comes up" => {
            "No fault has begun yet: the cluster did not form. Look at the first peers' messages."
        }
        "everything finishes after healing" => {
            "All faults are over, and something still waits. Is there a leader, does every peer run, and does the named \
             task have an attempt? STINT_SIM_LOG=info,stint_node=debug shows what the peers say."
        }
        "no panic" | "no peer gives up" => {
            "Read the message: it names the file and the line, or why the peer stopped. STINT_SIM_LOG=debug shows more."
        }
        _ => {
            "The checker of this rule stands in sim/src/checkers; the trace before the violation shows what led to it."
        }
    }
}
