//! The image of a container: found, or pulled with growing pauses. Progress goes to the attempt's stderr, a line now and
//! then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::ImageConfig;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use stint_protocol::docker_image::Reference;
use stint_protocol::{EndKind, LeaseId};
use tokio::time::{Instant, sleep, timeout};

use super::credentials::{Credentials, CredentialsError};
use super::engine::{self, EngineError};
use super::refusal::{self, PullRefusal};
use super::verdict::{Verdict, failed, verdict};
use crate::limits;
use crate::observer::PullEnd;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::{DockerRequest, Pull};

/// Looks for the image of a request, and pulls it.
pub struct Puller<'a> {
    pub engine: &'a Docker,
    pub request: &'a DockerRequest,
    pub layout: &'a Layout,
    pub lease: LeaseId,
    pub stderr: File,
}

/// Tells what came of the pull for an attempt: the word and milliseconds.
fn result_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("pull")
}

/// Says that a registry refused the image of an attempt in a way that another node may be spared. Stays with the
/// attempt's folder, for later attempts of its task.
fn refused_file(layout: &Layout, lease: LeaseId) -> PathBuf {
    layout.attempt(lease).join("pull-refused")
}

/// What came of the pull for an attempt, told once; none: there was none to do.
pub fn recorded_pull(layout: &Layout, lease: LeaseId) -> Option<(PullEnd, Duration)> {
    let file = result_file(layout, lease);
    let text = std::fs::read_to_string(&file).ok()?;
    std::fs::remove_file(&file).ok()?;
    let (word, millis) = text.split_once(' ')?;
    let end = PullEnd::ALL.into_iter().find(|end| end.as_str() == word)?;
    Some((end, Duration::from_millis(millis.parse().ok()?)))
}

/// An image that is here.
#[derive(Debug)]
pub struct FoundImage {
    pub id: String,
    /// How it says that it is run.
    pub config: ImageConfig,
}

