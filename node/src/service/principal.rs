//! Who calls: for which tenants it may act, in which role, and how it was proven.

use std::collections::BTreeSet;
use std::fmt;

use stint_protocol::Tenant;

/// A caller, as the door that it came through knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub tenants: Tenants,
    pub role: Role,
    pub proof: Proof,
}

/// The tenants that a caller may act for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    All,
    Only(BTreeSet<Tenant>),
}

/// What a caller may do; each role may do all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks at tasks, images, nodes and the cluster.
    Read,
    /// Submits and cancels tasks, registers and deletes images.
    Submit,
    /// Takes nodes out of work and back, and moves the lead.
    Operator,
    /// Decides who belongs to the cluster, and changes its settings.
    Admin,
}

/// How a caller proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It could open the peer's unix socket, which only the peer's own user can.
    LocalSocket,
    /// It holds the administrator's certificate of the cluster's authority.
    AdminCertificate,
}

impl Principal {
    /// Who may do everything.
    pub fn administrator(proof: Proof) -> Self {
        Self { tenants: Tenants::All, role: Role::Admin, proof }
    }

    /// Whether it may act for a tenant.
    pub fn acts_for(&self, tenant: &Tenant) -> bool {
        match &self.tenants {
            Tenants::All => true,
            Tenants::Only(tenants) => tenants.contains(tenant),
        }
    }
}

impl Role {
    /// The name users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Submit => "submit",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl Proof {
    /// The word that is kept of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Proof::LocalSocket => "local_socket",
            Proof::AdminCertificate => "admin_certificate",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
