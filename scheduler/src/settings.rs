//! Replicated settings: the same on every peer, changed only through the log.

mod audit;
mod cluster;
mod setting;
mod tenants;
mod uids;

use minicbor::{Decode, Encode};
use stint_protocol::{Class, ClassRules, InvalidImageList, Tenant, limits};

pub use audit::{ChangedBy, ChangedSetting, SettingsAudit, SettingsChange};
pub use cluster::ClusterRules;
pub use setting::{ClassSetting, Setting};
pub use tenants::{ImageNotAllowed, TenantRules, TenantSetting, TenantTable};
pub use uids::{NoUidRange, UidRange};

/// How a node is chosen among those that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Placement {
    /// Fill one node before the next, so that large tasks still find room.
    #[n(0)]
    #[default]
    BinPack,
    /// The emptiest node first.
    #[n(1)]
    Spread,
}

impl Placement {
    pub const ALL: [Placement; 2] = [Placement::BinPack, Placement::Spread];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Placement::BinPack => "bin_pack",
            Placement::Spread => "spread",
        }
    }
}

/// What a cluster is bootstrapped with. Some of it may change afterwards (`Setting`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    #[n(0)]
    pub cluster: String,
    /// Rules by class, in the order of `Class::ALL`.
    #[n(1)]
    pub classes: Vec<ClassRules>,
    #[n(2)]
    pub placement: Placement,
    /// Finished tasks kept at most.
    #[n(3)]
    pub keep_finished: u64,
    /// How long a finished task is kept, in milliseconds.
    #[n(4)]
    pub keep_finished_ms: u64,
    /// What the leader waits beyond a lease's length before it counts it as over, in milliseconds
    /// (docs/internals/leases.md#length-and-margin: election timeout + drift + kill margin). It grows with the longest
    /// lease and never shrinks.
    #[n(5)]
    pub lease_margin_ms: u64,
    /// Part of the lease's end that is kept for the kill itself, in milliseconds.
    #[n(6)]
    pub kill_margin_ms: u64,
    /// Tasks that may wait or run at once; a submit beyond is refused.
    #[n(7)]
    pub max_live_tasks: u64,
    #[n(8)]
    pub tenants: TenantTable,
    #[n(9)]
    #[cbor(encode_with = "minicbor::Encode::encode", is_nil = "ClusterRules::is_default")]
    #[cbor(decode_with = "minicbor::Decode::decode", nil = "ClusterRules::when_absent")]
    pub rules: ClusterRules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster: "stint".into(),
            classes: Class::ALL.into_iter().map(ClassRules::default_for).collect(),
            placement: Placement::default(),
            keep_finished: 200_000,
            keep_finished_ms: 7 * 24 * 3_600_000,
            lease_margin_ms: 1_500,
            kill_margin_ms: 500,
            max_live_tasks: stint_protocol::limits::LIVE_TASKS,
            tenants: TenantTable::default(),
            rules: ClusterRules::default(),
        }
    }
}

impl Settings {
    /// The rules of one class.
    pub fn class(&self, class: Class) -> &ClassRules {
        &self.classes[class as usize]
    }

    /// The longest lease of any class, in milliseconds.
    pub fn longest_lease_ms(&self) -> u64 {
        self.classes.iter().map(|rules| rules.lease_ttl_ms).max().unwrap_or(0)
    }

    /// The shortest lease of any class, in milliseconds.
    pub fn shortest_lease_of_a_class_ms(&self) -> u64 {
        self.classes.iter().map(|rules| rules.lease_ttl_ms).min().unwrap_or(0)
    }

    /// The shortest lease that outlives one change of leader, in milliseconds: what a founder's file is held to, too. A
    /// task may use half of its lease to stop; in the other half a failover (two election timeouts, as the margin over
    /// the longest lease has them), the drift and the kill margin must fit.
    fn shortest_lease_ms(&self, longest_lease_ms: u64) -> u64 {
        let beside = self.kill_margin_ms + drift_ms(longest_lease_ms);
        let election_ms = self.lease_margin_ms.saturating_sub(beside);
        let needed = 2 * (2 * election_ms + self.kill_margin_ms);
        (needed * 100).div_ceil(100 - 2 * limits::CLOCK_DRIFT_PERCENT)
    }

