//! Programs without a container, as the watchdog starts them: with a session and a process group of their own and no more, or
//! in namespaces and shut into their own view of the host, as far as the host permits.

use super::jail::jail_for;
use super::program::program_for;
use crate::runtimes::watchdog_side::{Modes, Start, StartError, Started, WatchdogRuntime};
use crate::shim_api::request::Mode;

pub const MODES: Modes = &[(Mode::Direct, &Direct), (Mode::Sandboxed, &Sandboxed)];

/// The operator turned the sandbox off.
#[derive(Debug)]
struct Direct;

#[derive(Debug)]
struct Sandboxed;

impl WatchdogRuntime for Direct {
    fn has_cgroup(&self) -> bool {
        false
    }

    fn start(&self, start: Start<'_>) -> Result<Started, StartError> {
        let program = program_for(&start, None);
        start.launch(&program, None)
    }
}

impl WatchdogRuntime for Sandboxed {
    fn start(&self, start: Start<'_>) -> Result<Started, StartError> {
        let confinement = start.request.confinement.as_deref().filter(|_| start.jails);
        let changes_user = !start.namespaces.is_some_and(|namespaces| namespaces.user);
        let jail = confinement.map(|confinement| jail_for(start.request, confinement, changes_user));
        let (program, namespaces) = (program_for(&start, jail), start.namespaces);
        start.launch(&program, namespaces)
    }
}
