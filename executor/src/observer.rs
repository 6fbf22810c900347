//! The door to whoever counts what is done for attempts while they are executed.

use std::fmt;
use std::time::Duration;

/// A rule of the operator that forbids attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    AllowedImages,
    RequireDigest,
    CrunRoots,
    ArtifactRoots,
    Mounts,
}

impl Rule {
    pub const ALL: [Rule; 5] =
        [Rule::AllowedImages, Rule::RequireDigest, Rule::CrunRoots, Rule::ArtifactRoots, Rule::Mounts];

    /// Its key in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::AllowedImages => "executor.docker.allowed_images",
            Rule::RequireDigest => "executor.docker.require_digest",
            Rule::CrunRoots => "executor.crun.roots",
            Rule::ArtifactRoots => "artifacts.roots",
            Rule::Mounts => "executor.mounts",
        }
    }
}

/// What came of a pull of an image from its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullEnd {
    Pulled,
    /// The registry has no such image, or none for us.
    Missing,
    Failed,
}

impl PullEnd {
    pub const ALL: [PullEnd; 3] = [PullEnd::Pulled, PullEnd::Missing, PullEnd::Failed];

    /// The word users see.
    pub fn as_str(self) -> &'static str {
        match self {
            PullEnd::Pulled => "pulled",
            PullEnd::Missing => "missing",
            PullEnd::Failed => "failed",
        }
    }
}

/// Where bytes of an attempt's files went, and between what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// An input that came with its task.
    Content,
    /// An input out of an open folder of the node.
    File,
    /// An input that the cluster kept.
    Blob,
    /// An output, kept by the cluster.
    Output,
}

impl Artifact {
    pub const ALL: [Artifact; 4] = [Artifact::Content, Artifact::File, Artifact::Blob, Artifact::Output];

    /// Seen from the attempt: `in` or `out`.
    pub fn direction(self) -> &'static str {
        if self == Artifact::Output { "out" } else { "in" }
    }

    /// The word of task files for where the bytes lie.
    pub fn scheme(self) -> &'static str {
        match self {
            Artifact::Content => "content",
            Artifact::File => "file",
            Artifact::Blob | Artifact::Output => "blob",
        }
    }
}

/// DOOR: a node, as its execution host sees it. A host has none in a test that needs none.
pub trait Observer: Send + Sync + 'static {
    /// A rule forbade an attempt.
    fn denied(&self, rule: Rule);
    /// An image was pulled, or could not be, after this long.
    fn pulled(&self, end: PullEnd, took: Duration);
    /// Bytes of a file that an attempt got or left.
    fn moved(&self, artifact: Artifact, bytes: u64);
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an observer")
    }
}
