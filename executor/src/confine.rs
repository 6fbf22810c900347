//! What the programs of the crun and process runtimes are kept from: the operator's rules, and what one task asks for
//! within them.

use std::path::PathBuf;

use stint_protocol::{Allowance, Network, Runtime};

use crate::host::Launch;
use crate::settings::{Bounds, ConfineOptions};
use crate::shim_api::request::Confinement;
use crate::users;

impl Bounds {
    /// What tasks may ask for within them.
    pub fn allowance(&self, runtime: Runtime, networks: Vec<Network>) -> Allowance {
        let Bounds { pids, tmp_bytes, shm_bytes, swap_bytes } = *self;
        Allowance { runtime, networks, pids, tmp_bytes, shm_bytes, swap_bytes, mounts: None }
    }
}

impl ConfineOptions {
    /// What tasks may ask for within them.
    pub fn allowance(&self, runtime: Runtime) -> Allowance {
        let may = |network: &Network| {
            *network == Network::None || *network == self.network || self.networks.contains(network)
        };
        self.bounds.allowance(runtime, Network::ALL.into_iter().filter(may).collect())
    }
}

/// What an attempt is kept from, and as whom it runs. `writable`: folders of the host that it may write in.
pub fn confinement(rules: &ConfineOptions, writable: &[PathBuf], launch: &Launch) -> Confinement {
    let asked = launch.spec.limits.as_deref();
    let bounds = rules.bounds.given(asked);
    let (user, group) = users::user_for(rules.user, launch);
    Confinement {
        user,
        group,
        pids: bounds.pids,
        network: asked.and_then(|limits| limits.network).unwrap_or(rules.network),
        tmp_bytes: bounds.tmp_bytes,
        shm_bytes: bounds.shm_bytes,
        writable: writable.iter().map(|folder| folder.display().to_string()).collect(),
        groups: users::groups_for(launch),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use stint_protocol::{BootMs, Class, LeaseId, SharedSpec, TaskId, TaskLimits, TaskSpec, Tenant};

    use super::*;
    use crate::limits;

    fn launch(limits: Option<TaskLimits>, tenant_uid: Option<u32>) -> Launch {
        let mut spec = TaskSpec::new(Class::CpuShort, vec!["x".into()]);
        spec.limits = limits.map(Box::new);
        Launch {
            lease: LeaseId { task: TaskId(1), attempt: 1 },
            tenant: Tenant::default_tenant(),
            tenant_uid,
            run_as: None,
            name: None,
            spec: SharedSpec::new(spec),
            runtime: Runtime::Process,
            gpus: Vec::new(),
            deadline: BootMs(0),
            env: BTreeMap::new(),
        }
    }

    #[test]
    fn what_a_task_asks_for_counts_and_the_rest_is_the_nodes() {
        let rules = ConfineOptions { network: Network::Host, ..ConfineOptions::default() };
        let limits = TaskLimits { pids: Some(20), network: Some(Network::None), ..TaskLimits::default() };
        let given = confinement(&rules, &[], &launch(Some(limits), None));
        assert_eq!((given.pids, given.network, given.tmp_bytes), (20, Network::None, limits::TMP_BYTES));
        let given = confinement(&rules, &[], &launch(None, None));
        assert_eq!((given.pids, given.network), (limits::PIDS, Network::Host));
    }

    #[test]
    fn a_program_runs_as_its_tenants_user_unless_the_operator_named_one() {
        let as_whom = |configured, tenant_uid| {
            let rules = ConfineOptions { user: configured, ..ConfineOptions::default() };
            let given = confinement(&rules, &[], &launch(None, tenant_uid));
            (given.user, given.group)
        };
        assert_eq!(as_whom(None, Some(1_007)), (1_007, 1_007));
        assert_eq!(as_whom(Some((500, 501)), Some(1_007)), (500, 501));
        assert_eq!(as_whom(None, None), (65_534, 65_534));
        assert_eq!(as_whom(None, Some(0)), (65_534, 65_534), "never root, whoever says so");
    }
}
