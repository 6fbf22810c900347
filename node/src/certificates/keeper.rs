//! A peer looks after its own certificate and, while it votes, the authority's key, for as long as it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use minicbor::bytes::ByteVec;
use rustls::pki_types::CertificateDer;
use stint_protocol::{TimeMs, version};
use tokio::time::sleep;

use super::{admin, rotation};
use crate::identity::IdentityError;
use crate::limits;
use crate::node::Node;
use crate::peers::{PeerAddress, Peers};
use crate::pki::{
    self, Authority, CertificateRequest, Identity, KeyPair, PkiError, PkiFolder, Purpose, Validity, host_of,
    key_of, utc,
};
use crate::wire::{CallKind, KeyAnswer, KeyQuestion, RefusalCode, Renew, RenewAnswer, decode, encode};

/// A certificate is renewed when between so many thousandths of its life are over: not all peers at once, and with time left
/// for an outage.
const RENEWED_AFTER: std::ops::Range<u64> = 500..800;

/// Where a peer finds and keeps what it needs for that.
pub struct Surroundings {
    pub folder: PkiFolder,
    /// The folder of the administrator's certificate.
    pub credentials: PathBuf,
    /// Where it is reached.
    pub address: String,
    /// Peers to ask beside those that its log names.
    pub also: Vec<String>,
}

/// Why it could not be done; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error(transparent)]
    Folder(#[from] IdentityError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("{0}")]
    Peers(String),
    #[error("no voter renewed it:\n  {0}")]
    NobodyRenewed(String),
    #[error("no voter gives the key of the authority:\n  {0}")]
    NoKey(String),
    #[error("no voter renewed the administrator's certificate:\n  {0}")]
    NobodyRenewedAdmin(String),
    #[error("another authority is wanted, and this leader has not the key of the one that there is yet")]
    NoKeyToEndorse,
    #[error("another authority is wanted, and too few voters keep its key:\n  {0}")]
    TooFewKeep(String),
    #[error("the leader does not take it: {0}")]
    Leader(String),
}

/// Looks after both until the peer ends.
pub async fn keep(node: Arc<Node>, around: Surroundings) {
    let mut said = String::new();
    let (mut share, mut pause) = (draw_share(&node), limits::CERTIFICATE_LOOK);
    let mut pace = rotation::Pace::default();
    // Set here alone, once.
    let _ = node.certificates.folder.set(around.folder.clone());
    loop {
        let trusted = rotation::look_after_trust(&node, &around, &mut pace).await;
        let key = look_after_key(&node, &around).await;
        let renewed = look_after_certificate(&node, &around, share).await;
        let admin = admin::look_after_admin(&node, &around).await;
        let rotated = rotation::look_after_rotation(&node, &mut pace).await;
        // Twice as long after what failed, and after a new certificate: never one after the other, whatever is wrong with it.
        pause = (pause * 2).min(longest_pause(&node));
        match trusted.and(key).and(admin).and(rotated).and(renewed) {
            Ok(true) => share = draw_share(&node),
            Ok(false) => {
                said.clear();
                pause = limits::CERTIFICATE_LOOK;
            }
            Err(error) => {
                let text = error.to_string();
                // Once for each reason: it may be so for hours.
                if text != said {
                    tracing::warn!(%error, "certificates of this peer need looking after");
                }
                said = text;
            }
        }
        sleep(pause).await;
    }
}

fn draw_share(node: &Node) -> u64 {
    let width = u128::from(RENEWED_AFTER.end - RENEWED_AFTER.start);
    RENEWED_AFTER.start + (node.rng.random_bits() % width) as u64
}

/// A twentieth of the life that a certificate has, in bounds.
fn longest_pause(node: &Node) -> Duration {
    let validity = node.certificates.identity().der().ok().and_then(|own| Validity::read(&own));
    let life = validity.map_or(limits::CERTIFICATE_RETRY, |validity| validity.life());
    (life / 20).clamp(limits::CERTIFICATE_LOOK, limits::CERTIFICATE_RETRY)
}

/// What is to be done about the authority's key.
#[derive(Debug, PartialEq, Eq)]
enum KeyDuty {
    Nothing,
    Fetch,
    Seal,
    Forget,
}

/// Voters keep it, sealed; others do not. Before version 5 of the cluster all keep it, as programs of before read it.
fn key_duty(speaks: bool, votes: bool, follows: bool, holds: bool, is_clear: bool) -> KeyDuty {
    match (speaks, votes) {
        (false, _) => KeyDuty::Nothing,
        (true, true) if !holds => KeyDuty::Fetch,
        (true, true) if is_clear => KeyDuty::Seal,
        (true, false) if follows && holds => KeyDuty::Forget,
        _ => KeyDuty::Nothing,
    }
}

