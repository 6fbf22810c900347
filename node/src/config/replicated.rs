//! Replicated settings as text, under the keys and in the formats of the configuration: what `stint class set`,
//! `stint cluster set` and `stint tenant set` take, and how changes are told.

use std::collections::BTreeMap;

use stint_protocol::{Class, Tenant, limits};
use stint_scheduler::{Setting, Settings as Replicated, TenantRules};
use stint_sdk::suggest;
use toml::Value;

use super::describe::{About, Place, Settings, Visitor, settings};
use super::formats::{Misfit, OneWord, Time, Whole};
use super::texts::{IMAGE_LIST, TRUE_OR_FALSE, UID_RANGE};

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
        /// Losses soon after the start, on different nodes, that end a task.
        rules.crash_loop_losses => Whole(1, limits::CRASH_LOOP_MOST);
        /// Nodes keep CPU and memory for their free GPUs.
        rules.keep_for_gpus => TRUE_OR_FALSE;
        /// User numbers that tenants are given, as `FIRST-LAST`.
        rules.tenant_uids => UID_RANGE;
    }
}

settings! {
    impl TenantRules {
        /// The highest priority that its tasks may have.
        max_priority => Whole(0, limits::MAX_PRIORITY as u64);
        /// At the same priority it is due so many times the share of a tenant with weight 1.
        weight => Whole(1, limits::TENANT_WEIGHT as u64);
        /// Which images its tasks may name: `any`, or patterns with commas between them.
        images => IMAGE_LIST;
        /// It shares its nodes with nobody: its tasks run on those that name it alone in `executor.tenants`.
        dedicated => TRUE_OR_FALSE;
    }
}

/// Whose settings are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Class(Class),
    Tenant(Tenant),
}

impl Scope {
    /// The tenant whose rules they are.
    pub fn tenant(&self) -> Option<&Tenant> {
        match self {
            Scope::Tenant(tenant) => Some(tenant),
            Scope::Cluster | Scope::Class(_) => None,
        }
    }

    fn from_setting(setting: &Setting) -> Self {
        match setting {
            Setting::Class(class, _) => Scope::Class(*class),
            Setting::Tenant(tenant, _) => Scope::Tenant(tenant.clone()),
            _ => Scope::Cluster,
        }
    }

    /// What one of its settings is, in words.
    fn what(&self) -> &'static str {
        match self {
            Scope::Cluster => "setting of the cluster",
            Scope::Class(_) => "rule of a class",
            Scope::Tenant(_) => "rule of a tenant",
        }
    }

    /// How a setting of this kind is changed.
    fn command(&self, key: &str) -> String {
        match self {
            Scope::Cluster => format!("stint cluster set {key}=…"),
            Scope::Class(_) => format!("stint class set CLASS {key}=…"),
            Scope::Tenant(_) => format!("stint tenant set TENANT --{} …", key.replace('_', "-")),
        }
    }
}

/// Why a change cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum InvalidChange {
    #[error("name at least one setting, as KEY=VALUE: {}", known(.0))]
    Nothing(Scope),
    #[error("{key}: {why}")]
    Fixed { key: String, why: &'static str },
    #[error("{key}: is no {}, but a {}: `{}`", here.what(), there.what(), there.command(key))]
    Elsewhere { key: String, here: Scope, there: Scope },
    #[error("{key}: unknown key{hint}; known here: {}", known(scope))]
    Unknown { key: String, hint: String, scope: Scope },
    #[error("{key}: {misfit}")]
    Misfit { key: String, misfit: Misfit },
}

