//! The Docker runtime as the node's side uses it: what is allowed, what is asked for, and who looks after the daemon.

use std::sync::Arc;
use std::time::Duration;

use stint_protocol::docker_image::{ImageRefusal, Reference};
use stint_protocol::{Allowance, LeaseId, Network, Runtime as Kind, TaskLimits};

use super::credentials_watch::CredentialsWatch;
use super::pull;
use super::watch::DaemonWatch;
use super::{LABEL_CLASS, LABEL_TENANT};
use crate::host::{ContainersFuture, Launch, Publisher};
use crate::observer::{PullEnd, Rule};
use crate::refusal::Refusal;
use crate::runtimes::request::{self, INSIDE};
use crate::runtimes::{BackgroundFuture, HasAttempt, HostCapabilities, NodeRuntime};
use crate::settings::{DockerOptions, HostOptions};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{DockerRequest, Mode, StartRequest};
use crate::stages::{Owner, Staged};
use crate::{sys, users};

struct Docker {
    layout: Layout,
    settings: Arc<HostOptions>,
    daemon: Arc<DaemonWatch>,
    /// None: this node has no credentials for registries.
    credentials: Option<Arc<CredentialsWatch>>,
}

pub fn open(settings: Arc<HostOptions>, layout: &Layout) -> Arc<dyn NodeRuntime> {
    let daemon = Arc::new(DaemonWatch::new(&settings.docker, layout));
    let credentials = settings.docker.credentials.clone().map(|file| Arc::new(CredentialsWatch::new(file)));
    Arc::new(Docker { layout: layout.clone(), settings, daemon, credentials })
}

/// A start is some waiting for the daemon's disk beside its second of a processor.
const STARTS_PER_CORE: usize = 2;
const LEAST_STARTS: usize = 4;
/// The daemon takes locks of its own: more at a time start no sooner.
const MOST_STARTS: usize = 16;

impl NodeRuntime for Docker {
    fn starts_at_once(&self) -> Option<usize> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Some((cores * STARTS_PER_CORE).clamp(LEAST_STARTS, MOST_STARTS))
    }

    fn probe(&self, _: HostCapabilities) -> Result<(), String> {
        if sys::effective_ids().0 != 0 {
            return Err(
                "docker runs as root only: containers must be killed without the daemon's help".into()
            );
        }
        self.daemon.problem().map_or(Ok(()), Err)
    }

    fn allowance(&self, _: HostCapabilities) -> Allowance {
        let mounts = Some(self.settings.mounts.roots(Kind::Docker));
        // Never the host's network: who has it reaches the daemons that wait on abstract sockets.
        let bounds = &self.settings.docker.bounds;
        Allowance { mounts, ..bounds.allowance(Kind::Docker, vec![Network::None]) }
    }

    fn owner(&self, launch: &Launch) -> Owner {
        Some(users::user_for(self.settings.docker.user, launch))
    }

    fn request(
        &self,
        launch: &Launch,
        staged: &Staged,
        permits: HostCapabilities,
    ) -> Result<StartRequest, Refusal> {
        self.check(&launch.spec, permits)?;
        let docker = self.docker_request(launch)?;
        // A Docker image says itself where its programs are.
        let request = request::common(&self.settings, launch, staged, None, Mode::Docker, &INSIDE);
        Ok(StartRequest { docker: Some(Box::new(docker)), ..request })
    }

    fn look(&self, holds: HasAttempt) -> BackgroundFuture<'_> {
        Box::pin(async move {
            self.daemon.look(&*holds).await;
            if let Some(credentials) = &self.credentials {
                credentials.look().await;
            }
        })
    }

    fn background_futures(&self, publish: &Publisher, holds: &HasAttempt) -> Vec<BackgroundFuture<'static>> {
        let daemon: BackgroundFuture<'static> =
            Box::pin(self.daemon.clone().run(publish.clone(), holds.clone()));
        let credentials = self.credentials.clone();
        let credentials =
            credentials.map(|watch| -> BackgroundFuture<'static> { Box::pin(watch.run(publish.clone())) });
        std::iter::once(daemon).chain(credentials).collect()
    }

    fn look_soon(&self) {
        self.daemon.look_soon();
    }

    fn problem(&self) -> Option<String> {
        self.credentials.as_ref()?.problem()
    }

    fn image_pull(&self, lease: LeaseId) -> Option<(PullEnd, Duration)> {
        pull::recorded_pull(&self.layout, lease)
    }

    fn containers(&self) -> Option<ContainersFuture> {
        let daemon = self.daemon.clone();
        Some(Box::pin(async move { daemon.containers().await }))
    }
}

