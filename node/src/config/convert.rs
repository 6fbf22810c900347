//! Conversion of one value, with what to write instead when it cannot be. Variables and flags arrive as text, so each
//! converter takes text too.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, PathBuf};
use std::str::FromStr;

use stint_executor::{FixedGpu, Pull};
use stint_protocol::limits::{LABEL_BYTES, LABELS};
use stint_protocol::{GpuId, GpuInfo, Network, Version, version};
use stint_sdk::{suggest, units};
use stint_slurm_bridge::command::OWN_OPTIONS;
use toml::Value;

use super::{Gpus, LogFormat, RaftProfile};

pub(super) fn text(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .filter(|t| !t.is_empty())
        .map(String::from)
        .ok_or_else(|| "must be a text, not empty".into())
}

pub(super) fn optional_text(value: &Value) -> Result<String, String> {
    value.as_str().map(String::from).ok_or_else(|| format!("{value} is not a text"))
}

pub(super) fn parsed<T: FromStr>(what: &'static str) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let parsed = value.as_str().and_then(|t| t.parse().ok());
        parsed.ok_or_else(|| format!("{value} is not {what}"))
    }
}

pub(super) fn whole(least: u64, most: u64) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let number = match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|n| (least..=most).contains(n))
            .ok_or_else(|| format!("{value} is not a whole number from {least} to {most}"))
    }
}

/// A version that this program speaks.
pub(super) fn known_version(value: &Value) -> Result<Version, String> {
    let (least, most) = (version::OLDEST.0, version::CURRENT.0);
    whole(least.into(), most.into())(value).map(|number| Version(number as u32))
}

pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match (value, value.as_str()) {
        (Value::Boolean(flag), _) => Ok(*flag),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err(format!("{value} is neither true nor false")),
    }
}

pub(super) fn bytes(value: &Value) -> Result<u64, String> {
    let bytes = match value {
        Value::String(text) => units::parse_bytes(text).map_err(|e| e.to_string())?,
        Value::Integer(number) => u64::try_from(*number).unwrap_or(0),
        _ => return Err(format!("{value} is not an amount of memory: write for example \"8GiB\"")),
    };
    if bytes == 0 { Err("must be more than 0: write for example \"8GiB\"".into()) } else { Ok(bytes) }
}

/// An amount of memory, `least` bytes or more.
pub(super) fn at_least(least: u64) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let bytes = bytes(value)?;
        if bytes >= least { Ok(bytes) } else { Err(format!("must be {least} bytes or more")) }
    }
}

pub(super) fn duration_ms(value: &Value) -> Result<u64, String> {
    let wrong = || format!("{value} is not a duration: write for example \"15m\", in quotes");
    let text = value.as_str().ok_or_else(wrong)?;
    let duration = units::parse_duration(text).map_err(|e| e.to_string())?;
    if duration.is_zero() { Err("must be more than 0".into()) } else { Ok(duration.as_millis() as u64) }
}

pub(super) fn cpus(value: &Value) -> Result<u64, String> {
    match value {
        Value::String(text) => units::parse_cpus(text).map_err(|e| e.to_string()),
        _ => {
            let cores = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
            let milli = cores.and_then(units::cpus_to_milli);
            milli.ok_or_else(|| format!("{value} is not a number of cores: write for example 4 or 0.5"))
        }
    }
}

/// Slurm decides about cores and memory itself; 0 leaves them to it.
pub(super) fn or_zero(convert: fn(&Value) -> Result<u64, String>) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| match value {
        Value::Integer(0) => Ok(0),
        Value::String(text) if matches!(text.as_str(), "0" | "0B") => Ok(0),
        _ => convert(value),
    }
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("{value} is not a list of texts: write for example [\"a\", \"b\"]");
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

pub(super) fn words<T: FromStr<Err: fmt::Display> + PartialEq>(value: &Value) -> Result<Vec<T>, String> {
    let mut known: Vec<T> = Vec::new();
    for word in texts(value)? {
        let item = word.parse().map_err(|e: T::Err| e.to_string())?;
        if known.contains(&item) {
            return Err(format!("{word:?} stands there twice: keep one"));
        }
        known.push(item);
    }
    Ok(known)
}

/// Patterns of images; without white space, which no name has.
pub(super) fn image_patterns(value: &Value) -> Result<Vec<String>, String> {
    let patterns = texts(value)?;
    match patterns.iter().find(|p| p.is_empty() || p.contains(char::is_whitespace)) {
        Some(bad) => Err(format!("{bad:?} is no pattern of images: write for example \"ghcr.io/team/*\"")),
        None => Ok(patterns),
    }
}

