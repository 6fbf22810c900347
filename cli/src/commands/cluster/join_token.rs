//! `stint cluster join-token`: tokens with which nodes join.

use std::time::Duration;

use clap::{Args, Subcommand};
use stint_sdk::api::{JoinToken, JoinTokenRevoked, ListedJoinToken};
use stint_sdk::units;

use crate::Done;
use crate::commands::Context;
use crate::output::{Format, talk};
use crate::table::{Cell, Table, Tone};
use crate::view::now_ms;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct JoinTokenArgs {
    #[command(subcommand)]
    pub command: Option<JoinTokenCommand>,
    /// How many nodes may join with the token [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// How long the token can be used; a week at most
    #[arg(long, alias = "valid", value_name = "DURATION", default_value = "1h", value_parser = units::parse_duration)]
    pub ttl: Duration,
}

#[derive(Subcommand, Debug)]
pub enum JoinTokenCommand {
    /// List the tokens that are valid: never what a token is, which is shown once
    Ls,
    /// Revoke a token: nobody joins with it any more, and who did stays
    Rm(RmArgs),
}

#[derive(Args, Debug)]
pub struct RmArgs {
    /// The id that ls shows, or how it begins
    pub id: String,
}

pub async fn run(context: Context, args: JoinTokenArgs) -> Done {
    match args.command {
        None => make(context, args).await,
        Some(JoinTokenCommand::Ls) => list(context).await,
        Some(JoinTokenCommand::Rm(args)) => revoke(context, args).await,
    }
}

async fn make(context: Context, args: JoinTokenArgs) -> Done {
    let made = context.client.create_join_token(args.ttl, args.uses.unwrap_or_default()).await?;
    let made = JoinToken::from(made);
    context.output.show(&made, [made.token.clone()], || made.token.as_str())?;
    if context.output.format == Format::Table {
        let left = units::show_duration(made.expires_at_ms.saturating_sub(now_ms()));
        let nodes = match made.uses {
            Some(1) => "one node".to_owned(),
            Some(uses) => format!("{uses} nodes"),
            None => "any number of nodes, until every peer is upgraded".to_owned(),
        };
        let start = "stint node --join HOST:7001 --token-file FILE";
        talk(&format!(
            "for {nodes}, valid for {left}; on the new machine, from a file that only its owner can read: {start}"
        ));
    }
    Ok(0)
}

async fn list(context: Context) -> Done {
    let tokens: Vec<ListedJoinToken> =
        context.client.list_join_tokens().await?.into_iter().map(ListedJoinToken::from).collect();
    let ids: Vec<String> = tokens.iter().map(|token| token.id.clone()).collect();
    context.output.show(&tokens, ids, || table(&tokens, now_ms()))?;
    Ok(0)
}

async fn revoke(context: Context, args: RmArgs) -> Done {
    let revoked = context.client.revoke_join_token(&args.id).await?;
    let document = JoinTokenRevoked { revoked };
    let id = document.revoked.clone();
    context.output.show(&document, [id.clone()], || format!("{id} revoked"))?;
    Ok(0)
}

fn table(tokens: &[ListedJoinToken], now_ms: u64) -> Table {
    let mut table = Table::new(&["ID", "USES LEFT", "EXPIRES IN", "USED BY"]);
    for token in tokens {
        let left = match (token.uses_left, token.uses) {
            (Some(left), Some(uses)) => Cell::from(format!("{left} of {uses}")),
            _ => Cell::new("any number", Tone::Busy),
        };
        let seconds = token.expires_at_ms.saturating_sub(now_ms) / 1_000;
        table.row(vec![
            token.id.as_str().into(),
            left,
            units::show_duration(seconds * 1_000).into(),
            token.used_by.join(", ").into(),
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
        let token = |id: &str, uses: Option<u32>, used_by: &[&str]| ListedJoinToken {
            expires_at_ms: 3_600_000,
            id: id.into(),
            used_by: used_by.iter().map(|name| name.to_string()).collect(),
            uses,
            uses_left: uses.map(|uses| uses - used_by.len() as u32),
        };
        let tokens = [token("00a1b2c3d4e5", Some(3), &["gpu-2", "gpu-3"]), token("77ff00112233", None, &[])];
        let expected = "\
ID            USES LEFT   EXPIRES IN  USED BY
00a1b2c3d4e5  1 of 3      59m         gpu-2, gpu-3
77ff00112233  any number  59m         -
";
        assert_eq!(Text::from(table(&tokens, 60_000)).render(false), expected);
    }
}
