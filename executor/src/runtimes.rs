//! The ways in which this host executes programs: a folder for each, and one line of a list. Each has two sides: what the
//! node prepares and asks for ([`NodeRuntime`]), and what the watchdog does about it ([`WatchdogRuntime`]).

pub mod crun;
pub mod docker;
pub mod mock;
pub mod process;
mod program;
mod request;
pub mod watchdog_side;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{Allowance, LeaseId, Runtime as Kind, TaskSpec};

use crate::host::{ContainersFuture, Executing, Launch, Publisher};
use crate::observer::PullEnd;
use crate::refusal::Refusal;
use crate::settings::HostOptions;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Mode, StartRequest};
use crate::stages::{Owner, Staged};
use watchdog_side::{Modes, WatchdogRuntime};

/// Every runtime of this host: how the node's side opens it, and the modes in which the watchdog executes its attempts. A new
/// one is a folder beside these, and a line here.
static ALL: [(Kind, Open, Modes); 4] = [
    (Kind::Process, process::open, process::MODES),
    (Kind::Crun, crun::open, crun::MODES),
    (Kind::Docker, docker::runtime::open, docker::MODES),
    (Kind::Mock, mock::open, &[]),
];

type Open = fn(Arc<HostOptions>, &Layout) -> Arc<dyn NodeRuntime>;
/// Those that the operator enabled.
pub type Runtimes = BTreeMap<Kind, Arc<dyn NodeRuntime>>;
/// Says whether an attempt has not ended.
pub type HasAttempt = Arc<dyn Fn(LeaseId) -> bool + Send + Sync>;
/// Something that a runtime does beside its attempts.
pub type BackgroundFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What the watchdog found that this host permits.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostCapabilities {
    /// Pid namespaces, with their own `/proc`.
    pub pid_namespaces: bool,
    /// Programs can be shut into their own view of the host.
    pub jails: bool,
}

/// DOOR: a runtime, as the node's side uses it.
pub trait NodeRuntime: Send + Sync {
    /// Who executes its attempts.
    fn executing(&self) -> Executing {
        Executing::Watchdog
    }

    /// Why it cannot be used on this host now, in words that say what to do.
    fn probe(&self, permits: HostCapabilities) -> Result<(), String>;

    /// What tasks may ask for with it.
    fn allowance(&self, permits: HostCapabilities) -> Allowance;

    /// Whether the node allows what a task asks for. Tasks are placed by what nodes say that they allow, so that another
    /// answer means that this one changed: the task goes elsewhere.
    fn check(&self, spec: &TaskSpec, permits: HostCapabilities) -> Result<(), Refusal> {
        let Some(asked) = &spec.limits else { return Ok(()) };
        match self.allowance(permits).refuses(asked).first() {
            Some(refused) => Err(Refusal::start_failed(format!("this node {refused}"))),
            None => Ok(()),
        }
    }

    /// How many of its attempts start at a time; none: as many as there are.
    fn starts_at_once(&self) -> Option<usize> {
        None
    }

    /// Whom the files of an attempt's program belong to.
    fn owner(&self, launch: &Launch) -> Owner {
        let _ = launch;
        None
    }

    /// Whether programs of all tenants are one user of this host, with nothing else between them.
    fn has_one_user(&self, permits: HostCapabilities) -> bool {
        let _ = permits;
        false
    }

    /// What the watchdog is told of an attempt for which everything was prepared.
    fn request(
        &self,
        launch: &Launch,
        staged: &Staged,
        permits: HostCapabilities,
    ) -> Result<StartRequest, Refusal>;

