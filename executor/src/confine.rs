//! What the programs of the crun and process runtimes are kept from: the operator's rules, and what one task asks for
//! within them.

use stint_protocol::{Allowance, Network, Runtime, TaskLimits, TaskSpec};

use crate::refusal::Refusal;
use crate::settings::{Bounds, ConfineSettings, DockerSettings, HostSettings};
use crate::shim_api::request::{Confinement, Mode};

impl Bounds {
    fn allowance(&self, runtime: Runtime, networks: Vec<Network>) -> Allowance {
        let Bounds { pids, tmp_bytes, shm_bytes, swap_bytes } = *self;
        Allowance { runtime, networks, pids, tmp_bytes, shm_bytes, swap_bytes, mounts: None }
    }
}

impl ConfineSettings {
    fn allowance(&self, runtime: Runtime) -> Allowance {
        let may = |network: &Network| {
            *network == Network::None || *network == self.network || self.networks.contains(network)
        };
        self.bounds.allowance(runtime, Network::ALL.into_iter().filter(may).collect())
    }
}

/// What tasks may ask for with each runtime. `jails`: sandboxed processes can be shut in here.
pub fn allowances(settings: &HostSettings, jails: bool) -> Vec<Allowance> {
    settings.runtimes.iter().map(|runtime| allowance(settings, *runtime, jails)).collect()
}

fn allowance(settings: &HostSettings, runtime: Runtime, jails: bool) -> Allowance {
    let mounts = match runtime {
        Runtime::Process => settings.sandbox && jails,
        // The same calls of the kernel.
        Runtime::Crun => jails,
        Runtime::Docker => true,
        Runtime::Slurm | Runtime::Mock => false,
    };
    let mounts = mounts.then(|| settings.mounts.roots(runtime));
    Allowance { mounts, ..allowed_without_mounts(settings, runtime, jails) }
}

fn allowed_without_mounts(settings: &HostSettings, runtime: Runtime, jails: bool) -> Allowance {
    let process = &settings.process.confine;
    match runtime {
        Runtime::Process if settings.sandbox && jails => process.allowance(runtime),
        // It sees the host, whatever it asks for.
        Runtime::Process => {
            let pids = if settings.sandbox { process.bounds.pids } else { 0 };
            let bounds = Bounds { pids, tmp_bytes: 0, shm_bytes: 0, swap_bytes: 0 };
            bounds.allowance(runtime, vec![Network::Host])
        }
        Runtime::Crun => settings.crun.confine.allowance(runtime),
        // Never the host's network: who has it reaches the daemons that wait on abstract sockets.
        Runtime::Docker => settings.docker.bounds.allowance(runtime, vec![Network::None]),
        Runtime::Slurm | Runtime::Mock => Allowance::everything(runtime),
    }
}

/// Whether the node allows what the task asks for. Tasks are placed by what nodes say that they allow, so that another
/// answer means that this one changed: the task goes elsewhere.
pub fn check(settings: &HostSettings, spec: &TaskSpec, runtime: Runtime, jails: bool) -> Result<(), Refusal> {
    let Some(asked) = &spec.limits else { return Ok(()) };
    match allowance(settings, runtime, jails).refuses(asked).first() {
        Some(refused) => Err(Refusal::start_failed(format!("this node {refused}"))),
        None => Ok(()),
    }
}

/// What an attempt is kept from; none where nothing confines it, or where Docker does.
pub fn of(settings: &HostSettings, spec: &TaskSpec, mode: Mode) -> Option<Confinement> {
    let (rules, writable) = match mode {
        Mode::Crun => (&settings.crun.confine, &[][..]),
        Mode::Sandboxed => (&settings.process.confine, settings.process.writable.as_slice()),
        Mode::Direct | Mode::Docker => return None,
    };
    let asked = spec.limits.as_deref();
    let bounds = rules.bounds.given(asked);
    Some(Confinement {
        user: rules.user.0,
        group: rules.user.1,
        pids: bounds.pids,
        network: asked.and_then(|limits| limits.network).unwrap_or(rules.network),
        tmp_bytes: bounds.tmp_bytes,
        shm_bytes: bounds.shm_bytes,
        writable: writable.iter().map(|folder| folder.display().to_string()).collect(),
    })
}

/// The network of a container of Docker's: a task may ask for none, else it has the operator's.
pub fn docker_network(settings: &DockerSettings, asked: Option<&TaskLimits>) -> String {
    match asked.and_then(|limits| limits.network) {
        Some(network) => network.as_str().to_owned(),
        None => settings.network.clone(),
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::{Class, EndKind};

    use super::*;
    use crate::limits;

    fn asking(limits: TaskLimits) -> TaskSpec {
        let mut spec = TaskSpec::new(Class::CpuShort, vec!["x".into()]);
        spec.limits = Some(Box::new(limits));
        spec
    }

    #[test]
    fn what_a_task_asks_for_counts_and_the_rest_is_the_nodes() {
        let mut settings = HostSettings::new("/data".into(), Vec::new());
        settings.crun.confine.network = Network::Host;
        let limits = TaskLimits { pids: Some(20), network: Some(Network::None), ..TaskLimits::default() };
        let given = of(&settings, &asking(limits), Mode::Crun).unwrap();
        assert_eq!((given.pids, given.network, given.tmp_bytes), (20, Network::None, limits::TMP_BYTES));
        let plain = TaskSpec::new(Class::CpuShort, vec!["x".into()]);
        let given = of(&settings, &plain, Mode::Crun).unwrap();
        assert_eq!((given.pids, given.network), (limits::PIDS, Network::Host));
    }

    #[test]
    fn a_container_may_be_kept_from_the_network_of_the_others() {
        let settings = DockerSettings { network: "bridge".into(), ..DockerSettings::default() };
        let none = TaskLimits { network: Some(Network::None), ..TaskLimits::default() };
        assert_eq!(docker_network(&settings, Some(&none)), "none");
        assert_eq!(docker_network(&settings, Some(&TaskLimits::default())), "bridge");
        assert_eq!(docker_network(&settings, None), "bridge");
    }

    #[test]
    fn a_node_that_does_not_allow_it_sends_the_task_elsewhere() {
        let mut settings = HostSettings::new("/data".into(), Vec::new());
        let host = asking(TaskLimits { network: Some(Network::Host), ..TaskLimits::default() });
        let none = asking(TaskLimits { network: Some(Network::None), ..TaskLimits::default() });
        let refused =
            |settings: &HostSettings, spec: &TaskSpec, runtime| check(settings, spec, runtime, true).err();
        for runtime in [Runtime::Crun, Runtime::Process, Runtime::Docker] {
            assert_eq!(refused(&settings, &none, runtime), None);
            let Refusal { kind, message: words } = refused(&settings, &host, runtime).unwrap();
            assert!(kind == EndKind::StartFailed && words.starts_with("this node "), "{words}");
        }
        settings.crun.confine.networks.push(Network::Host);
        assert_eq!(refused(&settings, &host, Runtime::Crun), None);
        // Without a sandbox nothing keeps a program from the host's network.
        settings.sandbox = false;
        assert_eq!(refused(&settings, &host, Runtime::Process), None);
        let Refusal { message: words, .. } = refused(&settings, &none, Runtime::Process).unwrap();
        assert!(words.contains("executor.sandbox"), "{words}");
        let pids = asking(TaskLimits { pids: Some(16), ..TaskLimits::default() });
        assert!(refused(&settings, &pids, Runtime::Process).unwrap().message.contains("executor.sandbox"));
    }
}