/// Options of `sbatch`, one word each.
pub(super) fn submit_options(value: &Value) -> Result<Vec<String>, String> {
    let options = texts(value)?;
    // Long options may be shortened, short ones have their value behind them.
    let is_own = |option: &&String| {
        let name = option.split('=').next().unwrap_or_default();
        let long = name.starts_with("--");
        OWN_OPTIONS
            .iter()
            .any(|own| if long { own.starts_with(name) } else { own.len() == 2 && name.starts_with(own) })
    };
    if let Some(bad) = options.iter().find(|option| !option.starts_with('-')) {
        return Err(format!(
            "{bad:?} is no option: write name and value as one word, for example \"--partition=gpu\""
        ));
    }
    match options.iter().find(is_own) {
        Some(own) => Err(format!("{own:?} is set for each task by this node: leave it out")),
        None => Ok(options),
    }
}

pub(super) fn pull(value: &Value) -> Result<Pull, String> {
    let word = text(value)?;
    let known = Pull::ALL.into_iter().find(|pull| pull.as_str() == word);
    known.ok_or_else(|| format!("{word:?} is none of {}", Pull::ALL.map(Pull::as_str).join(", ")))
}

/// A network of the daemon's, never the host's nor that of another container.
pub(super) fn docker_network(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    if name == "host" || name.contains(':') {
        return Err(format!("{name:?} is refused: tasks would share a network with what is outside of them"));
    }
    Ok(name)
}

pub(super) fn network(value: &Value) -> Result<Network, String> {
    let word = text(value)?;
    let known = Network::ALL.into_iter().find(|network| network.as_str() == word);
    known.ok_or_else(|| format!("{word:?} is none of {}", Network::ALL.map(Network::as_str).join(", ")))
}

/// Absolute paths, never the whole machine.
pub(super) fn folders(most: usize) -> impl Fn(&Value) -> Result<Vec<PathBuf>, String> {
    move |value| {
        let folders: Vec<PathBuf> = texts(value)?.into_iter().map(PathBuf::from).collect();
        let plain = |folder: &PathBuf| {
            folder.is_absolute()
                && folder.parent().is_some()
                && !folder.components().any(|c| c == Component::ParentDir)
        };
        if let Some(bad) = folders.iter().find(|folder| !plain(folder)) {
            return Err(format!(
                "{bad:?} is no absolute path of a folder below /, for example \"/srv/roots\""
            ));
        }
        if folders.len() > most {
            Err(format!("names {} folders; {most} at most", folders.len()))
        } else {
            Ok(folders)
        }
    }
}

/// `uid:gid`, as numbers, never root.
pub(super) fn user_and_group(value: &Value) -> Result<(u32, u32), String> {
    let written = text(value)?;
    let pair = written.split_once(':').and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)));
    match pair {
        Some((0, _) | (_, 0)) => Err("is root: give the numbers of another user and group".into()),
        Some(pair) => Ok(pair),
        None => Err(format!("{written:?} is not user:group in numbers, for example \"65534:65534\"")),
    }
}

pub(super) fn labels(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let pairs: BTreeMap<String, String> = match value {
        Value::Table(table) => table
            .iter()
            .map(|(k, v)| {
                let shown = v.as_str().map_or_else(|| v.to_string(), String::from);
                (k.clone(), shown)
            })
            .collect(),
        Value::String(_) => texts(value)?
            .iter()
            .map(|pair| {
                let (key, value) =
                    pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
                Ok((key.to_string(), value.to_string()))
            })
            .collect::<Result<_, String>>()?,
        _ => return Err(format!("{value} is not a table of labels: write {{ zone = \"a\" }}")),
    };
    let fits = |(k, v): (&String, &String)| !k.is_empty() && k.len() <= LABEL_BYTES && v.len() <= LABEL_BYTES;
    if pairs.len() > LABELS || !pairs.iter().all(fits) {
        return Err(format!("at most {LABELS} labels, keys of 1 and values of 0 to {LABEL_BYTES} bytes"));
    }
    Ok(pairs)
}

pub(super) fn node_name(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() <= 63 && name.chars().all(plain) {
        Ok(name)
    } else {
        Err(format!("{name:?} is no name: up to 63 letters, digits, '-', '_' and '.'"))
    }
}

pub(super) fn absolute(value: &Value) -> Result<PathBuf, String> {
    std::path::absolute(text(value)?).map_err(|e| format!("is no usable path: {e}"))
}

