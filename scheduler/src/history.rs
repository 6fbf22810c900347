//! Finished tasks: most of what a peer holds in memory. The latest are kept one by one, each as its encoding; older ones are
//! packed, some hundred to a block, in the order in which they finished. A task is unpacked when it is asked for, and a block
//! when its first task is forgotten.

mod block;
mod index;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use imbl::OrdMap;
use minicbor::Encoder;
use minicbor::encode::Write;
use stint_protocol::{SharedSpec, TaskId, Tenant, TimeMs};

use crate::task::{FinishedFields, FinishedTask};
use block::Block;
use index::Index;

/// Tasks that are kept one by one before some are packed: those that somebody is likely to ask for.
const HOT: usize = 2_048;
/// Tasks of a block: who asks for one unpacks all of them.
const BLOCK: usize = 256;
/// Unpacked blocks that a reader keeps at most: a quarter of a million tasks that ran at the same time may finish in another order
/// than they came in.
const READ_BLOCKS: usize = 1_024;
/// The same for tasks that a request names: some megabytes for each request, whatever it names.
const NAMED_BLOCKS: usize = 64;

/// A finished task, encoded but for its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedTask {
    pub spec: SharedSpec,
    fields: Arc<[u8]>,
}

impl EncodedTask {
    /// Packs what snapshots store of a task. What an older version stored comes out as this version writes it.
    pub fn new(task: &FinishedTask) -> Self {
        let mut bytes = Vec::with_capacity(256);
        minicbor::encode(&task.fields, &mut bytes)
            .unwrap_or_else(|never| panic!("encoding to memory: {never}"));
        Self { spec: task.spec.clone(), fields: bytes.into() }
    }

    pub fn unpack(&self) -> FinishedTask {
        let fields: FinishedFields =
            minicbor::decode(&self.fields).unwrap_or_else(|e| panic!("what was packed is read: {e}"));
        FinishedTask { spec: self.spec.clone(), fields }
    }

    /// Writes the fields as `FinishedFields` are written.
    pub fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.writer_mut().write_all(&self.fields).map_err(minicbor::encode::Error::write)
    }
}

/// When a task finished, and its id: the order in which tasks are forgotten.
pub(crate) type FinishedAt = (TimeMs, TaskId);

/// A finished task and whose it is.
type Owned = (Tenant, EncodedTask);

/// Tasks that are kept one by one.
#[derive(Clone, Debug, Default)]
struct Open {
    tasks: OrdMap<TaskId, Owned>,
    /// By when they finished. What one entry of the log ends has one time, and comes in the order of the nodes that report
    /// it: it is put in order as it goes.
    order: OrdMap<TimeMs, Arc<BinaryHeap<Reverse<TaskId>>>>,
}

impl Open {
    /// False when it is there already: that one stays.
    fn insert(&mut self, at: FinishedAt, task: Owned) -> bool {
        if let Some(before) = self.tasks.insert(at.1, task) {
            self.tasks.insert(at.1, before);
            return false;
        }
        Arc::make_mut(self.order.entry(at.0).or_default()).push(Reverse(at.1));
        true
    }

    /// The one that finished first.
    fn first(&self) -> Option<FinishedAt> {
        let (at, ids) = self.order.get_min()?;
        ids.peek().map(|Reverse(id)| (*at, *id))
    }

    fn remove_first(&mut self) -> Option<(FinishedAt, Owned)> {
        let (at, id) = self.first()?;
        let ids = self.order.get_mut(&at).map(Arc::make_mut)?;
        ids.pop();
        if ids.is_empty() {
            self.order.remove(&at);
        }
        let task = self.tasks.remove(&id);
        Some(((at, id), task.unwrap_or_else(|| panic!("task {id} has a time and no record"))))
    }

    /// When each finished.
    fn order(&self) -> impl Iterator<Item = FinishedAt> + '_ {
        self.order.iter().flat_map(|(at, ids)| ids.iter().map(move |Reverse(id)| (*at, *id)))
    }

    /// Ids older than `before`, newest first; those of one tenant, or of all.
    fn ids_before<'a>(
        &'a self,
        before: TaskId,
        tenant: Option<Tenant>,
    ) -> impl Iterator<Item = TaskId> + use<'a> {
        let older = self.tasks.range(..before).rev();
        let wanted =
            older.filter(move |(_, (owner, _))| tenant.as_ref().is_none_or(|tenant| tenant == owner));
        wanted.map(|(id, _)| *id)
    }
}

