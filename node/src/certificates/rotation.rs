//! Another authority for a running cluster.

use bytes::Bytes;
use stint_protocol::{NodeId, TimeMs};
use stint_scheduler::{AskedRotation, Authority as Agreed, Command, NewAuthority, State};
use tokio::time::Instant;

use super::admin;
use super::keeper::{KeepError, Surroundings, as_stranger, show, voters_to_ask};
use crate::limits;
use crate::node::Node;
use crate::outage::Outage;
use crate::peers::Caller;
use crate::pki::{Authority, Root};
use crate::wire::{CallKind, Request, decode, encode};

/// What is not done at every look.
#[derive(Default)]
pub(super) struct Pace {
    /// When others were asked last whom they trust.
    asked_at: Option<Instant>,
    /// Since when this leader could drop the old authority but for members that it does not hear.
    waits_since: Option<Instant>,
}

/// Whether this peer trusts the authority that its state names, and no other one is wanted.
pub(super) fn is_settled(node: &Node) -> bool {
    let (state, root) = (node.applied.view().state, node.certificates.root());
    let authorities = state.authorities();
    let named = authorities.current.as_ref().map(|current| current.new.root.as_str());
    authorities.asked.is_none() && named == Some(root.first())
}

/// Whom the state says to trust; none: whom this peer trusts already.
fn agreed_root(agreed: &Agreed) -> Root {
    let NewAuthority { root, endorsement, old_root, .. } = &agreed.new;
    Root::changed(root, endorsement, agreed.old_until.map(|_| old_root.as_str()))
}

/// Trusts whom the cluster does.
pub(super) async fn look_after_trust(
    node: &Node,
    around: &Surroundings,
    pace: &mut Pace,
) -> Result<(), KeepError> {
    let own = node.certificates.root();
    let agreed = node.applied.view().state.authorities().current.as_ref().map(agreed_root);
    // The state of a peer that starts may be older than what is on its disk.
    let wanted = match agreed.filter(|agreed| !agreed.has_become(&own)) {
        Some(agreed) => Some(agreed),
        None => ask_if_lonely(node, around, pace).await,
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != *own) {
        around.folder.write_root(&wanted)?;
        let before = node.certificates.authority();
        node.certificates.trust(wanted.clone());
        if before.is_some_and(|before| !before.is_of(&wanted)) {
            node.certificates.set_authority(key_of_new(around));
        }
        show(node, (*node.certificates.identity()).clone())?;
        let cluster_trusts =
            if wanted.0.matches("BEGIN CERTIFICATE").count() > 2 { "both" } else { "the new one" };
        tracing::info!(trusts = cluster_trusts, "the cluster has another authority");
    }
    admin::write_root(around, &node.certificates.root())
}

/// The key of an authority that was just trusted, where it is here. A voter that lacks it fetches it.
fn key_of_new(around: &Surroundings) -> Option<Authority> {
    around.folder.authority().ok().flatten()
}

/// A peer that was away while the authority changed is refused by all, and its log does not go on. Whom they trust by now they
/// tell anybody; that it is true, the endorsement by the authority that this peer knows shows.
async fn ask_if_lonely(node: &Node, around: &Surroundings, pace: &mut Pace) -> Option<Root> {
    let outage = Outage::seen(&node.raft.status())?;
    if outage.leaderless < limits::LONELY
        || pace.asked_at.is_some_and(|at| at.elapsed() < limits::AUTHORITY_QUESTION)
    {
        return None;
    }
    pace.asked_at = Some(Instant::now());
    let (own, peers) = (node.certificates.root(), as_stranger(node).ok()?);
    for target in voters_to_ask(node, around) {
        let answer = peers.call(&target, CallKind::Authorities, Bytes::new(), limits::RENEW_DEADLINE).await;
        let named = answer.map_err(|e| e.to_string()).and_then(|body| decode::<String>(&body));
        match named.map(Root) {
            Ok(named) if own.has_become(&named) => return Some(named),
            Ok(_) => tracing::debug!(voter = target.address, "it has the authority that this peer knows"),
            Err(error) => tracing::debug!(%error, voter = target.address, "it does not tell its authority"),
        }
    }
    None
}

