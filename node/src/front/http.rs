//! Health and metrics over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::node::Node;
use crate::service::{Service, ServiceError};

/// The routes of one peer.
pub fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Service::new(node))
}

/// This process lives; what its node cannot use now stands below. That is no reason to stop a peer, so never an error.
async fn health(State(service): State<Service>) -> String {
    let problems = service.problems();
    let summary = if problems.is_empty() { "ok" } else { "degraded" };
    std::iter::once(summary)
        .chain(problems.iter().map(String::as_str))
        .map(|line| format!("{line}\n"))
        .collect()
}

async fn ready(State(service): State<Service>) -> Result<&'static str, ServiceError> {
    service.check_ready().map(|()| "ready\n")
}

async fn metrics(State(service): State<Service>) -> Result<Response, ServiceError> {
    let text = service.metrics().await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
