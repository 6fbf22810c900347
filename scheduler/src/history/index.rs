//! Where each packed task is, and whose it is: ids in order, in pages of a few hundred. A page is two plain lists, without the
//! half-empty nodes that a map filled in order consists of.

use std::ops::RangeInclusive;
use std::sync::Arc;

use imbl::OrdMap;
use stint_protocol::{TaskId, Tenant};

/// Ids of a page at most. A change copies the page, and a look into it halves it nine times.
const PAGE: usize = 512;

/// A packed task: its id, its block, and its tenant.
pub(super) type Packed = (TaskId, u32, Tenant);

/// Some ids in order, never none.
#[derive(Debug)]
struct Page {
    ids: Box<[TaskId]>,
    blocks: Box<[u32]>,
    /// Each tenant of the page once.
    tenants: Box<[Tenant]>,
    /// The place of each task's tenant; empty where there is one tenant only, as almost everywhere.
    owners: Box<[u16]>,
}

impl Page {
    fn new(tasks: &[Packed]) -> Self {
        let mut tenants: Vec<Tenant> = Vec::new();
        let place_of = |tenant: &Tenant| {
            let known = tenants.iter().position(|known| known == tenant);
            known.unwrap_or_else(|| {
                tenants.push(tenant.clone());
                tenants.len() - 1
            }) as u16
        };
        let owners: Box<[u16]> = tasks.iter().map(|(_, _, tenant)| tenant).map(place_of).collect();
        Self {
            ids: tasks.iter().map(|(id, ..)| *id).collect(),
            blocks: tasks.iter().map(|(_, block, _)| *block).collect(),
            owners: if tenants.len() > 1 { owners } else { Box::default() },
            tenants: tenants.into(),
        }
    }

    fn tasks(&self) -> impl Iterator<Item = Packed> + '_ {
        (0..self.ids.len()).map(|at| (self.ids[at], self.blocks[at], self.tenants[self.owner(at)].clone()))
    }

    fn owner(&self, at: usize) -> usize {
        self.owners.get(at).map_or(0, |owner| usize::from(*owner))
    }

    /// Its ids older than `before`, newest first; those of one tenant, or of all.
    fn ids_before<'a>(
        &'a self,
        before: TaskId,
        tenant: Option<&Tenant>,
    ) -> impl Iterator<Item = TaskId> + use<'a> {
        let owner = tenant.map(|tenant| self.tenants.iter().position(|known| known == tenant));
        // A tenant that is not here has nothing in this page.
        let end = if owner == Some(None) { 0 } else { self.ids.partition_point(|id| *id < before) };
        let owner = owner.flatten();
        let of_owner = move |at: &usize| owner.is_none_or(|owner| self.owner(*at) == owner);
        (0..end).rev().filter(of_owner).map(|at| self.ids[at])
    }
}

/// Ids of packed tasks. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// By the first id of each.
    pages: OrdMap<TaskId, Arc<Page>>,
    len: usize,
    /// No id that is here is greater: most of those that are looked for are.
    greatest: Option<TaskId>,
}

impl Index {
    pub fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    fn page_of(&self, id: &TaskId) -> Option<&Arc<Page>> {
        self.pages.get_prev(id).map(|(_, page)| page)
    }

    /// The block of a task.
    pub fn get(&self, id: &TaskId) -> Option<u32> {
        let page = self.page_of(id)?;
        page.ids.binary_search(id).ok().map(|at| page.blocks[at])
    }

    /// The tenant of a task.
    pub fn tenant_of(&self, id: &TaskId) -> Option<&Tenant> {
        let page = self.page_of(id)?;
        page.ids.binary_search(id).ok().map(|at| &page.tenants[page.owner(at)])
    }

    pub fn contains(&self, id: &TaskId) -> bool {
        Some(*id) <= self.greatest && self.get(id).is_some()
    }

