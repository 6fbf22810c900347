//! The settings that may change while the cluster runs, each under its key.

use minicbor::{Decode, Encode};
use stint_protocol::{Class, ClassRules, Runtime, Tenant};

use super::{Placement, Settings, TenantSetting, UidRange};

/// One setting with a value. Numbers are never reused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Setting {
    #[n(0)]
    Placement(#[n(0)] Placement),
    #[n(1)]
    KeepFinished(#[n(0)] u64),
    #[n(2)]
    KeepFinishedMs(#[n(0)] u64),
    #[n(3)]
    MaxLiveTasks(#[n(0)] u64),
    #[n(4)]
    Class(#[n(0)] Class, #[n(1)] ClassSetting),
    #[n(5)]
    Tenant(#[n(0)] Tenant, #[n(1)] TenantSetting),
    #[n(6)]
    CrashLoopLosses(#[n(0)] u32),
    #[n(7)]
    KeepForGpus(#[n(0)] bool),
    #[n(8)]
    TenantUids(#[n(0)] UidRange),
}

/// One rule of a class with a value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ClassSetting {
    #[n(0)]
    Runtimes(#[n(0)] Vec<Runtime>),
    #[n(1)]
    DefaultTimeoutMs(#[n(0)] u64),
    #[n(2)]
    MaxTimeoutMs(#[n(0)] u64),
    #[n(3)]
    DefaultCpuMilli(#[n(0)] u32),
    #[n(4)]
    DefaultMemoryBytes(#[n(0)] u64),
    #[n(5)]
    DefaultGpus(#[n(0)] u32),
    #[n(6)]
    MaxGpus(#[n(0)] u32),
    #[n(7)]
    LeaseTtlMs(#[n(0)] u64),
}

impl Setting {
    /// The cluster's own settings that may change, as they are.
    pub fn of_cluster(settings: &Settings) -> Vec<Setting> {
        vec![
            Setting::Placement(settings.placement),
            Setting::KeepFinished(settings.keep_finished),
            Setting::KeepFinishedMs(settings.keep_finished_ms),
            Setting::MaxLiveTasks(settings.max_live_tasks),
            Setting::CrashLoopLosses(settings.rules.crash_loop_losses),
            Setting::KeepForGpus(settings.rules.keep_for_gpus),
            Setting::TenantUids(settings.rules.tenant_uids),
        ]
    }

    /// The rules of a class, as they are.
    pub fn of_class(settings: &Settings, class: Class) -> Vec<Setting> {
        let rules = settings.class(class);
        ClassSetting::all_in(rules).into_iter().map(|rule| Setting::Class(class, rule)).collect()
    }

    /// The rules of a tenant, as they are.
    pub fn of_tenant(settings: &Settings, tenant: &Tenant) -> Vec<Setting> {
        let rules = settings.tenants.rules(tenant);
        TenantSetting::all_in(&rules).into_iter().map(|rule| Setting::Tenant(tenant.clone(), rule)).collect()
    }

    /// The key that users write, without the class or tenant.
    pub fn name(&self) -> &'static str {
        match self {
            Setting::Placement(_) => "placement",
            Setting::KeepFinished(_) => "keep_finished",
            Setting::KeepFinishedMs(_) => "keep_finished_for",
            Setting::MaxLiveTasks(_) => "max_live_tasks",
            Setting::CrashLoopLosses(_) => "crash_loop_losses",
            Setting::KeepForGpus(_) => "keep_for_gpus",
            Setting::TenantUids(_) => "tenant_uids",
            Setting::Class(_, rule) => rule.name(),
            Setting::Tenant(_, rule) => rule.name(),
        }
    }

    /// The same setting with the value that it has.
    pub fn current(&self, settings: &Settings) -> Setting {
        match self {
            Setting::Placement(_) => Setting::Placement(settings.placement),
            Setting::KeepFinished(_) => Setting::KeepFinished(settings.keep_finished),
            Setting::KeepFinishedMs(_) => Setting::KeepFinishedMs(settings.keep_finished_ms),
            Setting::MaxLiveTasks(_) => Setting::MaxLiveTasks(settings.max_live_tasks),
            Setting::CrashLoopLosses(_) => Setting::CrashLoopLosses(settings.rules.crash_loop_losses),
            Setting::KeepForGpus(_) => Setting::KeepForGpus(settings.rules.keep_for_gpus),
            Setting::TenantUids(_) => Setting::TenantUids(settings.rules.tenant_uids),
            Setting::Class(class, rule) => Setting::Class(*class, rule.current(settings.class(*class))),
            Setting::Tenant(tenant, rule) => {
                Setting::Tenant(tenant.clone(), rule.current(&settings.tenants.rules(tenant)))
            }
        }
    }

    /// Gives the setting its value.
    pub fn put(&self, settings: &mut Settings) {
        match self {
            Setting::Placement(placement) => settings.placement = *placement,
            Setting::KeepFinished(count) => settings.keep_finished = *count,
            Setting::KeepFinishedMs(ms) => settings.keep_finished_ms = *ms,
            Setting::MaxLiveTasks(count) => settings.max_live_tasks = *count,
            Setting::CrashLoopLosses(count) => settings.rules.crash_loop_losses = *count,
            Setting::KeepForGpus(keep) => settings.rules.keep_for_gpus = *keep,
            Setting::TenantUids(range) => settings.rules.tenant_uids = *range,
            Setting::Class(class, rule) => rule.put(&mut settings.classes[*class as usize]),
            Setting::Tenant(tenant, rule) => {
                let mut rules = settings.tenants.rules(tenant);
                rule.put(&mut rules);
                settings.tenants.put(tenant, rules);
            }
        }
    }
}

impl ClassSetting {
    fn all_in(rules: &ClassRules) -> [ClassSetting; 8] {
        [
            ClassSetting::Runtimes(rules.runtimes.clone()),
            ClassSetting::DefaultTimeoutMs(rules.default_timeout_ms),
            ClassSetting::MaxTimeoutMs(rules.max_timeout_ms),
            ClassSetting::DefaultCpuMilli(rules.default_cpu_milli),
            ClassSetting::DefaultMemoryBytes(rules.default_memory_bytes),
            ClassSetting::DefaultGpus(rules.default_gpus),
            ClassSetting::MaxGpus(rules.max_gpus),
            ClassSetting::LeaseTtlMs(rules.lease_ttl_ms),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            ClassSetting::Runtimes(_) => "runtimes",
            ClassSetting::DefaultTimeoutMs(_) => "default_timeout",
            ClassSetting::MaxTimeoutMs(_) => "max_timeout",
            ClassSetting::DefaultCpuMilli(_) => "default_cpus",
            ClassSetting::DefaultMemoryBytes(_) => "default_memory",
            ClassSetting::DefaultGpus(_) => "default_gpus",
            ClassSetting::MaxGpus(_) => "max_gpus",
            ClassSetting::LeaseTtlMs(_) => "lease_ttl",
        }
    }

    fn current(&self, rules: &ClassRules) -> ClassSetting {
        let known = ClassSetting::all_in(rules).into_iter().find(|known| known.name() == self.name());
        known.unwrap_or_else(|| panic!("{} is no rule of a class", self.name()))
    }

    fn put(&self, rules: &mut ClassRules) {
        match self {
            ClassSetting::Runtimes(runtimes) => rules.runtimes = runtimes.clone(),
            ClassSetting::DefaultTimeoutMs(ms) => rules.default_timeout_ms = *ms,
            ClassSetting::MaxTimeoutMs(ms) => rules.max_timeout_ms = *ms,
            ClassSetting::DefaultCpuMilli(milli) => rules.default_cpu_milli = *milli,
            ClassSetting::DefaultMemoryBytes(bytes) => rules.default_memory_bytes = *bytes,
            ClassSetting::DefaultGpus(count) => rules.default_gpus = *count,
            ClassSetting::MaxGpus(count) => rules.max_gpus = *count,
            ClassSetting::LeaseTtlMs(ms) => rules.lease_ttl_ms = *ms,
        }
    }
}
