//! `stint token`: tokens with which clients call without a certificate.

use std::time::Duration;

use clap::{Args, Subcommand};
use stint_protocol::Role;
use stint_sdk::api::{ListedToken, Token, TokenRevoked};
use stint_sdk::{units, v1};

use super::Context;
use crate::Done;
use crate::output::{Format, talk};
use crate::table::Table;
use crate::view::now_ms;

const EXAMPLES: &str = "\
Examples:
  (umask 077; stint token create --tenant physics --role submit -o quiet >physics.token)
  stint token create --role operator --ttl 7d        for all tenants: shown once
  stint token ls                                     who may call until when
  stint token rm 00a1b2c3                            nobody calls with it any more

A client gives --address https://HOST:7002, --ca with the ca.pem of a peer's credentials folder, and --token-file.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub command: TokenCommand,
}

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token, which is printed once; --tenant says for which tenant
    Create(CreateArgs),
    /// List the tokens that are valid: never what a token is
    Ls,
    /// Revoke a token: nobody calls with it any more
    Rm(RmArgs),
}

#[derive(Args, Debug)]
pub struct CreateArgs {
    /// What it may do: read, submit, operator, admin. Without --tenant an operator's acts for all tenants, an admin's always
    #[arg(long)]
    pub role: Role,
    /// How long it can be used; 366 days at most
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = units::parse_duration)]
    pub ttl: Duration,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub comment: String,
}

#[derive(Args, Debug)]
pub struct RmArgs {
    /// The id that ls shows, or how it begins
    pub id: String,
}

pub async fn run(context: Context, args: TokenArgs) -> Done {
    match args.command {
        TokenCommand::Create(args) => create(context, args).await,
        TokenCommand::Ls => list(context).await,
        TokenCommand::Rm(args) => revoke(context, args).await,
    }
}

async fn create(context: Context, args: CreateArgs) -> Done {
    let CreateArgs { role, ttl, comment } = args;
    let (role, tenant, valid_ms) =
        (role.to_string(), context.tenant.clone(), (ttl.as_millis() as u64).max(1));
    let request = v1::CreateTokenRequest { tenant, role, valid_ms, comment };
    let made = Token::from(context.client.create_token(request).await?);
    context.output.show(&made, [made.token.clone()], || made.token.as_str())?;
    if context.output.format == Format::Table {
        let left = units::show_duration(made.expires_at_ms.saturating_sub(now_ms()));
        let of = made.tenant.as_deref().unwrap_or("all tenants");
        talk(&format!(
            "token {} for {of}, role {}, valid for {left}: keep it now, it is not shown again",
            made.id, made.role
        ));
    }
    Ok(0)
}

async fn list(context: Context) -> Done {
    let tokens: Vec<ListedToken> =
        context.client.list_tokens().await?.into_iter().map(ListedToken::from).collect();
    let ids: Vec<String> = tokens.iter().map(|token| token.id.clone()).collect();
    context.output.show(&tokens, ids, || table(&tokens, now_ms()))?;
    Ok(0)
}

async fn revoke(context: Context, args: RmArgs) -> Done {
    let document = TokenRevoked { revoked: context.client.revoke_token(&args.id).await? };
    let id = document.revoked.clone();
    context.output.show(&document, [id.clone()], || format!("{id} revoked"))?;
    Ok(0)
}

fn table(tokens: &[ListedToken], now_ms: u64) -> Table {
    let mut table = Table::new(&["ID", "TENANT", "ROLE", "EXPIRES IN", "CREATED BY", "COMMENT"]);
    for token in tokens {
        let seconds = token.expires_at_ms.saturating_sub(now_ms) / 1_000;
        table.row(vec![
            token.id.as_str().into(),
            token.tenant.as_deref().unwrap_or("(all)").into(),
            token.role.as_str().into(),
            units::show_duration(seconds * 1_000).into(),
            token.created_by.as_str().into(),
            token.comment.as_str().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    #[test]
    fn the_tokens_for_people() {
        let token = |id: &str, tenant: Option<&str>, comment: &str| ListedToken {
            comment: comment.into(),
            created_at_ms: 0,
            created_by: "admin (local_socket)".into(),
            expires_at_ms: 3_600_000,
            id: id.into(),
            role: "operator".into(),
            tenant: tenant.map(String::from),
        };
        let tokens = [token("00a1b2c3d4e5", Some("physics"), "nightly"), token("77ff00112233", None, "")];
        let expected = "\
ID            TENANT   ROLE      EXPIRES IN  CREATED BY            COMMENT
00a1b2c3d4e5  physics  operator  59m         admin (local_socket)  nightly
77ff00112233  (all)    operator  59m         admin (local_socket)  -
";
        assert_eq!(Text::from(table(&tokens, 60_000)).render(false), expected);
    }
}