    /// Looks at what it depends on, before anything is offered.
    fn look(&self, holds: HasAttempt) -> BackgroundFuture<'_> {
        let _ = holds;
        Box::pin(async {})
    }

    /// What goes on looking, until the client goes.
    fn background_futures(&self, publish: &Publisher, holds: &HasAttempt) -> Vec<BackgroundFuture<'static>> {
        let _ = (publish, holds);
        Vec::new()
    }

    /// An attempt of this host could not be started: what it depends on may be gone.
    fn look_soon(&self) {}

    /// What does not work although it can be used.
    fn problem(&self) -> Option<String> {
        None
    }

    /// What it took to bring the image of an attempt here, told once; none: nothing was brought.
    fn image_pull(&self, lease: LeaseId) -> Option<(PullEnd, Duration)> {
        let _ = lease;
        None
    }

    /// Containers of this host that it has, by class; none: it has none ever.
    fn containers(&self) -> Option<ContainersFuture> {
        None
    }
}

/// The runtimes of a host.
pub fn open(settings: &Arc<HostOptions>, layout: &Layout) -> Runtimes {
    let enabled = ALL.iter().filter(|(kind, ..)| settings.runtimes.contains(kind));
    enabled.map(|(kind, open, _)| (*kind, open(settings.clone(), layout))).collect()
}

/// What the watchdog does in each mode.
pub fn watchdog_sides() -> impl Iterator<Item = (Mode, &'static dyn WatchdogRuntime)> {
    ALL.iter().flat_map(|(.., modes)| *modes).copied()
}

/// What the watchdog does in this mode. None: no runtime of this host has it.
pub fn in_mode(mode: Mode) -> Option<&'static dyn WatchdogRuntime> {
    watchdog_sides().find(|(known, _)| *known == mode).map(|(_, side)| side)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use stint_protocol::{Class, EndKind, Network, TaskLimits};

    use super::*;

    const ALL_KINDS: [Kind; 3] = [Kind::Crun, Kind::Process, Kind::Docker];

    fn asking(limits: TaskLimits) -> TaskSpec {
        let mut spec = TaskSpec::new(Class::CpuShort, vec!["x".into()]);
        spec.limits = Some(Box::new(limits));
        spec
    }

    fn refused(settings: &HostOptions, spec: &TaskSpec, kind: Kind) -> Option<Refusal> {
        let runtimes = open(&Arc::new(settings.clone()), &Layout::new(Path::new("/data")));
        runtimes[&kind].check(spec, HostCapabilities { pid_namespaces: true, jails: true }).err()
    }

    #[test]
    fn each_mode_is_that_of_one_runtime() {
        // All that a node can ask for: the numbers that decode.
        let modes: Vec<Mode> = (0..24).map_while(|number: u8| minicbor::decode(&[number]).ok()).collect();
        assert!(modes.len() >= 4, "{modes:?}");
        for mode in &modes {
            assert_eq!(watchdog_sides().filter(|(known, _)| known == mode).count(), 1, "{mode:?}");
        }
    }

    #[test]
    fn a_node_that_does_not_allow_it_sends_the_task_elsewhere() {
        let mut settings = HostOptions::new("/data".into(), Vec::new());
        settings.runtimes = ALL_KINDS.to_vec();
        let host = asking(TaskLimits { network: Some(Network::Host), ..TaskLimits::default() });
        let none = asking(TaskLimits { network: Some(Network::None), ..TaskLimits::default() });
        for kind in ALL_KINDS {
            assert_eq!(refused(&settings, &none, kind), None);
            let refusal = refused(&settings, &host, kind).unwrap();
            assert!(
                refusal.kind == EndKind::StartFailed && refusal.message.starts_with("this node "),
                "{refusal}"
            );
        }
        settings.crun.confine.networks.push(Network::Host);
        assert_eq!(refused(&settings, &host, Kind::Crun), None);
        // Without a sandbox nothing keeps a program from the host's network.
        settings.sandbox = false;
        assert_eq!(refused(&settings, &host, Kind::Process), None);
        let refusal = refused(&settings, &none, Kind::Process).unwrap();
        assert!(refusal.message.contains("executor.sandbox"), "{refusal}");
        let pids = asking(TaskLimits { pids: Some(16), ..TaskLimits::default() });
        assert!(refused(&settings, &pids, Kind::Process).unwrap().message.contains("executor.sandbox"));
    }
}
