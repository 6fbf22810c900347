//! What goes wrong, one family a file, and when.

mod disks;
mod leaders;
mod links;
mod links_unreliable;
mod machines;
mod node_silence;
mod processes;
mod wall_clocks;
mod watchdogs;

use super::event::Event;
use super::plant::FastPlant;
use super::shape::Pace;
use super::world::{FAULTS, World};
use crate::rng::SeededRng;

/// Begins one fault; answers false when there was nothing to break. It arranges its own end.
type Begin = fn(&mut World, &mut SeededRng) -> bool;

/// All kinds, the likelier ones more than once.
const KINDS: &[Begin] = &[
    processes::crash,
    processes::crash,
    processes::crash_leader,
    machines::power_loss,
    machines::power_loss_of_leader,
    watchdogs::killed,
    watchdogs::slow,
    watchdogs::unaccounted,
    links::isolate,
    links::isolate_leader,
    links::pair,
    links::split_with_leader,
    links::split_with_leader,
    node_silence::after_renewal,
    node_silence::after_renewal,
    node_silence::after_renewal,
    node_silence::before_launch,
    node_silence::before_launch,
    node_silence::before_launch,
    leaders::replaced,
    leaders::replaced,
    leaders::replaced_and_back,
    disks::slow,
    disks::slow,
    disks::file_lost,
    links_unreliable::foul,
    links_unreliable::late,
    wall_clocks::jump,
];

/// Where leases are long: the leader mostly stays, and one node after another falls silent.
const LONG_KINDS: &[Begin] = &[
    node_silence::after_renewal,
    node_silence::after_renewal,
    node_silence::after_renewal,
    node_silence::before_launch,
    processes::crash,
    processes::crash_leader,
    machines::power_loss,
    watchdogs::killed,
    watchdogs::slow,
    watchdogs::unaccounted,
    links::pair,
    leaders::replaced,
    disks::slow,
    links_unreliable::foul,
    wall_clocks::jump,
];

/// Where a leader that does not ask a quorum does harm: split off together with nodes that it renews.
const SPLIT_KINDS: &[Begin] = &[
    links::split_with_leader,
    links::split_with_leader,
    links::split_with_leader,
    processes::crash,
    links_unreliable::foul,
];

/// Where an entry waits for longer than a file stays that nothing names.
const STUCK_KINDS: &[Begin] = &[
    disks::slow,
    disks::slow,
    disks::slow,
    disks::file_lost,
    links::isolate_leader,
    links::split_with_leader,
    leaders::replaced,
];

/// Where a process comes back without a device of its machine: another one of the machine has its lock.
const DEVICE_KINDS: &[Begin] = &[
    processes::crash,
    processes::crash,
    processes::crash,
    machines::power_loss,
    machines::power_loss,
    watchdogs::killed,
    links::pair,
];

/// Where leases are lost sight of: one leader follows another.
const TAKEOVER_KINDS: &[Begin] = &[
    leaders::replaced,
    leaders::replaced,
    leaders::replaced_and_back,
    processes::crash_leader,
    node_silence::after_renewal,
    node_silence::after_renewal,
    links::isolate,
];

/// The schedule of a seed, and the faults of the world as a whole.
pub struct FaultSchedule {
    rng: SeededRng,
    pub faults: u64,
    /// Longest time an entry takes, in milliseconds; 0 = disks are fast.
    pub slow_disks_ms: u64,
    disks_epoch: u64,
    /// Faults that wait for their moment.
    armed: Vec<node_silence::Armed>,
    /// One node at a time is silent.
    silent_until: u64,
}

impl FaultSchedule {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: SeededRng::new(seed, 0x5004),
            faults: 0,
            slow_disks_ms: 0,
            disks_epoch: 0,
            armed: Vec::new(),
            silent_until: 0,
        }
    }
}

impl World {
    pub fn on_fault(&mut self) {
        if self.is_healed() {
            return;
        }
        // Where leases are long nothing else happens while one is running out: few would get that far.
        if self.shape.pace == Pace::Long && self.now < self.trouble.silent_until {
            return self.queue.at(self.trouble.silent_until + 100, Event::Fault);
        }
        let mut rng = self.trouble.rng.clone();
        let kinds = match (self.plant, self.shape.pace) {
            (Some(FastPlant::RenewWithoutQuorum), _) => SPLIT_KINDS,
            (Some(FastPlant::RenewUnseen), _) => TAKEOVER_KINDS,
            (Some(FastPlant::LaunchWithoutDevices), _) => DEVICE_KINDS,
            (Some(plant), _) if plant.is_of_sweeps() => STUCK_KINDS,
            (_, Pace::Long) => LONG_KINDS,
            _ => KINDS,
        };
        let begin = *rng.pick(kinds);
        if begin(self, &mut rng) {
            self.trouble.faults += 1;
            self.watch_leader();
        }
        let pause = if rng.one_in(4) { rng.between(10, 400) } else { rng.between(400, 2_500) };
        // Enough is enough: the cluster must get on with its work.
        let pause =
            if self.trouble.faults > FAULTS { pause * 4 } else { pause * self.shape.pace.stretch().min(2) };
        self.trouble.rng = rng;
        self.queue.at(self.now + pause, Event::Fault);
    }

    /// Takes everything back.
    pub fn heal(&mut self) {
        self.say("healed", self.trouble.faults, self.log.commands, String::new);
        self.network.heal();
        self.trouble.armed.clear();
        self.trouble.slow_disks_ms = 0;
        for machine in 0..self.machines.len() {
            self.machines[machine].clocks.wall_offset_ms = 0;
            self.power_on(machine);
        }
        for peer in 0..self.peers.len() {
            self.hosts[peer].profile.healed = true;
            self.quicken(peer);
            // It takes everybody's tasks again.
            if self.operator.dedicates {
                self.stop_process(peer);
            }
            self.queue.at(self.now + 10, Event::StartProcess { peer });
        }
        self.ready_all();
    }

    /// The watchdog looks at its clock in time again.
    pub fn quicken(&mut self, node: usize) {
        self.hosts[node].host_model.late_ms = 0;
        self.arrange_host(node);
    }

    pub fn calm_links(&mut self, epoch: u64) {
        if self.network.link_epoch == epoch {
            self.network.link_faults = Default::default();
        }
    }

    pub fn fast_disks(&mut self, epoch: u64) {
        if self.trouble.disks_epoch == epoch {
            self.trouble.slow_disks_ms = 0;
        }
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        self.network.mend(from, to);
    }

    /// The peer that leads by the log, or any.
    fn leader_or_any(&self, rng: &mut SeededRng) -> usize {
        let leads = self.log.leader.filter(|(peer, life)| self.peers[*peer].lives(*life));
        leads.map_or_else(|| self.any_peer(rng), |(peer, _)| peer)
    }

    fn any_peer(&self, rng: &mut SeededRng) -> usize {
        rng.below(self.peers.len() as u64) as usize
    }
}