/// All finished tasks that are not forgotten. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Of blocks that were unpacked as their first tasks are forgotten: none is younger than what is packed.
    thawed: Open,
    /// By number: a later one's tasks finished no earlier.
    blocks: OrdMap<u32, Arc<Block>>,
    /// The block and the tenant of each packed task.
    index: Index,
    /// The latest: none is older than what is packed.
    hot: Open,
    next_block: u32,
}

impl History {
    pub fn len(&self) -> usize {
        self.thawed.tasks.len() + self.index.len() + self.hot.tasks.len()
    }

    pub fn contains(&self, id: &TaskId) -> bool {
        self.hot.tasks.contains_key(id) || self.index.contains(id) || self.thawed.tasks.contains_key(id)
    }

    /// Whose a task is. Unpacks nothing.
    pub fn tenant_of(&self, id: &TaskId) -> Option<&Tenant> {
        let open = self.hot.tasks.get(id).or_else(|| self.thawed.tasks.get(id)).map(|(tenant, _)| tenant);
        open.or_else(|| self.index.tenant_of(id))
    }

    /// The first known id of a range.
    pub fn first_in(&self, ids: RangeInclusive<TaskId>) -> Option<TaskId> {
        let hot = self.hot.tasks.range(ids.clone()).next().map(|(id, _)| *id);
        let packed = self.index.first_in(&ids);
        let thawed = self.thawed.tasks.range(ids).next().map(|(id, _)| *id);
        hot.into_iter().chain(packed).chain(thawed).min()
    }

    /// One task. The first look at a block unpacks it: for many tasks use a `Reader`.
    pub fn get(&self, id: &TaskId) -> Option<EncodedTask> {
        Reader::new(self).get(id)
    }

    /// Takes a tenant's task in, which finished no earlier than those before; false when it is there already.
    pub fn insert(&mut self, at: FinishedAt, tenant: Tenant, task: EncodedTask) -> bool {
        let is_new = self.insert_unpacked(at, tenant, task);
        self.pack_all();
        is_new
    }

    /// Takes in a task of a snapshot, in any order; `pack_all` follows the last one.
    pub fn insert_unpacked(&mut self, at: FinishedAt, tenant: Tenant, task: EncodedTask) -> bool {
        let is_old = self.index.contains(&at.1) || self.thawed.tasks.contains_key(&at.1);
        !is_old && self.hot.insert(at, (tenant, task))
    }

    /// Packs all but the latest.
    pub fn pack_all(&mut self) {
        while self.hot.tasks.len() >= HOT + BLOCK {
            self.pack_first();
        }
    }

    fn pack_first(&mut self) {
        let tasks: Vec<(FinishedAt, Owned)> =
            std::iter::from_fn(|| self.hot.remove_first()).take(BLOCK).collect();
        let number = self.next_block;
        self.next_block += 1;
        let (packed, tasks): (Vec<_>, Vec<_>) =
            tasks.into_iter().map(|(at, (tenant, task))| ((at.1, number, tenant), (at, task))).unzip();
        self.index.insert(packed);
        self.blocks.insert(number, Arc::new(Block::pack(&tasks)));
    }

    /// When the task finished that finished first.
    pub fn oldest_at(&self) -> Option<TimeMs> {
        let open = [&self.thawed, &self.hot].map(|open| open.order.get_min().map(|(at, _)| *at));
        let packed = self.blocks.get_min().map(|(_, block)| block.first_at);
        open.into_iter().chain([packed]).flatten().min()
    }

    /// The task that finished first. Unpacks what may hold it.
    fn first(&mut self) -> Option<FinishedAt> {
        while let Some((number, block)) =
            self.blocks.get_min().map(|(number, block)| (*number, block.clone()))
        {
            if self.thawed.order.get_min().is_some_and(|(at, _)| *at < block.first_at) {
                break;
            }
            self.blocks.remove(&number);
            let tasks = block.unpack();
            for (at, task) in &tasks {
                let tenant = self.index.tenant_of(&at.1).cloned();
                let tenant = tenant.unwrap_or_else(|| panic!("task {} is packed and in no page", at.1));
                self.thawed.insert(*at, (tenant, task.clone()));
            }
            self.index.remove(tasks.into_iter().map(|((_, id), _)| id).collect());
        }
        self.thawed.first().into_iter().chain(self.hot.first()).min()
    }

