//! Answers that take long end with the right to have them: when the caller's token is revoked, or expires.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{Stream, StreamExt};
use tonic::Status;

use crate::service::{Principal, Service};

type UntilInvalid = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stream that ends with an error once its caller's token is valid no more.
pub struct WhileValid<S> {
    parts: S,
    /// None: it has ended.
    until: Option<UntilInvalid>,
}

impl<S> WhileValid<S> {
    /// These parts, for this caller.
    pub fn new(parts: S, service: &Service, caller: &Principal) -> Self {
        Self { parts, until: Some(Box::pin(service.until_invalid(&caller.proof))) }
    }
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for WhileValid<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(until) = &mut self.until else { return Poll::Ready(None) };
        if until.as_mut().poll(cx).is_ready() {
            self.until = None;
            return Poll::Ready(Some(Err(invalid_now())));
        }
        self.parts.poll_next_unpin(cx)
    }
}

/// The answer, unless the caller's token is valid no more by then.
pub async fn while_valid<T>(
    service: &Service,
    caller: &Principal,
    answer: impl Future<Output = T>,
) -> Result<T, Status> {
    tokio::select! {
        () = service.until_invalid(&caller.proof) => Err(invalid_now()),
        answer = answer => Ok(answer),
    }
}

fn invalid_now() -> Status {
    Status::unauthenticated("the token is valid no more: it has expired, or was revoked")
}
