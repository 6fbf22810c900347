//! Users of this machine as callers: who is an administrator, which tenant and role the others have, and how names become
//! numbers.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use stint_protocol::{Role, Tenant};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::{Account, ApiConfig, UserRule};
use crate::service::{Principal, Proof, Tenants};

/// How long the machine's directory of users (LDAP and the like) may take for one name.
const LOOK_UP: Duration = Duration::from_secs(10);

/// The number that the kernel gives for users whom it cannot name here (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// What users of this machine may do, by number.
pub struct LocalUsers {
    /// The user that this peer runs as.
    own: u32,
    rules: BTreeMap<u32, UserRule>,
    others: Option<Role>,
    /// Of those who have no line; none: each has one of its own.
    tenant_of_others: Option<Tenant>,
    /// Tasks run as the users who submit them, from this number on; none: as those of their tenants.
    run_as: Option<u32>,
}

/// Who has no line, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "user {0} of this machine may open this socket, and has no role here: an administrator adds a line such as `{0} = {{ tenant = \
     \"default\", role = \"submit\" }}` to [api.users] in this peer's configuration, or sets api.default_role for all members of the \
     group, and restarts the peer"
)]
pub struct UnknownUser(pub u32);

impl LocalUsers {
    /// Looks the names up. A user that this machine does not know has no role, and the log says so: an account that was
    /// deleted must not keep a peer from starting.
    pub async fn from_config(config: &ApiConfig, run_as: Option<u32>) -> Self {
        let mut rules = BTreeMap::new();
        for (name, rule) in &config.users {
            match number(Directory::Users, name).await {
                Ok(Some(uid)) => {
                    if rules.insert(uid, rule.clone()).is_some() {
                        tracing::warn!(
                            user = name,
                            uid,
                            "api.users has two lines for one user: this one counts"
                        );
                    }
                }
                Ok(None) => {
                    tracing::warn!(user = name, "api.users names a user that this machine does not know")
                }
                Err(error) => tracing::warn!(user = name, %error, "a user of api.users cannot be looked up"),
            }
        }
        Self {
            own: rustix::process::geteuid().as_raw(),
            rules,
            others: config.default_role,
            tenant_of_others: config.default_tenant.clone(),
            run_as,
        }
    }

    /// What the user may do who opened the socket of the group.
    pub fn principal(&self, uid: u32) -> Result<Principal, UnknownUser> {
        let proof = Proof::LocalUser { uid };
        if uid == 0 || uid == self.own {
            return Ok(Principal::administrator(proof));
        }
        let (tenant, role) = match (self.rules.get(&uid), self.others) {
            (Some(rule), _) => (rule.tenant.clone(), rule.role),
            // As somebody of another user namespace shows: it may be anybody there.
            (None, Some(_)) if uid == NOBODY => return Err(UnknownUser(uid)),
            (None, Some(role)) => (self.tenant_of(uid), role),
            (None, None) => return Err(UnknownUser(uid)),
        };
        Ok(Principal { tenant, tenants: Tenants::All, role, proof, from: None, runs_as: self.runs_as(uid) })
    }

    /// Never root, nor who stands for anybody of another user namespace.
    fn runs_as(&self, uid: u32) -> Option<u32> {
        let least = self.run_as?;
        Some(uid).filter(|uid| *uid >= least && *uid != 0 && *uid != NOBODY)
    }

    fn tenant_of(&self, uid: u32) -> Tenant {
        let own = || Tenant::new(&format!("uid-{uid}")).unwrap_or_else(|_| Tenant::default_tenant());
        self.tenant_of_others.clone().unwrap_or_else(own)
    }
}

/// A list of names that this machine keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    Users,
    Groups,
}

impl Directory {
    fn file(self) -> &'static str {
        match self {
            Directory::Users => "/etc/passwd",
            Directory::Groups => "/etc/group",
        }
    }

    fn database(self) -> &'static str {
        match self {
            Directory::Users => "passwd",
            Directory::Groups => "group",
        }
    }
}

