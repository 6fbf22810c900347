//! The certificate authority: how far its change is, another one, and the end of the old one.

use std::time::Duration;

use stint_protocol::{api, version};
use stint_scheduler::{ChangedBy, RotateAuthority, State};

use super::access::Operation;
use super::{Principal, Service, ServiceError};
use crate::wire::Request;

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// How long what the old authority issued stays valid when nothing is said, and at most.
const OVERLAP: Duration = Duration::from_secs(7 * DAY.as_secs());
const OVERLAP_MOST: Duration = Duration::from_secs(366 * DAY.as_secs());

/// What is to be done about the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityChange {
    /// Another one. What the old one issued stays valid for so long; none: the default.
    Begin { overlap: Option<Duration> },
    /// The old one is trusted no more. With `force` also where members have nothing else.
    Finish { force: bool },
}

impl Service {
    /// Which authority the cluster has, and how far its change is.
    pub async fn authority(&self, caller: &Principal) -> Result<api::Authority, ServiceError> {
        self.allow(caller, Operation::GetAuthority)?;
        self.document(&self.read().await?)
    }

    /// Begins a change of the authority, or ends it.
    pub async fn change_authority(
        &self,
        caller: &Principal,
        change: AuthorityChange,
    ) -> Result<api::Authority, ServiceError> {
        self.allow(caller, Operation::RotateAuthority)?;
        self.node.leader_client.check_speaks(version::CA_ROTATION)?;
        let by = caller.proof.describe();
        let request = match change {
            AuthorityChange::Begin { overlap } => {
                let overlap = overlap.unwrap_or(OVERLAP);
                if overlap > OVERLAP_MOST {
                    return Err(ServiceError::OverlapTooLong);
                }
                tracing::info!(by, days = overlap.as_secs() / DAY.as_secs(), "another authority is wanted");
                let by = ChangedBy { role: caller.role.as_str().into(), proof: by, peer: self.node.id };
                Request::RotateAuthority(RotateAuthority { overlap_ms: overlap.as_millis() as u64, by })
            }
            AuthorityChange::Finish { force } => {
                tracing::info!(by, force, "the old authority of the cluster is to be trusted no more");
                Request::DropOldAuthority { force }
            }
        };
        self.ask(request).await?;
        self.document(&self.read().await?)
    }

    fn document(&self, state: &State) -> Result<api::Authority, ServiceError> {
        let authorities = state.authorities();
        let current = authorities.current.as_ref();
        let fingerprint = match current {
            Some(current) => *current.new.fingerprint,
            None => self.node.certificates.root().fingerprint()?,
        };
        let phase = match (authorities.asked.is_some(), authorities.changing().is_some()) {
            (true, _) => "asked",
            (false, true) => "changing",
            (false, false) => "steady",
        };
        Ok(api::Authority {
            cluster_id: self.node.cluster_id()?,
            fingerprint: fingerprint.iter().map(|byte| format!("{byte:02x}")).collect(),
            phase: phase.into(),
            since_ms: current.map(|current| current.since.0),
            old_until_ms: current.and_then(|current| current.old_until).map(|until| until.0),
            waits_for: state.nodes_to_certify().map(|node| node.name.clone()).collect(),
        })
    }
}