    /// Takes out the task that finished first.
    pub fn remove_first(&mut self) -> Option<(TaskId, EncodedTask)> {
        let first = self.first()?;
        let from = if self.thawed.first() == Some(first) { &mut self.thawed } else { &mut self.hot };
        from.remove_first().map(|((_, id), (_, task))| (id, task))
    }

    /// All of them by id, whatever is packed.
    pub fn iter(&self) -> impl Iterator<Item = (TaskId, EncodedTask)> + '_ {
        let mut hot = self.hot.tasks.keys().copied().peekable();
        let mut packed = self.index.ids().peekable();
        let mut thawed = self.thawed.tasks.keys().copied().peekable();
        let mut reader = Reader::new(self);
        std::iter::from_fn(move || {
            let first = [hot.peek(), packed.peek(), thawed.peek()].into_iter().flatten().min().copied()?;
            let id = hot.next_if_eq(&first).or_else(|| packed.next_if_eq(&first));
            let id = id.or_else(|| thawed.next_if_eq(&first))?;
            Some((id, reader.get(&id)?))
        })
    }

    /// When each finished, in that order.
    pub fn order(&self) -> impl Iterator<Item = FinishedAt> {
        let packed = self.blocks.values().flat_map(|block| block.unpack()).map(|(at, _)| at);
        let open = self.thawed.order().chain(self.hot.order());
        open.chain(packed).collect::<BTreeSet<FinishedAt>>().into_iter()
    }

    fn ids_before<'a>(
        &'a self,
        before: TaskId,
        tenant: Option<&Tenant>,
    ) -> impl Iterator<Item = TaskId> + use<'a> {
        let mut hot = self.hot.ids_before(before, tenant.cloned()).peekable();
        let mut packed = self.index.ids_before(before, tenant.cloned()).peekable();
        let mut thawed = self.thawed.ids_before(before, tenant.cloned()).peekable();
        std::iter::from_fn(move || {
            let next = hot.peek().max(packed.peek()).max(thawed.peek()).copied()?;
            hot.next_if_eq(&next).or_else(|| packed.next_if_eq(&next)).or_else(|| thawed.next_if_eq(&next))
        })
    }

    /// Tasks older than `before`, newest first; those of one tenant, or of all.
    pub fn before<'a>(
        &'a self,
        before: TaskId,
        tenant: Option<&Tenant>,
    ) -> impl Iterator<Item = (TaskId, EncodedTask)> + use<'a> {
        let mut reader = Reader::new(self);
        self.ids_before(before, tenant).filter_map(move |id| Some((id, reader.get(&id)?)))
    }
}

/// Looks at many tasks, at each once: what it unpacked beside one that was asked for is kept for the next.
pub(crate) struct Reader<'a> {
    history: &'a History,
    unpacked: BTreeMap<u32, BTreeMap<TaskId, EncodedTask>>,
    /// Their numbers, the one that was unpacked first in front.
    order: VecDeque<u32>,
    most_blocks: usize,
}

impl<'a> Reader<'a> {
    fn new(history: &'a History) -> Self {
        Self { history, unpacked: BTreeMap::new(), order: Default::default(), most_blocks: READ_BLOCKS }
    }

    /// For tasks that somebody names, in an order of their own.
    pub fn of_named(history: &'a History) -> Self {
        Self { most_blocks: NAMED_BLOCKS, ..Self::new(history) }
    }

    /// One that was asked for before is unpacked again.
    pub fn get(&mut self, id: &TaskId) -> Option<EncodedTask> {
        let open = self.history.hot.tasks.get(id).or_else(|| self.history.thawed.tasks.get(id));
        if let Some((_, task)) = open {
            return Some(task.clone());
        }
        let number = self.history.index.get(id)?;
        let mut tasks = self.unpacked.remove(&number).filter(|tasks| tasks.contains_key(id));
        if tasks.is_none() {
            let block = self.history.blocks.get(&number)?.unpack();
            tasks = Some(block.into_iter().map(|((_, id), task)| (id, task)).collect());
            self.order.push_back(number);
        }
        let mut tasks = tasks?;
        let task = tasks.remove(id);
        if !tasks.is_empty() {
            self.unpacked.insert(number, tasks);
        }
        while self.unpacked.len() > self.most_blocks {
            self.order.pop_front().map(|oldest| self.unpacked.remove(&oldest));
        }
        task
    }
}

#[cfg(test)]
mod tests;
