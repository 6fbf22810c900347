//! Credentials for registries, out of the file that `docker login` writes. They are read for each pull, so that new ones
//! count at once, and stand nowhere else: no order, no message and no log has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bollard::auth::DockerCredentials;
use serde::Deserialize;

use crate::limits;

/// How Docker Hub is called in names of images, and how `docker login` calls it.
const HUB: &str = "docker.io";
const HUB_INDEX: &str = "index.docker.io";

/// The credentials of a file, by registry.
pub struct Credentials {
    path: PathBuf,
    file: Written,
}

/// Why a file of credentials cannot be used. Never says anything of its content.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("the credentials {} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the credentials {0} can be read by others (mode {mode:04o}): chmod 600 {0}", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "the credentials {} are no file as `docker login` writes it: {what}", path.display()
    )]
    Malformed { path: PathBuf, what: String },
    #[error(
        "the credentials {} leave those of {registry} to a helper program, which is not asked: write them with \
         `docker --config FOLDER login` where no credsStore is set",
        path.display()
    )]
    Helper { path: PathBuf, registry: String },
}

/// `config.json` of the Docker client, as far as it is used.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    auths: BTreeMap<String, Login>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    /// `user:password` in base64.
    auth: String,
    identitytoken: Option<String>,
}

impl Credentials {
    /// Reads the file. Only its owner may be able to read it.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let unreadable = |source| CredentialsError::Read { path: path.into(), source };
        let file = File::open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        let mode = found.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Open { path: path.into(), mode });
        }
        let malformed = |what: String| CredentialsError::Malformed { path: path.into(), what };
        if !found.is_file() || found.size() > limits::CREDENTIALS_BYTES {
            let most = limits::CREDENTIALS_BYTES;
            return Err(malformed(format!("it has {} bytes, or is no file; {most} at most", found.size())));
        }
        let mut text = Vec::new();
        file.take(limits::CREDENTIALS_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, CredentialsError> {
        let malformed = |what: String| CredentialsError::Malformed { path: path.into(), what };
        // The words of the parser may quote a secret.
        let place = |e: serde_json::Error| format!("line {}, column {}", e.line(), e.column());
        let file: Written = serde_json::from_slice(text).map_err(|e| malformed(place(e)))?;
        let read = Self { path: path.into(), file };
        let wrong =
            read.file.auths.iter().find(|(_, login)| !login.auth.is_empty() && login.pair().is_none());
        match wrong {
            Some((registry, _)) => {
                let what = format!("auth of {registry:?} is not user:password in base64");
                Err(CredentialsError::Malformed { path: path.into(), what })
            }
            None => Ok(read),
        }
    }

    /// What is sent to a registry (`docker.io`, `registry.example:5000`); none: nothing is.
    pub fn for_registry(&self, registry: &str) -> Result<Option<DockerCredentials>, CredentialsError> {
        let asks = |key: &str| host(key) == Some(registry);
        // A registry may stand there under several keys, some of them empty: `docker login` and helpers leave such.
        let mut logins =
            self.file.auths.iter().filter(|(key, _)| asks(key)).map(|(_, login)| login).peekable();
        let named = logins.peek().is_some() && self.file.creds_store.is_some();
        let sent = logins.find_map(Login::credentials);
        if sent.is_none() && (named || self.file.cred_helpers.keys().any(|key| asks(key))) {
            return Err(CredentialsError::Helper { path: self.path.clone(), registry: registry.into() });
        }
        let address = if registry == HUB { "https://index.docker.io/v1/" } else { registry };
        Ok(sent.map(|sent| DockerCredentials { serveraddress: Some(address.into()), ..sent }))
    }
}

impl Login {
    fn pair(&self) -> Option<(String, String)> {
        let bytes = STANDARD.decode(&self.auth).or_else(|_| STANDARD_NO_PAD.decode(&self.auth)).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }

    fn credentials(&self) -> Option<DockerCredentials> {
        let identitytoken = self.identitytoken.clone().filter(|token| !token.is_empty());
        let pair = self.pair();
        if pair.is_none() && identitytoken.is_none() {
            return None;
        }
        let (username, password) = pair.unzip();
        Some(DockerCredentials { username, password, identitytoken, ..DockerCredentials::default() })
    }
}

