//! Who calls through gRPC: each door says it before a message is read, and the handlers take it from the request.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tonic::service::Interceptor;
use tonic::transport::server::TlsConnectInfo;
use tonic::{Request, Status};

use stint_protocol::{Tenant, TimeMs};

use super::connections::ConnectionHandle;
use crate::access_token::{AccessSecret, NoToken};
use crate::applied_state::AppliedState;
use crate::audit::{AuditLine, Refused};
use crate::join::token_id;
use crate::local_users::LocalUsers;
use crate::node::Node;
use crate::pki::{self, ADMIN_NAME, Validity, utc};
use crate::service::{Principal, Proof, Tenants};

/// The unix socket: who may open it may do everything.
#[derive(Clone, Copy, Debug)]
pub struct Socket;

/// TCP under TLS: an access token opens it, or an administrator's certificate while the node in whose folder it was made
/// is a member. Nothing else of a request is read before.
#[derive(Clone)]
pub struct Tls(pub Arc<Node>);

/// The socket of a group: the kernel says which user calls, and the configuration what it may.
#[derive(Clone)]
pub struct GroupSocket {
    pub node: Arc<Node>,
    pub users: Arc<LocalUsers>,
}

impl Interceptor for GroupSocket {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let user = connection(&request).and_then(ConnectionHandle::user);
        let unknown = || Status::unauthenticated("the kernel does not say which user calls");
        let user = user.ok_or_else(unknown)?;
        let caller = self.users.principal(user).map_err(|refused| {
            let status = Status::permission_denied(refused.to_string());
            audit_refusal(&self.node, &request, Some(Proof::LocalUser { uid: user }), &status);
            status
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
        let (applied, now) = (&self.0.applied, self.0.clock.wall());
        // Who shows a token wants to be no more than that says, whatever certificate it has.
        let caller = match shown_token(&request) {
            Some(token) => of_token(applied, now, token),
            None => of_certificate(&self.0, &request),
        };
        let caller = caller.inspect_err(|status| audit_refusal(&self.0, &request, None, status))?;
        asked(&request);
        let from = connection(&request).and_then(ConnectionHandle::address);
        Ok(with(request, Principal { from, ..caller }))
    }
}

fn of_token(applied: &AppliedState, now: TimeMs, text: Result<&str, Status>) -> Result<Principal, Status> {
    let secret: AccessSecret =
        text?.parse().map_err(|error: NoToken| Status::unauthenticated(error.to_string()))?;
    let (hash, state) = (secret.hash(), applied.view().state);
    // The time of the state stands still while nothing is done.
    let Some(token) = state.access_token(&hash).filter(|token| token.expires > now) else {
        tracing::debug!(token = token_id(&hash), "a token that is not valid was refused");
        return Err(Status::unauthenticated(
            "the token is not valid: it has expired, was revoked, or is another cluster's; an administrator makes one with \
                 `stint token create`",
        ));
    };
    let tenants = if token.tenant.is_some() { Tenants::Own } else { Tenants::All };
    let tenant = token.tenant.clone().unwrap_or_else(Tenant::default_tenant);
    Ok(Principal {
        tenant,
        tenants,
        role: token.role,
        proof: Proof::Token { id: token_id(&hash) },
        from: None,
        runs_as: None,
    })
}

fn of_certificate(node: &Node, request: &Request<()>) -> Result<Principal, Status> {
    let own = shown_certificate(request)?;
    let (certificates, now) = (&node.certificates, node.clock.wall());
    // A connection lives longer than a handshake, in which both were looked at.
    if let Some(ended) = Validity::read(&own).filter(|validity| validity.is_over(now)) {
        return Err(Status::unauthenticated(format!(
            "this administrator's certificate ended at {}, and it is {} here: {COPY_ANEW}",
            utc(ended.to),
            utc(now.0 / 1_000)
        )));
    }
    if certificates.changes() > 0 && !certificates.root().vouches_for(&own, &[]) {
        return Err(Status::unauthenticated(format!(
            "this administrator's certificate is of an authority that the cluster does not trust any more: {COPY_ANEW}"
        )));
    }
    of_administrator(&node.applied, &own)
}

const COPY_ANEW: &str = "copy the credentials folder of a peer again, which renews it";

fn shown_certificate(request: &Request<()>) -> Result<CertificateDer<'static>, Status> {
    let certificates =
        request.extensions().get::<TlsConnectInfo<ConnectionHandle>>().and_then(|info| info.peer_certs());
    let own = certificates.and_then(|certificates| certificates.first().cloned());
    own.ok_or_else(|| {
        Status::unauthenticated(
            "show a token (--token-file or STINT_TOKEN; `stint token create` makes one), or the administrator's certificate \
             from the credentials folder of a peer",
        )
    })
}

fn of_administrator(applied: &AppliedState, own: &CertificateDer<'_>) -> Result<Principal, Status> {
    if !pki::carries(own, ADMIN_NAME) {
        return Err(Status::permission_denied(
            "use the administrator's certificate from the credentials folder of a peer, or a token",
        ));
    }
    if let Some(node) = pki::admin_of(own).filter(|node| applied.was_removed(*node)) {
        tracing::warn!(node = node.0, "an administrator's certificate of a node that was removed is refused");
        return Err(Status::permission_denied(format!(
            "this administrator's certificate is of node {node}, which was removed from the cluster: use the one in the \
                 credentials folder of a member"
        )));
    }
    Ok(Principal::administrator(Proof::AdminCertificate))
}

/// The token that a request shows; none: it shows none.
fn shown_token(request: &Request<()>) -> Option<Result<&str, Status>> {
    let shown = request.metadata().get("authorization")?;
    let text = shown.to_str().ok().and_then(|text| text.split_once(' '));
    let token = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
    let other = || Status::unauthenticated("authorization: is not `Bearer TOKEN`");
    Some(token.ok_or_else(other))
}

fn connection(request: &Request<()>) -> Option<&ConnectionHandle> {
    request.extensions().get()
}

/// Its connection may stay from now on.
fn asked(request: &Request<()>) {
    connection(request).into_iter().for_each(ConnectionHandle::settle);
}

/// Who was not let in stands in the audit log.
fn audit_refusal(node: &Node, request: &Request<()>, proof: Option<Proof>, status: &Status) {
    let Some(log) = node.audit.get() else { return };
    let line = AuditLine {
        at_ms: node.clock.wall().0,
        allowed: false,
        who: proof.map(|proof| proof.describe()),
        tenant: None,
        role: None,
        from: connection(request).and_then(ConnectionHandle::address),
        operation: None,
        of: None,
        why: Some(status.message().into()),
    };
    log.add_refusal(Refused::Stranger, &line);
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
        assert_eq!(shown_certificate(&Request::new(())).unwrap_err().code(), Code::Unauthenticated);
    }

    #[test]
    fn what_is_no_valid_token_opens_nothing_and_is_not_repeated() {
        let secret = AccessSecret([7; 16]).text();
        let applied = AppliedState::new(version::OLDEST).unwrap();
        for shown in
            [format!("Bearer {secret}"), format!("Basic {secret}"), "Bearer x".into(), secret.clone()]
        {
            let mut request = Request::new(());
            request.metadata_mut().insert("authorization", shown.parse().unwrap());
            let refused = of_token(&applied, TimeMs(1), shown_token(&request).unwrap()).unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
            assert!(!refused.message().contains(&secret), "{refused}");
        }
    }
}
