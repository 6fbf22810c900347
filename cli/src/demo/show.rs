//! What the demo says.

use super::peers::Cluster;
use crate::failure::Failure;
use crate::output::{Format, Output, print_text};
use crate::text::Text;

/// A step of the story.
pub fn step(text: &str) -> Result<(), Failure> {
    let text = Text::from("").and_title(&format!("==> {text}"));
    Ok(print_text(text, Output::new(Format::Table).color)?)
}

/// A fact.
pub fn line(text: &str) -> Result<(), Failure> {
    Ok(print_text(format!("    {text}"), false)?)
}

/// The commands to try next.
pub fn what_next(cluster: &Cluster) -> Result<(), Failure> {
    step("Try next (in another terminal)")?;
    let program = std::env::current_exe().map_or_else(|_| "stint".into(), |p| p.display().to_string());
    line(&format!("export STINT_ADDRESS={}", cluster.addresses()))?;
    line(&format!("alias stint={program}"))?;
    for command in [
        "stint nodes",
        "stint run --class cpu_short -- echo hello from anywhere",
        "stint submit --class cpu_short --count 20 -- sleep 2",
        "stint ps",
        "stint explain $(stint submit --class cpu_short --constraint zone=moon -- true)",
        "stint cluster status",
    ] {
        line(command)?;
    }
    line(&format!("kill -9 {}    # a peer: watch `stint nodes`", cluster.some_pid()))
}
