//! What each operation needs of its caller, and the one place that checks it. What belongs to a tenant that the caller
//! may not act for is not found, as if it were not there.

use std::fmt;
use std::sync::Arc;

use stint_protocol::image::Named;
use stint_protocol::{TaskId, TaskName, Tenant};
use stint_scheduler::{Image, State};

use super::{Principal, Role, Service, ServiceError};
use crate::audit::{AuditLine, Refused};

/// Describes operations. A row is `Name: "as a refusal begins", least role;`, and for what belongs to a tenant the least role
/// of a caller of another one: `Name: "…", role, others role;`.
macro_rules! operations {
    ($( $name:ident: $phrase:literal, $needs:ident $(, others $others:ident)?; )*) => {
        /// Every operation of the service but the probes of a peer's health, which are open to all.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $( $name, )*
        }

        impl Operation {
            /// All of them, in order.
            pub const ALL: &[Operation] = &[$( Operation::$name, )*];

            /// The least role that may ask for it; of its own tenant, if it is about one.
            pub fn needs(self) -> Role {
                match self {
                    $( Operation::$name => Role::$needs, )*
                }
            }

            /// The least role that may ask for it about another tenant than its own; none: it is about no tenant.
            pub fn needs_for_others(self) -> Option<Role> {
                match self {
                    $( Operation::$name => operations!(@others $($others)?), )*
                }
            }

            fn phrase(self) -> &'static str {
                match self {
                    $( Operation::$name => $phrase, )*
                }
            }
        }
    };
    (@others) => { None };
    (@others $role:ident) => { Some(Role::$role) };
}

operations! {
    SubmitTasks: "submitting tasks", Submit, others Admin;
    GetTask: "reading a task", Read, others Operator;
    ListTasks: "listing tasks", Read, others Operator;
    WaitForTasks: "waiting for tasks", Read, others Operator;
    CancelTasks: "cancelling tasks", Submit, others Operator;
    ExplainTask: "explaining a task", Read, others Operator;
    ReadLogs: "reading logs", Read, others Operator;
    GetResult: "reading a result", Read, others Operator;
    ReadOutput: "reading an output", Read, others Operator;
    ListNodes: "listing nodes", Read;
    SetNodeMode: "setting a node's mode", Operator;
    RemoveNode: "removing a node", Admin;
    GetClusterStatus: "reading the cluster's status", Read;
    CreateJoinToken: "creating a join token", Admin;
    TransferLeader: "transferring the leadership", Operator;
    RegisterImage: "registering an image", Submit, others Admin;
    ListImages: "listing images", Read, others Operator;
    GetImage: "reading an image", Read, others Operator;
    DeleteImage: "deleting an image", Submit, others Admin;
    GetSettings: "reading settings", Read;
    UpdateSettings: "changing settings", Admin;
    SaveSnapshot: "saving the cluster's state", Admin;
    ListJoinTokens: "listing join tokens", Admin;
    RevokeJoinToken: "revoking a join token", Admin;
    WhoAmI: "asking who one is", Read;
    CreateToken: "creating a token", Admin;
    ListTokens: "listing tokens", Admin;
    RevokeToken: "revoking a token", Admin;
    GetAuthority: "reading how far a change of the authority is", Read;
    RotateAuthority: "changing the authority", Admin;
    ListTenants: "listing tenants", Read;
    RemoveTenant: "removing a tenant", Admin;
}

impl fmt::Display for Operation {
    /// As a refusal begins.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

impl Operation {
    /// Whether it changes something, or gives away what opens doors: each is a line of the audit log. Of the others those are
    /// that are refused.
    fn is_audited(self) -> bool {
        match self {
            Operation::SubmitTasks
            | Operation::CancelTasks
            | Operation::SetNodeMode
            | Operation::RemoveNode
            | Operation::CreateJoinToken
            | Operation::TransferLeader
            | Operation::RegisterImage
            | Operation::DeleteImage
            | Operation::UpdateSettings
            | Operation::SaveSnapshot
            | Operation::RevokeJoinToken
            | Operation::CreateToken
            | Operation::RevokeToken
            | Operation::RotateAuthority
            | Operation::RemoveTenant => true,
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
            | Operation::GetSettings
            | Operation::ListJoinTokens
            | Operation::WhoAmI
            | Operation::ListTokens
            | Operation::GetAuthority
            | Operation::ListTenants => false,
        }
    }
}

impl Service {
    /// Lets a caller whose role suffices ask for what concerns no tenant.
    pub(super) fn allow(&self, caller: &Principal, operation: Operation) -> Result<(), ServiceError> {
        let allowed = allow(caller, operation);
        self.audit(caller, operation, None, allowed.as_ref().err().map(ServiceError::to_string));
        allowed
    }

    /// Lets a caller whose role suffices ask for what concerns this tenant; what it reaches there, the scope says.
    pub(super) fn allow_in<'a>(
        &self,
        caller: &Principal,
        operation: Operation,
        tenant: &'a Tenant,
    ) -> Result<Scope<'a>, ServiceError> {
        let allowed = allow_in(caller, operation, tenant);
        let why = match &allowed {
            Ok(scope) => scope.tenant().err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.audit(caller, operation, Some(tenant), why);
        allowed
    }

