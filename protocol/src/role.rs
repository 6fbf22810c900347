//! What callers may do: four roles, each with all that the ones before it have.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::class::UnknownWord;

/// What a caller may do; each role may do all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Looks at the tasks and images of its tenant, at nodes and the cluster.
    #[n(0)]
    Read,
    /// Submits and cancels tasks of its tenant, registers and deletes its images.
    #[n(1)]
    Submit,
    /// Looks at the tasks and images of all tenants, cancels any task, takes nodes out of work and back, moves the lead.
    #[n(2)]
    Operator,
    /// Acts for all tenants, decides who belongs to the cluster and who may what, and changes settings.
    #[n(3)]
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Role; 4] = [Role::Read, Role::Submit, Role::Operator, Role::Admin];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Submit => "submit",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = Role::ALL.into_iter().find(|role| role.as_str() == word);
        known.ok_or_else(|| UnknownWord::new("role", word, "read, submit, operator, admin"))
    }
}
