//! A crowd: in one seed of a thousand, ten thousand tasks wait that no node can ever hold, of a hundred demands, tenants and
//! priorities. What fits must not wait for them, and the log and every queue keep their bounds.

use stint_protocol::{Class, IdempotencyKey, Runtime, SharedSpec, TaskId, TaskSpec, Tenant};
use stint_scheduler::{NodeMode, Settings, Submit};

use super::clients::Asked;
use super::world::World;
use crate::rng::SeededRng;

/// Submits of a crowd: each has a demand of its own.
const SUBMITS: u64 = 100;
/// Tasks of each, at least and at most.
const TASKS: (u64, u64) = (100, 130);
/// More than any node has, in thousandths of a core.
const TOO_MUCH_CPU: u64 = 100_000;
/// Tasks that are cancelled with one request, once everything is healed.
const CANCELLED_AT_ONCE: usize = 500;

/// Whether a seed has a crowd.
pub fn has_crowd(seed: u64) -> bool {
    SeededRng::new(seed, 0x5011).one_in(1_000)
}

/// What is still to be submitted. Draws from a generator of its own: other seeds stay as they are.
pub struct Crowd {
    rng: SeededRng,
    left: u64,
    /// Tasks of all submits so far.
    pub tasks: usize,
}

impl Crowd {
    pub fn new(seed: u64) -> Self {
        let left = if has_crowd(seed) { SUBMITS } else { 0 };
        Self { rng: SeededRng::new(seed, 0x5012), left, tasks: 0 }
    }

    /// The next submit, until all have gone out. `number`: of the request.
    pub fn submit(&mut self, number: u64, settings: &Settings) -> Option<Submit> {
        self.left = self.left.checked_sub(1)?;
        let mut spec = TaskSpec::new(Class::CpuShort, vec!["waits".into()]);
        spec.runtime = Some(Runtime::Mock);
        spec.cpu_milli = TOO_MUCH_CPU + self.left;
        spec.memory_bytes = 256 << 20;
        spec.stop_grace_ms = 500;
        // No operator sets the highest priority of a tenant lower.
        spec.priority = self.rng.below(31) as u8;
        let spec = spec.resolve(settings.class(Class::CpuShort));
        let tenant = ["default", "blue", "green", "crowd"][self.rng.below(4) as usize];
        let count = self.rng.between(TASKS.0, TASKS.1);
        self.tasks += count as usize;
        Some(Submit {
            tenant: Tenant::new(tenant).unwrap_or_else(|e| panic!("a fixed name: {e}")),
            first: TaskId(u128::from(number) << 40),
            count: count as u32,
            name: None,
            spec: SharedSpec::new(spec.unwrap_or_else(|e| panic!("a spec that nobody may submit: {e}"))),
            key: IdempotencyKey::new(&format!("key-{number}")).ok(),
            digest: number,
            key_made_ms: None,
        })
    }

    /// Whether nothing more is to be submitted.
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// How long a drained node may go on with what it runs, in milliseconds: for ever, or until its attempts are stopped.
    pub fn drain_deadline(&mut self, mode: NodeMode) -> Option<u64> {
        (mode == NodeMode::Draining && self.rng.one_in(2)).then(|| self.rng.between(100, 8_000))
    }

    /// Whether a client comes again with a key that it used, and asks for something else.
    pub fn uses_key_again(&mut self) -> bool {
        self.rng.one_in(12)
    }
}

impl World {
    /// Nobody waits for what never starts: the crowd is cancelled, some hundred tasks with each request.
    pub fn cancel_crowd(&mut self) {
        if self.crowd.tasks == 0 || self.clients.cancels_many() {
            return;
        }
        let live = self.log.state().tasks_before(TaskId(u128::MAX));
        let of_crowd = live.filter(|(_, task)| task.spec.cpu_milli >= TOO_MUCH_CPU).map(|(id, _)| id);
        let tasks: Vec<TaskId> = of_crowd.take(CANCELLED_AT_ONCE).collect();
        if !tasks.is_empty() {
            let request = self.clients.add(Asked::CancelMany(tasks), false);
            self.send_request(request);
        }
    }
}
