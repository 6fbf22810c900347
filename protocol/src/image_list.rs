//! Which images the tasks of a tenant may name, as patterns of their names.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::docker_image::{Reference, glob};
use crate::image::{NameKind, SCHEME};
use crate::limits;

/// The word for a list that allows every image.
const ANY: &str = "any";

/// Patterns of images; none: any image. `*` stays inside one part of a path, `**` goes across, and what ends in `/` means all
/// below. Patterns of registered images begin with `stint://`, those of paths with `/`; all others are of Docker references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageList(Vec<String>);

/// Why a text is no list of images.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImageList {
    #[error("names no image: write \"any\" to allow all, or patterns with commas between them")]
    Empty,
    #[error("\"any\" stands alone, without other patterns")]
    AnyAndOthers,
    #[error(
        "{0:?} is no pattern of images: write for example \"ghcr.io/team/*\", \"stint://team/*\" or \"/images/\""
    )]
    Malformed(String),
    #[error("names {0} patterns; {most} at most", most = limits::TENANT_IMAGES)]
    TooMany(usize),
    #[error("takes {0} bytes; {most} at most", most = limits::TENANT_IMAGES_BYTES)]
    TooLong(usize),
}

impl ImageList {
    /// Whether every image may be named.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// None: every image may be named.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }

    /// Whether a task may name this image. A registered one is named as its pin does, with the digest; one that stands for a Docker
    /// reference counts as that reference.
    pub fn allows(&self, image: &str) -> bool {
        self.is_any() || self.0.iter().any(|pattern| matches(pattern, image))
    }

    /// Its patterns can be meant, and are not more than every peer keeps of each tenant.
    pub fn check(&self) -> Result<(), InvalidImageList> {
        let bytes: usize = self.0.iter().map(|pattern| pattern.len() + 1).sum();
        match self.0.iter().find(|pattern| !is_pattern(pattern)) {
            Some(pattern) => Err(InvalidImageList::Malformed(pattern.clone())),
            None if self.0.len() > limits::TENANT_IMAGES => Err(InvalidImageList::TooMany(self.0.len())),
            None if bytes > limits::TENANT_IMAGES_BYTES => Err(InvalidImageList::TooLong(bytes)),
            None => Ok(()),
        }
    }
}

impl FromStr for ImageList {
    type Err = InvalidImageList;

    fn from_str(text: &str) -> Result<Self, InvalidImageList> {
        let mut patterns: Vec<String> = Vec::new();
        for pattern in text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()) {
            if !patterns.iter().any(|known| known == pattern) {
                patterns.push(pattern.into());
            }
        }
        match &patterns[..] {
            [] => Err(InvalidImageList::Empty),
            [only] if only == ANY => Ok(Self::default()),
            all if all.iter().any(|pattern| pattern == ANY) => Err(InvalidImageList::AnyAndOthers),
            _ => {
                let list = Self(patterns);
                list.check().map(|()| list)
            }
        }
    }
}

impl fmt::Display for ImageList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() { f.write_str(ANY) } else { f.write_str(&self.0.join(",")) }
    }
}

/// A list that allows every image is not written: rules without one are read and written as before there were any.
impl<C> Encode<C> for ImageList {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }

    fn is_nil(&self) -> bool {
        self.is_any()
    }
}

impl<'b, C> Decode<'b, C> for ImageList {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        Decode::decode(d, ctx).map(Self)
    }

    fn nil() -> Option<Self> {
        Some(Self::default())
    }
}

fn matches(pattern: &str, image: &str) -> bool {
    if pattern == "*" || pattern == "**" {
        return true;
    }
    let below = pattern.strip_suffix('/').map(|folder| format!("{folder}/**"));
    let pattern = below.as_deref().unwrap_or(pattern);
    match NameKind::read(image) {
        Some(NameKind::Registered) => pattern.strip_prefix(SCHEME).is_some_and(|pattern| {
            let name = image.strip_prefix(SCHEME).unwrap_or(image);
            let (name, digest) = name.split_once('@').unwrap_or((name, ""));
            let (of_name, of_digest) = pattern.split_once('@').unwrap_or((pattern, "**"));
            glob(of_name.as_bytes(), name.as_bytes()) && glob(of_digest.as_bytes(), digest.as_bytes())
        }),
        Some(NameKind::Path) => {
            pattern.starts_with('/')
                && plain_path(image).is_some_and(|path| glob(pattern.as_bytes(), path.as_bytes()))
        }
        Some(NameKind::Docker) => {
            of_docker(pattern) && Reference::parse(image).is_ok_and(|image| image.matches(pattern))
        }
        None => false,
    }
}

fn of_docker(pattern: &str) -> bool {
    !pattern.starts_with(SCHEME) && !pattern.starts_with('/')
}

