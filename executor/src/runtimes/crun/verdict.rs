//! Why crun did not start a container, in crun's words.

use stint_protocol::EndKind;
use stint_protocol::limits::clip;

use super::bundle;
use crate::refusal::blame;
use crate::runtimes::watchdog_side::Failed;
use crate::shim_api::inside::{INIT, INIT_FILE};
use crate::sys::spawn::Step;

/// None: it failed at something else than crun.
pub fn not_started(failed: &Failed<'_>) -> Option<(EndKind, String)> {
    let Failed { layout, request, step, number } = *failed;
    if !matches!(step, Step::CrunCreate | Step::CrunStart | Step::CrunUnknown) {
        return None;
    }
    let text = std::fs::read_to_string(bundle::log_file(layout, request.lease)).unwrap_or_default();
    let said: Vec<&str> = text.lines().filter_map(message_of_log_line).collect();
    let message = said.join("; ");
    // Not the program: what crun executes is ours, and tells why it cannot execute that.
    let users_fault = ["invalid rootfs", "rootfs"].iter().any(|part| message.to_lowercase().contains(part))
        || request.working_dir.as_deref().is_some_and(|wanted| message.contains(&format!("`{wanted}`")))
        || request.mounts.iter().any(|mount| names(&message, &mount.target));
    let kind = if step == Step::CrunUnknown {
        EndKind::Lost
    } else if [INIT, INIT_FILE].iter().any(|ours| message.contains(ours)) {
        EndKind::StartFailed
    } else if users_fault {
        EndKind::NotRunnable
    } else {
        blame(&message)
    };
    let shown = if message.is_empty() { format!("exit status {number}") } else { message };
    Some((kind, clip(format!("{}: {shown}", step.as_str()))))
}

/// Whether crun speaks of a place in the container: it quotes it, mostly without the slash that it begins with.
fn names(message: &str, place: &str) -> bool {
    let bare = place.trim_start_matches('/');
    [place, bare].iter().any(|place| message.contains(&format!("`{place}`")))
}

/// The message of a line as crun logs it: `2026-01-02T03:04:05.678901Z: message`.
fn message_of_log_line(line: &str) -> Option<&str> {
    let line = line.trim();
    let message = line.split_once("Z: ").map_or(line, |(_, message)| message);
    (!message.is_empty()).then_some(message)
}
