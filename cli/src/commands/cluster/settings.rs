//! `stint cluster show` and `set`: the settings of the cluster as a whole; and what they share with those of classes.

use std::collections::HashMap;

use clap::Args;
use stint_sdk::api::Settings;
use stint_sdk::v1;

use crate::Done;
use crate::commands::Context;
use crate::failure::Failure;
use crate::output::{Format, talk};
use crate::text::Text;
use crate::view::{cluster_settings, history};

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Also who changed what, and when
    #[arg(long)]
    pub history: bool,
}

#[derive(Args, Debug)]
pub struct Changes {
    /// What to change, with its new value
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub values: Vec<(String, String)>,
    /// Only if the settings still have this revision
    #[arg(long, value_name = "REVISION")]
    pub if_revision: Option<u64>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as max_gpus=4")?;
    Ok((key.trim().into(), value.trim().into()))
}

pub async fn show(context: Context, args: ShowArgs) -> Done {
    let settings = Settings::from(context.client.get_settings().await?);
    print(&context, &settings, args.history)
}

pub async fn set(context: Context, changes: Changes) -> Done {
    let (before, settings) = update(&context, v1::UpdateSettingsRequest::default(), changes).await?;
    let done = print(&context, &settings, false)?;
    tell(&context, before, &settings);
    Ok(done)
}

/// Has settings changed, of a class or tenant where `of` names one: their revision before, and all of them after it.
pub async fn update(
    context: &Context,
    of: v1::UpdateSettingsRequest,
    changes: Changes,
) -> Result<(u64, Settings), Failure> {
    let Changes { values, if_revision } = changes;
    let mut by_key = HashMap::new();
    for (key, value) in values {
        if by_key.insert(key.clone(), value).is_some() {
            return Err(Failure::Usage(format!("{key} is given twice: keep one")));
        }
    }
    let before = context.client.get_settings().await?.revision;
    let request = v1::UpdateSettingsRequest { values: by_key, if_revision, ..of };
    Ok((before, context.client.update_settings(request).await?.into()))
}

/// Says what a change came to.
pub fn tell(context: &Context, before: u64, after: &Settings) {
    if context.output.format == Format::Table {
        talk(&match after.revision {
            revision if revision > before => format!("changed; the settings have revision {revision} now"),
            revision => format!("nothing to change; the settings keep revision {revision}"),
        });
    }
}

fn print(context: &Context, settings: &Settings, with_history: bool) -> Done {
    context.output.show(settings, [settings.revision.to_string()], || {
        let facts = Text::from(cluster_settings(settings));
        match with_history {
            true => facts.and("").and(history(&settings.changes, |_| true)),
            false => facts,
        }
    })?;
    Ok(0)
}