impl Docker {
    /// What of an attempt is Docker's, checked against what the operator allows and what the lease gives.
    fn docker_request(&self, launch: &Launch) -> Result<DockerRequest, Refusal> {
        let settings = &self.settings.docker;
        let image = self.allowed_image(launch)?;
        let gpus: Vec<String> = launch.gpus.iter().map(|gpu| gpu.id.as_str().to_owned()).collect();
        if gpus.len() != launch.spec.leased_gpus() as usize {
            let message =
                format!("its lease holds {} GPUs and not {}", gpus.len(), launch.spec.leased_gpus());
            return Err(Refusal::start_failed(message));
        }
        let known = |label: &str, variable: &str| Some((label.to_owned(), launch.env.get(variable)?.clone()));
        let labels = [known("stint.node", "STINT_NODE_ID"), known(LABEL_CLASS, "STINT_CLASS")];
        let tenant = (LABEL_TENANT.to_owned(), launch.tenant.to_string());
        let asked = launch.spec.limits.as_deref();
        let bounds = settings.bounds.given(asked);
        let (user, group) = users::user_for(settings.user, launch);
        Ok(DockerRequest {
            socket: settings.socket.display().to_string(),
            image: image.full(),
            pull: settings.pull,
            network: network(settings, asked),
            user,
            group,
            pids: bounds.pids,
            gpus,
            labels: labels.into_iter().flatten().chain([tenant]).collect(),
            tmp_bytes: bounds.tmp_bytes,
            shm_bytes: bounds.shm_bytes,
            credentials: settings.credentials.as_ref().map(|path| path.display().to_string()),
            runtime: settings.runtime.clone(),
            groups: users::groups_for(launch),
        })
    }

    fn allowed_image(&self, launch: &Launch) -> Result<Reference, Refusal> {
        let settings = &self.settings.docker;
        let Some(image) = &launch.spec.image else {
            return Err(Refusal::not_runnable("docker needs an image: give one, or use another runtime"));
        };
        let image = Reference::parse(image).map_err(|e| Refusal::not_runnable(e.to_string()))?;
        let allowed = image.check(&settings.allowed_images, settings.require_digest);
        allowed.map_err(|e| {
            let no_digest = matches!(e, ImageRefusal::NoDigest(_));
            let rule = if no_digest { Rule::RequireDigest } else { Rule::AllowedImages };
            self.settings.observe(|observer| observer.denied(rule));
            Refusal::denied(e.to_string())
        })?;
        Ok(image)
    }
}

/// The network of a container: a task may ask for none, else it has the operator's.
fn network(settings: &DockerOptions, asked: Option<&TaskLimits>) -> String {
    match asked.and_then(|limits| limits.network) {
        Some(network) => network.as_str().to_owned(),
        None => settings.network.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_may_be_kept_from_the_network_of_the_others() {
        let settings = DockerOptions { network: "bridge".into(), ..DockerOptions::default() };
        let none = TaskLimits { network: Some(Network::None), ..TaskLimits::default() };
        assert_eq!(network(&settings, Some(&none)), "none");
        assert_eq!(network(&settings, Some(&TaskLimits::default())), "bridge");
        assert_eq!(network(&settings, None), "bridge");
    }
}
