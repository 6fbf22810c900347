//! No queue grows beyond its bound.

use crate::fast::process::Process;

/// Events that may be arranged at once.
const EVENTS: usize = 50_000;
/// Reports that one leader may hold: a node has one open call, and repeated or late ones beside it.
const SESSIONS_PER_NODE: usize = 60;

pub struct Bounds;

impl Bounds {
    pub fn hold(events: usize, peers: &[Process]) -> Result<(), String> {
        if events > EVENTS {
            return Err(format!("{events} events are arranged"));
        }
        for (peer, process) in peers.iter().enumerate() {
            let (queued, sessions) = (process.leader.core.queued(), process.leader.sessions.len());
            if queued > stint_node::limits::PROPOSALS || sessions > SESSIONS_PER_NODE * peers.len() {
                return Err(format!("peer {} has {queued} proposals and {sessions} reports", peer + 1));
            }
        }
        Ok(())
    }
}