/// Written as an absolute path: a relative one would depend on where the node was started. The whole host is no folder
/// to open.
pub(super) fn absolute_folder(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    if !path.is_absolute() || path.components().count() < 2 {
        return Err(format!("{:?} is no absolute path of a folder below /", path.display().to_string()));
    }
    Ok(path)
}

/// Likewise of a file.
pub(super) fn absolute_file(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    if !path.is_absolute() || path.file_name().is_none() {
        return Err(format!("{:?} is no absolute path of a file", path.display().to_string()));
    }
    Ok(path)
}

pub(super) fn absolute_folders(value: &Value) -> Result<Vec<PathBuf>, String> {
    texts(value)?.into_iter().map(|text| absolute_folder(&Value::String(text))).collect()
}

/// `""` switches a listener off.
pub(super) fn listener(value: &Value) -> Result<Option<SocketAddr>, String> {
    match value.as_str() {
        Some("") => Ok(None),
        _ => parsed("an address like 127.0.0.1:7002, nor \"\" for off")(value).map(Some),
    }
}

pub(super) fn host_and_port(value: &Value) -> Result<String, String> {
    let address = text(value)?;
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(format!("{address:?} is not host:port, for example node-1.example:7001"));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(format!("{address:?} is no address that others can reach: write this machine's own"));
    }
    Ok(address)
}

pub(super) fn raft_profile(value: &Value) -> Result<RaftProfile, String> {
    let known = RaftProfile::ALL.map(RaftProfile::as_str);
    let found = RaftProfile::ALL.into_iter().find(|p| value.as_str() == Some(p.as_str()));
    found.ok_or_else(|| format!("{value} is no profile: use one of {}", known.join(", ")))
}

pub(super) fn log_format(value: &Value) -> Result<LogFormat, String> {
    let known = LogFormat::ALL.map(LogFormat::as_str);
    let found = LogFormat::ALL.into_iter().find(|f| value.as_str() == Some(f.as_str()));
    found.ok_or_else(|| format!("{value} is no format: use one of {}", known.join(", ")))
}

pub(super) fn gpu_source(value: &Value) -> Result<Gpus, String> {
    match value.as_str() {
        Some("auto") => Ok(Gpus::Auto),
        Some("none") => Ok(Gpus::None),
        _ => Err(format!(
            "{value} is neither \"auto\" nor \"none\"; to list GPUs write [[executor.gpu]] tables"
        )),
    }
}

pub(super) fn gpu_tables(value: &Value) -> Result<Vec<FixedGpu>, String> {
    let tables = value.as_array().ok_or("is a list: write [[executor.gpu]] and its keys below")?;
    let mut gpus: Vec<FixedGpu> = Vec::new();
    for (position, table) in tables.iter().enumerate() {
        let table = table.as_table().ok_or("is a list of tables: write [[executor.gpu]]")?;
        let gpu = gpu_table(position, table)?;
        if gpus.iter().any(|known| known.info.id == gpu.info.id) {
            return Err(format!("the id {:?} stands there twice: each device is listed once", gpu.info.id));
        }
        gpus.push(gpu);
    }
    Ok(gpus)
}

fn gpu_table(position: usize, table: &toml::Table) -> Result<FixedGpu, String> {
    let known = ["id", "model", "memory", "index", "in_use_file"];
    if let Some(wrong) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown key {wrong:?}{}", suggest::hint(wrong, known)));
    }
    let id =
        table.get("id").ok_or("an id is missing: write the device's UUID as `nvidia-smi -L` shows it")?;
    let info = GpuInfo {
        id: GpuId::new(&text(id)?).map_err(|e| e.to_string())?,
        model: table.get("model").map(text).transpose()?.unwrap_or_default(),
        memory_bytes: table.get("memory").map(bytes).transpose()?.unwrap_or(0),
        index: table.get("index").map(whole(0, 255)).transpose()?.unwrap_or(position as u64) as u32,
    };
    let in_use_file = table.get("in_use_file").map(text).transpose()?.map(PathBuf::from);
    Ok(FixedGpu { info, in_use_file })
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
            ("[executor.docker]\npull = \"sometimes\"", "none of missing, never, always"),
            ("[executor.docker]\nnetwork = \"host\"", "is refused"),
            ("[executor.docker]\nnetwork = \"container:x\"", "is refused"),
            ("[executor.docker]\nuser = \"0:0\"", "is root"),
            ("[executor.docker]\nuser = \"nobody\"", "user:group in numbers"),
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
            ("[executor.process]\nnetwork = \"bridge\"", "none of none, host"),
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