/// The registry of a key of `auths`, as names of images call it; none: the key is for a part of a registry only.
fn host(key: &str) -> Option<&str> {
    let bare = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let whole = matches!(path.trim_end_matches('/'), "" | "v1" | "v2");
    whole.then_some(if host == HUB_INDEX { HUB } else { host })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Stored(tempfile::TempDir);

    impl Stored {
        fn new(text: &str, mode: u32) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("config.json");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Self(folder)
        }

        fn read(&self) -> Result<Credentials, CredentialsError> {
            Credentials::read(&self.0.path().join("config.json"))
        }
    }

    fn refused(text: &str, mode: u32) -> String {
        Stored::new(text, mode).read().err().unwrap().to_string()
    }

    /// `robot:s3cret` and `a:b:c`.
    const FILE: &str = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"cm9ib3Q6czNjcmV0"},
        "registry.example:5000":{"auth":"YTpiOmM"},"quay.example/team":{"auth":"cm9ib3Q6czNjcmV0"},
        "token.example":{"auth":"","identitytoken":"t0ken"},"empty.example":{}},"detachKeys":"x"}"#;

    #[test]
    fn each_registry_gets_its_own_and_no_other() {
        let credentials = Stored::new(FILE, 0o600).read().unwrap();
        let of = |registry: &str| {
            credentials.for_registry(registry).unwrap().map(|c| (c.username, c.password, c.identitytoken))
        };
        let pair = |user: &str, password: &str| Some((Some(user.into()), Some(password.into()), None));
        assert_eq!(of("docker.io"), pair("robot", "s3cret"));
        assert_eq!(of("registry.example:5000"), pair("a", "b:c"));
        assert_eq!(of("token.example"), Some((None, None, Some("t0ken".into()))));
        for none in ["registry.example", "quay.example", "empty.example", "elsewhere.example"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_registry_under_several_keys_gets_the_first_that_has_credentials() {
        let of = |text: &str| {
            let found = Stored::new(text, 0o600).read().unwrap().for_registry("r.example").unwrap();
            found.map(|found| (found.username.unwrap(), found.password.unwrap()))
        };
        let robot = Some(("robot".to_owned(), "s3cret".to_owned()));
        let full = r#""r.example":{"auth":"cm9ib3Q6czNjcmV0"}"#;
        for empty in [r#""https://r.example":{}"#, r#""http://r.example/v1/":{"auth":""}"#] {
            assert_eq!(of(&format!(r#"{{"auths":{{{empty},{full}}}}}"#)), robot, "{empty}");
            assert_eq!(
                of(&format!(r#"{{"auths":{{{empty},{full}}},"credsStore":"pass"}}"#)),
                robot,
                "{empty}"
            );
            assert_eq!(of(&format!(r#"{{"auths":{{{empty}}}}}"#)), None, "{empty}");
        }
        let two =
            r#"{"auths":{"r.example":{"auth":"YTpiOmM"},"https://r.example":{"auth":"cm9ib3Q6czNjcmV0"}}}"#;
        assert_eq!(of(two), robot, "the first of the file's keys in order");
    }

    #[test]
    fn what_others_can_read_or_nobody_is_refused_without_a_word_of_it() {
        assert!(refused(FILE, 0o644).contains("can be read by others (mode 0644): chmod 600 /"));
        assert!(refused(FILE, 0o640).contains("mode 0640"));
        let missing = Credentials::read(Path::new("/nowhere/config.json")).err().unwrap().to_string();
        assert!(missing.contains("/nowhere/config.json cannot be read"), "{missing}");
        for text in [r#"{"auths":"s3cret"}"#, r#"{"auths":{"a":{"auth":"czNjcmV0"}}}"#, "s3cret", "{"] {
            let message = refused(text, 0o600);
            assert!(message.contains("docker login") && !message.contains("s3cret"), "{message}");
            assert!(!message.contains("czNj"), "{message}");
        }
    }

    #[test]
    fn a_helper_program_is_named_instead_of_going_on_without() {
        let text = r#"{"auths":{"a.example":{}},"credsStore":"pass","credHelpers":{"b.example":"gcloud"}}"#;
        let credentials = Stored::new(text, 0o600).read().unwrap();
        for registry in ["a.example", "b.example"] {
            let message = credentials.for_registry(registry).err().unwrap().to_string();
            assert!(message.contains(registry) && message.contains("helper"), "{message}");
        }
        assert!(credentials.for_registry("c.example").unwrap().is_none());
    }
}
