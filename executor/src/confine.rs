//! What the programs of the crun and process runtimes are kept from: the operator's rules, and what one task asks for
//! within them.

use std::path::PathBuf;

use stint_protocol::{Allowance, Network, Runtime, TaskSpec};

use crate::settings::{Bounds, ConfineOptions};
use crate::shim_api::request::Confinement;

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

/// What an attempt is kept from. `writable`: folders of the host that it may write in.
pub fn confinement(rules: &ConfineOptions, writable: &[PathBuf], spec: &TaskSpec) -> Confinement {
    let asked = spec.limits.as_deref();
    let bounds = rules.bounds.given(asked);
    Confinement {
        user: rules.user.0,
        group: rules.user.1,
        pids: bounds.pids,
        network: asked.and_then(|limits| limits.network).unwrap_or(rules.network),
        tmp_bytes: bounds.tmp_bytes,
        shm_bytes: bounds.shm_bytes,
        writable: writable.iter().map(|folder| folder.display().to_string()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::{Class, TaskLimits};

    use super::*;
    use crate::limits;

    #[test]
    fn what_a_task_asks_for_counts_and_the_rest_is_the_nodes() {
        let rules = ConfineOptions { network: Network::Host, ..ConfineOptions::default() };
        let limits = TaskLimits { pids: Some(20), network: Some(Network::None), ..TaskLimits::default() };
        let mut spec = TaskSpec::new(Class::CpuShort, vec!["x".into()]);
        spec.limits = Some(Box::new(limits));
        let given = confinement(&rules, &[], &spec);
        assert_eq!((given.pids, given.network, given.tmp_bytes), (20, Network::None, limits::TMP_BYTES));
        spec.limits = None;
        let given = confinement(&rules, &[], &spec);
        assert_eq!((given.pids, given.network), (limits::PIDS, Network::Host));
    }
}
