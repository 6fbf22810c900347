//! `stint whoami`: who calls, as the peer that answers sees it.

use stint_sdk::api::Caller;

use super::Context;
use crate::Done;
use crate::table::Table;

pub async fn run(context: Context) -> Done {
    let caller = Caller::from(context.client.who_am_i().await?);
    context.output.show(&caller, [caller.tenant.clone()], || facts(&caller))?;
    Ok(0)
}

fn facts(caller: &Caller) -> Table {
    let mut facts = Table::pairs();
    facts
        .pair("tenant", caller.tenant.as_str())
        .pair("role", caller.role.as_str())
        .pair("reaches", if caller.all_tenants { "all tenants" } else { "its own tenant" })
        .pair("proven by", proof(caller));
    facts
}

fn proof(caller: &Caller) -> String {
    match (caller.proof.as_str(), caller.uid, &caller.token_id) {
        ("local_socket", ..) => "the peer's own socket".into(),
        ("local_user", Some(uid), _) => format!("user {uid} of this machine"),
        ("admin_certificate", ..) => "an administrator's certificate".into(),
        ("token", _, Some(id)) => format!("token {id}"),
        (other, ..) => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_for_people() {
        let alice = Caller {
            tenant: "physics".into(),
            role: "submit".into(),
            all_tenants: false,
            proof: "local_user".into(),
            uid: Some(1000),
            token_id: None,
        };
        let expected = "\
tenant     physics
role       submit
reaches    its own tenant
proven by  user 1000 of this machine
";
        assert_eq!(crate::text::Text::from(facts(&alice)).render(false), expected);
    }
}
