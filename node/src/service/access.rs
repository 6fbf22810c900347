//! What each operation needs of its caller, and the one place that checks it. What belongs to a tenant that the caller
//! may not act for is not found, as if it were not there.

use std::fmt;
use std::sync::Arc;

use stint_protocol::image::Named;
use stint_protocol::{TaskId, TaskName, Tenant};
use stint_scheduler::{Image, State};

use super::{Principal, Role, ServiceError};

/// Every operation of the service but the probes of a peer's health, which are open to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    SubmitTasks,
    GetTask,
    ListTasks,
    WaitForTasks,
    CancelTasks,
    ExplainTask,
    ReadLogs,
    GetResult,
    ReadOutput,
    ListNodes,
    SetNodeMode,
    RemoveNode,
    GetClusterStatus,
    CreateJoinToken,
    TransferLeader,
    RegisterImage,
    ListImages,
    GetImage,
    DeleteImage,
    GetSettings,
    UpdateSettings,
    SaveSnapshot,
    ListJoinTokens,
    RevokeJoinToken,
}

impl Operation {
    /// The least role that may ask for it.
    pub fn needs(self) -> Role {
        match self {
            Operation::GetTask
            | Operation::ListTasks
            | Operation::WaitForTasks
            | Operation::ExplainTask
            | Operation::ReadLogs
            | Operation::GetResult
            | Operation::ReadOutput
            | Operation::ListNodes
            | Operation::GetClusterStatus
            | Operation::ListImages
            | Operation::GetImage
            | Operation::GetSettings => Role::Read,
            Operation::SubmitTasks
            | Operation::CancelTasks
            | Operation::RegisterImage
            | Operation::DeleteImage => Role::Submit,
            Operation::SetNodeMode | Operation::TransferLeader => Role::Operator,
            Operation::RemoveNode
            | Operation::CreateJoinToken
            | Operation::UpdateSettings
            | Operation::SaveSnapshot
            | Operation::ListJoinTokens
            | Operation::RevokeJoinToken => Role::Admin,
        }
    }
}

impl fmt::Display for Operation {
    /// As a refusal begins.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::SubmitTasks => "submitting tasks",
            Operation::GetTask => "reading a task",
            Operation::ListTasks => "listing tasks",
            Operation::WaitForTasks => "waiting for tasks",
            Operation::CancelTasks => "cancelling tasks",
            Operation::ExplainTask => "explaining a task",
            Operation::ReadLogs => "reading logs",
            Operation::GetResult => "reading a result",
            Operation::ReadOutput => "reading an output",
            Operation::ListNodes => "listing nodes",
            Operation::SetNodeMode => "setting a node's mode",
            Operation::RemoveNode => "removing a node",
            Operation::GetClusterStatus => "reading the cluster's status",
            Operation::CreateJoinToken => "creating a join token",
            Operation::TransferLeader => "transferring the leadership",
            Operation::RegisterImage => "registering an image",
            Operation::ListImages => "listing images",
            Operation::GetImage => "reading an image",
            Operation::DeleteImage => "deleting an image",
            Operation::GetSettings => "reading settings",
            Operation::UpdateSettings => "changing settings",
            Operation::SaveSnapshot => "saving the cluster's state",
            Operation::ListJoinTokens => "listing join tokens",
            Operation::RevokeJoinToken => "revoking a join token",
        })
    }
}

/// Lets a caller whose role suffices ask for what concerns no tenant.
pub(super) fn allow(caller: &Principal, operation: Operation) -> Result<(), ServiceError> {
    let (needs, role) = (operation.needs(), caller.role);
    if role >= needs {
        return Ok(());
    }
    tracing::warn!(%operation, %role, proof = ?caller.proof, "a caller was refused");
    Err(ServiceError::RoleTooLow { operation, needs, role })
}

/// Lets a caller whose role suffices ask for what concerns this tenant; what it reaches there, the scope says.
pub(super) fn allow_in<'a>(
    caller: &Principal,
    operation: Operation,
    tenant: &'a Tenant,
) -> Result<Scope<'a>, ServiceError> {
    allow(caller, operation)?;
    Ok(Scope { tenant, own: caller.acts_for(tenant) })
}

/// A tenant as one caller sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    tenant: &'a Tenant,
    /// Whether the caller may act for it; nothing of it is there otherwise.
    own: bool,
}

