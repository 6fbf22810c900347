//! `stint result`: one document that says how a task stands or ended.

use clap::Args;
use serde_json::Value;
use stint_sdk::v1;

use super::Context;
use crate::Done;
use crate::failure::Failure;
use crate::output::print_json;

const EXAMPLES: &str = "\
The document is JSON, whatever --output says; docs/using/results.md has its keys.

Examples:
  stint result TASK | jq .error.kind
  stint result TASK | jq -r .logs.stdout_tail";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ResultArgs {
    /// Id or name
    pub task: String,
}

pub async fn run(context: Context, args: ResultArgs) -> Done {
    let request = v1::GetTaskRequest { tenant: context.tenant.clone(), task: args.task };
    let json = context.client.get_result(request).await?;
    let broken = |e: serde_json::Error| Failure::Failed(format!("the peer's document cannot be read: {e}"));
    let document: Value = serde_json::from_str(&json).map_err(broken)?;
    print_json(&format!("{document:#}\n"))?;
    Ok(0)
}
