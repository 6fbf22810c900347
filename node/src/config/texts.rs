//! Formats of values that are texts: names, paths, addresses, patterns, users. What does not fit is refused with what to
//! write instead.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use stint_protocol::limits::{LABEL_BYTES, LABELS};
use stint_protocol::{ALL_TENANTS, ImageList, InvalidImageList, Tenant, Version, version};
use stint_scheduler::{NoUidRange, UidRange};
use stint_slurm_bridge::command::OWN_OPTIONS;
use toml::Value;

use super::describe::Format;
use super::formats::{Misfit, Whole};

/// A format out of its parts.
pub struct CustomFormat<T> {
    pub kind: &'static str,
    pub read: fn(&Value) -> Result<T, Misfit>,
    pub show: fn(&T) -> Option<Value>,
}

impl<T> Format<T> for CustomFormat<T> {
    fn kind(&self) -> String {
        self.kind.into()
    }

    fn read(&self, value: &Value) -> Result<T, Misfit> {
        (self.read)(value)
    }

    fn show(&self, value: &T) -> Option<Value> {
        (self.show)(value)
    }
}

pub const NODE_NAME: CustomFormat<String> = CustomFormat { kind: "name", read: node_name, show: show_text };
pub const HOST_AND_PORT: CustomFormat<String> =
    CustomFormat { kind: "host:port", read: host_and_port, show: show_text };
pub const DOCKER_NETWORK: CustomFormat<String> =
    CustomFormat { kind: "name of a network", read: docker_network, show: show_text };
pub const DOCKER_RUNTIME: CustomFormat<String> =
    CustomFormat { kind: "name of a runtime", read: docker_runtime, show: show_text };
pub const IMAGE_PATTERN: CustomFormat<String> =
    CustomFormat { kind: "pattern", read: image_pattern, show: show_text };
pub const SUBMIT_OPTION: CustomFormat<String> =
    CustomFormat { kind: "option", read: submit_option, show: show_text };
/// An empty text stands for the default.
pub const FILTER: CustomFormat<String> = CustomFormat { kind: "text", read: filter, show: show_text };
pub const PROGRAM: CustomFormat<PathBuf> =
    CustomFormat { kind: "path or name", read: |value| text(value).map(PathBuf::from), show: show_path };
pub const ABSOLUTE: CustomFormat<PathBuf> = CustomFormat { kind: "path", read: absolute, show: show_path };
pub const FOLDER: CustomFormat<PathBuf> = CustomFormat { kind: "folder", read: folder, show: show_path };
pub const FILE: CustomFormat<PathBuf> = CustomFormat { kind: "file", read: file, show: show_path };
/// A folder to open to tasks: no way leads out of it by its name.
pub const OPEN_FOLDER: CustomFormat<PathBuf> =
    CustomFormat { kind: "folder", read: open_folder, show: show_path };
pub const ADDRESS: CustomFormat<SocketAddr> =
    CustomFormat { kind: "address", read: address, show: |address| Some(address.to_string().into()) };
/// `""` switches a listener off.
pub const LISTENER: CustomFormat<Option<SocketAddr>> = CustomFormat {
    kind: "address",
    read: listener,
    show: |address| Some(address.map_or_else(String::new, |a| a.to_string()).into()),
};
/// Or `*` for all.
pub const TENANT_NAME: CustomFormat<String> =
    CustomFormat { kind: "tenant", read: tenant_name, show: show_text };
pub const TRUE_OR_FALSE: CustomFormat<bool> =
    CustomFormat { kind: "true or false", read: boolean, show: |on| Some((*on).into()) };
pub const USER_AND_GROUP: CustomFormat<(u32, u32)> = CustomFormat {
    kind: "user:group",
    read: user_and_group,
    show: |(user, group)| Some(format!("{user}:{group}").into()),
};
pub const LABELS_TABLE: CustomFormat<BTreeMap<String, String>> =
    CustomFormat { kind: "table of texts", read: labels, show: |labels| Value::try_from(labels).ok() };