    fn audit(&self, caller: &Principal, operation: Operation, of: Option<&Tenant>, why: Option<String>) {
        let Some(log) = self.node.audit.get().filter(|_| why.is_some() || operation.is_audited()) else {
            return;
        };
        let line = AuditLine {
            at_ms: self.node.clock.wall().0,
            allowed: why.is_none(),
            who: Some(caller.proof.describe()),
            tenant: Some(caller.tenant.to_string()),
            role: Some(caller.role.to_string()),
            from: caller.from,
            operation: Some(format!("{operation:?}")),
            of: of.map(Tenant::to_string),
            why,
        };
        match line.allowed {
            true => log.add(&line),
            false if operation.is_audited() => log.add_refusal(Refused::Changing, &line),
            false => log.add_refusal(Refused::Reading, &line),
        }
    }
}

fn allow(caller: &Principal, operation: Operation) -> Result<(), ServiceError> {
    let (needs, role) = (operation.needs(), caller.role);
    if role >= needs {
        return Ok(());
    }
    // Who asks in vain does not fill the log; the audit log has a line.
    tracing::debug!(%operation, %role, proof = caller.proof.describe(), "a caller was refused");
    Err(ServiceError::RoleTooLow { operation, needs, role })
}

fn allow_in<'a>(
    caller: &Principal,
    operation: Operation,
    tenant: &'a Tenant,
) -> Result<Scope<'a>, ServiceError> {
    allow(caller, operation)?;
    let others = operation.needs_for_others().unwrap_or(Role::Admin);
    Ok(Scope { tenant, own: caller.acts_for(tenant, others) })
}

/// A tenant as one caller sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    tenant: &'a Tenant,
    /// Whether the caller may ask this for it; nothing of it is there otherwise.
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
    use super::*;
    use crate::service::{Proof, Tenants};

    /// The role that each operation needs, and for another tenant: a changed line is a changed promise.
    const NEEDS: [(Operation, Role, Option<Role>); 32] = [
        (Operation::SubmitTasks, Role::Submit, Some(Role::Admin)),
        (Operation::GetTask, Role::Read, Some(Role::Operator)),
        (Operation::ListTasks, Role::Read, Some(Role::Operator)),
        (Operation::WaitForTasks, Role::Read, Some(Role::Operator)),
        (Operation::CancelTasks, Role::Submit, Some(Role::Operator)),
        (Operation::ExplainTask, Role::Read, Some(Role::Operator)),
        (Operation::ReadLogs, Role::Read, Some(Role::Operator)),
        (Operation::GetResult, Role::Read, Some(Role::Operator)),
        (Operation::ReadOutput, Role::Read, Some(Role::Operator)),
        (Operation::ListNodes, Role::Read, None),
        (Operation::SetNodeMode, Role::Operator, None),
        (Operation::RemoveNode, Role::Admin, None),
        (Operation::GetClusterStatus, Role::Read, None),
        (Operation::CreateJoinToken, Role::Admin, None),
        (Operation::TransferLeader, Role::Operator, None),
        (Operation::RegisterImage, Role::Submit, Some(Role::Admin)),
        (Operation::ListImages, Role::Read, Some(Role::Operator)),
        (Operation::GetImage, Role::Read, Some(Role::Operator)),
        (Operation::DeleteImage, Role::Submit, Some(Role::Admin)),
        (Operation::GetSettings, Role::Read, None),
        (Operation::UpdateSettings, Role::Admin, None),
        (Operation::SaveSnapshot, Role::Admin, None),
        (Operation::ListJoinTokens, Role::Admin, None),
        (Operation::RevokeJoinToken, Role::Admin, None),
        (Operation::WhoAmI, Role::Read, None),
        (Operation::CreateToken, Role::Admin, None),
        (Operation::ListTokens, Role::Admin, None),
        (Operation::RevokeToken, Role::Admin, None),
        (Operation::GetAuthority, Role::Read, None),
        (Operation::RotateAuthority, Role::Admin, None),
        (Operation::ListTenants, Role::Read, None),
        (Operation::RemoveTenant, Role::Admin, None),
    ];

    fn caller(tenant: &str, tenants: Tenants, role: Role) -> Principal {
        let tenant = Tenant::new(tenant).unwrap();
        Principal { tenant, tenants, role, proof: Proof::LocalSocket, from: None, runs_as: None }
    }

    #[test]
    fn each_operation_is_allowed_from_its_role_on() {
        let own = Tenant::new("team-7").unwrap();
        let other = Tenant::new("team-8").unwrap();
        let listed: Vec<Operation> = NEEDS.iter().map(|(operation, ..)| *operation).collect();
        assert_eq!(listed, Operation::ALL, "every operation stands here once, in order");
        for (operation, needs, for_others) in NEEDS {
            for role in Role::ALL {
                let caller = caller("team-7", Tenants::All, role);
                let allowed = allow(&caller, operation).is_ok();
                assert_eq!(allowed, role >= needs, "{operation} as {role}");
                let Some(for_others) = for_others else { continue };
                let reaches = |of| allow_in(&caller, operation, of).is_ok_and(|scope| scope.tenant().is_ok());
                assert_eq!(reaches(&own), role >= needs, "{operation} as {role}");
                assert_eq!(reaches(&other), role >= for_others, "{operation} for another tenant as {role}");
            }
        }
    }

    #[test]
    fn a_scope_of_another_tenant_is_empty() {
        let tenant = Tenant::new("team-7").unwrap();
        let other = caller("team-8", Tenants::Own, Role::Admin);
        let scope = allow_in(&other, Operation::GetTask, &tenant).unwrap();
        assert!(scope.listed().is_none() && scope.tenant().is_err());
        let own = caller("team-7", Tenants::Own, Role::Read);
        let own = allow_in(&own, Operation::GetTask, &tenant).unwrap();
        assert!(own.listed().is_some() && own.tenant().is_ok());
    }
}