impl Scope<'_> {
    /// The tenant, for what is added to it.
    pub fn tenant(&self) -> Result<&Tenant, ServiceError> {
        match self.own {
            true => Ok(self.tenant),
            false => Err(ServiceError::ForeignTenant(self.tenant.clone())),
        }
    }

    /// The tenant, for a list of what it has; none has nothing.
    pub fn listed(&self) -> Option<&Tenant> {
        self.own.then_some(self.tenant)
    }

    /// A task of the tenant, by id or name.
    pub fn find_task(&self, state: &State, text: &str) -> Result<TaskId, ServiceError> {
        let by_id =
            |tenant: &Tenant| text.parse().ok().filter(|id| state.tenant_of(*id).as_ref() == Some(tenant));
        let by_name = |tenant: &Tenant| TaskName::new(text).ok().and_then(|name| state.named(tenant, &name));
        let found = self.listed().and_then(|tenant| by_id(tenant).or_else(|| by_name(tenant)));
        found.ok_or_else(|| ServiceError::TaskNotFound { tenant: self.tenant.clone(), text: text.into() })
    }

    /// Tasks of the tenant; the first that is not found refuses all.
    pub fn find_tasks(&self, state: &State, texts: &[String]) -> Result<Vec<TaskId>, ServiceError> {
        texts.iter().map(|text| self.find_task(state, text)).collect()
    }

    /// A listed image of the tenant, by name, name and digest, or id.
    pub fn find_image(&self, state: &State, text: &str) -> Result<Arc<Image>, ServiceError> {
        let by_id = |tenant: &Tenant| {
            let image = text.parse().ok().and_then(|id| state.image(id));
            image.filter(|image| image.tenant == *tenant && image.listed)
        };
        let by_name = |tenant: &Tenant| {
            let named: Option<Named> = text.parse().ok();
            named.and_then(|named| state.image_named(tenant, &named))
        };
        let found = self.listed().and_then(|tenant| by_id(tenant).or_else(|| by_name(tenant)));
        let unknown = || ServiceError::ImageNotFound { tenant: self.tenant.clone(), text: text.into() };
        found.cloned().ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::service::{Proof, Tenants};

    /// The role that each operation needs: a changed line is a changed promise.
    const NEEDS: [(Operation, Role); 24] = [
        (Operation::SubmitTasks, Role::Submit),
        (Operation::GetTask, Role::Read),
        (Operation::ListTasks, Role::Read),
        (Operation::WaitForTasks, Role::Read),
        (Operation::CancelTasks, Role::Submit),
        (Operation::ExplainTask, Role::Read),
        (Operation::ReadLogs, Role::Read),
        (Operation::GetResult, Role::Read),
        (Operation::ReadOutput, Role::Read),
        (Operation::ListNodes, Role::Read),
        (Operation::SetNodeMode, Role::Operator),
        (Operation::RemoveNode, Role::Admin),
        (Operation::GetClusterStatus, Role::Read),
        (Operation::CreateJoinToken, Role::Admin),
        (Operation::TransferLeader, Role::Operator),
        (Operation::RegisterImage, Role::Submit),
        (Operation::ListImages, Role::Read),
        (Operation::GetImage, Role::Read),
        (Operation::DeleteImage, Role::Submit),
        (Operation::GetSettings, Role::Read),
        (Operation::UpdateSettings, Role::Admin),
        (Operation::SaveSnapshot, Role::Admin),
        (Operation::ListJoinTokens, Role::Admin),
        (Operation::RevokeJoinToken, Role::Admin),
    ];

    fn caller(role: Role) -> Principal {
        Principal { tenants: Tenants::All, role, proof: Proof::LocalSocket }
    }

    #[test]
    fn each_operation_is_allowed_from_its_role_on() {
        for (place, (operation, needs)) in NEEDS.into_iter().enumerate() {
            assert_eq!(operation as usize, place, "every operation stands here once, in order");
            for role in [Role::Read, Role::Submit, Role::Operator, Role::Admin] {
                let allowed = allow(&caller(role), operation).is_ok();
                assert_eq!(allowed, role >= needs, "{operation} as {role}");
            }
        }
        assert_eq!(
            NEEDS.len(),
            Operation::RevokeJoinToken as usize + 1,
            "the last operation is the table's last"
        );
    }

    #[test]
    fn a_scope_of_another_tenant_is_empty() {
        let tenant = Tenant::new("team-7").unwrap();
        let other = Principal {
            tenants: Tenants::Only(BTreeSet::from([Tenant::new("team-8").unwrap()])),
            ..caller(Role::Admin)
        };
        let scope = allow_in(&other, Operation::GetTask, &tenant).unwrap();
        assert!(scope.listed().is_none() && scope.tenant().is_err());
        let own = allow_in(&caller(Role::Read), Operation::GetTask, &tenant).unwrap();
        assert!(own.listed().is_some() && own.tenant().is_ok());
    }
}