pub const IMAGE_LIST: CustomFormat<ImageList> = CustomFormat {
    kind: "any, or patterns",
    read: |value| text(value)?.parse().map_err(|e: InvalidImageList| e.to_string().into()),
    show: |images| Some(images.to_string().into()),
};
pub const UID_RANGE: CustomFormat<UidRange> = CustomFormat {
    kind: "range of numbers",
    read: |value| text(value)?.parse().map_err(|e: NoUidRange| e.to_string().into()),
    show: |range| Some(range.to_string().into()),
};
/// A version that this program speaks.
pub const KNOWN_VERSION: CustomFormat<Version> = CustomFormat {
    kind: "version",
    read: |value| Whole(version::OLDEST.0.into(), version::CURRENT.0.into()).read(value).map(Version),
    show: |version| Some(i64::from(version.0).into()),
};

/// Changes of state, without the consensus library's running commentary.
pub const DEFAULT_FILTER: &str = "info,openraft=error";

pub fn text(value: &Value) -> Result<String, Misfit> {
    let text = value.as_str().filter(|text| !text.is_empty());
    text.map(String::from).ok_or_else(|| "must be a text, not empty".into())
}

/// A list of texts, or one with commas.
pub fn texts(value: &Value) -> Result<Vec<String>, Misfit> {
    let wrong = || format!("{value} is not a list of texts: write for example [\"a\", \"b\"]").into();
    match value {
        Value::String(text) => {
            Ok(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(String::from).collect())
        }
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().map(String::from).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

pub fn show_text(text: &impl AsRef<str>) -> Option<Value> {
    Some(text.as_ref().into())
}

pub fn show_path(path: &impl AsRef<Path>) -> Option<Value> {
    Some(path.as_ref().to_string_lossy().into_owned().into())
}

fn filter(value: &Value) -> Result<String, Misfit> {
    match value.as_str().ok_or_else(|| format!("{value} is not a text"))? {
        "" => Ok(DEFAULT_FILTER.into()),
        filter => Ok(filter.into()),
    }
}

fn boolean(value: &Value) -> Result<bool, Misfit> {
    match (value, value.as_str()) {
        (Value::Boolean(flag), _) => Ok(*flag),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err(format!("{value} is neither true nor false").into()),
    }
}

/// Without white space, which no name of an image has.
fn image_pattern(value: &Value) -> Result<String, Misfit> {
    match value.as_str() {
        Some(pattern) if !pattern.is_empty() && !pattern.contains(char::is_whitespace) => Ok(pattern.into()),
        _ => Err(format!("{value} is no pattern of images: write for example \"ghcr.io/team/*\"").into()),
    }
}

/// An option of `sbatch`, one word.
fn submit_option(value: &Value) -> Result<String, Misfit> {
    let option = text(value)?;
    if !option.starts_with('-') {
        let advice = "write name and value as one word, for example \"--partition=gpu\"";
        return Err(format!("{option:?} is no option: {advice}").into());
    }
    // Long options may be shortened, short ones have their value behind them.
    let name = option.split('=').next().unwrap_or_default();
    let long = name.starts_with("--");
    let is_own = |own: &str| match long {
        true => own.starts_with(name),
        false => own.len() == 2 && name.starts_with(own),
    };
    match OWN_OPTIONS.iter().any(|own| is_own(own)) {
        true => Err(format!("{option:?} is set for each task by this node: leave it out").into()),
        false => Ok(option),
    }
}

/// A network of the daemon's, never the host's nor that of another container.
fn docker_network(value: &Value) -> Result<String, Misfit> {
    let name = text(value)?;
    if name == "host" || name.contains(':') {
        Err(format!("{name:?} is refused: tasks would share a network with what is outside of them"))?;
    }
    Ok(name)
}

fn tenant_name(value: &Value) -> Result<String, Misfit> {
    let name = text(value)?;
    match name == ALL_TENANTS {
        true => Ok(name),
        false => Ok(Tenant::new(&name).map_err(|e| e.to_string())?.to_string()),
    }
}

/// As `daemon.json` of Docker names them.
fn docker_runtime(value: &Value) -> Result<String, Misfit> {
    let name = text(value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name.chars().all(fits) {
        true => Ok(name),
        false => Err(format!("{name:?} is no name of a runtime: write for example \"runsc\"").into()),
    }
}

/// `uid:gid`, as numbers, never root.
fn user_and_group(value: &Value) -> Result<(u32, u32), Misfit> {
    let written = text(value)?;
    let pair = written.split_once(':').and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)));
    match pair {
        Some((0, _) | (_, 0)) => Err("is root: give the numbers of another user and group".into()),
        Some(pair) => Ok(pair),
        None => Err(format!("{written:?} is not user:group in numbers, for example \"65534:65534\"").into()),
    }
}

