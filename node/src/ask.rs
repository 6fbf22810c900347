//! Asks the leader by the addresses of peers, for a peer whom the leader cannot call: not a member yet, or moved.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::limits;
use crate::node::Node;
use crate::peers::PeerAddress;
use crate::wire::{ForwardAnswer, Kind, Reply, Request, decode, encode};

/// How long the leader is looked for.
const DEADLINE: Duration = Duration::from_secs(60);
/// For one call: adding and promoting a learner is the longest.
const CALL_DEADLINE: Duration = Duration::from_secs(45);

/// Asks these peers, and where they say the leader is, until one that leads has carried it out; its log's index then, or
/// what was said last.
pub async fn ask_the_leader(node: &Node, targets: &[PeerAddress], request: Request) -> Result<u64, String> {
    let until = Instant::now() + DEADLINE;
    let mut last = String::from("no peer answered");
    let mut next = targets.to_vec();
    while Instant::now() < until {
        for target in std::mem::take(&mut next) {
            let answer = match node.leader.leads() {
                true => Ok(node.requests.answer(request.clone()).await),
                false => call(node, &target, &request).await,
            };
            match answer {
                Ok(ForwardAnswer::Reply(Reply::Done { index })) => return Ok(index),
                Ok(ForwardAnswer::NotLeader(Some((id, address)))) => {
                    next.push(PeerAddress::node(id, &address));
                }
                Ok(ForwardAnswer::Refused(refusal)) => last = refusal.to_string(),
                Ok(other) => last = format!("{other:?}"),
                Err(error) => last = error,
            }
        }
        if next.is_empty() {
            next = targets.to_vec();
            sleep(limits::RETRY_PAUSE * 4).await;
        }
    }
    Err(last)
}

async fn call(node: &Node, target: &PeerAddress, request: &Request) -> Result<ForwardAnswer, String> {
    let answer = node.peers.call(target, Kind::Forward, encode(request), CALL_DEADLINE).await;
    answer.map_err(|e| e.to_string()).and_then(|body| decode(&body))
}
