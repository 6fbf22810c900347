//! Who calls through gRPC: each door says it before a message is read, and the handlers take it from the request.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::transport::server::TlsConnectInfo;
use tonic::{Request, Status};

use super::connections::ConnectionHandle;
use crate::applied_state::AppliedState;
use crate::local_users::LocalUsers;
use crate::pki::{self, ADMIN_NAME};
use crate::service::{Principal, Proof};

/// The unix socket: who may open it may do everything.
#[derive(Clone, Copy, Debug)]
pub struct Socket;

/// TCP under mutual TLS: only an administrator's certificate opens it, while the node in whose folder it was made is a
/// member.
#[derive(Clone)]
pub struct Tls(pub Arc<AppliedState>);

/// The socket of a group: the kernel says which user calls, and the configuration what it may.
#[derive(Clone)]
pub struct GroupSocket(pub Arc<LocalUsers>);

impl Interceptor for GroupSocket {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let user = request.extensions().get::<ConnectionHandle>().and_then(ConnectionHandle::user);
        let unknown = || Status::unauthenticated("the kernel does not say which user calls");
        let caller = self.0.principal(user.ok_or_else(unknown)?);
        let caller = caller.map_err(|refused| {
            tracing::debug!(uid = refused.0, "a user without a role was refused");
            Status::permission_denied(refused.to_string())
        })?;
        asked(&request);
        Ok(with(request, caller))
    }
}

impl Interceptor for Socket {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        asked(&request);
        Ok(with(request, Principal::administrator(Proof::LocalSocket)))
    }
}

impl Interceptor for Tls {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let certificates =
            request.extensions().get::<TlsConnectInfo<ConnectionHandle>>().and_then(|info| info.peer_certs());
        let own = certificates.and_then(|certificates| certificates.first().cloned());
        let Some(own) = own.filter(|certificate| pki::carries(certificate, ADMIN_NAME)) else {
            return Err(Status::permission_denied(
                "use the administrator's certificate from the credentials folder of a peer",
            ));
        };
        if let Some(node) = pki::admin_of(&own).filter(|node| self.0.was_removed(*node)) {
            tracing::warn!(
                node = node.0,
                "an administrator's certificate of a node that was removed is refused"
            );
            return Err(Status::permission_denied(format!(
                "this administrator's certificate is of node {node}, which was removed from the cluster: use the one in the \
                 credentials folder of a member"
            )));
        }
        asked(&request);
        Ok(with(request, Principal::administrator(Proof::AdminCertificate)))
    }
}

/// Its connection may stay from now on.
fn asked(request: &Request<()>) {
    request.extensions().get::<ConnectionHandle>().into_iter().for_each(ConnectionHandle::settle);
}

/// The request as one of this caller.
pub fn with<T>(mut request: Request<T>, caller: Principal) -> Request<T> {
    request.extensions_mut().insert(caller);
    request
}

/// Who sent a request, and its message.
pub fn take<T>(mut request: Request<T>) -> Result<(Principal, T), Status> {
    let caller = request.extensions_mut().remove::<Principal>();
    let nobody = || Status::unauthenticated("this door does not say who calls");
    Ok((caller.ok_or_else(nobody)?, request.into_inner()))
}

#[cfg(test)]
mod tests {
    use stint_protocol::version;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_request_without_a_caller_is_refused() {
        assert_eq!(take(Request::new(())).unwrap_err().code(), Code::Unauthenticated);
        let (caller, ()) = take(Socket.call(Request::new(())).unwrap()).unwrap();
        assert_eq!(caller, Principal::administrator(Proof::LocalSocket));
    }

    #[test]
    fn no_certificate_does_not_open_the_tls_door() {
        let mut door = Tls(AppliedState::new(version::OLDEST).unwrap());
        assert_eq!(door.call(Request::new(())).unwrap_err().code(), Code::PermissionDenied);
    }
}
