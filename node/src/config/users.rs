//! The users of this machine who may call, with the tenant and the role of each, and as whom their tasks run.

use std::collections::BTreeMap;

use stint_protocol::{Role, Tenant};
use stint_sdk::suggest;
use toml::{Table, Value};

use super::ExecutorConfig;
use super::formats::Misfit;
use super::texts::{CustomFormat, show_text, text, texts};

/// What a user of this machine may do, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRule {
    pub tenant: Tenant,
    pub role: Role,
}

/// A user or a group of this machine, as its operator writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    Number(u32),
    Name(String),
}

/// By user.
pub type Users = BTreeMap<String, UserRule>;

pub const USERS_TABLE: CustomFormat<Users> =
    CustomFormat { kind: "table by user name or uid", read: users, show: show_users };
pub const GROUP: CustomFormat<String> =
    CustomFormat { kind: "name or gid", read: |value| group(value), show: show_text };
pub const TENANT: CustomFormat<Tenant> = CustomFormat {
    kind: "tenant",
    read: |value| Tenant::new(&text(value)?).map_err(|e| e.to_string().into()),
    show: |tenant| Some(tenant.as_str().into()),
};

/// As whom programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The user of the task's tenant.
    Tenant,
    /// The user of the machine who submitted it.
    User,
}

impl RunAs {
    pub const ALL: [RunAs; 2] = [RunAs::Tenant, RunAs::User];

    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            RunAs::Tenant => "tenant",
            RunAs::User => "user",
        }
    }
}

impl ExecutorConfig {
    /// From which number of a user on tasks run as the users who submit them; none: they run as those of their tenants.
    pub fn runs_as_users(&self) -> Option<u32> {
        (self.run_as == RunAs::User).then_some(self.run_as_min_uid)
    }
}

const KEYS: [&str; 2] = ["tenant", "role"];
const EXAMPLE: &str = "write alice = { tenant = \"physics\", role = \"submit\" }";

impl Account {
    /// Digits are a number, as no name consists of digits alone.
    pub fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(number) => Self::Number(number),
            Err(_) => Self::Name(text.into()),
        }
    }
}

fn group(value: &Value) -> Result<String, Misfit> {
    let name = match value {
        Value::Integer(number) => number.to_string(),
        other => text(other)?,
    };
    check_account(&name)?;
    Ok(name)
}

/// What stands in `/etc/passwd` and `/etc/group`.
fn check_account(name: &str) -> Result<(), Misfit> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    match !name.starts_with('-') && name.chars().all(fits) {
        true => Ok(()),
        false => Err(format!("{name:?} is neither a name nor a number of this machine's").into()),
    }
}

/// As a variable: `alice=physics:submit,bob=chem:read`.
fn users(value: &Value) -> Result<Users, Misfit> {
    match value {
        Value::Table(table) => table.iter().map(|(name, value)| user(name, value)).collect(),
        Value::String(_) => texts(value)?.iter().map(|text| written(text)).collect(),
        _ => Err(format!("{value} is not a table of users: {EXAMPLE}").into()),
    }
}

fn user(name: &str, value: &Value) -> Result<(String, UserRule), Misfit> {
    let wrong = || format!("{name} = {value} is no user: {EXAMPLE}");
    let table = value.as_table().ok_or_else(wrong)?;
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        Err(format!("{name}: unknown key {unknown:?}{}", suggest::hint(unknown, KEYS)))?;
    }
    let word = |key: &str| table.get(key).and_then(Value::as_str).ok_or_else(wrong);
    rule(name, word("tenant")?, word("role")?)
}

fn written(text: &str) -> Result<(String, UserRule), Misfit> {
    let parts = text.split_once('=').and_then(|(name, rule)| Some((name, rule.split_once(':')?)));
    let (name, (tenant, role)) = parts.ok_or_else(|| format!("{text:?} is not USER=TENANT:ROLE"))?;
    rule(name, tenant, role)
}

fn rule(name: &str, tenant: &str, role: &str) -> Result<(String, UserRule), Misfit> {
    check_account(name)?;
    if name == "root" || name.parse() == Ok(0) {
        Err("root may do everything, and needs no line: leave it out")?;
    }
    let tenant = Tenant::new(tenant).map_err(|e| format!("{name}: {e}"))?;
    Ok((name.into(), UserRule { tenant, role: role.parse()? }))
}

fn show_users(users: &Users) -> Option<Value> {
    let shown = |rule: &UserRule| {
        let pairs = [("tenant", rule.tenant.as_str()), ("role", rule.role.as_str())];
        Value::Table(pairs.map(|(key, word)| (key.to_owned(), word.into())).into_iter().collect())
    };
    let table: Table = users.iter().map(|(name, rule)| (name.clone(), shown(rule))).collect();
    Some(Value::Table(table))
}

#[cfg(test)]
mod tests {
    use stint_protocol::Role;

    use crate::config::testing::{from_file, load, refusals};

    #[test]
    fn users_are_read_from_tables_and_variables() {
        let text = "[api]\ngroup = \"stint\"\n[api.users]\nalice = { tenant = \"physics\", role = \"submit\" }\n\
                    1001 = { tenant = \"chem\", role = \"operator\" }\n";
        let api = from_file(text).api;
        assert_eq!(api.group.as_deref(), Some("stint"));
        assert_eq!(api.users["alice"].tenant.as_str(), "physics");
        assert_eq!(api.users["1001"].role, Role::Operator);
        let env =
            [("STINT_API_USERS", "alice=physics:submit,1001=chem:operator"), ("STINT_API_GROUP", "stint")];
        assert_eq!(load("", &env, &[]).0.unwrap().api, api);
        assert_eq!(from_file("").api.group, None);
    }

    #[test]
    fn what_is_no_user_is_refused_with_what_to_write() {
        for (line, said) in [
            ("alice = \"physics\"", "write alice = { tenant"),
            ("alice = { tenant = \"physics\" }", "write alice = { tenant"),
            ("alice = { tenant = \"Physics\", role = \"read\" }", "a tenant has 1 to 63"),
            ("alice = { tenant = \"p\", role = \"write\" }", "read, submit, operator, admin"),
            ("alice = { tenant = \"p\", rloe = \"read\" }", "did you mean \"role\""),
            ("0 = { tenant = \"p\", role = \"read\" }", "root may do everything"),
            ("\"a b\" = { tenant = \"p\", role = \"read\" }", "neither a name nor a number"),
        ] {
            let message = refusals(&format!("[api]\ngroup = 7\n[api.users]\n{line}\n"), &[], &[]);
            assert!(message.contains("api.users") && message.contains(said), "{line}: {message}");
        }
    }
}