/// The number of a user or a group; none: the machine does not know it. First of the machine's own file, then of whatever else
/// it asks (`getent`).
pub async fn number(of: Directory, account: &str) -> io::Result<Option<u32>> {
    let name = match Account::parse(account) {
        Account::Number(number) => return Ok(Some(number)),
        Account::Name(name) => name,
    };
    let known = tokio::fs::read_to_string(Path::new(of.file())).await.unwrap_or_default();
    if let Some(number) = in_lines(&known, &name) {
        return Ok(Some(number));
    }
    let asked = Command::new("getent").args(["--", of.database(), &name]).kill_on_drop(true).output();
    match timeout(LOOK_UP, asked).await {
        Ok(Ok(answer)) => Ok(in_lines(&String::from_utf8_lossy(&answer.stdout), &name)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the machine's directory does not answer")),
    }
}

/// From lines `NAME:PASSWORD:NUMBER:…`.
fn in_lines(text: &str, name: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(others: Option<Role>, tenant: Option<&str>) -> LocalUsers {
        let rule = UserRule { tenant: Tenant::new("physics").unwrap(), role: Role::Submit };
        let tenant_of_others = tenant.map(|name| Tenant::new(name).unwrap());
        LocalUsers { own: 500, rules: [(1000, rule)].into(), others, tenant_of_others, run_as: None }
    }

    #[test]
    fn tasks_run_as_who_submits_them_where_the_operator_lets_them_and_never_as_a_user_of_the_system() {
        let of = |run_as, uid| {
            let known = LocalUsers { run_as, ..users(Some(Role::Submit), None) };
            known.principal(uid).ok().and_then(|caller| caller.runs_as)
        };
        assert_eq!([1000, 1001].map(|uid| of(Some(1000), uid)), [Some(1000), Some(1001)]);
        assert_eq!([0, 500, 33, NOBODY].map(|uid| of(Some(1000), uid)), [None; 4]);
        assert_eq!([0, 1000].map(|uid| of(Some(0), uid)), [None, Some(1000)]);
        assert_eq!((of(Some(1001), 1000), of(None, 1000)), (None, None));
    }

    #[test]
    fn root_and_the_peers_own_user_may_do_everything_and_others_what_their_line_says() {
        let known = users(None, None);
        for uid in [0, 500] {
            let caller = known.principal(uid).unwrap();
            assert_eq!((caller.role, caller.tenants), (Role::Admin, Tenants::All));
        }
        let alice = known.principal(1000).unwrap();
        assert_eq!((alice.tenant.as_str(), alice.role), ("physics", Role::Submit));
        let refused = known.principal(1001).unwrap_err().to_string();
        assert!(
            refused.contains("`1001 = { tenant = \"default\", role = \"submit\" }` to [api.users]"),
            "{refused}"
        );
    }

    #[test]
    fn who_has_no_line_gets_the_default_role_in_a_tenant_of_its_own() {
        let of = |tenant| users(Some(Role::Read), tenant).principal(1001).unwrap();
        assert_eq!((of(None).tenant.as_str(), of(None).role), ("uid-1001", Role::Read));
        assert_eq!(of(Some("lab")).tenant.as_str(), "lab");
        assert_eq!(users(Some(Role::Read), None).principal(NOBODY), Err(UnknownUser(NOBODY)));
    }

    #[tokio::test]
    async fn names_become_numbers() {
        let text = "root:x:0:\nstint:x:990:alice,bob\nbroken:x\n";
        assert_eq!(
            (in_lines(text, "stint"), in_lines(text, "stin"), in_lines(text, "broken")),
            (Some(990), None, None)
        );
        assert_eq!(number(Directory::Groups, "991").await.unwrap(), Some(991));
        assert_eq!(number(Directory::Users, "root").await.unwrap(), Some(0));
        assert_eq!(number(Directory::Users, "no-such-user-here").await.unwrap(), None);
    }
}
