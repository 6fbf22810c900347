//! How the replicated settings are shown, with the values as `set` takes them.

use stint_protocol::limits;
use stint_sdk::api::{ClassSettings, Settings, SettingsChange, TenantSettings};
use stint_sdk::units;

use crate::table::{Cell, Table, Tone};
use crate::view::{age, now_ms};

/// The settings of the cluster; those that no request changes come last.
pub fn cluster_settings(settings: &Settings) -> Table {
    let cluster = &settings.cluster;
    let fixed = |value: String| Cell::new(value, Tone::Faint);
    let mut table = Table::new(&["KEY", "VALUE"]);
    let mut row = |key: &str, value: Cell| {
        table.row(vec![key.into(), value]);
    };
    row("placement", cluster.placement.as_str().into());
    row("keep_finished", cluster.keep_finished.to_string().into());
    row("keep_finished_for", units::exact_duration(cluster.keep_finished_ms).into());
    row("max_live_tasks", cluster.max_live_tasks.to_string().into());
    row("crash_loop_losses", cluster.crash_loop_losses.to_string().into());
    row("keep_for_gpus", cluster.keep_for_gpus.to_string().into());
    row("tenant_uids", cluster.tenant_uids.as_str().into());
    row("name (fixed)", fixed(cluster.name.clone()));
    row("kill_margin (fixed)", fixed(units::exact_duration(cluster.kill_margin_ms)));
    row("lease_margin (fixed)", fixed(units::exact_duration(cluster.lease_margin_ms)));
    row("revision", fixed(settings.revision.to_string()));
    table
}

/// Rules by class: a line for each key, a column for each class.
pub fn classes(settings: &Settings) -> Table {
    let mut table = Table::new(&[]);
    let names = settings.classes.iter().map(|rules| Cell::new(&rules.class, Tone::Faint));
    table.row([Cell::new("KEY", Tone::Faint)].into_iter().chain(names).collect());
    for (at, key) in RULES.iter().enumerate() {
        let values = settings.classes.iter().map(|rules| Cell::from(values(rules)[at].clone()));
        table.row([Cell::from(*key)].into_iter().chain(values).collect());
    }
    table
}

const RULES: [&str; 8] = [
    "runtimes",
    "default_timeout",
    "max_timeout",
    "default_cpus",
    "default_memory",
    "default_gpus",
    "max_gpus",
    "lease_ttl",
];

/// In the order of `RULES`.
fn values(rules: &ClassSettings) -> [String; RULES.len()] {
    [
        rules.runtimes.join(","),
        units::exact_duration(rules.default_timeout_ms),
        units::exact_duration(rules.max_timeout_ms),
        units::show_cpus(rules.default_cpu_milli),
        units::exact_bytes(rules.default_memory_bytes),
        rules.default_gpus.to_string(),
        rules.max_gpus.to_string(),
        units::exact_duration(rules.lease_ttl_ms),
    ]
}

/// A line for each tenant; with `all` one more for those that have no rules of their own.
pub fn tenants(settings: &Settings, all: bool) -> Table {
    let mut table = Table::new(&["TENANT", "MAX_PRIORITY", "WEIGHT", "UID", "DEDICATED", "ALLOWED_IMAGES"]);
    let mut row = |name: Cell, rules: &TenantSettings| {
        let TenantSettings { tenant: _, max_priority, weight, uid, allowed_images, dedicated } = rules;
        let uid = uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
        let rules = [max_priority.to_string(), weight.to_string(), uid, dedicated.to_string()];
        let cells = rules.into_iter().chain([images_of(allowed_images)]).map(Cell::from);
        table.row([name].into_iter().chain(cells).collect());
    };
    for rules in &settings.tenants {
        row(rules.tenant.as_str().into(), rules);
    }
    if all {
        let max_priority = limits::TENANT_MAX_PRIORITY.into();
        let others = TenantSettings { max_priority, weight: 1, ..TenantSettings::default() };
        row(Cell::new("(others)", Tone::Faint), &others);
    }
    table
}

/// As `stint tenant set --images` takes them.
pub fn images_of(patterns: &[String]) -> String {
    if patterns.is_empty() { "any".into() } else { patterns.join(",") }
}

/// Who changed what: a line for each setting whose key is asked for, newest first.
pub fn history(changes: &[SettingsChange], is_asked: impl Fn(&str) -> bool) -> Table {
    let mut table = Table::new(&["REVISION", "AGE", "KEY", "FROM", "TO", "BY", "THROUGH"]);
    let now = now_ms();
    for change in changes.iter().rev() {
        for setting in change.settings.iter().filter(|setting| is_asked(&setting.key)) {
            table.row(vec![
                change.revision.to_string().into(),
                age(change.at_ms, now).into(),
                setting.key.as_str().into(),
                setting.from.as_str().into(),
                setting.to.as_str().into(),
                format!("{} ({})", change.role, change.proof).into(),
                change.peer.as_str().into(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use stint_sdk::api::ClusterSettings;

    #[test]
    fn settings_for_people() {
        let class = |class: &str, gpus| ClassSettings {
            class: class.into(),
            runtimes: vec!["crun".into(), "docker".into()],
            default_timeout_ms: 600_000,
            max_timeout_ms: 3_600_000,
            default_cpu_milli: 500,
            default_memory_bytes: 4 << 30,
            default_gpus: gpus,
            max_gpus: gpus,
            lease_ttl_ms: 15_000,
        };
        let cluster = ClusterSettings {
            name: "stint".into(),
            placement: "spread".into(),
            keep_finished: 200_000,
            keep_finished_ms: 604_800_000,
            max_live_tasks: 1_000_000,
            crash_loop_losses: 3,
            keep_for_gpus: true,
            tenant_uids: "200000-265535".into(),
            lease_margin_ms: 800,
            kill_margin_ms: 500,
        };
        let classes_of = vec![class("cpu_long", 0), class("gpu", 1)];
        let settings = Settings { revision: 3, cluster, classes: classes_of, ..Settings::default() };
        let expected = "\
KEY                   VALUE
placement             spread
keep_finished         200000
keep_finished_for     7d
max_live_tasks        1000000
crash_loop_losses     3
keep_for_gpus         true
tenant_uids           200000-265535
name (fixed)          stint
kill_margin (fixed)   500ms
lease_margin (fixed)  800ms
revision              3
";
        assert_eq!(cluster_settings(&settings).render(false), expected);
        let expected = "\
KEY              cpu_long     gpu
runtimes         crun,docker  crun,docker
default_timeout  10m          10m
max_timeout      1h           1h
default_cpus     0.5          0.5
default_memory   4GiB         4GiB
default_gpus     0            1
max_gpus         0            1
lease_ttl        15s          15s
";
        assert_eq!(classes(&settings).render(false), expected);
    }
}
