//! Names of images of Docker: their full form, and which of them an operator allows.

/// An image's name in full: registry, path, and tag or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// With the registry: `docker.io/library/busybox`.
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:…`; wins over a tag.
    pub digest: Option<String>,
}

/// Why a name is none of an image, or may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefusal {
    #[error("{0:?} is no name of a Docker image: write registry/path:tag or registry/path@sha256:…")]
    Malformed(String),
    #[error(
        "image {name} is not allowed on this node: its executor.docker.allowed_images {}",
        if *.none { "is empty, which allows none".to_owned() } else { "has no pattern that matches".to_owned() }
    )]
    NotAllowed { name: String, none: bool },
    #[error(
        "image {0} is named by tag: this node wants a digest (name@sha256:…, executor.docker.require_digest)"
    )]
    NoDigest(String),
}

impl Reference {
    /// The full form of what a user wrote: `busybox` is `docker.io/library/busybox:latest`.
    pub fn parse(text: &str) -> Result<Self, ImageRefusal> {
        let malformed = || ImageRefusal::Malformed(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(malformed());
        }
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(malformed());
        }
        let repository = with_registry(path);
        let (registry, inside) = repository.split_once('/').ok_or_else(malformed)?;
        let good_registry = registry.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && registry.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
        if !good_registry || !inside.split('/').all(is_component) {
            return Err(malformed());
        }
        let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
        Ok(Self { repository, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }

    /// Where it is pulled from, with its port.
    pub fn registry(&self) -> &str {
        self.repository.split('/').next().unwrap_or_default()
    }

    /// Every part of it.
    pub fn full(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.repository)
    }

    /// Whether an operator's rules let it run. No pattern allows nothing; `*` stays inside one part of the path, `**`
    /// goes across. A pattern without a tag or digest means every one of them. One with a tag alone means no image that is named by
    /// digest: Docker pulls that, whatever tag stands before it.
    pub fn check(&self, allowed: &[String], require_digest: bool) -> Result<(), ImageRefusal> {
        if !allowed.iter().any(|pattern| self.matches(pattern)) {
            return Err(ImageRefusal::NotAllowed { name: self.full(), none: allowed.is_empty() });
        }
        if require_digest && self.digest.is_none() {
            return Err(ImageRefusal::NoDigest(self.full()));
        }
        Ok(())
    }

    pub(crate) fn matches(&self, pattern: &str) -> bool {
        if pattern == "*" || pattern == "**" {
            return true;
        }
        let (rest, digest) = match pattern.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (pattern, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        let part = |pattern: Option<&str>, own: &Option<String>| match (pattern, own) {
            (None, _) => true,
            (Some(pattern), Some(own)) => glob(pattern.as_bytes(), own.as_bytes()),
            (Some(_), None) => false,
        };
        let by_tag_alone = tag.is_some() && digest.is_none();
        glob(with_registry(path).as_bytes(), self.repository.as_bytes())
            && !(by_tag_alone && self.digest.is_some())
            && part(tag, &self.tag)
            && part(digest, &self.digest)
    }
}

/// A path with its registry: the first part is one when it has a dot or a port, or is `localhost` or `**`.
fn with_registry(path: &str) -> String {
    match path.split_once('/') {
        Some((first, _)) if first.contains(['.', ':', '*']) || first == "localhost" => path.to_owned(),
        Some(_) => format!("docker.io/{path}"),
        None => format!("docker.io/library/{path}"),
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(plain) && text.bytes().next_back().is_some_and(plain);
    ends && text.bytes().all(|b| plain(b) || b"._-".contains(&b))
}

/// `*` matches anything but a slash, `**` anything. It takes no more steps than the product of both lengths.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    // Where the last `*` and the last `**` go on, in the pattern and in the text.
    let (mut star, mut stars) = (None, None);
    while place < text.len() {
        match pattern.get(at) {
            Some(b'*') if pattern.get(at + 1) == Some(&b'*') => {
                at += 2;
                (star, stars) = (None, Some((at, place)));
            }
            Some(b'*') => {
                at += 1;
                star = Some((at, place));
            }
            Some(byte) if *byte == text[place] => (at, place) = (at + 1, place + 1),
            _ => match (star, stars) {
                (Some((after, took)), _) if text[took] != b'/' => {
                    (at, place) = (after, took + 1);
                    star = Some((after, place));
                }
                (_, Some((after, took))) => {
                    (at, place) = (after, took + 1);
                    (star, stars) = (None, Some((after, place)));
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn allowed(image: &str, patterns: &[&str]) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
        Reference::parse(image).unwrap().check(&patterns, false).is_ok()
    }

    #[test]
    fn short_names_are_made_full() {
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("pytorch/pytorch:2.9", "docker.io/pytorch/pytorch:2.9"),
            ("localhost/x", "localhost/x:latest"),
            ("registry.example:5000/a/b", "registry.example:5000/a/b:latest"),
        ];
        for (short, full) in cases {
            assert_eq!(Reference::parse(short).unwrap().full(), full);
        }
        let pinned = format!("ghcr.io/a/b@{DIGEST}");
        assert_eq!(Reference::parse(&pinned).unwrap().full(), pinned);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "UPPER",
            "a b",
            "a:",
            "a@sha256:12",
            "-a",
            "a/../b",
            "/etc/passwd",
            "a:b:c",
            "x/$(id)",
            "./a",
            "../a",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn nothing_is_allowed_until_a_pattern_matches() {
        assert!(!allowed("busybox", &[]));
        assert!(allowed("busybox", &["busybox"]));
        assert!(allowed("busybox:1", &["busybox"]));
        assert!(!allowed("busybox:2", &["busybox:1"]));
        // Docker pulls the digest, whatever the tag.
        let pinned = format!("busybox:1@{DIGEST}");
        assert!(!allowed(&pinned, &["busybox:1"]) && !allowed(&pinned, &["busybox:*"]));
        assert!(allowed(&pinned, &["busybox"]) && allowed(&pinned, &["busybox:1@sha256:*", "a"]));
        assert!(allowed("docker.io/library/busybox:1.36", &["busybox:1.*"]));
        assert!(!allowed("evil/busybox", &["busybox"]));
        assert!(!allowed("evil.example/library/busybox", &["busybox"]));
        assert!(allowed("ghcr.io/team/x", &["ghcr.io/team/*"]));
        assert!(!allowed("ghcr.io/team/deep/x", &["ghcr.io/team/*"]));
        assert!(allowed("ghcr.io/team/deep/x", &["ghcr.io/team/**"]));
        assert!(allowed("anything.example/at/all:1", &["*"]));
    }

    /// As it reads, and exponential.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            [b'*', rest @ ..] => {
                let most = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
                (0..=most).any(|skip| slow(rest, &text[skip..]))
            }
            [first, rest @ ..] => text.first() == Some(first) && slow(rest, &text[1..]),
        }
    }

    fn strings(letters: &[u8], most: usize) -> Vec<Vec<u8>> {
        let mut all = vec![vec![]];
        let mut last = all.clone();
        for _ in 0..most {
            let longer = last.iter().flat_map(|word| letters.iter().map(|l| [&word[..], &[*l]].concat()));
            last = longer.collect();
            all.extend(last.clone());
        }
        all
    }

    #[test]
    fn patterns_match_as_they_read_and_soon() {
        let texts = strings(b"ab/", 5);
        for pattern in strings(b"a/*", 5) {
            for text in &texts {
                assert_eq!(glob(&pattern, text), slow(&pattern, text), "{pattern:?} {text:?}");
            }
        }
        let (pattern, text) = ("**a".repeat(100) + "b", "a".repeat(10_000));
        assert!(!glob(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn a_digest_can_be_demanded() {
        let all = ["**".to_owned()];
        assert!(matches!(
            Reference::parse("busybox:1").unwrap().check(&all, true),
            Err(ImageRefusal::NoDigest(_))
        ));
        assert!(Reference::parse(&format!("busybox@{DIGEST}")).unwrap().check(&all, true).is_ok());
    }
}
