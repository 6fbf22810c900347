//! Who calls: for which tenants it may act, in which role, and how it was proven.

use std::net::SocketAddr;

use stint_protocol::{Role, Tenant, api};

/// A caller, as the door that it came through knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its own: the one of a request that names none.
    pub tenant: Tenant,
    pub tenants: Tenants,
    pub role: Role,
    pub proof: Proof,
    /// The machine that it calls from; none: this one.
    pub from: Option<SocketAddr>,
    /// The user of this machine that its tasks run as, as the kernel says; none: that of their tenant.
    pub runs_as: Option<u32>,
}

/// The tenants that a caller may act for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// Its own, and others as far as its role goes.
    All,
    /// Its own alone, whatever its role is.
    Own,
}

/// How a caller proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It could open the peer's own unix socket, which only the peer's user can.
    LocalSocket,
    /// The kernel says as which user of this machine it opened the socket of a group.
    LocalUser { uid: u32 },
    /// It holds the administrator's certificate of the cluster's authority.
    AdminCertificate,
    /// It shows the secret of an access token, which has this id.
    Token { id: String },
}

impl Principal {
    /// Who may do everything.
    pub fn administrator(proof: Proof) -> Self {
        Self {
            tenant: Tenant::default_tenant(),
            tenants: Tenants::All,
            role: Role::Admin,
            proof,
            from: None,
            runs_as: None,
        }
    }

    /// Whether it may do for a tenant what for another's takes this role.
    pub fn acts_for(&self, tenant: &Tenant, for_others: Role) -> bool {
        *tenant == self.tenant || (self.tenants == Tenants::All && self.role >= for_others)
    }

    /// Whether it may look at what a tenant has.
    pub fn sees(&self, tenant: &Tenant) -> bool {
        self.acts_for(tenant, Role::Operator)
    }

    /// As it is told itself.
    pub fn document(&self) -> api::Caller {
        let uid = match self.proof {
            Proof::LocalUser { uid } => Some(uid),
            Proof::LocalSocket | Proof::AdminCertificate | Proof::Token { .. } => None,
        };
        let token_id = match &self.proof {
            Proof::Token { id } => Some(id.clone()),
            _ => None,
        };
        api::Caller {
            tenant: self.tenant.to_string(),
            role: self.role.as_str().into(),
            all_tenants: self.tenants == Tenants::All && self.role >= Role::Operator,
            proof: self.proof.as_str().into(),
            uid,
            token_id,
        }
    }
}

impl Proof {
    /// The word that is kept of it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Proof::LocalSocket => "local_socket",
            Proof::LocalUser { .. } => "local_user",
            Proof::AdminCertificate => "admin_certificate",
            Proof::Token { .. } => "token",
        }
    }

    /// With which user or token it was.
    pub fn describe(&self) -> String {
        match self {
            Proof::LocalUser { uid } => format!("{} {uid}", self.as_str()),
            Proof::Token { id } => format!("{} {id}", self.as_str()),
            Proof::LocalSocket | Proof::AdminCertificate => self.as_str().into(),
        }
    }
}