    /// Whether these settings fit together, as far as the ones that changed are concerned. The longest lease is the one
    /// that the margin was made for.
    pub(crate) fn check(&self, changed: &Setting, longest_lease_ms: u64) -> Result<(), InvalidSettings> {
        match changed {
            Setting::Class(class, _) => self.check_class(*class, longest_lease_ms),
            Setting::Tenant(tenant, _) => self.check_tenant(tenant),
            _ => self.check_cluster(),
        }
    }

    fn check_tenant(&self, tenant: &Tenant) -> Result<(), InvalidSettings> {
        let rules = self.tenants.rules(tenant);
        within("max_priority", rules.max_priority.into(), 0, limits::MAX_PRIORITY.into())?;
        within("weight", rules.weight.into(), 1, limits::TENANT_WEIGHT.into())?;
        rules.images.check().map_err(InvalidSettings::BadImages)?;
        match self.tenants.len() {
            count if count > limits::TENANTS_WITH_RULES => Err(InvalidSettings::TooManyTenants),
            _ => Ok(()),
        }
    }

    fn check_cluster(&self) -> Result<(), InvalidSettings> {
        within("keep_finished", self.keep_finished, 1, limits::KEEP_FINISHED)?;
        within("keep_finished_for", self.keep_finished_ms, 1_000, limits::KEEP_FINISHED_MS)?;
        within("max_live_tasks", self.max_live_tasks, 1, limits::LIVE_TASKS)?;
        within("crash_loop_losses", self.rules.crash_loop_losses.into(), 1, limits::CRASH_LOOP_MOST)?;
        self.rules.tenant_uids.check()
    }

    fn check_class(&self, class: Class, longest_lease_ms: u64) -> Result<(), InvalidSettings> {
        let rules = self.class(class);
        if rules.runtimes.is_empty() {
            return Err(InvalidSettings::NoRuntime(class));
        }
        if rules.default_timeout_ms > rules.max_timeout_ms {
            return Err(InvalidSettings::TimeoutOverMost { class, most_ms: rules.max_timeout_ms });
        }
        if rules.default_gpus > rules.max_gpus {
            return Err(InvalidSettings::GpusOverMost { class, most: rules.max_gpus });
        }
        let (ttl_ms, least_ms) = (rules.lease_ttl_ms, self.shortest_lease_ms(longest_lease_ms));
        if ttl_ms < least_ms {
            return Err(InvalidSettings::LeaseTooShort { class, ttl_ms, least_ms });
        }
        if ttl_ms > limits::LEASE_MS {
            return Err(InvalidSettings::LeaseTooLong { class, ttl_ms });
        }
        Ok(())
    }
}

/// How far two clocks may drift apart over so long, in milliseconds.
pub(crate) fn drift_ms(length_ms: u64) -> u64 {
    length_ms.div_ceil(100) * limits::CLOCK_DRIFT_PERCENT
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), InvalidSettings> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(InvalidSettings::OutOfRange { key, value, least, most }),
    }
}

