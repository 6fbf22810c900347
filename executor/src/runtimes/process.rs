//! The process runtime: programs of the host, or one executable file, shut into their own view of it unless the operator
//! turned the sandbox off.

mod jail;
mod program;
mod watchdog_side;

use std::sync::Arc;

use stint_protocol::{Allowance, Network, Runtime as Kind};

use super::request::{self, DEFAULTS};
use super::{HostCapabilities, NodeRuntime};
use crate::host::Launch;
use crate::refusal::Refusal;
use crate::settings::{Bounds, HostOptions};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Mode, StartRequest};
use crate::stages::{Owner, Staged};
use crate::{confine, root, sys, users};

pub use watchdog_side::MODES;

struct Process(Arc<HostOptions>);

pub fn open(settings: Arc<HostOptions>, _: &Layout) -> Arc<dyn NodeRuntime> {
    Arc::new(Process(settings))
}

impl NodeRuntime for Process {
    /// A folder of `executor.process.writable` that is not there would fail every start.
    fn probe(&self, _: HostCapabilities) -> Result<(), String> {
        let missing = self.0.process.writable.iter().find(|folder| self.0.sandbox && !folder.is_dir());
        let Some(missing) = missing else { return Ok(()) };
        let advice = "make it, or take it out of executor.process.writable, and start the node again";
        Err(format!("{} is no folder: {advice}", missing.display()))
    }

    fn allowance(&self, permits: HostCapabilities) -> Allowance {
        let rules = &self.0.process.confine;
        if self.0.sandbox && permits.jails {
            let mounts = Some(self.0.mounts.roots(Kind::Process));
            return Allowance { mounts, ..rules.allowance(Kind::Process) };
        }
        // It sees the host, whatever it asks for.
        let pids = if self.0.sandbox { rules.bounds.pids } else { 0 };
        let bounds = Bounds { pids, tmp_bytes: 0, shm_bytes: 0, swap_bytes: 0 };
        bounds.allowance(Kind::Process, vec![Network::Host])
    }

    fn owner(&self, launch: &Launch) -> Owner {
        let changes_user = self.0.sandbox && sys::effective_ids().0 == 0;
        changes_user.then(|| users::user_for(self.0.process.confine.user, launch))
    }

    /// They see the host's files, so that only their user keeps them from each other's.
    fn has_one_user(&self, permits: HostCapabilities) -> bool {
        let changes_user = self.0.sandbox && permits.jails && sys::effective_ids().0 == 0;
        !changes_user || self.0.process.confine.user.is_some() || !users::are_mapped()
    }

    fn request(
        &self,
        launch: &Launch,
        staged: &Staged,
        permits: HostCapabilities,
    ) -> Result<StartRequest, Refusal> {
        let spec = &launch.spec;
        if launch.run_as.is_some() && self.has_one_user(permits) {
            let why = "the process runtime of this node runs programs as one user, and not as those who submit tasks";
            return Err(Refusal::denied(why));
        }
        let image = root::resolve(&self.0, spec, false, staged.image.as_ref())?;
        self.check(spec, permits)?;
        let (mode, confinement) = if self.0.sandbox {
            let settings = &self.0.process;
            (Mode::Sandboxed, Some(confine::confinement(&settings.confine, &settings.writable, launch)))
        } else {
            (Mode::Direct, None)
        };
        let request = request::common(&self.0, launch, staged, image.as_ref(), mode, &DEFAULTS);
        Ok(StartRequest { confinement: confinement.map(Box::new), ..request })
    }
}
