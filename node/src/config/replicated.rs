//! Replicated settings as text, under the keys and in the formats of the configuration: what `stint class set` and
//! `stint cluster set` take, and how changes are told.

use std::collections::BTreeMap;

use stint_protocol::{Class, limits};
use stint_scheduler::{Setting, Settings as Replicated};
use stint_sdk::suggest;
use toml::Value;

use super::describe::{About, Place, Settings, Visitor, settings};
use super::formats::{Misfit, OneWord, Time, Whole};

/// Keys of the cluster that no request changes, with what decides them.
const FIXED: &[(&str, &str)] = &[
    ("name", "is the founder's `cluster.name`, and stays"),
    ("lease_margin", "is the founder's election timeout (`raft.profile`) and kill margin, and stays"),
    ("kill_margin", "is the founder's `executor.kill_margin_ms`, and stays"),
];

settings! {
    impl Replicated {
        /// How a node is chosen among those that fit.
        placement => OneWord;
        /// Finished tasks kept at most.
        keep_finished => Whole(1, limits::KEEP_FINISHED);
        /// How long a finished task is kept.
        keep_finished_ms => Time, key "keep_finished_for";
        /// Tasks that may wait or run at once.
        max_live_tasks => Whole(1, limits::LIVE_TASKS);
    }
}

/// Why a change cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum InvalidChange {
    #[error("name at least one setting, as KEY=VALUE: {}", known(*.0))]
    Nothing(Option<Class>),
    #[error("{key}: {why}")]
    Fixed { key: String, why: &'static str },
    #[error("{key}: is no setting of the cluster, but a rule of each class: `stint class set CLASS {key}=…`")]
    OfClasses { key: String },
    #[error("{key}: is no rule of a class, but a setting of the cluster: `stint cluster set {key}=…`")]
    OfCluster { key: String },
    #[error("{key}: unknown key{hint}; known here: {}", known(*class))]
    Unknown { key: String, hint: String, class: Option<Class> },
    #[error("{key}: {misfit}")]
    Misfit { key: String, misfit: Misfit },
}

/// Reads values by key: of the cluster, or of one class.
pub fn read(class: Option<Class>, values: &BTreeMap<String, String>) -> Result<Vec<Setting>, InvalidChange> {
    if values.is_empty() {
        return Err(InvalidChange::Nothing(class));
    }
    if let Some(key) = values.keys().find(|key| !names(class).contains(&key.as_str())) {
        return Err(not_here(class, key));
    }
    let (mut scratch, mut misfits) = (Replicated::default(), Vec::new());
    visit(&mut scratch, class, &mut |key| {
        let Some(text) = values.get(&key.name) else { return };
        if let Err(misfit) = key.slot.read(&Value::from(text.as_str())) {
            misfits.push(InvalidChange::Misfit { key: key.name, misfit });
        }
    });
    match misfits.into_iter().next() {
        Some(misfit) => Err(misfit),
        None => Ok(all(&scratch, class).into_iter().filter(|to| values.contains_key(to.name())).collect()),
    }
}

/// The key with its class, as `stint.toml` has it.
pub fn key(setting: &Setting) -> String {
    match setting.class() {
        Some(class) => format!("classes.{class}.{}", setting.name()),
        None => setting.name().into(),
    }
}

/// The value as `read` takes it.
pub fn value(setting: &Setting) -> String {
    let (mut scratch, mut shown) = (Replicated::default(), None);
    setting.put(&mut scratch);
    visit(&mut scratch, setting.class(), &mut |key| {
        if key.name == setting.name() {
            shown = key.slot.show();
        }
    });
    shown.map_or_else(String::new, |value| plain(&value))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn visit(settings: &mut Replicated, class: Option<Class>, each: &mut Visitor<'_>) {
    match class {
        Some(class) => settings.classes[class as usize].visit("", each),
        None => settings.visit("", each),
    }
}

fn all(settings: &Replicated, class: Option<Class>) -> Vec<Setting> {
    class.map_or_else(|| Setting::of_cluster(settings), |class| Setting::of_class(settings, class))
}

fn names(class: Option<Class>) -> Vec<&'static str> {
    all(&Replicated::default(), class).iter().map(Setting::name).collect()
}