impl Puller<'_> {
    /// The image, here by then.
    pub async fn image(&mut self) -> Result<FoundImage, Verdict> {
        let name = self.request.image.clone();
        if self.request.pull != Pull::Always
            && let Some(found) = self.image_here().await?
        {
            return Ok(found);
        }
        if self.request.pull == Pull::Never {
            let message = format!("image {name} is not on this node, and executor.docker.pull is never");
            return Err(verdict(EndKind::NotRunnable, message));
        }
        let began = Instant::now();
        let pulled = self.pull().await;
        self.record_pull(&pulled, began.elapsed());
        pulled?;
        let gone = || verdict(EndKind::StartFailed, format!("image {name} was pulled and is gone again"));
        self.image_here().await?.ok_or_else(gone)
    }

    /// A pull that is not counted costs nothing else.
    fn record_pull(&self, pulled: &Result<(), Verdict>, took: Duration) {
        let end = match pulled {
            Ok(()) => PullEnd::Pulled,
            Err(Verdict { kind: EndKind::NotRunnable | EndKind::FilesMissing, .. }) => PullEnd::Missing,
            Err(_) => PullEnd::Failed,
        };
        let result_file = result_file(self.layout, self.lease);
        let _ = std::fs::write(result_file, format!("{} {}", end.as_str(), took.as_millis()));
    }

    async fn image_here(&self) -> Result<Option<FoundImage>, Verdict> {
        let look = || async { Ok(self.engine.inspect_image(&self.request.image).await?) };
        match engine::insist(&self.request.socket, look).await {
            Ok(image) => {
                let config = image.config.unwrap_or_default();
                Ok(image.id.map(|id| FoundImage { id, config }))
            }
            Err(fault) if fault.status() == 404 => Ok(None),
            Err(fault) => Err(failed(&self.request.socket, "looking for its image", &fault)),
        }
    }

    /// Pulls with growing pauses. Progress goes to the attempt's stderr, a line now and then.
    async fn pull(&mut self) -> Result<(), Verdict> {
        let name = self.request.image.clone();
        let reference = Reference::parse(&name).map_err(|e| verdict(EndKind::NotRunnable, e.to_string()))?;
        let login = self.login(reference.registry());
        if let Login::Unusable(why) = &login {
            let _ = writeln!(self.stderr, "stint: {why}; pulling without credentials");
        }
        let mut pause = limits::PULL_PAUSE_MS;
        let mut tries = 1;
        loop {
            let _ = writeln!(self.stderr, "stint: pulling {name}");
            let fault = match self.pull_once(&reference, login.sent()).await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            if let Some(refusal) = refusal::refusal_in(&fault) {
                let advice = advice(refusal, reference.registry(), &login);
                let message = format!("image {name}: {advice} ({})", fault.message());
                return Err(self.refused(refusal, &login, message));
            }
            if tries == limits::PULL_TRIES {
                let message = format!("pulling {name} failed {tries} times, last: {}", fault.message());
                return Err(login.gave_up(message, &fault));
            }
            let _ = writeln!(
                self.stderr,
                "stint: pulling {name} failed, again in {pause} ms: {}",
                fault.message()
            );
            sleep(Duration::from_millis(pause)).await;
            (tries, pause) = (tries + 1, pause * 4);
        }
    }

    /// The end of an attempt whose image was refused. What another node may be given is tried there; a node that was
    /// refused it often enough ends the task, which then most likely has nowhere else to go.
    fn refused(&self, refusal: PullRefusal, login: &Login, message: String) -> Verdict {
        if refusal == PullRefusal::NoSuchImage {
            return verdict(EndKind::NotRunnable, message);
        }
        // What a node is refused whose credentials are out of order says nothing of the image.
        if login.is_unusable() {
            return verdict(EndKind::FilesMissing, message);
        }
        let times = self.refused_before() + 1;
        if times >= limits::PULL_REFUSALS {
            let message = format!("{message}; refused {times} times on this node, it is not tried again");
            return verdict(EndKind::NotRunnable, message);
        }
        // Without it the task only ends later.
        let _ = std::fs::write(refused_file(self.layout, self.lease), "");
        verdict(EndKind::FilesMissing, message)
    }

    /// How many earlier attempts of this task on this node ended so.
    fn refused_before(&self) -> u32 {
        let LeaseId { task, attempt } = self.lease;
        let earlier = (1..attempt).rev().take(limits::PULL_LOOK_BACK);
        let refused = |attempt: &u32| refused_file(self.layout, LeaseId { task, attempt: *attempt }).exists();
        earlier.filter(refused).count() as u32
    }

    fn login(&self, registry: &str) -> Login {
        let Some(file) = &self.request.credentials else { return Login::None };
        match Credentials::read(Path::new(file)).and_then(|known| known.for_registry(registry)) {
            Ok(None) => Login::None,
            Ok(Some(found)) => Login::Known(found),
            Err(why) => Login::Unusable(why),
        }
    }

    async fn pull_once(
        &mut self,
        reference: &Reference,
        credentials: Option<DockerCredentials>,
    ) -> Result<(), EngineError> {
        let options = CreateImageOptions {
            from_image: Some(reference.repository.clone()),
            tag: reference.digest.clone().or(reference.tag.clone()),
            ..CreateImageOptions::default()
        };
        let mut steps = std::pin::pin!(self.engine.create_image(Some(options), None, credentials));
        let mut progress = PullProgress::default();
        let quiet = Duration::from_millis(limits::PULL_QUIET_MS);
        loop {
            let step = timeout(quiet, steps.next()).await;
            let step = step
                .map_err(|_| EngineError::Unreachable(format!("nothing came for {} s", quiet.as_secs())))?;
            let Some(step) = step else { return Ok(()) };
            let step = step?;
            if let Some(error) = step.error_detail {
                return Err(EngineError::Said(500, error.message.unwrap_or_default()));
            }
            let detail = step.progress_detail.unwrap_or_default();
            if let Some(line) = progress.note(step.id, detail.current, detail.total) {
                let _ = writeln!(self.stderr, "stint: pulling {}: {line}", self.request.image);
            }
        }
    }
}