fn labels(value: &Value) -> Result<BTreeMap<String, String>, Misfit> {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
        Ok((key.to_string(), value.to_string()))
    };
    let pairs: BTreeMap<String, String> = match value {
        Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), shown(value))).collect(),
        Value::String(_) => texts(value)?.iter().map(pair).collect::<Result<_, Misfit>>()?,
        _ => Err(format!("{value} is not a table of labels: write {{ zone = \"a\" }}"))?,
    };
    let fits = |(k, v): (&String, &String)| !k.is_empty() && k.len() <= LABEL_BYTES && v.len() <= LABEL_BYTES;
    if pairs.len() > LABELS || !pairs.iter().all(fits) {
        Err(format!("at most {LABELS} labels, keys of 1 and values of 0 to {LABEL_BYTES} bytes"))?;
    }
    Ok(pairs)
}

fn node_name(value: &Value) -> Result<String, Misfit> {
    let name = text(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > 63 || !name.chars().all(plain) {
        Err(format!("{name:?} is no name: up to 63 letters, digits, '-', '_' and '.'"))?;
    }
    Ok(name)
}

fn absolute(value: &Value) -> Result<PathBuf, Misfit> {
    std::path::absolute(text(value)?).map_err(|e| format!("is no usable path: {e}").into())
}

/// Written as an absolute path: a relative one would depend on where the node was started. The whole host is no folder
/// to open.
fn folder(value: &Value) -> Result<PathBuf, Misfit> {
    let path = PathBuf::from(text(value)?);
    if !path.is_absolute() || path.components().count() < 2 {
        Err(format!("{path:?} is no absolute path of a folder below /, for example \"/srv/roots\""))?;
    }
    Ok(path)
}

fn open_folder(value: &Value) -> Result<PathBuf, Misfit> {
    let path = folder(value)?;
    if path.components().any(|component| component == Component::ParentDir) {
        Err(format!("{path:?} is no absolute path of a folder as it is: write it without \"..\""))?;
    }
    Ok(path)
}

fn file(value: &Value) -> Result<PathBuf, Misfit> {
    let path = PathBuf::from(text(value)?);
    if !path.is_absolute() || path.file_name().is_none() {
        Err(format!("{path:?} is no absolute path of a file"))?;
    }
    Ok(path)
}

fn address(value: &Value) -> Result<SocketAddr, Misfit> {
    let address = value.as_str().and_then(|text| text.parse().ok());
    address.ok_or_else(|| format!("{value} is not an address like 0.0.0.0:7001").into())
}

fn listener(value: &Value) -> Result<Option<SocketAddr>, Misfit> {
    match value.as_str() {
        Some("") => Ok(None),
        _ => address(value).map(Some).map_err(|wrong| format!("{wrong}, nor \"\" for off").into()),
    }
}

fn host_and_port(value: &Value) -> Result<String, Misfit> {
    let address = text(value)?;
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    if host.is_empty() || port.parse::<u16>().is_err() {
        Err(format!("{address:?} is not host:port, for example node-1.example:7001"))?;
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        Err(format!("{address:?} is no address that others can reach: write this machine's own"))?;
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use crate::config::testing::refusals;

    #[test]
    fn wrong_values_say_what_to_change() {
        let cases = [
            ("[node]\nname = 7", "stint.toml:2: node.name: must be a text"),
            ("[node]\nname = \"a b\"", "up to 63 letters"),
            ("node = 7", "write [node]"),
            ("[node\n", "stint.toml:1: "),
            ("[peers]\nlisten = \"everywhere\"", "not an address like 0.0.0.0:7001"),
            ("[peers]\nadvertise = \"0.0.0.0:7001\"", "write this machine's own"),
            ("[peers]\nadvertise = \"host\"", "not host:port"),
            ("[raft]\nprofile = \"quick\"", "use one of fast, lan, tight, wan"),
            ("[raft]\nsnapshot_every_entries = 1", "whole number from 100"),
            ("[executor]\nmemory = \"8XB\"", "unknown unit"),
            ("[executor]\ncpus = 0", "number of cores"),
            ("[executor.docker]\npull = \"sometimes\"", "use one of missing, never, always"),
            ("[executor.docker]\nnetwork = \"host\"", "is refused"),
            ("[executor.docker]\nnetwork = \"container:x\"", "is refused"),
            ("[executor.docker]\nuser = \"0:0\"", "is root"),
            ("[executor.docker]\nuser = \"nobody\"", "user:group in numbers"),
            ("[executor]\ntenants = [\"Physics\"]", "a tenant has 1 to 63"),
            ("[executor.docker]\nruntime = \"/usr/bin/runsc\"", "no name of a runtime"),
            ("[executor.docker]\nallowed_images = [\"a b\"]", "no pattern of images"),
            ("[executor.docker]\nprivileged = true", "unknown key"),
            ("[artifacts]\nroots = [\"data\"]", "no absolute path"),
            ("[artifacts]\nroots = [\"/\"]", "below /"),
            ("[secrets]\ndir = \"secrets\"", "no absolute path"),
            ("[executor.crun]\nroots = [\"roots\"]", "no absolute path"),
            ("[executor.crun]\nroots = [\"/\"]", "no absolute path"),
            ("[executor.crun]\nroots = [\"/srv/../etc\"]", "no absolute path"),
            ("[executor.crun]\nuser = \"0:0\"", "is root"),
            ("[executor.crun]\npids = 4", "whole number from 16"),
            ("[executor.process]\nnetwork = \"bridge\"", "use one of none, host"),
            ("[executor.process]\nnetworks = [\"bridge\"]", "use one of none, host"),
            ("[executor.crun]\nshm_size = \"1KiB\"", "65536 bytes or more"),
            ("[executor.docker]\nnetworks = [\"host\"]", "unknown key"),
            ("[executor.process]\nwriteable = []", "did you mean \"writable\"?"),
            ("[executor]\nruntimes = [\"podman\"]", "unknown runtime \"podman\""),
            ("[executor]\nruntimes = [\"crun\", \"oci\"]", "twice"),
            ("[executor]\nruntimes = []", "executor.enabled = false"),
            ("[executor]\nsandbox = 1", "neither true nor false"),
            ("[executor]\ngpus = \"all\"", "neither \"auto\" nor \"none\""),
            ("[[executor.gpu]]\nmodel = \"H200\"", "nvidia-smi -L"),
            ("[[executor.gpu]]\nid = \"a\"\n[[executor.gpu]]\nid = \"a\"", "listed once"),
            ("[[executor.gpu]]\nid = \"a\"\nmemroy = \"1GiB\"", "did you mean \"memory\"?"),
            ("[executor]\ngpus = \"none\"\n[[executor.gpu]]\nid = \"a\"", "keep one of both"),
            ("[classes.gpu]\nmax_timeout = 600", "in quotes"),
            ("[classes.gpu]\nmax_timeout = \"1m\"\ndefault_timeout = \"2m\"", "is over max_timeout (1m)"),
            ("[api]\nlisten = \"0.0.0.0:9097\"", "port 9097 is api.listen's too"),
        ];
        for (text, part) in cases {
            let message = refusals(text, &[], &[]);
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
