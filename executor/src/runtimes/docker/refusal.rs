//! What it means that a registry does not give an image, told from the daemon's words: nearly everything that a registry
//! answers comes with one HTTP status.

use super::engine::Fault;

/// Why a registry will not give an image soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has none of that name: nobody will get it.
    NoSuchImage,
    /// It is not for the one who asks, or not there: registries say the same of both.
    NotForYou,
    /// It is there, but not for machines like this one.
    NotForThisMachine,
    /// Something at its address says that it is not there, in words that are no registry's.
    NotARegistry,
}

const BUSY: [&str; 4] = ["toomanyrequests", "too many requests", "http status: 5", "service unavailable"];
const OF_ANOTHER_KIND: [&str; 2] = ["no matching manifest", "does not match the specified platform"];
const NOT_FOR_YOU: [&str; 9] = [
    "pull access denied",
    "unauthorized",
    "no basic auth credentials",
    "requested access",
    "insufficient_scope",
    "authorization failed",
    "401 unauthorized",
    "403 forbidden",
    "http 403 response",
];
const NO_SUCH_IMAGE: [&str; 7] = [
    "manifest unknown",
    "manifest for",
    "name unknown",
    "name invalid",
    "invalid reference format",
    "repository does not exist",
    "no such manifest",
];

/// What a failed pull says; none: it may go better soon.
pub fn of(fault: &Fault) -> Option<Refusal> {
    let words = fault.words().to_lowercase();
    let says = |told: &[&str]| told.iter().any(|part| words.contains(part));
    if fault.is_unreachable() || says(&BUSY) {
        return None;
    }
    // First what is told apart by more words: Docker Hub says of a name that it does not know that its repository does
    // not exist or needs a login.
    if says(&OF_ANOTHER_KIND) {
        Some(Refusal::NotForThisMachine)
    } else if says(&NOT_FOR_YOU) || words == "denied" || words.starts_with("denied:") {
        Some(Refusal::NotForYou)
    } else if says(&["http 404 response"]) {
        Some(Refusal::NotARegistry)
    } else if fault.status() == 404 || says(&NO_SUCH_IMAGE) || is_an_unknown_thing(&words) {
        Some(Refusal::NoSuchImage)
    } else {
        None
    }
}

/// Codes that the daemon does not know are `unknown` to it: Harbor's for what it does not have is one.
fn is_an_unknown_thing(words: &str) -> bool {
    words.starts_with("unknown:") && words.trim_end().ends_with("not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, words: &str) -> Option<Refusal> {
        of(&Fault::Said(status, words.into()))
    }

    #[test]
    fn what_nobody_will_get() {
        for (status, words) in [
            (404, "manifest for busybox:nope not found: manifest unknown: manifest unknown"),
            (404, "repository r.example/a not found: name unknown"),
            (404, "failed to resolve reference \"r.example/a:1\": r.example/a:1: not found"),
            (500, "manifest unknown"),
            (500, "name unknown: repository name not known to registry"),
            (500, "name invalid"),
            (500, "unknown: artifact a/b:1 not found"),
            (400, "invalid reference format: repository name must be lowercase"),
        ] {
            assert_eq!(said(status, words), Some(Refusal::NoSuchImage), "{words}");
        }
    }

    #[test]
    fn what_others_may_get() {
        for (status, words) in [
            (404, "pull access denied for a, repository does not exist or may require 'docker login'"),
            (500, "Head \"https://r.example/v2/a/manifests/1\": no basic auth credentials"),
            (500, "unauthorized: authentication required"),
            (500, "Unauthorized"),
            (500, "denied"),
            (500, "denied: requested access to the resource is denied"),
            (500, "error parsing HTTP 403 response body: unexpected end of JSON input: \"\""),
            (
                500,
                "failed to authorize: unexpected status from GET request to https://r.example: 403 Forbidden",
            ),
        ] {
            assert_eq!(said(status, words), Some(Refusal::NotForYou), "{words}");
        }
        let platform = "no matching manifest for linux/arm64/v8 in the manifest list entries";
        assert_eq!(said(404, platform), Some(Refusal::NotForThisMachine));
        let page =
            "error parsing HTTP 404 response body: invalid character '<' looking for beginning of value";
        assert_eq!(said(500, page), Some(Refusal::NotARegistry));
    }

    #[test]
    fn what_may_go_better_soon() {
        for words in [
            "received unexpected HTTP status: 503 Service Unavailable",
            "toomanyrequests: You have reached your unauthenticated pull rate limit.",
            "unexpected status from HEAD request to https://r.example/v2/a/manifests/1: 429 Too Many Requests",
            "Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host",
            "Get \"https://r.example/v2/\": dial tcp 127.0.0.1:443: connect: connection refused",
            "open /var/lib/docker/tmp/GetImageBlob1: permission denied",
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
        ] {
            assert_eq!(said(500, words), None, "{words}");
        }
        assert_eq!(of(&Fault::Unreachable("unauthorized".into())), None, "nobody said it");
    }
}