/// Reads values by key: of the cluster, of one class or of one tenant.
pub fn read(scope: &Scope, values: &BTreeMap<String, String>) -> Result<Vec<Setting>, InvalidChange> {
    if values.is_empty() {
        return Err(InvalidChange::Nothing(scope.clone()));
    }
    if let Some(key) = values.keys().find(|key| !names(scope).contains(&key.as_str())) {
        return Err(not_here(scope, key));
    }
    let (mut scratch, mut misfits) = (Replicated::default(), Vec::new());
    visit(&mut scratch, scope, &mut |key| {
        let Some(text) = values.get(&key.name) else { return };
        if let Err(misfit) = key.slot.read(&Value::from(text.as_str())) {
            misfits.push(InvalidChange::Misfit { key: key.name, misfit });
        }
    });
    match misfits.into_iter().next() {
        Some(misfit) => Err(misfit),
        None => Ok(all(&scratch, scope).into_iter().filter(|to| values.contains_key(to.name())).collect()),
    }
}

/// The key with its class, as `stint.toml` has it, or with its tenant.
pub fn key(setting: &Setting) -> String {
    match setting {
        Setting::Class(class, _) => format!("classes.{class}.{}", setting.name()),
        Setting::Tenant(tenant, _) => format!("tenants.{tenant}.{}", setting.name()),
        _ => setting.name().into(),
    }
}