/// What is to be done about a change, beside trusting.
#[derive(Debug, PartialEq, Eq)]
enum Duty<'a> {
    Nothing,
    /// Of the leader.
    Make(&'a AskedRotation),
    /// This peer has a certificate of the new authority, and the state does not know yet.
    Tell(&'a Agreed),
    /// Of the leader.
    Drop,
}

/// `present`: what a peer that leads knows of the others.
fn duty(
    state: &State,
    node: NodeId,
    has_new: bool,
    leads: bool,
    now: TimeMs,
    present: impl Fn(NodeId) -> bool,
) -> Duty<'_> {
    let authorities = state.authorities();
    if let Some(asked) = authorities.asked.as_ref().filter(|_| leads) {
        return Duty::Make(asked);
    }
    let Some(change) = authorities.changing() else { return Duty::Nothing };
    if has_new && state.node(node).is_some() && change.certified.binary_search(&node).is_err() {
        return Duty::Tell(change);
    }
    let is_over = change.old_until.is_some_and(|until| until <= now);
    match leads && is_over && !state.nodes_to_certify().any(|node| present(node.id)) {
        true => Duty::Drop,
        false => Duty::Nothing,
    }
}

/// Brings a change on.
pub(super) async fn look_after_rotation(node: &Node, pace: &mut Pace) -> Result<(), KeepError> {
    let (state, now) = (node.applied.view().state, node.clock.wall());
    let authorities = state.authorities();
    if authorities.asked.is_none() && authorities.changing().is_none() {
        return Ok(());
    }
    let has_new = node.certificates.identity().der().is_ok_and(|own| node.certificates.root().issued(&own));
    let reachable = node.leader.while_leading(|lease_clock| lease_clock.reachable(node.clock.boot()));
    let leads = reachable.is_some();
    let reachable: Vec<NodeId> = reachable.map(|(_, nodes)| nodes.into_iter().collect()).unwrap_or_default();
    let status = node.raft.status();
    let heard = |id: NodeId| status.contacts.get(&id.0).is_some_and(|age| !crate::outage::is_silent(*age));
    let present = |id: NodeId| id == node.id || reachable.contains(&id) || heard(id);
    let duty = duty(&state, node.id, has_new, leads, now, present);
    if duty != Duty::Drop {
        pace.waits_since = None;
    }
    match duty {
        Duty::Nothing => Ok(()),
        Duty::Make(asked) => make(node, &state, asked).await,
        Duty::Tell(change) => {
            let fingerprint = change.new.fingerprint;
            // What is trusted may be ahead of the state.
            if node.certificates.root().fingerprint()? != *fingerprint {
                return Ok(());
            }
            let reply = node.leader_client.ask(Request::CertifyNode { node: node.id, fingerprint }).await;
            reply.map(drop).map_err(|refusal| KeepError::Leader(refusal.message))
        }
        Duty::Drop => {
            // Who leads since a moment has heard nobody yet.
            let waited = pace.waits_since.get_or_insert_with(Instant::now).elapsed();
            if state.nodes_to_certify().next().is_some() && waited < limits::AUTHORITY_PATIENCE {
                return Ok(());
            }
            tracing::info!("the old authority of the cluster is trusted no more: its time is over");
            propose(node, Command::DropOldAuthority { force: true }).await
        }
    }
}

async fn propose(node: &Node, command: Command) -> Result<(), KeepError> {
    let results = node.leader.propose(vec![command]).await.map_err(|e| KeepError::Leader(e.to_string()))?;
    results.into_iter().next().map_or(Ok(()), |result| {
        result.map(drop).map_err(|rejection| KeepError::Leader(rejection.to_string()))
    })
}

/// Makes the authority, and has it trusted once a majority of the voters has its key on the disk: whoever leads later can
/// issue certificates.
async fn make(node: &Node, state: &State, asked: &AskedRotation) -> Result<(), KeepError> {
    let (old, root) = (node.certificates.authority(), node.certificates.root());
    let old = old.filter(|old| old.is_of(&root)).ok_or(KeepError::NoKeyToEndorse)?;
    let folder = node.certificates.folder.get().ok_or(KeepError::NoKeyToEndorse)?;
    let new = Authority::make()?;
    folder.seal_next(&new)?;
    let (mut kept, mut reasons) = (1, Vec::new());
    let voters = node.other_voters();
    for voter in &voters {
        let call = node.peers.call(voter, CallKind::KeepNextKey, encode(&new), limits::FORWARD_DEADLINE);
        match call.await {
            Ok(_) => kept += 1,
            Err(error) => reasons.push(format!("{}: {error}", voter.address)),
        }
    }
    if kept <= voters.len().div_ceil(2) {
        return Err(KeepError::TooFewKeep(reasons.join("\n  ")));
    }
    let known = state.authorities().current.as_ref().map(|current| current.new.cluster_id.clone());
    let cluster_id = match known {
        Some(known) => known,
        None => node.cluster_id()?,
    };
    let command = Command::TrustAuthority(NewAuthority {
        root: new.certificate.clone(),
        fingerprint: new.root().fingerprint()?.into(),
        endorsement: old.endorse(&new)?,
        old_root: old.certificate.clone(),
        cluster_id,
    });
    propose(node, command).await?;
    tracing::info!(by = asked.rotate.by.proof, kept, "the cluster has another authority, and trusts both");
    Ok(())
}

