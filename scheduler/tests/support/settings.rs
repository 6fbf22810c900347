//! The lines of a script about settings.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use stint_protocol::*;
use stint_scheduler::*;

use super::Story;

/// `settings KEY=VALUE… [if=REVISION] [by=ROLE]` changes them (`gpu.lease_ttl=20000`, `tenant:team.weight=3`); `settings`
/// shows them.
pub fn settings(story: &mut Story, args: &[&str]) -> String {
    if args.is_empty() {
        return show(&story.state);
    }
    let (mut to, mut if_revision, mut role) = (Vec::new(), None, "admin");
    for word in args {
        match word.split_once('=').unwrap() {
            ("if", revision) => if_revision = Some(revision.parse().unwrap()),
            ("by", name) => role = name,
            (key, value) => to.push(setting(key, value)),
        }
    }
    let by = ChangedBy { role: role.into(), proof: "local_socket".into(), peer: NodeId(1) };
    story.show(Command::UpdateSettings(UpdateSettings { to, if_revision, by }))
}

fn setting(key: &str, value: &str) -> Setting {
    let number = || value.parse::<u64>().unwrap();
    if let Some((tenant, rule)) = key.strip_prefix("tenant:").and_then(|key| key.split_once('.')) {
        let rule = match rule {
            "max_priority" => TenantSetting::MaxPriority(number() as u8),
            "weight" => TenantSetting::Weight(number() as u32),
            "dedicated" => TenantSetting::Dedicated(value == "true"),
            "images" => TenantSetting::Images(value.parse().unwrap()),
            other => panic!("{other:?}"),
        };
        return Setting::Tenant(Tenant::new(tenant).unwrap(), rule);
    }
    if let Some((class, rule)) = key.split_once('.') {
        let rule = match rule {
            "runtimes" => ClassSetting::Runtimes(
                value.split(',').filter(|word| !word.is_empty()).map(|word| word.parse().unwrap()).collect(),
            ),
            "default_timeout" => ClassSetting::DefaultTimeoutMs(number()),
            "max_timeout" => ClassSetting::MaxTimeoutMs(number()),
            "max_gpus" => ClassSetting::MaxGpus(number() as u32),
            "lease_ttl" => ClassSetting::LeaseTtlMs(number()),
            other => panic!("{other:?}"),
        };
        return Setting::Class(class.parse().unwrap(), rule);
    }
    match key {
        "placement" => {
            Setting::Placement(if value == "spread" { Placement::Spread } else { Placement::BinPack })
        }
        "keep_finished" => Setting::KeepFinished(number()),
        "crash_loop_losses" => Setting::CrashLoopLosses(number() as u32),
        "keep_for_gpus" => Setting::KeepForGpus(value == "true"),
        "tenant_uids" => Setting::TenantUids(value.parse().unwrap()),
        "max_live_tasks" => Setting::MaxLiveTasks(number()),
        other => panic!("{other:?}"),
    }
}

/// Revision and margin, each class's lease and the longest that it ever was, and each change.
fn show(state: &State) -> String {
    let (settings, audit) = (state.settings(), state.audit());
    let lease = |class: Class| (settings.class(class).lease_ttl_ms, state.longest_lease_ms(class));
    let leases: Vec<(u64, u64)> = Class::ALL.into_iter().map(lease).collect();
    let mut out =
        format!("  revision {}, margin {}, leases {leases:?}", audit.revision, settings.lease_margin_ms);
    for change in &audit.changes {
        let changed = |setting: &ChangedSetting| format!("{:?} -> {:?}", setting.from, setting.to);
        let settings: Vec<String> = change.settings.iter().map(changed).collect();
        write!(
            out,
            "\n  {} at {} by {}: {}",
            change.revision,
            change.at.0,
            change.by.role,
            settings.join(", ")
        )
        .unwrap();
    }
    out
}
