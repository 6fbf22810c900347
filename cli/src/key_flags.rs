//! Flags of `stint node` for the keys of the configuration that are set most often, made from the descriptions of the keys.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use stint_node::config::{KeyInfo, keys};

/// The flags that were given.
#[derive(Clone, Debug, Default)]
pub struct KeyFlags(pub Vec<KeyFlag>);

/// The value of a key, and the flag that gave it.
#[derive(Clone, Debug)]
pub struct KeyFlag {
    pub key: String,
    pub name: String,
    pub value: String,
}

/// Each key that has a flag, with the flag's name and what stands for its value.
fn with_flags() -> impl Iterator<Item = (KeyInfo, &'static str, &'static str)> {
    keys().into_iter().filter_map(|key| {
        let (name, value_name) = key.flag?.strip_prefix("--")?.split_once(' ')?;
        Some((key, name, value_name))
    })
}

impl Args for KeyFlags {
    fn augment_args(command: Command) -> Command {
        with_flags().fold(command, |command, (key, name, value_name)| {
            let default = key.default.replace('`', "");
            let help = format!("{} [default: {default}]", key.meaning.trim_end_matches('.').replace('`', ""));
            let arg = Arg::new(name).long(name).value_name(value_name).help(help);
            command.arg(arg.help_heading("Configuration"))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = with_flags().filter_map(|(key, name, _)| {
            let value = matches.get_one::<String>(name)?.clone();
            Some(KeyFlag { key: key.key, name: format!("--{name}"), value })
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = Self::from_arg_matches(matches)?.0;
        Ok(())
    }
}
