//! The operator changes settings while everything goes on: how long leases are, above all.

use stint_protocol::{Class, Tenant, limits, version};
use stint_scheduler::{ChangedBy, ClassSetting, Command, Placement, Setting, TenantSetting, UpdateSettings};

use super::clients::TENANTS;
use super::event::Event;
use super::shape::{Pace, Shape};
use super::world::{World, node_id};
use crate::rng::SeededRng;

/// Who changes settings, in some of the seeds.
pub struct Operator {
    rng: SeededRng,
    /// Whether the seed has one: its cluster must speak the version that has changes.
    pub works: bool,
    /// It changes nothing but how long leases are, and that often.
    pub only_leases: bool,
    /// It gives nodes to tenants alone, and says of some tenants that they share with nobody.
    pub dedicates: bool,
    dedication: SeededRng,
}

impl Operator {
    pub fn new(seed: u64, shape: &Shape) -> Self {
        let mut rng = SeededRng::new(seed, 0x5007);
        let works = shape.images && rng.one_in(2);
        let mut dedication = SeededRng::new(seed, 0x5009);
        let dedicates = works && dedication.one_in(3);
        Self { rng, works, only_leases: false, dedicates, dedication }
    }

    /// Whose tasks a node takes that starts now; none: everybody's.
    pub fn tenants_of_a_node(&mut self) -> Option<Vec<String>> {
        if !self.dedicates {
            return None;
        }
        let named: &[&str] = match self.dedication.below(6) {
            0 | 1 => &["blue"],
            2 => &["green"],
            3 => &["blue", "green"],
            _ => return None,
        };
        Some(named.iter().map(|name| (*name).to_owned()).collect())
    }

    /// Mostly the lease of a class: from short to long and back.
    fn drawn(&mut self, pace: Pace) -> Setting {
        if self.dedicates && self.dedication.one_in(2) {
            let dedicated = self.dedication.one_in(2);
            return Setting::Tenant(tenant(&mut self.dedication), TenantSetting::Dedicated(dedicated));
        }
        let rng = &mut self.rng;
        match if self.only_leases { 9 } else { rng.below(10) } {
            0 => Setting::Placement(*rng.pick(&Placement::ALL)),
            1 => Setting::KeepFinished(rng.between(5, 20)),
            2 => Setting::MaxLiveTasks(rng.between(12, 10_000)),
            3 => Setting::Tenant(tenant(rng), TenantSetting::Weight(rng.between(1, 8) as u32)),
            // Any priority, or less than many tasks ask for.
            4 => {
                let most = rng.between(30, limits::MAX_PRIORITY.into()) as u8;
                Setting::Tenant(tenant(rng), TenantSetting::MaxPriority(most))
            }
            _ => {
                let class = *rng.pick(&[Class::CpuShort, Class::CpuLong, Class::Gpu]);
                let ttl_ms = match pace {
                    Pace::Long => rng.between(10_000, 40_000),
                    _ => rng.between(2_400, 9_000),
                };
                Setting::Class(class, ClassSetting::LeaseTtlMs(ttl_ms))
            }
        }
    }
}

fn tenant(rng: &mut SeededRng) -> Tenant {
    let name: &&str = rng.pick(&TENANTS);
    Tenant::new(name).unwrap_or_else(|e| panic!("a fixed name: {e}"))
}

impl World {
    /// What lets every tenant share its nodes, so that what waits finds one.
    fn shared_again(&self) -> Vec<Setting> {
        let rules = self.log.state().settings().tenants.iter();
        let alone = rules.filter(|(_, rules)| rules.dedicated).map(|(tenant, _)| tenant.clone());
        alone.map(|tenant| Setting::Tenant(tenant, TenantSetting::Dedicated(false))).collect()
    }

    /// The operator changes something, through any peer, and does not wait for the answer.
    pub fn on_settings(&mut self) {
        if self.is_healed() && !self.operator.dedicates {
            return;
        }
        let most_ms = if self.operator.only_leases { 1_500 } else { 5_000 };
        let pause = self.operator.rng.between(500, most_ms) * self.shape.pace.stretch();
        self.queue.at(self.now + pause, Event::Settings);
        let via = self.operator.rng.below(self.peers.len() as u64) as usize;
        if !self.peers[via].up || self.log.state().version() < version::SETTINGS {
            return;
        }
        let to = match self.is_healed() {
            true => self.shared_again(),
            false => vec![self.operator.drawn(self.shape.pace)],
        };
        let found = self.log.state().audit().revision;
        let if_revision = (!self.is_healed() && self.operator.rng.one_in(3)).then_some(found);
        let by = ChangedBy { role: "admin".into(), proof: "local_socket".into(), peer: node_id(via) };
        let command = Command::UpdateSettings(UpdateSettings { to, if_revision, by });
        let takes = self.operator.rng.between(5, 200);
        self.tell_leader(via, takes, command);
    }
}
