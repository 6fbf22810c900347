//! Containers of crun, as the watchdog starts them: the init of the attempt's namespaces runs crun, so that the container
//! ends with the init.

use stint_protocol::{EndKind, LeaseId};

use super::{bundle, verdict};
use crate::runtimes::program::{has_no_network, in_folder};
use crate::runtimes::watchdog_side::{Failed, Modes, Start, StartError, Started, WatchdogRuntime};
use crate::shim_api::inside::WORK;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::Mode;
use crate::sys::spawn::Program;

pub const MODES: Modes = &[(Mode::Crun, &Container)];

#[derive(Debug)]
struct Container;

impl WatchdogRuntime for Container {
    fn keeps_folder(&self) -> bool {
        true
    }

    fn start(&self, start: Start<'_>) -> Result<Started, StartError> {
        let needed = "the crun runtime needs pid namespaces, which this host does not permit";
        let namespaces = start.namespaces.ok_or(StartError::Impossible(needed))?;
        let container = bundle::make(start.layout, start.request)
            .map_err(StartError::while_doing("making the crun bundle"))?;
        let program = Program {
            container: Some(container),
            owner: Some(bundle::user(start.request)),
            own_network: has_no_network(start.request),
            ..in_folder(&start, WORK)
        };
        start.launch(&program, Some(namespaces))
    }

    fn not_started(&self, failed: &Failed<'_>) -> Option<(EndKind, String)> {
        verdict::not_started(failed)
    }

    fn clean(&self, layout: &Layout, lease: LeaseId) {
        bundle::remove(layout, lease);
    }
}
