//! `stint tenant`: tenants and their rules, listed, shown, changed and removed.

use clap::{Args, Subcommand};
use stint_protocol::{ImageList, limits};
use stint_sdk::api::{ListedTenant, Settings};
use stint_sdk::v1::UpdateSettingsRequest;

use super::Context;
use super::cluster::settings::{Changes, ShowArgs, tell, update};
use crate::Done;
use crate::table::{Cell, Table};
use crate::text::Text;
use crate::view::{history, images_of, tenants};

const EXAMPLES: &str = "\
Examples:
  stint tenant ls                                    the tenants that have anything, and how much
  stint tenant rm team-7                             it has nothing in use any more: forget its rules
  stint tenant show                                  the tenants that have rules of their own
  stint tenant set team-7 --max-priority 80          its tasks may have a priority of up to 80 from now on
  stint tenant set team-7 --weight 3                 it is due three times as much as a tenant of weight 1
  stint tenant set team-7 --images 'busybox,stint://tool'    its tasks may use these images and no others
  stint tenant set team-7 --dedicated                its tasks run on nodes that are for it alone
  stint tenant set team-7 --images any               its tasks may use any image again";

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
    /// List the tenants that have anything: rules of their own, tasks, images, tokens
    Ls,
    /// Remove a tenant that has no unfinished tasks, images or tokens: its rules are forgotten, its user number stays its own
    Rm(RmArgs),
    /// Change the rules of a tenant; tasks that were accepted keep their priority
    Set(SetTenantArgs),
}

#[derive(Args, Debug)]
pub struct RmArgs {
    /// Its name
    #[arg(value_name = "TENANT")]
    pub name: String,
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
    /// The images that its tasks may use: patterns of Docker references, of registered images (stint://NAME) or of paths; any: all
    /// [at first: any]
    #[arg(long, value_name = "PATTERN,…")]
    pub images: Option<ImageList>,
    /// It shares its nodes with nobody: its tasks run on nodes whose executor.tenants names it alone; --dedicated=false: it shares
    /// again [at first: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub dedicated: Option<bool>,
}

pub async fn run(context: Context, args: TenantArgs) -> Done {
    match args.command {
        TenantCommand::Show(args) => {
            let name = args.name.unwrap_or_default();
            let settings = Settings::from(context.client.get_settings_of_tenant(&name).await?);
            show(&context, of_tenant(settings, &name), name.is_empty(), args.show.history)
        }
        TenantCommand::Ls => list(&context).await,
        TenantCommand::Rm(args) => {
            let removed = ListedTenant::from(context.client.remove_tenant(&args.name).await?);
            let name = removed.tenant.clone();
            context.output.show(&removed, [name.clone()], || format!("{name} removed"))?;
            Ok(0)
        }
        TenantCommand::Set(args) => {
            let SetTenantArgs { name, rules, if_revision } = args;
            let most = rules.max_priority.map(|most| ("max_priority".to_owned(), most.to_string()));
            let weight = rules.weight.map(|weight| ("weight".to_owned(), weight.to_string()));
            let images = rules.images.map(|images| ("images".to_owned(), images.to_string()));
            let dedicated = rules.dedicated.map(|dedicated| ("dedicated".to_owned(), dedicated.to_string()));
            let values = most.into_iter().chain(weight).chain(images).chain(dedicated).collect();
            let changes = Changes { values, if_revision };
            let of = UpdateSettingsRequest { tenant: name.clone(), ..Default::default() };
            let (before, settings) = update(&context, of, changes).await?;
            let done = show(&context, of_tenant(settings.clone(), &name), false, false)?;
            tell(&context, before, &settings);
            Ok(done)
        }
    }
}

async fn list(context: &Context) -> Done {
    let tenants: Vec<ListedTenant> =
        context.client.list_tenants().await?.into_iter().map(ListedTenant::from).collect();
    let names: Vec<String> = tenants.iter().map(|listed| listed.tenant.clone()).collect();
    context.output.show(&tenants, names, || table(&tenants))?;
    Ok(0)
}

fn table(tenants: &[ListedTenant]) -> Table {
    let heads = [
        "TENANT",
        "UNFINISHED",
        "FINISHED",
        "IMAGES",
        "TOKENS",
        "MAX_PRIORITY",
        "WEIGHT",
        "UID",
        "DEDICATED",
        "ALLOWED_IMAGES",
    ];
    let mut table = Table::new(&heads);
    for listed in tenants {
        let counts =
            [listed.unfinished, listed.finished, listed.images, listed.tokens].map(|n| n.to_string());
        let rules = [listed.max_priority, listed.weight].map(|n| n.to_string());
        let uid = listed.uid.map_or_else(String::new, |uid| uid.to_string());
        let cells = [listed.tenant.clone()].into_iter().chain(counts).chain(rules).chain([
            uid,
            listed.dedicated.to_string(),
            images_of(&listed.allowed_images),
        ]);
        table.row(cells.map(Cell::from).collect());
    }
    table
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
