//! The user number of each tenant: given once, and kept whether the tenant has tasks or not.
//!
//! What a program left on a node belongs to its number for longer than the cluster remembers its task. So the numbers are given
//! in order, and one that was given goes to no other tenant.

use imbl::{OrdMap, OrdSet};
use stint_protocol::{Tenant, version};

use super::State;
use crate::settings::UidRange;

/// The numbers that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TenantUids {
    of: OrdMap<Tenant, u32>,
    given: OrdSet<u32>,
    /// The last one that was given, or passed over; 0: none was.
    pub latest: u32,
    /// Who was given the first one.
    pub first: Option<Tenant>,
}

impl TenantUids {
    /// Each tenant that has one, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Tenant, u32)> {
        self.of.iter().map(|(tenant, uid)| (tenant, *uid))
    }

    /// The numbers of all of them, in order.
    pub fn given(&self) -> impl Iterator<Item = u32> + '_ {
        self.given.iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.of.is_empty() && self.latest == 0
    }

    /// Takes what a snapshot says; false when the tenant or the number is known already.
    pub fn insert(&mut self, tenant: Tenant, uid: u32) -> bool {
        self.of.insert(tenant, uid).is_none() && self.given.insert(uid).is_none()
    }

    /// The number of the next new tenant; none: all of the range are given.
    fn next(&self, range: UidRange) -> Option<u32> {
        let first = if range.contains(self.latest) { self.latest + 1 } else { range.first };
        (first..=range.last).find(|uid| !self.given.contains(uid))
    }

    /// So many numbers of the range are not given to anybody; where it has fewer, none of them is.
    pub fn pass_over(&mut self, count: u32, range: UidRange) {
        if range.contains(self.latest) {
            self.latest = self.latest.saturating_add(count).min(range.last);
        }
    }
}

impl State {
    /// The number of the user that a tenant's programs run as; none: it was given none yet, or the cluster speaks an earlier
    /// version.
    pub fn tenant_uid(&self, tenant: &Tenant) -> Option<u32> {
        self.uids.of.get(tenant).copied()
    }

    /// The user numbers of all tenants that have one, by tenant.
    pub fn tenant_uids(&self) -> impl Iterator<Item = (&Tenant, u32)> {
        self.uids.iter()
    }

    /// Whether the cluster had other tenants before this one. Where all share a user, it is not theirs to share.
    pub(crate) fn came_later(&self, tenant: &Tenant) -> bool {
        self.uids.first.as_ref().is_some_and(|first| first != tenant)
    }

    /// Whether a tenant has its number, or can be given one. Earlier versions give none, and all replicas do the same.
    pub(crate) fn has_uid_for(&self, tenant: &Tenant) -> bool {
        self.version < version::TENANT_UIDS
            || self.tenant_uid(tenant).is_some()
            || self.uids.next(self.settings.rules.tenant_uids).is_some()
    }

    /// Gives a tenant its number, unless it has one or there is none left.
    pub(crate) fn give_uid(&mut self, tenant: &Tenant) {
        if self.version < version::TENANT_UIDS || self.tenant_uid(tenant).is_some() {
            return;
        }
        if let Some(uid) = self.uids.next(self.settings.rules.tenant_uids) {
            self.uids.latest = uid;
            self.uids.first.get_or_insert_with(|| tenant.clone());
            self.uids.insert(tenant.clone(), uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u32) -> Tenant {
        Tenant::new(&format!("team-{number}")).unwrap()
    }

    fn given(state: &mut State, number: u32) -> Option<u32> {
        state.give_uid(&tenant(number));
        state.tenant_uid(&tenant(number))
    }

    fn state(first: u32, last: u32) -> State {
        let mut state = State { version: version::TENANT_UIDS, ..State::default() };
        set_range(&mut state, first, last);
        state
    }

    fn set_range(state: &mut State, first: u32, last: u32) {
        std::sync::Arc::make_mut(&mut state.settings).rules.tenant_uids = UidRange { first, last };
    }

    #[test]
    fn no_two_tenants_have_one_number_and_none_is_given_a_second_time() {
        let mut state = state(5_000, 5_002);
        assert_eq!([1, 2, 1, 3].map(|n| given(&mut state, n)), [5_000, 5_001, 5_000, 5_002].map(Some));
        assert_eq!(given(&mut state, 4), None);
        assert!(state.has_uid_for(&tenant(1)) && !state.has_uid_for(&tenant(4)));
        // Another range that has some of the old one in it, and back to the old one.
        set_range(&mut state, 5_001, 5_003);
        assert_eq!(given(&mut state, 4), Some(5_003));
        set_range(&mut state, 5_000, 5_004);
        assert_eq!(given(&mut state, 5), Some(5_004));
        // One without any of it, and back once more.
        set_range(&mut state, 6_000, 6_000);
        assert_eq!(given(&mut state, 6), Some(6_000));
        set_range(&mut state, 5_000, 5_005);
        assert_eq!([7, 8].map(|n| given(&mut state, n)), [Some(5_005), None]);
        let mut all: Vec<u32> = state.tenant_uids().map(|(_, uid)| uid).collect();
        all.sort_unstable();
        assert_eq!(all, [5_000, 5_001, 5_002, 5_003, 5_004, 5_005, 6_000]);
    }

    #[test]
    fn an_earlier_version_gives_none() {
        let mut state = State { version: version::OLDEST, ..state(5_000, 5_000) };
        assert_eq!(given(&mut state, 1), None);
        assert!(state.has_uid_for(&tenant(1)) && state.has_uid_for(&tenant(2)));
    }

    /// What another beginning of the cluster may have given is passed over.
    #[test]
    fn numbers_that_may_have_been_given_are_passed_over() {
        let mut state = state(5_000, 5_200);
        let range = state.settings.rules.tenant_uids;
        state.uids.pass_over(100, range);
        assert_eq!(given(&mut state, 1), Some(5_000), "none was given yet");
        state.uids.pass_over(100, range);
        assert_eq!(given(&mut state, 2), Some(5_101));
        state.uids.pass_over(100, range);
        assert_eq!(given(&mut state, 3), None);
    }
}
