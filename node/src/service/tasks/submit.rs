//! Submitting tasks: checked here, accepted by the leader.

use sha2::{Digest, Sha256};
use stint_protocol::{Class, IdempotencyKey, SharedSpec, TaskId, TaskName, TaskSpec, Tenant};
use stint_scheduler::{State, Submit, never_fits};

use super::runtime;
use crate::leader_client::unexpected;
use crate::service::access::Operation;
use crate::service::{Principal, Service, ServiceError};
use crate::wire::{Reply, Request, encode};

/// What a user submits, before it is checked.
pub struct NewTasks {
    pub tenant: Tenant,
    pub name: Option<TaskName>,
    pub spec: TaskSpec,
    /// The user said how long it may take to stop. Otherwise it is the default, and at most half of its class's lease.
    pub own_grace: bool,
    /// As the user names it: a runtime, or `python`, whose command is a module or a script. Empty: as `spec` says.
    pub runtime: String,
    pub count: u32,
    pub key: Option<IdempotencyKey>,
    /// Refuse tasks that no node could ever run, as the nodes are.
    pub must_fit: bool,
}

/// Tasks that are on a majority of disks; their ids follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedTasks {
    pub first: TaskId,
    pub count: u32,
    /// The idempotency key was known: these are the tasks of the first submit.
    pub repeated: bool,
    /// Why no node could ever run them, as the nodes are.
    pub warning: Option<String>,
}

impl AcceptedTasks {
    /// All of them.
    pub fn ids(&self) -> impl Iterator<Item = TaskId> + use<> {
        let (first, count) = (self.first.0, self.count);
        (0..count).map(move |n| TaskId(first + u128::from(n)))
    }
}

impl Service {
    /// Accepts tasks. Answers when they are on a majority of disks.
    pub async fn submit(&self, caller: &Principal, mut new: NewTasks) -> Result<AcceptedTasks, ServiceError> {
        self.allow_in(caller, Operation::SubmitTasks, &new.tenant)?.tenant()?;
        let state = match runtime::needs_image(&new) || new.must_fit {
            true => self.read().await?,
            false => self.node.applied.view().state,
        };
        runtime::choose(&state, &mut new)?;
        new.spec.run_as = user_of(caller, &new.spec, &state)?;
        let must_fit = new.must_fit;
        let submit = self.checked(new)?;
        let never = never_fits(&state, &submit.tenant, &submit.spec);
        // A repetition of what was accepted is answered as the first time.
        let known = || submit.key.as_ref().is_some_and(|key| state.key_known(&submit.tenant, key));
        if let Some(why) = never.as_ref().filter(|_| must_fit && !known()) {
            return Err(ServiceError::NeverFits(why.clone()));
        }
        match self.ask(Request::Submit(submit)).await? {
            Reply::Submitted { first, count, repeated } => {
                let warning = never.filter(|_| !repeated);
                Ok(AcceptedTasks { first, count, repeated, warning })
            }
            other => Err(unexpected(&other).into()),
        }
    }

    fn checked(&self, new: NewTasks) -> Result<Submit, ServiceError> {
        let settings = self.node.applied.view().state.settings().clone();
        let digest = digest_of(&new);
        let key_made_ms = new.key.as_ref().and_then(made_at);
        self.node.leader_client.check_speaks(new.spec.needs())?;
        let rules = settings.class(new.spec.class);
        let spec = if new.own_grace { new.spec } else { new.spec.with_grace_within(rules) };
        let spec = spec.resolve(rules)?;
        if let Some(name) = new.name.as_ref().filter(|_| new.count > 1) {
            TaskName::new(&format!("{name}-{}", new.count - 1))?;
        }
        let made = TaskId::from_parts(self.node.clock.wall().0, self.node.rng.random_bits());
        let own_key = || IdempotencyKey::new(&format!("peer-{:032x}", self.node.rng.random_bits())).ok();
        Ok(Submit {
            tenant: new.tenant,
            first: TaskId(made.0 & !0xffff),
            count: new.count,
            name: new.name,
            spec: SharedSpec::new(spec),
            // Without one a try whose answer was lost could not be repeated safely.
            key: new.key.or_else(own_key),
            digest,
            key_made_ms,
        })
    }
}

/// The user of a machine that a task runs as: who the kernel says submits it, and nobody whom the request names. What Slurm runs is
/// its own affair.
fn user_of(caller: &Principal, spec: &TaskSpec, state: &State) -> Result<Option<u32>, ServiceError> {
    let Some(uid) = caller.runs_as.filter(|_| spec.class != Class::GpuSlurm) else { return Ok(None) };
    let is_a_tenants = state.settings().rules.tenant_uids.contains(uid);
    // Else a tenant's programs could be told from that user's by nobody.
    if is_a_tenants { Err(ServiceError::UserOfTenants(uid)) } else { Ok(Some(uid)) }
}

/// What tells one request from another under the same idempotency key.
fn digest_of(new: &NewTasks) -> u64 {
    let mut hash = Sha256::new();
    hash.update(encode(&SharedSpec::new(new.spec.clone())));
    hash.update(new.count.to_be_bytes());
    hash.update(new.name.as_ref().map_or("", |n| n.as_str()));
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// When a key was made, for those that end in a version 7 UUID (as the SDK's do), in milliseconds since 1970.
fn made_at(key: &IdempotencyKey) -> Option<u64> {
    let text = key.as_str();
    let tail = text.get(text.len().checked_sub(36)?..)?;
    let id: TaskId = tail.parse().ok()?;
    let version = (id.0 >> 76) & 0xf;
    (version == 7).then_some((id.0 >> 80) as u64)
}
