//! The tasks that wait for a node now: a line for each demand of each tenant.

use imbl::{OrdMap, OrdSet};
use stint_protocol::{Class, TaskId, Tenant};

use crate::demand::Demand;
use crate::task::Task;

/// A place in a line: higher priority first, then the older task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// 255 less the priority.
    pub rank: u8,
    pub sequence: u64,
    pub task: TaskId,
}

impl Place {
    pub(crate) fn from_task(id: TaskId, task: &Task) -> Self {
        Self { rank: u8::MAX - task.spec.priority, sequence: task.fields.sequence, task: id }
    }
}

/// Which line a task waits in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineKey {
    pub demand: Demand,
    pub tenant: Tenant,
}

impl LineKey {
    pub(crate) fn from_task(task: &Task) -> Self {
        Self { demand: task.demand.clone(), tenant: task.fields.tenant.clone() }
    }
}

/// The tasks of one line; none is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line(pub OrdSet<Place>);

/// Whether both are surely the same. Comparing the places of a long line would cost more than to look at it again.
impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

/// All lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    pub lines: OrdMap<LineKey, Line>,
    by_class: [usize; Class::ALL.len()],
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.by_class.iter().sum()
    }

    /// Tasks of one class.
    pub(crate) fn len_of(&self, class: Class) -> usize {
        self.by_class[class as usize]
    }

    pub(crate) fn insert(&mut self, id: TaskId, task: &Task) {
        let line = self.lines.entry(LineKey::from_task(task)).or_default();
        if line.0.insert(Place::from_task(id, task)).is_none() {
            self.by_class[task.spec.class as usize] += 1;
        }
    }

    /// A task that does not stand here is no error.
    pub(crate) fn remove(&mut self, id: TaskId, task: &Task) {
        let key = LineKey::from_task(task);
        let Some(line) = self.lines.get_mut(&key) else { return };
        if line.0.remove(&Place::from_task(id, task)).is_some() {
            self.by_class[task.spec.class as usize] -= 1;
        }
        if line.0.is_empty() {
            self.lines.remove(&key);
        }
    }

    /// An equal demand that tasks of this tenant wait with already, else this one: what is equal is kept once.
    pub(crate) fn intern(&self, demand: Demand, tenant: &Tenant) -> Demand {
        let key = LineKey { demand, tenant: tenant.clone() };
        self.lines.get_key_value(&key).map_or(key.demand, |(known, _)| known.demand.clone())
    }

    /// Every task that waits, line by line.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&LineKey, &Place)> {
        self.lines.iter().flat_map(|(key, line)| line.0.iter().map(move |place| (key, place)))
    }
}
