//! What this host can do, by its settings and by what its watchdog says.

use stint_protocol::{Runtime as Kind, Tenant};

use crate::client::state::ClientState;
use crate::host::{Executing, HostHealth, Sandbox};
use crate::refusal::Refusal;
use crate::runtimes::{HostCapabilities, NodeRuntime};

impl ClientState {
    /// A runtime that the operator enabled.
    pub fn enabled(&self, kind: Kind) -> Result<&dyn NodeRuntime, Refusal> {
        match self.runtimes.get(&kind) {
            Some(runtime) => Ok(runtime.as_ref()),
            None => Err(Refusal::start_failed(self.not_enabled(kind))),
        }
    }

    fn not_enabled(&self, kind: Kind) -> String {
        if self.settings.runtimes.contains(&kind) {
            format!("the runtime {kind} is served by its bridge, not by this host")
        } else {
            format!("the runtime {kind} is not enabled on this node: add it to runtimes")
        }
    }

    /// Whether a runtime can be used here now, else why not and what to do.
    pub fn usable(&self, kind: Kind) -> Result<&dyn NodeRuntime, Refusal> {
        let runtime = self.enabled(kind)?;
        runtime.probe(self.permits()).map_err(Refusal::start_failed)?;
        if let Some(problem) = self.disk.problem().filter(|_| self.needs_disk(kind)) {
            return Err(Refusal::start_failed(problem));
        }
        Ok(runtime)
    }

    /// Whether tasks of this tenant are taken. They are placed by what nodes say that they take, so that another answer means that
    /// this one changed.
    pub fn takes(&self, tenant: &Tenant) -> Result<(), Refusal> {
        match self.settings.rules().takes(tenant) {
            true => Ok(()),
            false => Err(Refusal::start_failed(format!(
                "this node takes no tasks of tenant {tenant}: add it to executor.tenants"
            ))),
        }
    }

    /// Whether attempts of a runtime have files of their own on this host.
    pub fn needs_disk(&self, kind: Kind) -> bool {
        self.runtimes.get(&kind).is_some_and(|runtime| runtime.executing() == Executing::Watchdog)
    }

    /// What the watchdog found that this host permits.
    pub fn permits(&self) -> HostCapabilities {
        let state = self.lock();
        let Some(hello) = &state.hello else { return HostCapabilities::default() };
        let pid_namespaces = hello.sandbox == Sandbox::PidNamespace && hello.own_proc;
        HostCapabilities { pid_namespaces, jails: hello.jails }
    }

    pub fn health(&self) -> HostHealth {
        let (permits, enabled) = (self.permits(), self.settings.runtimes.iter());
        let usable = |kind: &Kind| (*kind, self.usable(*kind).map(|_| ()).map_err(|refusal| refusal.message));
        let runtimes = enabled.clone().map(usable).collect();
        let allows = enabled.filter_map(|kind| Some(self.runtimes.get(kind)?.allowance(permits))).collect();
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
        problems.extend(self.disk.warning());
        if self.settings.run_as.is_some() && self.settings.rules().run_as.is_none() {
            problems.push(
                "executor.run_as = \"user\" takes a node that is root: no task runs as who submitted it"
                    .into(),
            );
        }
        problems.extend(self.runtimes.values().filter_map(|runtime| runtime.problem()));
        let mut rules = self.settings.rules();
        let one_user = self.runtimes.get(&Kind::Process).is_some_and(|runtime| runtime.has_one_user(permits));
        rules.one_user = one_user.then_some(true);
        HostHealth { sandbox, runtimes, allows, rules, accounted: state.accounted, problems }
    }
}