impl Node {
    /// Keeps the key of an authority that may be the next one, while this peer votes. Of no use until the state names it.
    pub async fn on_next_key(&self, caller: &Caller, body: Bytes) -> Result<Bytes, String> {
        let voters = self.raft.status().voters;
        let votes = |id: NodeId| voters.contains_key(&id.0);
        if !caller.node().is_some_and(votes) || !votes(self.id) {
            return Err("the authority's key is for voters alone".into());
        }
        if self.applied.view().state.authorities().asked.is_none() {
            return Err("this peer does not know yet that another authority is wanted".into());
        }
        let next: Authority = decode(&body)?;
        if !next.is_of(&next.root()) {
            return Err("the key is not the one of the authority".into());
        }
        let folder = self.certificates.folder.get().cloned().ok_or("this peer keeps no key")?;
        let sealed = tokio::task::spawn_blocking(move || folder.seal_next(&next)).await;
        sealed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        Ok(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::Version;
    use stint_scheduler::{Admit, ChangedBy, RotateAuthority, StampedCommand, apply};

    use super::*;

    fn run(state: &mut State, now: u64, command: Command) {
        apply(state, StampedCommand { now: TimeMs(now), command }).unwrap();
    }

    #[test]
    fn the_leader_makes_and_drops_and_each_member_tells_once() {
        let mut state = State::default();
        let admit = |token| Admit {
            disk: [u8::from(token); 16],
            name: format!("n{token}"),
            address: "a:1".into(),
            token: Some([7; 32]).filter(|_| token),
            speaks: Version(5),
        };
        run(&mut state, 1, Command::Admit(admit(false)));
        run(&mut state, 1, Command::AddJoinToken { hash: [7; 32], valid_ms: 1_000_000, uses: None });
        run(&mut state, 1, Command::Admit(admit(true)));
        let (own, other) = (NodeId(1), NodeId(2));
        let seen = |state: &State, has_new, leads, now, there: bool| match duty(
            state,
            own,
            has_new,
            leads,
            TimeMs(now),
            |_| there,
        ) {
            Duty::Nothing => "nothing",
            Duty::Make(_) => "make",
            Duty::Tell(_) => "tell",
            Duty::Drop => "drop",
        };
        assert_eq!(seen(&state, true, true, 1, true), "nothing");
        let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: own };
        run(&mut state, 5, Command::RotateAuthority(RotateAuthority { overlap_ms: 100, by }));
        assert_eq!(
            (seen(&state, true, true, 5, true), seen(&state, true, false, 5, true)),
            ("make", "nothing")
        );
        let fingerprint = [9; 32].into();
        let new = NewAuthority {
            root: "new".into(),
            fingerprint,
            endorsement: "by the old one".into(),
            old_root: "old".into(),
            cluster_id: "00ff".into(),
        };
        run(&mut state, 10, Command::TrustAuthority(new));
        assert_eq!(
            (seen(&state, false, true, 11, true), seen(&state, true, true, 11, true)),
            ("nothing", "tell")
        );
        run(&mut state, 12, Command::CertifyNode { node: own, fingerprint });
        assert_eq!(seen(&state, true, true, 12, true), "nothing");
        // Its time is over: not before those that are there have a certificate of the new one.
        assert_eq!(
            (seen(&state, true, true, 200, true), seen(&state, true, true, 200, false)),
            ("nothing", "drop")
        );
        assert_eq!(seen(&state, true, true, 109, false), "nothing");
        run(&mut state, 210, Command::CertifyNode { node: other, fingerprint });
        assert_eq!(
            (seen(&state, true, true, 210, true), seen(&state, true, false, 210, true)),
            ("drop", "nothing")
        );
    }
}
