//! What a voter does for others with the authority's key: it admits who joins, renews certificates of members, and hands the
//! key itself to other voters. A peer that has no key passes on what it is asked to one that has.

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use stint_protocol::{NodeId, version};

use crate::callers::{LEFT_BEHIND, RECOVERED};
use crate::join::token_id;
use crate::leader_client::unexpected;
use crate::limits;
use crate::node::Node;
use crate::peers::{Caller, PeerAddress};
use crate::pki::{Authority, PkiError, PublicKey, Purpose, disk_of_key, key_of, node_of, recovered_name};
use crate::wire::{
    CallKind, Join, JoinAnswer, JoinRequests, KeyAnswer, KeyQuestion, Refusal, RefusalCode, Renew,
    RenewAnswer, Reply, Request, decode, encode,
};

/// The keys that a joiner asks certificates for.
struct JoinerKeys {
    peer: PublicKey,
    admin: PublicKey,
}

/// Checks that who asks has the keys, and that the data folder for which it asks is the one of its key: nobody gets a
/// certificate of a node that has another key.
fn check_requests(requests: &JoinRequests, disk: &[u8; 16]) -> Result<JoinerKeys, PkiError> {
    let peer = requests.peer.check(Purpose::Peer { disk })?;
    let admin = requests.admin.check(Purpose::Admin { disk })?;
    if disk_of_key(&peer) == *disk { Ok(JoinerKeys { peer, admin }) } else { Err(PkiError::NoProof) }
}

fn unavailable(why: &str) -> Refusal {
    Refusal::new(RefusalCode::Unavailable, why)
}

fn failed(error: PkiError) -> Refusal {
    Refusal::new(RefusalCode::Invalid, error.to_string())
}

fn removed(node: NodeId) -> Refusal {
    Refusal::new(RefusalCode::NotFound, format!("node {node} was removed from this cluster"))
}

impl Node {
    /// Voters but this one, the leader first.
    pub(super) fn other_voters(&self) -> Vec<PeerAddress> {
        let status = self.raft.status();
        let mut voters: Vec<_> = status.voters.iter().filter(|(id, _)| **id != self.id.0).collect();
        voters.sort_by_key(|(id, _)| (Some(**id) != status.leader, **id));
        voters.into_iter().map(|(id, info)| PeerAddress::node(NodeId(*id), &info.addr)).collect()
    }

    /// Has a voter answer that holds the authority's key. Not for peers: they ask one themselves.
    async fn pass_on(&self, caller: &Caller, kind: CallKind, body: &Bytes) -> Option<Bytes> {
        if caller.is_peer() {
            return None;
        }
        for voter in self.other_voters() {
            match self.peers.call(&voter, kind, body.clone(), limits::FORWARD_DEADLINE).await {
                Ok(answer) => {
                    tracing::info!(?kind, from = %caller.from(), voter = voter.name, "passed on to a voter");
                    return Some(answer);
                }
                Err(error) => tracing::debug!(%error, ?kind, "a voter did not answer for this peer"),
            }
        }
        None
    }

    /// Admits a data folder that shows a valid join token.
    pub async fn on_join(&self, caller: &Caller, body: Bytes) -> Result<Bytes, String> {
        let Some(authority) = self.certificates.authority() else {
            return match self.pass_on(caller, CallKind::Join, &body).await {
                Some(answer) => Ok(answer),
                None => Err(NO_KEY.into()),
            };
        };
        Ok(encode(&self.admit(caller, &authority, decode(&body)?).await))
    }

    /// The log has each use of a token and each refusal.
    async fn admit(&self, caller: &Caller, authority: &Authority, join: Join) -> JoinAnswer {
        let token: [u8; 32] = Sha256::digest(&*join.secret).into();
        let (id, from) = (token_id(&token), caller.from());
        let (who, at) = (join.name.clone(), join.address.clone());
        match self.admitted(authority, token, join).await {
            Ok((node, answer)) => {
                tracing::info!(token = id, node = node.0, name = who, address = at, %from, "a node joined");
                answer
            }
            Err(refusal) => {
                tracing::warn!(token = id, name = who, address = at, %from, why = %refusal, "a node was refused to join");
                JoinAnswer::Refused(refusal)
            }
        }
    }

    async fn admitted(
        &self,
        authority: &Authority,
        token: [u8; 32],
        join: Join,
    ) -> Result<(NodeId, JoinAnswer), Refusal> {
        let Join { disk, name, address, speaks, requests, .. } = join;
        let keeps_key = self.applied.view().state.version() < version::CERTIFICATES;
        let keys = match requests {
            _ if keeps_key => None,
            Some(requests) => Some(check_requests(&requests, &disk).map_err(failed)?),
            None => None,
        };
        let at = address.clone();
        let request = Request::Admit { token: token.into(), disk, name, address, speaks };
        let node = match self.leader_client.ask(request).await? {
            Reply::Admitted(node) => node,
            other => return Err(unexpected(&other)),
        };
        let (cluster, recovered) = (self.cluster.clone(), self.recovered.clone());
        let Some(keys) = keys else {
            if !keeps_key {
                let why = "the joiner's program sends no key of its own: install the one of this cluster";
                return Err(Refusal::new(RefusalCode::Conflict, why));
            }
            // Every peer has it before version 5.
            return Ok((
                node,
                JoinAnswer::Admitted { node, authority: authority.clone(), cluster, recovered },
            ));
        };
        let now = self.clock.wall();
        let certificate = self.certificates.certify(authority, &keys.peer, node, &at, now).map_err(failed)?;
        let admin = self.certificates.certify_admin(authority, &keys.admin, node, now).map_err(failed)?;
        let root = self.certificates.root().0.clone();
        Ok((node, JoinAnswer::Enrolled { node, root, certificate, admin, cluster, recovered, now }))
    }

