//! What the execution host of this peer tells: counters of what was done for attempts here since this process began.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use stint_executor::{Artifact, Observer, PullEnd, Rule};

use crate::applied_state::AppliedState;
use crate::task_metrics::BUCKETS_S;

/// Where an image was pulled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// A Docker registry, by the daemon.
    Registry,
    /// The bytes of a registered image, fetched, checked and unpacked.
    Cluster,
}

impl ImageSource {
    const ALL: [ImageSource; 2] = [ImageSource::Registry, ImageSource::Cluster];

    fn as_str(self) -> &'static str {
        match self {
            ImageSource::Registry => "registry",
            ImageSource::Cluster => "cluster",
        }
    }
}

/// The counters of one peer's execution host.
pub struct ExecutorMetrics {
    pulls: HistogramVec,
    denied: IntCounterVec,
    moved: IntCounterVec,
}

impl ExecutorMetrics {
    /// Nothing was done yet; every series is there from the beginning.
    pub fn new() -> Result<Self, prometheus::Error> {
        let help = "How long images took to be here, pulled or not";
        let pulls = HistogramOpts::new("stint_image_pull_duration_seconds", help).buckets(BUCKETS_S.to_vec());
        let pulls = HistogramVec::new(pulls, &["source", "outcome"])?;
        let help = "Attempts that a rule of this node's configuration forbade";
        let denied = IntCounterVec::new(Opts::new("stint_policy_denied_total", help), &["rule"])?;
        let help = "Bytes of inputs placed for attempts on this node, and of outputs kept for them";
        let moved = Opts::new("stint_artifact_bytes_total", help);
        let moved = IntCounterVec::new(moved, &["direction", "scheme"])?;
        for source in ImageSource::ALL {
            for end in PullEnd::ALL {
                pulls.with_label_values(&[source.as_str(), end.as_str()]);
            }
        }
        for rule in Rule::ALL {
            denied.with_label_values(&[rule.as_str()]);
        }
        for artifact in Artifact::ALL {
            moved.with_label_values(&[artifact.direction(), artifact.scheme()]);
        }
        Ok(Self { pulls, denied, moved })
    }

    /// An image was pulled, or could not be.
    pub fn pulled(&self, source: ImageSource, end: PullEnd, took: Duration) {
        self.pulls.with_label_values(&[source.as_str(), end.as_str()]).observe(took.as_secs_f64());
    }

    /// Adds them to what is shown.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let all: [Box<dyn Collector>; 3] =
            [Box::new(self.pulls.clone()), Box::new(self.denied.clone()), Box::new(self.moved.clone())];
        all.into_iter().try_for_each(|one| registry.register(one))
    }
}

/// A peer as its execution host sees it.
pub struct MetricsObserver(pub Arc<AppliedState>);

impl Observer for MetricsObserver {
    fn denied(&self, rule: Rule) {
        self.0.work.denied.with_label_values(&[rule.as_str()]).inc();
    }

    fn pulled(&self, end: PullEnd, took: Duration) {
        self.0.work.pulled(ImageSource::Registry, end, took);
    }

    fn moved(&self, artifact: Artifact, bytes: u64) {
        self.0.work.moved.with_label_values(&[artifact.direction(), artifact.scheme()]).inc_by(bytes);
    }
}