fn known(class: Option<Class>) -> String {
    names(class).join(", ")
}

/// Why a key is not known here.
fn not_here(class: Option<Class>, key: &str) -> InvalidChange {
    let other = if class.is_some() { None } else { Some(Class::CpuShort) };
    let hint = suggest::hint(key, names(class));
    let key = key.to_owned();
    let fixed = FIXED.iter().find(|(known, _)| class.is_none() && *known == key);
    match fixed {
        Some((_, why)) => InvalidChange::Fixed { key, why },
        None if !names(other).contains(&key.as_str()) => InvalidChange::Unknown { key, hint, class },
        None if class.is_some() => InvalidChange::OfCluster { key },
        None => InvalidChange::OfClasses { key },
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::Runtime;
    use stint_scheduler::{ClassSetting, Placement};

    use super::*;

    fn read_one(class: Option<Class>, key: &str, text: &str) -> Result<Vec<Setting>, String> {
        read(class, &[(key.to_owned(), text.to_owned())].into()).map_err(|error| error.to_string())
    }

    /// Each setting is described under its own name, and its text reads back.
    #[test]
    fn every_setting_has_its_key_and_its_text_reads_back() {
        for class in Class::ALL.map(Some).into_iter().chain([None]) {
            let mut described = Vec::new();
            visit(&mut Replicated::default(), class, &mut |key| described.push(key.name));
            assert_eq!(described, names(class));
            for setting in all(&Replicated::default(), class) {
                assert_eq!(read_one(class, setting.name(), &value(&setting)), Ok(vec![setting]));
            }
        }
    }

    #[test]
    fn values_are_read_as_in_the_configuration() {
        let gpu = Some(Class::Gpu);
        let rule = |rule| Ok(vec![Setting::Class(Class::Gpu, rule)]);
        assert_eq!(read_one(gpu, "lease_ttl", "20s"), rule(ClassSetting::LeaseTtlMs(20_000)));
        assert_eq!(read_one(gpu, "default_cpus", "0.5"), rule(ClassSetting::DefaultCpuMilli(500)));
        let runtimes = ClassSetting::Runtimes(vec![Runtime::Docker, Runtime::Crun]);
        assert_eq!(read_one(gpu, "runtimes", "docker, crun"), rule(runtimes));
        assert_eq!(read_one(None, "placement", "bin_pack"), Ok(vec![Setting::Placement(Placement::BinPack)]));
        let setting = Setting::Class(Class::Gpu, ClassSetting::DefaultMemoryBytes(3 << 29));
        assert_eq!(
            (key(&setting).as_str(), value(&setting).as_str()),
            ("classes.gpu.default_memory", "1536MiB")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        let gpu = Some(Class::Gpu);
        for (class, key, text, said) in [
            (
                gpu,
                "lease_tll",
                "20s",
                "lease_tll: unknown key (did you mean \"lease_ttl\"?); known here: runtimes, ",
            ),
            (None, "placment", "spread", "placment: unknown key (did you mean \"placement\"?)"),
            (None, "lease_ttl", "20s", "`stint class set CLASS lease_ttl=…`"),
            (gpu, "placement", "spread", "`stint cluster set placement=…`"),
            (None, "kill_margin", "1s", "kill_margin: is the founder's"),
            (gpu, "max_gpus", "65", "max_gpus: \"65\" is not a whole number from 0 to 64"),
            (gpu, "lease_ttl", "soon", "lease_ttl: "),
            (gpu, "runtimes", "crun,crun", "runtimes: \"crun\" stands there twice: keep one"),
            (None, "placement", "best", "placement: \"best\" is unknown: use one of bin_pack, spread"),
        ] {
            let refused = read_one(class, key, text).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
        let nothing = read(None, &BTreeMap::new()).unwrap_err().to_string();
        assert!(
            nothing.ends_with("placement, keep_finished, keep_finished_for, max_live_tasks"),
            "{nothing}"
        );
    }
}