/// The path as it reads without empty parts; none: a part of it leads back up, so its text does not say where it leads.
fn plain_path(path: &str) -> Option<String> {
    let mut plain = String::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => {
                plain.push('/');
                plain.push_str(part.to_str()?);
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// Whether any image could match it. What stands in it for anything is tried as one letter.
fn is_pattern(pattern: &str) -> bool {
    if pattern == "*" || pattern == "**" {
        return true;
    }
    if pattern.is_empty() || !pattern.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        return false;
    }
    let (name, digest) = match pattern.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (pattern, None),
    };
    let is_digest = |digest: &str| {
        let part = digest.strip_prefix("sha256:").map_or(digest, |hex| hex);
        !part.is_empty() && part.bytes().all(|byte| byte == b'*' || byte.is_ascii_hexdigit())
    };
    if !digest.is_none_or(is_digest) {
        return false;
    }
    let example = match name.strip_suffix('/') {
        Some(folder) => format!("{folder}/a"),
        None => name.to_owned(),
    };
    let example = example.replace("**", "a").replace('*', "a");
    match NameKind::read(&example) {
        Some(NameKind::Registered) => {
            example.strip_prefix(SCHEME).is_some_and(|name| crate::ImageName::new(name).is_ok())
        }
        Some(NameKind::Path) => digest.is_none() && plain_path(&example).is_some_and(|path| path == example),
        Some(NameKind::Docker) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn list(text: &str) -> ImageList {
        text.parse().unwrap()
    }

    #[test]
    fn a_list_allows_what_one_of_its_patterns_matches() {
        let pinned = format!("stint://team/tool:2@{DIGEST}");
        let cases = [
            ("any", "evil.example/x", true),
            ("*", "/etc", true),
            ("**", &pinned, true),
            ("ghcr.io/acme/*", "ghcr.io/acme/tool:3", true),
            ("ghcr.io/acme/*", "ghcr.io/acme/deep/tool", false),
            ("ghcr.io/acme/", "ghcr.io/acme/deep/tool", true),
            ("ghcr.io/acme/", "ghcr.io/acme-too/tool", false),
            ("ghcr.io/acme/**", "stint://ghcr.io/acme/tool", false),
            ("**/*", "stint://tool", false),
            ("**/*", "/tool", false),
            ("busybox:1.*", "docker.io/library/busybox:1.36", true),
            ("busybox:1.*", "busybox", false),
            ("evil.example/x,busybox", "busybox", true),
            ("stint://team/*", &pinned, true),
            ("stint://team/tool:2", &pinned, true),
            ("stint://team/tool", &pinned, false),
            ("stint://**@sha256:01*", &pinned, true),
            ("stint://**@sha256:1*", &pinned, false),
            ("stint://team/tool:2@sha256:01*", "stint://team/tool:2", false),
            ("team/*", "stint://team/tool", false),
            ("/images/", "/images/py", true),
            ("/images/", "/images//./py", true),
            ("/images/", "/images/../etc", false),
            ("/images/", "/images", false),
            ("/images/*", "/images/py/deep", false),
            ("/images/py", "/images/py/", true),
            ("*/tool", "ghcr.io/tool", true),
            ("/**", "tool", false),
            ("stint://", &pinned, true),
            ("stint://,/", "tool", false),
            ("/", "/etc", true),
        ];
        for (patterns, image, allowed) in cases {
            assert_eq!(list(patterns).allows(image), allowed, "{patterns} and {image}");
        }
    }

    #[test]
    fn a_list_reads_back_and_what_no_image_could_match_is_refused() {
        for text in
            ["any", "*", "ghcr.io/acme/*,stint://tool,/images/", "localhost:5000/**:1.*", "a@sha256:*"]
        {
            assert_eq!(list(text).to_string(), text);
            let bytes = minicbor::to_vec(list(text)).unwrap();
            assert_eq!(minicbor::decode::<ImageList>(&bytes).unwrap(), list(text));
        }
        assert_eq!(list(" a , b,a,"), list("a,b"));
        for bad in [
            "",
            ",",
            "UPPER/x",
            "a b",
            "stint://a/../b",
            "/a/../b",
            "/a//b",
            "docker://x",
            "https://ghcr.io/x",
            "a:b:c",
            "a@sha256:xyz",
            "/images@sha256:00",
            "any,busybox",
            "é",
        ] {
            assert!(bad.parse::<ImageList>().is_err(), "{bad:?} was taken");
        }
        let many: Vec<String> = (0..limits::TENANT_IMAGES).map(|n| format!("a{n}")).collect();
        assert!(many.join(",").parse::<ImageList>().is_ok());
        let refused = format!("{},b", many.join(",")).parse::<ImageList>().unwrap_err();
        assert_eq!(refused, InvalidImageList::TooMany(limits::TENANT_IMAGES + 1));
        let long = |bytes| "a".repeat(bytes - 1).parse::<ImageList>();
        assert!(long(limits::TENANT_IMAGES_BYTES).is_ok());
        assert!(matches!(long(limits::TENANT_IMAGES_BYTES + 1), Err(InvalidImageList::TooLong(_))));
    }
}
