//! What clients see of a peer's native API, without the socket. Every second client comes this way; the others ask the
//! peer itself.

use std::sync::Arc;

use stint_node::node::Node;
use stint_node::service::{Principal, Proof};
use stint_node::wire::{Refusal, RefusalCode};
use stint_node::{NativeApi, with_caller};
use stint_protocol::api::Outdated;
use stint_protocol::v1::stint_server::Stint;
use stint_protocol::{TaskId, v1};
use tonic::{Code, Request, Status};

/// The API of one peer.
pub struct Front(NativeApi);

impl Front {
    pub fn for_node(node: &Arc<Node>) -> Self {
        Self(NativeApi::new(node.clone()))
    }

    /// The first task, how many there are, and whether the request was known.
    pub async fn submit(&self, request: v1::SubmitRequest) -> Result<(TaskId, u32, bool), Refusal> {
        let reply = self.0.submit(asked(request)).await.map_err(refusal)?.into_inner();
        let ids: Option<Vec<TaskId>> = reply.task_ids.iter().map(|id| id.parse().ok()).collect();
        let ids = ids.unwrap_or_default();
        let in_a_row = ids.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0);
        match ids.first() {
            Some(first) if in_a_row => Ok((*first, ids.len() as u32, reply.repeated)),
            _ => Err(unusable(format!("a submit was answered with the tasks {:?}", reply.task_ids))),
        }
    }

    /// Done once the answer shows that the task goes on no more.
    pub async fn cancel(&self, task: TaskId) -> Result<(), Refusal> {
        let tasks = vec![task.to_string()];
        let request = v1::CancelRequest { tenant: String::new(), tasks };
        let reply = self.0.cancel(asked(request)).await.map_err(refusal)?.into_inner();
        let states: Vec<String> = reply.tasks.into_iter().map(|task| task.state).collect();
        match &states[..] {
            [state] if state == "finished" || state == "stopping" => Ok(()),
            _ => Err(unusable(format!("a task that was just cancelled is {states:?}"))),
        }
    }

    /// Whether the task is finished; none when the peer does not know it.
    pub async fn is_finished(&self, task: TaskId) -> Result<Option<bool>, Refusal> {
        let request = v1::GetTaskRequest { tenant: String::new(), task: task.to_string() };
        match self.0.get_task(asked(request)).await {
            Ok(found) if Outdated::taken(found.metadata()).is_some() => {
                Err(Refusal::new(RefusalCode::Unavailable, "answered without a leader"))
            }
            Ok(found) => {
                let found = found.into_inner();
                let is_finished = found.state == "finished";
                if is_finished == found.outcome.is_some() && found.id == task.to_string() {
                    return Ok(Some(is_finished));
                }
                Err(unusable(format!("asked for {task}, a peer tells {found:?}")))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refusal(status)),
        }
    }
}

/// As it comes through the peer's own socket.
fn asked<T>(message: T) -> Request<T> {
    with_caller(Request::new(message), Principal::administrator(Proof::LocalSocket))
}

/// An answer that no right front gives: the client does not take it, which is a violation.
fn unusable(what: String) -> Refusal {
    Refusal::new(RefusalCode::Invalid, what)
}

/// What a client may do after this status.
fn refusal(status: Status) -> Refusal {
    let code = match status.code() {
        Code::Unavailable => RefusalCode::Unavailable,
        Code::ResourceExhausted => RefusalCode::Full,
        Code::DeadlineExceeded => RefusalCode::Unknown,
        Code::NotFound => RefusalCode::NotFound,
        Code::FailedPrecondition => RefusalCode::Conflict,
        _ => RefusalCode::Invalid,
    };
    Refusal::new(code, status.message())
}
