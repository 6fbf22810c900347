//! The library of scenarios: a list with a sentence each, or one as TOML.

use crate::args::{ScenariosArgs, ScenariosCommand};
use crate::command::failure::{Failure, print};
use crate::command::library::{self, LIBRARY};
use crate::command::{Done, exit};

/// Lists or shows.
pub fn run(args: &ScenariosArgs) -> Done {
    match &args.command {
        None => print(&list()?)?,
        Some(ScenariosCommand::Show { name }) => print(library::text(name)?)?,
    }
    Ok(exit::FINE)
}

fn list() -> Result<String, Failure> {
    let width = library::names().map(str::len).max().unwrap_or(0);
    let mut text = String::new();
    for (name, toml) in LIBRARY {
        let table: toml::Table =
            toml.parse().map_err(|error| Failure::Usage(format!("{name} is not a scenario: {error}")))?;
        let about = table.get("about").and_then(toml::Value::as_str).unwrap_or_default();
        text += &format!("{name:<width$}  {about}\n");
    }
    Ok(text)
}
