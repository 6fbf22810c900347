//! `stint tenant`: the rules of tenants, shown and changed.

use clap::{Args, Subcommand};
use stint_protocol::limits;
use stint_sdk::api::Settings;
use stint_sdk::v1::UpdateSettingsRequest;

use super::Context;
use super::cluster::settings::{Changes, ShowArgs, tell, update};
use crate::Done;
use crate::text::Text;
use crate::view::{history, tenants};

const EXAMPLES: &str = "\
Examples:
  stint tenant show                                  the tenants that have rules of their own
  stint tenant set team-7 --max-priority 80          its tasks may have a priority of up to 80 from now on
  stint tenant set team-7 --weight 3                 it is due three times as much as a tenant of weight 1";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TenantArgs {
    #[command(subcommand)]
    pub command: TenantCommand,
}

#[derive(Subcommand, Debug)]
pub enum TenantCommand {
    /// Show the rules of one tenant, or of all that have rules of their own
    Show(ShowTenantArgs),
    /// Change the rules of a tenant; tasks that were accepted keep their priority
    Set(SetTenantArgs),
}

#[derive(Args, Debug)]
pub struct ShowTenantArgs {
    /// Its name [default: all that have rules of their own]
    #[arg(value_name = "TENANT")]
    pub name: Option<String>,
    #[command(flatten)]
    pub show: ShowArgs,
}

#[derive(Args, Debug)]
pub struct SetTenantArgs {
    /// Its name; it need not have tasks yet
    #[arg(value_name = "TENANT")]
    pub name: String,
    #[command(flatten)]
    pub rules: Rules,
    /// Only if the settings still have this revision
    #[arg(long, value_name = "REVISION")]
    pub if_revision: Option<u64>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Rules {
    /// The highest priority that its tasks may have, 0 to 100 [at first: 50; tenant default: 100]
    #[arg(long, value_name = "PRIORITY", value_parser = clap::value_parser!(u8).range(..=i64::from(limits::MAX_PRIORITY)))]
    pub max_priority: Option<u8>,
    /// How many times the share of a tenant of weight 1 it is due at the same priority, 1 to 10000 [at first: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::TENANT_WEIGHT)))]
    pub weight: Option<u32>,
}

pub async fn run(context: Context, args: TenantArgs) -> Done {
    match args.command {
        TenantCommand::Show(args) => {
            let name = args.name.unwrap_or_default();
            let settings = Settings::from(context.client.get_settings_of_tenant(&name).await?);
            show(&context, of_tenant(settings, &name), name.is_empty(), args.show.history)
        }
        TenantCommand::Set(args) => {
            let SetTenantArgs { name, rules, if_revision } = args;
            let most = rules.max_priority.map(|most| ("max_priority".to_owned(), most.to_string()));
            let weight = rules.weight.map(|weight| ("weight".to_owned(), weight.to_string()));
            let changes = Changes { values: most.into_iter().chain(weight).collect(), if_revision };
            let of = UpdateSettingsRequest { tenant: name.clone(), ..Default::default() };
            let (before, settings) = update(&context, of, changes).await?;
            let done = show(&context, of_tenant(settings.clone(), &name), false, false)?;
            tell(&context, before, &settings);
            Ok(done)
        }
    }
}

/// The settings with the rules of this tenant alone; of all when it has no name.
fn of_tenant(mut settings: Settings, name: &str) -> Settings {
    settings.tenants.retain(|rules| name.is_empty() || rules.tenant == name);
    settings
}

/// `all`: with a line for the tenants that have no rules of their own.
fn show(context: &Context, settings: Settings, all: bool, with_history: bool) -> Done {
    let revision = settings.revision.to_string();
    context.output.show(&settings, [revision], || {
        let rules = Text::from(tenants(&settings, all));
        match with_history {
            true => rules.and("").and(history(&settings.changes, |key| key.starts_with("tenants."))),
            false => rules,
        }
    })?;
    Ok(0)
}