    /// Another certificate for a member, whose own may have expired.
    pub async fn on_renew(&self, caller: &Caller, body: Bytes) -> Result<Bytes, String> {
        let Some(authority) = self.certificates.authority() else {
            return match self.pass_on(caller, CallKind::Renew, &body).await {
                Some(answer) => Ok(answer),
                None => Err(NO_KEY.into()),
            };
        };
        let renew: Renew = decode(&body)?;
        let from = caller.from();
        Ok(encode(&match self.renewed(&authority, &renew) {
            Ok((node, answer)) => {
                tracing::info!(node = node.0, %from, "the certificate of a node was renewed");
                answer
            }
            Err(refusal) => {
                tracing::warn!(%from, why = %refusal, "a certificate was not renewed");
                RenewAnswer::Refused(refusal)
            }
        }))
    }

    fn renewed(&self, authority: &Authority, renew: &Renew) -> Result<(NodeId, RenewAnswer), Refusal> {
        let certificate = CertificateDer::from(renew.certificate.to_vec());
        let key = renew.request.check(Purpose::Renewal { of: &certificate }).map_err(failed)?;
        let vouched = self.certificates.root().node_behind(&certificate);
        if key_of(&certificate) != Some(key) {
            return Err(vouched.err().map_or(failed(PkiError::NoProof), failed));
        }
        let node = match vouched {
            Ok(node) => node,
            Err(error) => self.node_of_key(&certificate, &key, error)?,
        };
        if let Some(id) = &self.recovered
            && !crate::pki::carries(&certificate, &recovered_name(id))
        {
            return Err(Refusal::new(
                RefusalCode::NotFound,
                format!("{RECOVERED}{id} without the peers of before"),
            ));
        }
        if self.applied.was_removed(node) {
            return Err(removed(node));
        }
        let state = self.applied.view().state;
        let record = state.node(node).ok_or_else(|| unavailable("this peer does not know the node yet"))?;
        let now = self.clock.wall();
        let renewed = self.certificates.certify(authority, &key, node, &record.address, now);
        Ok((node, RenewAnswer::Renewed { certificate: renewed.map_err(failed)?, now }))
    }

    /// The member whose certificate an authority of before issued, if it has the key from which the id of its data folder was
    /// made: such a certificate itself proves nothing any more.
    fn node_of_key(
        &self,
        certificate: &CertificateDer<'_>,
        key: &PublicKey,
        why: PkiError,
    ) -> Result<NodeId, Refusal> {
        let Some(node) = node_of(certificate).filter(|_| self.certificates.was_changed()) else {
            return Err(failed(why));
        };
        if self.applied.was_removed(node) {
            return Err(removed(node));
        }
        let state = self.applied.view().state;
        let record = state.node(node).ok_or_else(|| unavailable("this peer does not know the node yet"))?;
        match record.disk == disk_of_key(key) {
            true => Ok(node),
            false => Err(Refusal::new(
                RefusalCode::NotFound,
                format!(
                    "{LEFT_BEHIND} while node {node} was away, and its data folder is of a time before keys named it: empty \
                     the data folder and join anew"
                ),
            )),
        }
    }

    /// The authority's key, for a voter; for others, whether it is here.
    pub fn on_key_question(&self, caller: &Caller, question: KeyQuestion) -> KeyAnswer {
        let authority = self.certificates.authority();
        if question.only_whether {
            return KeyAnswer::Held(authority.is_some());
        }
        let votes = caller.node().is_some_and(|node| self.raft.status().voters.contains_key(&node.0));
        match authority {
            _ if !votes => KeyAnswer::Refused("the authority's key is for voters alone".into()),
            Some(authority) => {
                tracing::info!(
                    node = caller.node().map(|node| node.0),
                    "a voter was given the authority's key"
                );
                KeyAnswer::Key(authority.key.clone())
            }
            None => KeyAnswer::Refused(NO_KEY.into()),
        }
    }
}

const NO_KEY: &str = "this peer has no key of the cluster's authority, and reaches no voter that has it";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{CertificateRequest, KeyPair, new_key, public_key};

    #[test]
    fn a_request_for_the_certificate_of_another_node_is_refused() {
        let [peer, admin, other] = [(); 3].map(|()| new_key().unwrap());
        let ask = |peer: &KeyPair, disk: &[u8; 16]| JoinRequests {
            peer: CertificateRequest::make(peer, Purpose::Peer { disk }).unwrap(),
            admin: CertificateRequest::make(&admin, Purpose::Admin { disk }).unwrap(),
        };
        let (own, others) = [&peer, &other].map(|key| disk_of_key(&public_key(key).unwrap())).into();
        let keys = check_requests(&ask(&peer, &own), &own).unwrap();
        assert_eq!((keys.peer, keys.admin), (public_key(&peer).unwrap(), public_key(&admin).unwrap()));
        // For the folder of another node, whose id is no secret.
        assert!(check_requests(&ask(&peer, &others), &others).is_err());
        // What another one asked, seen on its way.
        assert!(check_requests(&ask(&other, &others), &own).is_err());
        let mixed = JoinRequests { admin: ask(&peer, &others).admin, ..ask(&peer, &own) };
        assert!(check_requests(&mixed, &own).is_err());
    }
}
