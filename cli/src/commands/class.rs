//! `stint class`: the rules of each class, shown and changed.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use stint_sdk::api::Settings;
use stint_sdk::v1::UpdateSettingsRequest;

use super::Context;
use super::cluster::settings::{Changes, ShowArgs, tell, update};
use crate::Done;
use crate::text::Text;
use crate::view::{classes, history};

const EXAMPLES: &str = "\
Examples:
  stint class show                                        the rules of all classes
  stint class set gpu max_gpus=4                          a task may ask for up to four GPUs from now on
  stint class set cpu_long max_timeout=1h default_timeout=30m
  stint class set gpu lease_ttl=30s --if-revision 7       only if nobody changed a setting meanwhile";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ClassArgs {
    #[command(subcommand)]
    pub command: ClassCommand,
}

#[derive(Subcommand, Debug)]
pub enum ClassCommand {
    /// Show the rules of one class, or of all
    Show(ShowClassArgs),
    /// Change rules of a class for tasks that are submitted from now on; leases change with the next renewal
    Set(SetClassArgs),
}

#[derive(Args, Debug)]
pub struct ShowClassArgs {
    /// cpu_short, cpu_long, gpu or gpu_slurm [default: all]
    #[arg(value_parser = class_words(), hide_possible_values = true)]
    pub class: Option<String>,
    #[command(flatten)]
    pub show: ShowArgs,
}

#[derive(Args, Debug)]
pub struct SetClassArgs {
    /// cpu_short, cpu_long, gpu or gpu_slurm
    #[arg(value_parser = class_words(), hide_possible_values = true)]
    pub class: String,
    #[command(flatten)]
    pub changes: Changes,
}

fn class_words() -> PossibleValuesParser {
    PossibleValuesParser::new(stint_protocol::Class::ALL.map(|class| class.as_str()))
}

pub async fn run(context: Context, args: ClassArgs) -> Done {
    match args.command {
        ClassCommand::Show(args) => {
            let settings = Settings::from(context.client.get_settings().await?);
            show(&context, of_class(settings, args.class.as_deref()), args.show.history)
        }
        ClassCommand::Set(args) => {
            let class = Some(args.class.as_str());
            let of = UpdateSettingsRequest { class: args.class.clone(), ..Default::default() };
            let (before, settings) = update(&context, of, args.changes).await?;
            let done = show(&context, of_class(settings.clone(), class), false)?;
            tell(&context, before, &settings);
            Ok(done)
        }
    }
}

/// The settings with the rules of this class alone.
fn of_class(mut settings: Settings, class: Option<&str>) -> Settings {
    settings.classes.retain(|rules| class.is_none_or(|class| rules.class == class));
    settings
}

fn show(context: &Context, settings: Settings, with_history: bool) -> Done {
    let revision = settings.revision.to_string();
    context.output.show(&settings, [revision], || {
        let rules = Text::from(classes(&settings));
        match with_history {
            true => rules.and("").and(history(&settings.changes, |key| key.starts_with("classes."))),
            false => rules,
        }
    })?;
    Ok(0)
}
