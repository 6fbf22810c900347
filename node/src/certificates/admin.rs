//! The administrator's certificate in a peer's own folder, which the peer renews.

use std::fs;

use bytes::Bytes;
use stint_protocol::{TimeMs, version};

use super::keeper::{KeepError, Surroundings};
use crate::identity::write_secret;
use crate::limits;
use crate::node::Node;
use crate::peers::Caller;
use crate::pki::{self, CertificateRequest, KeyPair, PkiError, Purpose, Validity, public_key, utc};
use crate::wire::{CallKind, decode, encode};

/// It is renewed when so many thousandths of its life are over.
const RENEWED_AFTER: u64 = 667;

/// Renews it in time, and when there is another authority. One that the operator took out of the folder stays out.
pub(super) async fn look_after_admin(node: &Node, around: &Surroundings) -> Result<(), KeepError> {
    let (path, key_path) = (around.credentials.join("admin.pem"), around.credentials.join("admin-key.pem"));
    let (Ok(text), Ok(key)) = (fs::read_to_string(&path), fs::read_to_string(&key_path)) else {
        return Ok(());
    };
    let (state, now) = (node.applied.view().state, node.clock.wall());
    let speaks = state.version() >= version::CERTIFICATES;
    let own = pki::read(&text)?;
    let is_old = !node.certificates.root().issued(&own);
    let validity = Validity::read(&own).ok_or(PkiError::NotOurs)?;
    let Some(record) = state.node(node.id).filter(|_| speaks && is_due(validity, is_old, now)) else {
        return Ok(());
    };
    let key = KeyPair::from_pem(&key).map_err(PkiError::from)?;
    let certificate = match node.certificates.authority() {
        Some(authority) => node.certificates.certify_admin(&authority, &public_key(&key)?, node.id, now)?,
        None => ask(node, &CertificateRequest::make(&key, Purpose::Admin { disk: &record.disk })?).await?,
    };
    let given = pki::read(&certificate)?;
    let until = Validity::read(&given).ok_or(PkiError::NotOurs)?.to;
    if !node.certificates.root().issued(&given) || pki::key_of(&given) != Some(public_key(&key)?) {
        return Err(PkiError::NotOurs.into());
    }
    write_secret(&path, &certificate)?;
    tracing::info!(path = %path.display(), until = utc(until), "the administrator's certificate is another one now");
    Ok(())
}

/// One that is never to be renewed is of a program of before.
fn is_due(own: Validity, is_old: bool, now: TimeMs) -> bool {
    is_old || own.is_endless() || now >= own.after(RENEWED_AFTER)
}

async fn ask(node: &Node, request: &CertificateRequest) -> Result<String, KeepError> {
    let mut reasons = Vec::new();
    for voter in node.other_voters() {
        let answer =
            node.peers.call(&voter, CallKind::RenewAdmin, encode(request), limits::RENEW_DEADLINE).await;
        match answer.map_err(|error| error.to_string()).and_then(|body| decode::<String>(&body)) {
            Ok(certificate) => return Ok(certificate),
            Err(why) => reasons.push(format!("{}: {why}", voter.address)),
        }
    }
    Err(KeepError::NobodyRenewedAdmin(reasons.join("\n  ")))
}

/// Whom clients are to trust lies beside it.
pub(super) fn write_root(around: &Surroundings, root: &pki::Root) -> Result<(), KeepError> {
    let (path, text) = (around.credentials.join("ca.pem"), root.for_clients()?);
    // An operator may have taken the whole folder away.
    match !around.credentials.exists() || fs::read_to_string(&path).is_ok_and(|found| found == text) {
        true => Ok(()),
        false => Ok(write_secret(&path, &text)?),
    }
}

impl Node {
    /// Another administrator's certificate, for the node that asks: what it shows is the peer's certificate.
    pub fn on_renew_admin(&self, caller: &Caller, body: Bytes) -> Result<Bytes, String> {
        let authority = self.certificates.authority().ok_or("this peer has no key of the authority")?;
        let request: CertificateRequest = decode(&body)?;
        let node = caller.node().ok_or("the caller's certificate names no node")?;
        let state = self.applied.view().state;
        let record = state.node(node).ok_or("this peer does not know the node yet")?;
        let key = request.check(Purpose::Admin { disk: &record.disk }).map_err(|error| error.to_string())?;
        let now = self.clock.wall();
        let made = self.certificates.certify_admin(&authority, &key, node, now);
        tracing::info!(node = node.0, "the administrator's certificate of a node was renewed");
        Ok(encode(&made.map_err(|error| error.to_string())?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_administrators_certificate_is_renewed_in_time() {
        let (now, year) = (TimeMs(1_800_000_000_000), Duration::from_secs(365 * 24 * 3_600));
        let days = |days: u64| TimeMs(now.0 + days * 86_400_000);
        let own = Validity::starting(now, year);
        assert!(!is_due(own, false, days(240)) && is_due(own, false, days(250)));
        assert!(is_due(own, true, now), "there is another authority");
        assert!(is_due(Validity::ENDLESS, false, now), "of a program of before");
    }
}