/// Settings that do not fit together, or lie outside their bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    #[error("{key}: {value} is not from {least} to {most}")]
    OutOfRange { key: &'static str, value: u64, least: u64, most: u64 },
    #[error(
        "{most} tenants have rules of their own, which is the most: give one back what every tenant has (`stint tenant set TENANT --max-priority 50 --weight 1 --dedicated=false --images any`)",
        most = limits::TENANTS_WITH_RULES
    )]
    TooManyTenants,
    #[error("images: {0}")]
    BadImages(InvalidImageList),
    #[error(
        "tenant_uids: {0} is no range for tenants: two numbers from {least} to {most}, {count} of them at most, without {nobody}",
        least = limits::TENANT_UID_BOUNDS.0,
        most = limits::TENANT_UID_BOUNDS.1,
        count = limits::TENANT_UIDS_MOST,
        nobody = limits::NOBODY
    )]
    BadUids(UidRange),
    #[error("classes.{0}.runtimes: is empty: name at least one runtime")]
    NoRuntime(Class),
    #[error(
        "classes.{class}.default_timeout: is over max_timeout ({most_ms} ms): lower it, or raise max_timeout with it"
    )]
    TimeoutOverMost { class: Class, most_ms: u64 },
    #[error("classes.{class}.default_gpus: is over max_gpus ({most}): lower it, or raise max_gpus with it")]
    GpusOverMost { class: Class, most: u32 },
    #[error(
        "classes.{class}.lease_ttl: {ttl_ms} ms is too short: with the margins of this cluster a lease lasts at least \
         {least_ms} ms, so that a change of the leader does not kill tasks"
    )]
    LeaseTooShort { class: Class, ttl_ms: u64, least_ms: u64 },
    #[error(
        "classes.{class}.lease_ttl: {ttl_ms} ms is too long: at most {most} ms, as a task of a lost node waits for \
         that long before it runs elsewhere",
        most = limits::LEASE_MS
    )]
    LeaseTooLong { class: Class, ttl_ms: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a founder with the profile `fast` makes them: 225 ms election + 1 % of ten minutes + 500 ms for the kill.
    fn founded() -> Settings {
        Settings { lease_margin_ms: 6_725, ..Settings::default() }
    }

    fn checked(change: impl FnOnce(&mut Settings), changed: &Setting) -> Result<(), InvalidSettings> {
        let mut settings = founded();
        let longest = settings.longest_lease_ms();
        change(&mut settings);
        settings.check(changed, longest)
    }

    #[test]
    fn a_lease_must_outlive_a_change_of_leader() {
        // 2 × (2 × 225 + 500) / 0.98, as for a founder's file.
        assert_eq!(founded().shortest_lease_ms(600_000), 1_939);
        let ttl = |ms: u64| {
            let setting = Setting::Class(Class::Gpu, ClassSetting::LeaseTtlMs(ms));
            checked(|settings| setting.put(settings), &setting)
        };
        assert_eq!(ttl(1_939), Ok(()));
        assert!(matches!(ttl(1_938), Err(InvalidSettings::LeaseTooShort { least_ms: 1_939, .. })));
        assert_eq!(ttl(limits::LEASE_MS), Ok(()));
        assert!(matches!(ttl(limits::LEASE_MS + 1), Err(InvalidSettings::LeaseTooLong { .. })));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let class = Class::Gpu;
        let refused = |setting: ClassSetting| {
            let setting = Setting::Class(class, setting);
            checked(|settings| setting.put(settings), &setting).unwrap_err()
        };
        assert_eq!(refused(ClassSetting::Runtimes(vec![])), InvalidSettings::NoRuntime(class));
        let over = InvalidSettings::TimeoutOverMost { class, most_ms: 600_000 };
        assert_eq!(refused(ClassSetting::DefaultTimeoutMs(600_001)), over);
        assert_eq!(refused(ClassSetting::MaxGpus(0)), InvalidSettings::GpusOverMost { class, most: 0 });
        for setting in [
            Setting::KeepFinished(0),
            Setting::KeepFinishedMs(999),
            Setting::MaxLiveTasks(limits::LIVE_TASKS + 1),
            Setting::CrashLoopLosses(0),
            Setting::Tenant(Tenant::default_tenant(), TenantSetting::MaxPriority(101)),
            Setting::Tenant(Tenant::default_tenant(), TenantSetting::Weight(0)),
            Setting::Tenant(Tenant::default_tenant(), TenantSetting::Weight(limits::TENANT_WEIGHT + 1)),
        ] {
            let refused = checked(|settings| setting.put(settings), &setting);
            assert!(matches!(refused, Err(InvalidSettings::OutOfRange { .. })), "{setting:?}");
        }
    }
}
