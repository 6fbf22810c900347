//! What the demo says.

use std::io::IsTerminal as _;

use super::peers::Cluster;
use crate::failure::Failure;
use crate::output::print;

/// A step of the story.
pub fn step(text: &str) -> Result<(), Failure> {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let bold = wanted && std::io::stdout().is_terminal();
    let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    Ok(print(&format!("\n{on}==> {text}{off}\n"))?)
}

/// A fact.
pub fn line(text: &str) -> Result<(), Failure> {
    Ok(print(&format!("    {text}\n"))?)
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
