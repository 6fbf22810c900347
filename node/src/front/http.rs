//! Health and metrics over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::agent::core::runtime_problems;
use crate::metrics;
use crate::node::Node;

/// Entries this peer may be behind its own log and still be ready.
const READY_LAG: u64 = 1_000;

/// The routes of one peer.
pub fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(node)
}

/// This process lives; what its node cannot use now stands below. That is no reason to stop a peer, so never an error.
async fn health(State(node): State<Arc<Node>>) -> String {
    let problems = node.host.get().map(|host| runtime_problems(&host.health())).unwrap_or_default();
    let word = if problems.is_empty() { "ok" } else { "degraded" };
    std::iter::once(word).chain(problems.iter().map(String::as_str)).map(|line| format!("{line}\n")).collect()
}

/// Ready: it knows a leader (leads with a quorum itself), and has applied close to what it stored.
async fn ready(State(node): State<Arc<Node>>) -> Response {
    let status = node.raft.status();
    let applied = node.shared.view().at.index;
    let lag = status.last_log.unwrap_or(0).saturating_sub(applied);
    let refusal = match status.leader {
        None => Some("no leader is known\n".to_string()),
        Some(leader) if leader == node.id.0 && !status.is_leader_with_quorum() => {
            Some("this peer leads but no quorum answers it\n".to_string())
        }
        _ if lag > READY_LAG => Some(format!("{lag} entries are stored but not applied\n")),
        _ => None,
    };
    match refusal {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        None => "ready\n".into_response(),
    }
}

async fn show_metrics(State(node): State<Arc<Node>>) -> Response {
    let containers = match node.host.get() {
        Some(host) => host.containers().await,
        None => None,
    };
    match metrics::render(&node, containers) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