/// What a node has to show to a registry.
enum Login {
    None,
    Known(DockerCredentials),
    /// Its file of credentials is out of order: images for everybody are pulled all the same.
    Unusable(CredentialsError),
}

impl Login {
    fn sent(&self) -> Option<DockerCredentials> {
        if let Login::Known(found) = self { Some(found.clone()) } else { None }
    }

    fn is_unusable(&self) -> bool {
        matches!(self, Login::Unusable(_))
    }

    /// The end of an attempt whose image was not given in all tries. A registry may have had enough of a node only for
    /// not knowing it: that is no reason to keep the node from other tasks.
    fn gave_up(&self, message: String, fault: &EngineError) -> Verdict {
        match self {
            Login::Unusable(why) if !fault.is_unreachable() => {
                verdict(EndKind::FilesMissing, format!("{message}; {}", unusable(why)))
            }
            _ => verdict(EndKind::StartFailed, message),
        }
    }
}

/// What a refusal means for whoever named the image, and what to do.
fn advice(refusal: PullRefusal, registry: &str, login: &Login) -> String {
    match refusal {
        PullRefusal::NoSuchImage => format!("{registry} has no such image: check its name and its tag"),
        PullRefusal::NotForYou => format!(
            "{registry} has no such image, or not for everybody: check its name and its tag; {}",
            of_credentials(login, registry)
        ),
        PullRefusal::NotForThisMachine => {
            format!("{registry} has it, but not for machines like this one: name another one")
        }
        PullRefusal::NotARegistry => format!(
            "what answers at {registry} says that it is not there, and not as a registry would: check its name and \
             whether that is a registry"
        ),
    }
}

fn of_credentials(login: &Login, registry: &str) -> String {
    let file = "the file that executor.docker.credentials names";
    match login {
        Login::None => format!("the node has no credentials for {registry}: put some into {file}"),
        Login::Known(_) => {
            format!("the node sent the credentials that it has for {registry}: put others into {file}")
        }
        Login::Unusable(why) => unusable(why),
    }
}

fn unusable(why: &CredentialsError) -> String {
    format!("the node sent no credentials: {why} (executor.docker.credentials)")
}

/// The bytes of all layers of a pull.
#[derive(Default)]
struct PullProgress {
    layers: BTreeMap<String, (i64, i64)>,
    said_at: Option<Instant>,
}

impl PullProgress {
    /// Notes a step; words when it is time to say something again.
    fn note(&mut self, layer: Option<String>, current: Option<i64>, total: Option<i64>) -> Option<String> {
        let (current, total) = (current?, total?);
        if self.layers.len() < limits::PULL_LAYERS {
            self.layers.insert(layer?, (current, total));
        }
        let quiet = Duration::from_millis(limits::PULL_SAY_MS);
        if self.said_at.is_some_and(|at| at.elapsed() < quiet) {
            return None;
        }
        self.said_at = Some(Instant::now());
        let (current, total) =
            self.layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        let mib = |bytes: i64| bytes / (1 << 20);
        Some(format!("{} of {} MiB of the layers begun", mib(current), mib(total)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let of = |refusal, login: &Login| advice(refusal, "r.example", login);
        let file = "into the file that executor.docker.credentials names";
        let none = of(PullRefusal::NotForYou, &Login::None);
        assert!(none.contains("check its name"), "{none}");
        assert!(
            none.contains(&format!("the node has no credentials for r.example: put some {file}")),
            "{none}"
        );
        let wrong = of(PullRefusal::NotForYou, &Login::Known(DockerCredentials::default()));
        let sent = "sent the credentials that it has for r.example";
        assert!(wrong.contains(&format!("{sent}: put others {file}")), "{wrong}");
        for other in [PullRefusal::NoSuchImage, PullRefusal::NotForThisMachine, PullRefusal::NotARegistry] {
            let message = of(other, &Login::None);
            assert!(message.contains("r.example") && !message.contains("credentials"), "{message}");
        }
    }
}