    /// The first known id of a range.
    pub fn first_in(&self, ids: &RangeInclusive<TaskId>) -> Option<TaskId> {
        let in_page = self.page_of(ids.start()).and_then(|page| {
            let at = page.ids.partition_point(|id| id < ids.start());
            page.ids.get(at).copied()
        });
        let later = || self.pages.get_next(ids.start()).map(|(first, _)| *first);
        in_page.or_else(later).filter(|id| ids.contains(id))
    }

    /// All ids in order.
    pub fn ids(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.pages.values().flat_map(|page| page.ids.iter().copied())
    }

    /// Ids older than `before`, newest first; those of one tenant, or of all.
    pub fn ids_before<'a>(
        &'a self,
        before: TaskId,
        tenant: Option<Tenant>,
    ) -> impl Iterator<Item = TaskId> + use<'a> {
        let pages = self.pages.range(..before).rev();
        pages.flat_map(move |(_, page)| page.ids_before(before, tenant.as_ref()))
    }

    /// Adds tasks, none of which is here.
    pub fn insert(&mut self, mut tasks: Vec<Packed>) {
        tasks.sort_unstable_by_key(|(id, ..)| *id);
        self.len += tasks.len();
        self.greatest = self.greatest.max(tasks.last().map(|(id, ..)| *id));
        let mut rest = tasks.into_iter().peekable();
        while let Some((first, ..)) = rest.peek() {
            let key = self.pages.get_prev(first).map(|(key, _)| *key);
            let key = key.or_else(|| self.pages.get_min().map(|(key, _)| *key));
            let (old, bound) = key.map_or((None, None), |key| self.take_page(&key));
            let new = std::iter::from_fn(|| rest.next_if(|(id, ..)| bound.is_none_or(|bound| *id < bound)));
            let mut all: Vec<Packed> = new.collect();
            all.extend(old.iter().flat_map(|page| page.tasks()));
            all.sort_unstable_by_key(|(id, ..)| *id);
            // Ids come almost in order: what is full at the end stays so. Elsewhere there is room for more.
            let parts = all.len().div_ceil(PAGE);
            let len = if bound.is_none() { PAGE } else { all.len().div_ceil(parts) };
            self.add_pages(&all, len);
        }
    }

    /// Takes out tasks, all of which are here.
    pub fn remove(&mut self, mut ids: Vec<TaskId>) {
        ids.sort_unstable();
        self.len -= ids.len();
        let mut rest = ids.into_iter().peekable();
        while let Some(first) = rest.peek() {
            let key = self.pages.get_prev(first).map(|(key, _)| *key);
            let key = key.unwrap_or_else(|| panic!("task {first} is packed and in no page"));
            let (page, bound) = self.take_page(&key);
            let gone = std::iter::from_fn(|| rest.next_if(|id| bound.is_none_or(|bound| *id < bound)));
            let mut gone = gone.peekable();
            let tasks = page.iter().flat_map(|page| page.tasks());
            let mut left: Vec<Packed> = tasks.filter(|(id, ..)| gone.next_if_eq(id).is_none()).collect();
            assert!(gone.next().is_none(), "a task is packed and in no page");
            // Few that outlive their neighbours share a page.
            let before =
                self.pages.get_prev(&key).filter(|(_, page)| page.ids.len() + left.len() <= PAGE / 2);
            if let Some(key) = before.map(|(key, _)| *key) {
                let (page, _) = self.take_page(&key);
                left = page.iter().flat_map(|page| page.tasks()).chain(left).collect();
            }
            self.add_pages(&left, PAGE);
        }
    }

    /// A page, and where the next one begins.
    fn take_page(&mut self, key: &TaskId) -> (Option<Arc<Page>>, Option<TaskId>) {
        let page = self.pages.remove(key);
        (page, self.pages.get_next(key).map(|(next, _)| *next))
    }

    fn add_pages(&mut self, tasks: &[Packed], len: usize) {
        for part in tasks.chunks(len) {
            self.pages.insert(part[0].0, Arc::new(Page::new(part)));
        }
    }
}