/// The value as `read` takes it.
pub fn value(setting: &Setting) -> String {
    let (mut scratch, mut shown) = (Replicated::default(), None);
    setting.put(&mut scratch);
    visit(&mut scratch, &Scope::from_setting(setting), &mut |key| {
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

fn visit(settings: &mut Replicated, scope: &Scope, each: &mut Visitor<'_>) {
    match scope {
        Scope::Cluster => settings.visit("", each),
        Scope::Class(class) => settings.classes[*class as usize].visit("", each),
        Scope::Tenant(tenant) => {
            let mut rules = settings.tenants.rules(tenant);
            rules.visit("", each);
            settings.tenants.put(tenant, rules);
        }
    }
}

fn all(settings: &Replicated, scope: &Scope) -> Vec<Setting> {
    match scope {
        Scope::Cluster => Setting::of_cluster(settings),
        Scope::Class(class) => Setting::of_class(settings, *class),
        Scope::Tenant(tenant) => Setting::of_tenant(settings, tenant),
    }
}

fn names(scope: &Scope) -> Vec<&'static str> {
    all(&Replicated::default(), scope).iter().map(Setting::name).collect()
}

fn known(scope: &Scope) -> String {
    names(scope).join(", ")
}

/// Why a key is not known here.
fn not_here(scope: &Scope, key: &str) -> InvalidChange {
    let kinds = [Scope::Cluster, Scope::Class(Class::CpuShort), Scope::Tenant(Tenant::default_tenant())];
    let there = kinds.into_iter().find(|other| names(other).contains(&key));
    let hint = suggest::hint(key, names(scope));
    let key = key.to_owned();
    let fixed = FIXED.iter().find(|(known, _)| *scope == Scope::Cluster && *known == key);
    match (fixed, there) {
        (Some((_, why)), _) => InvalidChange::Fixed { key, why },
        (None, Some(there)) => InvalidChange::Elsewhere { key, here: scope.clone(), there },
        (None, None) => InvalidChange::Unknown { key, hint, scope: scope.clone() },
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::Runtime;
    use stint_scheduler::{ClassSetting, Placement, TenantSetting};

    use super::*;

    fn read_one(scope: &Scope, key: &str, text: &str) -> Result<Vec<Setting>, String> {
        read(scope, &[(key.to_owned(), text.to_owned())].into()).map_err(|error| error.to_string())
    }

    fn team() -> Scope {
        Scope::Tenant(Tenant::new("team-7").unwrap())
    }

    /// Each setting is described under its own name, and its text reads back.
    #[test]
    fn every_setting_has_its_key_and_its_text_reads_back() {
        for scope in Class::ALL.map(Scope::Class).into_iter().chain([Scope::Cluster, team()]) {
            let mut described = Vec::new();
            visit(&mut Replicated::default(), &scope, &mut |key| described.push(key.name));
            assert_eq!(described, names(&scope));
            for setting in all(&Replicated::default(), &scope) {
                assert_eq!(read_one(&scope, setting.name(), &value(&setting)), Ok(vec![setting]));
            }
        }
    }

    #[test]
    fn values_are_read_as_in_the_configuration() {
        let gpu = &Scope::Class(Class::Gpu);
        let rule = |rule| Ok(vec![Setting::Class(Class::Gpu, rule)]);
        assert_eq!(read_one(gpu, "lease_ttl", "20s"), rule(ClassSetting::LeaseTtlMs(20_000)));
        assert_eq!(read_one(gpu, "default_cpus", "0.5"), rule(ClassSetting::DefaultCpuMilli(500)));
        let runtimes = ClassSetting::Runtimes(vec![Runtime::Docker, Runtime::Crun]);
        assert_eq!(read_one(gpu, "runtimes", "docker, crun"), rule(runtimes));
        assert_eq!(
            read_one(&Scope::Cluster, "placement", "bin_pack"),
            Ok(vec![Setting::Placement(Placement::BinPack)])
        );
        let weight = Setting::Tenant(Tenant::new("team-7").unwrap(), TenantSetting::Weight(3));
        assert_eq!(read_one(&team(), "weight", "3"), Ok(vec![weight.clone()]));
        assert_eq!((key(&weight).as_str(), value(&weight).as_str()), ("tenants.team-7.weight", "3"));
        let images = "ghcr.io/acme/*,stint://tool".parse().unwrap();
        let images = Setting::Tenant(Tenant::new("team-7").unwrap(), TenantSetting::Images(images));
        assert_eq!(read_one(&team(), "images", "ghcr.io/acme/*, stint://tool"), Ok(vec![images.clone()]));
        assert_eq!(value(&images), "ghcr.io/acme/*,stint://tool");
        let setting = Setting::Class(Class::Gpu, ClassSetting::DefaultMemoryBytes(3 << 29));
        assert_eq!(
            (key(&setting).as_str(), value(&setting).as_str()),
            ("classes.gpu.default_memory", "1536MiB")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        let gpu = &Scope::Class(Class::Gpu);
        for (scope, key, text, said) in [
            (
                gpu,
                "lease_tll",
                "20s",
                "lease_tll: unknown key (did you mean \"lease_ttl\"?); known here: runtimes, ",
            ),
            (&Scope::Cluster, "placment", "spread", "placment: unknown key (did you mean \"placement\"?)"),
            (&Scope::Cluster, "lease_ttl", "20s", "`stint class set CLASS lease_ttl=…`"),
            (
                gpu,
                "weight",
                "2",
                "weight: is no rule of a class, but a rule of a tenant: `stint tenant set TENANT --weight …`",
            ),
            (&team(), "weight", "0", "weight: \"0\" is not a whole number from 1 to 10000"),
            (&team(), "max_priority", "101", "is not a whole number from 0 to 100"),
            (&team(), "images", "any,busybox", "images: \"any\" stands alone"),
            (
                &team(),
                "images",
                "docker://x",
                "images: \"docker://x\" is no pattern of images: write for example",
            ),
            (&Scope::Cluster, "keep_for_gpus", "maybe", "keep_for_gpus: "),
            (&Scope::Cluster, "tenant_uids", "200000", "write for example \"200000-265535\""),
            (gpu, "placement", "spread", "`stint cluster set placement=…`"),
            (&Scope::Cluster, "kill_margin", "1s", "kill_margin: is the founder's"),
            (gpu, "max_gpus", "65", "max_gpus: \"65\" is not a whole number from 0 to 64"),
            (gpu, "lease_ttl", "soon", "lease_ttl: "),
            (gpu, "runtimes", "crun,crun", "runtimes: \"crun\" stands there twice: keep one"),
            (
                &Scope::Cluster,
                "placement",
                "best",
                "placement: \"best\" is unknown: use one of bin_pack, spread",
            ),
        ] {
            let refused = read_one(scope, key, text).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
        let nothing = read(&Scope::Cluster, &BTreeMap::new()).unwrap_err().to_string();
        assert!(
            nothing.ends_with("max_live_tasks, crash_loop_losses, keep_for_gpus, tenant_uids"),
            "{nothing}"
        );
    }
}
