//! One table: what each error of the service is in each protocol.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use stint_protocol::api::NO_LEADER;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::service::ServiceError;
use crate::wire::RefusalCode;

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let mut status = Status::new(codes(&error).0, error.to_string());
        if error.is_leaderless() {
            status.metadata_mut().insert(NO_LEADER, MetadataValue::from_static("1"));
        }
        status
    }
}

impl IntoResponse for ServiceError {
    fn into_response(self) -> Response {
        (codes(&self).1, format!("{self}\n")).into_response()
    }
}

/// What a client sent cannot be read.
pub fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// One thing in two protocols.
type Codes = (Code, StatusCode);

const INVALID: Codes = (Code::InvalidArgument, StatusCode::BAD_REQUEST);
const DENIED: Codes = (Code::PermissionDenied, StatusCode::FORBIDDEN);
const NOT_FOUND: Codes = (Code::NotFound, StatusCode::NOT_FOUND);
const CONFLICT: Codes = (Code::FailedPrecondition, StatusCode::CONFLICT);
const FULL: Codes = (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS);
/// Nothing was done; another peer, or a later try, may do it.
const UNAVAILABLE: Codes = (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE);
/// It may or may not have been done.
const UNKNOWN: Codes = (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT);
const INTERNAL: Codes = (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR);
const DATA_LOSS: Codes = (Code::DataLoss, StatusCode::INTERNAL_SERVER_ERROR);

/// A new error does not compile before it has its line here.
fn codes(error: &ServiceError) -> Codes {
    use ServiceError as E;
    match error {
        E::RoleTooLow { .. } | E::ForeignTenant(_) | E::UserOfTenants(_) => DENIED,
        E::InvalidSpec(_)
        | E::InvalidName(_)
        | E::NoRuntimeOffered { .. }
        | E::UnknownRuntime { .. }
        | E::NoPlaceForPython(_)
        | E::InvalidChange(_)
        | E::DeadlineWithoutDrain
        | E::TokenValidTooLong
        | E::TokenUsesTooMany
        | E::AccessValidTooLong
        | E::OverlapTooLong
        | E::TokenCommentTooLong(_)
        | E::TokenNeedsTenant(_)
        | E::AdminOfOneTenant
        | E::DescriptionTooLong(_)
        | E::ReferenceTooLong
        | E::ReferenceWithBytes
        | E::InvalidReference(_)
        | E::UnknownImageKind => INVALID,
        E::TaskNotFound { .. }
        | E::TaskGone
        | E::NodeNotFound(_)
        | E::NodeGone(_)
        | E::JoinTokenNotFound(_)
        | E::AccessTokenNotFound(_)
        | E::TenantNotFound(_)
        | E::ImageNotFound { .. }
        | E::ImageGone
        | E::OutputNotFound { .. }
        | E::AttemptUnknown { .. }
        | E::OutputsForgotten(_)
        | E::OutputGone(_)
        | E::OutputNodeUnknown
        | E::NotKept(_) => NOT_FOUND,
        E::NoOutputYet(_)
        | E::NotFinished
        | E::AttemptNotEnded(_)
        | E::RemovalCosts { .. }
        | E::TenantInUse { .. }
        | E::NeverFits(_) => CONFLICT,
        E::UploadsFull => FULL,
        E::UploadPaused | E::OutputUnreadable(_) | E::Stopping | E::NotReady(_) => UNAVAILABLE,
        E::NoLeader { tried: false, .. } | E::OutputAway | E::NotInCopy { .. } => UNAVAILABLE,
        E::NoLeader { tried: true, .. } => UNKNOWN,
        E::OutputShorter => DATA_LOSS,
        E::Authority(_) | E::Metrics(_) => INTERNAL,
        E::Blob(error) => refused(error.refusal_code()),
        E::Refused(refusal) => refused(refusal.code),
    }
}

/// What the leader, or another peer, answered.
fn refused(code: RefusalCode) -> Codes {
    match code {
        RefusalCode::Invalid => INVALID,
        RefusalCode::NotFound => NOT_FOUND,
        RefusalCode::Conflict => CONFLICT,
        RefusalCode::Full => FULL,
        RefusalCode::Unavailable => UNAVAILABLE,
        RefusalCode::Unknown => UNKNOWN,
        RefusalCode::Denied => DENIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Refusal;

    #[test]
    fn what_a_client_may_repeat_is_told_apart_from_what_it_may_not() {
        let code = |code| Status::from(ServiceError::from(Refusal::new(code, "why"))).code();
        assert_eq!(code(RefusalCode::Unavailable), Code::Unavailable);
        assert_eq!(code(RefusalCode::Unknown), Code::DeadlineExceeded);
        assert_eq!(code(RefusalCode::Full), Code::ResourceExhausted);
        assert_eq!(code(RefusalCode::Conflict), Code::FailedPrecondition);
    }
}
