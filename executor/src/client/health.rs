//! What this host can do, by its settings and by what its watchdog says.

use stint_protocol::Runtime;

use crate::client::state::Shared;
use crate::confine;
use crate::host::{HostHealth, Sandbox};

impl Shared {
    /// A folder of `executor.process.writable` that is not there would fail every start.
    fn writable_problem(&self) -> Option<String> {
        let folders = &self.settings.process.writable;
        let missing = folders.iter().filter(|_| self.settings.sandbox).find(|folder| !folder.is_dir())?;
        let advice = "make it, or take it out of executor.process.writable, and start the node again";
        Some(format!("{} is no folder: {advice}", missing.display()))
    }

    /// Why a runtime cannot be used here, and what to do.
    pub fn runtime_problem(&self, runtime: Runtime) -> Option<String> {
        if !self.settings.runtimes.contains(&runtime) {
            return Some(format!("the runtime {runtime} is not enabled on this node: add it to runtimes"));
        }
        let pid_namespaces =
            self.lock().hello.as_ref().is_some_and(|h| h.sandbox == Sandbox::PidNamespace && h.own_proc);
        match runtime {
            Runtime::Mock => None,
            Runtime::Process => self.writable_problem(),
            Runtime::Crun if self.crun.is_none() => Some(format!(
                "crun was not found as {}: install it (Debian: apt install crun) or set crun_path",
                self.settings.crun_path.display()
            )),
            Runtime::Crun if crate::sys::effective_ids().0 != 0 => {
                Some("crun runs as root only for now: start the node as root or use another runtime".into())
            }
            Runtime::Crun if !pid_namespaces => Some(
                "crun needs pid namespaces and a mountable /proc, which this host does not permit".into(),
            ),
            Runtime::Crun => None,
            Runtime::Docker if crate::sys::effective_ids().0 != 0 => {
                Some("docker runs as root only: containers must be killed without the daemon's help".into())
            }
            Runtime::Docker => self.docker.as_ref().and_then(|daemon| daemon.problem()),
            Runtime::Slurm => Some("Slurm is not of this machine: its bridge runs beside this host".into()),
        }
    }

    /// Whether sandboxed processes can be shut in here.
    pub fn jails(&self) -> bool {
        self.lock().hello.as_ref().is_some_and(|hello| hello.jails)
    }

    /// Whether programs of the process runtime run as another user than the node.
    pub fn changes_user(&self) -> bool {
        self.settings.sandbox && crate::sys::effective_ids().0 == 0
    }

    pub fn health(&self) -> HostHealth {
        let runtimes =
            self.settings.runtimes.iter().map(|r| (*r, self.runtime_problem(*r).map_or(Ok(()), Err)));
        let runtimes = runtimes.collect();
        let state = self.lock();
        let hello = state.hello.as_ref();
        let mut problems: Vec<String> = hello.map(|h| h.problems.clone()).unwrap_or_default();
        let sandbox = if self.settings.sandbox {
            hello.map_or(Sandbox::None, |h| h.sandbox)
        } else {
            problems.push(
                "the sandbox is off: programs of the process runtime have no memory limit, see the host's processes, \
                 and out-of-memory is not told apart"
                    .into(),
            );
            Sandbox::None
        };
        problems.extend(state.link_problem.clone());
        let jails = hello.is_some_and(|hello| hello.jails);
        let allows = confine::allowances(&self.settings, jails);
        HostHealth { sandbox, runtimes, allows, accounted: state.accounted, problems }
    }
}
