//! Registered images: what they are, and how a task names one.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::blob::{Blob, Digest};
use crate::class::{Runtime, UnknownWord};
use crate::docker_image::Reference;
use crate::ids::{ImageId, ImageName, InvalidName};

/// Comes before the name of a registered image where a task names its image.
pub const SCHEME: &str = "stint://";

/// What an image is, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ImageSource {
    /// One executable file.
    #[n(0)]
    Executable(#[n(0)] Blob),
    /// A root file system as a tar archive, or an archive of one in layers (OCI layout, `docker save`).
    #[n(1)]
    Rootfs(#[n(0)] Blob),
    /// A reference that the Docker runtime pulls.
    #[n(2)]
    Docker(#[n(0)] String),
}

/// The word for what an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageKind {
    Executable,
    Rootfs,
    Docker,
}

impl ImageSource {
    /// The bytes that the cluster keeps for it.
    pub fn blob(&self) -> Option<Blob> {
        match self {
            ImageSource::Executable(blob) | ImageSource::Rootfs(blob) => Some(*blob),
            ImageSource::Docker(_) => None,
        }
    }

    /// What it is.
    pub fn kind(&self) -> ImageKind {
        match self {
            ImageSource::Executable(_) => ImageKind::Executable,
            ImageSource::Rootfs(_) => ImageKind::Rootfs,
            ImageSource::Docker(_) => ImageKind::Docker,
        }
    }
}

impl ImageKind {
    /// Every kind.
    pub const ALL: [ImageKind; 3] = [Self::Executable, Self::Rootfs, Self::Docker];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Executable => "executable",
            Self::Rootfs => "rootfs",
            Self::Docker => "docker",
        }
    }

    /// The runtimes that can run it; the mock one runs everything.
    pub fn runtimes(self) -> &'static [Runtime] {
        match self {
            Self::Executable => &[Runtime::Crun, Runtime::Process],
            Self::Rootfs => &[Runtime::Crun],
            Self::Docker => &[Runtime::Docker],
        }
    }
}

impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ImageKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord::new("image kind", word, "executable, rootfs, docker");
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(unknown)
    }
}

/// The image that a task was submitted with: what became of its name later does not matter to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinnedImage {
    #[n(0)]
    pub id: ImageId,
    #[n(1)]
    pub name: ImageName,
    #[n(2)]
    pub source: ImageSource,
}

impl PinnedImage {
    /// What a task's `image` says from then on: the name with the digest, or Docker's own reference.
    pub fn reference(&self) -> String {
        match &self.source {
            ImageSource::Executable(blob) | ImageSource::Rootfs(blob) => {
                format!("{SCHEME}{}@{}", self.name, blob.digest)
            }
            ImageSource::Docker(reference) => reference.clone(),
        }
    }
}

/// A registered image as a user names it: `NAME` or `NAME@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: ImageName,
    /// Only with this content.
    pub digest: Option<Digest>,
}

impl Named {
    /// What a task's `image` names in the registry; none when it is another kind of name.
    pub fn of_task(image: &str) -> Option<Result<Self, InvalidName>> {
        image.strip_prefix(SCHEME).map(str::parse)
    }
}

impl FromStr for Named {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('@') {
            Some((name, digest)) => {
                Ok(Self { name: ImageName::new(name)?, digest: Some(digest.parse::<Digest>()?) })
            }
            None => Ok(Self { name: ImageName::new(text)?, digest: None }),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => write!(f, "{}@{digest}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// What a task's `image` is, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// In the registry, which knows what it is.
    Registered,
    /// A folder or a program of the node.
    Path,
    /// What Docker pulls.
    Docker,
}

impl NameKind {
    /// None: it is no name of an image.
    pub fn read(image: &str) -> Option<Self> {
        if Named::of_task(image).is_some() {
            return Some(Self::Registered);
        }
        if image.starts_with('/') {
            return Some(Self::Path);
        }
        Reference::parse(image).is_ok().then_some(Self::Docker)
    }

    /// The runtime for a task that names none; none: the registry tells.
    pub fn runtime(self) -> Option<Runtime> {
        match self {
            Self::Registered => None,
            Self::Path => Some(Runtime::Crun),
            Self::Docker => Some(Runtime::Docker),
        }
    }

    /// Whether this runtime may be able to run it; the mock one runs everything.
    pub fn suits(self, runtime: Runtime) -> bool {
        match self {
            Self::Registered => true,
            Self::Path => matches!(runtime, Runtime::Crun | Runtime::Process),
            Self::Docker => runtime == Runtime::Docker,
        }
    }
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registered => "a registered image",
            Self::Path => "a path of the nodes",
            Self::Docker => "a Docker reference",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_what_runs_it() {
        let cases = [
            ("stint://team/tool:2", Some((NameKind::Registered, None))),
            ("stint://a/../b", Some((NameKind::Registered, None))),
            ("/srv/roots/py", Some((NameKind::Path, Some(Runtime::Crun)))),
            ("pytorch/pytorch:2.9", Some((NameKind::Docker, Some(Runtime::Docker)))),
            ("busybox", Some((NameKind::Docker, Some(Runtime::Docker)))),
            ("registry.example:5000/a/b", Some((NameKind::Docker, Some(Runtime::Docker)))),
            ("./rootfs", None),
            ("docker://busybox", None),
            ("Tool", None),
        ];
        for (image, expected) in cases {
            assert_eq!(NameKind::read(image).map(|kind| (kind, kind.runtime())), expected, "{image}");
        }
    }

    #[test]
    fn a_task_names_an_image_by_name_or_by_name_and_digest() {
        let digest = Digest::from_bytes([7; 32]);
        let plain = Named::of_task("stint://team/tool:2").unwrap().unwrap();
        assert_eq!((plain.name.as_str(), plain.digest), ("team/tool:2", None));
        let pinned = Named::of_task(&format!("stint://tool@{digest}")).unwrap().unwrap();
        assert_eq!((pinned.name.as_str(), pinned.digest), ("tool", Some(digest)));
        assert_eq!(pinned.to_string().parse::<Named>().unwrap(), pinned);
        assert!(Named::of_task("ghcr.io/team/tool:2").is_none());
        for wrong in ["stint://", "stint://a/../b", "stint://tool@", "stint://tool@sha256:00"] {
            assert!(Named::of_task(wrong).unwrap().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_task_says_of_its_pinned_image_names_it_again() {
        let blob = Blob { digest: Digest::from_bytes([9; 32]), size: 5 };
        let name = ImageName::new("tool").unwrap();
        let image = PinnedImage { id: ImageId(1), name: name.clone(), source: ImageSource::Rootfs(blob) };
        let named = Named::of_task(&image.reference()).unwrap().unwrap();
        assert_eq!(named, Named { name, digest: Some(blob.digest) });
    }
}
