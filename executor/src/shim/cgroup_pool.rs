//! Cgroups of sandbox folders between two attempts.
//!
//! Making three cgroups and removing them is a tenth of a short program's start and end, and the kernel keeps what it
//! holds of a removed one for long. So the cgroup of a sandbox folder waits for the next attempt there, for a moment.

use std::collections::BTreeMap;

use stint_protocol::BootMs;

use crate::limits;
use crate::shim::cgroup::{Cgroup, CgroupLimits};

/// Cgroups with nobody in them.
#[derive(Debug, Default)]
pub struct CgroupPool {
    by_sandbox_dir: BTreeMap<u32, (Cgroup, BootMs)>,
    /// When to look next whether one has waited long enough; too early when the first was taken since.
    look_at: Option<BootMs>,
}

impl CgroupPool {
    /// The cgroup of a sandbox folder when it has these limits; one with others is to be removed.
    pub fn take(&mut self, sandbox_dir: u32, amounts: CgroupLimits) -> Result<Cgroup, Option<Cgroup>> {
        match self.by_sandbox_dir.remove(&sandbox_dir) {
            Some((cgroup, _)) if cgroup.amounts() == Some(amounts) => Ok(cgroup),
            other => Err(other.map(|(cgroup, _)| cgroup)),
        }
    }

    /// Keeps the cgroup of an attempt that has ended; one that is not as good as new comes back.
    pub fn keep(&mut self, sandbox_dir: u32, cgroup: Cgroup, now: BootMs) -> Option<Cgroup> {
        if self.by_sandbox_dir.len() >= limits::SPARE_CGROUPS
            || cgroup.sandbox_dir() != Some(sandbox_dir)
            || !cgroup.renew()
        {
            return Some(cgroup);
        }
        self.look_at.get_or_insert(now.plus(limits::SPARE_CGROUP_MS));
        self.by_sandbox_dir.insert(sandbox_dir, (cgroup, now)).map(|(cgroup, _)| cgroup)
    }

    /// When to ask for those that are over.
    pub fn look_at(&self) -> Option<BootMs> {
        self.look_at
    }

    /// Those that have waited long enough, to be removed.
    pub fn over(&mut self, now: BootMs) -> Vec<Cgroup> {
        if self.look_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let until = |since: &BootMs| since.plus(limits::SPARE_CGROUP_MS);
        let over = self.by_sandbox_dir.extract_if(.., |_, (_, since)| until(since) <= now);
        let over = over.map(|(_, (cgroup, _))| cgroup).collect();
        self.look_at = self.by_sandbox_dir.values().map(|(_, since)| until(since)).min();
        over
    }

    /// All of them.
    pub fn clear(&mut self) -> impl Iterator<Item = Cgroup> + use<> {
        std::mem::take(&mut self.by_sandbox_dir).into_values().map(|(cgroup, _)| cgroup)
    }
}