async fn look_after_key(node: &Node, around: &Surroundings) -> Result<(), KeepError> {
    let speaks = node.applied.view().state.version() >= version::CERTIFICATES;
    let status = node.raft.status();
    let (votes, follows) = (status.voters.contains_key(&node.id.0), status.learners.contains_key(&node.id.0));
    let (certificates, folder) = (&node.certificates, &around.folder);
    let authority = certificates.authority();
    let holds = authority.is_some() || (!votes && folder.has_authority_key());
    let is_open = folder.has_clear_key() || authority.as_ref().is_some_and(|own| folder.is_next(&own.root()));
    if rotation::is_settled(node) {
        folder.forget_other_next(&certificates.root())?;
    }
    match key_duty(speaks, votes, follows, holds, is_open) {
        KeyDuty::Nothing => {}
        KeyDuty::Seal => {
            if let Some(authority) = authority {
                folder.seal(&authority)?;
                tracing::info!("the key of the cluster's authority is sealed on the disk now");
            }
        }
        KeyDuty::Fetch => {
            let authority = fetch_key(node).await?;
            folder.seal(&authority)?;
            certificates.set_authority(Some(authority));
            tracing::info!("this peer votes, and has the key of the cluster's authority now");
        }
        KeyDuty::Forget => {
            if is_held_elsewhere(node).await {
                certificates.set_authority(None);
                folder.forget_authority_key()?;
                tracing::info!(
                    "this peer does not vote, and keeps no key of the cluster's authority any more"
                );
            }
        }
    }
    Ok(())
}

async fn ask_for_key(node: &Node, voter: &PeerAddress, only_whether: bool) -> Result<KeyAnswer, String> {
    let question = encode(&KeyQuestion { only_whether });
    let answer = node.peers.call(voter, CallKind::AuthorityKey, question, limits::FORWARD_DEADLINE).await;
    decode(&answer.map_err(|error| error.to_string())?)
}

async fn fetch_key(node: &Node) -> Result<Authority, KeepError> {
    let mut reasons = Vec::new();
    for voter in node.other_voters() {
        let why = match ask_for_key(node, &voter, false).await {
            Ok(KeyAnswer::Key(key)) => {
                let root = node.certificates.root();
                let authority = Authority { certificate: root.first().to_owned(), key };
                if authority.is_of(&root) {
                    return Ok(authority);
                }
                "it gave a key of another authority".into()
            }
            Ok(KeyAnswer::Refused(why)) | Err(why) => why,
            Ok(KeyAnswer::Held(_)) => "an answer of another kind".into(),
        };
        reasons.push(format!("{}: {why}", voter.address));
    }
    Err(KeepError::NoKey(reasons.join("\n  ")))
}

/// The last one to have it does not throw it away.
async fn is_held_elsewhere(node: &Node) -> bool {
    for voter in node.other_voters() {
        if let Ok(KeyAnswer::Held(true)) = ask_for_key(node, &voter, true).await {
            return true;
        }
    }
    false
}

/// Whether another certificate is to be had at this time. One that is never to be renewed is of a program of before.
fn is_due(own: Validity, names_host: bool, speaks: bool, share: u64, now: TimeMs) -> bool {
    match own.is_endless() {
        true => speaks,
        // Also when the log does not say yet what the cluster speaks: who has such a certificate knows.
        false => !names_host || now >= own.after(share) || !own.holds(now),
    }
}

/// Whether the certificate is another one now.
async fn look_after_certificate(
    node: &Arc<Node>,
    around: &Surroundings,
    share: u64,
) -> Result<bool, KeepError> {
    let state = node.applied.view().state;
    let speaks = state.version() >= version::CERTIFICATES;
    let own = node.certificates.identity().der()?;
    let validity = Validity::read(&own).ok_or(PkiError::NotOurs)?;
    // The host that the cluster knows: a voter names no other one in a certificate.
    let known = state.node(node.id).map(|record| record.address.as_str()).filter(|_| speaks);
    let names_host = known.and_then(host_of).is_none_or(|host| pki::carries(&own, host));
    let now = node.clock.wall();
    let is_old = !node.certificates.root().issued(&own);
    if !(is_old || is_due(validity, names_host, speaks, share, now)) || node.certificates.gone().is_some() {
        return Ok(false);
    }
    let key = KeyPair::from_pem(&node.certificates.identity().key).map_err(PkiError::from)?;
    let certificate = match node.certificates.authority() {
        Some(authority) => {
            let address = known.unwrap_or(&around.address);
            let key = pki::public_key(&key)?;
            node.certificates.certify(&authority, &key, node.id, address, now)?
        }
        None => {
            let request = CertificateRequest::make(&key, Purpose::Renewal { of: &own })?;
            let renew = Renew { certificate: ByteVec::from(own.to_vec()), request };
            match ask_to_renew(node, around, &renew).await? {
                Some(renewed) => renewed,
                None => return Ok(false),
            }
        }
    };
    let renewed = Validity::read(&pki::read(&certificate)?).ok_or(PkiError::NotOurs)?;
    around.folder.write_certificate(&certificate)?;
    let key = node.certificates.identity().key.clone();
    show(node, Identity { certificate, key })?;
    tracing::info!(until = utc(renewed.to), "this peer has a new certificate");
    Ok(true)
}

