//! What it means that a registry does not give an image, told from the daemon's words: nearly everything that a registry
//! answers comes with one HTTP status.

use super::engine::EngineError;

/// Why a registry will not give an image soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullRefusal {
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
pub fn refusal_in(fault: &EngineError) -> Option<PullRefusal> {
    let message = fault.message().to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|part| message.contains(part));
    if fault.is_unreachable() || says(&BUSY) {
        return None;
    }
    // First what is told apart by more words: Docker Hub says of a name that it does not know that its repository does
    // not exist or needs a login.
    if says(&OF_ANOTHER_KIND) {
        Some(PullRefusal::NotForThisMachine)
    } else if says(&NOT_FOR_YOU) || message == "denied" || message.starts_with("denied:") {
        Some(PullRefusal::NotForYou)
    } else if says(&["http 404 response"]) {
        Some(PullRefusal::NotARegistry)
    } else if fault.status() == 404 || says(&NO_SUCH_IMAGE) || is_an_unknown_thing(&message) {
        Some(PullRefusal::NoSuchImage)
    } else {
        None
    }
}

/// Codes that the daemon does not know are `unknown` to it: Harbor's for what it does not have is one.
fn is_an_unknown_thing(message: &str) -> bool {
    message.starts_with("unknown:") && message.trim_end().ends_with("not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, message: &str) -> Option<PullRefusal> {
        refusal_in(&EngineError::Said(status, message.into()))
    }

    #[test]
    fn what_nobody_will_get() {
        for (status, message) in [
            (404, "manifest for busybox:nope not found: manifest unknown: manifest unknown"),
            (404, "repository r.example/a not found: name unknown"),
            (404, "failed to resolve reference \"r.example/a:1\": r.example/a:1: not found"),
            (500, "manifest unknown"),
            (500, "name unknown: repository name not known to registry"),
            (500, "name invalid"),
            (500, "unknown: artifact a/b:1 not found"),
            (400, "invalid reference format: repository name must be lowercase"),
        ] {
            assert_eq!(said(status, message), Some(PullRefusal::NoSuchImage), "{message}");
        }
    }

    #[test]
    fn what_others_may_get() {
        for (status, message) in [
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
            assert_eq!(said(status, message), Some(PullRefusal::NotForYou), "{message}");
        }
        let platform = "no matching manifest for linux/arm64/v8 in the manifest list entries";
        assert_eq!(said(404, platform), Some(PullRefusal::NotForThisMachine));
        let page =
            "error parsing HTTP 404 response body: invalid character '<' looking for beginning of value";
        assert_eq!(said(500, page), Some(PullRefusal::NotARegistry));
    }

    #[test]
    fn what_may_go_better_soon() {
        for message in [
            "received unexpected HTTP status: 503 Service Unavailable",
            "toomanyrequests: You have reached your unauthenticated pull rate limit.",
            "unexpected status from HEAD request to https://r.example/v2/a/manifests/1: 429 Too Many Requests",
            "Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host",
            "Get \"https://r.example/v2/\": dial tcp 127.0.0.1:443: connect: connection refused",
            "open /var/lib/docker/tmp/GetImageBlob1: permission denied",
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
        ] {
            assert_eq!(said(500, message), None, "{message}");
        }
        assert_eq!(refusal_in(&EngineError::Unreachable("unauthorized".into())), None, "nobody said it");
    }
}