/// Proves itself with this certificate from now on: new connections do, in both directions.
pub(super) fn show(node: &Node, identity: Identity) -> Result<(), KeepError> {
    let (certificates, root) = (&node.certificates, node.certificates.root());
    let server = pki::peer_server(&root, &identity)?;
    let client = pki::peer_client(&root, &identity)?;
    node.peers.show(server, client).map_err(KeepError::Peers)?;
    if certificates.changes() > 0 {
        node.peers.renew_connections();
    }
    *certificates.identity.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(identity);
    certificates.renewed.send_replace(());
    Ok(())
}

/// Connections on which this peer shows no certificate.
pub(super) fn as_stranger(node: &Node) -> Result<Peers, KeepError> {
    let tls = pki::renewing_client(&node.certificates.root())?;
    node.peers.beside(tls).map_err(KeepError::Peers)
}

/// Other voters, and those that the operator named.
pub(super) fn voters_to_ask(node: &Node, around: &Surroundings) -> Vec<PeerAddress> {
    let also = around.also.iter().map(|address| PeerAddress::any(address));
    node.other_voters().into_iter().chain(also).collect()
}

/// Asks voters, over connections on which this peer shows no certificate: its own may have expired. None: this peer is no
/// member any more.
async fn ask_to_renew(
    node: &Node,
    around: &Surroundings,
    renew: &Renew,
) -> Result<Option<String>, KeepError> {
    let peers = as_stranger(node)?;
    let mut reasons = Vec::new();
    for target in voters_to_ask(node, around) {
        let answer = peers.call(&target, CallKind::Renew, encode(renew), limits::RENEW_DEADLINE).await;
        let why = match answer.map_err(|e| e.to_string()).and_then(|body| decode::<RenewAnswer>(&body)) {
            Ok(RenewAnswer::Renewed { certificate, now }) => match check(node, renew, &certificate, now) {
                Ok(()) => return Ok(Some(certificate)),
                Err(why) => why,
            },
            Ok(RenewAnswer::Refused(refusal)) if refusal.code == RefusalCode::NotFound => {
                // Set once: what the first voter says is enough.
                let _ = node.certificates.gone.set(refusal.message);
                return Ok(None);
            }
            Ok(RenewAnswer::Refused(refusal)) => refusal.message,
            Err(why) => why,
        };
        reasons.push(format!("{}: {why}", target.address));
    }
    Err(KeepError::NobodyRenewed(reasons.join("\n  ")))
}

/// Whether this node can use what it was given: by the clock of whoever issued it, it is `there`.
fn check(node: &Node, renew: &Renew, certificate: &str, there: TimeMs) -> Result<(), String> {
    let given = pki::read(certificate).map_err(|error| error.to_string())?;
    let (old, here) = (CertificateDer::from(renew.certificate.to_vec()), node.clock.wall());
    let of = node.certificates.root().node_behind(&given).map_err(|error| error.to_string())?;
    if of != node.id || key_of(&given) != key_of(&old) {
        return Err(PkiError::NotOurs.to_string());
    }
    match Validity::read(&given).is_some_and(|validity| validity.holds(here)) {
        true => Ok(()),
        false => Err(format!(
            "by the clock of this machine it is {}, by its clock {}, and its certificate is not valid here: set the clock \
             that is wrong",
            utc(here.0 / 1_000),
            utc(there.0 / 1_000)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_keep_the_key_sealed_and_others_keep_none() {
        use KeyDuty::*;
        let duty = key_duty;
        for (votes, follows, holds, is_clear) in
            [(true, false, true, true), (false, true, true, true), (true, false, false, false)]
        {
            assert_eq!(duty(false, votes, follows, holds, is_clear), Nothing, "programs of before read it");
        }
        assert_eq!(duty(true, true, false, false, false), Fetch);
        assert_eq!(duty(true, true, false, true, true), Seal);
        assert_eq!(duty(true, true, false, true, false), Nothing);
        assert_eq!(duty(true, false, true, true, false), Forget);
        assert_eq!(duty(true, false, true, false, false), Nothing);
        assert_eq!(duty(true, false, false, true, true), Nothing, "it does not know yet what it is");
    }

    #[test]
    fn certificates_are_renewed_in_time_and_those_of_before_once() {
        let (now, month) = (TimeMs(1_800_000_000_000), Duration::from_secs(30 * 24 * 3_600));
        let own = Validity::starting(now, month);
        let days = |days: u64| TimeMs(now.0 + days * 86_400_000);
        for share in RENEWED_AFTER {
            let due = |at| is_due(own, true, true, share, at);
            assert!(!due(now) && !due(days(14)) && due(days(24)) && due(days(40)), "{share}");
        }
        assert!(is_due(own, true, false, 500, days(31)), "nobody else can tell it what the cluster speaks");
        assert!(is_due(own, false, true, 500, now), "it was moved to another host");
        assert!(is_due(own, true, true, 500, TimeMs(now.0 - 7_200_000)), "not valid yet");
        assert!(is_due(Validity::ENDLESS, true, true, 500, now));
        assert!(!is_due(Validity::ENDLESS, false, false, 500, now), "others cannot renew it");
    }
}
